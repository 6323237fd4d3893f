"""The published results on the R-AVST test set, in percent (arXiv 2511.16901)."""

from __future__ import annotations

from ravst_ray.records import Task

PAPER: dict[Task, dict[str, dict[str, float]]] = {
    "AVTR": {
        "Qwen2.5-VL": {"m_tIoU": 36.05, "R1@0.3": 46.40, "R1@0.5": 34.38, "R1@0.7": 16.22},
        "Video-LLaMA3": {"m_tIoU": 37.17, "R1@0.3": 50.30, "R1@0.5": 35.29, "R1@0.7": 22.67},
        "VideoChat-R1": {"m_tIoU": 43.17, "R1@0.3": 60.81, "R1@0.5": 46.70, "R1@0.7": 25.68},
        "AVST-Zero": {"m_tIoU": 47.96, "R1@0.3": 71.13, "R1@0.5": 51.43, "R1@0.7": 23.91},
    },
    "AVSR": {
        "Qwen2.5-VL": {"obj_acc": 1.91, "m_vIoU": 2.31, "AP@0.3": 0.90, "AP@0.5": 0.15},
        "VideoChat-R1": {"obj_acc": 15.54, "m_vIoU": 1.99, "AP@0.3": 3.11, "AP@0.5": 0.36},
        "AVST-Zero": {"obj_acc": 14.34, "m_vIoU": 2.27, "AP@0.3": 3.12, "AP@0.5": 0.87},
        "AVST-Zero-Omni": {"obj_acc": 19.48, "m_vIoU": 3.87, "AP@0.3": 4.47, "AP@0.5": 2.17},
    },
    "AVSTR": {
        "VideoChat-R1": {"m_tIoU": 41.81, "m_vIoU": 2.15, "AP@0.3": 3.21, "AP@0.5": 0.60},
        "AVST-Zero": {"m_tIoU": 46.04, "m_vIoU": 8.59, "AP@0.3": 10.38, "AP@0.5": 3.83},
        "AVST-Zero-Omni": {"m_tIoU": 35.97, "m_vIoU": 17.74, "AP@0.3": 22.90, "AP@0.5": 12.26},
    },
}
"""By task, model and metric."""
