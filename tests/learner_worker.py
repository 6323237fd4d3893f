"""One worker of a learner over gloo; started by the test, once for each rank.

RANK=r WORLD_SIZE=n … python -m tests.learner_worker MODEL OUT LOSS SHARD [CHECKPOINT]

With SHARD = shard it also goes through what sharded learners write, read and compare themselves with.
"""

import math
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import ray.train
import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState, DistributedType, PartialState
from accelerate.utils import save_fsdp_model, save_fsdp_optimizer
from safetensors.numpy import save_file
from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.tensor import DTensor

from ravst_ray.config.train import LearnerConfig
from ravst_ray.errors import AbortError, ConfigError
from ravst_ray.policy.families.qwen2_5_vl import Qwen25VLLearner
from ravst_ray.training.arguments import trainer_arguments
from ravst_ray.training.checkpoints import stored
from ravst_ray.training.forward import Row, VideoForward
from ravst_ray.training.learner import GRPOLearner
from ravst_ray.training.policy_loading import layers_to_shard, load_policy, load_reference
from ravst_ray.training.position import Position
from ravst_ray.training.run_store import CHECKPOINTS, Checkpoint, RunStore
from ravst_ray.training.sync_proof import logprob_gap
from ravst_ray.training.weights import policy_state
from tests.s3_server import BUCKET
from tests.tiny_policies import load_tiny, made_up_group, noise_clip

REWARDS = [(1.0, 0.0, 0.5, 0.25), (0.0, 2.0, 0.0, 0.0), (0.5, 0.5, 1.0, 0.0), (2.0, 0.0, 0.0, 1.0)]
RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
MODEL, OUT, LOSS, SHARD = (Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:5])


def main() -> None:
    """Train three steps on this rank's groups; rank 0 saves weights, gap and metrics."""
    torch.set_num_threads(1)
    if WORLD > 1:
        dist.init_process_group("gloo")  # as Ray Train does
    # Each is the first of its node.
    ray.train.get_context = lambda: SimpleNamespace(get_world_rank=lambda: RANK, get_local_rank=lambda: 0)
    if SHARD == "shard":
        _shard_on_cpus()
        _only_rank_0_reads()
    told: list[dict[str, float]] = []
    learner = build("run", on_step=lambda _, numbers: told.append(numbers))
    learner.train()
    if SHARD == "shard":
        assert all(isinstance(value, DTensor) for value in learner.model.parameters()), "nothing was sharded"
        whole = [one.step for one in RunStore(str(OUT / "run")).whole_checkpoints()]
        assert RANK or whole == [1, 2, 3], "the end waits for the last one"
    with torch.no_grad():
        gap = learner.largest(logprob_gap(learner.model.eval(), learner.forward_pass, given(learner.forward_pass)[1:2]))
    state = policy_state(learner.model, frozen_vision=False, keep=RANK == 0)
    if RANK == 0:
        numbers = {name: value for name, value in told[0].items() if name.startswith("importance/")}
        assert numbers["importance/masked_tokens"] == 1.0 and len(numbers) == 4
        save("state", state | {name: np.array([value], np.float32) for name, value in {"gap": gap, **numbers}.items()})
    if len(sys.argv) > 5:
        goes_on(sys.argv[5], "resumed")
    if SHARD == "shard":
        goes_on(checkpoint("run", 2), "apart")
        dist.barrier()  # rank 0 marks it as whole
        fresh = results("apart", "fresh")
        goes_on(str(fresh.prepare(fresh.last_checkpoint(), first=RANK == 0)), "resumed_apart")
        goes_on(as_earlier_versions_wrote(), "resumed_earlier")
        starts_at_its_reference()
        adapter = {"lora": {"rank": 4}, "kl": 0.1}
        straight = build("adapter", adapter)
        assert straight.ref_model is None, "it is the policy without its adapter"
        straight.train()
        save("adapter", policy_state(straight.model, frozen_vision=False, keep=RANK == 0))
        goes_on(checkpoint("adapter", 2), "adapter_resumed", adapter)
        ends_while_it_writes()


def build(run: str, more: dict | None = None, steps: int = 3, frozen: bool = False, **given_to: object) -> GRPOLearner:
    """A learner whose run is in a folder of its own, with a checkpoint after each step of a sharded one."""
    config = LearnerConfig(
        rate=3e-3,
        micro_batch=4,
        freeze_vision=frozen,
        schedule="linear",
        dtype="float32",
        loss=LOSS,
        shard=SHARD == "shard",
        **(more or {}),
    )
    model, processor, adapter, family = load_policy(str(MODEL), config)
    store = results(run)
    arguments = trainer_arguments(
        config,
        store.local / CHECKPOINTS,
        rows=16 // WORLD,
        group_size=4,
        max_tokens=16,
        max_steps=steps,
        seed=0,
        save_every=int(config.shard),
        layers=layers_to_shard(model, family.learner()) if config.shard else (),
        # Adam as it is would blow up differences in gradients that are almost 0.
        optim_args="eps=0.03",
    )

    def after_save(folder: Path, step: int) -> None:
        files = stored(store, folder.name)
        if RANK == 0:
            store.mark_whole(Checkpoint(folder.name, Position(step), files), keep=9)

    return GRPOLearner(
        model,
        arguments,
        processor,
        family,
        lambda step: given(VideoForward(processor, family))[RANK::WORLD],
        temperature=1.0,
        frozen_vision=frozen,
        after_save=after_save,
        peft_config=adapter,
        reference=load_reference(str(MODEL), config, model),
        **given_to,
    )


