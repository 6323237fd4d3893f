"""The model families under test: an entry each, on which the suites of the engine and of the learner run.

A family's entry has a small random model of it, clips, and transformers' own way to see them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ravst_ray.media.clips import Clip
from ravst_ray.policy.families.chat import vl_positions
from ravst_ray.policy.families.protocols import Family, Shape
from ravst_ray.policy.families.qwen2_5_omni import Qwen25Omni
from ravst_ray.policy.families.qwen2_5_vl import Qwen25VL
from ravst_ray.policy.families.qwen3_vl import Qwen3VL
from ravst_ray.toyworld.training.policy import save_policy
from ravst_ray.toyworld.training.policy_omni import NAMED, save_omni
from ravst_ray.toyworld.training.policy_qwen3 import save_qwen3
from ravst_ray.training.forward import Row
from tests.tiny_policies import TINY

PLACES = {"<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"}


@dataclass(frozen=True)
class FamilyCase:
    """A family under test.

    Attributes:
        name: of the tests.
        family: of the registry.
        save: writes a small random model, ``save(folder, seed=…)``.
        plain: a row as transformers' model takes it, alone and unpadded: ``plain(model, processor, row)``.
        decoder: path of the language model in the bare model.
        never: the tokens that may not be sampled.
        size_px: width and height of clips.
        hears: whether clips have sound.
    """

    name: str
    family: Family
    save: Callable[..., Path]
    plain: Callable[[Any, Any, Row], dict[str, Any]] = field(repr=False)
    decoder: str = "model.language_model"
    never: frozenset[str] = frozenset({"<|endoftext|>", *PLACES})
    size_px: tuple[int, int] = (96, 64)
    hears: bool = False

    def clip(self, name: str = "noise", frames: int = 4, seed: int = 0, step_s: float = 0.5) -> Clip:
        """A clip of noise."""
        rng = np.random.default_rng(seed)
        pixels = rng.integers(0, 256, (frames, self.size_px[1], self.size_px[0], 3), dtype=np.uint8)
        sound = rng.normal(0, 0.1, round(frames * step_s * 16000)).astype(np.float32) if self.hears else None
        return Clip(name, pixels, step_s, sound)

    def ways(self, clip: Clip) -> list[Clip]:
        """A clip as it is and, of one with sound, as a family that hears may be shown it, too: without."""
        return [clip] if clip.sound is None else [clip, replace(clip, sound=None)]

    def load(self, folder: Path) -> tuple[Any, Any]:
        """Model (evaluating, float32) and processor of a directory."""
        from transformers import AutoProcessor

        return self.family.learner().load(str(folder), torch.float32).eval(), AutoProcessor.from_pretrained(folder)

    def score(
        self, model: Any, processor: Any, row: Row, temperature: float = 1.0, banned: bool = True
    ) -> torch.Tensor:
        """Log-probabilities of the whole vocabulary at each token of a row's completion, ``[C, V]``."""
        logits = model(**self.plain(model, processor, row)).logits[0, len(row.prompt_ids) - 1 : -1]
        if banned:
            bias = torch.zeros(logits.shape[1])
            bias[self.family.banned_ids(processor.tokenizer)] = -100.0
            logits = logits + bias
        return torch.log_softmax(logits / temperature, dim=-1)


def picked(table: torch.Tensor, row: Row) -> torch.Tensor:
    """Of a row's tokens, ``[C]``, from ``[C, V]``."""
    return table.gather(1, torch.tensor(row.completion_ids)[:, None])[:, 0]


def _video(family: Any, processor: Any, clip: Clip) -> dict[str, Any]:
    metadata = family.metadata(len(clip.frames), clip.step_s)
    del metadata["do_sample_frames"]
    made = processor.video_processor(
        videos=[clip.frames],
        video_metadata=[metadata],
        do_sample_frames=False,
        return_tensors="pt",
        **family.processor_kwargs,
    )
    return {"pixel_values_videos": made["pixel_values_videos"], "video_grid_thw": made["video_grid_thw"]}


def _plain_qwen2_5(model: Any, processor: Any, row: Row) -> dict[str, Any]:
    """With vLLM's positions, which tests compare with vLLM: transformers' are others."""
    ids = [*row.prompt_ids, *row.completion_ids]
    if row.clip is None:
        return {"input_ids": torch.tensor([ids])}
    video, seconds = _video(Qwen25VL(), processor, row.clip), Qwen25VL.seconds_per_grid(row.clip.step_s)
    grid, rate = video["video_grid_thw"][0].tolist(), model.config.vision_config.tokens_per_second
    positions = vl_positions(ids, model.config.video_token_id, grid, seconds, rate)
    return {"input_ids": torch.tensor([ids]), "position_ids": torch.from_numpy(positions)[:, None], **video}


def _plain_qwen3(model: Any, processor: Any, row: Row) -> dict[str, Any]:
    """All transformers' own: positions, too."""
    ids = torch.tensor([[*row.prompt_ids, *row.completion_ids]])
    if row.clip is None:
        return {"input_ids": ids}
    kinds = 2 * (ids == model.config.video_token_id)
    frames = row.clip.frames
    # Its processor refuses a single frame, and counts an odd last one twice.
    clip = replace(row.clip, frames=np.concatenate([frames, frames[-1:]])) if len(frames) % 2 else row.clip
    return {"input_ids": ids, "mm_token_type_ids": kinds.int(), **_video(Qwen3VL(), processor, clip)}


def _plain_omni(model: Any, processor: Any, row: Row) -> dict[str, Any]:
    """With vLLM's positions, which tests compare with vLLM: transformers' are others where there is sound."""
    ids = torch.tensor([[*row.prompt_ids, *row.completion_ids]])
    if row.clip is None:
        return {"input_ids": ids}
    positions = Qwen25Omni().positions(ids[0].tolist(), Shape.of(row.clip), model.config)
    inputs = {"input_ids": ids, "position_ids": torch.from_numpy(positions)[:, None]}
    inputs |= _video(Qwen25VL(), processor, row.clip)  # the same pictures, and the same processor
    if row.clip.sound is not None:
        heard = processor.feature_extractor(
            row.clip.sound, sampling_rate=16000, return_attention_mask=True, truncation=False, return_tensors="pt"
        )
        inputs |= {"input_features": heard["input_features"], "feature_attention_mask": heard["attention_mask"]}
    return inputs


def _save_qwen3(folder: Path, **sizes: Any) -> Path:
    """With another mean and deviation for images than for videos: vLLM takes the former for both where it may."""
    save_qwen3(folder, hidden=64, layers=3, vision=64, **sizes)
    path = Path(folder) / "processor_config.json"
    config = json.loads(path.read_text())
    config["image_processor"] |= {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}
    path.write_text(json.dumps(config))
    return Path(folder)


FAMILY_CASES = (
    FamilyCase("qwen2_5_vl", Qwen25VL(), partial(save_policy, **TINY), _plain_qwen2_5, size_px=(84, 56)),
    FamilyCase("qwen3_vl", Qwen3VL(), partial(_save_qwen3, tied=False), _plain_qwen3),  # a head of its own
    FamilyCase(
        "qwen2_5_omni",
        Qwen25Omni(),
        partial(save_omni, **TINY, audio=64),
        _plain_omni,
        decoder="model",
        never=frozenset({"<|endoftext|>", *NAMED.values()}),
        size_px=(84, 56),
        hears=True,
    ),
)
