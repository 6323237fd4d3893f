"""GRPO, wired: who runs where, and who waits for whom.

::

    driver (this process)
      │ starts                                     ┌──────────── weights, version k + 1 ────────────┐
      ├─► RolloutManager ── prompts ─► RolloutActors (vLLM) ── groups ─► manager: rewards           │
      │        ▲                                                             │ step k               │
      └─► Ray Train workers: groups ─► GRPOLearner (TRL) ─► optimizer ───────┴── publish, probe ────┘
                                                                  └─► metrics, rollouts, checkpoints

With ``rollouts.max_staleness`` = 0 step k + 1 is sampled after its weights have come; else while step k is learned.
On a shared card (``rollouts.share_gpu``) the engines sleep from the groups of a step to the weights that it gives.
When a learner worker dies, all of it but the driver begins anew at the last checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
from rich.console import Console

from ravst_ray.backends.pretrained import model_source
from ravst_ray.cluster import plain_error, start_ray
from ravst_ray.config.base import dump_config
from ravst_ray.config.train import TrainConfig
from ravst_ray.datasets.tasks import read_tasks
from ravst_ray.errors import AbortError, BadBatchError, ConfigError, RavstError, WorkerDiedError
from ravst_ray.logs import get_logger, setup_logging
from ravst_ray.reports.training_report import write_training_report
from ravst_ray.training.checkpoints import discard_torn, last_checkpoint, mark_whole, place_of, step_of
from ravst_ray.training.failures import save_batch, writing
from ravst_ray.training.groups import Group
from ravst_ray.training.live import LiveView
from ravst_ray.training.placement import cluster_capacity, release, reserve
from ravst_ray.training.plan import check_cluster, check_prompts, load_tokenizer, prompt_tokens
from ravst_ray.training.records import RunRecord
from ravst_ray.training.rollout import RolloutManager, StepRollouts
from ravst_ray.training.transport import open_transport
from ravst_ray.training.weights import check_gap, logprob_gap, save_policy_model

log = get_logger(__name__)


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
    check_prompts(prompt_tokens(tasks, config, load_tokenizer(config.model)), config)
    checkpoint = _begin(output, config, resume)
    start_ray(dashboard=True)
    check_cluster(config, cluster_capacity())
    questions = sum(len(task.questions) for task in tasks)
    console.print(
        f"{questions} questions on {len(tasks)} videos; {config.max_steps} steps of "
        f"{config.rollouts.prompts_per_step} x {config.rollouts.group_size} completions: {output}",
        highlight=False,
        soft_wrap=True,
    )
    asked_to_stop = threading.Event()
    for restart in range(config.learner.max_restarts + 1):
        try:
            _attempt(_absolute(config), checkpoint, asked_to_stop, console)
            _report(output)
            return output / "model"
        except WorkerDiedError as error:
            died = error
            checkpoint = last_checkpoint(output)
            if restart == config.learner.max_restarts or asked_to_stop.is_set():
                break
            log.warning("%s; the run begins anew at %s", died, checkpoint.name if checkpoint else "its start")
        except AbortError:
            with contextlib.suppress(AbortError):  # no disk left, say: the first error is the one to tell
                _report(output)  # what went before may show why
            raise
    raise AbortError(
        f"{died}, restarts used: {restart} (learner.max_restarts = {config.learner.max_restarts}); the same command "
        f"with --resume goes on from {checkpoint.name if checkpoint else 'the start'}"
    )


def _report(output: Path) -> None:
    if (output / "metrics.jsonl").exists():
        with writing(output / "report.html"):
            write_training_report(output)


def _attempt(config: TrainConfig, checkpoint: Path | None, asked_to_stop: threading.Event, console: Console) -> None:
    """Start the engines and learn, from a checkpoint to the end.

    Raises:
        ConfigError: there is no room for the engines.
        WorkerDiedError: a learner worker's process ended; the engines are stopped as well.
    """
    discard_torn(Path(config.output))
    start = step_of(checkpoint) // config.learner.iterations if checkpoint else 0
    place = place_of(checkpoint) if checkpoint else 0
    group = reserve(config)
    manager = ray.remote(RolloutManager).options(num_cpus=0, max_concurrency=1000).remote(config, start, place, group)

    def stop(*_: Any) -> None:
        asked_to_stop.set()
        manager.stop.remote()

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with console.status("starting the engines …"):
            ray.get(manager.start.remote())
        with LiveView(partial(_told, manager), config.max_steps, console):
            _fit(config, manager, checkpoint)
    except ray.exceptions.RayError as error:
        raise plain_error(error) from error
    finally:
        signal.signal(signal.SIGTERM, before)
        ray.kill(manager)
        release(group)


def _told(manager: Any, known: int) -> list[dict[str, float]]:
    """The records of steps that aren't known yet; none once the manager is gone, of which others tell."""
    try:
        found: list[dict[str, float]] = ray.get(manager.told.remote(known))
    except ray.exceptions.RayError:
        return []
    return found


