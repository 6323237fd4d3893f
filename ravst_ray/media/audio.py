"""The sound track: its level over time, its outline for a picture, and its samples for a model that hears.

Times are those of the pictures (see :mod:`ravst_ray.media.index`).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import av
import numpy as np
from av.container import InputContainer

from ravst_ray.logs import get_logger
from ravst_ray.media.clips import SAMPLE_RATE_HZ
from ravst_ray.media.container import open_video, origin_s
from ravst_ray.media.index import Span
from ravst_ray.records import Loudness

log = get_logger(__name__)

STEP_S = 0.1
SILENCE_DB = -100.0
_JITTER_S = 0.02  # timestamps are rounded, samples are not: only a larger difference is a gap
_TINY_S = 1e-6  # two frames of one run follow each other exactly: positions are counted in samples
_TOLERATED = 0.01  # share of broken packets: a click, not a broken track
_LOUDEST = 8.0  # of full scale; codecs overshoot a little, but a track of floats may say 1e30, of which nothing is left

Chunk = tuple[float, int, np.ndarray]  # start in seconds, samples a second, samples [channels, n] in [-1, 1]


class BrokenAudio(Exception):
    """The sound track can't be decoded."""


def loudness(path: str, duration_s: float, part: Span | None = None) -> Loudness | None:
    """RMS level per 0.1 s over ``[0, duration_s)``, in dB below full scale, the channels' powers averaged.

    A sine that reaches full scale has -3.01 dB; where the track has no sound, or no samples, it is -100 dB.
    With ``part`` only that part of the track is read, and told.
    None where there is no sound track, or a broken one (which is logged).
    """
    start_s = math.floor(part.start_s / STEP_S) * STEP_S if part else 0.0
    duration_s = (min(duration_s, part.end_s) if part else duration_s) - start_s
    count = max(1, int(np.ceil(round(duration_s / STEP_S, 6))))
    energy, samples = np.zeros(count), np.zeros(count)
    try:
        with open_video(path) as container:
            if not container.streams.audio:
                return None
            for chunk in _chunks(container, part):
                bins, starts, values = _binned(chunk, start_s, STEP_S, count)
                if len(bins):
                    energy[bins] += np.add.reduceat(np.square(values).mean(axis=0), starts)
                    samples[bins] += np.diff(starts, append=values.shape[1])
    except (BrokenAudio, av.error.FFmpegError) as error:
        log.warning("%s: the sound track is broken, its level stays unknown: %s", path, error)
        return None
    power = energy / np.maximum(samples, 1)
    level_db = np.maximum(10 * np.log10(np.maximum(power, 1e-20)), SILENCE_DB)
    return Loudness(STEP_S, tuple(round(float(level), 2) for level in level_db), round(start_s, 6))


def waveform(path: str, bins: int, duration_s: float | None = None) -> np.ndarray | None:
    """Lowest and highest sample in each of ``bins`` equal parts of ``[0, duration_s)``: float ``[bins, 2]`` in [-1, 1].

    ``duration_s`` defaults to the container's. None where there is no sound track, or a broken one.
    """
    outline = np.zeros((bins, 2))
    try:
        with open_video(path) as container:
            length_s = duration_s or (container.duration or 0) / av.time_base
            if not container.streams.audio or length_s <= 0:
                return None
            for chunk in _chunks(container):
                places, starts, values = _binned(chunk, 0.0, length_s / bins, bins)
                if len(places):
                    outline[places, 0] = np.minimum(outline[places, 0], np.minimum.reduceat(values.min(axis=0), starts))
                    outline[places, 1] = np.maximum(outline[places, 1], np.maximum.reduceat(values.max(axis=0), starts))
    except (BrokenAudio, av.error.FFmpegError) as error:
        log.warning("%s: the sound track is broken, no waveform: %s", path, error)
        return None
    return np.clip(outline, -1, 1)


