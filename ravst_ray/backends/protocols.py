"""The narrow protocols behind which the heavy libraries live. This module imports none of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ravst_ray.records import Box


@dataclass(frozen=True)
class Clip:
    """The frames that a model is shown of one video.

    Attributes:
        video_id: of the dataset.
        frames: ``uint8 [T, H, W, 3]``, RGB, both sides multiples of the family's patch.
        step_s: seconds between frames.
    """

    video_id: str
    frames: np.ndarray = field(repr=False)
    step_s: float


@dataclass(frozen=True)
class Completion:
    """One answer of the model.

    Attributes:
        token_ids: what was sampled, the end token included where it was reached.
        logprobs: of those tokens under the distribution that they were sampled from (after temperature and bans); empty
            unless asked for.
        versions: the weight version that each token was sampled with; empty for an engine that never gets others.
        text: decoded, without special tokens.
        truncated: the token limit was hit.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    versions: tuple[int, ...]
    text: str
    truncated: bool


@dataclass(frozen=True)
class Generation:
    """The completions of one prompt, and its token ids with the video's placeholders expanded."""

    prompt_ids: tuple[int, ...]
    completions: tuple[Completion, ...]


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


@dataclass(frozen=True)
class ChatAnswer:
    """What a language model said, and what it cost.

    Attributes:
        text: without what it thought, where the endpoint tells the two apart.
        prompt_tokens, completion_tokens: what was counted.
        cut_off: the token limit was hit.
        adapted: what was sent otherwise than asked, because the endpoint doesn't take it; keys of
            :data:`ravst_ray.backends.dialect.ADAPTATIONS`.
    """

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cut_off: bool = False
    adapted: tuple[str, ...] = ()


class ChatModel(Protocol):
    """A language model that is talked to."""

    async def complete(
        self,
        messages: list[dict[str, Any]],
        schema: dict[str, Any] | None = None,
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> ChatAnswer:
        """Ask once; ``schema`` (JSON schema) shapes the answer.

        Raises ``StepError`` for this request, ``AbortError`` where every request would fail.
        """
        ...
