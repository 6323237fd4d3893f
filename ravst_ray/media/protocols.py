"""What a decoder is, and what it gives back. This module imports no library that decodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ravst_ray.records import Frames, Loudness, VideoMeta


@dataclass(frozen=True)
class DecodedVideo:
    """What a decoder gives back for one video."""

    meta: VideoMeta
    frames: Frames
    loudness: Loudness | None


@dataclass(frozen=True)
class Timeline:
    """When a file's pictures are shown, and what a player needs to know of it.

    Attributes:
        meta: what the file says.
        container: FFmpeg's names of the format.
        codec: FFmpeg's name of the codec.
        pixels: FFmpeg's name of the pixel format.
        starts_s_T: when each picture begins to be shown, rising, in seconds from the start of the video.
        end_s: when the last one ends.
        player_offset_s: a browser's time is the video's time plus this.
        notes: what was done to the pictures, in words.
    """

    meta: VideoMeta
    container: str
    codec: str
    pixels: str
    starts_s_T: tuple[float, ...]
    end_s: float
    player_offset_s: float
    notes: tuple[str, ...]


class Decoder(Protocol):
    """Reads sampled frames and the loudness of one file; raises ``StepError`` when the file can't be used."""

    def decode(self, path: str, times_s: Sequence[float]) -> DecodedVideo:
        """Frames at ``times_s`` (sorted, unique); times past the last frame are left out."""
        ...

    def samples(self, path: str, duration_s: float) -> np.ndarray | None:
        """The sound of ``[0, duration_s)``: float32, mono, 16,000 samples a second; None where none can be read."""
        ...