def _absolute(config: TrainConfig) -> TrainConfig:
    """With places that hold in every process."""
    places = {key: os.path.abspath(getattr(config.data, key)) for key in ("annotations", "videos")}
    model = os.path.abspath(config.model) if os.path.isdir(config.model) else config.model
    data = config.data.model_copy(update=places)
    return config.model_copy(update={"output": os.path.abspath(config.output), "data": data, "model": model})


def _begin(output: Path, config: TrainConfig, resume: bool) -> Path | None:
    checkpoint = last_checkpoint(output) if resume else None
    if not resume and ((output / "metrics.jsonl").exists() or last_checkpoint(output)):
        raise ConfigError(f"{output} holds a run already; name another output, or go on with it by --resume")
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / "config.yaml").write_text(dump_config(_absolute(config)), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"output: can't write to {output}: {error}") from None
    return checkpoint


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
        raise cause_of(error) from error


def cause_of(error: Exception) -> RavstError:
    """Why Ray Train gave up: our own error if a worker raised one, else that a worker died, else Ray's last line."""
    causes = dict(getattr(error, "worker_failures", {})) or {0: error}
    for cause in causes.values():
        if "ravst_ray.errors." in str(cause):
            plain = plain_error(cause)
            return WorkerDiedError(str(plain)) if "errors.WorkerDiedError" in str(cause) else plain
    for rank, cause in causes.items():
        if type(cause).__name__ == "WorkerHealthCheckFailedError":  # others see a lost connection
            return WorkerDiedError(f"learner worker {rank} died")
    return plain_error(next(iter(causes.values())))


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
        self.transport = open_transport(config, manager, self.rank)
        self.rollouts = StepRollouts([], [])
        self.numbers: dict[str, float] = {}
        self.stepped_at = time.monotonic()
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
        self.numbers["seconds/waiting"] = time.monotonic() - started
        return [replace(group, clip=clip) for group, clip in zip(self.rollouts.groups, clips, strict=True)]

    def publish(self, version: int) -> None:
        """Send the weights to the engines, and prove on a probe that they arrived."""
        started = time.monotonic()
        if self.config.rollouts.share_gpu:
            free_card()  # the engine wakes up now
        share = self.transport.publish(self.learner.model, version)
        if self.rank != 0:
            return
        self.numbers["rollout/busy_share"] = share
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
            with writing(self.config.output):
                self.manager.tell.remote(self.record.write(step, {**self.rollouts.numbers, **numbers, **self.numbers}))
                groups = self.rollouts.groups
                if self.config.learner.workers > 1:
                    groups = ray.get(self.manager.whole.remote((step - 1) // self.config.learner.iterations))
                self.record.rollouts(step, groups, self.texts(groups))
        self.numbers = {}

    def after_save(self, folder: Path, step: int) -> None:
        """Mark a checkpoint as whole, with where the questions go on; only then older ones may go."""
        if self.rank == 0:
            place = ray.get(self.manager.place.remote(step // self.config.learner.iterations))
            mark_whole(folder, place, self.config.keep_checkpoints)


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
            if ray.get(worker.manager.stopping.remote()):
                log.warning("asked to stop: saving a checkpoint after step %d", state.global_step)
                control.should_save = control.should_training_stop = True

    return Publishing()
