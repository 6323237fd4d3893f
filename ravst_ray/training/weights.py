"""The learner's side of a weight update: what is sent, and the check of prompts that both sides must read alike."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ravst_ray.errors import AbortError
from ravst_ray.policy.adapter import PREFIX
from ravst_ray.policy.families import side_of
from ravst_ray.training.forward import unwrapped
from ravst_ray.training.groups import Group
from ravst_ray.training.towers import towers_aside


def named_weights(model: Any, frozen_vision: bool, merged: bool = True) -> Iterator[tuple[str, torch.Tensor]]:
    """The policy's weights, whole or sharded, under the model's own names.

    An adapter's own weights and a tied head are left out, and so are frozen towers: the engine has them. The model
    stays as it is: merging an adapter into it and out of it again would round its weights a little each time.

    Args:
        model: the policy, wrapped or not.
        frozen_vision: whether the towers are left out.
        merged: with an adapter's product in them (float32 then); of sharded weights all ranks must iterate together.
    """
    inner = unwrapped(model)
    towers = side_of(inner).towers
    tied = inner.config.tie_word_embeddings
    adapted = {name: layer for name, layer in inner.named_modules() if hasattr(layer, "get_delta_weight")}
    for key, value in inner.state_dict().items():
        name = key.replace(".base_layer.", ".")
        if "lora_" in name or (tied and name == "lm_head.weight"):
            continue
        if frozen_vision and name.startswith(tuple(f"{path}." for path in towers)):
            continue
        if merged and (layer := adapted.get(key.removesuffix(".base_layer.weight"))) is not None:
            for adapter in layer.active_adapters:
                value = value.detach().float() + layer.get_delta_weight(adapter).detach().float()
        yield name, value
    if not frozen_vision:
        for path, tower in towers_aside(inner, towers).items():
            yield from tower.state_dict(prefix=f"{path}.").items()


def wire_weights(model: Any, frozen_vision: bool, merged: bool = True) -> Iterator[tuple[str, torch.Tensor]]:
    """:func:`named_weights` under the names by which vLLM loads a checkpoint."""
    side = side_of(unwrapped(model))
    for name, value in named_weights(model, frozen_vision, merged):
        if (known := side.wire_name(name)) is not None:
            yield known, value


def adapter_weights(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """An adapter's own weights, whole or sharded: ``A [rank, in]`` and ``B [out, rank]`` of each layer.

    Names are PEFT's around the checkpoint's names of the layers, which vLLM translates as it does a checkpoint's.
    """
    inner = unwrapped(model)
    side = side_of(inner)
    for key, value in inner.state_dict().items():
        layer, found, rest = key.partition(".lora_")
        if found and (known := side.wire_name(f"{layer}.weight")) is not None:
            yield f"{PREFIX}{known.removesuffix('.weight')}.lora_{rest[0]}.weight", value


def adapter_state(model: Any, keep: bool = True) -> dict[str, np.ndarray]:
    """The weights of :func:`adapter_weights` as :func:`policy_state` gives the whole policy's."""
    return {name: value.numpy() for name, value in _gathered(adapter_weights(model), keep)}


def policy_state(model: Any, frozen_vision: bool, keep: bool = True) -> dict[str, np.ndarray]:
    """The weights of :func:`wire_weights` as float32 arrays on the host; every rank must call this.

    Shards are gathered; a rank that doesn't ``keep`` what it gathers gets an empty dict. An array may be a weight
    itself, of a learner in float32 on the host, so it must be used (Ray's object store copies it) before the next step.
    """
    return {name: value.numpy() for name, value in _gathered(wire_weights(model, frozen_vision), keep)}


def _gathered(named: Iterable[tuple[str, torch.Tensor]], keep: bool) -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in named:
        full = value.full_tensor() if hasattr(value, "full_tensor") else value
        if keep:
            yield name, full.detach().to("cpu", torch.float32)


def save_policy_model(model: Any, processor: Any, target: Path, rank: int) -> None:
    """Write the policy as a plain Hugging Face directory, an adapter merged, shards gathered; every rank calls this.

    The directory appears whole or not at all; one that is there is replaced.
    """
    state = dict(_gathered(named_weights(model, frozen_vision=False), keep=rank == 0))
    if rank != 0:
        return
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    inner = unwrapped(model)
    side_of(inner).save(inner, state, partial)
    processor.save_pretrained(partial)
    shutil.rmtree(target, ignore_errors=True)
    partial.replace(target)


def check_prompt(group: Group, ids: Sequence[int]) -> None:
    """Stop a run whose learner sees another prompt than the engine.

    Args:
        group: with the ids that the engine gave.
        ids: what the learner's processor makes of the same question and frames.

    Raises:
        AbortError: they differ; the message says where.
    """
    theirs = list(group.prompt_ids)
    if theirs == list(ids):
        return
    shorter = min(len(theirs), len(ids))
    place = next((i for i in range(shorter) if theirs[i] != ids[i]), shorter)
    raise AbortError(
        f"{group.question_id}: engine and learner make different prompts of it ({len(theirs)} and {len(ids)} tokens, "
        f"from token {place} on); vllm and transformers don't fit each other, constraints.txt has versions that do"
    )
