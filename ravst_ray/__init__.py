"""ravst_ray: what makes a sound, when, and where in the picture."""

__version__ = "0.1.0"
