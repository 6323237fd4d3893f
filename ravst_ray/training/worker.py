"""What runs in each Ray Train worker of a GRPO run: groups in, updates out, the record of it all.

A worker takes its groups of a step from the manager, hands the new weights back and proves that they arrived; rank 0
also keeps the record and marks checkpoints as whole.
"""

from __future__ import annotations

import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from ravst_ray.cluster.failures import crossing
from ravst_ray.cluster.metrics import TrainingMetrics
from ravst_ray.config.train import TrainConfig
from ravst_ray.datasets.places import is_remote
from ravst_ray.errors import AbortError, BadBatchError, ConfigError
from ravst_ray.logs import get_logger, setup_logging
from ravst_ray.training.checkpoints import stored
from ravst_ray.training.failures import save_batch, writing
from ravst_ray.training.groups import Group
from ravst_ray.training.records import RunRecord
from ravst_ray.training.rollout import StepRollouts
from ravst_ray.training.run_store import CHECKPOINTS, Checkpoint, RunStore
from ravst_ray.training.sync_proof import GapLimit, logprob_gap
from ravst_ray.training.transport import open_transport
from ravst_ray.training.validation import NAME as VALIDATIONS
from ravst_ray.training.validation import best_row, read_rows
from ravst_ray.training.weights import check_prompt, save_policy_model

log = get_logger(__name__)
_START_GAP = "sync/gap_at_start"
"""Under this name a checkpoint's log keeps :attr:`GapLimit.start`."""


def work(payload: dict[str, Any]) -> None:
    """What each Ray Train worker runs."""
    setup_logging()
    with crossing():
        config = TrainConfig.model_validate(payload["config"])
        check_places(config, payload["mark"])
        Worker(config, payload["manager"], payload["checkpoint"]).run()


def check_places(config: TrainConfig, mark: str) -> None:
    """Whether this node sees the places that the driver does.

    Args:
        config: of the run.
        mark: what the driver left in the output.

    Raises:
        ConfigError: it doesn't.
    """
    node = socket.gethostname()
    RunStore(config.output, config.scratch).check_seen(mark, node)
    if not is_remote(config.data.videos) and not Path(config.data.videos).is_dir():
        raise ConfigError(
            f"data.videos: {config.data.videos} isn't there on node {node}; name a folder on a file system that all "
            "nodes share, or a place in an object store (s3://bucket/videos)"
        )


