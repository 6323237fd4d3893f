"""Which places of the order of questions are used by which step, and where a run goes on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Position:
    """Where a run stands in the order of questions.

    Attributes:
        place: the first place that isn't used up; all before it were learned from or can't be shown.
        ahead: places after it that are used up as well, in order.
    """

    place: int = 0
    ahead: tuple[int, ...] = ()


class Places:
    """Hands out the places of the order one after the other, each once, to whichever step asks next.

    A step takes its places when it begins. One that puts others in the place of equal groups takes them later, when
    steps that are sampled ahead may have taken theirs: its places then aren't all next to each other. So a
    :class:`Position` names the places ahead that are used up: a run that goes on from it asks nothing again that was
    learned from, and leaves nothing out.

    Args:
        position: where the run begins.
    """

    def __init__(self, position: Position):
        self._used = set(position.ahead)
        self._next = position.place
        self._steps: dict[int, list[int]] = {}

    def take(self, step: int) -> int:
        """The next place, for a step."""
        while self._next in self._used:
            self._next += 1
        self._steps.setdefault(step, []).append(self._next)
        self._next += 1
        return self._next - 1

    def position(self, step: int) -> Position:
        """Where a run goes on from a checkpoint with all steps before ``step``; later calls are for later steps."""
        for done in [one for one in self._steps if one < step]:
            self._used.update(self._steps.pop(done))
        place = min((taken for places in self._steps.values() for taken in places), default=self._next)
        while place in self._used:
            place += 1
        self._used = {one for one in self._used if one > place}
        return Position(place, tuple(sorted(self._used)))
