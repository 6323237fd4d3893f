"""relative_direction_easy, _medium, _hard: standing by A and facing B, where is C? In the plane of the floor.

As VSI-Bench (arXiv 2412.14171) asks: easy has left and right, medium also back (a turn of 135 degrees and more), hard
the four quadrants. Places are the centres of the boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import combinations
from random import Random

from ravst_ray.config.make_str import StrRules
from ravst_ray.core.cuboids import along_floor_m, turn_deg
from ravst_ray.core.scenes import Entity
from ravst_ray.questions.draft import Draft, Kind, choice
from ravst_ray.questions.kinds.distance import at
from ravst_ray.questions.view import SceneView

SideOf = Callable[[float, float], str | None]
_BACK_DEG = 135.0


def easy(turn: float, margin: float) -> str | None:
    """Left or right of a turn in degrees (left is positive); None within the margin of straight ahead or back.

    >>> easy(40, 10), easy(-175, 10)
    ('left', None)
    """
    if not margin <= abs(turn) <= 180 - margin:
        return None
    return "left" if turn > 0 else "right"


def medium(turn: float, margin: float) -> str | None:
    """Left, right or back; None within the margin of a border.

    >>> medium(-100, 10), medium(150, 10), medium(140, 10)
    ('right', 'back', None)
    """
    if abs(turn) >= _BACK_DEG + margin:
        return "back"
    if not margin <= abs(turn) <= _BACK_DEG - margin:
        return None
    return "left" if turn > 0 else "right"


def hard(turn: float, margin: float) -> str | None:
    """The quadrant; None within the margin of an axis.

    >>> hard(40, 10), hard(-120, 10), hard(95, 10)
    ('front-left', 'back-right', None)
    """
    if not (margin <= abs(turn) <= 90 - margin or 90 + margin <= abs(turn) <= 180 - margin):
        return None
    return f"{'front' if abs(turn) < 90 else 'back'}-{'left' if turn > 0 else 'right'}"


LEVELS: dict[str, tuple[SideOf, tuple[str, ...], str]] = {
    "easy": (easy, ("left", "right"), "to the left or to the right"),
    "medium": (
        medium,
        ("left", "right", "back"),
        "to the left, to the right, or at the back (a turn of 135 degrees or more)",
    ),
    "hard": (
        hard,
        ("front-left", "front-right", "back-left", "back-right"),
        "to the front-left, front-right, back-left or back-right",
    ),
}


def ask(view: SceneView, rules: StrRules, rng: Random, level: str) -> Iterator[Draft | str]:
    """Triples; what is close to another one along the floor, or near a border between two answers, is left out."""
    for group, time_s in view.groups(3, rng):
        yield _direction(view, rules, rng, group, time_s, level)


def _direction(
    view: SceneView, rules: StrRules, rng: Random, group: tuple[Entity, ...], time_s: float, level: str
) -> Draft | str:
    side_of, sides, wording = LEVELS[level]
    stand, face, target = (view.centre_m(entity, time_s) for entity in group)
    up = view.scene.up
    if any(along_floor_m(a, b, up) < rules.margins.floor_m for a, b in combinations((stand, face, target), 2)):
        return "too_close"
    side = side_of(turn_deg(stand, face, target, up), rules.margins.turn_deg)
    if side is None:
        return "between_two_sides"
    here, there, what = (view.name(entity, time_s) for entity in group)
    question = at(view, time_s, f"Standing by the {here} and facing the {there}, is the {what} {wording}?")
    wrong = [option for option in sides if option != side]
    return choice(rng, side, wrong, question, group, (time_s,), "3d")


def _kind(level: str) -> Kind:
    return Kind(
        f"relative_direction_{level}",
        partial(ask, level=level),
        lambda view: view.has_metres and len(view.named) > 2,
    )


DIRECTIONS = tuple(map(_kind, LEVELS))
