"""Detector and segmenter as the annotation graph sees them. This module imports no heavy library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ravst_ray.records import Box


@dataclass(frozen=True)
class Detection:
    """One detected box, in pixels of the given frame, which it doesn't leave; a pixel wide and high at least.

    ``phrase`` indexes the list of names that was asked for.
    """

    phrase: int
    box_xyxy_px: Box
    score: float


class Detector(Protocol):
    """Finds named objects in frames (Grounding DINO)."""

    def detect(self, frames_T: Sequence[np.ndarray], names: Sequence[str]) -> list[list[Detection]]:
        """Detections per frame, sorted by falling score. Frames are uint8 RGB ``[H, W, 3]`` of one size."""
        ...


@dataclass(frozen=True)
class ObjectMask:
    """Where an object is in one frame. ``score`` in [0, 1] says how sure the segmenter is; no pixels: not visible."""

    mask: np.ndarray
    score: float


@dataclass(frozen=True)
class Candidate:
    """The mask of a prompted box, and what a memory needs to follow it (opaque; belongs to the memory that made it)."""

    seen: ObjectMask
    state: Any = None


class MaskMemory(Protocol):
    """A segmenter's memory over a stream of frames. It holds one frame and a bounded past of each followed object.

    For every frame: :meth:`advance`, then, in any order, :meth:`segment`, :meth:`adopt` and :meth:`forget`.
    """

    def advance(self, frame: np.ndarray) -> dict[int, ObjectMask]:
        """Take the next frame (uint8 RGB ``[H, W, 3]``, one size throughout); where each followed object is in it."""
        ...

    def segment(self, boxes_N: Sequence[Box]) -> list[Candidate]:
        """The masks of boxes (pixels of the current frame), from this frame alone, without regard to the past."""
        ...

    def adopt(self, object_id: int, candidate: Candidate) -> None:
        """Follow a candidate of the current frame: as a new object, or as a known one seen afresh."""
        ...

    def forget(self, object_id: int) -> None:
        """Stop following an object."""
        ...


class Segmenter(Protocol):
    """Follows objects through frames by their masks (SAM 2)."""

    def memory(self) -> MaskMemory:
        """A fresh memory."""
        ...
