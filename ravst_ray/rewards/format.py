"""Format: is the completion a clean answer to this kind of question?"""

from __future__ import annotations

from ravst_ray.core.answers import ParsedAnswer
from ravst_ray.records import Task

PARTS: dict[Task, tuple[bool, bool]] = {"AVTR": (True, False), "AVSR": (False, True), "AVSTR": (True, True)}
"""Whether every object of a task's answer has ``<when>``, ``<where>``."""


def format_score(task: Task, predicted: ParsedAnswer) -> float:
    """1 for one ``<answer>`` with nothing after it, whose objects each have exactly the asked parts, else 0.

    Text before the answer is allowed, the parts of an object may come in either order, an empty ``<where>`` is one.
    """
    wanted = PARTS[task]
    clean = not predicted.malformed and bool(predicted.objects)
    return float(clean and all((one.when is not None, one.where is not None) == wanted for one in predicted.objects))
