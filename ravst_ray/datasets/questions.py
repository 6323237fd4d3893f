"""Files of questions: R-AVST's JSON, or rows as JSON Lines or Parquet.

A row has ``id``, ``video``, ``duration_s`` (0: the file's own length counts), ``task``, ``question``, ``answer`` and,
where there is one, ``kind``; what else it holds is for its task, which makes the question and the true answer of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ravst_ray.datasets import ravst_json
from ravst_ray.errors import ConfigError
from ravst_ray.records import QAPair
from ravst_ray.tasks import task_of

_ENDINGS = (".jsonl", ".parquet")
_MAX_SECONDS = 1e7


def read_questions(path: str | Path) -> tuple[list[QAPair], dict[str, float]]:
    """Questions in the file's order, and each video's duration in seconds.

    Args:
        path: ``.jsonl`` or ``.parquet`` with rows; anything else is read as R-AVST's JSON.

    Raises:
        ConfigError: the file isn't readable; the message names the place.
    """
    if Path(path).suffix not in _ENDINGS:
        return ravst_json.read_questions(path)
    pairs: dict[str, QAPair] = {}
    durations: dict[str, float] = {}
    for place, row in _rows(Path(path)):
        pair, duration_s = _question(row, f"{path}: {place}")
        if pair.qa_id in pairs:
            raise ConfigError(f"{path}: {place}: the id {pair.qa_id!r} is there twice")
        pairs[pair.qa_id] = pair
        durations.setdefault(pair.video_id, duration_s)
    return list(pairs.values()), durations


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.suffix == ".parquet":
            for number, row in enumerate(pq.read_table(path).to_pylist()):
                yield f"row {number}", row
            return
        with path.open(encoding="utf-8-sig") as lines:
            for number, text in enumerate(lines, start=1):
                if text.strip():
                    yield f"line {number}", json.loads(text)
    except (OSError, ValueError, RecursionError, pa.ArrowException) as error:
        raise ConfigError(f"{path}: not a readable file of questions: {error}") from None


def _question(row: Any, place: str) -> tuple[QAPair, float]:
    if not isinstance(row, Mapping):
        raise ConfigError(f"{place}: a question is an object with keys, this is a {type(row).__name__}")
    missing = [key for key in ("id", "video", "task", "question", "answer") if not isinstance(row.get(key), str)]
    if missing:
        raise ConfigError(f"{place}: {missing[0]} is not there, or no text")
    try:
        duration_s = float(row["duration_s"])
        if not 0 <= duration_s < _MAX_SECONDS:
            raise ValueError(duration_s)
        question, answer = task_of(row["task"]).asked(row)
        (question + answer).encode()  # lone surrogates can't be written
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from None
    except (KeyError, ValueError, TypeError) as error:
        raise ConfigError(f"{place}: not a question of its task: {error!r}") from None
    kind = row.get("kind")
    return QAPair(row["id"], row["video"], 0, row["task"], question, answer, kind=str(kind or "")), duration_s
