"""GRPO, wired: who runs where, and who waits for whom.

::

    driver (this process)
      │ starts                                     ┌──────────── weights, version k + 1 ────────────┐
      ├─► RolloutManager ── prompts ─► RolloutActors (vLLM) ── groups ─► manager: rewards           │
      │        ▲                                                             │ step k               │
      └─► Ray Train workers: groups ─► GRPOLearner (TRL) ─► optimizer ───────┴── publish, probe ────┘
                                                                  └─► metrics, rollouts, checkpoints

With ``rollouts.max_staleness`` = 0 step k + 1 is sampled after its weights have come; else while step k is learned.
"""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from rich.console import Console

from ravst_ray.backends.pretrained import model_source
from ravst_ray.cluster import plain_error, start_ray
from ravst_ray.config.base import dump_config
from ravst_ray.config.train import TrainConfig
from ravst_ray.datasets.tasks import read_tasks
from ravst_ray.errors import ConfigError
from ravst_ray.logs import get_logger, setup_logging
from ravst_ray.training.groups import Group
from ravst_ray.training.records import RunRecord
from ravst_ray.training.rollout import RolloutManager, StepRollouts, Weights
from ravst_ray.training.weights import check_gap, logprob_gap, policy_state, save_policy_model

log = get_logger(__name__)
COMPLETE = "complete.json"


def train(config: TrainConfig, console: Console, resume: bool = False) -> Path:
    """Run GRPO; gives the directory of the final model.

    Args:
        config: of the run.
        console: for what the driver has to tell.
        resume: go on from the last whole checkpoint under ``output``.

    Raises:
        ConfigError: a file, a model or the cluster can't be used, or the output is taken.
        AbortError: the run can't go on; ``resume`` goes on from its last checkpoint.
    """
    setup_logging()
    output = Path(config.output).absolute()
    model_source(config.model, "model")
    tasks = read_tasks(config.data.annotations, config.data.videos, config.data.limit)
    checkpoint = _begin(output, config, resume)
    start_ray(dashboard=True)
    needs(config)
    questions = sum(len(task.questions) for task in tasks)
    console.print(
        f"{questions} questions on {len(tasks)} videos; {config.max_steps} steps of "
        f"{config.rollouts.prompts_per_step} x {config.rollouts.group_size} completions: {output}",
        highlight=False,
        soft_wrap=True,
    )
    start, place = _position(checkpoint, config)
    absolute = _absolute(config)
    manager = ray.remote(RolloutManager).options(num_cpus=0, max_concurrency=1000).remote(absolute, start, place)
    before = signal.signal(signal.SIGTERM, lambda *_: manager.stop.remote())
    try:
        ray.get(manager.start.remote())
        _fit(absolute, manager, checkpoint)
    except ray.exceptions.RayError as error:
        raise plain_error(error) from error
    finally:
        signal.signal(signal.SIGTERM, before)
        ray.kill(manager)
    return output / "model"


def _absolute(config: TrainConfig) -> TrainConfig:
    """With places that hold in every process."""
    places = {key: os.path.abspath(getattr(config.data, key)) for key in ("annotations", "videos")}
    model = os.path.abspath(config.model) if os.path.isdir(config.model) else config.model
    data = config.data.model_copy(update=places)
    return config.model_copy(update={"output": os.path.abspath(config.output), "data": data, "model": model})


def needs(config: TrainConfig) -> None:
    """Check that the cluster can hold learner and rollout actors at once.

    Raises:
        ConfigError: it can't; the message says what is needed and what is there.
    """
    learner, rollouts = config.learner, config.rollouts
    there = ray.cluster_resources()
    for kind, of_worker, of_actor in (
        ("GPU", learner.num_gpus, rollouts.num_gpus),
        ("CPU", learner.num_cpus, rollouts.num_cpus),
    ):
        wanted = learner.workers * of_worker + rollouts.actors * of_actor
        if wanted > there.get(kind, 0.0):
            raise ConfigError(
                f"needs {wanted:g} {kind}s: {learner.workers * of_worker:g} learner + {rollouts.actors * of_actor:g} "
                f"rollout; the cluster has {there.get(kind, 0.0):g}"
            )


def last_checkpoint(output: Path) -> Path | None:
    """The newest checkpoint that was written to its end."""
    found = [path.parent for path in (output / "checkpoints").glob(f"checkpoint-*/{COMPLETE}")]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _begin(output: Path, config: TrainConfig, resume: bool) -> Path | None:
    checkpoint = last_checkpoint(output) if resume else None
    if not resume and (output / "metrics.jsonl").exists():
        raise ConfigError(f"{output} holds a run already; name another output, or go on with it by --resume")
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"output: can't write to {output}: {error}") from None
    return checkpoint


def _position(checkpoint: Path | None, config: TrainConfig) -> tuple[int, int]:
    if checkpoint is None:
        return 0, 0
    kept = json.loads((checkpoint / COMPLETE).read_text())
    return kept["step"] // config.learner.iterations, kept["place"]


def _fit(config: TrainConfig, manager: Any, checkpoint: Path | None) -> None:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    # A worker imports for a minute on a busy machine; given up too early, it only begins anew.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "300")
    learner = config.learner
    resources = {"CPU": learner.num_cpus} | ({"GPU": learner.num_gpus} if learner.num_gpus else {})
    trainer = TorchTrainer(
        work,
        train_loop_config={
            "config": config.model_dump(mode="json"),
            "manager": manager,
            "checkpoint": str(checkpoint) if checkpoint else None,
        },
        scaling_config=ScalingConfig(
            num_workers=learner.workers, use_gpu=learner.num_gpus > 0, resources_per_worker=resources
        ),
        run_config=RunConfig(name="ray", storage_path=str(Path(config.output))),
    )
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        causes = getattr(error, "worker_failures", {})
        raise plain_error(next(iter(causes.values()), error)) from error


