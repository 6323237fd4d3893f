"""The output layer on chosen columns: log-probs and entropies without the logits of a whole batch in memory.

A vocabulary has 150,000 entries: the logits of a batch of completions, in float32, with their softmax and their
gradient, are many gigabytes. Here they exist for ``CHUNK`` tokens at a time, in forward and in backward, once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional

CHUNK = 512  # tokens whose logits are in memory at once
_PIECES = 16  # what is in memory beside a chunk's logits is one such part of them


class ScoreTokens(torch.autograd.Function):
    """``log softmax((h W' + bias) / temperature)`` of one token each, and the entropies of these distributions.

    ``apply(hidden [N, D], weight [V, D], bias [V] | None, targets [N], temperature, entropies)`` gives float32 ``[N]``
    twice; the entropies, zeros unless asked for, have no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        temperature: float,
        entropies: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Chunk by chunk; nothing of a chunk is kept."""
        logps = torch.zeros(len(hidden), dtype=torch.float32, device=hidden.device)
        spreads = torch.zeros_like(logps)
        for start in range(0, len(hidden), CHUNK):
            chunk = slice(start, start + CHUNK)
            scores = _scores(hidden[chunk], weight, bias, temperature)
            chosen = scores.gather(1, targets[chunk, None])[:, 0]
            norm = _normalise(scores)
            logps[chunk] = chosen - norm
            if entropies:  # the scores are probabilities by now
                spreads[chunk] = sum(torch.special.entr(scores[:, part]).sum(1) for part in _parts(scores))
            del scores  # before the next are made
        ctx.save_for_backward(hidden, weight, bias, targets)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(spreads)
        return logps, spreads

    @staticmethod
    def backward(ctx: Any, given: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """``d logp / d logits`` is one at the token minus the probabilities, over the temperature."""
        hidden, weight, bias, targets = ctx.saved_tensors
        to_hidden = torch.zeros(hidden.shape, device=hidden.device) if ctx.needs_input_grad[0] else None
        to_weight = torch.zeros(weight.shape, device=weight.device) if ctx.needs_input_grad[1] else None
        for start in range(0, len(hidden), CHUNK):
            chunk = slice(start, start + CHUNK)
            slope = _scores(hidden[chunk], weight, bias, ctx.temperature)
            _normalise(slope)
            factor = (given[chunk] / ctx.temperature)[:, None]
            slope.mul_(-factor).scatter_add_(1, targets[chunk, None], factor)
            for part in _parts(slope):
                piece = slope[:, part].to(hidden.dtype)
                if to_hidden is not None:
                    to_hidden[chunk] += piece @ weight[part].to(hidden.dtype)
                if to_weight is not None:
                    to_weight[part] += piece.T @ hidden[chunk]
            del slope, piece
        made = [(to_hidden, hidden.dtype), (to_weight, weight.dtype)]  # summed up in float32
        return *(one if one is None else one.to(dtype) for one, dtype in made), None, None, None, None


def _parts(scores: torch.Tensor) -> Iterator[slice]:
    """Of the vocabulary."""
    size = -(-scores.shape[1] // _PIECES)
    return (slice(start, start + size) for start in range(0, scores.shape[1], size))


def _scores(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, temperature: float) -> torch.Tensor:
    """Tempered logits, float32 ``[n, V]``."""
    scores = torch.empty(len(hidden), len(weight), dtype=torch.float32, device=hidden.device)
    for part in _parts(scores):
        scores[:, part] = functional.linear(hidden, weight[part].to(hidden.dtype))
    if bias is not None:
        scores.add_(bias)
    return scores.div_(temperature)


def _normalise(scores: torch.Tensor) -> torch.Tensor:
    """Make scores probabilities, in place, and give the logarithm of what each row was divided by, ``[n]``."""
    most = scores.amax(1)
    total = scores.sub_(most[:, None]).exp_().sum(1)
    scores.div_(total[:, None])
    return most + total.log()


@contextmanager
def read_by(head: torch.nn.Module, read: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """While this lasts, a model's output layer gives ``read(hidden, weight)`` instead of logits.

    The model is still called as a whole, as its wrappers (DDP, FSDP2, PEFT) want it.
    """
    head.forward = lambda hidden: read(hidden, head.weight)
    try:
        yield
    finally:
        del head.forward
