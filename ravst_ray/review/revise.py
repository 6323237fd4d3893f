"""A video's rows with its verdicts applied: events, their status, and the questions, by the code that made them.

Pure, and the stored rows stay as they are. What no verdict is about comes back as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from ravst_ray.annotate.quality import Case, judge
from ravst_ray.annotate.questions import questions_of
from ravst_ray.annotate.seen import NameKey, several_at_once
from ravst_ray.annotate.unite import unite
from ravst_ray.config.annotate import AnnotateConfig
from ravst_ray.core.names import normal_words
from ravst_ray.datasets.schemas import (
    QA,
    annotation_from_row,
    context_from_row,
    loudness_from_row,
    qa_from_row,
)
from ravst_ray.records import EventAnnotation, Loudness, QAPair, SceneObject, Status, VideoMeta
from ravst_ray.review.editing import Scope, apply_edit
from ravst_ray.review.edits import BadEdit, Edit, edit_of
from ravst_ray.review.verdicts import EventHistory, Verdict

BY_HAND = "reviewer"
"""The reason of what a person has rejected."""
_SOUND_CHECKS = frozenset(("no_audio", "unread_audio", "silence", "faint"))

Row = Mapping[str, Any]
State = Literal["applied", "undone", "conflict", "lapsed"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of a video beside its events; ``loudness`` and ``has_audio`` only where ``heard``."""

    meta: VideoMeta
    loudness: Loudness | None
    context: tuple[EventAnnotation, ...]
    heard: bool

    @staticmethod
    def of(row: Row, video_row: Row | None) -> Evidence:
        """From one of the video's rows of ``annotations/``, and its row of ``videos/``, which older outputs lack."""
        has_audio = True if video_row is None or video_row["has_audio"] is None else bool(video_row["has_audio"])
        meta = VideoMeta(
            row["duration_s"], row["fps"] or 0.0, row["width"] or 0, row["height"] or 0, has_audio, decoder=""
        )
        if video_row is None:
            return Evidence(meta, None, (), heard=False)
        return Evidence(meta, loudness_from_row(video_row), context_from_row(video_row), heard=True)


@dataclass(frozen=True, slots=True)
class Revised:
    """A video after review.

    Attributes:
        annotations: its events, in the order of the rows.
        qa: its questions.
        left_out: how many questions weren't asked, by reason; empty where no verdict is in force.
        states: what became of each verdict, by its id.
    """

    annotations: tuple[EventAnnotation, ...]
    qa: tuple[QAPair, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)
    states: Mapping[str, State] = field(default_factory=dict)

    def event(self, event_num: int) -> EventAnnotation:
        """One of its events; ``KeyError`` where there is none of that number."""
        for one in self.annotations:
            if one.event.event_num == event_num:
                return one
        raise KeyError(event_num)


def revise(
    annotation_rows: Sequence[Row],
    qa_rows: Sequence[Row],
    video_row: Row | None,
    histories: Mapping[int, EventHistory],
    config: AnnotateConfig,
) -> Revised:
    """The events and questions of one video as they are with its verdicts.

    Edits come in the order in which they were made; an event that they change is judged anew. What a person says of
    the event goes before that, and what is said of a question before what follows from its events, unless one of
    those is rejected. A verdict that no longer fits (its question isn't asked any more) is ``lapsed``.

    Args:
        annotation_rows: all of the video.
        qa_rows: all of the video.
        video_row: of ``videos/``, None where there is none.
        histories: by ``event_num``.
        config: of the run that made the rows.
    """
    before = tuple(annotation_from_row(row) for row in annotation_rows)
    qa = tuple(qa_from_row(row) for row in qa_rows)
    in_force = _in_order(histories.values())
    states = _states(histories)
    if not in_force or not before:
        return Revised(before, qa, {}, states)
    evidence = Evidence.of(annotation_rows[0], video_row)
    annotations = (*before, *evidence.context)
    for one in in_force:
        if one.what == "edit":
            try:
                annotations = edited(edit_of(one.edit or {}), annotations, one.event_num, evidence, config)
            except BadEdit:
                states[one.id] = "lapsed"
    annotations = _judged(annotations, before, evidence, config)
    said = {one.event_num: one for one in in_force if one.what != "edit" and one.qa_id is None}
    annotations = tuple(_said(one, said.get(one.event.event_num)) for one in annotations)
    pairs, left_out = questions_of(
        annotation_rows[0]["video_id"],
        annotations,
        evidence.meta.duration_s,
        config.questions,
        config.grounding.max_instances,
        config.seed,
    )
    pairs = _answered(pairs, [one for one in in_force if one.qa_id is not None], states)
    return Revised(annotations[: len(before)], pairs, dict(left_out), states)


