"""absolute_distance and relative_distance: how far two things are apart, which is closest to another.

In metres between the closest points of the boxes, as VSI-Bench (arXiv 2412.14171) asks; in scenes that have but a
picture, which middle of a box is closest to another one there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from math import hypot
from random import Random

from ravst_ray.config.make_str import StrRules
from ravst_ray.core.scenes import Entity, Space
from ravst_ray.questions.draft import Draft, Kind, choice, number_text
from ravst_ray.questions.view import SceneView, seconds_text

_CANDIDATES = 4
_DRAWS = 3  # of others, in a room that has but one moment


def at(view: SceneView, time_s: float, question: str) -> str:
    """The question with its second, in scenes that have a time."""
    return question if view.scene.at_rest else f"At {seconds_text(time_s)} s: {question}"


def ask_absolute(view: SceneView, rules: StrRules, rng: Random) -> Iterator[Draft | str]:
    """Pairs that aren't close by."""
    for (one, other), time_s in view.groups(2, rng):
        if one.entity_id > other.entity_id:  # the same question the other way round
            one, other = other, one
        gap = view.gap_m(one, other, time_s)
        if gap < rules.margins.apart_m:
            yield "too_close"
            continue
        names = f"the {view.name(one, time_s)} and the {view.name(other, time_s)}"
        question = at(view, time_s, f"How many metres are between the closest points of {names}?")
        yield Draft("number", question, number_text(gap), (one, other), (time_s,), "3d", unit="m")


def ask_relative(view: SceneView, rules: StrRules, rng: Random) -> Iterator[Draft | str]:
    """A thing, and two to four others of which one is clearly the closest."""
    for (entity,), time_s in view.groups(1, rng):
        for _ in range(_DRAWS if view.scene.at_rest else 1):
            yield _relative(view, rules, rng, entity, time_s)


def _relative(view: SceneView, rules: StrRules, rng: Random, entity: Entity, time_s: float) -> Draft | str:
    name = view.name(entity, time_s) if view.has_metres else view.name_elsewhere(entity, time_s, rng)
    if name is None:
        return "seen_once"
    others = _others(view, entity, time_s)
    if len(others) < 2:
        return "too_few"
    names = rng.sample(sorted(others), min(len(others), _CANDIDATES))
    measure = view.gap_m if view.has_metres else partial(_in_picture_px, view)
    far = {name: min(measure(entity, other, time_s) for other in others[name]) for name in names}
    first, second, *_ = sorted(names, key=lambda name: far[name])
    margins = rules.margins
    if far[second] - far[first] < max(margins.closer_share * far[second], margins.closer_m * view.has_metres):
        return "as_close"
    several = any(len(others[name]) > 1 for name in names)
    if view.has_metres:
        wording = f"By the closest points, which of these is closest to the {name}?"
        wording += " Of several with one name the closest counts." if several else ""
        question = at(view, time_s, wording)
    else:
        question = f"In the picture at {seconds_text(time_s)} s, which of these is closest to the {name}?"
    about = (entity, *(min(others[name], key=lambda other: measure(entity, other, time_s)) for name in names))
    space: Space = "3d" if view.has_metres else "2d"
    return choice(rng, first, [name for name in names if name != first], question, about, (time_s,), space)


def _others(view: SceneView, entity: Entity, time_s: float) -> dict[str, Sequence[Entity]]:
    """What else is in sight, by what it is called. In a room at rest a label may mean several, if they are all."""
    others: dict[str, Sequence[Entity]] = {}
    for other in view.seen(time_s):
        if other.label == entity.label and (view.scene.at_rest or other is entity):
            continue
        if view.scene.at_rest and (everyone := view.all_of(other.label)):
            others[other.label] = everyone
        elif view.is_unique(other) or (view.has_metres and view.is_named_at(other, time_s)):
            others[view.name(other, time_s)] = (other,)
    return others


def _in_picture_px(view: SceneView, one: Entity, other: Entity, time_s: float) -> float:
    (x, y), (other_x, other_y) = view.middle_px(one, time_s), view.middle_px(other, time_s)
    return hypot(x - other_x, y - other_y)


ABSOLUTE = Kind("absolute_distance", ask_absolute, lambda view: view.has_metres and len(view.named) > 1)
RELATIVE = Kind(
    "relative_distance",
    ask_relative,
    lambda view: (view.has_metres or view.has_boxes) and len(view.scene.entities) > 2,
)
