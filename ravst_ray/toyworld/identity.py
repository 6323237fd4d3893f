"""Whether a track stays with one instance, as the toy world's exact truth has it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ravst_ray.records import Track
from ravst_ray.toyworld.evaluate import Annotations, Truth
from ravst_ray.toyworld.pointing import LEAST_IOU, best_instance


@dataclass(frozen=True)
class IdentityScore:
    """``switches``: how often a track goes on on another object. ``split``: tracks of an object beyond its first one.

    A new track after a cut is none too many.
    """

    tracks: int
    switches: int
    split: int


def score_identity(truth: Truth, annotations: Annotations) -> IdentityScore:
    """Count switches and splits over all events; a track is on the object whose true box fits its own best.

    Boxes whose IoU with every true box is below 0.3 are on nothing, and are passed over.
    """
    tracks = switches = split = 0
    for video_id in truth.keys() & annotations.keys():
        video = truth[video_id]
        for annotation in annotations[video_id]:
            on: defaultdict[tuple[int, int], set[int]] = defaultdict(set)
            for number, track in enumerate(annotation.tracks):
                owners = _owners(video, track)
                tracks += 1
                switches += sum(before != after for (_, before), (_, after) in pairwise(owners))
                for time_s, owner in owners:
                    on[owner, sum(cut_s <= time_s for cut_s in video.get("cuts", ()))].add(number)
            split += sum(len(numbers) - 1 for numbers in on.values())
    return IdentityScore(tracks, switches, split)


def _owners(video: Mapping[str, Any], track: Track) -> list[tuple[float, int]]:
    """Time and place in ``objects`` of what the track is on, where it is on something."""
    found = []
    for time_s, box in zip(track.times_s, track.boxes_xyxy_px, strict=True):
        iou, place = best_instance(video["objects"], time_s, box)
        if place is not None and iou >= LEAST_IOU:
            found.append((time_s, place))
    return found
