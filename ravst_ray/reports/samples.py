"""Sample videos of the report: frames with boxes, a timeline over the waveform, questions and answers."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import pairwise

from PIL import Image

from ravst_ray.config.annotate import DecodeConfig
from ravst_ray.errors import RavstError
from ravst_ray.logs import get_logger
from ravst_ray.media.decoding import ChildDecoder
from ravst_ray.records import EventAnnotation, QAPair, Track
from ravst_ray.reports.figures import ticks, waveform_path
from ravst_ray.reports.overlay import TrackBox, draw_frame, track_colors, tracks_at

log = get_logger(__name__)

FRAMES_BY_SHAPE = {"": 6, "square": 4, "upright": 6}
WAVEFORM_BINS = 480
IMAGE_SIDE_PX = 640
_DECODING = DecodeConfig.model_validate({"backend": "pyav", "max_side_px": 2 * IMAGE_SIDE_PX, "deadline_s": 60.0})


@dataclass(frozen=True)
class SampleVideo:
    """A video that the report shows. ``width`` and ``height`` are those that its boxes refer to."""

    video_id: str
    path: str
    duration_s: float
    width: int
    height: int
    annotations: tuple[EventAnnotation, ...] = ()
    qa: tuple[QAPair, ...] = ()


@dataclass(frozen=True)
class SampleFrame:
    """A drawn frame; ``uri`` is a data URI, ``alt`` says what is in it."""

    time_s: float
    event_num: int | None
    uri: str = field(repr=False)
    width: int
    height: int
    alt: str


@dataclass(frozen=True)
class Span:
    """An interval on the time axis, as percentages of its length."""

    start_s: float
    end_s: float
    left: float
    width: float


@dataclass(frozen=True)
class Lane:
    """One object's row in the timeline."""

    name: str
    audible: bool
    color: str
    seen_s: int
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class EventLanes:
    """An event's row and those of its objects."""

    annotation: EventAnnotation
    span: Span
    lanes: tuple[Lane, ...]


@dataclass(frozen=True)
class SampleCard:
    """All that the template needs for one sample; ``problem`` and ``sound_problem`` are messages, or None."""

    video: SampleVideo
    axis_s: float
    ticks: list[float]
    events: tuple[EventLanes, ...]
    frames: tuple[SampleFrame, ...] = ()
    wave: str = ""
    wave_bins: int = WAVEFORM_BINS
    problem: str | None = None
    sound_problem: str | None = None

    @property
    def shape(self) -> str:
        """``""`` for a wide picture, else ``"square"`` or ``"upright"``: decides on how frames are laid out."""
        return _shape(self.video)


def sample_cards(videos: Sequence[SampleVideo]) -> list[SampleCard]:
    """Reads the videos and draws them. A file that can't be read gives a card that says so."""
    with closing(ChildDecoder(_DECODING)) as decoder:
        return [_card(video, decoder) for video in videos]


def pick_times(video: SampleVideo, count: int) -> list[tuple[float, int | None]]:
    """At most ``count`` sampled times with their event, spread over all events, in time order."""
    sampled = [item for item in video.annotations if item.frame_times_s]
    if not sampled:
        return [(video.duration_s * (index + 0.5) / count, None) for index in range(count)]
    chosen = _spread(sampled, count)
    picked: dict[float, int | None] = {}
    for order, item in enumerate(chosen):
        share = count // len(chosen) + (order < count % len(chosen))
        for time_s in _spread(item.frame_times_s, share):
            picked.setdefault(time_s, item.event.event_num)
    return sorted(picked.items())


def visible_spans(track: Track, step_s: float, end_s: float) -> list[tuple[float, float]]:
    """Intervals in which a track has boxes; each box stands for ``step_s``, cut at ``end_s``."""
    spans: list[tuple[float, float]] = []
    for time_s in sorted(track.times_s):
        stop_s = max(min(time_s + step_s, end_s), time_s)
        if spans and time_s - spans[-1][1] <= step_s * 0.25:
            spans[-1] = (spans[-1][0], stop_s)
        else:
            spans.append((time_s, stop_s))
    return spans


