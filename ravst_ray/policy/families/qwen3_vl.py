"""Qwen3-VL: sees pictures with their times written before them, and is deaf.

A video is a run of pictures, each of two frames, as ``<0.5 seconds><|vision_start|>…<|vision_end|>``; a picture's time
is the mean of its frames'. The chat template's own markers around the video are taken out: the checkpoints were
published with a processor that did so, while those of today's transformers and vLLM leave them where they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from ravst_ray.errors import ConfigError
from ravst_ray.media.clips import Clip
from ravst_ray.policy.families.chat import chat_text, ids_of, ids_to_ban
from ravst_ray.policy.families.protocols import LINEAR, BoxSpace, Shape, Tensors
from ravst_ray.policy.families.vl import VLLearner

PATCH_PX, MERGE, TEMPORAL_PATCH = 16, 2, 2
FRAME_MULTIPLE = PATCH_PX * MERGE
_START, _END, _PAD = "<|vision_start|>", "<|vision_end|>", "<|video_pad|>"
_MEDIA = (_START, _END, "<|vision_pad|>", "<|image_pad|>", _PAD)


class Qwen3VL:
    """See :class:`~ravst_ray.policy.families.protocols.Family`."""

    name = "Qwen3-VL"
    model_types: tuple[str, ...] = ("qwen3_vl",)
    frame_multiple = FRAME_MULTIPLE
    hears = False
    max_step_s = math.inf
    box_space: BoxSpace = "thousand"
    adapter_targets = LINEAR
    processor_kwargs: dict[str, Any] = {  # noqa: RUF012
        # Frames come in their final size: the processor must not resize them. The bounds are of all of them together,
        # and the upper one is also what vLLM's cache of features has room for: 32,768 tokens.
        "size": {"shortest_edge": FRAME_MULTIPLE**2, "longest_edge": 2**26},
        "cap_pixels_per_frame": False,
    }

    def prompt_ids(self, tokenizer: Any, text: str, shape: Shape | None) -> list[int]:
        """See :meth:`Family.prompt_ids`."""
        ids = ids_of(tokenizer, self._chat(tokenizer, text, shape is not None))
        if shape is None:
            return ids
        start, end, pad = tokenizer.convert_tokens_to_ids([_START, _END, _PAD])
        tokens = shape.height * shape.width // FRAME_MULTIPLE**2
        video: list[int] = []
        for time_s in self.times_s(shape.frames, shape.step_s):
            # One by one, as vLLM does it: none of their characters may join with what stands before.
            video += [*tokenizer.encode(f"<{time_s:.1f} seconds>", add_special_tokens=False), start]
            video += [*[pad] * tokens, end]
        place = ids.index(pad)
        return [*ids[:place], *video, *ids[place + 1 :]]

    @staticmethod
    def _chat(tokenizer: Any, text: str, video: bool) -> str:
        rendered = chat_text(tokenizer, text, _PAD if video else "")
        return rendered.replace(f"{_START}{_PAD}{_END}", _PAD)

    @classmethod
    def times_s(cls, frames: int, step_s: float) -> list[float]:
        """Seconds of each picture of two frames, with the very roundings of vLLM; an odd last frame counts twice.

        >>> Qwen3VL.times_s(3, 0.5)
        [0.25, 1.0]
        """
        metadata = cls.metadata(frames, step_s)
        indices = metadata["frames_indices"]
        times = [index / metadata["fps"] for index in [*indices, *indices[-1:] * (len(indices) % TEMPORAL_PATCH)]]
        return [(first + last) / 2 for first, last in zip(times[::2], times[1::2], strict=True)]

    @staticmethod
    def metadata(frames: int, step_s: float) -> dict[str, Any]:
        """What processors want to know of a video of ``frames`` frames, one every ``step_s`` seconds.

        For vLLM; transformers' processor takes all but ``do_sample_frames``.
        """
        indices = list(range(frames)) if frames > 1 else [0, 0]
        return {
            "fps": 1 / step_s,
            "duration": frames * step_s,
            "total_num_frames": len(indices),
            "frames_indices": indices,
            "video_backend": "ravst",
            "do_sample_frames": False,
        }

    @staticmethod
    def shown(clip: Clip) -> np.ndarray:
        """Frames as processors take them: they want two at least, so that a single one is given twice."""
        return clip.frames if len(clip.frames) > 1 else np.repeat(clip.frames, 2, axis=0)

    def positions(self, prompt_ids: Sequence[int], shape: Shape | None, config: Any) -> np.ndarray:
        """See :meth:`Family.positions`."""
        ids = np.asarray(prompt_ids)
        if shape is None:
            return np.broadcast_to(np.arange(len(ids)), (3, len(ids)))
        height, width = shape.height // FRAME_MULTIPLE, shape.width // FRAME_MULTIPLE
        pictures, tokens = -(-shape.frames // TEMPORAL_PATCH), height * width
        places = np.flatnonzero(ids == config.video_token_id)
        starts, ends = places[::tokens], places[tokens - 1 :: tokens]
        if len(places) != pictures * tokens or (ends - starts != tokens - 1).any():
            raise ValueError(
                f"{len(places)} placeholders of video in the prompt don't make {pictures} runs of {height} x {width}"
            )
        grid = np.indices((1, height, width)).reshape(3, -1)
        parts: list[np.ndarray] = []
        done = position = 0
        for start in starts.tolist():
            text = start - done
            parts += [np.broadcast_to(np.arange(text) + position, (3, text)), grid + position + text]
            position += text + max(height, width)
            done = start + tokens
        rest = len(ids) - done
        parts.append(np.broadcast_to(np.arange(rest) + position, (3, rest)))
        return np.concatenate(parts, axis=1).astype(np.int64)

    def banned_ids(self, tokenizer: Any) -> list[int]:
        """See :meth:`Family.banned_ids`."""
        return ids_to_ban(tokenizer, _MEDIA)

    def engine_arguments(self) -> dict[str, Any]:
        """See :meth:`Family.engine_arguments`."""
        return {
            "limit_mm_per_prompt": {"video": 1, "image": 0},
            "mm_processor_kwargs": self.processor_kwargs,
            # On the device vLLM would normalise videos by the mean and deviation that the checkpoint has for images.
            "mm_device_do_normalize": False,
        }

    def request(self, tokenizer: Any, text: str, clip: Clip | None) -> dict[str, Any]:
        """See :meth:`Family.request`."""
        prompt = self._chat(tokenizer, text, clip is not None)
        if clip is None:
            return {"prompt": prompt}
        video = (self.shown(clip), self.metadata(len(clip.frames), clip.step_s))
        return {"prompt": prompt, "multi_modal_data": {"video": [video]}}

    def learner(self) -> Qwen3VLLearner:
        """See :meth:`Family.learner`."""
        return Qwen3VLLearner(self)


class Qwen3VLMoe(Qwen3VL):
    """Qwen3-VL with experts: to be asked, not to be trained.

    vLLM keeps packed copies of the experts' weights. On CPUs, where it was tried, an update of a running engine leaves
    them as they were: log-probs are then off by 3.
    """

    name = "Qwen3-VL with experts"
    model_types: tuple[str, ...] = ("qwen3_vl_moe",)

    def learner(self) -> Qwen3VLLearner:
        """There is none.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            f"model: a {self.name} ({self.model_types[0]}) can be asked but not trained: a running engine doesn't take "
            "new weights for its experts; train one without, such as Qwen/Qwen3-VL-8B-Instruct"
        )


class Qwen3VLLearner(VLLearner):
    """See :class:`~ravst_ray.policy.families.protocols.LearnerSide`.

    Features have ``deep [levels, tokens, D]`` beside ``video [tokens, D]``: the first layers add them.
    """

    model_class = "Qwen3VLForConditionalGeneration"
    sharded_layers: tuple[str, ...] = ("Qwen3VLTextDecoderLayer", "Qwen3VLVisionBlock")

    def frames(self, clip: Clip) -> np.ndarray:
        """Two at least."""
        return Qwen3VL.shown(clip)

    def split(self, made: Any) -> list[Tensors]:
        """By clip."""
        import torch

        deep = zip(*made.deepstack_features, strict=True)
        return [
            {"video": video, "deep": torch.stack(levels)}
            for video, levels in zip(made.pooler_output, deep, strict=True)
        ]

    def joined(self, seen: Sequence[Tensors]) -> Any:
        """As the model takes them."""
        levels = list(zip(*(one["deep"] for one in seen), strict=True))
        return SimpleNamespace(pooler_output=[one["video"] for one in seen], deepstack_features=levels)
