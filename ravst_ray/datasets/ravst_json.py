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
from ravst_ray.records import QAPair, Task

TASK_KEYS: dict[Task, str] = {
    "AVTR": "AV Temporal Reasoning",
    "AVSR": "AV Spatial Reasoning",
    "AVSTR": "AV ST Reasoning",
}


def dump_questions(pairs: Iterable[QAPair], durations_s: Mapping[str, float]) -> str:
    """Questions as published JSON, sorted by video, event and index."""
    videos: dict[str, dict[int, dict[str, Any]]] = {}
    order = {task: place for place, task in enumerate(TASK_KEYS)}
    for pair in sorted(pairs, key=lambda one: (one.video_id, one.event_num, order[one.task], _index(one.qa_id))):
        event = videos.setdefault(pair.video_id, {}).setdefault(pair.event_num, {"event_num": pair.event_num})
        event.setdefault(TASK_KEYS[pair.task], []).append({"Q": pair.question, "A": pair.answer})
    entries = [
        {"video_name": name, "duration": durations_s[name], "annotation": list(events.values())}
        for name, events in videos.items()
    ]
    return json.dumps(entries, ensure_ascii=False)


def read_questions(path: str | Path) -> tuple[list[QAPair], dict[str, float]]:
    """Questions in the file's order, and each video's duration in seconds.

    Raises:
        ConfigError: the file isn't readable JSON of this format.
    """
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8"))
        pairs: list[QAPair] = []
        durations: dict[str, float] = {}
        seen: Counter[tuple[str, int, Task]] = Counter()
        for entry in entries:
            name = entry["video_name"]
            durations[name] = float(entry["duration"])
            for event in entry["annotation"]:
                pairs += _event_pairs(name, event, seen)
        return pairs, durations
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: not a readable file in R-AVST's format: {error!r}") from None


def _event_pairs(name: str, event: Mapping[str, Any], seen: Counter[tuple[str, int, Task]]) -> list[QAPair]:
    pairs = []
    for task, key in TASK_KEYS.items():
        for one in event.get(key, []):
            place = (name, int(event["event_num"]), task)
            qa_id = f"{name}/{place[1]}/{task}/{seen[place]}"
            pairs.append(QAPair(qa_id, name, place[1], task, one["Q"], one["A"]))
            seen[place] += 1
    return pairs


def _index(qa_id: str) -> int:
    return int(qa_id.rpartition("/")[2])