def given(forward: VideoForward) -> list:
    """The groups of all ranks."""
    groups = [
        made_up_group(forward, f"When is {n}?", noise_clip(f"c{n}", 4 + n, n), rewards, seed=n)
        for n, rewards in enumerate(REWARDS)
    ]
    first, *others = groups[0].completions
    first = replace(first, logprobs=(math.nan, *first.logprobs[1:]))  # what the sampler doesn't know counts nowhere
    groups[0] = replace(groups[0], completions=(first, *others))
    return groups


def results(run: str, disk: str = "disk") -> RunStore:
    """Where a run's are: a folder, or of one run a bucket, with a disk for each rank."""
    if run != "apart":
        return RunStore(str(OUT / run))
    return RunStore(f"s3://{BUCKET}/{run}", scratch=str(OUT / f"{disk}{RANK}"))


def checkpoint(run: str, step: int) -> str:
    """A whole one's folder."""
    assert step in [one.step for one in RunStore(str(OUT / run)).whole_checkpoints()]
    return str(OUT / run / CHECKPOINTS / f"checkpoint-{step}")


def goes_on(folder: str, name: str, more: dict | None = None) -> None:
    """What becomes of a run that goes on from a checkpoint."""
    learner = build(name, more)
    learner.train(resume_from_checkpoint=folder)
    assert learner.state.global_step == 3 and len(learner.state.log_history) <= 4
    save(name, policy_state(learner.model, frozen_vision=False, keep=RANK == 0))


def as_earlier_versions_wrote() -> str:
    """The second step's checkpoint as rank 0 alone wrote it, whole, by accelerate."""
    learner = build("earlier", steps=2)
    try:
        learner._load_from_checkpoint(str(MODEL))  # as the checkpoint of one worker
    except ConfigError as error:
        assert "isn't of a sharded learner" in str(error)
    else:
        raise AssertionError("went on from another kind of checkpoint")
    learner.train(resume_from_checkpoint=checkpoint("run", 2))
    target = OUT / "earlier" / CHECKPOINTS / "checkpoint-2"
    plugin, accelerator = learner.accelerator.state.fsdp_plugin, learner.accelerator
    save_fsdp_model(plugin, accelerator, learner.model, str(target))
    save_fsdp_optimizer(plugin, accelerator, learner.optimizer, learner.model, str(target))
    if RANK == 0:
        for name in ("scheduler.pt", "trainer_state.json"):
            target.joinpath(name).write_bytes(Path(checkpoint("run", 2), name).read_bytes())
    dist.barrier()
    return str(target)


def starts_at_its_reference() -> None:
    """The start model's log-probs are those of a whole one, and a pass has one layer of it together at a time."""
    learner = build("frozen", {"kl": 0.1}, steps=1, frozen=True)
    reference, together = learner.ref_model, []
    assert all(isinstance(weight, DTensor) for weight in reference.parameters())
    assert reference.model.visual is learner.model.model.visual, "a frozen tower is there once"

    def count(layer: object, _: object) -> None:
        whole = {id(weight): weight.numel() for weight in reference.parameters() if not isinstance(weight, DTensor)}
        together.append(sum(whole.values()))

    layers = reference.model.language_model.layers
    for layer in layers:
        layer.register_forward_pre_hook(count)
    group = given(learner.forward_pass)[RANK]
    rows = [Row(group.prompt_ids, one.token_ids, group.clip) for one in group.completions]
    with torch.no_grad():
        found = learner._reference(rows)
        expected = VideoForward(learner.processing_class, learner.forward_pass.family).score(load_tiny(MODEL)[0], rows)
    assert torch.allclose(found, expected.logps, atol=1e-5), (found - expected.logps).abs().max()
    assert all(isinstance(weight, DTensor) for weight in reference.parameters()), "some stay whole"
    sizes = [sum(weight.numel() for weight in layer.parameters()) for layer in layers]
    embedding = reference.get_input_embeddings().weight.numel() + reference.config.text_config.hidden_size
    assert len(together) == len(layers) and max(together) <= embedding + max(sizes), (together, sizes, embedding)
    learner.train()


def ends_while_it_writes() -> None:
    """Rank 1 is killed in the middle of writing its part of the third step's checkpoint."""
    learner = build("killed")
    plain = FileSystemWriter.write_data

    def write(writer: FileSystemWriter, *args: object) -> object:
        done = plain(writer, *args)
        if RANK == 1 and "checkpoint-3" in str(writer.path):
            os._exit(9)
        return done

    FileSystemWriter.write_data = write
    try:
        learner.train()
    except (AbortError, RuntimeError) as error:
        print("the other ended:", error, flush=True)
        os._exit(0)
    raise AssertionError("a checkpoint without rank 1's part was written")


def save(name: str, state: dict[str, np.ndarray]) -> None:
    """Of rank 0."""
    if RANK == 0:
        save_file(state, OUT / f"{name}_{WORLD}_{SHARD}.safetensors")


def _only_rank_0_reads() -> None:
    """Others fail where they read weights."""
    plain = Qwen25VLLearner.load

    def load(*args: object) -> object:
        assert RANK == 0, "a rank reads what it will be given"
        return plain(*args)

    Qwen25VLLearner.load = load


def _shard_on_cpus() -> None:
    """Let accelerate shard over gloo: by itself it takes ``fsdp_plugin`` on accelerators only, and makes it DDP."""
    plain = AcceleratorState.__init__

    def with_plugin(self, *args, fsdp_plugin=None, **more):  # type: ignore[no-untyped-def]
        plain(self, *args, fsdp_plugin=fsdp_plugin, **more)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
            PartialState._shared_state["distributed_type"] = self.distributed_type

    AcceleratorState.__init__ = with_plugin


if __name__ == "__main__":
    main()