def work(payload: dict[str, Any]) -> None:
    """What each Ray Train worker runs."""
    setup_logging()
    Worker(TrainConfig.model_validate(payload["config"]), payload["manager"], payload["checkpoint"]).run()


class Worker:
    """One learner worker: takes its groups from the manager, hands weights back, keeps the record (rank 0)."""

    def __init__(self, config: TrainConfig, manager: Any, checkpoint: str | None):
        from ravst_ray.training.learner import GRPOLearner, load_policy, trainer_arguments

        self.config, self.manager, self.checkpoint = config, manager, checkpoint
        self.rank: int = ray.train.get_context().get_world_rank()
        rollouts = config.rollouts
        model, processor, adapter = load_policy(config.model, config.learner)
        arguments = trainer_arguments(
            config.learner,
            Path(config.output) / "checkpoints",
            rows=rollouts.prompts_per_step * rollouts.group_size // config.learner.workers,
            group_size=rollouts.group_size,
            max_steps=config.max_steps,
            seed=config.seed,
            save_every=config.save_every,
            save_total_limit=config.keep_checkpoints,
        )
        self.learner = GRPOLearner(
            model,
            arguments,
            processor,
            self.source,
            temperature=rollouts.temperature,
            frozen_vision=config.learner.freeze_vision,
            on_step=self.on_step,
            after_save=self.after_save,
            peft_config=adapter,
        )
        self.learner.add_callback(_publishing(self))
        self.rollouts = StepRollouts([], [])
        self.numbers: dict[str, float] = {}
        self.stepped_at = time.monotonic()
        self.record: RunRecord | None = None
        if self.rank == 0:
            settings = config.model_dump(mode="json")
            done = int(Path(checkpoint).name.rpartition("-")[2]) if checkpoint else 0
            self.record = RunRecord(Path(config.output), config.sinks, config.max_steps, done, settings)

    def run(self) -> None:
        """Train, then save the final model."""
        self.learner.train(resume_from_checkpoint=self.checkpoint)
        if self.learner.state.global_step >= self.config.max_steps:
            target = Path(self.config.output) / "model"
            save_policy_model(self.learner.model, self.learner.processing_class, target, self.rank)

    def source(self, step: int) -> list[Group]:
        """This worker's groups of an update, their clips fetched from the object store."""
        started = time.monotonic()
        self.rollouts = ray.get(self.manager.groups.remote(step, self.rank))
        clips = ray.get(list(self.rollouts.clips))
        self.numbers["seconds/waiting"] = time.monotonic() - started
        return [replace(group, clip=clip) for group, clip in zip(self.rollouts.groups, clips, strict=True)]

    def publish(self, version: int) -> None:
        """Send the weights to the engines, and prove on a probe that they arrived."""
        started = time.monotonic()
        state = policy_state(self.learner.model, self.config.learner.freeze_vision)
        if self.rank != 0:
            return
        self.numbers["rollout/busy_share"] = ray.get(self.manager.publish.remote(Weights(version, [ray.put(state)])))
        self.numbers["seconds/sync"] = time.monotonic() - started
        every = self.config.sync.probe_every
        if every and version % every == 0:
            group, clip = ray.get(self.manager.probe.remote())
            probe = replace(group, clip=ray.get(clip))
            self.learner.model.eval()
            forward = self.learner.forward_pass
            kept, forward.temperature = forward.temperature, 1.0
            gap = logprob_gap(self.learner.model, forward, [probe])
            forward.temperature = kept
            self.learner.model.train()
            self.numbers["sync/logprob_gap_mean"] = gap
            engine = min((min(one.versions) for one in probe.completions if one.versions), default=0)
            check_gap(gap, self.config.sync.max_gap, engine, version)

    def on_step(self, step: int, numbers: dict[str, float]) -> None:
        """The record of a step."""
        now = time.monotonic()
        spent = now - self.stepped_at
        waiting = self.numbers.get("seconds/waiting", 0.0)
        self.numbers |= {"seconds/step": spent, "learner/busy_share": max(1 - waiting / max(spent, 1e-9), 0.0)}
        self.stepped_at = now
        if self.record is not None:
            self.record.write(step, {**self.rollouts.numbers, **numbers, **self.numbers})
            texts = [self.learner.processing_class.tokenizer.decode(group.prompt_ids) for group in self.rollouts.groups]
            self.record.rollouts(step, self.rollouts.groups, texts)
        self.numbers = {}

    def after_save(self, folder: Path, step: int) -> None:
        """Mark a checkpoint as whole, with where the questions go on."""
        if self.rank == 0:
            place = ray.get(self.manager.place.remote(step // self.config.learner.iterations))
            partial = folder / f".{COMPLETE}"
            partial.write_text(json.dumps({"step": step, "place": place}))
            partial.replace(folder / COMPLETE)


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
            if ray.get(worker.manager.stopping.remote()):
                log.warning("asked to stop: saving a checkpoint after step %d", state.global_step)
                control.should_save = control.should_training_stop = True

    return Publishing()
