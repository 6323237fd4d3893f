"""Rooms that were scanned, as VSI-Bench's meta data describes ScanNet's: counts, boxes in metres, the room's size.

::

    {scene: {"room_size": m2, "object_counts": {label: n}, "object_bbox": {label: [box]}, "video_path": file}}

A box has ``centroid`` (3), ``axesLengths`` (3) and ``normalizedAxes`` (9: three unit vectors, one after the other);
z is up. ``object_counts`` is right where the number of boxes differs.
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from ravst_ray.core.scenes import Axes, Entity, Scene
from ravst_ray.datasets.scenes.source import SceneRef, listed, load_json, vector_of
from ravst_ray.errors import ConfigError


class ScannetReader:
    """Reads one JSON file with all scenes."""

    format = "scannet"

    def list(self, place: str) -> builtins.list[SceneRef]:
        """One reference a scene.

        Raises:
            ConfigError: there is no such file, or it is no mapping of scenes.
        """
        path, scenes = load_json(place)
        if not isinstance(scenes, dict) or not all(isinstance(scene, dict) for scene in scenes.values()):
            raise ConfigError(f"{path}: expected {{scene: {{object_counts, object_bbox, room_size}}}} (input.scenes)")
        return listed(self.format, scenes)

    def read(self, ref: SceneRef) -> Scene:
        """One room.

        Raises:
            KeyError, TypeError, ValueError: a part is missing or malformed.
        """
        room: Mapping[str, Any] = ref.content
        entities = tuple(
            _entity(label, number, box)
            for label, boxes in room["object_bbox"].items()
            for number, box in enumerate(boxes, start=1)
        )
        return Scene(
            scene_id=ref.scene_id,
            source=self.format,
            entities=entities,
            frame_times_s=(0.0,),
            video=PurePosixPath(room.get("video_path") or "").stem,
            counts={label: _count(label, number) for label, number in room["object_counts"].items()},
            room_size_m2=float(room["room_size"]),
        )


def _count(label: str, number: Any) -> int:
    if not isinstance(number, int):
        raise ValueError(f"object_counts.{label} is {number!r}, expected a whole number")
    return number


def _entity(label: str, number: int, box: Mapping[str, Any]) -> Entity:
    flat = [float(x) for x in box["normalizedAxes"]]
    if len(flat) != 9:
        raise ValueError(f"normalizedAxes of {label} {number} has {len(flat)} numbers, expected 9")
    axes: Axes = (vector_of(flat[:3]), vector_of(flat[3:6]), vector_of(flat[6:]))
    return Entity(
        entity_id=f"{label}.{number}",
        label=label,
        times_s=(0.0,),
        centres_m=(vector_of(box["centroid"]),),
        size_m=vector_of(box["axesLengths"]),
        axes=(axes,),
    )
