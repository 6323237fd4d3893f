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


class Decoder(Protocol):
    """Reads sampled frames and the loudness of one file; raises ``StepError`` when the file can't be used."""

    def decode(self, path: str, times_s: Sequence[float]) -> DecodedVideo:
        """Frames at ``times_s`` (sorted, unique); times past the last frame are left out."""
        ...

    def samples(self, path: str, duration_s: float) -> np.ndarray | None:
        """The sound of ``[0, duration_s)``: float32, mono, 16,000 samples a second; None where none can be read."""
        ...
