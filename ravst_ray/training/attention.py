"""Attention of completions that share a prompt, by flash kernels, with nothing that is quadratic in the length.

A line of a batch holds a prompt and its completions, one after the other. The prompt looks at itself causally; a
completion at the whole prompt, and causally at itself. A softmax over two blocks of keys is the mean of those over
either, weighted by what they were divided by, so kernels compute a block at a time and give the logarithms of these
norms, as in ring attention (Liu et al., arXiv 2310.01889). The backward of a block needs of the rest only the whole
output and its norm (Dao, arXiv 2307.08691, algorithm 2): given these, the kernels' gradients of each block are exact,
and add up.

Only torch is imported before a model is there: benchmarks load this file by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

NAME = "ravst_lines"
"""Of :func:`attend` among transformers' implementations of attention."""
aten = torch.ops.aten


class Block(NamedTuple):
    """Columns of a line that look at others: at all of these, or, where both are the same, at earlier ones."""

    queries: slice
    keys: slice
    causal: bool


def lines_mask(lines: Sequence[Sequence[int]]) -> torch.Tensor:
    """Lines of a batch in the place of an attention mask, which transformers hands on to :func:`attend` as it is.

    Args:
        lines: of each the column where its prompt begins, the one where it ends and its first completion begins, and
            where each completion ends. What is before and behind is padding.

    Returns:
        Integers ``[B, 1, 1, N]``, a line's last one repeated.
    """
    longest = max(len(line) for line in lines)
    return torch.tensor([[*line, *line[-1:] * (longest - len(line))] for line in map(list, lines)])[:, None, None]


def blocks_of(mask: torch.Tensor) -> list[list[Block]]:
    """Of each line of a :func:`lines_mask` what looks at what: the prompt, completions at it, and at themselves.

    They are kept with the mask, as reading it makes the host wait for a card: once for all layers.
    """
    if not hasattr(mask, "blocks"):
        mask.blocks = [_blocks(*line) for line in mask[:, 0, 0].tolist()]
    found: list[list[Block]] = mask.blocks
    return found


def _blocks(start: int, first: int, *ends: int) -> list[Block]:
    begins = (first, *ends)
    parts = [slice(begin, end) for begin, end in zip(begins, ends, strict=False) if begin < end]
    if len(parts) < 2:  # one completion and its prompt are a text as any other
        whole = slice(start, begins[-1])
        return [Block(whole, whole, True)]
    prompt = slice(start, first)
    shared = [Block(prompt, prompt, True), Block(slice(first, ends[-1]), prompt, False)]
    return shared + [Block(part, part, True) for part in parts]


class LineAttention(torch.autograd.Function):
    """``softmax(q k' scale) v`` over what each column of a line may see.

    ``apply(query [B, H, L, D], key [B, K, L, D], value [B, K, L, D], lines, scale)``, with ``lines`` from
    :func:`blocks_of` and H a multiple of K, gives ``[B, H, L, D]``, zeros at padding (as are its gradients).
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        lines: Sequence[Sequence[Block]],
        scale: float,
    ) -> torch.Tensor:
        """Block by block."""
        batch, heads, length, width = query.shape
        out = query.new_zeros(batch, length, heads, width).transpose(1, 2)  # in memory as the next layer wants it
        norms = query.new_zeros(batch, heads, length, dtype=torch.promote_types(query.dtype, torch.float32))
        kernel = _kernel(query)
        for line, blocks in enumerate(lines):
            for number, (asking, asked, causal) in enumerate(blocks):
                at, seen = (slice(line, line + 1), slice(None), asking), (slice(line, line + 1), slice(None), asked)
                made, norm = kernel.forward(query[at], key[seen], value[seen], causal, scale)
                if number > 1:  # a completion's look at itself, after that at the prompt
                    both = torch.logaddexp(norms[at], norm)
                    made = made * (norm - both).exp()[..., None] + out[at] * (norms[at] - both).exp()[..., None]
                    norm = both
                out[at], norms[at] = made, norm
        ctx.save_for_backward(query, key, value, out, norms)
        ctx.lines, ctx.scale = lines, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, given: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The sum over blocks."""
        query, key, value, out, norms = ctx.saved_tensors
        to_query, to_key, to_value = (torch.zeros_like(each) for each in (query, key, value))
        kernel = _kernel(query)
        given = given if given.stride(-1) == 1 else given.contiguous()  # of a plain sum it is one number, expanded
        for line, blocks in enumerate(ctx.lines):
            for asking, asked, causal in blocks:
                at, seen = (slice(line, line + 1), slice(None), asking), (slice(line, line + 1), slice(None), asked)
                found = kernel.backward(
                    given[at], query[at], key[seen], value[seen], out[at], norms[at].contiguous(), causal, ctx.scale
                )
                to_query[at] += found[0]
                to_key[seen] += found[1]
                to_value[seen] += found[2]
        return to_query, to_key, to_value, None, None


