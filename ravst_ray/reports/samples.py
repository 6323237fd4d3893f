"""Sample videos of the report: frames with boxes, a timeline over the waveform, questions and answers."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from PIL import Image

from ravst_ray.logs import get_logger
from ravst_ray.records import EventAnnotation, QAPair, Track
from ravst_ray.reports.figures import ticks, waveform_path
from ravst_ray.reports.overlay import TrackBox, draw_frame, track_colors, tracks_at

log = get_logger(__name__)

FRAMES_PER_VIDEO = 6
WAVEFORM_BINS = 480
_IMAGE_SIDE_PX = 640


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


def sample_card(video: SampleVideo) -> SampleCard:
    """Reads the video and draws it. A file that can't be read gives a card that says so."""
    axis_s = max([video.duration_s, 0.1, *(item.event.end_s for item in video.annotations)])
    frames, problem = _frames(video)
    wave, sound_problem = _waveform(video.path) if problem is None else ("", None)
    return SampleCard(
        video, axis_s, ticks(axis_s), _lanes(video, axis_s), frames, wave, problem=problem, sound_problem=sound_problem
    )


def pick_times(video: SampleVideo, count: int = FRAMES_PER_VIDEO) -> list[tuple[float, int | None]]:
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


def _frames(video: SampleVideo) -> tuple[tuple[SampleFrame, ...], str | None]:
    from ravst_ray.backends.pyav_decoder import decode_frames

    picks = pick_times(video)
    try:
        pictures = decode_frames(video.path, [time_s for time_s, _ in picks])
        drawn = tuple(
            _drawn(video, time_s, event_num, picture)
            for (time_s, event_num), picture in zip(picks, pictures, strict=False)
        )
    except Exception as error:  # a file from outside, read by native code: whatever it raises must not end the report
        log.warning("%s: sample not shown: %s", video.video_id, error)
        return (), f"{error}" or type(error).__name__
    return drawn, None if drawn else "No frame could be decoded."


def _waveform(path: str) -> tuple[str, str | None]:
    from ravst_ray.backends.audio import waveform

    try:
        levels = waveform(path, WAVEFORM_BINS)
    except Exception as error:  # as above
        log.warning("%s: waveform not shown: %s", path, error)
        return "", f"The sound could not be read: {error}"
    if levels is None or len(levels) == 0:
        return "", "This video has no sound."
    return waveform_path(levels), None


def _drawn(video: SampleVideo, time_s: float, event_num: int | None, picture) -> SampleFrame:
    boxes = _boxes(video, time_s, event_num)
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    scale = min(2.0, _IMAGE_SIDE_PX / max(image.size))
    drawn = draw_frame(image, boxes, scale, (video.width, video.height))
    names = ", ".join(f"{box.name} ({'audible' if box.audible else 'silent'})" for box in boxes) or "no boxes"
    return SampleFrame(time_s, event_num, _data_uri(drawn), *drawn.size, f"Frame at {time_s:.1f} s: {names}")


def _boxes(video: SampleVideo, time_s: float, event_num: int | None) -> list[TrackBox]:
    colors = track_colors(video.annotations)
    for item in video.annotations:
        if item.event.event_num == event_num:
            by_id = {track.track_id: colors[item.event.event_num, track.track_id] for track in item.tracks}
            return tracks_at(item.tracks, time_s, by_id)
    return []


def _data_uri(image: Image.Image) -> str:
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
