"""The learner's forward: log-probs of completions, with video, agreeing with vLLM. Free of any trainer.

What TRL lacks: video features, M-RoPE positions as vLLM computes them, logits at completion positions alone, the
sampler's temperature and bans, a vision tower whose features are computed once per clip, and a prompt that is computed
once for all its completions.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from ravst_ray.media.clips import Clip
from ravst_ray.policy.engine import BAN
from ravst_ray.policy.families.qwen2_5_vl import Qwen25VL
from ravst_ray.training.head import ScoreTokens, read_by

CACHED_CLIPS = 256


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


@dataclass(frozen=True)
class VideoInputs:
    """A clip as the vision tower takes it: ``pixels [patches, D]``, ``grid_thw [3]``, seconds of one temporal patch."""

    pixels: torch.Tensor
    grid_thw: torch.Tensor
    seconds_per_grid: float


class VideoForward:
    """Scores completions.

    Args:
        processor: the model's processor.
        family: positions and bans.
        temperature: of the sampler; log-probs are those of the tempered distribution.
        frozen_vision: keep the tower's features of each clip, computed once and without gradient.
        banned: whether banned tokens are taken out, as in sampling; off for supervised training on given texts.
        share_prompts: compute a prompt once for all its completions; off for who looks at the model's inner values,
            row by row.
    """

    def __init__(
        self,
        processor: Any,
        family: Qwen25VL | None = None,
        temperature: float = 1.0,
        frozen_vision: bool = False,
        banned: bool = True,
        share_prompts: bool = True,
    ):
        self.processor = processor
        self.family = family or Qwen25VL()
        self.temperature = temperature
        self.frozen_vision = frozen_vision
        self.share_prompts = share_prompts
        self.banned = self.family.banned_ids(processor.tokenizer) if banned else []
        self._pixels: OrderedDict[Any, VideoInputs] = OrderedDict()
        self._features: OrderedDict[Any, torch.Tensor] = OrderedDict()

    def prompt_ids(self, text: str, clip: Clip | None) -> list[int]:
        """Token ids of a prompt, its video's placeholders expanded: what vLLM sees.

        Raises:
            StepError: ``bad_prompt``, as :meth:`Qwen25VL.chat_text`.
        """
        tokenizer = self.processor.tokenizer
        ids: list[int] = tokenizer(self.family.chat_text(tokenizer, text, video=clip is not None))["input_ids"]
        if clip is None:
            return ids
        grid = self.inputs(clip).grid_thw
        merge = self.processor.video_processor.merge_size
        pad = tokenizer.convert_tokens_to_ids("<|video_pad|>")
        place = ids.index(pad)
        return [*ids[:place], *[pad] * (int(grid.prod()) // merge**2), *ids[place + 1 :]]

    def inputs(self, clip: Clip) -> VideoInputs:
        """The pixels of a clip; the latest ``CACHED_CLIPS`` are kept."""
        return _kept(self._pixels, _key(clip), lambda: self._process(clip))

    def _process(self, clip: Clip) -> VideoInputs:
        metadata = self.family.metadata(len(clip.frames), clip.step_s)
        metadata.pop("do_sample_frames")
        made = self.processor.video_processor(
            videos=[clip.frames],
            video_metadata=[metadata],
            do_sample_frames=False,
            return_tensors="pt",
            **self.family.processor_kwargs,
        )
        seconds = self.family.seconds_per_grid(clip.step_s)
        return VideoInputs(made["pixel_values_videos"], made["video_grid_thw"][0], seconds)

    def positions(self, row: Row, config: Any) -> np.ndarray:
        """M-RoPE positions of a row's prompt and completion, ``[3, L]``."""
        length = len(row.prompt_ids) + len(row.completion_ids)
        if row.clip is None:
            return np.broadcast_to(np.arange(length), (3, length))
        inputs, vision = self.inputs(row.clip), config.vision_config
        prompt = self.family.position_ids(
            row.prompt_ids,
            config.video_token_id,
            inputs.grid_thw.tolist(),
            inputs.seconds_per_grid,
            vision.tokens_per_second,
            vision.spatial_merge_size,
        )
        rest = np.broadcast_to(np.arange(len(row.completion_ids)), (3, len(row.completion_ids)))
        return np.concatenate([prompt, rest + prompt.max() + 1], axis=1)

    def score(self, model: Any, rows: Sequence[Row], entropies: bool = False) -> CompletionScores:
        """Log-probs of the completions' tokens under ``model``, with gradient where it is enabled.

        Args:
            model: Qwen2.5-VL, bare or wrapped (DDP, FSDP2, PEFT). With FSDP2 every worker's batch holds a
                video, or none does: they gather the tower's weights together.
            rows: any mix of prompts with and without video.
            entropies: whether the entropy at each token is wanted (else 0).
        """
        inner = unwrapped(model)
        device = next(inner.parameters()).device
        share = self.share_prompts and inner.config._attn_implementation == "sdpa"  # other kernels take no such mask
        groups, places = _by_prompt(rows, share)
        batch = self._collate(groups, inner.config)
        vision = self._vision(model, inner, [group[0] for group in groups], device)
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
            logps, spread = model(
                **{key: value.to(device) for key, value in batch.items()},
                **vision,
                use_cache=False,
                logits_to_keep=width,
            ).logits
        return CompletionScores(logps, spread.detach(), mask)

    def _collate(self, groups: Sequence[Sequence[Row]], config: Any) -> dict[str, torch.Tensor]:
        """A line for each group: its prompt padded on the left, then its completions, then padding on the right.

        All first completions start at one column.
        """
        before = max(len(group[0].prompt_ids) for group in groups)
        shape = (len(groups), before + max(_tokens(group) for group in groups))
        ids = torch.full(shape, self.processor.tokenizer.pad_token_id)
        parts = torch.full(shape, -1)  # 0: prompt, n: the n-th completion, -1: padding
        positions = torch.zeros((3, *shape), dtype=torch.long)
        for line, group in enumerate(groups):
            start = before - len(group[0].prompt_ids)
            ids[line, start:before] = torch.tensor(group[0].prompt_ids)
            parts[line, start:before] = 0
            end = before
            for number, row in enumerate(group, start=1):
                span = slice(end, end + len(row.completion_ids))
                ids[line, span] = torch.tensor(row.completion_ids, dtype=torch.long)
                parts[line, span] = number
                made = torch.from_numpy(np.ascontiguousarray(self.positions(row, config)))
                positions[:, line, start:before] = made[:, : before - start]
                positions[:, line, span] = made[:, before - start :]
                end = span.stop
        mask = (parts >= 0).long() if max(len(group) for group in groups) == 1 else _who_sees_whom(parts)
        return {"input_ids": ids, "attention_mask": mask, "position_ids": positions}

    def _vision(self, model: Any, inner: Any, rows: Sequence[Row], device: torch.device) -> dict[str, Any]:
        clips = [row.clip for row in rows if row.clip is not None]
        if not clips:
            return {}
        if _is_sharded(inner.model.visual):
            # A sharded tower, frozen or not, has its weights together only inside the wrapped forward; it then sees a
            # clip once for each of its rows.
            inputs = [self.inputs(clip) for clip in clips]
            pixels = torch.cat([one.pixels for one in inputs]).to(device)
            return {
                "pixel_values_videos": pixels,
                "video_grid_thw": torch.stack([i.grid_thw for i in inputs]).to(device),
            }
        features: dict[Any, torch.Tensor] = {}
        missing: dict[Any, Clip] = {}
        for clip in clips:
            if self.frozen_vision and _key(clip) in self._features:
                features[_key(clip)] = self._features[_key(clip)]
            else:
                missing[_key(clip)] = clip
        if missing:
            inputs = [self.inputs(clip) for clip in missing.values()]
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen_vision):
                made = inner.model.get_video_features(
                    torch.cat([one.pixels for one in inputs]).to(device),
                    torch.stack([one.grid_thw for one in inputs]).to(device),
                    return_dict=True,
                ).pooler_output
            features |= dict(zip(missing, made, strict=True))
            if self.frozen_vision:
                for key in missing:
                    _kept(self._features, key, lambda key=key: features[key].detach())
        return {"mm_encoder_outputs": {"video": SimpleNamespace(pooler_output=[features[_key(c)] for c in clips])}}


