"""TAO ("tracking any object"): one JSON file in COCO's style, boxes about once a second.

::

    {"videos": [{id, name, width, height, not_exhaustive_category_ids?, fps?}],
     "images": [{id, video_id, frame_index}], "tracks": [{id, category_id, video_id}],
     "annotations": [{image_id, track_id, category_id?, video_id?, bbox: [x, y, width, height]}],
     "categories": [{id, name}]}

The file has no rates: TAO annotates one frame a second, so the usual step between the annotated ``frame_index`` is
taken for a second where a video has no ``fps``. Boxes are cut at the picture's border; one that lies outside is none.
"""

from __future__ import annotations

import builtins
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

from ravst_ray.core.scenes import Entity, Scene
from ravst_ray.datasets.scenes.source import SceneRef, box_of, load_json
from ravst_ray.errors import ConfigError
from ravst_ray.records import Box

SECTIONS = ("videos", "images", "tracks", "annotations", "categories")
Item = Mapping[str, Any]


class TaoReader:
    """Reads one file of annotations; a scene is a video."""

    format = "tao"

    def list(self, place: str) -> builtins.list[SceneRef]:
        """One reference a video, with its part of the file.

        Raises:
            ConfigError: no such file, a section is missing, an id is there twice, or something belongs to no video.
        """
        path, data = load_json(place)
        if not isinstance(data, dict) or any(not isinstance(data.get(name), list) for name in SECTIONS):
            raise ConfigError(f"{path}: expected an object with the lists {', '.join(SECTIONS)} (input.scenes)")
        known = {name: _by_id(path, name, data[name]) for name in ("videos", "images", "tracks", "categories")}
        names = {number: _plain_name(path, category) for number, category in known["categories"].items()}
        content: dict[Any, dict[str, Any]] = {
            number: {"video": video, "names": names, "images": [], "tracks": [], "annotations": []}
            for number, video in known["videos"].items()
        }
        for name in ("images", "tracks", "annotations"):
            for index, item in enumerate(data[name]):
                number = _video_of(item, known)
                if number not in content:
                    raise ConfigError(f"{path}: {name}[{index}] belongs to no video")
                content[number][name].append(item)
        return [SceneRef(self.format, str(part["video"].get("name", key)), part) for key, part in content.items()]

    def read(self, ref: SceneRef) -> Scene:
        """One video.

        Raises:
            KeyError, TypeError, ValueError: something in its part is missing or malformed.
        """
        video, names = ref.content["video"], ref.content["names"]
        width, height = int(video["width"]), int(video["height"])
        times = _times_s(video, ref.content["images"])
        entities = tuple(_entities(ref.content, names, times, (width, height)))
        frames = sorted(times.values())
        steps = [later - earlier for earlier, later in pairwise(frames)]
        open_ended = video.get("not_exhaustive_category_ids", ())
        return Scene(
            scene_id=ref.scene_id,
            source=self.format,
            entities=entities,
            frame_times_s=tuple(frames),
            video=PurePosixPath(ref.scene_id).name,
            duration_s=frames[-1] + (min(steps) if steps else 1.0) if frames else 0.0,
            width=width,
            height=height,
            open_labels=frozenset(names[number] for number in open_ended if number in names),
        )


def _by_id(path: Path, name: str, items: builtins.list[Any]) -> dict[Any, Item]:
    found: dict[Any, Item] = {}
    for index, item in enumerate(items):
        if not isinstance(item, dict) or "id" not in item:
            raise ConfigError(f"{path}: {name}[{index}] has no id")
        if item["id"] in found:
            raise ConfigError(f"{path}: {name}[{index}]: the id {item['id']!r} is there twice")
        found[item["id"]] = item
    return found


def _plain_name(path: Path, category: Item) -> str:
    """LVIS's names as people say them: "car_(automobile)" is a car."""
    name = category.get("name")
    if not isinstance(name, str):
        raise ConfigError(f"{path}: category {category['id']!r} has no name")
    return " ".join(name.partition("(")[0].replace("_", " ").split()) or name


def _video_of(item: Any, known: Mapping[str, Mapping[Any, Item]]) -> Any:
    if not isinstance(item, dict):
        return None
    if "video_id" in item:
        return item["video_id"]
    return known["images"].get(item.get("image_id"), {}).get("video_id")


def _times_s(video: Item, images: builtins.list[Item]) -> dict[Any, float]:
    """Seconds of the annotated frames by the id of their image."""
    frames = {image["id"]: image["frame_index"] for image in images}
    order = sorted(frames.values())
    steps = Counter(later - earlier for earlier, later in pairwise(order))
    if 0 in steps:
        raise ValueError("two images have one frame_index")
    per_s = float(video.get("fps") or (max(steps, key=lambda step: (steps[step], -step)) if steps else 1.0))
    if not per_s > 0:
        raise ValueError(f"its fps is {per_s}")
    return {number: round(frame / per_s, 3) for number, frame in frames.items()}


def _entities(
    content: Mapping[str, Any], names: Mapping[Any, str], times: Mapping[Any, float], size: tuple[int, int]
) -> Iterator[Entity]:
    seen: defaultdict[Any, dict[float, Box]] = defaultdict(dict)
    tracks = {track["id"]: track for track in content["tracks"]}
    for one in content["annotations"]:
        number, image = one["track_id"], one["image_id"]
        if number not in tracks or image not in times:
            raise ValueError(f"an annotation of track {number!r} in image {image!r}: no such in this video")
        if times[image] in seen[number]:
            raise ValueError(f"track {number!r} is twice in image {image!r}")
        if one.get("category_id", tracks[number]["category_id"]) != tracks[number]["category_id"]:
            raise ValueError(f"track {number!r} and its annotation in image {image!r} have two categories")
        x, y, width, height = map(float, one["bbox"])
        box = _within(box_of((x, y, x + width, y + height)), size)
        if box is not None:
            seen[number][times[image]] = box
    for number, boxes in seen.items():
        category = tracks[number]["category_id"]
        if category not in names:
            raise ValueError(f"track {number!r} has the unknown category {category!r}")
        if boxes:
            order = sorted(boxes)
            yield Entity(str(number), names[category], tuple(order), tuple(boxes[time_s] for time_s in order))


def _within(box: Box, size: tuple[int, int]) -> Box | None:
    """The part in the picture; a box that is none at all is kept for the checks to find."""
    x1, y1, x2, y2 = box
    if not (x1 < x2 and y1 < y2):
        return box
    cut = max(x1, 0.0), max(y1, 0.0), min(x2, float(size[0])), min(y2, float(size[1]))
    return cut if cut[0] < cut[2] and cut[1] < cut[3] else None
