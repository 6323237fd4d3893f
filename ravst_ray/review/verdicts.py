"""What people say of rows: verdicts that are only ever added, and what of them is in force.

Each verdict names the one that it was made on (``on``, the last of its event then). Those of one event make a chain;
where two were made on the same one, the earlier goes on in the chain, and the other is kept, as a conflict without
effect.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from pydantic import TypeAdapter

What = Literal["accept", "reject", "edit", "undo"]
Target = tuple[str, int]  # video_id, event_num


@dataclass(frozen=True, slots=True)
class Verdict:
    """One line of the log.

    Attributes:
        id: of the line, ``{session}:{n}``.
        who: the reviewer.
        when: UTC, ISO 8601.
        what: whether the event (or the question ``qa_id``) is right, was changed by ``edit``, or ``undoes`` a line.
        on: the line of this event that was the last when it was made, None for none.
        before: what it changed, as it was; of a question, also its text and its answer.
        after: the same as it was then.
        seconds: from when the row was shown to the verdict, None where that isn't known.
        section: of the queue, from which the row was taken.
    """

    id: str
    who: str
    when: str
    what: What
    video_id: str
    event_num: int
    on: str | None = None
    qa_id: str | None = None
    edit: Mapping[str, Any] | None = None
    undoes: str | None = None
    before: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    section: str | None = None

    @property
    def target(self) -> Target:
        """The event that it is about."""
        return self.video_id, self.event_num

    def to_json(self) -> bytes:
        """As one line, without its end."""
        return _adapter().dump_json(self)

    @staticmethod
    def from_json(line: bytes) -> Verdict:
        """The inverse of :meth:`to_json`.

        Raises:
            ValueError: it is no verdict.
        """
        return _adapter().validate_json(line)


@cache
def _adapter() -> TypeAdapter[Verdict]:
    return TypeAdapter(Verdict)


@dataclass(frozen=True, slots=True)
class EventHistory:
    """The verdicts of one event.

    Attributes:
        chain: those that follow each other, oldest first.
        conflicts: those made on a state that wasn't the last any more.
        in_force: of the chain, without what was undone and without undoing.
    """

    chain: tuple[Verdict, ...] = ()
    conflicts: tuple[Verdict, ...] = ()
    in_force: tuple[Verdict, ...] = ()

    @property
    def version(self) -> str | None:
        """The last line, on which the next one is made."""
        return self.chain[-1].id if self.chain else None

    @property
    def verdict(self) -> Literal["accepted", "rejected"] | None:
        """What the last person said of the event itself."""
        said = [one.what for one in self.in_force if one.qa_id is None and one.what != "edit"]
        return None if not said else "accepted" if said[-1] == "accept" else "rejected"

    @property
    def edited(self) -> bool:
        """Whether a person has changed it."""
        return any(one.what == "edit" for one in self.in_force)

    @property
    def reviewers(self) -> tuple[str, ...]:
        """Who said something of the event itself that is in force, the first one first."""
        return tuple(dict.fromkeys(one.who for one in self.in_force if one.qa_id is None))

    @property
    def last_in_force(self) -> Verdict | None:
        """What undoing takes back."""
        return self.in_force[-1] if self.in_force else None


def history_of(verdicts: Iterable[Verdict]) -> EventHistory:
    """The history of one event from all its lines, in any order.

    A line whose predecessor is in no file (it was damaged) goes on where the chain ends.
    """
    left = {one.id: one for one in sorted(verdicts, key=lambda one: (one.when, one.id))}
    known = set(left)
    chain: list[Verdict] = []
    while left:
        last = chain[-1].id if chain else None
        ready = [one for one in left.values() if one.on == last]
        ready = ready or [one for one in left.values() if one.on is not None and one.on not in known]
        if not ready:
            break
        chain.append(left.pop(ready[0].id))
    return EventHistory(tuple(chain), tuple(left.values()), _in_force(chain))


def _in_force(chain: Sequence[Verdict]) -> tuple[Verdict, ...]:
    undone: set[str | None] = set()
    kept = []
    for one in reversed(chain):
        if one.id in undone:
            continue
        if one.what == "undo":
            undone.add(one.undoes)
        else:
            kept.append(one)
    return tuple(reversed(kept))
