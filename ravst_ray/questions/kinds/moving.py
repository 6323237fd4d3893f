"""motion_direction, displacement and speed: how a thing has moved between two seconds.

In metres where there are any, else in the picture; metres in the axes of a camera are relative to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import dist, hypot
from random import Random

from ravst_ray.config.make_str import StrRules
from ravst_ray.core.scenes import Entity, Space
from ravst_ray.questions.draft import Draft, Kind, choice, number_text
from ravst_ray.questions.kinds.position import side_of
from ravst_ray.questions.view import SceneView, seconds_text

WAYS = {"left": "left", "right": "right", "above": "up", "below": "down"}
NEARER = ("closer to the camera", "farther from the camera")


def spans(view: SceneView, rules: StrRules, rng: Random) -> Iterator[tuple[Entity, float, float] | str]:
    """Entities in random order, each with two seconds at which it is in sight; they change from round to round."""
    entities = list(view.named)
    for _ in range(rules.questions.per_kind):
        rng.shuffle(entities)
        for entity in entities:
            times = view.times_of(entity)
            start_s, end_s = sorted(rng.sample(times, 2)) if len(times) > 1 else (0.0, 0.0)
            if end_s - start_s < rules.margins.motion_s:
                yield "too_short"
            else:
                yield (entity, start_s, end_s) if view.is_named_at(entity, start_s) else "ambiguous_name"


def _from_to(start_s: float, end_s: float) -> str:
    return f"From {seconds_text(start_s)} s to {seconds_text(end_s)} s"


def ask_direction(view: SceneView, rules: StrRules, rng: Random) -> Iterator[Draft | str]:
    """Left, right, up or down in the picture, and towards a camera or away from it; clear motions alone."""
    towards = view.has_metres and view.scene.metres_in == "camera"
    for span in spans(view, rules, rng):
        if isinstance(span, str):
            yield span
        else:
            yield (_towards if towards and rng.random() < 0.5 else _direction)(view, rules, rng, *span)


def _direction(
    view: SceneView, rules: StrRules, rng: Random, entity: Entity, start_s: float, end_s: float
) -> Draft | str:
    (x, y), (end_x, end_y) = view.middle_px(entity, start_s), view.middle_px(entity, end_s)
    if hypot(end_x - x, end_y - y) < rules.margins.moved_share * view.diagonal_px:
        return "hardly_moves"
    side = side_of(end_x - x, end_y - y, rules.margins.direction_ratio)
    if side is None:
        return "between_two_sides"
    name = view.name(entity, start_s)
    question = f"{_from_to(start_s, end_s)}, has the {name} moved left, right, up or down in the picture?"
    wrong = [way for way in WAYS.values() if way != WAYS[side]]
    return choice(rng, WAYS[side], wrong, question, (entity,), (start_s, end_s), "2d")


def _towards(
    view: SceneView, rules: StrRules, rng: Random, entity: Entity, start_s: float, end_s: float
) -> Draft | str:
    nearer_m = hypot(*view.centre_m(entity, start_s)) - hypot(*view.centre_m(entity, end_s))
    if abs(nearer_m) < rules.margins.moved_m:
        return "hardly_moves"
    name = view.name(entity, start_s)
    question = f"{_from_to(start_s, end_s)}, has the {name} come closer to the camera or gone farther from it?"
    right, wrong = NEARER if nearer_m > 0 else NEARER[::-1]
    return choice(rng, right, [wrong], question, (entity,), (start_s, end_s), "3d")


def ask_amount(view: SceneView, rules: StrRules, rng: Random, per_second: bool) -> Iterator[Draft | str]:
    """How far (a straight line), or that by the time it took."""
    for span in spans(view, rules, rng):
        yield span if isinstance(span, str) else _amount(view, rules, *span, per_second)


def _amount(
    view: SceneView, rules: StrRules, entity: Entity, start_s: float, end_s: float, per_second: bool
) -> Draft | str:
    if view.has_metres:
        moved = dist(view.centre_m(entity, start_s), view.centre_m(entity, end_s))
        clear = moved >= rules.margins.moved_m
        unit, unit_text = "m", "metres"
        where = " relative to the camera" if view.scene.metres_in == "camera" else ""
    else:
        assert view.scene.width
        moved_px = dist(view.middle_px(entity, start_s), view.middle_px(entity, end_s))
        moved, clear = 100 * moved_px / view.scene.width, moved_px >= rules.margins.moved_share * view.diagonal_px
        unit, unit_text, where = "%", "percent of the picture's width", " in the picture"
    if not clear:
        return "hardly_moves"
    name = view.name(entity, start_s)
    amount = moved / (end_s - start_s) if per_second else moved
    asked = f"at how many {unit_text} a second" if per_second else f"how many {unit_text}"
    question = f"{_from_to(start_s, end_s)}, {asked} has the {name} moved{where}, along a straight line?"
    answer, unit = number_text(amount), f"{unit}/s" if per_second else unit
    space: Space = "3d" if view.has_metres else "2d"
    return Draft("number", question, answer, (entity,), (start_s, end_s), space, unit=unit)


def _goes_on(view: SceneView) -> bool:
    return view.has_boxes and len(view.asked_times_s) > 1


DIRECTION = Kind("motion_direction", ask_direction, _goes_on)
DISPLACEMENT = Kind("displacement", partial(ask_amount, per_second=False), _goes_on)
SPEED = Kind("speed", partial(ask_amount, per_second=True), _goes_on)
