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
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import ray
from rich.console import Console

from ravst_ray.cluster.failures import plain_error, root_cause
from ravst_ray.cluster.start import start_ray
from ravst_ray.config.base import dump_config, load_config
from ravst_ray.config.train import TrainConfig
from ravst_ray.errors import AbortError, ConfigError, RavstError, WorkerDiedError
from ravst_ray.logs import get_logger, setup_logging
from ravst_ray.models.pretrained import check_model
from ravst_ray.reports.training_report import write_training_report
from ravst_ray.training.checkpoints import discard_torn, last_checkpoint, position_of, step_of
from ravst_ray.training.failures import writing
from ravst_ray.training.live import LiveView
from ravst_ray.training.placement import cluster_capacity, release, reserve
from ravst_ray.training.plan import check_cluster, check_prompts, fitted, load_tokenizer, prompt_tokens
from ravst_ray.training.position import Position
from ravst_ray.training.prompts import training_tasks
from ravst_ray.training.records import check_sinks
from ravst_ray.training.rollout import RolloutManager
from ravst_ray.training.worker import work

log = get_logger(__name__)
_KEPT = (
    *("data.annotations", "data.limit", "seed", "model", "rollouts.prompts_per_step", "learner.iterations"),
    *("learner.lora", "learner.freeze_vision", "learner.shard"),
)
"""What a run keeps when it goes on: where it is in the questions depends on it, or what a checkpoint holds."""


def train(config: TrainConfig, console: Console, resume: bool = False) -> Path:
    """Run GRPO; gives the directory of the final model.

    Args:
        config: of the run.
        console: for what the driver has to tell.
        resume: go on from the last whole checkpoint under ``output``.

    Raises:
        ConfigError: a file, a model or the cluster can't be used, or the output is taken.
        AbortError: the run can't go on, or was asked to stop (SIGTERM); ``resume`` goes on from its last checkpoint.
    """
    setup_logging()
    output = Path(config.output).absolute()
    check_model(config.model, "model")
    check_sinks(config.sinks)
    config = fitted(config)
    tasks = training_tasks(config.data)
    check_prompts(prompt_tokens(tasks, config, load_tokenizer(config.model)), config)
    checkpoint = _begin(output, config, resume)
    start_ray(wait_s=config.cluster.wait_s)
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
            break
        except WorkerDiedError as error:
            checkpoint = last_checkpoint(output)
            if restart == config.learner.max_restarts or asked_to_stop.is_set():
                used = f"restarts used: {restart} (learner.max_restarts = {config.learner.max_restarts})"
                place = checkpoint.name if checkpoint else "the start"
                raise AbortError(f"{error}, {used}; the same command with --resume goes on from {place}") from error
            log.warning("%s; the run begins anew at %s", error, checkpoint.name if checkpoint else "its start")
        except AbortError:
            with contextlib.suppress(AbortError):  # no disk left, say: the first error is the one to tell
                _report(output)  # what went before may show why
            raise
    saved = last_checkpoint(output)
    done = step_of(saved) if saved else 0
    if asked_to_stop.is_set() and done < config.max_steps:
        raise AbortError(f"stopped after step {done} of {config.max_steps}; the same command with --resume goes on")
    return output / "model"


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
    position = position_of(checkpoint) if checkpoint else Position()
    group = reserve(config)
    managers = ray.remote(RolloutManager).options(num_cpus=0, max_concurrency=1000)
    manager = managers.remote(config, start, position, group)

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
    names = config.reward.names
    if names.vectors and os.path.exists(names.vectors):
        names = names.model_copy(update={"vectors": os.path.abspath(names.vectors)})
    return config.model_copy(
        update={
            "output": os.path.abspath(config.output),
            "data": config.data.model_copy(update=places),
            "model": model,
            "reward": config.reward.model_copy(update={"names": names}),
        }
    )


def _begin(output: Path, config: TrainConfig, resume: bool) -> Path | None:
    checkpoint = last_checkpoint(output) if resume else None
    if not resume and ((output / "metrics.jsonl").exists() or last_checkpoint(output)):
        raise ConfigError(f"{output} holds a run already; name another output, or go on with it by --resume")
    saved = output / "config.yaml"
    if checkpoint is not None and saved.exists():
        # Earlier runs may have micro-batches that cut through groups; of this nothing is kept.
        _same(load_config(TrainConfig, saved, ["learner.micro_batch=1"]), _absolute(config), checkpoint)
    elif resume and checkpoint is None:
        log.warning("there is no checkpoint under %s yet: the run begins with step 1", output)
    try:
        output.mkdir(parents=True, exist_ok=True)
        saved.write_text(dump_config(_absolute(config)), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"output: can't write to {output}: {error}") from None
    return checkpoint


def _same(before: TrainConfig, now: TrainConfig, checkpoint: Path) -> None:
    """Refuse to go on in another order of questions, or with another model, than the checkpoint knows.

    Raises:
        ConfigError: with all settings that differ.
    """
    changed = []
    for name in _KEPT:
        was, given = (attrgetter(name)(one) for one in (before, now))
        if was != given:
            changed.append(f"{name} was {was!r} and is {given!r}")
    if changed:
        raise ConfigError(f"can't go on from {checkpoint.name}: {'; '.join(changed)}; name another output for that")


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
    """Why Ray Train gave up: our own error if a worker raised one, else that a worker died, else what one raised."""
    causes = dict(getattr(error, "worker_failures", {})) or {0: error}
    for cause in causes.values():
        if isinstance(cause, RavstError) or "ravst_ray.errors." in str(cause):
            plain = plain_error(cause)
            return WorkerDiedError(str(plain)) if "errors.WorkerDiedError" in str(cause) else plain
    for rank, cause in causes.items():
        if type(cause).__name__ == "WorkerHealthCheckFailedError":  # others see a lost connection
            reason = root_cause(str(cause))
            return WorkerDiedError(f"learner worker {rank} died" + (f" of {reason}" if reason else ""))
    return plain_error(next(iter(causes.values())))
