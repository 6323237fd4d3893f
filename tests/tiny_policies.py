"""Small random policies and made-up groups for the tests of training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ravst_ray.media.clips import Clip
from ravst_ray.policy.families.qwen2_5_vl import Qwen25VL
from ravst_ray.policy.protocols import Completion
from ravst_ray.tasks.rubric import Reward
from ravst_ray.toyworld.training.policy import save_policy
from ravst_ray.training.forward import VideoForward
from ravst_ray.training.groups import Group

FAMILY = Qwen25VL()
TINY: dict[str, Any] = {"hidden": 64, "layers": 2, "vision": 64}


def tiny_policy(folder: Path, seed: int = 0, **sizes: Any) -> Path:
    """A random policy in a directory."""
    return save_policy(folder, seed=seed, **{**TINY, **sizes})


def load_tiny(folder: Path) -> tuple[Any, Any]:
    """Model (evaluating, fp32) and processor of a directory."""
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), AutoProcessor.from_pretrained(folder)


def noise_clip(name: str = "noise", frames: int = 4, seed: int = 0, step_s: float = 0.5) -> Clip:
    """A clip of noise, 84 x 56 pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (frames, 56, 84, 3), dtype=np.uint8)
    return Clip(name, pixels, step_s)


def made_up_group(
    forward: VideoForward,
    question: str,
    clip: Clip | None,
    rewards: Sequence[float],
    seed: int = 0,
    task: str = "AVTR",
    gap: float = 0.1,
) -> Group:
    """A group of random completions of 3 to 9 tokens, with log-probs near those of an untrained model."""
    rng = np.random.default_rng(seed)
    completions = []
    for _ in rewards:
        length = int(rng.integers(3, 10))
        logprobs = tuple((-6.2 + gap * rng.normal(size=length)).tolist())
        tokens = tuple(int(token) for token in rng.integers(0, 400, length))
        completions.append(Completion(tokens, logprobs, (0,) * length, "", False))
    scored = tuple(Reward(value, {}) for value in rewards)
    return Group(question, task, tuple(forward.prompt_ids(question, clip)), clip, tuple(completions), scored)
