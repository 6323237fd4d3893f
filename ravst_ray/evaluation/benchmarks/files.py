"""Benchmarks' files: rows of Parquet, JSON or JSON Lines, checked; and their questions with the videos asked about."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ravst_ray.config.base import describe
from ravst_ray.datasets.tasks import VideoTask
from ravst_ray.datasets.unav import VIDEO_EXTENSIONS, is_safe_id
from ravst_ray.errors import ConfigError
from ravst_ray.evaluation.benchmarks.protocols import Benchmark, Question
from ravst_ray.records import QAPair

_PARQUET = b"PAR1"


class Row(BaseModel):
    """A row of a benchmark's file: the columns that are used. Others may be there, and numbers may stand for texts."""

    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True, allow_inf_nan=False)


R = TypeVar("R", bound=Row)


def read_rows(path: str | Path, kind: type[R], title: str) -> list[R]:
    """The rows of a file, in its order.

    Args:
        path: Parquet, a JSON list of objects, or JSON Lines; told apart by what is in it.
        kind: what a row must have.
        title: of the benchmark, for messages.

    Raises:
        ConfigError: the file isn't readable, has no row, or lacks a column, or a row doesn't fit.
    """
    raw = _parquet(path) if _begins(path) == _PARQUET else _json(path)
    if not raw:
        raise ConfigError(f"{path}: there is no question in it")
    wanted = [name for name, field in kind.model_fields.items() if field.is_required()]
    missing = [name for name in wanted if not any(isinstance(one, dict) and name in one for one in raw)]
    if missing:
        names = " and ".join(repr(name) for name in missing)
        raise ConfigError(f"{path}: no column {names}; a file of {title} has {', '.join(wanted)}: is it the right one?")
    rows = []
    for number, one in enumerate(raw):
        try:
            rows.append(kind.model_validate(one))
        except ValidationError as error:
            raise ConfigError(f"{path}: row {number} (from 0): {describe(error)}") from None
    return rows


def unique_ids(names: Iterable[str]) -> list[str]:
    """The names, where one repeats with ``~2``, ``~3``, … behind it."""
    seen: Counter[str] = Counter()
    ids = []
    for name in names:
        seen[name] += 1
        ids.append(name if seen[name] == 1 else f"{name}~{seen[name]}")
    return ids


def benchmark_tasks(
    benchmark: Benchmark, annotations: str | Path, videos_dir: str | Path, limit: int | None = None
) -> list[VideoTask]:
    """The questions of a benchmark, by video, for ``ravst predict``.

    Args:
        benchmark: one of ``BENCHMARKS``.
        annotations: its published file.
        videos_dir: folder of its videos, which may lie in subfolders.
        limit: only the first so many questions.

    Raises:
        ConfigError: the file isn't the benchmark's, a video's name can't be a file's, or the folder isn't there.
    """
    files = VideoFolder(videos_dir)
    asked: defaultdict[str, list[Question]] = defaultdict(list)
    for question in benchmark.read(annotations)[:limit]:
        asked[question.video].append(question)
    return [
        VideoTask(
            video,
            files.place(video),
            questions[0].duration_s or 0.0,
            tuple(QAPair(one.qa_id, video, 0, benchmark.name, one.prompt, one.truth) for one in questions),
            str(videos_dir),
        )
        for video, questions in asked.items()
    ]


class VideoFolder:
    """The videos below a folder, which is walked once.

    Raises:
        ConfigError: there is no such folder.
    """

    def __init__(self, folder: str | Path):
        self._root = Path(folder)
        self._places: defaultdict[str, list[str]] = defaultdict(list)
        if not self._root.is_dir():
            raise ConfigError(f"{folder}: not a readable folder of videos")
        for parent, _, names in sorted(os.walk(self._root)):
            for name in sorted(names):
                stem, ending = os.path.splitext(name)
                if ending.lower() in VIDEO_EXTENSIONS:
                    place = Path(parent, name)
                    inside = place.relative_to(self._root)
                    for key in {stem, name, inside.as_posix(), inside.with_suffix("").as_posix()}:
                        self._places[key].append(str(place))

    def place(self, video: str) -> str:
        """Where a video is: at this place below the folder, else a file of this name in any of its folders.

        Where it has no file, that is the place that it should have.

        Raises:
            ConfigError: the name leads out of the folder, or several files have it.
        """
        parts = video.split("/")
        if not all(is_safe_id(part) for part in parts):
            raise ConfigError(f"the video name {video!r} can't be a file below {self._root}")
        found = self._places.get(video) or self._places.get(parts[-1]) or []
        if len(found) > 1:
            raise ConfigError(f"{' and '.join(found[:3])}: several files for the video {video!r}; leave one there")
        named = os.path.splitext(video)[1].lower() in VIDEO_EXTENSIONS
        return found[0] if found else str(self._root / (video if named else video + VIDEO_EXTENSIONS[0]))


def _begins(path: str | Path) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(len(_PARQUET))
    except OSError as error:
        raise ConfigError(f"{path}: not readable: {error.strerror}") from None


def _parquet(path: str | Path) -> list[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows: list[Any] = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"{path}: not a readable Parquet file: {error}") from None
    return rows


def _json(path: str | Path) -> Sequence[Any]:
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in _lines(text)]
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: neither Parquet, nor a JSON list, nor JSON lines: {error}") from None
    return list(rows)


def _lines(text: str) -> Iterable[str]:
    return (line for line in text.split("\n") if line.strip())
