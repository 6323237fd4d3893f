"""Format: is the completion a clean answer to this kind of question?"""

from __future__ import annotations

from ravst_ray.core.answers import ParsedAnswer


def format_score(predicted: ParsedAnswer, when: bool, where: bool) -> float:
    """1 for one ``<answer>`` with nothing after it, whose objects each have exactly the asked parts, else 0.

    Text before the answer is allowed, the parts of an object may come in either order, an empty ``<where>`` is one.

    Args:
        predicted: the completion.
        when: whether every object should have a ``<when>``.
        where: whether every object should have a ``<where>``.
    """
    wanted = (when, where)
    clean = not predicted.malformed and bool(predicted.objects)
    return float(clean and all((one.when is not None, one.where is not None) == wanted for one in predicted.objects))
