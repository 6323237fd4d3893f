"""motion_direction in the picture: where a thing has moved between two seconds."""

from __future__ import annotations

from collections.abc import Iterator
from math import hypot
from random import Random

from ravst_ray.config.make_str import StrRules
from ravst_ray.core.scenes import Entity
from ravst_ray.questions.draft import Draft, Kind, choice, seconds_text
from ravst_ray.questions.kinds.position import side_of
from ravst_ray.questions.view import SceneView

WAYS = {"left": "left", "right": "right", "above": "up", "below": "down"}


def spans(view: SceneView, rules: StrRules, rng: Random) -> Iterator[tuple[Entity, float, float] | str]:
    """Entities in random order, each with two seconds at which it is in sight; they change from round to round."""
    entities = list(view.scene.entities)
    for _ in range(rules.questions.per_kind):
        rng.shuffle(entities)
        for entity in entities:
            times = view.times_of(entity)
            if len(times) < 2:
                yield "seen_once"
                continue
            start_s, end_s = sorted(rng.sample(times, 2))
            yield entity, start_s, end_s


def ask_direction(view: SceneView, rules: StrRules, rng: Random) -> Iterator[Draft | str]:
    """Left, right, up or down; what hardly moves or moves slantwise is left out."""
    for span in spans(view, rules, rng):
        yield span if isinstance(span, str) else _direction(view, rules, rng, *span)


def _direction(
    view: SceneView, rules: StrRules, rng: Random, entity: Entity, start_s: float, end_s: float
) -> Draft | str:
    (x, y), (end_x, end_y) = view.middle_px(entity, start_s), view.middle_px(entity, end_s)
    if hypot(end_x - x, end_y - y) < rules.margins.moved_share * view.diagonal_px:
        return "hardly_moves"
    side = side_of(end_x - x, end_y - y, rules.margins.direction_ratio)
    if side is None:
        return "between_two_sides"
    name = view.name(entity, rng, [end_s])
    if name is None:
        return "ambiguous_name"
    question = (
        f"From {seconds_text(start_s)} s to {seconds_text(end_s)} s, has the {name} moved left, right, up or down "
        "in the picture?"
    )
    wrong = [way for way in WAYS.values() if way != WAYS[side]]
    return choice(rng, WAYS[side], wrong, question, (entity,), (start_s, end_s), "2d")


DIRECTION = Kind("motion_direction", ask_direction, lambda view: view.has_boxes and len(view.asked_times_s) > 1)
