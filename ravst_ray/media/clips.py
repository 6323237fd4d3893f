"""From a decoded video to the frames that a video-LLM is shown, and the record of how they are shown."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ravst_ray.errors import StepError
from ravst_ray.media.protocols import Decoder
from ravst_ray.records import VideoView

if TYPE_CHECKING:
    from ravst_ray.config.video_llm import FramesConfig

SAMPLE_RATE_HZ = 16_000  # of the sound that models hear


@dataclass(frozen=True)
class Clip:
    """What a model is shown of one video.

    Attributes:
        video_id: of the dataset.
        frames: ``uint8 [T, H, W, 3]``, RGB, both sides multiples of the family's patch.
        step_s: seconds between frames.
        sound: ``float32 [round(T * step_s * 16000)]``, mono, 16 kHz, from the first frame on; None where the model is
            shown frames alone.
    """

    video_id: str
    frames: np.ndarray = field(repr=False)
    step_s: float
    sound: np.ndarray | None = field(default=None, repr=False)


def view_times(duration_s: float, config: FramesConfig) -> tuple[float, tuple[float, ...]]:
    """The step in seconds and the times of the frames: every ``step_s``, or a multiple of it for long videos.

    ``uniform`` frames are ``max_frames`` in number, the first at 0, each ``duration_s / max_frames`` after the last.

    Raises:
        StepError: ``step_too_long``, the multiple is longer than ``max_step_s``.

    Example:
        >>> from ravst_ray.config.video_llm import FramesConfig
        >>> view_times(3.0, FramesConfig(max_frames=2))
        (2.0, (0.0, 2.0))
    """
    step_s = config.step_s * max(1, math.ceil(duration_s / config.step_s / config.max_frames - 1e-9))
    if config.uniform and duration_s > 0:
        step_s = duration_s / config.max_frames
    if config.max_step_s is not None and step_s > config.max_step_s:
        message = (
            f"{duration_s:g} s in frames.max_frames = {config.max_frames} frames means {step_s:g} s between them, "
            f"at most {config.max_step_s:g} s are allowed; raise max_frames, or leave the video out"
        )
        raise StepError("step_too_long", message)
    count = min(max(math.ceil(duration_s / step_s - 1e-9), 1), config.max_frames)
    return step_s, tuple(round(index * step_s, 6) for index in range(count))


def view_size(width: int, height: int, frames: int, config: FramesConfig) -> tuple[int, int]:
    """Size of the frames shown: both sides multiples of ``multiple_px``, the aspect kept as well as that allows.

    The pixels of a frame lie within ``min_pixels`` and ``max_pixels``, and those of all within ``total_pixels`` unless
    that would go below ``min_pixels``. The model's own resizing then leaves them as they are.

    Example:
        >>> from ravst_ray.config.video_llm import FramesConfig
        >>> view_size(1280, 720, 10, FramesConfig(max_pixels=28 * 28 * 100))
        (364, 196)
    """
    most = max(min(config.max_pixels, config.total_pixels // max(frames, 1)), config.min_pixels)
    area, multiple = width * height, config.multiple_px
    scale = math.sqrt(min(max(area, config.min_pixels), most) / area)
    across, down = (max(1, round(side * scale / multiple)) for side in (width, height))
    while across * down * multiple**2 > most and across * down > 1:
        # The side whose loss harms the aspect least.
        wide = across / down > width / height
        across, down = (across - 1, down) if (wide and across > 1) or down == 1 else (across, down - 1)
    while across * down * multiple**2 < config.min_pixels:
        across, down = (across + 1, down) if across / down <= width / height else (across, down + 1)
    return across * multiple, down * multiple


def sound_samples(frames: int, step_s: float, config: FramesConfig) -> int | None:
    """Samples of the sound beside so many frames; None where the model is shown frames alone."""
    return round(frames * step_s * SAMPLE_RATE_HZ) if config.sound in ("own", "silence") else None


def file_duration_s(decoder: Decoder, path: str) -> float:
    """How long a video is by its own account, where the dataset doesn't state it.

    Raises:
        StepError: the file can't be used.
    """
    return decoder.decode(path, (0.0,)).meta.duration_s


def show_video(
    decoder: Decoder, video_id: str, path: str, duration_s: float, config: FramesConfig
) -> tuple[Clip, VideoView]:
    """Decode a video once, bring its frames to the size that the model is shown, and cut its sound to their length.

    Args:
        decoder: reads the file.
        video_id: of the dataset.
        path: of the file.
        duration_s: as the dataset states it; frames beyond the real end are left out. 0: the file's own.
        config: how many frames, how large, and which sound; ``auto`` is none, as nobody has asked the model.

    Raises:
        StepError: the file can't be used, has no frame within the stated duration, or is too long (:func:`view_times`).
    """
    duration_s = duration_s or file_duration_s(decoder, path)
    step_s, times = view_times(duration_s, config)
    decoded = decoder.decode(path, times)
    count = len(decoded.frames.jpegs)
    if not count or decoded.frames.times_s != times[:count]:
        raise StepError("no_frames", f"{video_id}: no run of frames from 0 s on in {path}; is it the right file?")
    size = view_size(decoded.meta.width, decoded.meta.height, count, config)
    frames = np.stack([resized(jpeg, size) for jpeg in decoded.frames.jpegs])
    sound, heard = _sound(decoder, path, sound_samples(count, step_s, config), config.sound == "own")
    meta = decoded.meta
    view = VideoView(count, step_s, size[0], size[1], duration_s, meta.width, meta.height, heard)
    return Clip(video_id, frames, step_s, sound), view


def _sound(decoder: Decoder, path: str, count: int | None, own: bool) -> tuple[np.ndarray | None, bool | None]:
    if count is None:
        return None, None
    found = decoder.samples(path, count / SAMPLE_RATE_HZ) if own else None
    return np.zeros(count, np.float32) if found is None else found, found is not None if own else None


def resized(jpeg: bytes, size: tuple[int, int]) -> np.ndarray:
    """A picture as ``uint8 [H, W, 3]`` of ``size`` (width, height), by bicubic interpolation."""
    with Image.open(io.BytesIO(jpeg)) as image:
        return np.asarray(image.convert("RGB").resize(size, Image.Resampling.BICUBIC))
