"""A slim entry for each annotated event: what the queue sorts and filters by, read without boxes and masks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ravst_ray.annotate.seen import heard_here, seen_share, tracks_by_name
from ravst_ray.config.annotate import QualityConfig
from ravst_ray.datasets.schemas import annotation_from_row

_PLAIN = ("annotation_id", "video_id", "event_num", "label", "start_s", "end_s", "duration_s", "status", "reasons")
_OF_TRACKS = tuple(f"tracks.list.element.{name}" for name in ("name", "audible", "times_s", "scores", "detected"))
COLUMNS = (*_PLAIN, "objects", "frame_times_s", *_OF_TRACKS)
"""Of ``annotations/``; the rest of a row isn't read for its entry."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One annotated event.

    Attributes:
        annotation_id: its id.
        video_id: of its video.
        event_num: its number there.
        label: its category.
        start_s: when it starts.
        end_s: when it ends.
        duration_s: of the video.
        status: the machine's.
        reasons: why it isn't accepted.
        objects: how many are named.
        tracks: how many have boxes.
        score: the lowest mean of the detector's scores of a track, None without a track.
        margin: of a rejected one, by how much it failed, 0 (hardly) to 1.
    """

    annotation_id: str
    video_id: str
    event_num: int
    label: str
    start_s: float
    end_s: float
    duration_s: float
    status: str
    reasons: tuple[str, ...]
    objects: int
    tracks: int
    score: float | None
    margin: float | None


def entries_of(table: pa.Table, config: QualityConfig) -> Iterator[Entry]:
    """The entries of some rows with :data:`COLUMNS` (or more)."""
    tracks = table["tracks"].combine_chunks()
    counts, scores = _tracks_and_scores(tracks)
    objects = pc.fill_null(pc.list_value_length(table["objects"]), 0).to_pylist()
    columns: list[list[Any]] = [table[name].to_pylist() for name in _PLAIN]
    shares = _visible_shares(table, config)
    for place, plain in enumerate(zip(*columns, strict=True)):
        told: dict[str, Any] = dict(zip(_PLAIN, plain, strict=True))
        told["reasons"] = tuple(told["reasons"] or ())
        yield Entry(
            **told,
            objects=objects[place],
            tracks=int(counts[place]),
            score=None if math.isnan(scores[place]) else round(float(scores[place]), 4),
            margin=_margin(told, shares.get(place), config) if told["status"] == "rejected" else None,
        )


def _tracks_and_scores(tracks: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """How many tracks each row has, and the lowest of their mean scores (NaN for none), as ``low_score`` takes them.

    Only scores where the detector found the object count; all, where that isn't known.
    """
    of_row = _lengths(tracks)
    flat = tracks.flatten()
    scores, detected = flat.field("scores"), flat.field("detected")
    in_track, told = _lengths(scores), _lengths(detected)
    values = _values(scores, np.float64)
    weights = np.ones(len(values))
    weights[np.repeat(told > 0, in_track)] = _values(detected, np.float64)
    sums = _sums(values * weights, in_track)
    means = np.divide(sums, found := _sums(weights, in_track), out=np.full(len(sums), np.nan), where=found > 0)
    lowest = np.full(len(of_row), np.inf)
    known = ~np.isnan(means)
    np.minimum.at(lowest, np.repeat(np.arange(len(of_row)), of_row)[known], means[known])
    return _sums((in_track > 0).astype(float), of_row), np.where(np.isinf(lowest), np.nan, lowest)


def _lengths(lists: pa.Array) -> np.ndarray:
    return pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64)


def _values(lists: pa.Array, kind: Any) -> np.ndarray:
    return lists.flatten().to_numpy(zero_copy_only=False).astype(kind)


def _sums(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Of consecutive pieces of these lengths."""
    ends = np.cumsum(lengths)
    total = np.concatenate([[0.0], np.cumsum(values)])
    return np.asarray(total[ends] - total[ends - lengths])


def _margin(told: Mapping[str, Any], share: float | None, config: QualityConfig) -> float:
    """By how much a row failed, of which a source is seen for ``share``; 1 where what it failed for has no measure."""
    reasons, end_s = told["reasons"], told["end_s"]
    margins = []
    if "outside_video" in reasons:
        over_s = end_s - told["duration_s"] - config.overrun_s
        margins.append(over_s / max(end_s - told["start_s"], 1e-9))
    if share is not None and share < config.reject_visible_share:
        margins.append(1 - share / config.reject_visible_share)
    unmeasured = {"no_box", "no_audio", "silence"} & set(reasons)
    return round(min(max(margins), 1.0), 4) if margins and not unmeasured else 1.0


def _visible_shares(table: pa.Table, config: QualityConfig) -> dict[int, float]:
    """Of the rows that were rejected for it, by their places."""
    status, reasons = table["status"].to_pylist(), table["reasons"].to_pylist()
    places = [k for k, one in enumerate(status) if one == "rejected" and "rarely_visible" in (reasons[k] or ())]
    if not places or config.reject_visible_share <= 0:
        return {}
    return {k: _visible_share(row) for k, row in zip(places, table.take(places).to_pylist(), strict=True)}


def _visible_share(row: Mapping[str, Any]) -> float:
    """The least share of an event in which a source of its sound is seen, as ``rarely_visible`` counts it."""
    whole = (0.0, 0.0, 1.0, 1.0)  # where a box is doesn't matter here
    tracks = [
        {**track, "track_id": place, "boxes_xyxy_px": [whole] * len(track["times_s"])}
        for place, track in enumerate(row["tracks"])
    ]
    one = annotation_from_row({"label_id": None, "caption": None, **row, "tracks": tracks})
    own = heard_here(one)
    return min((seen_share(one, found) for key, found in tracks_by_name(one, True).items() if key in own), default=1.0)
