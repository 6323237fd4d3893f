"""Records as the page is told them: plain data for JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from ravst_ray.annotate.quality import CHECKS
from ravst_ray.core.answers import parse
from ravst_ray.records import EventAnnotation, QAPair
from ravst_ray.review.revise import BY_HAND
from ravst_ray.review.verdicts import EventHistory, Verdict


def says(reason: str) -> str:
    """What a reason means: the first sentence of its check."""
    if reason == BY_HAND:
        return "A person has rejected it."
    check = CHECKS.get(reason)
    return (check.__doc__ or "").strip() if check else ""


def span(values: Iterable[float | None]) -> list[float] | None:
    """The lowest and the highest of what is known; None where nothing is."""
    known = [value for value in values if value is not None]
    return [min(known), max(known)] if known else None


def said(history: EventHistory) -> dict[str, Any]:
    """What people have said of an event."""
    return {"verdict": history.verdict, "edited": history.edited, "version": history.version}


def event(one: EventAnnotation, row: Mapping[str, Any], history: EventHistory) -> dict[str, Any]:
    """An event as it is with its verdicts, and what the machine had found (``row``)."""
    event = one.event
    return {
        **{name: getattr(event, name) for name in ("event_num", "label", "caption", "start_s", "end_s")},
        "status": one.status,
        "reasons": list(one.reasons),
        "machine_status": row["status"],
        "machine_reasons": list(row["reasons"]),
        **said(history),
        "frame_times_s": list(one.frame_times_s),
        "objects": [asdict(thing) for thing in one.objects],
        "tracks": [{key: value for key, value in asdict(t).items() if key != "masks_rle"} for t in one.tracks],
    }


def question(pair: QAPair, what: str | None) -> dict[str, Any]:
    """A question, its answer in parts, and what was said of it (``accept`` or ``reject``)."""
    objects = [{"name": one.name, "when": one.when, "where": one.where} for one in parse(pair.answer).objects]
    verdict = None if what is None else "accepted" if what == "accept" else "rejected"
    return {**asdict(pair), "verdict": verdict, "objects": objects}


def line(one: Verdict, state: str) -> dict[str, Any]:
    """A line of the log, and what became of it."""
    names = ("id", "who", "when", "what", "event_num", "qa_id", "edit", "before", "after", "undoes")
    return {**{name: getattr(one, name) for name in names}, "state": state}
