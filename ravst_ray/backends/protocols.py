"""The narrow protocols behind which the heavy libraries live. This module imports none of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ravst_ray.records import Box, Frames, Loudness, VideoMeta


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


@dataclass(frozen=True)
class Detection:
    """One detected box, in pixels of the given frame. ``phrase`` indexes the list of names that was asked for."""

    phrase: int
    box_xyxy_px: Box
    score: float


class Detector(Protocol):
    """Finds named objects in frames (Grounding DINO)."""

    def detect(self, frames_T: Sequence[np.ndarray], names: Sequence[str]) -> list[list[Detection]]:
        """Detections per frame, sorted by falling score. Frames are uint8 RGB ``[H, W, 3]`` of one size."""
        ...


class MaskSession(Protocol):
    """A segmenter's memory over a run of frames; frame indices count from 0 in the order of ``add_frame``-less use."""

    def add_boxes(self, frame: int, boxes: dict[int, Box]) -> dict[int, tuple[np.ndarray, float]]:
        """Start or refresh objects by box at ``frame``; gives mask ``[H, W]`` bool and score in [0, 1] per object id."""
        ...

    def propagate(self, start: int, stop: int) -> Iterator[tuple[int, dict[int, tuple[np.ndarray, float]]]]:
        """Follow all objects over frames ``start <= t < stop``; yields (t, masks and scores per object id)."""
        ...


class Segmenter(Protocol):
    """Follows objects through frames by their masks (SAM 2)."""

    def session(self, frames_T: Sequence[np.ndarray]) -> MaskSession:
        """A fresh memory over these frames (uint8 RGB ``[H, W, 3]``)."""
        ...
