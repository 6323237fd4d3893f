"""COCO's JSON for video, as TAO has it: ``images`` are times of a video, ``annotations`` boxes and masks on tracks.

``pycocotools`` reads it, and so does ``ravst make-str input.format=tao``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import count
from typing import Any, BinaryIO

import numpy as np

from ravst_ray.core.masks import decode_rle, encode_rle
from ravst_ray.datasets.exports.folder import ExportFolder, pieces
from ravst_ray.datasets.exports.protocols import ExportedVideo, Row, file_stem

_SECTIONS = ("videos", "images", "tracks", "annotations")
_NO_RATE = 1000.0  # frames are milliseconds where a file's rate isn't known


class CocoWriter:
    """``coco_{split}.json``; ids count from 1 over all of its files, which have one list of categories."""

    about = """`coco_train.json` and `coco_test.json`: `images` are the times of a video at which objects were looked
for (`time_s` in seconds, `frame_index` by its `fps`), `annotations` are boxes (`bbox`: x, y, width, height in pixels of
the video) with their `track_id` and, where masks were kept, `segmentation` as RLE; `tracks` say whether an object is
audible in its event, `videos` list the events. The frames themselves are not in this; `file_name` of an image is the
name that its frame is to have when it is extracted. Videos, where they are part of this, are under `videos/`.

```python
from pycocotools.coco import COCO

coco = COCO("coco_train.json")
annotations = coco.loadAnns(coco.getAnnIds())
```
"""

    def __init__(self, folder: ExportFolder):
        self._folder = folder
        self._lines: dict[tuple[str, str], BinaryIO] = {}
        self._categories: dict[str, int] = {}
        self._next = {section: count(1) for section in _SECTIONS}

    def add(self, video: ExportedVideo) -> None:
        """Its times, tracks and boxes, and its file."""
        if video.path:
            self._folder.copy(video.path, video.file)
        if not video.annotations:
            return
        first = video.annotations[0]
        about = {
            "id": next(self._next["videos"]),
            "name": video.video_id,
            "width": first["width"],
            "height": first["height"],
            "fps": first["fps"] or _NO_RATE,
            "duration_s": video.duration_s,
            "file_name": video.file or None,
            "events": [_event(row) for row in video.annotations],
        }
        self._put(video.split, "videos", about)
        images = self._add_images(video, about)
        for row in video.annotations:
            for track in row["tracks"]:
                self._add_track(video.split, about, images, row, track)

    def _add_images(self, video: ExportedVideo, about: Mapping[str, Any]) -> dict[int, int]:
        """The image of each frame at which an event was looked at, by the frame's index."""
        seen = {time_s for row in video.annotations for track in row["tracks"] for time_s in track["times_s"]}
        images: dict[int, int] = {}
        for time_s in sorted(seen.union(*(row["frame_times_s"] for row in video.annotations))):
            frame = _frame(time_s, about)
            if frame not in images:
                images[frame] = next(self._next["images"])
                image = {
                    "id": images[frame],
                    "video_id": about["id"],
                    "frame_index": frame,
                    "time_s": time_s,
                    "width": about["width"],
                    "height": about["height"],
                    "file_name": f"{file_stem(video.video_id)}/{frame:06d}.jpg",
                }
                self._put(video.split, "images", image)
        return images

    def _add_track(self, split: str, about: Mapping[str, Any], images: Mapping[int, int], row: Row, track: Row) -> None:
        category = self._categories.setdefault(track["name"], len(self._categories) + 1)
        shared = {"video_id": about["id"], "category_id": category}
        entry = {
            "id": next(self._next["tracks"]),
            **shared,
            "event_num": row["event_num"],
            "audible": track["audible"],
            "shot": track["shot"],
        }
        self._put(split, "tracks", entry)
        masks = track["masks_rle"] or [None] * len(track["times_s"])
        taken = set()
        for time_s, box, score, mask in zip(
            track["times_s"], track["boxes_xyxy_px"], track["scores"], masks, strict=True
        ):
            frame = _frame(time_s, about)
            if frame in taken:  # of two times within one frame the first counts
                continue
            taken.add(frame)
            shape = _shape(box, mask, (about["height"], about["width"]))
            if shape:
                one = {"id": next(self._next["annotations"]), "image_id": images[frame], "track_id": entry["id"]}
                self._put(split, "annotations", {**one, **shared, "iscrowd": 0, "score": score, **shape})

    def _put(self, split: str, section: str, entry: Mapping[str, Any]) -> None:
        key = (split, section)
        before = b",\n" if key in self._lines else b""
        if key not in self._lines:
            self._lines[key] = self._folder.scratch()
        self._lines[key].write(before + json.dumps(entry, ensure_ascii=False).encode())

    def close(self) -> None:
        """Join the sections: how many there are of each is known only now."""
        categories = [{"id": number, "name": name} for name, number in self._categories.items()]
        for split in sorted({split for split, _ in self._lines}):
            with self._folder.open(f"coco_{split}.json") as file:
                file.write(b'{"info": {"description": "made by ravst export"},\n')
                for section in _SECTIONS:
                    file.write(f'"{section}": [\n'.encode())
                    for piece in self._section(split, section):
                        file.write(piece)
                    file.write(b"],\n")
                file.write(b'"categories": ' + json.dumps(categories, ensure_ascii=False).encode() + b"}\n")

    def _section(self, split: str, section: str) -> Iterator[bytes]:
        if (lines := self._lines.get((split, section))) is not None:
            lines.seek(0)
            yield from pieces(lines)
            lines.close()

    def header(self) -> Mapping[str, Any]:
        """None is wanted."""
        return {}


def _event(row: Row) -> Row:
    return {key: row[key] for key in ("event_num", "label", "start_s", "end_s", "status")}


def _frame(time_s: float, about: Mapping[str, Any]) -> int:
    return round(time_s * about["fps"])


def _shape(box: Sequence[float], mask: str | None, size: tuple[int, int]) -> dict[str, Any]:
    """``bbox``, ``area`` and ``segmentation`` as COCO has them; nothing for a box without an area."""
    x1, y1, x2, y2 = box
    if x2 <= x1 or y2 <= y1:
        return {}
    shape: dict[str, Any] = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
    if mask:
        found = json.loads(mask)
        if found["size"] != list(size):
            found = json.loads(encode_rle(_scaled(decode_rle(mask), size)))
        shape["segmentation"], shape["area"] = found, _area(found)
    return shape


def _area(rle: Mapping[str, Any]) -> int:
    from pycocotools import mask as coco

    return int(coco.area({"size": rle["size"], "counts": rle["counts"].encode("ascii")}))


def _scaled(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask ``[H, W]`` of a smaller picture at the video's size: each pixel takes the value of the nearest one."""
    rows, columns = (_nearest(have, want) for have, want in zip(mask.shape, size, strict=True))
    return mask[np.ix_(rows, columns)]


@lru_cache(maxsize=16)
def _nearest(have: int, want: int) -> np.ndarray:
    return ((np.arange(want) + 0.5) * have / want).astype(np.intp)
