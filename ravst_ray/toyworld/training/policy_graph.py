"""The toy policy that writes graphs: its tokens, its first weights, and the helps it is trained with.

It begins as the trained toy policy, which knows objects, places and times, and gets tokens of its own for the pieces of
a graph's JSON, for shares with two decimals, and for what questions say: a graph of two objects has 25 tokens then, not
120, and a coordinate is one choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ravst_ray.toyworld.scene import NAMES
from ravst_ray.toyworld.training.policy import POLICY, SIDE_PX, build_tokenizer
from ravst_ray.toyworld.training.policy_gaze import WHEN, WHERE
from ravst_ray.toyworld.training.policy_targets import Targets
from ravst_ray.training.attention import NAME as BY_LINES
from ravst_ray.training.attention import attend

GRAPHS = POLICY.with_name("qwen2_5_vl-tiny-str")
"""The trained toy policy that writes graphs."""
VOCABULARY = 832
SHARES = tuple(str(number / 100) for number in range(1, 100))
TAP = 3
_JSON = (
    "<graph>",
    "</graph>",
    '{"frames":[{"t":',
    '.0,"nodes":[{"id":"',
    '.5,"nodes":[{"id":"',
    ',"nodes":[{"id":"',
    ',"nodes":[',
    '.1","pos":[',
    ']},{"id":"',
    ']}]},{"t":',
    "]}]}]}",
)
_WORDS = (
    "\nAnswer with the letter.",
    "\nAnswer with a number.",
    "\nAnswer with a number in ",
    "\nAnswer with a box [x1, y1, x2, y2].",
    "\nAnswer with an interval [start, end] in seconds.",
    "\nGraph of second ",
    "\nGraph of the seconds ",
    " and ",
    *(f"\n{letter}. " for letter in "ABCD"),
    "How many ",
    "object",
    "(s) are in the picture at ",
    "(s) are in this video?",
    ".0 s?",
    "In the picture at ",
    ".0 s, is the ",
    " left of, right of, above or below the ",
    ".0 s, which of these is closest to the ",
    "In which order do these first come into the picture: ",
    "From ",
    ".0 s to ",
    ".0 s, has the ",
    " moved left, right, up or down in the picture?",
    "Where is the ",
    " at ",
    ".0 s? Give its box [x1, y1, x2, y2].",
    "When is the ",
    " in the picture? Give [start, end] in seconds.",
    "left",
    "right",
    "above",
    "below",
    "down",
    "up",
)


def extended_tokenizer(words: Sequence[str] = _WORDS) -> Any:
    """The toy tokenizer with the pieces of graphs, shares and questions, always the same one."""
    from tokenizers import AddedToken

    tokenizer = build_tokenizer()
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in (*_JSON, *SHARES, *words)])
    return tokenizer


def extended_model(tokenizer: Any) -> Any:
    """The trained toy policy in float32, with a row of its embedding for each new token.

    A share starts as the pixel that it means, a piece as the mean of what it is made of.
    """
    from transformers import Qwen2_5_VLForConditionalGeneration

    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(POLICY, dtype=torch.float32)
    model.resize_token_embeddings(VOCABULARY, mean_resizing=False)
    old = build_tokenizer()
    weight = model.get_input_embeddings().weight
    pixels = weight[old.convert_tokens_to_ids([str(number) for number in range(SIDE_PX + 1)])]
    with torch.no_grad():
        spread = weight[: len(old)].std()
        weight[len(old) :].normal_(0, float(spread) / 4)
        for token in range(len(old), len(tokenizer)):
            text = tokenizer.convert_ids_to_tokens(token)
            if text in SHARES:
                place = float(text) * SIDE_PX
                below = int(place)
                weight[token] = pixels[below].lerp(pixels[below + 1], place - below)
            else:
                weight[token] += weight[old(text)["input_ids"]].mean(0)
    return model


@dataclass(frozen=True)
class Look:
    """A column of a line from which a watched group of heads should see video tokens of the line.

    ``own`` is the first column of the question that it belongs to; columns from ``first`` to it are the shared prompt's
    (up to ``shared``).
    """

    at: tuple[int, int]
    line: int
    first: int
    shared: int
    own: int
    column: int
    video: tuple[int, ...]


class GraphHead(nn.Module):
    """Reads from the video tokens' states what is there and where, in the tokens that answers are written in."""

    def __init__(self, hidden: int):
        super().__init__()
        self.norm = nn.RMSNorm(hidden)
        self.names = nn.Linear(hidden, 2 * (len(NAMES) + 1))
        self.boxes = nn.Linear(hidden, 2 * 4 * hidden)
        self.centres = nn.Linear(hidden, 2 * 2 * hidden)
        self.seconds = nn.Linear(hidden, 2 * hidden)

    def loss(
        self, hidden: torch.Tensor, targets: Targets, numbers: torch.Tensor, shares: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss of ``hidden [P, D]``, names right, and shares of error of the centres.

        Args:
            hidden: states of the video tokens.
            targets: of as many.
            numbers: embeddings of the tokens 0 … ``SIDE_PX``, ``[113, D]``.
            shares: embeddings of the tokens 0.01 … 0.99, ``[99, D]``.
        """
        states = self.norm(hidden)
        names = self.names(states).unflatten(-1, (2, -1))
        loss = functional.cross_entropy(names.flatten(0, 1), targets.names.flatten())
        seconds = self.seconds(states).unflatten(-1, (2, -1)) @ numbers.T
        at = torch.stack([targets.times * 2, targets.times * 2 + 1], dim=1)
        loss = loss + 0.3 * functional.cross_entropy(seconds.flatten(0, 1), at.flatten())
        there = targets.names > 0
        if not there.any():
            return loss, {}
        truth = targets.boxes[there]
        boxes = self.boxes(states).unflatten(-1, (2, 4, -1))[there] @ numbers.T
        loss = loss + 0.5 * near(boxes, truth, 1.0)
        middle = (truth[:, :2] + truth[:, 2:]) / 2 / SIDE_PX * 100 - 1
        centres = self.centres(states).unflatten(-1, (2, 2, -1))[there] @ shares.T
        loss = loss + 0.5 * near(centres, middle, 1.5)
        return loss, {
            "names": float((names.argmax(-1) == targets.names)[there].float().mean()),
            "centre_error": float((centres.argmax(-1) - middle).detach().abs().mean()) / 100,
        }


def near(logits: torch.Tensor, truth: torch.Tensor, spread: float) -> torch.Tensor:
    """Cross-entropy with a bell of that ``spread`` (in tokens) around the truth: neighbours are nearly right."""
    steps = torch.arange(logits.shape[-1]) - truth[..., None]
    wanted = (-0.5 * (steps / spread) ** 2).softmax(-1)
    return -(wanted * logits.log_softmax(-1)).sum(-1).mean()


class Drawer(nn.Module):
    """The policy, the head that reads its video tokens after the first ``TAP`` layers, and the watched heads."""

    def __init__(self, model: Any):
        super().__init__()
        from transformers import AttentionInterface, AttentionMaskInterface
        from transformers.masking_utils import sdpa_mask

        self.model = model
        self.head = GraphHead(model.config.text_config.hidden_size)
        language = model.model.language_model
        self.tapped: torch.Tensor | None = None
        language.layers[TAP - 1].register_forward_hook(self._keep)
        self._places = {language.layers[layer].self_attn: (layer, group) for layer, group in (WHERE, WHEN)}
        self.looks: Sequence[Look] = ()
        self.missed: list[torch.Tensor] = []
        AttentionInterface.register(BY_LINES, self._attend)
        AttentionMaskInterface.register(BY_LINES, sdpa_mask)
        language.config._attn_implementation = BY_LINES

    def _keep(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.tapped = output[0] if isinstance(output, tuple) else output

    def _attend(self, module: Any, query: torch.Tensor, key: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        at = self._places.get(module)
        looks = [look for look in self.looks if look.at == at]
        if at is not None and looks:
            self.missed.append(_missed(query, key, at[1], looks, kwargs.get("scaling")))
        return attend(module, query, key, *args, **kwargs)


def _missed(
    query: torch.Tensor, key: torch.Tensor, group: int, looks: Sequence[Look], scaling: float | None
) -> torch.Tensor:
    """Mean of -log of the attention that falls on the right video tokens."""
    size, length = query.shape[1] // key.shape[1], key.shape[2]
    lines = torch.tensor([look.line for look in looks])
    columns = torch.tensor([look.column for look in looks])
    allowed, right = np.zeros((len(looks), length), bool), np.zeros((len(looks), length), bool)
    for number, look in enumerate(looks):
        allowed[number, look.first : look.shared] = True
        allowed[number, look.own : look.column + 1] = True
        right[number, list(look.video)] = True
    heads = query[lines, group * size : (group + 1) * size, columns]
    logits = torch.einsum("nhd,nld->nhl", heads, key[lines, group]) * (scaling or query.shape[-1] ** -0.5)
    whole = logits.masked_fill(~torch.from_numpy(allowed)[:, None], -1e4).logsumexp(-1)
    return (whole - logits.masked_fill(~torch.from_numpy(right)[:, None], -1e4).logsumexp(-1)).mean()