def revised_rows(
    annotation_rows: Sequence[Row], qa_rows: Sequence[Row], revised: Revised, histories: Mapping[int, EventHistory]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The same as rows of ``annotations/`` and ``qa/``; provenance tells who has looked at an event."""
    rows = []
    for row, one in zip(annotation_rows, revised.annotations, strict=True):
        own = asdict(one)
        event = {key: value for key, value in own.pop("event").items() if key in row}
        who = histories[one.event.event_num].reviewers if one.event.event_num in histories else ()
        provenance = dict(row["provenance"] or ()) | ({"reviewed_by": ", ".join(who)} if who else {})
        rows.append({**row, **own, **event, "provenance": sorted(provenance.items())})
    if not annotation_rows:
        return rows, [dict(row) for row in qa_rows]
    split = annotation_rows[0]["split"]
    pairs = ({**asdict(pair), "split": split} for pair in revised.qa)
    return rows, [{name: pair[name] for name in QA.names} for pair in pairs]


def edited(
    edit: Edit, annotations: Sequence[EventAnnotation], event_num: int, evidence: Evidence, config: AnnotateConfig
) -> tuple[EventAnnotation, ...]:
    """All events of a video (those that are only context, too) after one edit: what sounds in several is united anew.

    Raises:
        BadEdit: it doesn't fit.
    """
    meta = evidence.meta
    scope = Scope(meta.width, meta.height, meta.duration_s, config.decode.step_s)
    changed = apply_edit(edit, annotations, event_num, scope)
    united = unite([_own(one) for one in changed])
    return tuple(_in_step(one) for one in united)


def difference(before: EventAnnotation, after: EventAnnotation) -> tuple[dict[str, Any], dict[str, Any]]:
    """What differs between two states of an event, as it was and as it is; of tracks those that differ."""
    old, new = _told(before), _told(after)
    keys = [key for key in old if old[key] != new[key]]
    was, now = {key: old[key] for key in keys}, {key: new[key] for key in keys}
    if "tracks" in keys:
        was["tracks"] = [track for track in old["tracks"] if track not in new["tracks"]]
        now["tracks"] = [track for track in new["tracks"] if track not in old["tracks"]]
    return was, now


def _told(one: EventAnnotation) -> dict[str, Any]:
    told = asdict(one)
    event = told.pop("event")
    for track in told["tracks"]:
        del track["masks_rle"]
    return {**told, "start_s": event["start_s"], "end_s": event["end_s"]}


def _in_order(histories: Iterable[EventHistory]) -> list[Verdict]:
    """The verdicts in force by time; those of one event in the order of its chain, whatever clocks said."""
    placed = []
    for history in histories:
        latest = ""
        for place, one in enumerate(history.in_force):
            latest = max(latest, one.when)
            placed.append((latest, one.event_num, place, one))
    return [one for *_, one in sorted(placed, key=lambda found: found[:3])]


def _states(histories: Mapping[int, EventHistory]) -> dict[str, State]:
    states: dict[str, State] = {}
    for history in histories.values():
        effective = {one.id for one in history.in_force}
        for one in history.chain:
            states[one.id] = "applied" if one.id in effective or one.what == "undo" else "undone"
        states |= {one.id: "conflict" for one in history.conflicts}
    return states


def _own(one: EventAnnotation) -> EventAnnotation:
    """An event with the objects of its own, as they were before those of others were added to it.

    What is heard only in another event, but seen in this one, is a silent object of this one.
    """
    number = one.event.event_num
    seen = {normal_words(track.name) for track in one.tracks}
    objects = []
    for thing in one.objects:
        own = thing.audible and number in (thing.heard_in or (number,))
        if own or not thing.audible or normal_words(thing.name) in seen:
            objects.append(SceneObject(thing.name, own))
    return replace(one, objects=tuple(objects))


def _in_step(one: EventAnnotation) -> EventAnnotation:
    """Tracks sound as their objects do; what is seen and was left out, because it may be what sounds, stays silent."""
    audible = {normal_words(thing.name): thing.audible for thing in one.objects}
    missing = {
        key: SceneObject(track.name, False)
        for track in reversed(one.tracks)
        if (key := normal_words(track.name)) not in audible
    }
    tracks = tuple(replace(track, audible=audible.get(normal_words(track.name), False)) for track in one.tracks)
    return replace(one, objects=(*one.objects, *missing.values()), tracks=tracks)


def _judged(
    annotations: Sequence[EventAnnotation],
    before: Sequence[EventAnnotation],
    evidence: Evidence,
    config: AnnotateConfig,
) -> tuple[EventAnnotation, ...]:
    """Events that have changed, judged anew; those set aside before their frames were looked at stay so.

    All are, where it has changed of which names several are seen anywhere in the video.
    """
    judged = []
    known = {one.event.event_num: one for one in before}
    several = several_at_once(annotations)
    moved = several != several_at_once(before)
    for one in annotations:
        if one.event.asked and one.frame_times_s and (moved or one != known[one.event.event_num]):
            one = _judged_one(one, evidence, config, several)
        judged.append(one)
    return tuple(judged)


def _judged_one(
    one: EventAnnotation, evidence: Evidence, config: AnnotateConfig, several: frozenset[NameKey]
) -> EventAnnotation:
    case = Case(one, evidence.meta, evidence.loudness, config.quality, config.grounding.max_instances, several)
    if evidence.heard:
        return judge(case)
    kept = tuple(reason for reason in one.reasons if reason in _SOUND_CHECKS)  # what it sounded like isn't known
    skip = sorted({*config.quality.skip, *_SOUND_CHECKS})
    quality = config.quality.model_copy(update={"skip": skip})
    found = judge(replace(case, loudness=None, config=quality))
    if not kept:
        return found
    status: Status = "rejected" if {"no_audio", "silence"} & set(kept) or found.status == "rejected" else "suspect"
    return replace(found, status=status, reasons=(*found.reasons, *kept))


def _said(one: EventAnnotation, verdict: Verdict | None) -> EventAnnotation:
    if verdict is None:
        return one
    if verdict.what == "accept":
        return replace(one, status="accepted", reasons=())
    return replace(one, status="rejected", reasons=(*one.reasons, BY_HAND))


def _answered(pairs: Sequence[QAPair], verdicts: Sequence[Verdict], states: dict[str, State]) -> tuple[QAPair, ...]:
    """The questions with what was said of them; which is meant tell its text and its answer."""
    found = list(pairs)
    for one in verdicts:
        meant = one.before.get("question"), one.before.get("answer")
        places = [
            place
            for place, pair in enumerate(found)
            if (pair.question, pair.answer) == meant and pair.event_num == one.event_num
        ]
        if not places:
            states[one.id] = "lapsed"
        for place in places:
            pair = pairs[place]
            accepted = one.what == "accept" and pair.status != "rejected"
            found[place] = replace(pair, status="accepted" if accepted else "rejected")
    return tuple(found)
