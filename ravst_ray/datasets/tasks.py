"""Questions with the videos that they are about: what prediction and training work through."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ravst_ray.datasets.ravst_json import read_questions
from ravst_ray.datasets.unav import is_safe_id, list_files, video_path
from ravst_ray.errors import ConfigError
from ravst_ray.records import QAPair


@dataclass(frozen=True)
class VideoTask:
    """One video and its questions, in the file's order; ``path`` may be a file that doesn't exist."""

    video_id: str
    path: str
    duration_s: float
    questions: tuple[QAPair, ...]


def read_tasks(annotations: str | Path, videos_dir: str | Path, limit: int | None = None) -> list[VideoTask]:
    """The questions of a file in R-AVST's format, by video.

    Args:
        annotations: the file.
        videos_dir: folder with ``{video id}.mp4`` (or .mkv, .webm, .avi, .mov).
        limit: only the first so many questions.

    Raises:
        ConfigError: the file isn't readable JSON of this format, a video's name can't be a file's, or the folder isn't
            there.
    """
    pairs, durations = read_questions(annotations)
    files = list_files(videos_dir)
    found: dict[str, list[QAPair]] = {}
    for pair in pairs[:limit]:
        if not is_safe_id(pair.video_id):
            raise ConfigError(f"{annotations}: the video name {pair.video_id!r} can't be a file name")
        found.setdefault(pair.video_id, []).append(pair)
    return [
        VideoTask(name, video_path(name, videos_dir, files), durations[name], tuple(questions))
        for name, questions in found.items()
    ]
