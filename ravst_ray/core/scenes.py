"""What questions by rule are made from: a scene with the things in it, in the picture, in metres, or both.

``frame_times_s`` are the seconds at which somebody looked; an entity that has no entry at one of them isn't in sight
then. A scene at rest (a scanned room) is looked at once, at 0.0: its entities have one entry each.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from ravst_ray.records import Box

Vector = tuple[float, float, float]
Axes = tuple[Vector, Vector, Vector]
Space = Literal["2d", "3d"]
_LABEL = re.compile(r"[^\s<>](?:[^\n<>]{0,78}[^\s<>])?")
UP: dict[str, Vector] = {"room": (0.0, 0.0, 1.0), "camera": (0.0, -1.0, 0.0)}


@dataclass(frozen=True, slots=True)
class Entity:
    """One thing and where it is at the times at which it is in sight (``_T`` entries).

    Args:
        entity_id: tells it apart within its scene.
        label: what it is called; several may share one.
        times_s: seconds, rising, each one of the scene's ``frame_times_s``.
        boxes_xyxy_px: ``_T`` boxes in the picture, or None.
        centres_m: ``_T`` centres in metres, or None.
        size_m: lengths along the three axes of its box in metres, or None.
        axes: ``_T`` times the three unit vectors along which ``size_m`` is measured, or None.
    """

    entity_id: str
    label: str
    times_s: tuple[float, ...]
    boxes_xyxy_px: tuple[Box, ...] | None = None
    centres_m: tuple[Vector, ...] | None = None
    size_m: Vector | None = None
    axes: tuple[Axes, ...] | None = None


@dataclass(frozen=True, slots=True)
class Scene:
    """A video or a room, and what is in it.

    Args:
        scene_id: unique within its source.
        source: ravst, tao, kitti, scannet or toy.
        entities: the things, in the order of the source.
        frame_times_s: seconds at which the scene was looked at, rising.
        video: stem of the video's file, "" if there is none.
        duration_s: of the video; 0 where there is none.
        width: of the picture, pixels; None where there is no picture.
        height: likewise.
        counts: how many there are by name, where that isn't the number of entities with this label.
        open_labels: of these there may be more than the entities say, so they are not counted.
        complete: everything in sight is an entity.
        counted: all of a label are entities; else nothing is counted, though a label may mean its only entity.
        room_size_m2: floor area, or None.
        metres_in: axes of the metres: of the room (z up), or of the camera (x right, y down, z ahead), which may move.
    """

    scene_id: str
    source: str
    entities: tuple[Entity, ...]
    frame_times_s: tuple[float, ...]
    video: str = ""
    duration_s: float = 0.0
    width: int | None = None
    height: int | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    open_labels: frozenset[str] = frozenset()
    complete: bool = False
    counted: bool = True
    room_size_m2: float | None = None
    metres_in: Literal["room", "camera"] = "room"

    @property
    def at_rest(self) -> bool:
        """Whether it has no time: a room, scanned once."""
        return not self.duration_s

    @property
    def up(self) -> Vector:
        """Unit vector that points away from the floor."""
        return UP[self.metres_in]


def check_scene(scene: Scene) -> Scene:
    """The scene itself, if it holds together.

    Raises:
        ValueError: what is wrong first, in one sentence.
    """
    _check(bool(scene.entities), "it has no entity")
    _check(math.isfinite(scene.duration_s) and scene.duration_s >= 0, f"its duration is {scene.duration_s}")
    _check_rising(scene.frame_times_s, "its frames")
    _check(bool(scene.frame_times_s), "it has no frame")
    for count in scene.counts.values():
        _check(count >= 0, f"a count of {count}")
    _check((scene.width is None) == (scene.height is None), "it has a width without a height, or the reverse")
    _check(scene.width is None or min(scene.width, scene.height or 0) > 0, f"a picture {scene.width} x {scene.height}")
    area = scene.room_size_m2
    _check(area is None or 0 < area < math.inf, f"its room has {area} m2")
    seen: set[str] = set()
    frames = frozenset(scene.frame_times_s)
    for entity in scene.entities:
        _check(entity.entity_id not in seen, f"two entities with the id {entity.entity_id!r}")
        seen.add(entity.entity_id)
        _check_entity(entity, frames, scene.width is not None)
    return scene


def _check_entity(entity: Entity, frames: frozenset[float], has_picture: bool) -> None:
    name = f"entity {entity.entity_id!r} ({entity.label})"
    _check(bool(_LABEL.fullmatch(entity.label)), f"entity {entity.entity_id!r} has the label {entity.label[:120]!r}")
    _check(bool(entity.times_s), f"{name} has no entry")
    _check_rising(entity.times_s, f"the times of {name}")
    _check(frames.issuperset(entity.times_s), f"{name} has a time at which there is no frame")
    _check(entity.boxes_xyxy_px is not None or entity.centres_m is not None, f"{name} has neither boxes nor centres")
    _check(entity.boxes_xyxy_px is None or has_picture, f"{name} has boxes, but the size of the picture is missing")
    for what, entries in (("boxes", entity.boxes_xyxy_px), ("centres", entity.centres_m), ("axes", entity.axes)):
        wrong = f"{name} has {len(entries or ())} {what} for {len(entity.times_s)} times"
        _check(entries is None or len(entries) == len(entity.times_s), wrong)
    for time_s, box in zip(entity.times_s, entity.boxes_xyxy_px or (), strict=False):
        real = _finite(box) and len(box) == 4 and box[0] < box[2] and box[1] < box[3]
        _check(real, f"the box of {name} at {time_s} s is {list(box)}")
    for time_s, centre in zip(entity.times_s, entity.centres_m or (), strict=False):
        _check(_finite(centre) and len(centre) == 3, f"the centre of {name} at {time_s} s is {list(centre)}")
    size = entity.size_m
    _check(size is None or (_finite(size) and len(size) == 3 and min(size) > 0), f"the size of {name} is {size}")
    for axes in entity.axes or ():
        _check(_orthonormal(axes), f"the axes of {name} are no three perpendicular unit vectors")


def _check(holds: bool, wrong: str) -> None:
    if not holds:
        raise ValueError(wrong)


def _check_rising(times_s: tuple[float, ...], what: str) -> None:
    _check(_finite(times_s), f"{what} have a time that is no number")
    _check(all(a < b for a, b in pairwise(times_s)), f"{what} are not in rising order")


def _finite(numbers: Iterable[float]) -> bool:
    return all(math.isfinite(number) for number in numbers)


def _orthonormal(axes: Axes, tolerance: float = 1e-2) -> bool:
    products = [sum(a * b for a, b in zip(axes[i], axes[j], strict=True)) for i in range(3) for j in range(i, 3)]
    wanted = (1, 0, 0, 1, 0, 1)
    return all(abs(got - want) < tolerance for got, want in zip(products, wanted, strict=True))
