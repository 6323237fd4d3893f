"""object_size and room_size, as VSI-Bench (arXiv 2412.14171) asks."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from ravst_ray.config.make_str import StrRules
from ravst_ray.questions.draft import Draft, Kind, number_text
from ravst_ray.questions.view import SceneView


def ask_object(view: SceneView, rules: StrRules, rng: Random) -> Iterator[Draft | str]:
    """The longest side of each thing."""
    for (entity,), time_s in view.groups(1, rng):
        assert entity.size_m is not None
        name = view.name(entity, time_s)
        question = f"How many centimetres long is the longest side (length, width or height) of the {name}?"
        answer = number_text(100 * max(entity.size_m), 0)
        yield Draft("number", question, answer, (entity,), (time_s,), "3d", unit="cm")


def ask_room(view: SceneView, rules: StrRules, rng: Random) -> Iterator[Draft | str]:
    """The floor area, once."""
    assert view.scene.room_size_m2 is not None
    question = "How many square metres has this room? If there are several rooms, all of them together."
    answer = number_text(view.scene.room_size_m2, 1)
    yield Draft("number", question, answer, (), view.scene.frame_times_s[:1], "3d", unit="m2")


OBJECT = Kind("object_size", ask_object, lambda view: view.has_metres)
ROOM = Kind("room_size", ask_room, lambda view: view.has_metres and view.scene.room_size_m2 is not None)