def _spread(items: Sequence, count: int) -> list:
    """``count`` items at equal distances, first and last among them (the middle one when one is wanted)."""
    if count >= len(items):
        return list(items)
    if count == 1:
        return [items[len(items) // 2]]
    return [items[round(index * (len(items) - 1) / (count - 1))] for index in range(count)]


def _shape(video: SampleVideo) -> str:
    ratio = video.width / max(video.height, 1)
    return "" if ratio > 1.2 else "square" if ratio > 0.8 else "upright"


def _card(video: SampleVideo, decoder: ChildDecoder) -> SampleCard:
    axis_s = max([video.duration_s, 0.1, *(item.event.end_s for item in video.annotations)])
    bare = SampleCard(video, axis_s, ticks(axis_s), _lanes(video, axis_s))
    picks = dict(pick_times(video, FRAMES_BY_SHAPE[bare.shape]))
    try:
        decoded = decoder.decode(video.path, list(picks))
    except RavstError as error:
        log.warning("%s: not shown in the report: %s", video.video_id, error)
        return replace(bare, problem=str(error))
    pictures = zip(decoded.frames.times_s, decoded.frames.jpegs, strict=True)
    frames = tuple(_drawn(video, time_s, picks[time_s], jpeg) for time_s, jpeg in pictures)
    problem = None if frames else "None of its annotated seconds has a picture."
    wave, sound_problem = _wave(video, axis_s, decoder) if decoded.meta.has_audio else ("", "This video has no sound.")
    return replace(bare, frames=frames, problem=problem, wave=wave, sound_problem=sound_problem)


def _wave(video: SampleVideo, axis_s: float, decoder: ChildDecoder) -> tuple[str, str | None]:
    """The waveform's path, and a message where there is none."""
    try:
        outline = decoder.waveform(video.path, WAVEFORM_BINS, axis_s)
    except RavstError as error:
        log.warning("%s: no waveform in the report: %s", video.video_id, error)
        return "", f"The sound track can't be shown: {error}."
    if outline is None:
        return "", "The sound track is broken."
    return waveform_path(outline.tolist()), None


def _drawn(video: SampleVideo, time_s: float, event_num: int | None, jpeg: bytes) -> SampleFrame:
    boxes = _boxes(video, time_s, event_num)
    image = Image.open(io.BytesIO(jpeg))
    drawn = draw_frame(image, boxes, min(2.0, IMAGE_SIDE_PX / max(image.size)), (video.width, video.height))
    names = ", ".join(f"{box.name} ({'audible' if box.audible else 'silent'})" for box in boxes) or "no boxes"
    return SampleFrame(time_s, event_num, data_uri(drawn), *drawn.size, f"Frame at {time_s:.1f} s: {names}")


def _boxes(video: SampleVideo, time_s: float, event_num: int | None) -> list[TrackBox]:
    colors = track_colors(video.annotations)
    for item in video.annotations:
        if item.event.event_num == event_num:
            by_id = {track.track_id: colors[item.event.event_num, track.track_id] for track in item.tracks}
            return tracks_at(item.tracks, time_s, by_id)
    return []


def data_uri(image: Image.Image) -> str:
    """A picture as a JPEG within the page."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=86, subsampling=0, optimize=True)  # full chroma keeps coloured lines clean
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()


def _lanes(video: SampleVideo, axis_s: float) -> tuple[EventLanes, ...]:
    colors = track_colors(video.annotations)

    def span(start_s: float, end_s: float) -> Span:
        return Span(start_s, end_s, 100 * start_s / axis_s, 100 * max(end_s - start_s, 0.0) / axis_s)

    events = []
    for item in video.annotations:
        grid = item.frame_times_s
        step_s = min((b - a for a, b in pairwise(grid) if b > a), default=1.0)
        lanes = [
            Lane(
                track.name,
                track.audible,
                colors[item.event.event_num, track.track_id],
                len(track.times_s),
                tuple(span(*part) for part in visible_spans(track, step_s, item.event.end_s)),
            )
            for track in item.tracks
        ]
        tracked = {track.name for track in item.tracks}
        lanes += [Lane(o.name, o.audible, "", 0, ()) for o in item.objects if o.name not in tracked]
        events.append(EventLanes(item, span(item.event.start_s, item.event.end_s), tuple(lanes)))
    return tuple(events)