def _by_prompt(rows: Sequence[Row], share: bool) -> tuple[list[list[Row]], list[tuple[int, int]]]:
    """Rows that share a prompt, together; and for each row its group and how many tokens of others stand before it.

    Most of a row is its prompt (the video), and G completions have the same: it is computed once for them.
    """
    numbers: dict[Any, int] = {}
    groups: list[list[Row]] = []
    places = []
    for row in rows:
        key = (tuple(row.prompt_ids), row.clip and _key(row.clip)) if share else len(groups)
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


def _who_sees_whom(parts: torch.Tensor) -> torch.Tensor:
    """``[B, 1, L, L]``, true where a column looks at another: at earlier ones of the prompt and of its own part."""
    asking, asked = parts[:, :, None], parts[:, None, :]
    earlier = torch.ones(parts.shape[1], parts.shape[1], dtype=torch.bool).tril()
    seen = earlier & ((asked == 0) | (asked == asking))  # padding sees padding: a softmax over nothing is not a number
    return seen[:, None]


def unwrapped(model: Any) -> Any:
    """The Qwen2.5-VL inside DDP and PEFT wrappers."""
    inner = getattr(model, "module", model)
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner


def _is_sharded(inner: Any) -> bool:
    from torch.distributed.tensor import DTensor

    return any(isinstance(parameter, DTensor) for parameter in inner.parameters())


def _key(clip: Clip) -> tuple[Any, ...]:
    return (clip.video_id, clip.step_s, *clip.frames.shape)


def _kept(cache: OrderedDict[Any, Any], key: Any, make: Any) -> Any:
    """The value of a key in a least-recently-used cache of ``CACHED_CLIPS``."""
    value = cache[key] if key in cache else make()
    cache[key] = value
    cache.move_to_end(key)
    while len(cache) > CACHED_CLIPS:
        cache.popitem(last=False)
    return value
