"""Questions with the videos that they are about: what prediction and training work through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ravst_ray.datasets.places import absolute, folder_name, is_remote, list_names, local_copy, named, video_files
from ravst_ray.datasets.questions import read_questions
from ravst_ray.datasets.unav import is_safe_id
from ravst_ray.errors import ConfigError, StepError
from ravst_ray.records import QAPair


@dataclass(frozen=True)
class VideoTask:
    """One video and its questions, in the file's order; ``path`` may be a URI, or a file that doesn't exist.

    ``duration_s`` is 0 where the dataset doesn't state it: then the file's own counts. ``folder`` is where all videos
    lie, which every node must see.
    """

    video_id: str
    path: str
    duration_s: float
    questions: tuple[QAPair, ...]
    folder: str = ""


def read_tasks(annotations: str | Path, videos_dir: str | Path, limit: int | None = None) -> list[VideoTask]:
    """The questions of a file, by video.

    Args:
        annotations: the file (:func:`~ravst_ray.datasets.questions.read_questions`), a path or a URI.
        videos_dir: folder with ``{video id}.mp4`` (or another ending that videos have), a path or a URI.
        limit: only the first so many questions.

    Raises:
        ConfigError: the file can't be used, a video's name can't be a file's or has several, or
            the folder isn't there.
    """
    try:
        with local_copy(str(annotations)) as path, named(path, str(annotations)):
            pairs, durations = read_questions(path)
    except StepError as error:
        raise ConfigError(f"annotations file {error.message}") from None
    folder = absolute(str(videos_dir))
    files = video_files(folder)
    found: dict[str, list[QAPair]] = {}
    for pair in pairs[:limit]:
        if not is_safe_id(pair.video_id):
            raise ConfigError(f"{annotations}: the video name {pair.video_id!r} can't be a file name")
        found.setdefault(pair.video_id, []).append(pair)
    try:
        return [
            VideoTask(name, files.place(name), durations[name], tuple(asked), folder) for name, asked in found.items()
        ]
    except ValueError as error:
        raise ConfigError(f"{videos_dir}: {error}") from None


def without_file(tasks: Sequence[VideoTask], videos_dir: str) -> int:
    """Of how many tasks the video has no file in the folder, a path or a URI.

    Raises:
        ConfigError: the folder of a store can't be listed.
    """
    if not is_remote(videos_dir):
        return sum(not Path(task.path).exists() for task in tasks)
    names = list_names(videos_dir)
    return sum(folder_name(task.path) not in names for task in tasks)