class _Kernel(NamedTuple):
    """One block of one line: ``forward(q, k, v, causal, scale)`` gives output ``[1, H, Q, D]`` and norms ``[1, H, Q]``.

    ``backward(given, q, k, v, out, norms, causal, scale)``, with the norms dense in memory, gives three gradients.
    """

    forward: Callable[..., tuple[torch.Tensor, torch.Tensor]]
    backward: Callable[..., Sequence[torch.Tensor]]


def _kernel(query: torch.Tensor) -> _Kernel:
    """The fastest that there is for a device and a precision."""
    if not query.is_cuda:
        return _Kernel(_on_cpu, _back_on_cpu)
    half = query.dtype in (torch.bfloat16, torch.float16)
    if half and torch.cuda.get_device_capability(query.device) >= (8, 0):
        return _Kernel(_flash, _back_flash)
    return _Kernel(_efficient, _back_efficient)


def _on_cpu(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float) -> Any:
    return aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, scale=scale)


def _back_on_cpu(given: Any, q: Any, k: Any, v: Any, out: Any, norms: Any, causal: bool, scale: float) -> Any:
    back = aten._scaled_dot_product_flash_attention_for_cpu_backward
    return back(given, q, k, v, out, norms, 0.0, causal, scale=scale)


def _flash(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float) -> Any:
    return aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal, False, scale=scale)[:2]


def _back_flash(given: Any, q: Any, k: Any, v: Any, out: Any, norms: Any, causal: bool, scale: float) -> Any:
    # None: the bounds of sequences of several lengths, and the seed of a dropout; there are none
    back, sizes = aten._scaled_dot_product_flash_attention_backward, (q.shape[2], k.shape[2])
    return back(given, q, k, v, out, norms, None, None, *sizes, 0.0, causal, None, None, scale=scale)


_ALIGNED = 32  # the efficient kernel's norms are padded to a multiple of this, with infinity


def _efficient(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float) -> Any:
    groups = (_split(q, k), *_spread(q, k, v))
    out, norms = aten._scaled_dot_product_efficient_attention(*groups, None, True, 0.0, causal, scale=scale)[:2]
    return out.reshape(q.shape), norms[..., : q.shape[2]].reshape(q.shape[:3])


def _back_efficient(given: Any, q: Any, k: Any, v: Any, out: Any, norms: Any, causal: bool, scale: float) -> Any:
    back = aten._scaled_dot_product_efficient_attention_backward
    norms = functional.pad(_split(norms, k), (0, -q.shape[2] % _ALIGNED), value=torch.inf)
    groups = (_split(q, k), *_spread(q, k, v), None, _split(out, k), norms)
    wanted = [True, True, True, False]
    found = back(_split(given, k), *groups, None, None, 0.0, wanted, causal, scale=scale)
    return found[0].reshape(q.shape), found[1].sum(1)[None], found[2].sum(1)[None]


def _split(one: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Query heads ``[1, H, …]`` as ``[K, H / K, …]``: for a kernel that wants as many of keys."""
    return one[0].unflatten(0, (k.shape[1], -1))


def _spread(q: torch.Tensor, *those: torch.Tensor) -> list[torch.Tensor]:
    """Keys and values ``[1, K, T, D]`` as ``[K, H / K, T, D]``, without a copy."""
    return [one.transpose(0, 1).expand(-1, q.shape[1] // one.shape[1], -1, -1) for one in those]


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers calls it: by lines where the mask is a :func:`lines_mask`, else its own ``sdpa``.

    Args:
        module: the layer.
        query: ``[B, H, L, D]``.
        key: ``[B, K, L, D]``.
        value: ``[B, K, L, D]``.
        attention_mask: a :func:`lines_mask`, or an ordinary mask.
        dropout: 0 with lines.
        scaling: of the scores; None: ``D ** -0.5``.
        kwargs: for ``sdpa``.

    Returns:
        ``[B, L, H, D]``, and None.
    """
    if attention_mask is None or attention_mask.dtype != torch.long:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        out: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return out
    if dropout:
        raise ValueError("there is no dropout in attention by lines")
    if torch.is_autocast_enabled(query.device.type):  # rotated queries and keys are float32, values are not
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return LineAttention.apply(query, key, value, blocks_of(attention_mask), scale).transpose(1, 2), None


def attend_by_lines(model: Any) -> bool:
    """Make the text layers of a model that would use ``sdpa`` use :func:`attend`; its towers stay as they are.

    Args:
        model: bare.

    Returns:
        Whether they do: not those with another attention of their own, with dropout or with a window.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    config = model.config.get_text_config()
    if config._attn_implementation == "sdpa" and not config.attention_dropout and not _has_window(config):
        AttentionInterface.register(NAME, attend)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        config._attn_implementation = NAME
    return bool(config._attn_implementation == NAME)


def _has_window(config: Any) -> bool:
    return "sliding_attention" in (getattr(config, "layer_types", None) or ())
