"""A scene as questions look at it: what is where at a second, and what a thing is called."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from random import Random

from ravst_ray.config.make_str import StrRules
from ravst_ray.core.cuboids import Cuboid, gap_m
from ravst_ray.core.geometry import box_iou
from ravst_ray.core.scenes import Entity, Scene, Vector
from ravst_ray.records import Box

_ON_GRID_S = 0.02
_REPEATS = 50
_EDGE_S = 1.0
_SAME_BOX = 0.5
"""Two things of one label whose boxes overlap by this IoU and more aren't told apart by them."""


class SceneView:
    """A scene with look-ups. Times are those of ``scene.frame_times_s``; an entity asked about must be in sight."""

    def __init__(self, scene: Scene, rules: StrRules):
        self.scene = scene
        self._rules = rules
        self._entry = {
            entity.entity_id: {time_s: index for index, time_s in enumerate(entity.times_s)}
            for entity in scene.entities
        }
        self._labels = Counter(entity.label for entity in scene.entities)
        self._named: dict[float, tuple[Entity, ...]] = {}
        self._gaps: dict[tuple[str, str, float], float] = {}

    # --- what there is -----------------------------------------------------------------------------------------------

    @cached_property
    def has_boxes(self) -> bool:
        """Whether all entities have boxes in the picture of a video."""
        return not self.scene.at_rest and all(entity.boxes_xyxy_px for entity in self.scene.entities)

    @cached_property
    def has_metres(self) -> bool:
        """Whether all entities have boxes in metres."""
        return all(entity.centres_m and entity.size_m and entity.axes for entity in self.scene.entities)

    @cached_property
    def covers_video(self) -> bool:
        """Whether the frames go from the start of the video to its end; then what is never in sight isn't in it."""
        first_s, last_s = self.scene.frame_times_s[0], self.scene.frame_times_s[-1]
        return not self.scene.at_rest and first_s <= _EDGE_S and self.scene.duration_s - last_s <= _EDGE_S + 1e-6

    @cached_property
    def asked_times_s(self) -> tuple[float, ...]:
        """The seconds that may be asked about: multiples of the rules' step where there are several, else all."""
        step = self._rules.questions.time_step_s
        times = self.scene.frame_times_s
        on_grid = tuple(time_s for time_s in times if abs(time_s - step * round(time_s / step)) <= _ON_GRID_S)
        return on_grid if len(on_grid) > 1 else times

    @cached_property
    def _seen(self) -> dict[float, tuple[Entity, ...]]:
        found: defaultdict[float, list[Entity]] = defaultdict(list)
        for entity in self.scene.entities:
            for time_s in entity.times_s:
                found[time_s].append(entity)
        return {time_s: tuple(entities) for time_s, entities in found.items()}

    def seen(self, time_s: float) -> tuple[Entity, ...]:
        """What is in sight, in the order of the scene."""
        return self._seen.get(time_s, ())

    def can_be_named(self, entity: Entity) -> bool:
        """Whether a question can mean it alone: by its label, or by its label and its box at some second."""
        return self.is_unique(entity) or bool(self._rules.questions.refer_by_box and entity.boxes_xyxy_px)

    @cached_property
    def named(self) -> tuple[Entity, ...]:
        """The entities that questions may be about."""
        return tuple(entity for entity in self.scene.entities if self.can_be_named(entity))

    def is_named_at(self, entity: Entity, time_s: float) -> bool:
        """Whether its label means it alone, or its box at this second does among those of its label."""
        if self.is_unique(entity):
            return True
        if not self.can_be_named(entity):
            return False
        own = self.box(entity, time_s)
        others = (one for one in self.seen(time_s) if one.label == entity.label and one is not entity)
        return all(box_iou(own, self.box(other, time_s)) < _SAME_BOX for other in others)

    def _named_at(self, time_s: float) -> tuple[Entity, ...]:
        if time_s not in self._named:
            self._named[time_s] = tuple(one for one in self.seen(time_s) if self.is_named_at(one, time_s))
        return self._named[time_s]

    def times_of(self, entity: Entity) -> list[float]:
        """The seconds that may be asked about at which it is in sight."""
        return [time_s for time_s in self.asked_times_s if time_s in self._entry[entity.entity_id]]

    def groups(self, size: int, rng: Random) -> Iterator[tuple[tuple[Entity, ...], float]]:
        """Entities that can be named at a second, and the second, drawn until hardly anything new comes."""
        times = [time_s for time_s in self.asked_times_s if len(self._named_at(time_s)) >= size]
        drawn: set[tuple[float, tuple[str, ...]]] = set()
        repeats = 0
        while times and repeats < _REPEATS:
            time_s = rng.choice(times)
            group = tuple(rng.sample(self._named_at(time_s), size))
            key = time_s, tuple(entity.entity_id for entity in group)
            if key in drawn:
                repeats += 1
                continue
            repeats = 0
            drawn.add(key)
            yield group, time_s

    # --- where it is -------------------------------------------------------------------------------------------------

    def box(self, entity: Entity, time_s: float) -> Box:
        """Its box in pixels."""
        assert entity.boxes_xyxy_px is not None
        return entity.boxes_xyxy_px[self._entry[entity.entity_id][time_s]]

    def middle_px(self, entity: Entity, time_s: float) -> tuple[float, float]:
        """The middle of its box in pixels."""
        x1, y1, x2, y2 = self.box(entity, time_s)
        return (x1 + x2) / 2, (y1 + y2) / 2

    @property
    def diagonal_px(self) -> float:
        """Of the picture."""
        assert self.scene.width and self.scene.height
        return float((self.scene.width**2 + self.scene.height**2) ** 0.5)

    def centre_m(self, entity: Entity, time_s: float) -> Vector:
        """Its centre in metres."""
        assert entity.centres_m is not None
        return entity.centres_m[self._entry[entity.entity_id][time_s]]

    def gap_m(self, one: Entity, other: Entity, time_s: float) -> float:
        """How far the closest points of their boxes are apart, metres."""
        first, second = sorted((one, other), key=lambda entity: entity.entity_id)
        key = first.entity_id, second.entity_id, time_s
        if key not in self._gaps:
            self._gaps[key] = gap_m(self._cuboid(first, time_s), self._cuboid(second, time_s))
        return self._gaps[key]

    def _cuboid(self, entity: Entity, time_s: float) -> Cuboid:
        assert entity.axes is not None and entity.size_m is not None
        axes = entity.axes[self._entry[entity.entity_id][time_s]]
        return Cuboid(self.centre_m(entity, time_s), axes, entity.size_m)

    # --- what it is called -------------------------------------------------------------------------------------------

    def number_of(self, label: str) -> int | None:
        """How many there are by this name; None where that isn't known."""
        if label in self.scene.open_labels or not self.scene.counted:
            return None
        return self.scene.counts.get(label, self._labels[label])

    def all_of(self, label: str) -> tuple[Entity, ...] | None:
        """The entities of a label, if they are all that there are."""
        found = tuple(entity for entity in self.scene.entities if entity.label == label)
        return found if self.number_of(label) == len(found) else None

    def is_unique(self, entity: Entity) -> bool:
        """Whether its label means it alone, in the whole scene."""
        label = entity.label
        alone = self._labels[label] == 1 and label not in self.scene.open_labels
        return alone and self.scene.counts.get(label, 1) == 1

    def name(self, entity: Entity, time_s: float) -> str:
        """What a question calls an entity that is named at this second: its label, or its label and its box."""
        if self.is_unique(entity):
            return entity.label
        return f"{entity.label} (in the box {box_text(self.box(entity, time_s))} at {seconds_text(time_s)} s)"

    def name_elsewhere(self, entity: Entity, time_s: float, rng: Random) -> str | None:
        """As :meth:`name`, by its box at another second, as this one's is the answer; None if there is no other."""
        if self.is_unique(entity):
            return entity.label
        others = [s for s in self.times_of(entity) if s != time_s and self.is_named_at(entity, s)]
        return self.name(entity, rng.choice(others)) if others else None


def box_text(box: Sequence[float]) -> str:
    """A box as it is written: pixels with one decimal.

    >>> box_text((12, 30.5, 80, 99))
    '[12.0, 30.5, 80.0, 99.0]'
    """
    return "[" + ", ".join(f"{x:.1f}" for x in box) + "]"


def seconds_text(time_s: float) -> str:
    """Seconds as questions name them.

    >>> seconds_text(2), seconds_text(2.25)
    ('2.0', '2.25')
    """
    text = f"{time_s:.2f}"
    return text[:-1] if text.endswith("0") else text
