"""What runs in each Ray Train worker of a GRPO run: groups in, updates out, the record of it all.

A worker takes its groups of a step from the manager, hands the new weights back and proves that they arrived; rank 0
also keeps the record and marks checkpoints as whole.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from ravst_ray.cluster.failures import crossing
from ravst_ray.cluster.metrics import TrainingMetrics
from ravst_ray.config.train import TrainConfig
from ravst_ray.errors import AbortError, BadBatchError
from ravst_ray.logs import get_logger, setup_logging
from ravst_ray.training.checkpoints import mark_whole, step_of
from ravst_ray.training.failures import save_batch, writing
from ravst_ray.training.groups import Group
from ravst_ray.training.records import RunRecord
from ravst_ray.training.rollout import StepRollouts
from ravst_ray.training.transport import open_transport
from ravst_ray.training.weights import check_gap, check_prompt, logprob_gap, save_policy_model

log = get_logger(__name__)


def work(payload: dict[str, Any]) -> None:
    """What each Ray Train worker runs."""
    setup_logging()
    with crossing():
        Worker(TrainConfig.model_validate(payload["config"]), payload["manager"], payload["checkpoint"]).run()


class Worker:
    """One learner worker: takes its groups from the manager, hands weights back, keeps the record (rank 0)."""

    def __init__(self, config: TrainConfig, manager: Any, checkpoint: str | None):
        from ravst_ray.training.learner import (
            GRPOLearner,
            layers_to_shard,
            load_policy,
            load_reference,
            trainer_arguments,
        )

        self.config, self.manager, self.checkpoint = config, manager, checkpoint
        self.rank: int = ray.train.get_context().get_world_rank()
        rollouts = config.rollouts
        policy = load_policy(config.model, config.learner)
        arguments = trainer_arguments(
            config.learner,
            Path(config.output) / "checkpoints",
            rows=rollouts.prompts_per_step * rollouts.group_size // config.learner.workers,
            group_size=rollouts.group_size,
            max_steps=config.max_steps,
            seed=config.seed,
            save_every=config.save_every,
            layers=layers_to_shard(policy.model, policy.family.learner()) if config.learner.shard else (),
        )
        self.learner = GRPOLearner(
            policy.model,
            arguments,
            policy.processor,
            policy.family,
            self.source,
            temperature=rollouts.temperature,
            frozen_vision=config.learner.freeze_vision,
            share_prompts=config.learner.share_prompts,
            features_gib=config.learner.features_gib,
            on_step=self.on_step,
            after_save=self.after_save,
            peft_config=policy.adapter,
            reference=load_reference(config.model, config.learner),
        )
        self.learner.add_callback(_publishing(self))
        self.transport = open_transport(config, manager, self.rank)
        self.rollouts = StepRollouts([], [])
        self.numbers: dict[str, float] = {}
        self.stepped_at = time.monotonic()
        self.metrics = TrainingMetrics()
        self.record: RunRecord | None = None
        if self.rank == 0:
            settings = config.model_dump(mode="json")
            done = step_of(Path(checkpoint)) if checkpoint else 0
            self.record = RunRecord(Path(config.output), config.sinks, done, settings)

    def run(self) -> None:
        """Train, then save the final model."""
        try:
            self.learner.train(resume_from_checkpoint=self.checkpoint)
        except BadBatchError as error:
            raise AbortError(f"{error}; {self.keep_batch(str(error))}") from None
        finally:
            if self.record is not None:
                self.record.close()
        if self.learner.state.global_step >= self.config.max_steps:
            target = Path(self.config.output) / "model"
            with writing(target):
                save_policy_model(self.learner.model, self.learner.processing_class, target, self.rank)

    def keep_batch(self, reason: str) -> str:
        """Save the groups of all workers that the step at hand was to learn from; says where they are."""
        done, workers = self.learner.state.global_step, self.config.learner.workers
        step = done // self.config.learner.iterations
        shares = ray.get([self.manager.groups.remote(step, rank) for rank in range(workers)])
        groups = [group for row in zip(*(share.groups for share in shares), strict=True) for group in row]
        try:
            path = save_batch(Path(self.config.output), done + 1, groups, self.texts(groups), reason)
        except OSError as error:
            return f"its batch can't be saved: {error}"
        return f"its batch is saved: {path}"

    def texts(self, groups: list[Group]) -> list[str]:
        """The prompts of groups, as the model has them."""
        return [self.learner.processing_class.tokenizer.decode(group.prompt_ids) for group in groups]

    def source(self, step: int) -> list[Group]:
        """This worker's groups of an update, their clips fetched from the object store."""
        started = time.monotonic()
        self.rollouts = ray.get(self.manager.groups.remote(step, self.rank))
        clips = ray.get(list(self.rollouts.clips))
        self._waited(time.monotonic() - started)
        return [replace(group, clip=clip) for group, clip in zip(self.rollouts.groups, clips, strict=True)]

    def publish(self, version: int) -> None:
        """Send the weights to the engines, and prove on a probe that they arrived."""
        started = time.monotonic()
        if self.config.rollouts.share_gpu:
            free_card()  # the engine wakes up now
        share = self.transport.publish(self.learner.model, version)
        if self.rank == 0:
            drained_s = ray.get(self.manager.drained_s.remote())
            self._waited(drained_s)
            self.numbers["rollout/busy_share"] = share
            self.numbers["seconds/sync"] = max(time.monotonic() - started - drained_s, 0.0)
        every = self.config.sync.probe_every
        # A sharded model computes on all ranks or on none.
        if every and version % every == 0 and (self.rank == 0 or self.config.learner.shard):
            self.prove(version)

    def prove(self, version: int) -> None:
        """Compare the prompt's ids and the log-probs with an engine's; a gap above the limit ends the run."""
        sampled = ray.get(self.manager.probe.remote(version))
        probe = replace(sampled.group, clip=ray.get(sampled.clip))
        forward = self.learner.forward_pass
        check_prompt(probe, forward.prompt_ids(sampled.text, probe.clip))
        self.learner.model.eval()
        kept, forward.temperature = forward.temperature, 1.0
        gap = logprob_gap(self.learner.model, forward, [probe])
        forward.temperature = kept
        self.learner.model.train()
        self.numbers["sync/logprob_gap_mean"] = gap
        engine = min((min(one.versions) for one in probe.completions if one.versions), default=0)
        check_gap(gap, self.config.sync.max_gap, engine, version)

    def _waited(self, seconds: float) -> None:
        self.numbers["seconds/waiting"] = self.numbers.get("seconds/waiting", 0.0) + seconds

    def on_step(self, step: int, numbers: dict[str, float]) -> None:
        """The record of a step."""
        now = time.monotonic()
        spent = now - self.stepped_at
        waiting = self.numbers.get("seconds/waiting", 0.0)
        self.numbers |= {"seconds/step": spent, "learner/busy_share": max(1 - waiting / max(spent, 1e-9), 0.0)}
        self.stepped_at = now
        if self.record is not None:
            with writing(self.config.output):
                record = self.record.write(step, {**self.rollouts.numbers, **numbers, **self.numbers})
                self.manager.tell.remote(record)
                self.metrics.show(record)
                groups = self.rollouts.groups
                if self.config.learner.workers > 1:
                    groups = ray.get(self.manager.whole.remote((step - 1) // self.config.learner.iterations))
                self.record.rollouts(step, groups, self.texts(groups))
        self.numbers = {}

    def after_save(self, folder: Path, step: int) -> None:
        """Mark a checkpoint as whole, with where the questions go on; only then older ones may go."""
        if self.rank == 0:
            position = ray.get(self.manager.position.remote(step // self.config.learner.iterations))
            mark_whole(folder, position, self.config.keep_checkpoints)


def free_card() -> None:
    """Give back what torch keeps of the card for later; nothing without a GPU."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _publishing(worker: Worker) -> Any:
    """The callback that sends weights after each update, and saves and ends when that is asked for."""
    from transformers import TrainerCallback

    class Publishing(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            worker.stepped_at = time.monotonic()
            if state.global_step:
                worker.publish(state.global_step // worker.config.learner.iterations)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step % worker.config.learner.iterations == 0:
                worker.publish(state.global_step // worker.config.learner.iterations)
            if ray.get(worker.manager.stopping.remote(state.global_step)):
                log.warning("asked to stop: saving a checkpoint after step %d", state.global_step)
                control.should_save = control.should_training_stop = True

    return Publishing()
