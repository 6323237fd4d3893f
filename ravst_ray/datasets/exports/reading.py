"""What is exported: a finished dataset's rows video by video, and the videos' files."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import pyarrow as pa

from ravst_ray.datasets.exports.protocols import ExportedVideo, Row
from ravst_ray.datasets.places import is_remote, local_copy
from ravst_ray.datasets.store import DatasetStore, Generation
from ravst_ray.datasets.unav import VideoFiles, is_safe_id
from ravst_ray.errors import AbortError, ConfigError, StepError
from ravst_ray.logs import get_logger

log = get_logger(__name__)

AHEAD = 8
"""Videos that are fetched while one is written."""
_NO_VIDEO = ("missing_file", "too_large")
Rows = tuple[str, list[Row], list[Row]]


def finished(store: DatasetStore) -> tuple[Generation, int]:
    """The state of a dataset that is exported, and how many videos are committed but not in it yet.

    Raises:
        ConfigError: it isn't the output of ``ravst annotate``, or nothing of it is finished.
    """
    try:
        waiting, generation = store.waiting(), store.generation()
        if waiting and not generation.number:
            raise ConfigError(
                f"{store.root}: its first run has not ended, so that there are no tables yet; `ravst status` tells how "
                "it stands"
            )
    except OSError as error:
        raise ConfigError(f"{store.root}: can't be read: {error}") from None
    if not all(generation.tables.get(name) for name in ("annotations", "qa")):
        raise ConfigError(f"{store.root}: no annotations there; name the output of ravst annotate")
    return generation, waiting


def event_count(store: DatasetStore, generation: Generation) -> int:
    """How many rows ``annotations/`` has, by the ends of its files alone."""
    with _plain_errors(store.root):
        return store.row_count("annotations", generation)


def read_videos(store: DatasetStore, generation: Generation) -> Iterator[Rows]:
    """Each video with its rows of ``annotations/`` and of ``qa/``; a few row groups are in memory at once.

    Raises:
        AbortError: the tables were replaced or removed meanwhile, or are damaged.
    """
    with _plain_errors(store.root):
        asked = _by_video(store, "qa", generation)
        ahead = next(asked, None)
        for video_id, annotations in _by_video(store, "annotations", generation):
            qa: list[Row] = []
            if ahead is not None and ahead[0] == video_id:
                qa, ahead = ahead[1], next(asked, None)
            yield video_id, annotations, qa
        if ahead is not None:
            raise AbortError(f"{store.root}: the questions of {ahead[0]!r} belong to no event; its tables are damaged")


def _by_video(store: DatasetStore, table: str, generation: Generation) -> Iterator[tuple[str, list[Row]]]:
    for video_id, rows in groupby(store.rows(table, generation), key=itemgetter("video_id")):
        yield video_id, list(rows)


@contextmanager
def _plain_errors(output: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:  # a run there has ended meanwhile, and put others in their place
        raise AbortError(f"{output}: its tables were replaced while they were read; run the command again") from None
    except (OSError, pa.ArrowException) as error:
        raise AbortError(f"{output}: can't be read: {error}") from None


def with_files(videos: Iterable[ExportedVideo], files: VideoFiles) -> Generator[ExportedVideo]:
    """The videos with their files on this machine, each until the next is asked for.

    Those in an object store are fetched a few ahead. A video whose file is missing, or larger than is fetched, comes
    without one, and the log says so.

    Raises:
        AbortError: a store doesn't give a file that may be there.
    """
    waiting: deque[tuple[ExportedVideo, Future[tuple[str, ExitStack]]]] = deque()
    with ThreadPoolExecutor(AHEAD) as pool:
        try:
            for video in videos:
                waiting.append((video, pool.submit(_fetched, video.video_id, files)))
                if len(waiting) > AHEAD:
                    yield from _next(waiting)
            while waiting:
                yield from _next(waiting)
        finally:
            for _, fetched in waiting:
                if not fetched.cancel() and fetched.exception() is None:
                    fetched.result()[1].close()


def _next(waiting: deque[tuple[ExportedVideo, Future[tuple[str, ExitStack]]]]) -> Iterator[ExportedVideo]:
    video, fetched = waiting.popleft()
    path, copy = fetched.result()
    with copy:
        yield replace(video, path=path, suffix=Path(path).suffix.lower())


def _fetched(video_id: str, files: VideoFiles) -> tuple[str, ExitStack]:
    """Where a video's file is on this machine, "" for nowhere, and what removes it when it is a copy."""
    copy = ExitStack()
    try:
        if not is_safe_id(video_id):
            raise StepError(_NO_VIDEO[0], f"{video_id!r}: such an id names no file")
        place = files.place(video_id)
        path = copy.enter_context(local_copy(place))
        if not is_remote(place) and not os.path.isfile(path):
            raise StepError(_NO_VIDEO[0], f"{place}: no such file")
    except (StepError, ValueError) as error:  # the latter: it has several files
        if isinstance(error, StepError) and error.reason not in _NO_VIDEO:
            raise AbortError(error.message) from None
        log.warning("exported without its video: %s", error)
        return "", copy
    return path, copy
