"""Who is who from frame to frame: detections and propagated masks become tracks with ids that hold.

Pure logic on numpy arrays, one frame at a time; the models sit behind :mod:`ravst_ray.annotate.grounding`.

What it goes by, in this order:

1. A detection belongs to the track of its name whose propagated mask it covers: the best assignment over all pairs
   (Hungarian), not the first one that fits.
2. What is left is matched by name. Frames are a second or so apart, and an object may have left its old place
   altogether. Where only one of a name is known, and the detector never saw two at once, it may be anywhere;
   where it did, the nearest within reach is taken. A track whose mask is sure to be elsewhere is left alone in both
   cases: on the background, it may be right, and the detector blind. A mask that slid onto an object which was
   detected isn't sure to be anywhere; nor is that of an only object elsewhere while it touches the detection: it
   shows too much or too little of the object.
3. An object that was given up and is seen again gets its old id back, if only one of that name is missing.
4. Any other detection is a new object, unless it lies on one that was known by another name a moment ago, or as many
   of its name are in view as the rules allow to follow.
5. A track without a detection is seen where its mask is surer than it needs to be to hold its track, until it has
   missed too many detections in a row. A mask that slid onto an object which was detected, or onto one whose own mask
   is surer, or that covers much more than a frame before, doesn't count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment

from ravst_ray.core.geometry import box_area, box_iou, centre_distance, diagonal
from ravst_ray.core.masks import mask_box, mask_iou, without_specks
from ravst_ray.grounding.protocols import Detection, ObjectMask
from ravst_ray.records import Box

_AGREE_IOU = 0.75  # from here on mask and detection show the same extent; measured on overlapping objects
_RIM = 0.1  # share of a mask that another one covers by accident
_HOLDS = 0.5  # a mask this sure keeps a detection elsewhere from taking its track over
_LEAK = 1.75  # how many times its last area a mask alone may cover: on toy scenes two of three larger ones were wrong
_REACH = 2.0  # how far an object of several of its name may move between two frames, in diagonals of its box


@dataclass(frozen=True)
class TrackingRules:
    """Thresholds; see ``GroundingConfig``, which has the same names."""

    match_iou: float = 0.5
    keep_score: float = 0.8
    max_missed: int = 4
    max_instances: int = 13

    @property
    def most_followed(self) -> int:
        """Objects of one name that are followed at a time: one more than are wanted, which shows that it is a crowd."""
        return self.max_instances + 1


@dataclass(frozen=True)
class DetectedMask:
    """A detection with the mask that its box gave. ``name`` is an index into the names that were asked for."""

    name: int
    box: Box
    score: float
    seen: ObjectMask


@dataclass(frozen=True)
class Sighting:
    """An object in one frame, in pixels of the frame. ``detected`` is False where only its mask was followed."""

    box: Box
    score: float
    mask: np.ndarray
    detected: bool


@dataclass(frozen=True)
class Update:
    """What a frame brought: who was seen, which detection (index) continues or starts which track, who is given up."""

    sightings: dict[int, Sighting]
    adopted: dict[int, int] = field(default_factory=dict)
    forgotten: tuple[int, ...] = ()


@dataclass
class _Track:
    name: int
    box: Box
    last_frame: int
    hits: int = 1
    missed: int = 0


class Tracker:
    """The tracks of one shot of an event. Ids count from ``first_id`` in the order in which objects appear."""

    def __init__(self, rules: TrackingRules, first_id: int = 0):
        self._rules = rules
        self._next_id = first_id
        self._live: dict[int, _Track] = {}
        self._lost: dict[int, _Track] = {}
        self._several: set[int] = set()

    @property
    def next_id(self) -> int:
        """The id that the next new object gets."""
        return self._next_id

    def name_of(self, track_id: int) -> int:
        """The name of a live or lost track, as an index into the names that were asked for."""
        return (self._live.get(track_id) or self._lost[track_id]).name

    def follow(self, frame: int, masks: Mapping[int, ObjectMask]) -> Update:
        """A frame on which the detector was not run: tracks are seen where their masks are sure."""
        return Update(self._followed_on(frame, self._by_mask_alone(masks, set(self._live), [])))

    def update(self, frame: int, masks: Mapping[int, ObjectMask], found: Sequence[DetectedMask]) -> Update:
        """A frame with detections; ``masks`` are the live tracks' propagated masks, from before they are refreshed."""
        names = [one.name for one in found]
        self._several |= {name for name in names if names.count(name) > 1}
        pairs = self._by_mask(masks, found)
        disputed = self._disputed(masks, found, pairs)
        objects = [one.seen.mask for index, one in enumerate(found) if index not in disputed]
        elsewhere = set(self._elsewhere(masks, set(self._live) - set(pairs), objects))
        pairs |= self._by_name(frame, masks, found, pairs, disputed, elsewhere)
        for track_id in set(self._live) - set(pairs):
            self._live[track_id].missed += 1
        over = [i for i, track in self._live.items() if i not in pairs and self._is_over(track)]
        given_up = {track_id: self._live.pop(track_id) for track_id in over}
        out_of_sight = set(self._live) - set(pairs) - elsewhere
        pairs |= self._returned_or_new(found, set(pairs.values()) | disputed, out_of_sight, given_up)
        self._lost |= given_up
        sightings = {track_id: _detected(found[index]) for track_id, index in pairs.items()}
        for track_id, index in pairs.items():
            self._refresh(track_id, frame, found[index])
        taken = [found[index].seen.mask for index in pairs.values()]
        sightings |= self._followed_on(frame, self._by_mask_alone(masks, set(self._live) - set(pairs), taken))
        return Update(sightings, pairs, tuple(sorted(given_up)))

    def choose(self, masks: Mapping[int, ObjectMask], found: Sequence[Detection]) -> list[Detection]:
        """Of each name no more detections than objects are followed: those on followed ones, then the best scores."""
        kept: set[int] = set()
        for name in {one.phrase for one in found}:
            named = [index for index, one in enumerate(found) if one.phrase == name]
            if len(named) > self._rules.most_followed:
                places = [
                    mask_box(masks[i].mask) for i, track in self._live.items() if track.name == name and i in masks
                ]
                held = [box for box in places if box is not None]
                cover = {i: max((box_iou(found[i].box_xyxy_px, box) for box in held), default=0.0) for i in named}
                named.sort(key=lambda i: (cover[i], found[i].score), reverse=True)
            kept.update(named[: self._rules.most_followed])
        return [one for index, one in enumerate(found) if index in kept]

    def _followed(self, name: int) -> int:
        return sum(track.name == name for track in self._live.values())

    def _is_over(self, track: _Track) -> bool:
        """A track that was detected only once has yet to prove itself: it may miss one detection."""
        return track.missed > (self._rules.max_missed if track.hits > 1 else min(1, self._rules.max_missed))

    def _holds(self, seen: ObjectMask | None) -> bool:
        least = min(_HOLDS, self._rules.keep_score)
        return seen is not None and seen.score >= least and bool(seen.mask.any())

    def _by_mask(self, masks: Mapping[int, ObjectMask], found: Sequence[DetectedMask]) -> dict[int, int]:
        """Track id -> detection index: same name, masks that cover each other."""
        ids = [track_id for track_id in self._live if track_id in masks]
        iou = mask_iou([masks[track_id].mask for track_id in ids], [one.seen.mask for one in found])
        same = np.array([[self._live[track_id].name == one.name for one in found] for track_id in ids], dtype=bool)
        allowed = same.reshape(iou.shape) & (iou >= self._rules.match_iou) & (iou > 0)
        return {ids[row]: column for row, column in _assign(iou, allowed)}

    def _disputed(
        self, masks: Mapping[int, ObjectMask], found: Sequence[DetectedMask], pairs: Mapping[int, int]
    ) -> set[int]:
        """Detections on an object that was detected by another name last time and isn't now: a slip of the name."""
        held = {
            track_id: masks[track_id].mask
            for track_id, track in self._live.items()
            if track_id not in pairs and track.missed == 0 and self._holds(masks.get(track_id))
        }
        free = [index for index in range(len(found)) if index not in set(pairs.values())]
        iou = mask_iou([found[index].seen.mask for index in free], list(held.values()))
        return {
            index
            for row, index in enumerate(free)
            for column, track_id in enumerate(held)
            if iou[row, column] >= self._rules.match_iou and self._live[track_id].name != found[index].name
        }

    def _by_name(
        self,
        frame: int,
        masks: Mapping[int, ObjectMask],
        found: Sequence[DetectedMask],
        pairs: Mapping[int, int],
        disputed: set[int],
        elsewhere: set[int],
    ) -> dict[int, int]:
        """Track id -> detection index among what is left: the only one of its name, or the nearest within reach."""
        ids = [track_id for track_id in self._live if track_id not in pairs]
        free = [index for index in range(len(found)) if index not in disputed | set(pairs.values())]
        nearness = np.zeros((len(ids), len(free)))
        allowed = np.zeros(nearness.shape, dtype=bool)
        for row, track_id in enumerate(ids):
            track = self._live[track_id]
            reach = _REACH * diagonal(track.box) * (frame - track.last_frame)
            only = track.name not in self._several and self._followed(track.name) == 1
            for column, index in enumerate(free):
                away = centre_distance(track.box, found[index].box)
                nearness[row, column] = 1.0 / (1.0 + away)
                free_to_go = track_id not in elsewhere or (only and _touch(masks[track_id], found[index].seen))
                near = only or away <= reach
                allowed[row, column] = track.name == found[index].name and free_to_go and near
        return {ids[row]: free[column] for row, column in _assign(nearness, allowed)}

    def _returned_or_new(
        self, found: Sequence[DetectedMask], settled: set[int], out_of_sight: set[int], given_up: dict[int, _Track]
    ) -> dict[int, int]:
        """Track id -> detection index of objects that nobody follows: a lost one's old id, or the next new one.

        Where as many of a name are followed as may be, one that is out of sight joins those ``given_up``. So a
        detection is left out only where so many of its name are in view that it is a crowd.
        """
        pairs: dict[int, int] = {}
        for index, one in enumerate(found):
            if index in settled:
                continue
            if self._followed(one.name) >= self._rules.most_followed:
                idle = [i for i in sorted(out_of_sight & set(self._live)) if self._live[i].name == one.name]
                if not idle:
                    continue
                longest = max(idle, key=lambda track_id: self._live[track_id].missed)
                given_up[longest] = self._live.pop(longest)
            missing = [track_id for track_id, track in self._lost.items() if track.name == one.name]
            if len(missing) == 1:
                track_id = missing[0]
                self._live[track_id] = self._lost.pop(track_id)
            else:
                track_id, self._next_id = self._next_id, self._next_id + 1
                self._live[track_id] = _Track(one.name, one.box, 0, hits=0)
            pairs[track_id] = index
        return pairs

    def _refresh(self, track_id: int, frame: int, one: DetectedMask) -> None:
        track = self._live[track_id]
        track.box, track.last_frame, track.missed = one.box, frame, 0
        track.hits += 1

    def _elsewhere(self, masks: Mapping[int, ObjectMask], ids: set[int], taken: Sequence[np.ndarray]) -> dict[int, Box]:
        """Where tracks without a detection are by masks that hold; ``taken`` are masks of objects that were detected.

        A place is one object's. Where several masks claim it, it is the surest one's: the others slid onto it.
        """
        claimed, places = list(taken), {}
        for track_id in sorted((i for i in ids if self._holds(masks.get(i))), key=lambda i: (-masks[i].score, i)):
            mask = masks[track_id].mask
            box = mask_box(without_specks(mask))
            if box is not None and mask_iou([mask], claimed).max(initial=0.0) < self._rules.match_iou:
                places[track_id] = box
                claimed.append(mask)
        return places

    def _by_mask_alone(
        self, masks: Mapping[int, ObjectMask], ids: set[int], taken: Sequence[np.ndarray]
    ) -> dict[int, Sighting]:
        """Of those the sure ones, that didn't run into something else: there the tracks are seen."""
        return {
            track_id: Sighting(box, masks[track_id].score, masks[track_id].mask, detected=False)
            for track_id, box in self._elsewhere(masks, ids, taken).items()
            if masks[track_id].score >= self._rules.keep_score
            and box_area(box) <= _LEAK * box_area(self._live[track_id].box)
        }

    def _followed_on(self, frame: int, sightings: dict[int, Sighting]) -> dict[int, Sighting]:
        """The same sightings, from which the tracks know where they are."""
        for track_id, sighting in sightings.items():
            self._live[track_id].box, self._live[track_id].last_frame = sighting.box, frame
        return sightings


