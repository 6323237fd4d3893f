"""What the review page asks for, as plain data: the session, the queue, a video's events, verdicts, figures."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any

from ravst_ray.annotate.settings import read_config
from ravst_ray.config.review import ReviewConfig
from ravst_ray.datasets.lock import read_holder
from ravst_ray.datasets.places import insist
from ravst_ray.datasets.store import DatasetStore
from ravst_ray.logs import get_logger
from ravst_ray.records import STATUSES, EventAnnotation
from ravst_ray.review import told
from ravst_ray.review.edits import BadEdit, edit_of
from ravst_ray.review.files import Pictures, VideoFile, Videos, found_file
from ravst_ray.review.log import Stale, VerdictLog
from ravst_ray.review.queue import Placed, Queue, Wanted
from ravst_ray.review.revise import BY_HAND, Evidence, Revised, difference, edited, revise
from ravst_ray.review.rows import Rows, VideoRows
from ravst_ray.review.totals import Totals
from ravst_ray.review.verdicts import EventHistory, Verdict
from ravst_ray.tasks import TASKS

log = get_logger(__name__)


class UnknownItem(LookupError):
    """No such video, event or question in the output."""


class Conflict(Exception):
    """Someone else was faster; ``item`` is the event as it is now."""

    def __init__(self, item: dict[str, Any]):
        super().__init__("someone else has said something of this event meanwhile; look at it again")
        self.item = item


class Review:
    """An output under review. Safe to use from several threads.

    Args:
        output: of ``ravst annotate``, at any place.
        config: of the review.

    Raises:
        ConfigError: there is no such output.
        AbortError: it can't be read.
    """

    def __init__(self, output: str, config: ReviewConfig):
        self.config = config
        self._store = DatasetStore(output)
        self._run = read_config(output)
        self._rows = Rows(self._store, self._run.quality)
        self._log = insist(lambda: VerdictLog(self._store), output)
        insist(self._rows.refresh, output)
        self._queue = Queue(self._rows, self._log, config)
        self._videos = Videos(config.videos or self._run.input.videos)
        self.pictures = Pictures(config.fetched_bytes)
        self._lock = threading.Lock()
        self._totals = Totals(self._rows, config, lambda video_id: self._revised(video_id)[2].qa)

    @cached_property
    def why_not_writable(self) -> str | None:
        """Why no verdict can be saved, None where it can."""
        return self._log.why_not_writable()

    def close(self) -> None:
        """End what was started."""
        self.pictures.close()

    # --- looking -----------------------------------------------------------------------------------------------------

    def session(self) -> dict[str, Any]:
        """What the page needs to know once."""
        self._refresh()
        entries = list(self._rows.entries.values())
        reasons = Counter(reason for entry in entries for reason in entry.reasons)
        asked = {task for tasks in self._rows.tasks.values() for _, task, _ in tasks}
        holder = read_holder(self._store)
        return {
            "output": self._store.root.partition("?")[0],
            "reviewer": self.config.reviewer,
            "writable": self.why_not_writable is None,
            "why_not": self.why_not_writable,
            "rows": len(entries),
            "videos": len({entry.video_id for entry in entries}),
            "running": holder is not None and holder.why_dead() is None,
            "labels": [
                {"name": name, "rows": count}
                for name, count in sorted(Counter(entry.label for entry in entries).items())
            ],
            "reasons": [
                {"name": name, "rows": count, "says": told.says(name)} for name, count in reasons.most_common()
            ],
            "tasks": [name for name in TASKS if name in asked],
            "statuses": list(STATUSES),
            "ranges": {
                name: told.span(getattr(entry, name) for entry in entries)
                for name in ("objects", "duration_s", "score")
            },
            "sample_rows": self.config.sample_rows,
            "problems": list(self._log.problems),
        }

    def queue(self, wanted: Wanted, offset: int, limit: int, after: str | None) -> dict[str, Any]:
        """A page of the queue."""
        self._refresh()
        page = self._queue.page(wanted, offset, limit, after)
        return {
            "total": page.total,
            "offset": page.offset,
            "rows": len(self._rows.entries),
            "sections": self._queue.left(),
            "items": [self._queued(placed) for placed in page.rows],
        }

    def _queued(self, placed: Placed) -> dict[str, Any]:
        entry = placed.entry
        history = self._log.history((entry.video_id, entry.event_num))
        return {
            **asdict(entry),
            "tasks": self._queue.tasks(entry),
            "section": placed.section,
            **told.said(history),
            "reviewers": list(history.reviewers),
        }

    def item(self, video_id: str, event_num: int) -> dict[str, Any]:
        """An event with all of its video.

        Raises:
            UnknownItem: there is none.
        """
        self._log.refresh()
        rows, histories, revised = self._revised(video_id)
        return self._item(video_id, event_num, rows, histories, revised)

    def video(self, video_id: str) -> VideoFile:
        """The file of a video of this output.

        Raises:
            UnknownItem: the output has no such video.
            StepError: its file isn't there.
        """
        self.duration_s(video_id)
        return self._videos.find(video_id)

    def duration_s(self, video_id: str) -> float:
        """How long a video is; errors as of :meth:`video`."""
        rows = self._rows.of_video(video_id)
        if not rows.annotations:
            raise UnknownItem(f"there is no video {video_id!r} in this output")
        return float(rows.annotations[0]["duration_s"])

    def figures(self) -> dict[str, Any]:
        """Agreement, the estimate of errors, time and cost."""
        self._refresh()
        histories = self._log.all()
        return self._totals.figures(histories, self._queue.order, self._usd())

    def _usd(self) -> float:
        """What the run has cost, as far as its summary says."""
        try:
            return float(json.loads(self._store.read_bytes("summary.json") or b"{}").get("usd") or 0.0)
        except (AttributeError, TypeError, ValueError) as error:
            log.warning("%s/summary.json can't be read: %s", self._store.root, error)
            return 0.0

    # --- saying ------------------------------------------------------------------------------------------------------

    def verdict(self, draft: Verdict) -> tuple[str, dict[str, Any]]:
        """Save a verdict; its id, and the event as it is then. Of a draft, ``before`` and ``after`` are filled in.

        Raises:
            UnknownItem: it is about nothing that there is.
            BadEdit: its edit doesn't fit.
            Conflict: it was made on a state that isn't the last.
            AbortError: it can't be saved.
        """
        with self._lock:
            self._log.refresh()
            rows, histories, revised = self._revised(draft.video_id)
            self._event(revised, draft.video_id, draft.event_num)
            self._check_version(draft, rows, histories, revised)
            before, after = self._changes(draft, rows, revised)
            return self._save(replace(draft, before=before, after=after))

    def undo(self, draft: Verdict) -> tuple[str, dict[str, Any]]:
        """Take back what was said last of an event and is in force; errors as of :meth:`verdict`."""
        with self._lock:
            self._log.refresh()
            rows, histories, revised = self._revised(draft.video_id)
            self._event(revised, draft.video_id, draft.event_num)
            self._check_version(draft, rows, histories, revised)
            last = histories.get(draft.event_num, EventHistory()).last_in_force
            if last is None:
                raise BadEdit("there is nothing to undo on this event")
            return self._save(replace(draft, before=last.after, after=last.before, undoes=last.id, qa_id=last.qa_id))

    def _save(self, draft: Verdict) -> tuple[str, dict[str, Any]]:
        try:
            saved = self._log.append(draft)
        except Stale:
            raise Conflict(self.item(draft.video_id, draft.event_num)) from None
        return saved.id, self.item(draft.video_id, draft.event_num)

    def _check_version(
        self, draft: Verdict, rows: VideoRows, histories: Mapping[int, EventHistory], revised: Revised
    ) -> None:
        if draft.on != histories.get(draft.event_num, EventHistory()).version:
            raise Conflict(self._item(draft.video_id, draft.event_num, rows, histories, revised))

    def _changes(self, draft: Verdict, rows: VideoRows, revised: Revised) -> tuple[dict[str, Any], dict[str, Any]]:
        """What a verdict changes of its target, before and after."""
        if draft.qa_id is not None:
            pair = next((one for one in revised.qa if one.qa_id == draft.qa_id), None)
            if pair is None or pair.event_num != draft.event_num or draft.what == "edit":
                raise UnknownItem(f"event {draft.event_num} has no question {draft.qa_id!r}")
            asked = {"question": pair.question, "answer": pair.answer}
            return {"status": pair.status, **asked}, {"status": _status(draft), **asked}
        one = revised.event(draft.event_num)
        if draft.what != "edit":
            after = () if draft.what == "accept" else tuple(dict.fromkeys((*one.reasons, BY_HAND)))
            return {"status": one.status, "reasons": one.reasons}, {"status": _status(draft), "reasons": after}
        evidence = Evidence.of(rows.annotations[0], rows.video)
        events = (*revised.annotations, *evidence.context)
        changed = edited(edit_of(draft.edit or {}), events, draft.event_num, evidence, self._run)
        if changed == events:
            raise BadEdit("nothing would change")
        return difference(one, next(new for new in changed if new.event.event_num == draft.event_num))

    # --- the parts of an answer --------------------------------------------------------------------------------------

    def _refresh(self) -> None:
        self._log.refresh()
        self._rows.refresh()

    def _revised(self, video_id: str) -> tuple[VideoRows, dict[int, EventHistory], Revised]:
        rows = self._rows.of_video(video_id)
        if not rows.annotations:
            raise UnknownItem(f"there is no video {video_id!r} in this output")
        histories = self._log.histories(video_id)
        return rows, histories, revise(rows.annotations, rows.qa, rows.video, histories, self._run)

    def _event(self, revised: Revised, video_id: str, event_num: int) -> EventAnnotation:
        try:
            return revised.event(event_num)
        except KeyError:
            raise UnknownItem(f"video {video_id!r} has no event {event_num}") from None

    def _item(
        self,
        video_id: str,
        event_num: int,
        rows: VideoRows,
        histories: Mapping[int, EventHistory],
        revised: Revised,
    ) -> dict[str, Any]:
        self._event(revised, video_id, event_num)
        own, first = histories.get(event_num, EventHistory()), rows.annotations[0]
        lines = sorted((one for h in histories.values() for one in (*h.chain, *h.conflicts)), key=lambda one: one.when)
        said = {
            (one.before.get("question"), one.before.get("answer")): one.what
            for history in histories.values()
            for one in history.in_force
            if one.qa_id is not None
        }
        return {
            "annotation_id": f"{video_id}/{event_num}",
            "video_id": video_id,
            "event_num": event_num,
            "version": own.version,
            "video": {
                **{name: first[name] for name in ("duration_s", "fps", "width", "height")},
                **found_file(self._videos.find, video_id),
            },
            "events": [
                told.event(one, row, histories.get(one.event.event_num, EventHistory()))
                for one, row in zip(revised.annotations, rows.annotations, strict=True)
            ],
            "questions": [told.question(pair, said.get((pair.question, pair.answer))) for pair in revised.qa],
            "left_out": dict(revised.left_out),
            "history": [told.line(one, revised.states[one.id]) for one in lines],
            "can_undo": own.last_in_force is not None,
        }


def _status(draft: Verdict) -> str:
    return "accepted" if draft.what == "accept" else "rejected"
