"""Small inputs in the real formats of the sources of scenes, and a scene that is made by hand."""

import json
from pathlib import Path

from ravst_ray.core.scenes import Entity, Scene

P2 = "P2: 721.5377 0 609.5593 44.85728 0 721.5377 172.854 0.2163791 0 0 1 0.002745884"
KITTI_LINES = (
    "0 0 Car 0 0 -1.79 296.74 161.75 455.22 292.37 2.00 1.82 4.43 -4.55 1.86 13.41 -2.11",
    "0 -1 DontCare -1 -1 -10.00 219.31 188.49 245.50 218.56 -1000 -1000 -1000 -10 -1 -1 -1",
    "0 1 Cyclist 0 0 -1.94 737.62 161.53 931.11 374.00 1.74 0.82 1.78 1.94 1.66 6.50 -1.55",
    "1 0 Car 0 0 -1.80 294.90 156.02 452.20 284.62 2.00 1.82 4.43 -4.65 1.86 13.40 -2.12",
    "2 0 Car 0 1 -1.80 292.00 156.02 452.20 284.62 2.00 1.82 4.43 -4.75 1.86 15.40 -2.12",
)


def write_kitti(folder: Path, lines=KITTI_LINES, calib: str | None = P2, name: str = "0000") -> Path:
    """A sequence with its calibration (None: no such folder)."""
    (folder / "label_02").mkdir(parents=True, exist_ok=True)
    (folder / "label_02" / f"{name}.txt").write_text("\n".join(lines) + "\n")
    if calib is not None:
        (folder / "calib").mkdir(exist_ok=True)
        (folder / "calib" / f"{name}.txt").write_text(f"P0: 1 0 0 0 0 1 0 0 0 0 1 0\n{calib}\n")
    return folder


def tao_data() -> dict:
    """Two videos: a dog and a car over three annotated seconds (every 30th frame), and one with a car in one frame."""
    return {
        "videos": [
            {"id": 7, "name": "train/HACS/v_1", "width": 640, "height": 360, "not_exhaustive_category_ids": [2]},
            {"id": 8, "name": "train/HACS/v_2", "width": 640, "height": 360},
        ],
        "images": [
            {"id": 72, "video_id": 7, "frame_index": 90},
            {"id": 70, "video_id": 7, "frame_index": 30},
            {"id": 71, "video_id": 7, "frame_index": 60},
            {"id": 80, "video_id": 8, "frame_index": 0},
        ],
        "tracks": [
            {"id": 1, "category_id": 1, "video_id": 7},
            {"id": 2, "category_id": 2, "video_id": 7},
            {"id": 3, "category_id": 2, "video_id": 8},
        ],
        "annotations": [
            {"id": 1, "image_id": 71, "track_id": 1, "video_id": 7, "category_id": 1, "bbox": [20, 10, 30, 40]},
            {"id": 2, "image_id": 70, "track_id": 1, "video_id": 7, "category_id": 1, "bbox": [10, 10, 30, 40]},
            {"id": 3, "image_id": 72, "track_id": 2, "video_id": 7, "category_id": 2, "bbox": [600, 300, 80, 100]},
            {"id": 4, "image_id": 80, "track_id": 3, "video_id": 8, "category_id": 2, "bbox": [1, 2, 3, 4]},
        ],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "car_(automobile)"}],
    }


def write_json(path: Path, data) -> Path:
    """A JSON file."""
    path.write_text(json.dumps(data))
    return path


def scannet_box(centre, lengths=(1.0, 1.0, 1.0), axes=(1, 0, 0, 0, 1, 0, 0, 0, 1)) -> dict:
    """A box as the ScanNet file has it."""
    return {"centroid": list(centre), "axesLengths": list(lengths), "normalizedAxes": list(axes)}


def room(**boxes) -> dict:
    """A room: ``room(chair=[box, box])``."""
    counts = {label: len(found) for label, found in boxes.items()}
    return {"room_size": 12.5, "object_counts": counts, "object_bbox": boxes, "video_path": "/x/scene0001_00.mp4"}


def thing(label: str, centres: dict, size: float = 20.0, number: str | None = None) -> Entity:
    """Something of a picture: the middles of its boxes (``size`` pixels wide) by second."""
    half = size / 2
    boxes = tuple((x - half, y - half, x + half, y + half) for x, y in centres.values())
    return Entity(number or label, label, tuple(map(float, centres)), boxes)


def video(*entities: Entity, seconds: int = 10, **more) -> Scene:
    """A video of 200 x 100 pixels that is looked at once a second."""
    frames = tuple(float(second) for second in range(seconds))
    return Scene("v", "toy", entities, frames, "v", float(seconds), 200, 100, **more)
