"""Arrow schemas of the dataset's tables, and the way from records to rows and back.

``annotations/``: one row per (video, event). ``qa/``: one row per question. ``videos/``: one row per annotated video,
what quality control and questions went by beside the annotations. ``errors/``: one row per video that is not in the
dataset. Column metadata says what a column holds; ``python -m ravst_ray.datasets.schemas`` prints it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from typing import Any

import pyarrow as pa
from pydantic import TypeAdapter

from ravst_ray.datasets.splits import split_of
from ravst_ray.records import ErrorRow, EventAnnotation, Loudness, QAPair, VideoItem

_OBJECT = pa.struct([("name", pa.string()), ("audible", pa.bool_()), ("heard_in", pa.list_(pa.int32()))])
_TRACK = pa.struct(
    [
        ("track_id", pa.int32()),
        ("name", pa.string()),
        ("audible", pa.bool_()),
        ("times_s", pa.list_(pa.float64())),
        ("boxes_xyxy_px", pa.list_(pa.list_(pa.float64()))),
        ("scores", pa.list_(pa.float64())),
        ("masks_rle", pa.list_(pa.string())),
        ("detected", pa.list_(pa.bool_())),
        ("shot", pa.int32()),
    ]
)


def documented(*columns: tuple[str, pa.DataType, str]) -> pa.Schema:
    """A schema from names, types, and what each column holds."""
    return pa.schema([pa.field(name, kind, metadata={"doc": doc}) for name, kind, doc in columns])


ANNOTATIONS = documented(
    ("annotation_id", pa.string(), "{video_id}/{event_num}; stable over reruns"),
    ("video_id", pa.string(), "as in the input"),
    ("event_num", pa.int32(), "counts from 1 within the video, by start"),
    ("label", pa.string(), "event category"),
    ("label_id", pa.int32(), "its number, where the input has one"),
    ("caption", pa.string(), "what the language model read; null where only the label was known"),
    ("start_s", pa.float64(), "start of the event, seconds"),
    ("end_s", pa.float64(), "end of the event, seconds"),
    ("duration_s", pa.float64(), "of the video, seconds"),
    ("fps", pa.float64(), "of the video"),
    ("width", pa.int32(), "of the displayed picture, pixels"),
    ("height", pa.int32(), "of the displayed picture, pixels"),
    ("objects", pa.list_(_OBJECT), "named by the caption, or heard meanwhile (in which events: heard_in)"),
    ("frame_times_s", pa.list_(pa.float64()), "the grid of the answers' times, seconds"),
    ("tracks", pa.list_(_TRACK), "objects found, boxes as x1, y1, x2, y2 in pixels of the original video"),
    ("status", pa.string(), "accepted | suspect | rejected"),
    ("reasons", pa.list_(pa.string()), "why not accepted"),
    ("split", pa.string(), "train | test, by a hash of seed and video id"),
    ("provenance", pa.map_(pa.string(), pa.string()), "models, thresholds, prompt hash, versions"),
)
QA = documented(
    ("qa_id", pa.string(), "{video_id}/{event_num}/{task}/{index}"),
    ("video_id", pa.string(), "as in the input"),
    ("event_num", pa.int32(), "the event asked about"),
    ("task", pa.string(), "the task's name"),
    ("question", pa.string(), "in the words of R-AVST"),
    ("answer", pa.string(), "in the answer grammar"),
    ("status", pa.string(), "accepted | suspect | rejected, as its annotation"),
    ("split", pa.string(), "train | test"),
)
_CONTEXT = pa.struct(
    [
        ("event_num", pa.int32()),
        ("label", pa.string()),
        ("label_id", pa.int32()),
        ("caption", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("objects", pa.list_(_OBJECT)),
    ]
)
VIDEOS = documented(
    ("video_id", pa.string(), "as in the input"),
    ("has_audio", pa.bool_(), "whether the file has a sound track"),
    ("level_db", pa.list_(pa.float64()), "RMS level of the sound, dBFS; null where it couldn't be read"),
    ("level_start_s", pa.float64(), "where the first of these windows starts, seconds"),
    ("level_step_s", pa.float64(), "length of a window, seconds"),
    ("context", pa.list_(_CONTEXT), "labelled events that aren't asked about; what sounds in them counts"),
)
ERRORS = documented(
    ("video_id", pa.string(), "as in the input"),
    ("stage", pa.string(), "input | filter | decode | captions | ground | questions | quality"),
    ("reason", pa.string(), "short stable key"),
    ("message", pa.string(), "one sentence"),
    ("retryable", pa.bool_(), "true: the next run of the same command tries again"),
)
TABLES: dict[str, pa.Schema] = {"annotations": ANNOTATIONS, "qa": QA, "videos": VIDEOS, "errors": ERRORS}


def rows_of(item: VideoItem, seed: int, test_share: float) -> dict[str, list[dict[str, Any]]]:
    """The rows of the tables that one finished item gives."""
    if item.error is not None:
        return {"annotations": [], "qa": [], "videos": [], "errors": [asdict(item.error)]}
    split = split_of(item.video.video_id, seed, test_share)
    asked = [annotation for annotation in item.annotations if annotation.event.asked]
    return {
        "annotations": [_annotation_row(item, annotation, split) for annotation in asked],
        "qa": [{**asdict(pair), "split": split} for pair in item.qa],
        "videos": [_video_row(item)],
        "errors": [],
    }


def _annotation_row(item: VideoItem, annotation: EventAnnotation, split: str) -> dict[str, Any]:
    row = asdict(annotation)
    event = row.pop("event")
    del event["given_objects"], event["asked"]
    meta = item.meta
    return {
        **row,
        **event,
        "annotation_id": f"{item.video.video_id}/{annotation.event.event_num}",
        "video_id": item.video.video_id,
        "duration_s": meta.duration_s if meta else item.video.duration_s,
        "fps": meta.fps if meta else None,
        "width": meta.width if meta else None,
        "height": meta.height if meta else None,
        "split": split,
        "provenance": sorted(item.provenance.items()),
    }


def _video_row(item: VideoItem) -> dict[str, Any]:
    level = item.loudness
    context = [annotation for annotation in item.annotations if not annotation.event.asked]
    return {
        "video_id": item.video.video_id,
        "has_audio": item.meta.has_audio if item.meta else None,
        "level_db": level.level_db_T if level else None,
        "level_start_s": level.start_s if level else None,
        "level_step_s": level.step_s if level else None,
        "context": [{**asdict(one.event), "objects": [asdict(thing) for thing in one.objects]} for one in context],
    }


@cache
def _adapter(kind: type) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def annotation_from_row(row: Mapping[str, Any]) -> EventAnnotation:
    """A row of ``annotations/`` as a record."""
    event = {key: row[key] for key in ("event_num", "start_s", "end_s", "label", "label_id", "caption")}
    own = {key: row[key] for key in ("objects", "frame_times_s", "tracks", "status", "reasons")}
    return _adapter(EventAnnotation).validate_python({**own, "event": event})


def loudness_from_row(row: Mapping[str, Any]) -> Loudness | None:
    """The sound level in a row of ``videos/``; None where it couldn't be read."""
    if row["level_db"] is None:
        return None
    return Loudness(row["level_step_s"], tuple(row["level_db"]), row["level_start_s"])


def context_from_row(row: Mapping[str, Any]) -> tuple[EventAnnotation, ...]:
    """The events in a row of ``videos/`` that aren't asked about, as records."""
    found = [
        {"event": {**{key: one[key] for key in one if key != "objects"}, "asked": False}, "objects": one["objects"]}
        for one in row["context"]
    ]
    return tuple(_adapter(EventAnnotation).validate_python(one) for one in found)


def qa_from_row(row: Mapping[str, Any]) -> QAPair:
    """A row of ``qa/`` as a record."""
    return QAPair(**{key: row[key] for key in QAPair.__dataclass_fields__ if key in row})


def error_from_row(row: Mapping[str, Any]) -> ErrorRow:
    """A row of ``errors/`` as a record."""
    return ErrorRow(**{key: row[key] for key in ErrorRow.__dataclass_fields__})
