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
When a learner worker or the manager dies, all of it but the driver begins anew at the last checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ray
from rich.console import Console

from ravst_ray.cluster.failures import cause_of, ended_with
from ravst_ray.cluster.nodes import beside_driver, settle
from ravst_ray.cluster.start import start_ray
from ravst_ray.config.train import TrainConfig
from ravst_ray.datasets.places import absolute, folder_name
from ravst_ray.errors import AbortError, WorkerDiedError
from ravst_ray.logs import get_logger, setup_logging
from ravst_ray.models.pretrained import check_model
from ravst_ray.reports.completion_lines import NAME as LINES
from ravst_ray.reports.training_report import write_training_report
from ravst_ray.training.card_check import check_cards
from ravst_ray.training.checkpoints import begin
from ravst_ray.training.failures import writing
from ravst_ray.training.live import LiveView
from ravst_ray.training.placement import cards, cluster_capacity, release, reserve
from ravst_ray.training.plan import check_cluster, check_prompts, fitted, load_tokenizer, needs, prompt_tokens
from ravst_ray.training.position import Position
from ravst_ray.training.prompts import held_out_tasks, learned_from, training_tasks
from ravst_ray.training.records import check_sinks
from ravst_ray.training.rollout import RolloutManager
from ravst_ray.training.run_store import Checkpoint, RunStore
from ravst_ray.training.validation import NAME as VALIDATIONS
from ravst_ray.training.validation import Row, Validation, read_rows
from ravst_ray.training.worker import work

log = get_logger(__name__)
_KEPT = (
    *("data.annotations", "data.limit", "seed", "model", "rollouts.prompts_per_step", "learner.iterations"),
    *("learner.lora", "learner.freeze_vision", "learner.shard"),
)
"""What a run keeps when it goes on: where it is in the questions depends on it, or what a checkpoint holds."""


def train(config: TrainConfig, console: Console, resume: bool = False) -> str:
    """Run GRPO; gives the place of the final model.

    Args:
        config: of the run.
        console: for what the driver has to tell.
        resume: go on from the last whole checkpoint under ``output``.

    Raises:
        ConfigError: a file, a model or the cluster can't be used, or the output is taken.
        AbortError: the run can't go on, or was asked to stop (SIGTERM); ``resume`` goes on from its last checkpoint.
    """
    setup_logging()
    check_model(config.model, "model")
    check_sinks(config.sinks)
    config = fitted(config)
    tasks = training_tasks(config.data)
    tokenizer = load_tokenizer(config.model)
    check_prompts(prompt_tokens(tasks, config, tokenizer), config)
    if (examiner := _examiner(config)) is not None:
        check_prompts(prompt_tokens(examiner.tasks, config, tokenizer), config)
        if learned := learned_from(examiner.tasks, tasks):
            log.warning("validation: %d of its videos are trained on as well", learned)
    store = RunStore(config.output, config.scratch)
    checkpoint = _begin(store, config, resume)
    start_ray(wait_s=config.cluster.wait_s)
    check_cluster(config, cluster_capacity())
    check_cards(config, cards() if needs(config)[0].total else [])
    questions = sum(len(task.questions) for task in tasks)
    console.print(
        f"{questions} questions on {len(tasks)} videos; {config.max_steps} steps of "
        f"{config.rollouts.prompts_per_step} x {config.rollouts.group_size} completions: {store.output}",
        highlight=False,
        soft_wrap=True,
    )
    asked_to_stop = threading.Event()
    for restart in range(config.learner.max_restarts + 1):
        try:
            _attempt(_absolute(config), checkpoint, asked_to_stop, console)
            _report(store)
            break
        except WorkerDiedError as error:
            checkpoint = store.last_checkpoint()
            if restart == config.learner.max_restarts or asked_to_stop.is_set():
                used = f"restarts used: {restart} (learner.max_restarts = {config.learner.max_restarts})"
                place = checkpoint.name if checkpoint else "the start"
                raise AbortError(f"{error}, {used}; the same command with --resume goes on from {place}") from error
            log.warning("%s; the run begins anew at %s", error, checkpoint.name if checkpoint else "its start")
            settle()
        except AbortError:
            with contextlib.suppress(AbortError):  # no disk left, say: the first error is the one to tell
                _report(store)  # what went before may show why
            raise
    saved = store.last_checkpoint()
    done = saved.step if saved else 0
    if asked_to_stop.is_set() and done < config.max_steps:
        raise AbortError(f"stopped after step {done} of {config.max_steps}; the same command with --resume goes on")
    return store.place("model")


