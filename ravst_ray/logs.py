"""One log format for the driver, the actors and their children."""

from __future__ import annotations

import logging
import os
import re
import warnings

LOG_LEVEL_VARIABLE = "RAVST_LOG_LEVEL"
SECRET_NAME = re.compile(r"KEY|TOKEN(?!IZER)|SECRET|PASSWORD|CREDENTIAL|SIGNATURE|^sig$", re.IGNORECASE)
"""Environment variables, and names after the ``?`` of an address, whose values are neither shown nor kept."""
_HARMLESS = (
    "TRL currently supports vLLM versions",  # it is used for its losses alone; no engine of its own is started
    "The given NumPy array is not writable",  # frames lie in shared memory, and are only read
)
_FORMAT = "%(asctime)s %(levelname)-7s %(name)s[%(process)d] %(message)s"


def setup_logging(level: str | None = None) -> None:
    """Send this process's log lines to stderr; ``level`` defaults to ``$RAVST_LOG_LEVEL`` or INFO."""
    chosen = (level or os.environ.get(LOG_LEVEL_VARIABLE, "INFO")).upper()
    # Libraries are heard when something is wrong; ours say what they do.
    logging.basicConfig(level="DEBUG" if chosen == "DEBUG" else "WARNING", format=_FORMAT, force=True)
    logging.getLogger("ravst_ray").setLevel(chosen)
    for message in _HARMLESS:
        warnings.filterwarnings("ignore", message=message)


def get_logger(name: str) -> logging.Logger:
    """The logger of a module: ``log = get_logger(__name__)``."""
    return logging.getLogger(name)
