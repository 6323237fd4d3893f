"""How likely the learner finds what the sampler drew: weights of the loss, and the numbers that tell of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ravst_ray.config.train import ImportanceMode
from ravst_ray.policy.protocols import Completion


def learned_tokens(completion: Completion, mask_truncated: bool) -> list[bool]:
    """Which tokens of a completion the loss and its count of tokens hold.

    Left out are those whose log-prob the sampler doesn't know (NaN or infinite), and with ``mask_truncated`` all of a
    completion that hit the token limit.
    """
    cut = mask_truncated and completion.truncated
    return [not cut and math.isfinite(value) for value in completion.logprobs]


def unknown_tokens(completions: Sequence[Completion]) -> int:
    """How many tokens have no finite log-prob from the sampler."""
    return sum(not math.isfinite(value) for one in completions for value in one.logprobs)


def importance_weights(log_ratio: torch.Tensor, mask: torch.Tensor, mode: ImportanceMode, cap: float) -> torch.Tensor:
    """What the loss of tokens is multiplied with, as TRL's ``vllm_importance_sampling_mode`` has it.

    Args:
        log_ratio: log of learner's / sampler's probability of each token, ``[B, T]``, finite.
        mask: 1 where a token counts, ``[B, T]``.
        mode: ``token_*``: of each token; ``sequence_*``: the product over a completion's tokens. ``*_truncate`` cuts
            what is above ``cap`` down to it, ``*_mask`` makes it 0.
        cap: the largest weight.

    Returns:
        ``[B, T]``, or ``[B, 1]`` for sequences.
    """
    inside = log_ratio * mask
    if mode.startswith("sequence"):
        inside = inside.sum(dim=-1, keepdim=True)
    ratio = inside.exp()
    return ratio.clamp(max=cap) if mode.endswith("truncate") else ratio.masked_fill(ratio > cap, 0.0)


def ratio_sums(log_ratio: torch.Tensor) -> torch.Tensor:
    """Sums over tokens, to be added up over workers: of ratios, of absolute log-ratios, and how many, ``[3]``."""
    return torch.stack([log_ratio.exp().sum(), log_ratio.abs().sum(), log_ratio.new_tensor(float(log_ratio.numel()))])