def samples(path: str, duration_s: float, rate_hz: int = SAMPLE_RATE_HZ) -> np.ndarray | None:
    """The sound of ``[0, duration_s)``: float32 ``[round(duration_s * rate_hz)]``, the mean of all channels.

    Where the track has no samples (it starts late, ends early, has gaps) it is 0; it is cut off at 8 times full scale.
    None where there is no sound track, or a broken one (which is logged).
    """
    mixed = np.zeros(round(duration_s * rate_hz), np.float32)
    part = Span(0.0, duration_s)
    try:
        with open_video(path) as container:
            if not container.streams.audio:
                return None
            for start, run in _resampled(_frames(container, part), rate_hz):
                end = min(start + len(run), len(mixed))
                if end > max(start, 0):
                    mixed[max(start, 0) : end] = run[max(-start, 0) : end - start]
    except (BrokenAudio, av.error.FFmpegError) as error:
        log.warning("%s: the sound track is broken, none is heard: %s", path, error)
        return None
    return np.clip(np.nan_to_num(mixed, posinf=0.0, neginf=0.0), -_LOUDEST, _LOUDEST)


def _resampled(frames: Iterator[tuple[float, av.AudioFrame]], rate_hz: int) -> Iterator[tuple[int, np.ndarray]]:
    """Mono sound, piece by piece, and where each piece starts, in samples; a gap starts a new run of its own."""
    resampler, kind, end_s, place = None, None, -math.inf, 0
    for start_s, frame in frames:
        found = (frame.format.name, frame.layout.name, frame.sample_rate)
        if resampler is None or found != kind or abs(start_s - end_s) > _TINY_S:
            if resampler is not None:
                yield place, _joined(resampler.resample(None))
            resampler, kind = av.AudioResampler(format="fltp", rate=rate_hz), found
            place = round(start_s * rate_hz)
        frame.pts = None  # where it stands is known; what the track states jitters
        piece = _joined(resampler.resample(frame))
        yield place, piece
        place += len(piece)
        end_s = start_s + frame.samples / frame.sample_rate
    if resampler is not None:
        yield place, _joined(resampler.resample(None))


def _joined(frames: list[av.AudioFrame]) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.float32), *(frame.to_ndarray().mean(axis=0) for frame in frames)])


def _binned(chunk: Chunk, zero_s: float, step_s: float, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Those of ``count`` bins from ``zero_s`` on that a chunk reaches, where each starts, and the samples in them."""
    start_s, rate, samples = chunk
    place = np.floor((start_s - zero_s + np.arange(samples.shape[1]) / rate) / step_s + 1e-9).astype(np.int64)
    inside = slice(*np.searchsorted(place, [0, count]))
    place, samples = place[inside], samples[:, inside]
    starts = np.flatnonzero(np.diff(place, prepend=-1))
    return place[starts], starts, samples


def _chunks(container: InputContainer, part: Span | None = None) -> Iterator[Chunk]:
    for position_s, frame in _frames(container, part):
        yield position_s, frame.sample_rate, _to_float(frame)


def _frames(container: InputContainer, part: Span | None = None) -> Iterator[tuple[float, av.AudioFrame]]:
    """Decoded frames and when each starts, in seconds.

    Raises:
        BrokenAudio: too many packets can't be decoded.
    """
    stream = container.streams.best("audio")
    origin, position_s = origin_s(container), -math.inf
    packets = broken = decoded = 0
    if part and part.start_s > 0:
        with contextlib.suppress(av.error.FFmpegError):  # then from the start
            container.seek(int((part.start_s + origin) / stream.time_base), stream=stream, backward=True)
    for packet in container.demux(stream):
        if part and position_s > part.end_s:
            break
        packets += packet.size > 0
        try:
            # A stream may change its kind in the middle of a broken file.
            frames = [frame for frame in packet.decode() if isinstance(frame, av.AudioFrame)]
        except av.error.InvalidDataError:
            broken += 1
            continue
        for frame in frames:
            if frame.pts is not None and frame.time_base is not None:
                stated_s = float(frame.pts * frame.time_base) - origin
                position_s = position_s if abs(stated_s - position_s) <= _JITTER_S else stated_s
            elif math.isinf(position_s):
                position_s = 0.0
            yield position_s, frame
            position_s += frame.samples / frame.sample_rate
            decoded += 1
    if (packets and not decoded) or broken > max(1, _TOLERATED * packets):
        raise BrokenAudio(f"{broken} of {packets} packets can't be decoded")


def _to_float(frame: av.AudioFrame) -> np.ndarray:
    """Samples as float ``[channels, n]`` in [-1, 1], from whatever the codec gives."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    if samples.dtype.kind == "u":
        return samples.astype(np.float32) / 128 - 1
    if samples.dtype.kind == "i":
        return samples.astype(np.float32) / -float(np.iinfo(samples.dtype).min)
    return np.nan_to_num(samples.astype(np.float32, copy=False))