class Worker:
    """One learner worker: takes its groups from the manager, hands weights back, keeps the record (rank 0).

    Args:
        config: of the run.
        manager: of the rollouts.
        checkpoint: that the run goes on from; None: from the start.
    """

    def __init__(self, config: TrainConfig, manager: Any, checkpoint: Checkpoint | None):
        from ravst_ray.training.arguments import trainer_arguments
        from ravst_ray.training.learner import GRPOLearner
        from ravst_ray.training.policy_loading import layers_to_shard, load_policy, load_reference

        self.config, self.manager = config, manager
        self.rank: int = ray.train.get_context().get_world_rank()
        self.store = RunStore(config.output, config.scratch)
        self.checkpoint = self.store.prepare(checkpoint, first=self.rank == 0)
        rollouts = config.rollouts
        policy = load_policy(config.model, config.learner)
        arguments = trainer_arguments(
            config.learner,
            self.store.local / CHECKPOINTS,
            rows=rollouts.prompts_per_step * rollouts.group_size // config.learner.workers,
            group_size=rollouts.group_size,
            max_tokens=rollouts.max_tokens,
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
            reference=load_reference(config.model, config.learner, policy.model),
        )
        self.learner.add_callback(_publishing(self))
        self.transport = open_transport(config, manager, self.rank)
        self.limit = GapLimit(config.sync.max_gap)
        self.rollouts = StepRollouts([], [])
        self.numbers: dict[str, float] = {}
        self.stepped_at = time.monotonic()
        self.ended, self.best_step = False, known_best(self.store.local, config) if checkpoint else None
        self.metrics = TrainingMetrics()
        self.record: RunRecord | None = None
        if self.rank == 0:
            settings = config.model_dump(mode="json")
            done = checkpoint.step if checkpoint else 0
            self.record = RunRecord(self.store.local, config.sinks, done, settings)

    def run(self) -> None:
        """Train, then save the final model."""
        try:
            self.learner.train(resume_from_checkpoint=str(self.checkpoint) if self.checkpoint else None)
            self.settle()
        except BadBatchError as error:
            raise AbortError(f"{error}; {self.keep_batch(str(error))}") from None
        finally:
            if self.record is not None:
                self.record.close()
                self.store.push_now_and_then(0.0)
        if self.ended or self.learner.state.global_step >= self.config.max_steps:
            target = self.store.local / "model"
            with writing(target):
                save_policy_model(self.learner.model, self.learner.processing_class, target, self.rank)
            if self.rank == 0:
                self.store.push()

    def keep_batch(self, reason: str) -> str:
        """Save the groups of all workers that the step at hand was to learn from; says where they are."""
        done, workers = self.learner.state.global_step, self.config.learner.workers
        step = done // self.config.learner.iterations
        shares = ray.get([self.manager.groups.remote(step, rank) for rank in range(workers)])
        groups = [group for row in zip(*(share.groups for share in shares), strict=True) for group in row]
        try:
            path = save_batch(self.store.local, done + 1, groups, self.texts(groups), reason)
            self.store.push()
        except (OSError, AbortError) as error:
            return f"its batch can't be saved: {error}"
        return f"its batch is saved: {self.store.place(path.name)}"

    def texts(self, groups: list[Group]) -> list[str]:
        """The prompts of groups, as the model has them."""
        return [self.learner.processing_class.tokenizer.decode(group.prompt_ids) for group in groups]

    def source(self, step: int) -> list[Group]:
        """This worker's groups of an update, their clips fetched from the object store."""
        started = time.monotonic()
        asked = self.manager.groups.remote(step, self.rank)
        self.transport.check(asked)
        self.rollouts = ray.get(asked)
        clips = ray.get(list(self.rollouts.clips))
        self._add("seconds/waiting", time.monotonic() - started)
        return [replace(group, clip=clip) for group, clip in zip(self.rollouts.groups, clips, strict=True)]

    def publish(self, version: int) -> None:
        """Send the weights to the engines, and prove on a probe that they arrived.

        The learner goes on while engines load them, where it has groups that were sampled before.
        """
        self.settle()
        started = time.monotonic()
        if self.config.rollouts.share_gpu:
            free_card()  # the engine wakes up now
        self.transport.publish(self.learner.model, version)
        self._add("seconds/sync", time.monotonic() - started)
        if self.rank == 0:
            self.numbers["sync/bytes"] = float(self.transport.sent_bytes)
        if self.config.rollouts.max_staleness == 0:
            self.settle()
        self.prove_if_due(version)

    def settle(self) -> None:
        """Wait until the engines have the last version; what came of it goes into the record of the step at hand."""
        started = time.monotonic()
        synced = self.transport.settled()
        if synced is not None:
            spent_s = time.monotonic() - started
            waited_s = min(spent_s, synced.drained_s)
            self._add("seconds/waiting", waited_s)
            self._add("seconds/sync", spent_s - waited_s)
            self.numbers["seconds/engine_load"] = synced.load_s
            self.numbers["rollout/busy_share"] = synced.busy_share
            self.numbers["sync/changed_engines"] = synced.changed

    def prove_if_due(self, version: int) -> None:
        """:meth:`prove` after every so many syncs (``sync.probe_every``), and before the first."""
        every = self.config.sync.probe_every
        # A sharded model computes on all ranks or on none.
        if every and version % every == 0 and (self.rank == 0 or self.config.learner.shard):
            self.prove(version)

    def prove(self, version: int) -> None:
        """Compare prompts and log-probs with an engine's; a gap above the limit on two probes ends the run."""
        self.settle()
        started = time.monotonic()
        gap, engine = self.look(version, 0)
        if gap > self.limit.value and engine == version:
            log.warning("log-probs differ by %.4f (limit %.4f): another look", gap, self.limit.value)
            self.numbers["sync/second_looks"] = 1.0
            gap, engine = self.look(version, 1)
        self.numbers |= {"sync/logprob_gap": gap, "sync/gap_limit": self.limit.value}
        self.numbers["seconds/probe"] = time.monotonic() - started
        self.limit.check(gap, engine, version)

    def look(self, version: int, look: int) -> tuple[float, int]:
        """The gap on a probe, which is another for each ``look``, and the oldest version that sampled it."""
        sampled = ray.get(self.manager.probe.remote(version, look))
        clips = ray.get([one.clip for one in sampled])
        probe = [replace(one.group, clip=clip) for one, clip in zip(sampled, clips, strict=True)]
        forward = self.learner.forward_pass
        for one, group in zip(sampled, probe, strict=True):
            check_prompt(group, forward.prompt_ids(one.text, group.clip))
        self.learner.model.eval()
        kept, forward.temperature = forward.temperature, 1.0
        gap = logprob_gap(self.learner.model, forward, probe)
        forward.temperature = kept
        self.learner.model.train()
        versions = [version for group in probe for one in group.completions for version in one.versions]
        return self.learner.largest(gap), min(versions, default=0)

    def validate(self, step: int) -> Any:
        """What held-out questions say of the policy after a step; None where they aren't asked then."""
        every = self.config.eval_every
        if not every or step % every:
            return None
        self.settle()
        started = time.monotonic()
        found = ray.get(self.manager.validated.remote(step, step // self.config.learner.iterations))
        if step:  # what comes before the first step has no record of a step
            self.numbers |= {f"validation/{key}": value for key, value in found.row.items() if key != "step"}
            self.numbers["seconds/validation"] = time.monotonic() - started
        if self.record is not None:
            with writing(self.config.output):
                self.record.validated(found.row)
        self.ended, self.best_step = found.stop, found.best_step
        return found

    def _add(self, name: str, seconds: float) -> None:
        self.numbers[name] = self.numbers.get(name, 0.0) + seconds

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
                self.store.push_now_and_then()
        self.numbers = {}

    def after_save(self, folder: Path, step: int) -> None:
        """Mark a checkpoint as whole, with where the questions go on; only then older ones may go."""
        files = stored(self.store, folder.name)
        if self.rank == 0:
            position = ray.get(self.manager.position.remote(step // self.config.learner.iterations))
            checkpoint = Checkpoint(folder.name, position, files)
            self.store.push()  # the record is never behind the checkpoint
            self.store.mark_whole(checkpoint, self.config.keep_checkpoints, self.best_step)


def known_best(folder: Path, config: TrainConfig) -> int | None:
    """The step of the best validation that is in a run's folder."""
    path = folder / VALIDATIONS
    rows = read_rows(path.read_text(encoding="utf-8"), config.max_steps) if path.exists() else []
    return best_row(rows, config.validation.metric)["step"] if rows else None


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
            known = [entry[_START_GAP] for entry in state.log_history if _START_GAP in entry]
            worker.limit.start = known[-1] if known else None
            if state.global_step:
                worker.publish(state.global_step // worker.config.learner.iterations)
            else:
                worker.prove_if_due(0)
                worker.validate(0)

        def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if worker.limit.start is not None:
                state.log_history[-1][_START_GAP] = worker.limit.start

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step % worker.config.learner.iterations == 0:
                worker.publish(state.global_step // worker.config.learner.iterations)
            if found := worker.validate(state.global_step):
                control.should_save |= found.best
                control.should_training_stop |= found.stop
            if ray.get(worker.manager.stopping.remote(state.global_step)):
                log.warning("asked to stop: saving a checkpoint after step %d", state.global_step)
                control.should_save = control.should_training_stop = True

    return Publishing()
