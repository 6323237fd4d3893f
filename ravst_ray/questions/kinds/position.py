"""relative_position and relative_distance in the picture: where two things are to each other at a second."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from math import hypot
from random import Random

from ravst_ray.config.make_str import StrRules
from ravst_ray.core.scenes import Entity
from ravst_ray.questions.draft import Draft, Kind, choice, seconds_text
from ravst_ray.questions.view import SceneView

SIDES = ("left", "right", "above", "below")
_CANDIDATES = 4


def ask_position(view: SceneView, rules: StrRules, rng: Random) -> Iterator[Draft | str]:
    """Pairs in random order, each at one second; seconds change from round to round."""
    pairs = list(permutations(view.scene.entities, 2)) if len(view.scene.entities) <= 40 else _some_pairs(view, rng)
    for _ in range(rules.questions.per_kind):
        rng.shuffle(pairs)
        for one, other in pairs:
            times = view.times_of(one, other)
            yield _position(view, rules, rng, one, other, rng.choice(times)) if times else "never_together"


def _some_pairs(view: SceneView, rng: Random) -> list[tuple[Entity, Entity]]:
    drawn = (rng.sample(view.scene.entities, 2) for _ in range(1600))
    return [(one, other) for one, other in drawn]


def side_of(dx: float, dy: float, ratio: float) -> str | None:
    """Where something is that lies (dx, dy) pixels from the other (y down); None where two sides fit.

    >>> side_of(-30, 10, 1.5), side_of(5, 40, 1.5), side_of(10, 11, 1.5)
    ('left', 'below', None)
    """
    if abs(dx) >= ratio * abs(dy):
        return "left" if dx < 0 else "right"
    if abs(dy) >= ratio * abs(dx):
        return "above" if dy < 0 else "below"
    return None


def _position(view: SceneView, rules: StrRules, rng: Random, one: Entity, other: Entity, time_s: float) -> Draft | str:
    (x, y), (ox, oy) = view.middle_px(one, time_s), view.middle_px(other, time_s)
    if hypot(x - ox, y - oy) < rules.margins.position_share * view.diagonal_px:
        return "too_close"
    side = side_of(x - ox, y - oy, rules.margins.direction_ratio)
    if side is None:
        return "between_two_sides"
    name, reference = view.name(one, rng, [time_s]), view.name(other, rng, [time_s])
    if name is None or reference is None:
        return "ambiguous_name"
    question = (
        f"In the picture at {seconds_text(time_s)} s, is the {name} left of, right of, above or below the {reference}?"
    )
    wrong = [option for option in SIDES if option != side]
    return choice(rng, side, wrong, question, (one, other), (time_s,), "2d")


def ask_distance(view: SceneView, rules: StrRules, rng: Random) -> Iterator[Draft | str]:
    """Which thing is closest to another, by the middles of their boxes, among things with names of their own."""
    moments = [(entity, time_s) for entity in view.unique for time_s in view.times_of(entity)]
    rng.shuffle(moments)
    for entity, time_s in moments:
        others = [other for other in view.seen(time_s) if view.is_unique(other) and other is not entity]
        if len(others) < 2:
            yield "too_few"
            continue
        yield _distance(view, rules, rng, entity, rng.sample(others, min(len(others), _CANDIDATES)), time_s)


def _distance(
    view: SceneView, rules: StrRules, rng: Random, entity: Entity, others: list[Entity], time_s: float
) -> Draft | str:
    x, y = view.middle_px(entity, time_s)
    middles = {other.label: view.middle_px(other, time_s) for other in others}
    far = {label: hypot(ox - x, oy - y) for label, (ox, oy) in middles.items()}
    first, second, *_ = sorted(far, key=lambda label: far[label])
    if far[first] > (1 - rules.margins.closer_share) * far[second]:
        return "as_close"
    question = f"In the picture at {seconds_text(time_s)} s, which of these is closest to the {entity.label}?"
    wrong = [label for label in far if label != first]
    return choice(rng, first, wrong, question, (entity, *others), (time_s,), "2d")


POSITION = Kind("relative_position", ask_position, lambda view: view.has_boxes and len(view.scene.entities) > 1)
DISTANCE = Kind("relative_distance", ask_distance, lambda view: view.has_boxes and len(view.scene.entities) > 2)
