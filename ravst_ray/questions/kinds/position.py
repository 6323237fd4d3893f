"""relative_position: where a thing is in the picture, seen from another one, at a second."""

from __future__ import annotations

from collections.abc import Iterator
from math import hypot
from random import Random

from ravst_ray.config.make_str import StrRules
from ravst_ray.core.scenes import Entity
from ravst_ray.questions.draft import Draft, Kind, choice
from ravst_ray.questions.view import SceneView, seconds_text

SIDES = ("left", "right", "above", "below")


def ask(view: SceneView, rules: StrRules, rng: Random) -> Iterator[Draft | str]:
    """Pairs at a second; what is close by, or lies on two sides, is left out."""
    for (one, other), time_s in view.groups(2, rng):
        yield _position(view, rules, rng, one, other, time_s)


def side_of(dx: float, dy: float, ratio: float) -> str | None:
    """Where something is that lies (dx, dy) pixels from the other (y down); None where two sides fit.

    >>> side_of(-30, 10, 1.5), side_of(5, 40, 1.5), side_of(10, 11, 1.5)
    ('left', 'below', None)
    """
    if abs(dx) > ratio * abs(dy):
        return "left" if dx < 0 else "right"
    if abs(dy) > ratio * abs(dx):
        return "above" if dy < 0 else "below"
    return None


def _position(view: SceneView, rules: StrRules, rng: Random, one: Entity, other: Entity, time_s: float) -> Draft | str:
    (x, y), (other_x, other_y) = view.middle_px(one, time_s), view.middle_px(other, time_s)
    if hypot(x - other_x, y - other_y) < rules.margins.position_share * view.diagonal_px:
        return "too_close"
    side = side_of(x - other_x, y - other_y, rules.margins.direction_ratio)
    if side is None:
        return "between_two_sides"
    name, reference = view.name_elsewhere(one, time_s, rng), view.name_elsewhere(other, time_s, rng)
    if name is None or reference is None:
        return "seen_once"
    question = (
        f"In the picture at {seconds_text(time_s)} s, is the {name} left of, right of, above or below the {reference}?"
    )
    wrong = [option for option in SIDES if option != side]
    return choice(rng, side, wrong, question, (one, other), (time_s,), "2d")


POSITION = Kind("relative_position", ask, lambda view: view.has_boxes and len(view.scene.entities) > 1)
