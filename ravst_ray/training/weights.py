"""The learner's side of a weight update: what is sent, and the proof that it arrived."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ravst_ray.errors import AbortError
from ravst_ray.training.forward import Row, VideoForward, unwrapped
from ravst_ray.training.groups import Group


@contextmanager
def merged_adapter(model: Any) -> Iterator[None]:
    """An adapter's product is in the weights meanwhile; nothing happens to a model without one."""
    adapted = getattr(model, "module", model)
    if not hasattr(adapted, "merge_adapter"):
        yield
        return
    adapted.merge_adapter()
    try:
        yield
    finally:
        adapted.unmerge_adapter()


def named_weights(model: Any, frozen_vision: bool) -> Iterator[tuple[str, torch.Tensor]]:
    """The policy's weights where they are, whole or sharded, under their names in a Hugging Face checkpoint.

    An adapter's own weights and a tied head are left out, and so is a frozen vision tower: the engine has it.
    """
    inner = unwrapped(model)
    tied = inner.config.tie_word_embeddings
    for name, value in inner.state_dict().items():
        name = name.replace(".base_layer.", ".")
        if "lora_" in name or (frozen_vision and ".visual." in name) or (tied and name == "lm_head.weight"):
            continue
        yield name, value


def policy_state(model: Any, frozen_vision: bool) -> dict[str, np.ndarray]:
    """The weights of :func:`named_weights` as arrays on the host, an adapter merged.

    Shards are gathered, so every rank must call this.
    """
    state = {}
    with merged_adapter(model):
        for name, value in named_weights(model, frozen_vision):
            full = value.full_tensor() if hasattr(value, "full_tensor") else value
            state[name] = full.detach().to("cpu", torch.float32).numpy().copy()
    return state


def save_policy_model(model: Any, processor: Any, target: Path, rank: int) -> None:
    """Write the policy as a plain Hugging Face directory, an adapter merged, shards gathered; every rank calls this.

    The directory appears whole or not at all; one that is there is replaced.
    """
    state = policy_state(model, frozen_vision=False)
    if rank != 0:
        return
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    tensors = {name: torch.from_numpy(value) for name, value in state.items()}
    unwrapped(model).save_pretrained(partial, state_dict=tensors)
    processor.save_pretrained(partial)
    shutil.rmtree(target, ignore_errors=True)
    partial.replace(target)


def logprob_gap(model: Any, forward: VideoForward, groups: Sequence[Group]) -> float:
    """Mean absolute difference between the engine's log-probs of its completions and the learner's."""
    rows = [Row(group.prompt_ids, one.token_ids, group.clip) for group in groups for one in group.completions]
    theirs = np.concatenate([one.logprobs for group in groups for one in group.completions])
    with torch.no_grad():
        scores = forward.score(model, rows)
    return float(np.abs(scores.logps[scores.mask].cpu().numpy() - theirs).mean())


def check_gap(gap: float, limit: float, engine_version: int, learner_version: int) -> None:
    """Stop a run whose engine and learner no longer agree.

    Raises:
        AbortError: the gap is above the limit; the message says which side is behind.
    """
    if gap <= limit:
        return
    if engine_version < learner_version:
        side = f"the engine is stale: it has version {engine_version}, the learner {learner_version}"
    else:
        side = f"both have version {learner_version}: the engine did not take the weights, or computes otherwise"
    raise AbortError(f"after a weight sync log-probs differ by {gap:.4f} on average (sync.max_gap = {limit}); {side}")
