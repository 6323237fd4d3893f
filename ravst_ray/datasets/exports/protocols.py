"""What a format is given, and what it must do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ravst_ray.datasets.exports.folder import ExportFolder
from ravst_ray.datasets.splits import unit_key
from ravst_ray.datasets.unav import is_safe_id

Row = dict[str, Any]
SPLITS = ("train", "test")


@dataclass(frozen=True, slots=True)
class ExportedVideo:
    """A video with the rows of it that are exported, as the tables hold them (:mod:`ravst_ray.datasets.schemas`).

    ``path`` is its file on this machine, while it is added, and "" where the video isn't part of the export.
    """

    video_id: str
    split: str
    duration_s: float
    annotations: list[Row]
    qa: list[Row]
    path: str = ""
    suffix: str = ""

    @property
    def file(self) -> str:
        """The name of its file in the export, "" where there is none; an id never leads out of the folder."""
        return f"videos/{file_stem(self.video_id)}{self.suffix}" if self.path else ""


def file_stem(video_id: str) -> str:
    """The name of a video's file without its ending: the id, or where that can't be one, a name made from it.

    >>> file_stem("zLfhRM6G0OU"), file_stem("../x")
    ('zLfhRM6G0OU', '_x-7d74d6fb3ef5f1c0')
    """
    return video_id if is_safe_id(video_id) and not video_id.startswith(".") else unit_key(video_id)


class Writer(Protocol):
    """Writes one format into a folder, which it is made with.

    ``about`` is a part of the dataset card: what the files are and how they are read, in Markdown. ``header`` are
    entries of its YAML header that the format's readers want.
    """

    about: str

    def __init__(self, folder: ExportFolder): ...

    def add(self, video: ExportedVideo) -> None:
        """One video more; it has a row at least.

        Raises:
            OSError: a file can't be written.
        """

    def close(self) -> None:
        """Write what is left.

        Raises:
            OSError: a file can't be written.
        """

    def header(self) -> Mapping[str, Any]:
        """After :meth:`close`."""
