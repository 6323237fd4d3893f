"""Reader of UnAV-100's event labels, and of files in the same format.

The format is ``{"database": {id: {"subset", "duration", "annotations": [{"segment": [s, e], "label", "label_id"}]}}}``
with times in seconds; beside its label an annotation may carry a ``caption``, and ``objects`` (``[{"name",
"audible"}]``) where they are known. Nothing in the file is trusted: what can't be used becomes an errors row of stage
``input``, and an id never turns into a path outside the videos' folder. What other programs write where nothing stands
(NaN for a caption or a number of a label, 17.0 for 17, a start just before 0) is read as what it means.
"""

from __future__ import annotations

import json
import math
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ravst_ray.core.names import clean_name
from ravst_ray.errors import ConfigError
from ravst_ray.records import ErrorRow, Event, SceneObject, Video

STAGE = "input"
VIDEO_EXTENSIONS = (
    ".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".flv", ".ts", ".mts", ".m2ts", ".wmv", ".3gp",
    ".ogv",
)  # fmt: skip
"""In any case: cameras write ``GOPR0001.MP4``."""

_MAX_ID_BYTES = 240  # with an extension still below the 255 bytes that file systems allow
_MAX_SECONDS = 1e7  # also keeps out NaN, infinities and integers too large for a float
_EARLY_S = 0.5  # a start so much before 0 is 0: a detector's window that reaches out of the video


@dataclass(frozen=True)
class UnavInput:
    """What a file holds: usable videos in its order, and one errors row for each entry that isn't."""

    videos: list[Video]
    rejected: list[ErrorRow]


class _BadEntry(ValueError):
    """An entry that can't be used; the message says why."""

    reason = "bad_entry"


class _UnsafeId(_BadEntry):
    reason = "unsafe_id"


class _TwoFiles(_BadEntry):
    reason = "ambiguous_file"


class VideoFiles:
    """The videos of a folder by id, whichever of Unicode's forms id and file name are written in.

    Args:
        names: of the folder's files.
        place_of: the place of a file of that name.
    """

    def __init__(self, names: Iterable[str], place_of: Callable[[str], str]):
        self._place_of = place_of
        self._names: defaultdict[str, list[str]] = defaultdict(list)
        for name in names:
            stem, ending = os.path.splitext(name)
            if ending.lower() in VIDEO_EXTENSIONS:
                self._names[unicodedata.normalize("NFC", stem)].append(name)

    def place(self, video_id: str) -> str:
        """Where a video is; where it has no file, the place that it should have.

        Raises:
            ValueError: it has several files, which are named.
        """
        names = sorted(self._names.get(unicodedata.normalize("NFC", video_id), ())) or [video_id + VIDEO_EXTENSIONS[0]]
        if len(names) > 1:
            raise _TwoFiles(f"There are {len(names)} files of this id, {' and '.join(names[:3])}; leave one there.")
        return self._place_of(names[0])


class _JsonObject(dict[str, Any]):
    """A JSON object that keeps the first value of a repeated key and remembers the repetitions."""

    def __init__(self, pairs: Iterable[tuple[str, Any]]):
        super().__init__()
        self.repeated: list[str] = []
        for key, value in pairs:
            if key in self:
                self.repeated.append(key)
            else:
                self[key] = value


def read_unav(
    path: str | Path, videos: str | Path | VideoFiles, subsets: Sequence[str] | None = None, limit: int | None = None
) -> UnavInput:
    """Read event labels and find each video's file.

    Args:
        path: a JSON file in UnAV-100's format.
        videos: folder with ``{id}.mp4`` (or another of ``VIDEO_EXTENSIONS``, in any case), or its files. A video
            without a file gets the path ``{id}.mp4``, so that decoding reports it as missing.
        subsets: only entries of these subsets; None means all.
        limit: only the first so many of these entries, usable or not.

    Raises:
        ConfigError: the file isn't readable JSON of this format, the folder can't be listed, or no entry is of
            ``subsets``.
    """
    database = _read_database(path)
    files = videos if isinstance(videos, VideoFiles) else list_files(videos)
    result = UnavInput([], [])
    repeated = Counter(database.repeated)
    for video_id, entry in _select(database, subsets, path)[:limit]:
        try:
            result.videos.append(_video(video_id, entry, files))
        except _BadEntry as error:
            result.rejected.append(_rejection(video_id, error.reason, str(error)))
        message = "The id is listed again; the first entry is used, this one is not."
        result.rejected.extend([_rejection(video_id, "duplicate_id", message)] * repeated[video_id])
    return result


def is_safe_id(video_id: str) -> bool:
    """Whether an id names one file in a folder: no separators, no ``.`` or ``..``, printable, not too long."""
    component = video_id not in ("", ".", "..") and not {"/", "\\"} & set(video_id)
    return component and video_id.isprintable() and len(video_id.encode()) <= _MAX_ID_BYTES


