"""``ravst train-sft``: supervised fine-tuning on a dataset's true answers, as a Ray Train job.

::

    questions ─► Ray Train workers: SFTLearner ─► metrics, checkpoints, OUT/model
                   ▲ clips (object store) of the examples that come next ◄─ decode tasks

When a worker dies, all workers begin anew at the last checkpoint.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from rich.console import Console

from ravst_ray.cluster.failures import cause_of, crossing, ended_with
from ravst_ray.cluster.nodes import beside_driver, settle
from ravst_ray.cluster.start import start_ray
from ravst_ray.config.sft import SftRunConfig
from ravst_ray.datasets.places import absolute
from ravst_ray.datasets.tasks import VideoTask
from ravst_ray.errors import AbortError, WorkerDiedError
from ravst_ray.logs import get_logger, setup_logging
from ravst_ray.models.pretrained import check_model, loading, model_source
from ravst_ray.policy.families import family_of, fit
from ravst_ray.training.checkpoints import begin, stored
from ravst_ray.training.failures import writing
from ravst_ray.training.forward import VideoForward
from ravst_ray.training.position import Position
from ravst_ray.training.prompts import training_tasks
from ravst_ray.training.records import drop_after
from ravst_ray.training.run_store import CHECKPOINTS, Checkpoint, RunStore
from ravst_ray.training.sft_examples import Examples, decoded_ahead

log = get_logger(__name__)
_KEPT = (
    *("data.annotations", "data.limit", "model", "workers", "sft.seed", "sft.batch", "sft.micro_batch"),
    *("sft.epochs", "sft.max_steps", "sft.lora", "sft.freeze_vision", "sft.shard"),
)
"""What a run keeps when it goes on: which example is in which step depends on it, or what a checkpoint holds."""


def train_sft(config: SftRunConfig, console: Console, resume: bool = False) -> str:
    """Fine-tune; gives the place of the model.

    Args:
        config: of the run.
        console: for what the driver has to tell.
        resume: go on from the last whole checkpoint under ``output``.

    Raises:
        ConfigError: a file or the model can't be used, the output is taken, or the run can't go on with these settings.
        AbortError: the run can't go on, or was asked to stop (SIGTERM); ``resume`` goes on from its last checkpoint.
    """
    setup_logging()
    check_model(config.model, "model")
    family = family_of(config.model)
    family.learner()
    frames, prompt = fit(config.frames, config.prompt, family)
    config = _absolute(config.model_copy(update={"frames": frames, "prompt": prompt}))
    tasks = training_tasks(config.data)
    store = RunStore(config.output, config.scratch)
    checkpoint = begin(store, config, resume, _KEPT)
    start_ray(wait_s=config.cluster.wait_s)
    questions = sum(len(task.questions) for task in tasks)
    console.print(f"{questions} questions to learn: {store.output}", highlight=False, soft_wrap=True)
    asked = threading.Event()
    for restart in range(config.max_restarts + 1):
        try:
            _attempt(config, tasks, checkpoint, asked)
            break
        except WorkerDiedError as error:
            checkpoint = store.last_checkpoint()
            place = checkpoint.name if checkpoint else "its start"
            if restart == config.max_restarts or asked.is_set():
                used = f"restarts used: {restart} (max_restarts = {config.max_restarts})"
                raise AbortError(f"{error}, {used}; the same command with --resume goes on from {place}") from error
            log.warning("%s; the run begins anew at %s", error, place)
            settle()
    saved = store.last_checkpoint()
    done, steps = saved.step if saved else 0, config.sft.steps(questions)
    if asked.is_set() and done < steps:
        raise AbortError(f"stopped after step {done} of {steps}; the same command with --resume goes on")
    return store.place("model")


def _absolute(config: SftRunConfig) -> SftRunConfig:
    """With places that hold in every process."""
    places = {key: absolute(getattr(config.data, key)) for key in ("annotations", "videos")}
    model = os.path.abspath(config.model) if os.path.isdir(config.model) else config.model
    data = config.data.model_copy(update=places)
    return config.model_copy(update={"output": absolute(config.output), "data": data, "model": model})


@ray.remote
class _Asked:
    """Whether the run was asked to stop."""

    def __init__(self) -> None:
        self._stop = False

    def stop(self) -> None:
        self._stop = True

    def stopping(self) -> bool:
        return self._stop


def _attempt(
    config: SftRunConfig, tasks: Sequence[VideoTask], checkpoint: Checkpoint | None, asked: threading.Event
) -> None:
    """Learn from a checkpoint to the end.

    Raises:
        WorkerDiedError: a worker's process ended.
    """
    RunStore(config.output, config.scratch).discard_torn()
    flag = _Asked.options(**beside_driver()).remote()  # type: ignore[attr-defined]

    def stop(*_: Any) -> None:
        asked.set()
        flag.stop.remote()

    before = signal.signal(signal.SIGTERM, stop)
    try:
        _fit(config, tasks, checkpoint, flag)
    except ray.exceptions.RayError as error:
        raise ended_with(error) from error
    finally:
        signal.signal(signal.SIGTERM, before)
        ray.kill(flag)


def _fit(config: SftRunConfig, tasks: Sequence[VideoTask], checkpoint: Checkpoint | None, flag: Any) -> None:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "300")
    resources = {"CPU": config.num_cpus} | ({"GPU": config.num_gpus} if config.num_gpus else {})
    store = RunStore(config.output, config.scratch)
    payload = {"tasks": list(tasks), "checkpoint": checkpoint, "flag": flag, "mark": store.announce()}
    trainer = TorchTrainer(
        work,
        train_loop_config={"config": config.model_dump(mode="json"), **payload},
        scaling_config=ScalingConfig(
            num_workers=config.workers, use_gpu=config.num_gpus > 0, resources_per_worker=resources
        ),
        run_config=RunConfig(name="ray", storage_path=store.trainer_folder),
    )
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise cause_of(error) from error


def work(payload: dict[str, Any]) -> None:
    """What each Ray Train worker runs."""
    setup_logging()
    with crossing():
        config = SftRunConfig.model_validate(payload["config"])
        RunStore(config.output, config.scratch).check_seen(payload["mark"], socket.gethostname())
        learn(config, payload["tasks"], payload["checkpoint"], payload["flag"])


def learn(config: SftRunConfig, tasks: Sequence[VideoTask], checkpoint: Checkpoint | None, flag: Any) -> None:
    """Fine-tune in this Ray Train worker, and save checkpoints and the model."""
    from transformers import AutoProcessor

    from ravst_ray.training.sft import build_sft
    from ravst_ray.training.weights import save_policy_model

    store, rank = RunStore(config.output, config.scratch), ray.train.get_context().get_world_rank()
    begun = store.prepare(checkpoint, first=rank == 0)
    source = model_source(config.model, "model")
    with loading(config.model, "model"):
        processor = AutoProcessor.from_pretrained(source)
    examples = Examples(tasks, config, VideoForward(processor, family_of(config.model)), decoded_ahead(config))
    if rank == 0:
        drop_after(store.local / "metrics.jsonl", checkpoint.step if checkpoint else 0)

    def on_step(step: int, numbers: dict[str, float]) -> None:
        if rank == 0:
            with writing(config.output), (store.local / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **numbers}) + "\n")
            store.push_now_and_then()
            log.info("step %d: loss %.4f", step, numbers["loss"])

    def after_save(folder: Path, step: int) -> None:
        files = stored(store, folder.name)
        if rank == 0:
            store.push()  # the record is never behind the checkpoint
            position = Position(step * config.sft.batch)
            store.mark_whole(Checkpoint(folder.name, position, files), config.keep_checkpoints)

    learner = build_sft(
        config.model,
        config.sft,
        examples,
        store.local / CHECKPOINTS,
        workers=config.workers,
        save_every=config.save_every,
        on_step=on_step,
        after_save=after_save,
        expect=examples.expect,
        ahead=config.decode_ahead,
    )
    learner.add_callback(_stopping(learner, flag, rank))
    learner.train(resume_from_checkpoint=str(begun) if begun else None)
    if learner.state.global_step >= learner.args.max_steps:
        with writing(store.local / "model"):
            save_policy_model(learner.model, processor, store.local / "model", rank)
    if rank == 0:
        store.push()


def _stopping(learner: Any, flag: Any, rank: int) -> Any:
    """The callback that saves and ends when that is asked for: all ranks after the same step."""
    import torch
    from transformers import TrainerCallback

    class Stopping(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            asked = rank == 0 and ray.get(flag.stopping.remote())
            told = learner.accelerator.gather(torch.tensor([int(asked)], device=learner.accelerator.device))
            if int(told.max()):
                log.warning("asked to stop: saving a checkpoint after step %d", state.global_step)
                control.should_save = control.should_training_stop = True

    return Stopping()
