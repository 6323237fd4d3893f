"""Qwen2.5-VL at its real sizes with random weights, made where it is computed, and what a step of it costs.

Shapes are those of the published configurations; token ids are the toy policy's, whose processor needs no network.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ravst_ray.toyworld.checkpoints import DETECTOR
from ravst_ray.training.forward import Row

TOY = Path(DETECTOR).with_name("qwen2_5_vl-tiny-toy")
STATE_BYTES = 16
"""Of a weight that learns: float32 itself, its gradient, and Adam's two moments."""
PEAK_FLOPS = {"H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Of dense bfloat16, by a part of the card's name (NVIDIA's data sheets)."""
_TEXT = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")
_TOWER = ("depth", "hidden_size", "num_heads", "intermediate_size", "fullatt_block_indexes")
_SEES = (32, 1280, 16, 3420, [7, 15, 23, 31])


@dataclass(frozen=True)
class Size:
    """Numbers in the order of ``_TEXT`` and ``_TOWER``; ``sections`` are of half a head: time, height, width."""

    text: tuple[int, ...]
    vocabulary: int
    tied: bool
    sections: tuple[int, int, int] = (16, 24, 24)
    tower: tuple[Any, ...] = _SEES


SIZES = {
    "3B": Size((2048, 36, 16, 2, 11008), 151_936, True),
    "7B": Size((3584, 28, 28, 4, 18944), 152_064, False),
    "tiny": Size((64, 2, 4, 2, 128), 640, False, (2, 2, 4), (2, 64, 4, 96, [1])),
}


def build(name: str, dtype: torch.dtype, device: torch.device) -> Any:
    """A model of a size from :data:`SIZES`, its weights random, made on the device in this type."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    size, toy = SIZES[name], json.loads((TOY / "config.json").read_text(encoding="utf-8"))
    tokens = {key: value for key, value in toy.items() if key.endswith("_token_id")}
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": list(size.sections)}
    text = {
        "vocab_size": size.vocabulary,
        "rope_parameters": rope,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": size.tied,
    }
    text |= {key: toy["text_config"][key] for key in ("pad_token_id", "eos_token_id")}
    config = Qwen2_5_VLConfig(
        text_config=text | dict(zip(_TEXT, size.text, strict=True)),
        vision_config=dict(zip(_TOWER, size.tower, strict=True)) | {"out_hidden_size": size.text[0]},
        tie_word_embeddings=size.tied,
        **tokens,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    torch.manual_seed(0)
    try:
        with device:
            return Qwen2_5_VLForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)


@cache
def weights_of(name: str) -> dict[str, int]:
    """How many weights the layers, the embedding, the output layer (0 if tied), the tower and its merger have."""
    found = dict.fromkeys(("layers", "embedding", "head", "tower", "merger"), 0)
    for key, value in build(name, torch.float32, torch.device("meta")).named_parameters():
        parts = {".merger.": "merger", ".visual.": "tower", "embed_tokens": "embedding", "lm_head": "head"}
        found[next((part for mark, part in parts.items() if mark in key), "layers")] += value.numel()
    return found


def states_gib(name: str) -> float:
    """What full training of all but the tower keeps: weights, gradients, moments; the tower in bfloat16 beside them."""
    weights = weights_of(name)
    learning = weights["layers"] + weights["embedding"] + weights["head"]
    return (STATE_BYTES * learning + 2 * (weights["tower"] + weights["merger"])) / 2**30


def tokens_of(rows: Sequence[Row], shared: bool) -> tuple[int, int]:
    """How many positions the layers compute for the rows of one prompt, and how many of them are completions'."""
    answers = sum(len(row.completion_ids) for row in rows)
    return answers + len(rows[0].prompt_ids) * (1 if shared else len(rows)), answers


def forward_flops(name: str, rows: Sequence[Row], shared: bool) -> dict[str, float]:
    """Of one forward of the rows of one prompt by the language model: 2 a weight and token that it multiplies.

    The output layer sees completions alone. ``attention`` is that of the columns that a causal mask leaves.
    """
    size, weights = SIZES[name], weights_of(name)
    tokens, answers = tokens_of(rows, shared)
    prompt = len(rows[0].prompt_ids)
    pairs = prompt**2 / 2 * (1 if shared else len(rows))
    pairs += sum(len(row.completion_ids) * (prompt + len(row.completion_ids) / 2) for row in rows)
    hidden, layers = size.text[0], size.text[1]
    head = size.vocabulary * hidden
    return {"weights": 2.0 * (weights["layers"] * tokens + head * answers), "attention": 4.0 * pairs * hidden * layers}


def tower_flops(name: str, patches: int) -> float:
    """Of the tower's forward, 2 a weight and patch; its attention (within a picture) is left out. Four are merged."""
    weights = weights_of(name)
    return 2.0 * patches * (weights["tower"] + weights["merger"] / 4)


def step_flops(name: str, rows: Sequence[Row], *, shared: bool, lora: bool, patches: int) -> float:
    """What an update of GRPO needs: a forward and a backward.

    A backward costs two forwards, where weights stand still one, of attention always two. What is computed again to
    save memory doesn't count.

    Args:
        name: of the size.
        rows: completions of one prompt.
        shared: whether their prompt is computed once.
        lora: whether the weights stand still beside an adapter (whose own cost is left out).
        patches: that the tower sees in a step; 0 where its features are kept.
    """
    forward = forward_flops(name, rows, shared)
    return (2 if lora else 3) * forward["weights"] + 3 * forward["attention"] + tower_flops(name, patches)


def card_peak(card: str) -> float | None:
    """Operations a second that a card of this name has at most; None where it isn't known."""
    return next((peak for part, peak in PEAK_FLOPS.items() if part in card), None)
