"""object_counting: how many there are, in the whole scene (as VSI-Bench asks) or in sight at a second."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from ravst_ray.config.make_str import StrRules
from ravst_ray.core.scenes import Entity, Space
from ravst_ray.questions.draft import Draft, Kind
from ravst_ray.questions.view import SceneView, seconds_text

ALL = "object"  # … of any name, where everything in sight is an entity
_FRAMES = 4


def ask(view: SceneView, rules: StrRules, rng: Random) -> Iterator[Draft | str]:
    """Whole scene and seconds take turns."""
    whole = list(_whole(view, rules)) if view.scene.at_rest or view.covers_video else []
    moments = _moments(view)
    rng.shuffle(whole)
    rng.shuffle(moments)
    while whole or moments:
        if whole:
            yield whole.pop()
        for _ in range(2):
            if moments:
                yield _at(view, rules, *moments.pop())


def _whole(view: SceneView, rules: StrRules) -> Iterator[Draft | str]:
    scene = view.scene
    place = "room" if scene.at_rest else "video"
    for name in sorted({*(entity.label for entity in scene.entities), *scene.counts}):
        number = view.number_of(name)
        if number is None or number < rules.questions.min_count:
            yield "too_few" if number is not None else "not_all_labelled"
            continue
        about = tuple(entity for entity in scene.entities if _is(entity, name))
        question = f"How many {name}(s) are in this {place}?"
        yield Draft("number", question, str(number), about, _spread(view, about), _space(view))


def _moments(view: SceneView) -> list[tuple[float, str]]:
    """Seconds, and names of what is in sight then."""
    if view.scene.at_rest:
        return []
    found = []
    for time_s in view.asked_times_s:
        names = {entity.label for entity in view.seen(time_s)}
        names |= {name for name in view.scene.counts if any(_is(entity, name) for entity in view.seen(time_s))}
        found += [(time_s, name) for name in sorted(names | ({ALL} if view.scene.complete else set()))]
    return found


def _at(view: SceneView, rules: StrRules, time_s: float, name: str) -> Draft | str:
    if view.number_of(name) is None:
        return "not_all_labelled"
    about = tuple(entity for entity in view.seen(time_s) if name == ALL or _is(entity, name))
    if len(about) < rules.questions.min_count:
        return "too_few"
    question = f"How many {name}(s) are in the picture at {seconds_text(time_s)} s?"
    return Draft("number", question, str(len(about)), about, (time_s,), _space(view))


def _is(entity: Entity, name: str) -> bool:
    """Whether it is one of these: "red ball" is a "red ball" and a "ball"."""
    return entity.label == name or entity.label.endswith(f" {name}")


def _space(view: SceneView) -> Space:
    return "2d" if view.has_boxes else "3d"


def _spread(view: SceneView, about: tuple[Entity, ...]) -> tuple[float, ...]:
    """At most four seconds, evenly spread over those at which any of these is in sight."""
    wanted = {time_s for entity in about for time_s in entity.times_s}
    times = [time_s for time_s in view.asked_times_s if time_s in wanted] or view.asked_times_s[:1]
    if len(times) <= _FRAMES:
        return tuple(times)
    return tuple(times[round(i * (len(times) - 1) / (_FRAMES - 1))] for i in range(_FRAMES))


COUNTING = Kind("object_counting", ask, lambda view: view.scene.counted)