def _read_database(path: str | Path) -> _JsonObject:
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8-sig"), object_pairs_hook=_JsonObject)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such annotations file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not a readable JSON file: {error}") from None
    if not isinstance(data, _JsonObject) or not isinstance(data.get("database"), _JsonObject):
        raise ConfigError(f'{path}: not in UnAV-100\'s format: the top level needs an object "database"')
    if "database" in data.repeated:
        raise ConfigError(f'{path}: "database" is given twice')
    return data["database"]


def list_files(videos_dir: str | Path) -> VideoFiles:
    """The videos in a folder, which is read once.

    Raises:
        ConfigError: there is no such folder.
    """
    try:
        return VideoFiles(os.listdir(videos_dir), lambda name: str(Path(videos_dir) / name))
    except OSError as error:
        raise ConfigError(f"{videos_dir}: not a readable folder of videos: {error.strerror}") from None


def _select(database: _JsonObject, subsets: Sequence[str] | None, path: str | Path) -> list[tuple[str, Any]]:
    """Entries of the subsets; one that isn't even an object is kept, so that it is reported."""
    if subsets is None:
        return list(database.items())
    chosen = [(key, e) for key, e in database.items() if not isinstance(e, dict) or e.get("subset") in subsets]
    if database and not chosen:
        there = sorted({_show(entry.get("subset")) for entry in database.values()})
        raise ConfigError(f"{path}: no video is of subset {', '.join(subsets)}; the file has {', '.join(there[:10])}")
    return chosen


def _video(video_id: str, entry: Any, files: VideoFiles) -> Video:
    if not is_safe_id(video_id):
        raise _UnsafeId("The id can't be a file name; its video is not looked for.")
    if not isinstance(entry, dict):
        raise _BadEntry(f"The entry is no object but {_show(entry)}.")
    duration_s = _number(entry.get("duration"), "duration")
    if duration_s <= 0:
        raise _BadEntry(f"duration is not above 0: {duration_s}.")
    annotations = entry.get("annotations")
    if not isinstance(annotations, list):
        raise _BadEntry(f"annotations is no list but {_show(annotations)}.")
    events = tuple(_event(number, annotation) for number, annotation in enumerate(annotations, start=1))
    return Video(video_id, files.place(video_id), duration_s, events, _text(entry.get("subset"), "subset"))


def _event(number: int, annotation: Any) -> Event:
    where = f"annotation {number}"
    if not isinstance(annotation, dict):
        raise _BadEntry(f"{where} is no object but {_show(annotation)}.")
    segment = annotation.get("segment")
    if not isinstance(segment, list) or len(segment) != 2:
        raise _BadEntry(f"{where}: segment is no [start, end] but {_show(segment)}.")
    start_s, end_s = (_number(value, f"{where}: segment") for value in segment)
    if not -_EARLY_S <= start_s < end_s or end_s <= 0:
        raise _BadEntry(f"{where}: segment doesn't run forward from 0 or later: {_show(segment)}.")
    label = _text(annotation.get("label"), f"{where}: label")
    if not label:
        raise _BadEntry(f"{where} has no label.")
    label_id = _label_id(annotation.get("label_id"), where)
    caption = _text(annotation.get("caption"), f"{where}: caption")
    objects = _objects(annotation.get("objects"), where)
    return Event(number, max(start_s, 0.0), end_s, label, label_id, caption, objects)


def _label_id(value: Any, where: str) -> int | None:
    """A whole number, also where a column with gaps made it a float."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1 or not 0 <= value < 2**31:
        raise _BadEntry(f"{where}: label_id is no number of a label but {_show(value)}.")
    return int(value)


def _objects(value: Any, where: str) -> tuple[SceneObject, ...] | None:
    """Objects that the input names itself; a name becomes part of an answer, so it may not hold its tags."""
    if value is None or value == []:
        return None
    if not isinstance(value, list):
        raise _BadEntry(f"{where}: objects is no list but {_show(value)}.")
    found = []
    for one in value:
        text = _text(one.get("name"), f"{where}: object name") if isinstance(one, dict) else None
        name = clean_name(text) if text else None
        if name is None or not isinstance(one.get("audible"), bool):
            raise _BadEntry(f'{where}: no object like {{"name": "dog", "audible": true}} but {_show(one)}.')
        found.append(SceneObject(name, one["audible"]))
    return tuple(dict.fromkeys(found))


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _MAX_SECONDS:
        raise _BadEntry(f"{what} is no number of seconds but {_show(value)}.")
    return float(value)


def _text(value: Any, what: str) -> str | None:
    """Stripped text; None where there is none, or NaN. Lone surrogates are refused: they can't be written as UTF-8."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if not isinstance(value, str) or not _is_unicode(value):
        raise _BadEntry(f"{what} is no text but {_show(value)}.")
    return value.strip() or None


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)


def _show(value: Any) -> str:
    """A value as it may stand in a message: short, and in characters that can be written anywhere."""
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _rejection(video_id: str, reason: str, message: str) -> ErrorRow:
    """Rows are stored as UTF-8, so a broken character in an id is written as its escape."""
    clean = video_id.encode("utf-8", "backslashreplace").decode()
    return ErrorRow(clean, STAGE, reason, message, retryable=False)
