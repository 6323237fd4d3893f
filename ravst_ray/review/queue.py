"""In which order rows are looked at, and which of them: by risk, filtered, a page at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ravst_ray.config.review import ReviewConfig
from ravst_ray.datasets.splits import hash_share
from ravst_ray.review.log import VerdictLog
from ravst_ray.review.rows import Rows
from ravst_ray.review.slim import Entry

Section = Literal["suspect", "rejected", "sample", "rest"]
SECTIONS: tuple[Section, ...] = get_args(Section)
MAX_PAGE = 200


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which rows; an empty or missing condition lets all through.

    ``reviewed``: ``yes``, ``no`` (by nobody), or ``second`` (by others, but not by ``reviewer``).
    """

    section: Collection[str] = ()
    status: Collection[str] = ()
    reason: Collection[str] = ()
    label: Collection[str] = ()
    task: Collection[str] = ()
    objects_min: int | None = None
    objects_max: int | None = None
    duration_min_s: float | None = None
    duration_max_s: float | None = None
    score_min: float | None = None
    score_max: float | None = None
    video: str = ""
    reviewed: Literal["", "yes", "no", "second"] = ""
    reviewer: str = ""


@dataclass(frozen=True, slots=True)
class Placed:
    """A row in the queue."""

    entry: Entry
    section: Section


@dataclass(frozen=True, slots=True)
class Page:
    """A part of the queue: rows, where it begins, and how many there are in all that are wanted."""

    rows: tuple[Placed, ...]
    offset: int
    total: int


def in_order(entries: Iterable[Entry], sample_rows: int, seed: int) -> tuple[Placed, ...]:
    """All rows by risk: suspects, rejected by thin margins, a random sample of the accepted ones, the rest.

    Suspects with more reasons come first, then those with lower scores. The sample is the first ``sample_rows`` by a
    hash of their ids, in that order: as good as drawn, and the same for everybody.
    """
    groups: dict[str, list[Entry]] = {"suspect": [], "rejected": [], "accepted": []}
    for entry in entries:
        groups.get(entry.status, groups["suspect"]).append(entry)
    accepted = sorted(groups["accepted"], key=lambda entry: hash_share(seed, entry.annotation_id, "review"))
    by_section: Mapping[Section, list[Entry]] = {
        "suspect": sorted(groups["suspect"], key=lambda e: (-len(e.reasons), _score(e), e.video_id, e.event_num)),
        "rejected": sorted(groups["rejected"], key=lambda e: (e.margin, _score(e), e.video_id, e.event_num)),
        "sample": accepted[:sample_rows],
        "rest": sorted(accepted[sample_rows:], key=lambda e: (_score(e), e.video_id, e.event_num)),
    }
    return tuple(Placed(entry, section) for section in SECTIONS for entry in by_section[section])


def _score(entry: Entry) -> float:
    return 1.0 if entry.score is None else entry.score


class Queue:
    """The rows of an output in the order in which they are looked at, with what was said of them."""

    def __init__(self, rows: Rows, log: VerdictLog, config: ReviewConfig):
        self._rows, self._log, self._config = rows, log, config
        self._lock = threading.Lock()
        self._order: tuple[Placed, ...] = ()
        self._version = -1

    @property
    def order(self) -> tuple[Placed, ...]:
        """All rows."""
        with self._lock:
            if self._version != self._rows.version:
                self._version = self._rows.version
                self._order = in_order(self._rows.entries.values(), self._config.sample_rows, self._config.seed)
            return self._order

    def page(self, wanted: Wanted, offset: int = 0, limit: int = 50, after: str | None = None) -> Page:
        """Rows of what is wanted, from ``offset`` on, or from behind the row ``after``, whether it is wanted or not."""
        accepts = self._condition(wanted)
        found, behind = [], 0
        for placed in self.order:
            if accepts(placed):
                found.append(placed)
            if placed.entry.annotation_id == after:
                behind = len(found)
        start = max(offset, 0) if after is None else behind
        return Page(tuple(found[start : start + min(max(limit, 1), MAX_PAGE)]), start, len(found))

    def left(self) -> dict[str, dict[str, int]]:
        """How many rows each section has, and how many of them nobody has looked at."""
        counts: dict[str, dict[str, int]] = {section: {"rows": 0, "left": 0} for section in SECTIONS}
        reviewed = self._reviewers()
        for placed in self.order:
            counts[placed.section]["rows"] += 1
            counts[placed.section]["left"] += (placed.entry.video_id, placed.entry.event_num) not in reviewed
        return counts

    def tasks(self, entry: Entry) -> dict[str, int]:
        """How many questions of each task an event has."""
        found: dict[str, int] = {}
        for (number, task, _), count in sorted(self._rows.tasks.get(entry.video_id, {}).items()):
            if number == entry.event_num:
                found[task] = found.get(task, 0) + count
        return found

    def _reviewers(self) -> dict[tuple[str, int], tuple[str, ...]]:
        return {target: who for target, history in self._log.all().items() if (who := history.reviewers)}

    def _condition(self, wanted: Wanted) -> Callable[[Placed], bool]:
        reviewed = self._reviewers() if wanted.reviewed else {}
        reasons = set(wanted.reason)
        bounds: list[tuple[str, Any, Any]] = [
            (name, low, high)
            for name, low, high in (
                ("objects", wanted.objects_min, wanted.objects_max),
                ("duration_s", wanted.duration_min_s, wanted.duration_max_s),
                ("score", wanted.score_min, wanted.score_max),
            )
            if low is not None or high is not None
        ]

        def accepts(placed: Placed) -> bool:
            entry = placed.entry
            if wanted.section and placed.section not in wanted.section:
                return False
            if wanted.status and entry.status not in wanted.status:
                return False
            if wanted.label and entry.label not in wanted.label:
                return False
            if reasons and reasons.isdisjoint(entry.reasons):
                return False
            if wanted.video and wanted.video not in entry.video_id:
                return False
            if not all(_within(getattr(entry, name), low, high) for name, low, high in bounds):
                return False
            if wanted.task and not set(wanted.task) & self.tasks(entry).keys():
                return False
            return _as_reviewed(wanted, reviewed.get((entry.video_id, entry.event_num), ()))

        return accepts


def _within(value: float | None, low: float | None, high: float | None) -> bool:
    """Whether a value is known and lies between two bounds, each of which may be missing."""
    return value is not None and (low is None or value >= low) and (high is None or value <= high)


def _as_reviewed(wanted: Wanted, who: tuple[str, ...]) -> bool:
    if wanted.reviewed == "second":
        return bool(who) and wanted.reviewer not in who
    return not wanted.reviewed or bool(who) == (wanted.reviewed == "yes")