def _detected(one: DetectedMask) -> Sighting:
    """A detected object: the mask's box where mask and detection agree, else the detection's, to which it is cut."""
    box = mask_box(without_specks(one.seen.mask))
    if box is not None and box_iou(box, one.box) >= _AGREE_IOU:
        return Sighting(box, one.score, one.seen.mask, detected=True)
    x1, y1, x2, y2 = (round(value) for value in one.box)
    mask = np.zeros_like(one.seen.mask)
    mask[y1:y2, x1:x2] = one.seen.mask[y1:y2, x1:x2]
    return Sighting(one.box, one.score, mask, detected=True)


def _touch(one: ObjectMask, other: ObjectMask) -> bool:
    """Whether two masks share more than a rim of the smaller one."""
    shared = np.count_nonzero(one.mask & other.mask)
    return bool(shared > _RIM * min(np.count_nonzero(one.mask), np.count_nonzero(other.mask)))


def _assign(gain: np.ndarray, allowed: np.ndarray) -> list[tuple[int, int]]:
    """The assignment of rows to columns with as many allowed pairs as possible, and among those the highest gain."""
    if not allowed.any():
        return []
    rows, columns = linear_sum_assignment(np.where(allowed, 1.0 + gain / (1 + gain.shape[0]), 0.0), maximize=True)
    return [(int(row), int(column)) for row, column in zip(rows, columns, strict=True) if allowed[row, column]]
