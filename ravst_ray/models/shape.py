"""How a video-LLM is built: the numbers by which its memory is known before anything is loaded."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from ravst_ray.models.size import read_json, short_name, tensor_sizes

_TOWERS = ("visual.", "audio_tower.")  # in the names of their tensors


@dataclass(frozen=True, slots=True)
class TowerShape:
    """What turns pictures, and sound, into features.

    Attributes:
        parameters: of all towers together.
        layers, hidden, intermediate: of the one that sees.
        token_px: side of the square of pixels that becomes a token; two frames share it.
        features: vectors of the language model's width for a token: with DeepStack more than one.
        hears: whether there is one for sound.
    """

    parameters: int
    layers: int
    hidden: int
    intermediate: int
    token_px: int = 28
    features: int = 1
    hears: bool = False


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A dense decoder as Qwen2.5 and Qwen3 have it (grouped queries, a gated MLP), and its towers.

    Attributes:
        tied: whether the output layer is the embedding.
        qk_norm: whether queries and keys are normalised (Qwen3), in place of having biases (Qwen2.5).
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool
    qk_norm: bool
    tower: TowerShape

    @property
    def query(self) -> int:
        """Width of all queries of a token."""
        return self.heads * self.head_dim

    @property
    def key(self) -> int:
        """Width of all keys of a token, and of all values."""
        return self.kv_heads * self.head_dim

    @property
    def layer(self) -> int:
        """Parameters of a layer."""
        attention = 2 * self.hidden * (self.query + self.key)
        extra = 2 * self.head_dim if self.qk_norm else self.query + 2 * self.key
        return attention + extra + 3 * self.hidden * self.intermediate + 2 * self.hidden

    @property
    def embedding(self) -> int:
        """Parameters of the embedding, and of the output layer."""
        return self.vocab * self.hidden

    @property
    def language(self) -> int:
        """Parameters without those of the towers."""
        return self.layers * self.layer + self.embedding * (1 if self.tied else 2) + self.hidden

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.language + self.tower.parameters

    @property
    def cache(self) -> int:
        """Numbers that the cache of keys and values holds of a token."""
        return 2 * self.layers * self.key

    def widths(self, target: str) -> tuple[int, int]:
        """What a layer's linear module takes and gives, by its name (``q_proj`` …); (0, 0) if there is none such."""
        return {
            "q_proj": (self.hidden, self.query),
            "k_proj": (self.hidden, self.key),
            "v_proj": (self.hidden, self.key),
            "o_proj": (self.query, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }.get(target, (0, 0))


_SEES_2_5 = (32, 1280, 3420)
KNOWN = {
    "qwen2.5-vl-3b": ModelShape(36, 2048, 16, 2, 128, 11008, 151_936, True, False, TowerShape(668_684_288, *_SEES_2_5)),
    "qwen2.5-vl-7b": ModelShape(
        28, 3584, 28, 4, 128, 18944, 152_064, False, False, TowerShape(676_550_144, *_SEES_2_5)
    ),
    "qwen2.5-omni-7b": ModelShape(
        28, 3584, 28, 4, 128, 18944, 152_064, False, False, TowerShape(1_316_197_376, *_SEES_2_5, hears=True)
    ),
    "qwen3-vl-2b": ModelShape(
        28, 2048, 16, 8, 128, 6144, 151_936, True, True, TowerShape(406_957_056, 24, 1024, 4096, 32, 4)
    ),
    "qwen3-vl-4b": ModelShape(
        36, 2560, 32, 8, 128, 9728, 151_936, True, True, TowerShape(415_347_712, 24, 1024, 4096, 32, 4)
    ),
    "qwen3-vl-8b": ModelShape(
        36, 4096, 32, 8, 128, 12288, 151_936, False, True, TowerShape(576_388_336, 27, 1152, 4304, 32, 4)
    ),
}
"""Of the models that shipped configurations name, by :func:`~ravst_ray.models.size.short_name`; of Omni the thinker."""


def shape_of(model: str) -> ModelShape | None:
    """The shape of a model, by its ``config.json`` and the headers of its weights if they are here, else by its name.

    Returns:
        None where nothing tells, or for an architecture that isn't of this kind (one with experts).
    """
    config = read_json(model, "config.json")
    if not config:
        return KNOWN.get(short_name(model))
    try:
        return _read(config, tensor_sizes(model))
    except (KeyError, TypeError, ValueError, ArithmeticError, OSError, struct.error):
        return None


def _read(config: dict[str, Any], sizes: dict[str, int]) -> ModelShape | None:
    whole = config.get("thinker_config") or config
    text, sight = whole.get("text_config") or whole, whole["vision_config"]
    tower = sum(size for name, size in sizes.items() if any(part in name for part in _TOWERS))
    if text.get("num_experts") or not tower:
        return None
    heads = text["num_attention_heads"]
    return ModelShape(
        layers=text["num_hidden_layers"],
        hidden=text["hidden_size"],
        heads=heads,
        kv_heads=text["num_key_value_heads"],
        head_dim=text.get("head_dim") or text["hidden_size"] // heads,
        intermediate=text["intermediate_size"],
        vocab=text["vocab_size"],
        tied=whole.get("tie_word_embeddings", text.get("tie_word_embeddings", False)),
        qk_norm=str(text.get("model_type", "")).startswith("qwen3"),
        tower=TowerShape(
            tower,
            sight["depth"],
            sight["hidden_size"],
            sight["intermediate_size"],
            sight["patch_size"] * sight["spatial_merge_size"],
            1 + len(sight.get("deepstack_visual_indexes") or ()),
            "audio_config" in whole,
        ),
    )
