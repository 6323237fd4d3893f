"""One worker of a learner over gloo; started by the test, once for each rank.

RANK=r WORLD_SIZE=n … python -m tests.learner_worker MODEL OUT LOSS SHARD
"""

import math
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate.state import AcceleratorState, DistributedType, PartialState
from safetensors.numpy import save_file
from torch.distributed.tensor import DTensor

from ravst_ray.config.train import LearnerConfig
from ravst_ray.training.arguments import trainer_arguments
from ravst_ray.training.forward import VideoForward
from ravst_ray.training.learner import GRPOLearner
from ravst_ray.training.policy_loading import layers_to_shard, load_policy
from ravst_ray.training.sync_proof import logprob_gap
from ravst_ray.training.weights import policy_state
from tests.tiny_policies import made_up_group, noise_clip

REWARDS = [(1.0, 0.0, 0.5, 0.25), (0.0, 2.0, 0.0, 0.0), (0.5, 0.5, 1.0, 0.0), (2.0, 0.0, 0.0, 1.0)]


def main() -> None:
    """Train two steps on this rank's groups; rank 0 saves weights, gap and metrics."""
    model_dir, out, loss, shard = sys.argv[1:5]
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    torch.set_num_threads(1)
    if shard == "shard":
        _shard_on_cpus()
    config = LearnerConfig(
        rate=1e-2,
        micro_batch=4,
        freeze_vision=False,
        schedule="constant",
        dtype="float32",
        loss=loss,
        shard=shard == "shard",
    )
    model, processor, _, family = load_policy(model_dir, config)
    forward = VideoForward(processor, family)
    groups = [
        made_up_group(forward, f"When is {n}?", noise_clip(f"c{n}", 4 + n, n), rewards, seed=n)
        for n, rewards in enumerate(REWARDS)
    ]
    first, *others = groups[0].completions
    first = replace(first, logprobs=(math.nan, *first.logprobs[1:]))  # what the sampler doesn't know counts nowhere
    groups[0] = replace(groups[0], completions=(first, *others))
    told: list[dict[str, float]] = []
    rows = 16 // world
    layers = layers_to_shard(model, family.learner()) if config.shard else ()
    arguments = trainer_arguments(
        config, Path(out) / f"w{rank}", rows=rows, group_size=4, max_tokens=16, max_steps=2, seed=0, layers=layers
    )
    learner = GRPOLearner(
        model,
        arguments,
        processor,
        family,
        lambda step: groups[rank::world],
        temperature=1.0,
        frozen_vision=False,
        on_step=lambda _, numbers: told.append(numbers),
    )
    # Plain descent: Adam would blow up differences in gradients that are almost 0.
    learner.optimizer_cls_and_kwargs = None
    learner.create_optimizer = lambda *_: _sgd(learner)  # type: ignore[method-assign]
    learner.train()
    if shard == "shard":
        assert all(isinstance(value, DTensor) for value in learner.model.parameters()), "nothing was sharded"
    with torch.no_grad():
        gap = learner.largest(logprob_gap(learner.model.eval(), learner.forward_pass, groups[1:2]))
    state = policy_state(learner.model, frozen_vision=False, keep=rank == 0)
    if rank == 0:
        state["gap"] = np.array([gap], np.float32)
        numbers = {name: value for name, value in told[0].items() if name.startswith("importance/")}
        assert numbers["importance/masked_tokens"] == 1.0 and len(numbers) == 4
        state |= {name: np.array([value], np.float32) for name, value in numbers.items()}
        save_file(state, Path(out) / f"state_{world}_{shard}.safetensors")


def _shard_on_cpus() -> None:
    """Let accelerate shard over gloo: by itself it takes ``fsdp_plugin`` on accelerators only, and makes it DDP."""
    plain = AcceleratorState.__init__

    def with_plugin(self, *args, fsdp_plugin=None, **more):  # type: ignore[no-untyped-def]
        plain(self, *args, fsdp_plugin=fsdp_plugin, **more)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
            PartialState._shared_state["distributed_type"] = self.distributed_type

    AcceleratorState.__init__ = with_plugin


def _sgd(learner: GRPOLearner) -> torch.optim.Optimizer:
    learner.optimizer = torch.optim.SGD(learner.model.parameters(), lr=0.1)
    return learner.optimizer


if __name__ == "__main__":
    main()
