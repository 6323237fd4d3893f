"""From a decoded video to the frames that a video-LLM is shown."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from ravst_ray.backends.protocols import Clip
from ravst_ray.backends.video_prompts import VideoView, view_size, view_times
from ravst_ray.config.video_llm import FramesConfig
from ravst_ray.errors import StepError
from ravst_ray.media.protocols import Decoder


def show_video(
    decoder: Decoder, video_id: str, path: str, duration_s: float, config: FramesConfig
) -> tuple[Clip, VideoView]:
    """Decode a video once and bring its frames to the size that the model is shown.

    Args:
        decoder: reads the file.
        video_id: of the dataset.
        path: of the file.
        duration_s: as the dataset states it; frames beyond the real end are left out.
        config: how many frames, how large.

    Raises:
        StepError: the file can't be used, or has no frame within the stated duration.
    """
    step_s, times = view_times(duration_s, config)
    decoded = decoder.decode(path, times)
    count = len(decoded.frames.jpegs)
    if not count or decoded.frames.times_s != times[:count]:
        raise StepError("no_frames", f"{video_id}: no run of frames from 0 s on in {path}; is it the right file?")
    size = view_size(decoded.meta.width, decoded.meta.height, count, config)
    frames = np.stack([resized(jpeg, size) for jpeg in decoded.frames.jpegs])
    view = VideoView(count, step_s, size[0], size[1], duration_s, decoded.meta.width, decoded.meta.height)
    return Clip(video_id, frames, step_s), view


def resized(jpeg: bytes, size: tuple[int, int]) -> np.ndarray:
    """A picture as ``uint8 [H, W, 3]`` of ``size`` (width, height), by bicubic interpolation."""
    with Image.open(io.BytesIO(jpeg)) as image:
        return np.asarray(image.convert("RGB").resize(size, Image.Resampling.BICUBIC))
