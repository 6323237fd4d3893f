"""Spatio-temporal reasoning: when does a named object sound and is seen, and where is it then?"""

from __future__ import annotations

from ravst_ray.tasks.avst import AVST

AVSTR = AVST(
    "AVSTR",
    "AVSTR · spatio-temporal reasoning",
    "AV ST Reasoning",
    when=True,
    where=True,
    weights={"temporal": 0.5, "spatial": 0.5},
    headline=("m_tIoU", "m_vIoU"),
    published={  # the R-AVST test set, in percent (arXiv 2511.16901)
        "VideoChat-R1": {"m_tIoU": 41.81, "m_vIoU": 2.15, "AP@0.3": 3.21, "AP@0.5": 0.60},
        "AVST-Zero": {"m_tIoU": 46.04, "m_vIoU": 8.59, "AP@0.3": 10.38, "AP@0.5": 3.83},
        "AVST-Zero-Omni": {"m_tIoU": 35.97, "m_vIoU": 17.74, "AP@0.3": 22.90, "AP@0.5": 12.26},
    },
)
