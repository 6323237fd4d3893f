"""A scene as questions look at it: what is where at a second, and what a thing is called."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cached_property
from random import Random

from ravst_ray.config.make_str import StrRules
from ravst_ray.core.scenes import Axes, Entity, Scene, Vector
from ravst_ray.records import Box

_ON_GRID_S = 0.02


class SceneView:
    """A scene with look-ups. Times are taken from ``scene.frame_times_s``."""

    def __init__(self, scene: Scene, rules: StrRules):
        self.scene = scene
        self._rules = rules
        self._entry = {
            entity.entity_id: {time_s: index for index, time_s in enumerate(entity.times_s)}
            for entity in scene.entities
        }
        self._labels = Counter(entity.label for entity in scene.entities)

    @property
    def has_boxes(self) -> bool:
        """Whether all entities have boxes in a picture of known size, and the scene goes on in time."""
        return not self.scene.at_rest and all(entity.boxes_xyxy_px for entity in self.scene.entities)

    @property
    def has_metres(self) -> bool:
        """Whether all entities have centres in metres."""
        return all(entity.centres_m for entity in self.scene.entities)

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

    def times_of(self, *entities: Entity) -> list[float]:
        """The seconds that may be asked about at which all of these are in sight."""
        return [time_s for time_s in self.asked_times_s if all(time_s in self._entry[e.entity_id] for e in entities)]

    def box(self, entity: Entity, time_s: float) -> Box:
        """Its box in pixels; it must be in sight."""
        assert entity.boxes_xyxy_px is not None
        return entity.boxes_xyxy_px[self._entry[entity.entity_id][time_s]]

    def middle_px(self, entity: Entity, time_s: float) -> tuple[float, float]:
        """The middle of its box in pixels."""
        x1, y1, x2, y2 = self.box(entity, time_s)
        return (x1 + x2) / 2, (y1 + y2) / 2

    def centre_m(self, entity: Entity, time_s: float) -> Vector:
        """Its centre in metres; it must be in sight."""
        assert entity.centres_m is not None
        return entity.centres_m[self._entry[entity.entity_id][time_s]]

    def axes(self, entity: Entity, time_s: float) -> Axes | None:
        """The axes of its box in metres, if known."""
        return entity.axes[self._entry[entity.entity_id][time_s]] if entity.axes else None

    @property
    def diagonal_px(self) -> float:
        """Of the picture."""
        assert self.scene.width and self.scene.height
        return float((self.scene.width**2 + self.scene.height**2) ** 0.5)

    def number_of(self, label: str) -> int | None:
        """How many there are by this name; None where that isn't known."""
        if label in self.scene.open_labels:
            return None
        return self.scene.counts.get(label, self._labels[label])

    def is_unique(self, entity: Entity) -> bool:
        """Whether its label means it alone, in the whole scene."""
        return self._labels[entity.label] == 1 and self.number_of(entity.label) in (0, 1)

    @cached_property
    def unique(self) -> tuple[Entity, ...]:
        """The entities whose label means them alone."""
        return tuple(entity for entity in self.scene.entities if self.is_unique(entity))

    def name(self, entity: Entity, rng: Random, not_at_s: Sequence[float] = ()) -> str | None:
        """What a question calls it: its label, or its label and where it is at some second; None if neither will do.

        ``not_at_s``: seconds at which its box would give the answer away.
        """
        if self.is_unique(entity):
            return entity.label
        if not (self._rules.questions.refer_by_box and entity.boxes_xyxy_px):
            return None
        times = [time_s for time_s in self.times_of(entity) if time_s not in not_at_s]
        if not times:
            return None
        time_s = rng.choice(times)
        return f"{entity.label} in the box {box_text(self.box(entity, time_s))} at {time_s:g} s"


def box_text(box: Box) -> str:
    """A box as it is written: pixels with one decimal.

    >>> box_text((12, 30.5, 80, 99))
    '[12.0, 30.5, 80.0, 99.0]'
    """
    return "[" + ", ".join(f"{x:.1f}" for x in box) + "]"
