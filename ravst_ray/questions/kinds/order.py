"""appearance_order: which things come into the picture first (as VSI-Bench asks)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, pairwise, permutations
from random import Random

from ravst_ray.config.make_str import StrRules
from ravst_ray.questions.draft import Draft, Kind, choice
from ravst_ray.questions.view import SceneView

_MOST, _OPTIONS, _LABELS = 4, 4, 24


def ask(view: SceneView, rules: StrRules, rng: Random) -> Iterator[Draft | str]:
    """Sets of two to four names, large ones first."""
    first_s = {label: time_s for label, time_s in _first_times(view).items() if label not in view.scene.open_labels}
    labels = sorted(first_s)
    rng.shuffle(labels)
    labels = labels[:_LABELS]
    for size in range(min(_MOST, len(labels)), 1, -1):
        sets = (
            list(combinations(labels, size))
            if len(labels) <= 10
            else [tuple(rng.sample(labels, size)) for _ in range(200)]
        )
        rng.shuffle(sets)
        for names in sets:
            yield _order(view, rules, rng, {name: first_s[name] for name in names})


def _first_times(view: SceneView) -> dict[str, float]:
    """When a thing of a label is first in sight."""
    first: dict[str, float] = {}
    for entity in view.scene.entities:
        first[entity.label] = min(first.get(entity.label, entity.times_s[0]), entity.times_s[0])
    return first


def _order(view: SceneView, rules: StrRules, rng: Random, first_s: dict[str, float]) -> Draft | str:
    order = sorted(first_s, key=lambda name: first_s[name])
    times = [first_s[name] for name in order]
    margin_s = max(rules.margins.order_s, 1e-6)
    if any(later - earlier < margin_s for earlier, later in pairwise(times)):
        return "at_once"
    wrong = [", ".join(other) for other in permutations(order) if list(other) != order]
    wrong = rng.sample(wrong, min(len(wrong), _OPTIONS - 1))
    names = list(first_s)
    rng.shuffle(names)
    question = f"In which order do these first come into the picture: {', '.join(names)}?"
    about = [entity for entity in view.scene.entities if first_s.get(entity.label) == entity.times_s[0]]
    return choice(rng, ", ".join(order), wrong, question, about, times, "2d")


APPEARANCE = Kind(
    "appearance_order", ask, lambda view: view.has_boxes and view.covers_video and len(view.scene.entities) > 1
)
