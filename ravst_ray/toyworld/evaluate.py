"""How well annotations of toy videos agree with the exact truth.

Two questions are kept apart, so that a failure can be placed: are the boxes right (:func:`score_tracks`), and did the
language model read the captions right (:func:`score_names`)? :func:`true_objects` gives the names that a perfect
reader would have found, to run the grounding with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ravst_ray.core.geometry import box_iou
from ravst_ray.core.matching import best_assignment
from ravst_ray.core.names import normal_words
from ravst_ray.records import Box, Event, EventAnnotation, SceneObject, Track

Truth = Mapping[str, Any]
Annotations = Mapping[str, Sequence[EventAnnotation]]

_MATCH_IOU = 0.5


@dataclass(frozen=True)
class BoxScore:
    """Boxes of one kind: ``recall`` = matched / true, ``precision`` = right / predicted, both at IoU 0.5.

    ``mean_iou`` is over the matched boxes. A share of nothing is 0.
    """

    recall: float
    precision: float
    mean_iou: float
    true_boxes: int
    predicted_boxes: int


@dataclass(frozen=True)
class GroundingScore:
    """``isolated``: true boxes that intersect no other true box of their frame; ``overall``: all of them."""

    isolated: BoxScore
    overall: BoxScore


@dataclass(frozen=True)
class NameScore:
    """Names of objects, each from 0 to 1, and how many a perfect reader would have found.

    ``audibility`` is the share of rightly named objects whose audibility is right, too.
    """

    recall: float
    precision: float
    audibility: float
    true_names: int


def plain_name(name: str) -> str:
    """Normal form without articles and plurals: ``"A  red Drum"`` gives ``"red drum"``."""
    return " ".join(normal_words(name))


def true_objects(video: Mapping[str, Any], event: Event) -> tuple[SceneObject, ...]:
    """The objects that the event's caption (where it has none: its label) names, as truth knows them; each name once.

    Args:
        video: the video's entry in ``truth.json``.
        event: an event of this video. A name is audible here if an event of any of its instances overlaps this one.
    """
    text = (event.caption or event.label).lower()
    heard: dict[str, bool] = {}
    for thing in video["objects"]:
        if thing["name"] in text:
            sounds = any(start < event.end_s and end > event.start_s for start, end in thing["events"])
            heard[thing["name"]] = heard.get(thing["name"], False) or sounds
    return tuple(SceneObject(name, audible) for name, audible in heard.items())


def score_tracks(truth: Truth, annotations: Annotations) -> GroundingScore:
    """Compare tracks with true boxes, at every sampled frame of every annotated event.

    A true box counts if its object is named by the event's caption (see :func:`true_objects`). The true boxes of a name
    (one an instance) are matched one-to-one with the predicted ones, at IoU >= 0.5; a further box of that name is
    wrong. A predicted box may also match a visible object that the caption leaves out: it is right then, and nothing
    is asked of recall.

    A predicted box belongs to the isolated ones if the true box that it overlaps most (of any name) is isolated;
    boxes that overlap no true box at all count overall only.

    Args:
        truth: ``truth.json``.
        annotations: by video id; frames are taken at each annotation's ``frame_times_s``.
    """
    tallies = {"isolated": _Tally(), "overall": _Tally()}
    for video_id, annotation in _events(truth, annotations):
        video = truth[video_id]
        wanted = {thing.name for thing in true_objects(video, annotation.event)}
        for time_s in annotation.frame_times_s:
            _score_frame(true_boxes(video, time_s), _claims(annotation.tracks, time_s), wanted, tallies)
    return GroundingScore(isolated=tallies["isolated"].score(), overall=tallies["overall"].score())


def score_names(truth: Truth, annotations: Annotations) -> NameScore:
    """Compare each event's objects with those that its caption names; names are compared by :func:`plain_name`."""
    true = found = claimed = heard = 0
    for video_id, annotation in _events(truth, annotations):
        expected = {thing.name: thing.audible for thing in true_objects(truth[video_id], annotation.event)}
        given = {plain_name(thing.name): thing.audible for thing in annotation.objects}
        common = expected.keys() & given.keys()
        true, found = true + len(expected), found + len(common)
        claimed += len(annotation.objects)
        heard += sum(expected[name] == given[name] for name in common)
    return NameScore(_share(found, true), _share(found, claimed), _share(heard, found), true)


def true_boxes(video: Mapping[str, Any], time_s: float) -> list[tuple[str, Box]]:
    """Name and box of every object that can be seen at this time, rounded to truth's grid of 0.1 s."""
    key = f"{round(time_s * 10) / 10:.1f}"
    return [(thing["name"], tuple(thing["boxes"][key])) for thing in video["objects"] if key in thing["boxes"]]


class _Tally:
    """Counts behind a :class:`BoxScore`."""

    def __init__(self) -> None:
        self.true = self.found = self.claimed = self.right = 0
        self.overlaps: list[float] = []

    def score(self) -> BoxScore:
        mean = sum(self.overlaps) / len(self.overlaps) if self.overlaps else 0.0
        return BoxScore(_share(self.found, self.true), _share(self.right, self.claimed), mean, self.true, self.claimed)


def _events(truth: Truth, annotations: Annotations) -> Iterator[tuple[str, EventAnnotation]]:
    """All annotated events of videos that truth knows."""
    for video_id, events in annotations.items():
        if video_id in truth:
            yield from ((video_id, event) for event in events)


def _claims(tracks: Sequence[Track], time_s: float) -> list[tuple[str, Box]]:
    """Names and boxes that the tracks hold at this time."""
    return [
        (plain_name(track.name), box)
        for track in tracks
        for at_s, box in zip(track.times_s, track.boxes_xyxy_px, strict=True)
        if abs(at_s - time_s) < 0.05
    ]


def _score_frame(
    boxes: list[tuple[str, Box]], claims: list[tuple[str, Box]], wanted: set[str], tallies: dict[str, _Tally]
) -> None:
    """Add one frame to the tallies."""
    alone = [
        not any(box_iou(box, b) > 0 for j, (_, b) in enumerate(boxes) if j != i) for i, (_, box) in enumerate(boxes)
    ]
    kinds = [("overall", "isolated") if isolated else ("overall",) for isolated in alone]
    fits = [[box_iou(box, b) if name == n else 0.0 for n, b in claims] for name, box in boxes]
    matched = best_assignment([[iou if iou >= _MATCH_IOU else 0.0 for iou in row] for row in fits])
    found = {i: fits[i][j] for i, j in matched}
    for i, (name, _) in enumerate(boxes):
        for kind in kinds[i] if name in wanted else ():
            tallies[kind].true += 1
            if i in found:
                tallies[kind].found += 1
                tallies[kind].overlaps.append(found[i])
    right = {j for _, j in matched}
    for j, (_, box) in enumerate(claims):
        overlap, owner = max(((box_iou(box, b), i) for i, (_, b) in enumerate(boxes)), default=(0.0, 0))
        for kind in kinds[owner] if overlap > 0 else ("overall",):
            tallies[kind].claimed += 1
            tallies[kind].right += j in right


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
