"""localization: where a thing is at a second; temporal_localization: when it is in sight."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from ravst_ray.config.make_str import StrRules
from ravst_ray.core.scenes import Entity
from ravst_ray.questions.draft import Draft, Kind
from ravst_ray.questions.view import SceneView, box_text, seconds_text

_STEPS = 3  # between two frames nobody looked, so an interval has at least so many steps


def ask_localization(view: SceneView, rules: StrRules, rng: Random) -> Iterator[Draft | str]:
    """Each thing at its seconds, in random order; one that shares its name is known by its box at another second."""
    for (entity,), time_s in view.groups(1, rng):
        name = view.name_elsewhere(entity, time_s, rng)
        if name is None:
            yield "not_seen_elsewhere"
            continue
        question = f"Where is the {name} at {seconds_text(time_s)} s? Give its box [x1, y1, x2, y2]."
        yield Draft("box", question, box_text(view.box(entity, time_s)), (entity,), (time_s,), "2d", unit="px")


def ask_in_view(view: SceneView, rules: StrRules, rng: Random) -> Iterator[Draft | str]:
    """Each thing that is in sight once, for a while, and not nearly always."""
    entities = list(view.scene.entities)
    rng.shuffle(entities)
    for entity in entities:
        yield _in_view(view, rules, entity)


def _in_view(view: SceneView, rules: StrRules, entity: Entity) -> Draft | str:
    if not view.is_unique(entity):
        return "ambiguous_name"
    runs = view.runs_in_sight(entity)
    start_s, end_s = runs[0]
    if len(runs) > 1:
        return "several_times"
    step_s = view.scene.duration_s / len(view.scene.frame_times_s)
    if end_s - start_s < max(rules.margins.visible_s, _STEPS * step_s - 1e-6):
        return "too_short"
    if end_s - start_s > rules.margins.visible_share * view.scene.duration_s:
        return "nearly_always"
    question = f"When is the {entity.label} in the picture? Give [start, end] in seconds."
    answer = f"[{seconds_text(start_s)}, {seconds_text(end_s)}]"
    times = sorted({entity.times_s[0], entity.times_s[-1]})
    return Draft("interval", question, answer, (entity,), tuple(times), "2d", unit="s")


LOCALIZATION = Kind("localization", ask_localization, lambda view: view.has_boxes)
IN_VIEW = Kind("temporal_localization", ask_in_view, lambda view: view.has_boxes and view.covers_video)
