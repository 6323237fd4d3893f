"""The policy that learns: loaded, put back from a checkpoint, and the start model beside it.

What will be sharded is read by rank 0 alone: the others have its shape, in memory that is never touched, and their
parts from rank 0 when it is sharded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from ravst_ray.config.train import LearnerConfig
from ravst_ray.models.pretrained import loading, model_source
from ravst_ray.policy.families import family_of, side_of
from ravst_ray.policy.families.protocols import Family, LearnerSide
from ravst_ray.training.sharded import host_group
from ravst_ray.training.towers import set_aside, share_towers, towers_aside


def layers_to_shard(model: Any, side: LearnerSide) -> list[str]:
    """Class names of the layers that FSDP2 shards one by one; those of a tower that stands aside aren't among them."""
    there = {type(module).__name__ for module in model.modules()}
    return [name for name in side.sharded_layers if name in there]


def dtype_of(config: LearnerConfig) -> torch.dtype:
    """``auto`` becomes float32 on a CPU and bfloat16 on a GPU."""
    if config.dtype == "auto":
        return torch.bfloat16 if torch.cuda.is_available() else torch.float32
    dtype: torch.dtype = getattr(torch, config.dtype)
    return dtype


class Policy(NamedTuple):
    """A policy to train: the bare model, its processor, the adapter's configuration with LoRA, and its family."""

    model: Any
    processor: Any
    adapter: Any
    family: Family


def load_policy(model: str, config: LearnerConfig) -> Policy:
    """The policy of a directory or hub name, frozen towers set aside.

    What is trained is float32; beside an adapter the rest is of the type that is computed in. With ``config.shard``
    all ranks must call this together.

    Raises:
        ConfigError: the model can't be loaded.
    """
    source = model_source(model, "model")
    family = family_of(source)
    side = family.learner()
    with loading(source, "model"):
        from transformers import AutoProcessor

        policy = _load(side, source, dtype_of(config) if config.lora else torch.float32, config.shard)
        processor = AutoProcessor.from_pretrained(source)
    if config.freeze_vision:
        set_aside(policy, side.towers, dtype_of(config))
        if config.shard:
            for tower in towers_aside(policy, side.towers).values():
                _send(tower.parameters())
    adapter = None
    if config.lora is not None:
        import peft

        adapter = peft.LoraConfig(
            r=config.lora.rank,
            lora_alpha=config.lora.alpha,
            target_modules=side.adapter_scope.format(targets="|".join(config.lora.targets)),
            task_type="CAUSAL_LM",
        )
    return Policy(policy, processor, adapter, family)


def load_reference(model: str, config: LearnerConfig, policy: Any) -> Any:
    """The start model, for the KL term; None where there is none, or an adapter is switched off for it.

    It is of the type that is computed in, and has the frozen towers of the ``policy``. Ranks as in :func:`load_policy`.
    """
    if not config.kl or config.lora is not None:
        return None
    side = family_of(model).learner()
    reference = _load(side, model_source(model, "model"), dtype_of(config), config.shard).requires_grad_(False).eval()
    if config.freeze_vision:
        share_towers(reference, policy, side.towers)
    return reference


def shard_reference(reference: Any, accelerator: Any) -> Any:
    """Shard the start model as the policy is, layer by layer: a pass has one of them together at a time."""
    from accelerate.utils import fsdp2_prepare_model

    model = fsdp2_prepare_model(accelerator, reference)
    model.set_reshard_after_forward(True)  # no backward follows, before which the policy's output layer stays whole
    return model.eval()


def load_saved(policy: Any, folder: str) -> None:
    """Put the weights of a checkpoint into a bare policy.

    Checkpoints hold the names of the hub; transformers' trainer takes them as they are, finds none of them in the
    model, warns, and goes on with the weights that it has. Loading as a model translates them. Towers that stand aside
    are in no checkpoint.
    """
    with quiet_loading():
        saved = side_of(policy).load(folder, policy.dtype).state_dict()
    policy.load_state_dict({name: saved[name] for name in policy.state_dict()})


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Without transformers' warning of weights that a checkpoint lacks."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _load(side: LearnerSide, source: str, dtype: torch.dtype, shard: bool) -> Any:
    """A model; with ``shard`` only rank 0 reads weights."""
    group = host_group() if shard else None
    if group is None or dist.get_world_size() == 1:
        return side.load(source, dtype)
    first = dist.get_rank() == 0
    model = side.load(source, dtype) if first else side.empty(source, dtype)
    types = [{name: weight.dtype for name, weight in model.named_parameters()}]
    dist.broadcast_object_list(types, src=0, group=group)
    if not first:
        model.to_empty(device="cpu")
        model.tie_weights()
        for name, weight in model.named_parameters():
            if weight.dtype != types[0][name]:  # some models keep a few in float32
                weight.data = torch.empty_like(weight, dtype=types[0][name])
        model.eval()
    _send(model.buffers())
    return model


def _send(tensors: Iterable[torch.Tensor]) -> None:
    """From rank 0 to all others, which have tensors of the same shapes and types."""
    if (group := host_group()) is not None:
        for one in tensors:
            dist.broadcast(one.data.view(-1).view(torch.uint8), src=0, group=group)
