"""The learner's forward: log-probs of completions, with video, agreeing with vLLM. Free of any trainer.

What TRL lacks: video features, M-RoPE positions as vLLM computes them, logits at completion positions alone, the
sampler's temperature and bans, a vision tower whose features are computed once per clip, and a prompt that is computed
once for all its completions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ravst_ray.media.clips import Clip
from ravst_ray.policy.families.protocols import Family, Shape, Tensors
from ravst_ray.policy.protocols import BAN
from ravst_ray.training.attention import attend_by_lines, lines_mask
from ravst_ray.training.head import ScoreTokens, read_by
from ravst_ray.training.towers import GIB, Sight, clip_key


@dataclass(frozen=True)
class Row:
    """One completion of one prompt; ``clip`` is None for a prompt without video."""

    prompt_ids: Sequence[int]
    completion_ids: Sequence[int]
    clip: Clip | None = None


@dataclass
class CompletionScores:
    """``logps``, ``entropies`` and ``mask`` are ``[B, C]``; past a completion's end they are 0 and False."""

    logps: torch.Tensor
    entropies: torch.Tensor
    mask: torch.Tensor


class VideoForward:
    """Scores completions.

    Args:
        processor: the model's processor.
        family: the model's.
        temperature: of the sampler; log-probs are those of the tempered distribution.
        frozen_vision: keep the towers' features of each clip, computed once and without gradient.
        banned: whether banned tokens are taken out, as in sampling; off for supervised training on given texts.
        share_prompts: compute a prompt once for all its completions; off for who looks at the model's inner values,
            row by row.
        features_gib: how much is kept of clips.
    """

    def __init__(
        self,
        processor: Any,
        family: Family,
        temperature: float = 1.0,
        frozen_vision: bool = False,
        banned: bool = True,
        share_prompts: bool = True,
        features_gib: float = 4.0,
    ):
        self.processor, self.family = processor, family
        self.temperature = temperature
        self.share_prompts = share_prompts
        self.banned = family.banned_ids(processor.tokenizer) if banned else []
        self.side = family.learner()
        self.sight = Sight(self.side, processor, frozen_vision, features_gib * GIB)

    def prompt_ids(self, text: str, clip: Clip | None) -> list[int]:
        """Token ids of a prompt, placeholders expanded: what vLLM sees; raises as :meth:`Family.prompt_ids`."""
        return self.family.prompt_ids(self.processor.tokenizer, text, None if clip is None else Shape.of(clip))

    def positions(self, row: Row, config: Any) -> np.ndarray:
        """Rotary positions of a row's prompt and completion, ``[3, L]``."""
        shape = None if row.clip is None else Shape.of(row.clip)
        prompt = self.family.positions(row.prompt_ids, shape, config)
        rest = np.broadcast_to(np.arange(len(row.completion_ids)), (3, len(row.completion_ids)))
        return np.concatenate([prompt, rest + prompt.max() + 1], axis=1)

    def score(self, model: Any, rows: Sequence[Row], entropies: bool = False) -> CompletionScores:
        """Log-probs of the completions' tokens under ``model``, with gradient where it is enabled.

        Args:
            model: the policy, bare or wrapped (DDP, FSDP2, PEFT). Where FSDP2 shards its towers, every worker's batch
                holds a video, or none does: they gather the towers' weights together.
            rows: any mix of prompts with and without video.
            entropies: whether the entropy at each token is wanted (else 0).
        """
        inner = unwrapped(model)
        device = next(inner.parameters()).device
        by_lines = attend_by_lines(inner)
        groups, places = _by_prompt(rows, self.share_prompts and by_lines)
        batch = self.collate(groups, inner.config, by_lines)
        seen, raw = self.seen([group[0] for group in groups], inner, device)
        group, column, target, mask = (each.to(device) for each in _read_at(rows, places))
        width = max(_tokens(group) for group in groups) + 1

        def read(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            wanted = hidden[:, -width:][group.expand_as(column)[mask], column[mask]]
            if torch.is_autocast_enabled(device.type):
                wanted = wanted.to(torch.get_autocast_dtype(device.type))
            bias = None
            if self.banned:
                bias = torch.zeros(len(weight), device=device)
                bias[self.banned] = BAN
            found = ScoreTokens.apply(wanted, weight, bias, target[mask], self.temperature, entropies)
            empty = torch.zeros(mask.shape, device=device)
            return torch.stack([empty.masked_scatter(mask, values) for values in found])

        with read_by(inner.get_output_embeddings(), read):
            on_device = {key: value.to(device) for key, value in batch.items()}
            logps, spread = self.side.call(model, inner, {**on_device, "logits_to_keep": width}, seen, raw).logits
        return CompletionScores(logps, spread.detach(), mask)

    def seen(self, rows: Sequence[Row], inner: Any, device: torch.device) -> tuple[list[Tensors], list[Tensors]]:
        """What the bare model is given of the rows' clips, see :meth:`Sight.see`."""
        clips = [row.clip for row in rows if row.clip is not None]
        return self.sight.see(inner, clips, device) if clips else ([], [])

    def collate(self, groups: Sequence[Sequence[Row]], config: Any, by_lines: bool = False) -> dict[str, torch.Tensor]:
        """A line for each group: its prompt padded on the left, then its completions, then padding on the right.

        All first completions start at one column.

        Args:
            groups: rows that have their prompt in common; one row each unless the model attends by lines.
            config: the model's.
            by_lines: whether it does: the mask says who is whose completion, else only where padding is.
        """
        before = max(len(group[0].prompt_ids) for group in groups)
        shape = (len(groups), before + max(_tokens(group) for group in groups))
        ids = torch.full(shape, self.processor.tokenizer.pad_token_id)
        mask = torch.zeros(shape, dtype=torch.long)
        positions = torch.zeros((3, *shape), dtype=torch.long)
        lines = []
        for number, group in enumerate(groups):
            start = before - len(group[0].prompt_ids)
            ids[number, start:before] = torch.tensor(group[0].prompt_ids)
            line = [start, before]
            for row in group:
                span = slice(line[-1], line[-1] + len(row.completion_ids))
                ids[number, span] = torch.tensor(row.completion_ids, dtype=torch.long)
                made = torch.from_numpy(np.ascontiguousarray(self.positions(row, config)))
                positions[:, number, start:before] = made[:, : before - start]
                positions[:, number, span] = made[:, before - start :]
                line.append(span.stop)
            mask[number, start : line[-1]] = 1
            lines.append(line)
        return {
            "input_ids": ids,
            "attention_mask": lines_mask(lines) if by_lines else mask,
            "position_ids": positions,
        }


def _by_prompt(rows: Sequence[Row], share: bool) -> tuple[list[list[Row]], list[tuple[int, int]]]:
    """Rows that share a prompt, together; and for each row its group and how many tokens of others stand before it.

    Most of a row is its prompt (the video), and G completions have the same: it is computed once for them.
    """
    numbers: dict[Any, int] = {}
    groups: list[list[Row]] = []
    places = []
    for row in rows:
        key = (tuple(row.prompt_ids), row.clip and clip_key(row.clip)) if share else len(groups)
        number = numbers.setdefault(key, len(groups))
        if number == len(groups):
            groups.append([])
        places.append((number, _tokens(groups[number])))
        groups[number].append(row)
    return groups, places


def _tokens(group: Sequence[Row]) -> int:
    return sum(len(row.completion_ids) for row in group)


def _read_at(rows: Sequence[Row], places: Sequence[tuple[int, int]]) -> tuple[torch.Tensor, ...]:
    """Group ``[B, 1]``, column, token and mask ``[B, C]``: where the prediction of each row's tokens stands.

    Column 0 is the prompt's last token, which predicts every completion's first.
    """
    shape = (len(rows), max(len(row.completion_ids) for row in rows))
    column, target = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    mask = torch.zeros(shape, dtype=torch.bool)
    for line, (row, (_, offset)) in enumerate(zip(rows, places, strict=True)):
        length = len(row.completion_ids)
        column[line, :length] = torch.arange(length) + offset
        target[line, :length] = torch.tensor(row.completion_ids, dtype=torch.long)
        mask[line, :length] = True
    column[:, :1] = 0
    return torch.tensor([[group] for group, _ in places]), column, target, mask


def unwrapped(model: Any) -> Any:
    """The model inside DDP and PEFT wrappers."""
    inner = getattr(model, "module", model)
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner
