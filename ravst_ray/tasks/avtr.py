"""Temporal reasoning: when does a named object sound and is seen?"""

from __future__ import annotations

from ravst_ray.tasks.avst import AVST

AVTR = AVST(
    "AVTR",
    "AVTR · temporal reasoning",
    "AV Temporal Reasoning",
    when=True,
    where=False,
    weights={"temporal": 1.0},
    headline=("m_tIoU",),
    published={  # the R-AVST test set, in percent (arXiv 2511.16901)
        "Qwen2.5-VL": {"m_tIoU": 36.05, "R1@0.3": 46.40, "R1@0.5": 34.38, "R1@0.7": 16.22},
        "Video-LLaMA3": {"m_tIoU": 37.17, "R1@0.3": 50.30, "R1@0.5": 35.29, "R1@0.7": 22.67},
        "VideoChat-R1": {"m_tIoU": 43.17, "R1@0.3": 60.81, "R1@0.5": 46.70, "R1@0.7": 25.68},
        "AVST-Zero": {"m_tIoU": 47.96, "R1@0.3": 71.13, "R1@0.5": 51.43, "R1@0.7": 23.91},
    },
)
