"""The records that travel between the rooms.

Shape legend, used in names throughout: ``_T`` frames or seconds, ``_N`` objects, ``_G`` a group of rollouts,
``_P`` prompts, ``_L`` tokens. Seconds are floats from the start of the video and end in ``_s``; boxes are
``[x1, y1, x2, y2]`` in pixels of the original video, as it is displayed (after rotation), and end in ``_xyxy_px``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Box = tuple[float, float, float, float]
Status = Literal["accepted", "suspect", "rejected"]
STATUSES: tuple[Status, ...] = ("accepted", "suspect", "rejected")  # from the best to the worst


@dataclass(frozen=True)
class SceneObject:
    """A named object of an event; audible means that it makes a sound while the event lasts and is visible.

    ``heard_in`` are the events of the video (by ``event_num``) in whose sound it takes part, of those that intersect
    this one, itself included; it is filled in where the events of a video are united.
    """

    name: str
    audible: bool
    heard_in: tuple[int, ...] = ()


@dataclass(frozen=True)
class Event:
    """A labelled interval; ``event_num`` counts from 1 within one video, by start.

    ``given_objects`` are objects that the input already names; then no language model is asked. An event that isn't
    ``asked`` about has no frames, no questions and no row; what sounds in it still counts where it meets another.
    """

    event_num: int
    start_s: float
    end_s: float
    label: str
    label_id: int | None = None
    caption: str | None = None
    given_objects: tuple[SceneObject, ...] | None = None
    asked: bool = True


@dataclass(frozen=True)
class Video:
    """A video as the input annotations describe it. ``path`` may be a file that doesn't exist."""

    video_id: str
    path: str
    duration_s: float
    events: tuple[Event, ...]
    subset: str | None = None


@dataclass(frozen=True)
class VideoMeta:
    """What the container says. Sizes are those of the displayed picture: in square pixels, after rotation.

    ``decoder`` names what read the pictures and its version, ``notes`` what was done to them, "" for nothing.
    """

    duration_s: float
    fps: float
    width: int
    height: int
    has_audio: bool
    decoder: str
    notes: str = ""


@dataclass(frozen=True)
class Loudness:
    """RMS level of the real audio track in dBFS, one value a ``step_s`` from ``start_s`` on; silence is -100."""

    step_s: float
    level_db_T: tuple[float, ...]
    start_s: float = 0.0


@dataclass(frozen=True)
class Track:
    """One object followed through an event; the lists have one entry per time of the event's grid at which it is seen.

    ``detected`` tells where the detector found it (its score is the detector's there, elsewhere the segmenter's);
    empty where that isn't known. ``shot`` counts the cuts of the event before it appeared.
    """

    track_id: int
    name: str
    audible: bool
    times_s: tuple[float, ...]
    boxes_xyxy_px: tuple[Box, ...]
    scores: tuple[float, ...]
    masks_rle: tuple[str, ...] | None = None
    detected: tuple[bool, ...] = ()
    shot: int = 0


@dataclass(frozen=True)
class EventAnnotation:
    """An annotated event: one row of ``annotations/``. ``frame_times_s`` is the grid of the answers' times.

    An event that is set aside before its frames are looked at is rejected with its reason from then on.
    """

    event: Event
    objects: tuple[SceneObject, ...] = ()
    frame_times_s: tuple[float, ...] = ()
    tracks: tuple[Track, ...] = ()
    status: Status = "accepted"
    reasons: tuple[str, ...] = ()

    @property
    def live(self) -> bool:
        """Whether it is asked about and not set aside."""
        return self.event.asked and self.status != "rejected"


@dataclass(frozen=True)
class QAPair:
    """A question with its answer. ``qa_id`` is ``{video}/{event_num}/{task}/{index}``, or as its file has it.

    ``task`` is the name of one (``ravst_ray.tasks``); ``kind`` a finer one that tables are broken down by, or "".
    """

    qa_id: str
    video_id: str
    event_num: int
    task: str
    question: str
    answer: str
    status: Status = "accepted"
    kind: str = ""


@dataclass(frozen=True)
class ErrorRow:
    """Why a video is not in the dataset: one row of ``errors/``."""

    video_id: str
    stage: str
    reason: str
    message: str
    retryable: bool


@dataclass(frozen=True)
class Frames:
    """Sampled frames of one video, in time order, as JPEG files: small enough to travel between nodes.

    ``width`` and ``height`` are those of the JPEGs, which may be smaller than the video.
    """

    times_s: tuple[float, ...]
    width: int
    height: int
    jpegs: tuple[bytes, ...] = field(repr=False, default=())


@dataclass(frozen=True)
class VideoView:
    """A video as the model sees it: frames at 0, ``step_s``, 2 ``step_s``, … of ``width`` x ``height`` pixels.

    ``heard`` tells, where the model is given the video's own sound, whether the file has any that can be read; if not,
    it is given silence.
    """

    frames: int
    step_s: float
    width: int
    height: int
    duration_s: float
    video_width: int
    video_height: int
    heard: bool | None = None


@dataclass(frozen=True)
class VideoItem:
    """A video on its way through the steps; each step returns a copy with more in it.

    ``stats`` holds numbers that are summed over the run (tokens, frames, seconds per stage).
    """

    video: Video
    meta: VideoMeta | None = None
    loudness: Loudness | None = None
    frames: Frames | None = None
    annotations: tuple[EventAnnotation, ...] = ()
    qa: tuple[QAPair, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    stats: Mapping[str, float] = field(default_factory=dict)
    error: ErrorRow | None = None

    def with_stats(self, **more: float) -> VideoItem:
        """A copy in which ``more`` is added to the numbers already there."""
        merged = dict(self.stats)
        for key, value in more.items():
            merged[key] = merged.get(key, 0.0) + value
        return replace(self, stats=merged)

    def to_row(self) -> dict[str, Any]:
        """As a row of a Ray Data block: one JSON column, and the JPEGs beside it as bytes."""
        jpegs = self.frames.jpegs if self.frames else ()
        bare = replace(self, frames=replace(self.frames, jpegs=())) if self.frames else self
        return {"video_id": self.video.video_id, "state": _item_adapter().dump_json(bare), "jpegs": list(jpegs)}

    @staticmethod
    def from_row(row: Mapping[str, Any]) -> VideoItem:
        """The inverse of :meth:`to_row`."""
        item = _item_adapter().validate_json(row["state"])
        if item.frames is None:
            return item
        return replace(item, frames=replace(item.frames, jpegs=tuple(row["jpegs"])))


@cache
def _item_adapter() -> TypeAdapter[VideoItem]:
    from pydantic import TypeAdapter

    return TypeAdapter(VideoItem)


@dataclass(frozen=True)
class NodeCount:
    """The cluster at one moment, ``at`` seconds since 1970. CPUs and GPUs are Ray's logical ones.

    ``nodes`` are all that are alive, the head among them, ``gpu_nodes`` those with a GPU; ``run`` counts the runs on
    the output, from 0 on.
    """

    at: float
    nodes: int
    gpu_nodes: int
    cpus: float
    cpus_used: float
    gpus: float
    gpus_used: float
    run: int = 0

    @property
    def same_as(self) -> tuple[int, int, int]:
        """Equal when no node came or went in between."""
        return self.run, self.nodes, self.gpu_nodes
