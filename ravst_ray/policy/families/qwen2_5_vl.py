"""The model-family seam: what prediction, rollouts and the learner must know of Qwen2.5-VL, and agree on.

Another family is another object with these methods. vLLM and transformers see the same prompt ids and frames through
it; positions are vLLM's, because transformers' continue the text after a video elsewhere (at ``start + max(h, w)``
instead of after the largest position).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from ravst_ray.errors import ConfigError, StepError

FRAME_MULTIPLE = 28
TEMPORAL_PATCH = 2
_SPECIAL = re.compile(r"<\|\w+\|>")
_VISION = (
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)


class Qwen25VL:
    """Qwen2.5-VL: sees, and is deaf."""

    processor_kwargs: dict[str, Any] = {  # noqa: RUF012
        # Frames come in their final size: the processor must not resize them. Its bounds only widen.
        "size": {"shortest_edge": FRAME_MULTIPLE**2, "longest_edge": 2**24},
        "cap_pixels_per_frame": False,
    }

    @staticmethod
    def special_in(text: str) -> str:
        """The first of the model's own tokens that is written out in a text, or nothing.

        A tokenizer makes no difference between those of the chat template and those that a text quotes.

            >>> Qwen25VL.special_in("a <|video_pad|> dog"), Qwen25VL.special_in("a | dog")
            ('<|video_pad|>', '')
        """
        found = _SPECIAL.search(text)
        return found.group() if found else ""

    @classmethod
    def chat_text(cls, tokenizer: Any, text: str, video: bool = True) -> str:
        """The prompt as text: the chat template around a video and ``text``, up to where the model speaks.

        Args:
            tokenizer: the model's.
            text: what is asked.
            video: whether there is one; False asks about text alone.

        Raises:
            StepError: ``bad_prompt``, a token of the model's own is written out in ``text``.
            ConfigError: the chat template has no place for a video.
        """
        if special := cls.special_in(text):
            raise StepError(
                "bad_prompt", f"{special} stands in the question: the model would take it for its own token"
            )
        content = [{"type": "video"}, {"type": "text", "text": text}] if video else text
        rendered: str = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        if rendered.count("<|video_pad|>") != int(video):
            raise ConfigError("the model's chat template has no place for a video; use one made for video")
        return rendered

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

    @classmethod
    def metadata(cls, frames: int, step_s: float) -> dict[str, Any]:
        """What processors want to know of a video of ``frames`` frames, one every ``step_s`` seconds.

        For vLLM; transformers' processor takes all but ``do_sample_frames``.
        """
        return {
            "fps": TEMPORAL_PATCH / cls.seconds_per_grid(step_s),
            "duration": frames * step_s,
            "total_num_frames": frames,
            "frames_indices": list(range(frames)),
            "video_backend": "ravst",
            "do_sample_frames": False,
        }

    @staticmethod
    def banned_ids(tokenizer: Any) -> list[int]:
        """Tokens that must not be sampled: padding, and placeholders of pictures, which the learner would count."""
        vocabulary = tokenizer.get_vocab()
        banned = {vocabulary[token] for token in _VISION if token in vocabulary}
        if tokenizer.pad_token_id is not None and tokenizer.pad_token_id != tokenizer.eos_token_id:
            banned.add(tokenizer.pad_token_id)
        return sorted(banned)

    @staticmethod
    def position_ids(
        prompt_ids: Sequence[int],
        video_token: int,
        grid_thw: Sequence[int],
        seconds_per_grid: float,
        tokens_per_second: float,
        merge: int = 2,
    ) -> np.ndarray:
        """M-RoPE positions of a prompt with one video, as vLLM computes them.

        Args:
            prompt_ids: token ids, the video's placeholders expanded.
            video_token: the placeholder's id.
            grid_thw: patches of the video: time, height, width.
            seconds_per_grid: seconds of one temporal patch, see :meth:`seconds_per_grid`.
            tokens_per_second: of the vision configuration.
            merge: patches of a side that become one token.

        Returns:
            ``int64 [3, L]``; what follows the prompt counts on from the largest position.

        Raises:
            ValueError: the placeholders don't fit the grid.
        """
        ids = np.asarray(prompt_ids)
        time, height, width = grid_thw[0], grid_thw[1] // merge, grid_thw[2] // merge
        places = np.flatnonzero(ids == video_token)
        count = time * height * width
        if len(places) != count or (count and places[-1] - places[0] + 1 != count):
            raise ValueError(
                f"{len(places)} placeholders of video in the prompt, the grid {list(grid_thw)} has {count}"
            )
        start = int(places[0])
        grid = np.indices((time, height, width)).reshape(3, -1)
        # To float32 and back, as the seconds come out of vLLM's tensor.
        grid[0] = (grid[0] * (float(np.float32(seconds_per_grid)) * tokens_per_second)).astype(np.int64)
        video = grid + start
        before = np.broadcast_to(np.arange(start), (3, start))
        rest = len(ids) - start - count
        after = np.broadcast_to(np.arange(rest), (3, rest)) + video.max() + 1
        return np.concatenate([before, video, after], axis=1).astype(np.int64)
