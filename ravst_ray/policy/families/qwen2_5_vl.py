"""Qwen2.5-VL: sees, and is deaf.

Positions are vLLM's, because transformers' continue the text after a video elsewhere (at ``start + max(h, w)`` instead
of after the largest position).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ravst_ray.media.clips import Clip
from ravst_ray.policy.families.chat import chat_text, expanded, ids_of, ids_to_ban, vl_positions
from ravst_ray.policy.families.protocols import LINEAR, BoxSpace, Shape
from ravst_ray.policy.families.vl import VLLearner

PATCH_PX, MERGE, TEMPORAL_PATCH = 14, 2, 2
FRAME_MULTIPLE = PATCH_PX * MERGE
_PAD = "<|video_pad|>"
_MEDIA = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", _PAD)


class Qwen25VL:
    """See :class:`~ravst_ray.policy.families.protocols.Family`."""

    name = "Qwen2.5-VL"
    model_types: tuple[str, ...] = ("qwen2_5_vl",)
    frame_multiple = FRAME_MULTIPLE
    hears = False
    max_step_s = math.inf
    box_space: BoxSpace = "frame"
    adapter_targets = LINEAR
    processor_kwargs: dict[str, Any] = {  # noqa: RUF012
        # Frames come in their final size: the processor must not resize them. Its bounds only widen.
        "size": {"shortest_edge": FRAME_MULTIPLE**2, "longest_edge": 2**24},
        "cap_pixels_per_frame": False,
    }

    def prompt_ids(self, tokenizer: Any, text: str, shape: Shape | None) -> list[int]:
        """See :meth:`Family.prompt_ids`."""
        if shape is None:
            return ids_of(tokenizer, chat_text(tokenizer, text))
        time, height, width = self.grid(shape)
        ids = ids_of(tokenizer, chat_text(tokenizer, text, _PAD))
        return expanded(ids, tokenizer.convert_tokens_to_ids(_PAD), time * height * width // MERGE**2)

    @staticmethod
    def grid(shape: Shape) -> tuple[int, int, int]:
        """Patches of a clip: time, height, width; an odd last frame counts twice."""
        return -(-shape.frames // TEMPORAL_PATCH), shape.height // PATCH_PX, shape.width // PATCH_PX

    @staticmethod
    def seconds_per_grid(step_s: float) -> float:
        """Seconds of one temporal patch of frames that are ``step_s`` apart, to the eight bits that bfloat16 has.

        vLLM has them in the precision that its model computes in, so with more bits the positions of a video would
        depend on it (and differ from the learner's). The error is below 0.4%, and there is none for 0.5, 1, 2, 4 …

            >>> Qwen25VL.seconds_per_grid(1.0), Qwen25VL.seconds_per_grid(1.4)
            (2.0, 2.796875)
        """
        fraction, exponent = math.frexp(TEMPORAL_PATCH * step_s)
        return math.ldexp(round(fraction * 256), exponent - 8)

    def metadata(self, frames: int, step_s: float) -> dict[str, Any]:
        """What processors want to know of a video of ``frames`` frames, one every ``step_s`` seconds.

        For vLLM; transformers' processor takes all but ``do_sample_frames``.
        """
        return {
            "fps": TEMPORAL_PATCH / self.seconds_per_grid(step_s),
            "duration": frames * step_s,
            "total_num_frames": frames,
            "frames_indices": list(range(frames)),
            "video_backend": "ravst",
            "do_sample_frames": False,
        }

    def positions(self, prompt_ids: Sequence[int], shape: Shape | None, config: Any) -> np.ndarray:
        """See :meth:`Family.positions`."""
        if shape is None:
            return np.broadcast_to(np.arange(len(prompt_ids)), (3, len(prompt_ids)))
        seconds, per_second = self.seconds_per_grid(shape.step_s), config.vision_config.tokens_per_second
        return vl_positions(prompt_ids, config.video_token_id, self.grid(shape), seconds, per_second, MERGE)

    def banned_ids(self, tokenizer: Any) -> list[int]:
        """See :meth:`Family.banned_ids`."""
        return ids_to_ban(tokenizer, _MEDIA)

    def engine_arguments(self) -> dict[str, Any]:
        """See :meth:`Family.engine_arguments`."""
        return {"limit_mm_per_prompt": {"video": 1, "image": 0}, "mm_processor_kwargs": self.processor_kwargs}

    def request(self, tokenizer: Any, text: str, clip: Clip | None) -> dict[str, Any]:
        """See :meth:`Family.request`."""
        if clip is None:
            return {"prompt": chat_text(tokenizer, text)}
        video = (clip.frames, self.metadata(len(clip.frames), clip.step_s))
        return {"prompt": chat_text(tokenizer, text, _PAD), "multi_modal_data": {"video": [video]}}

    def learner(self) -> Qwen25VLLearner:
        """See :meth:`Family.learner`."""
        return Qwen25VLLearner(self)


class Qwen25VLLearner(VLLearner):
    """See :class:`~ravst_ray.policy.families.protocols.LearnerSide`."""

    model_class = "Qwen2_5_VLForConditionalGeneration"
    sharded_layers: tuple[str, ...] = ("Qwen2_5_VLDecoderLayer", "Qwen2_5_VLVisionBlock")
