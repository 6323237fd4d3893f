"""Spatial reasoning: what sounds (or is silent) between two times, and where?"""

from __future__ import annotations

from ravst_ray.tasks.avst import AVST

AVSR = AVST(
    "AVSR",
    "AVSR · spatial reasoning",
    "AV Spatial Reasoning",
    when=False,
    where=True,
    weights={"object": 0.5, "spatial": 0.5},
    headline=("obj_acc", "m_vIoU"),
    published={  # the R-AVST test set, in percent (arXiv 2511.16901)
        "Qwen2.5-VL": {"obj_acc": 1.91, "m_vIoU": 2.31, "AP@0.3": 0.90, "AP@0.5": 0.15},
        "VideoChat-R1": {"obj_acc": 15.54, "m_vIoU": 1.99, "AP@0.3": 3.11, "AP@0.5": 0.36},
        "AVST-Zero": {"obj_acc": 14.34, "m_vIoU": 2.27, "AP@0.3": 3.12, "AP@0.5": 0.87},
        "AVST-Zero-Omni": {"obj_acc": 19.48, "m_vIoU": 3.87, "AP@0.3": 4.47, "AP@0.5": 2.17},
    },
)
