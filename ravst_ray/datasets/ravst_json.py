"""Reader and writer of R-AVST's published JSON.

``[{"video_name", "duration", "annotation": [{"event_num", "AV Temporal Reasoning": [{"Q", "A"}], …}]}]``. A video may
be listed more than once; a question's index in its id ``{video}/{event_num}/{task}/{index}`` then runs on.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ravst_ray.errors import ConfigError
from ravst_ray.records import QAPair
from ravst_ray.tasks import TASKS

_MAX_SECONDS = 1e7  # also keeps out NaN and infinities


def _task_keys() -> dict[str, str]:
    """What the format calls its tasks, in their order."""
    return {task.name: task.json_key for task in TASKS.values() if task.json_key is not None}


def dump_questions(pairs: Iterable[QAPair], durations_s: Mapping[str, float]) -> str:
    """Questions as published JSON, sorted by video, event and index."""
    videos: dict[str, list[QAPair]] = {}
    for pair in pairs:
        videos.setdefault(pair.video_id, []).append(pair)
    return dump_entries(video_entry(name, videos[name], durations_s[name]) for name in sorted(videos))


def video_entry(video_id: str, pairs: Iterable[QAPair], duration_s: float) -> dict[str, Any]:
    """The questions of one video as an entry of the format, sorted by event, task and index."""
    events: dict[int, dict[str, Any]] = {}
    keys = _task_keys()
    order = {task: place for place, task in enumerate(keys)}
    for pair in sorted(pairs, key=lambda one: (one.event_num, order[one.task], _index(one.qa_id))):
        event = events.setdefault(pair.event_num, {"event_num": pair.event_num})
        event.setdefault(keys[pair.task], []).append({"Q": pair.question, "A": pair.answer})
    return {"video_name": video_id, "duration": duration_s, "annotation": list(events.values())}


def read_questions(path: str | Path) -> tuple[list[QAPair], dict[str, float]]:
    """Questions in the file's order, and each video's duration in seconds.

    Raises:
        ConfigError: the file isn't readable JSON of this format.
    """
    pairs: list[QAPair] = []
    durations: dict[str, float] = {}
    seen: Counter[tuple[str, int, str]] = Counter()
    for entry in read_entries(path):
        name = entry["video_name"]
        durations[name] = float(entry["duration"])
        for event in entry["annotation"]:
            pairs += _event_pairs(name, event, seen)
    return pairs, durations


def read_entries(path: str | Path) -> list[dict[str, Any]]:
    """The file as it is, checked: :func:`dump_entries` gives the same bytes again.

    Raises:
        ConfigError: the file isn't readable JSON of this format; the message names the entry at fault.
    """
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not a readable JSON file: {error}") from None
    if not isinstance(entries, list):
        raise ConfigError(f"{path}: R-AVST's format is a list of videos, this is a {type(entries).__name__}")
    for place, entry in enumerate(entries):
        try:
            _check(entry)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ConfigError(f"{path}: entry {place} isn't in R-AVST's format: {error!r}") from None
    return entries


def dump_entries(entries: Iterable[Mapping[str, Any]]) -> str:
    """Entries as text, the inverse of :func:`read_entries`."""
    return json.dumps(list(entries), ensure_ascii=False)


def _check(entry: Mapping[str, Any]) -> None:
    if not isinstance(entry["video_name"], str):
        raise TypeError("video_name is no text")
    if not 0 < float(entry["duration"]) < _MAX_SECONDS:
        raise ValueError("duration is no number of seconds above 0")
    for event in entry["annotation"]:
        int(event["event_num"])
        for key in _task_keys().values():
            for one in event.get(key, []):
                if not (isinstance(one["Q"], str) and isinstance(one["A"], str)):
                    raise TypeError(f"{key}: Q and A are texts")
                (one["Q"] + one["A"]).encode()  # lone surrogates can't be written


def _event_pairs(name: str, event: Mapping[str, Any], seen: Counter[tuple[str, int, str]]) -> list[QAPair]:
    pairs = []
    for task, key in _task_keys().items():
        for one in event.get(key, []):
            place = (name, int(event["event_num"]), task)
            qa_id = f"{name}/{place[1]}/{task}/{seen[place]}"
            pairs.append(QAPair(qa_id, name, place[1], task, one["Q"], one["A"]))
            seen[place] += 1
    return pairs


def _index(qa_id: str) -> int:
    return int(qa_id.rpartition("/")[2])