def _report(store: RunStore) -> None:
    if store.read("metrics.jsonl") is None:
        return
    with tempfile.TemporaryDirectory(prefix="ravst-report-") as copies, writing(store.place("report.html")):
        folder = store.local
        if store.remote:
            folder = Path(copies) / folder_name(store.output)
            store.fetch(folder, "metrics.jsonl", VALIDATIONS, "rollouts", "config.yaml")
        path = write_training_report(folder, store.output)
        for one in (path, path.with_name(LINES)) if store.remote else ():
            if one.exists():
                store.write(one.name, one.read_text(encoding="utf-8"))


def _attempt(
    config: TrainConfig, checkpoint: Checkpoint | None, asked_to_stop: threading.Event, console: Console
) -> None:
    """Start the engines and learn, from a checkpoint to the end.

    Raises:
        ConfigError: there is no room for the engines.
        WorkerDiedError: a learner worker's process ended, or the manager's; the engines are stopped as well.
    """
    store = RunStore(config.output, config.scratch)
    store.discard_torn()
    done = checkpoint.step if checkpoint else 0
    marked = (store.read(VALIDATIONS) if done else None) or b""
    examiner = _examiner(config, read_rows(marked.decode(errors="replace"), done))
    start = done // config.learner.iterations
    position = checkpoint.position if checkpoint else Position()
    group = reserve(config)
    options = {"max_concurrency": 1000, **beside_driver()}
    manager = ray.remote(RolloutManager).options(**options).remote(config, start, position, group, examiner)

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
        raise ended_with(error) from error
    finally:
        signal.signal(signal.SIGTERM, before)
        ray.kill(manager)
        release(group)


def _examiner(config: TrainConfig, rows: Sequence[Row] = ()) -> Validation | None:
    """Who marks held-out questions, with what was marked up to the step that the run goes on from."""
    return Validation(config, held_out_tasks(config), rows) if config.eval_every else None


def _told(manager: Any, known: int) -> list[dict[str, float]]:
    """The records of steps that aren't known yet; none once the manager is gone, of which others tell."""
    try:
        found: list[dict[str, float]] = ray.get(manager.told.remote(known))
    except ray.exceptions.RayError:
        return []
    return found


def _absolute(config: TrainConfig) -> TrainConfig:
    """With places that hold in every process."""
    places = {key: absolute(getattr(config.data, key)) for key in ("annotations", "videos")}
    model = os.path.abspath(config.model) if os.path.isdir(config.model) else config.model
    rules = config.validation
    held_out = {key: absolute(getattr(rules, key)) for key in ("annotations", "videos") if getattr(rules, key)}
    names = config.reward.names
    if names.vectors and os.path.exists(names.vectors):
        names = names.model_copy(update={"vectors": os.path.abspath(names.vectors)})
    return config.model_copy(
        update={
            "output": absolute(config.output),
            "data": config.data.model_copy(update=places),
            "validation": rules.model_copy(update=held_out),
            "model": model,
            "reward": config.reward.model_copy(update={"names": names}),
        }
    )


def _begin(store: RunStore, config: TrainConfig, resume: bool) -> Checkpoint | None:
    # Earlier runs may have micro-batches that cut through groups; of this nothing is kept.
    return begin(store, _absolute(config), resume, _KEPT, ["learner.micro_batch=1"])


def _fit(config: TrainConfig, manager: Any, checkpoint: Checkpoint | None) -> None:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    # A worker imports for a minute on a busy machine; given up too early, it only begins anew.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "300")
    learner, store = config.learner, RunStore(config.output, config.scratch)
    resources = {"CPU": learner.num_cpus} | ({"GPU": learner.num_gpus} if learner.num_gpus else {})
    trainer = TorchTrainer(
        work,
        train_loop_config={
            "config": config.model_dump(mode="json"),
            "manager": manager,
            "checkpoint": checkpoint,
            "mark": store.announce(),
        },
        scaling_config=ScalingConfig(
            num_workers=learner.workers, use_gpu=learner.num_gpus > 0, resources_per_worker=resources
        ),
        run_config=RunConfig(name="ray", storage_path=store.trainer_folder),
    )
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise cause_of(error) from error
