"""Where some attention heads of the toy policy should look while it writes: at what it writes about.

A small model takes long to find out by itself that the number after ``<when>[`` stands in the frame in which the named
object begins to sound. So while it is trained, two heads are told: the tokens they look at are a loss of their own.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ravst_ray.records import VideoView
from ravst_ray.toyworld.scene import NAMES
from ravst_ray.toyworld.training.policy_targets import Targets

WHERE, WHEN = (3, 1), (4, 0)
"""Layer and key-value group of the heads for boxes and for intervals."""
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Look:
    """A token of a completion and the video tokens that the heads of ``at`` should see when it is about to come."""

    at: tuple[int, int]
    token: int
    video: tuple[int, ...]


@dataclass(frozen=True)
class Mention:
    """A number of an answer: where its tokens begin, the object that it is about, and the second that it is of.

    ``at``: :data:`WHEN` for the ends of an interval, :data:`WHERE` for coordinates. ``pieces`` are the tokens' places.
    """

    at: tuple[int, int]
    pieces: tuple[int, ...]
    name: int
    time_s: float


def mentions(pieces: Sequence[str]) -> Iterator[Mention]:
    """The numbers of a true answer, all but the seconds of its boxes.

    Args:
        pieces: the answer's tokens as text, one after the other.
    """
    starts, whole = [], ""
    for piece in pieces:
        starts.append(len(whole))
        whole += piece

    def tokens(place: int, number: re.Match[str]) -> tuple[int, ...]:
        return tuple(range(bisect_left(starts, place + number.start()), bisect_left(starts, place + number.end())))

    for part in re.finditer(r"<object>(.*?)</object>(.*?)(?=<object>|</answer>|$)", whole, re.DOTALL):
        name = 1 + NAMES.index(part.group(1).strip())
        for when in re.finditer(r"<when>(.*?)</when>", part.group(2), re.DOTALL):
            for number in _NUMBER.finditer(when.group(1)):
                place = part.start(2) + when.start(1)
                yield Mention(WHEN, tokens(place, number), name, float(number.group()))
        for where in re.finditer(r"<where>(.*?)</where>", part.group(2), re.DOTALL):
            for line in re.finditer(r"^\s*([\d.]+)\s*:(.*)$", where.group(1), re.MULTILINE):
                for number in _NUMBER.finditer(line.group(2)):
                    place = part.start(2) + where.start(1) + line.start(2)
                    yield Mention(WHERE, tokens(place, number), name, float(line.group(1)))


def looks(pieces: Sequence[str], targets: Targets, view: VideoView) -> Iterator[Look]:
    """What to look at for each number of a true answer; arguments as of :func:`mentions`, and the clip's.

    An interval's ends are seen in the first frame from then on, an object in the one nearest to its line's second.
    """
    for one in mentions(pieces):
        step = one.time_s / view.step_s
        frame = math.ceil(step - 1e-6) if one.at == WHEN else round(step)
        yield from _look(one.at, one.pieces[0], one.name, frame, targets, view)


def _look(at: tuple[int, int], token: int, name: int, frame: int, targets: Targets, view: VideoView) -> Iterator[Look]:
    grid = min(frame, view.frames - 1) // 2
    there = (targets.times == grid) & (targets.names == name).any(1)
    if there.any():
        yield Look(at, token, tuple(there.nonzero()[:, 0].tolist()))


class Gaze:
    """Keeps queries and keys of the chosen heads during a forward, and compares them with :class:`Look`."""

    def __init__(self, model: Any):
        from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
        from transformers.modeling_utils import AttentionInterface

        AttentionInterface.register("gaze", self._attend)
        AttentionMaskInterface.register("gaze", sdpa_mask)
        language = model.model.language_model
        language.config._attn_implementation = "gaze"
        self._watched = {language.layers[layer].self_attn: (layer, group) for layer, group in (WHERE, WHEN)}
        self._seen: dict[tuple[int, int], torch.Tensor] = {}

    def _attend(self, module: Any, query: torch.Tensor, key: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        at = self._watched.get(module)
        if at is not None:
            group, size = at[1], query.shape[1] // key.shape[1]
            heads = query[:, group * size : (group + 1) * size]
            self._seen[at] = heads @ key[:, group, None].transpose(-1, -2) * module.scaling
        return sdpa_attention_forward(module, query, key, *args, **kwargs)

    def loss(self, asked: Sequence[tuple[int, int, int, Look]]) -> torch.Tensor:
        """Mean of -log of the attention that falls on the right video tokens in the last forward.

        Args:
            asked: row, the column of its first video token, the column of its first completion token, a look.
        """
        found = []
        for at, logits_B in self._seen.items():
            for row, video, first, look in asked:
                if look.at == at:
                    column = first + look.token - 1
                    logits = logits_B[row, :, column, : column + 1]
                    right = logits[:, torch.tensor(look.video) + video].logsumexp(-1)
                    # Padding before the prompt is left out: the video is in the prompt's first tokens.
                    found.append(logits[:, max(video - 8, 0) :].logsumexp(-1) - right)
        return torch.stack(found).mean() if found else torch.zeros(())
