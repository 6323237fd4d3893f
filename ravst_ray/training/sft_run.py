"""``ravst train-sft``: supervised fine-tuning on a dataset's true answers, as a Ray Train job.

::

    questions ─► decode tasks (object store: clips) ─► Ray Train workers: SFTLearner ─► OUT/model

Clips stay in the object store, which spills to disk; a worker fetches those of one micro-batch at a time.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Sequence
from typing import Any, overload

import ray
from rich.console import Console

from ravst_ray.cluster.failures import crossing, plain_error
from ravst_ray.cluster.start import start_ray
from ravst_ray.config.base import dump_config
from ravst_ray.config.sft import SftRunConfig
from ravst_ray.datasets.places import absolute, local_copy
from ravst_ray.datasets.tasks import VideoTask
from ravst_ray.errors import AbortError, ConfigError, StepError
from ravst_ray.logs import get_logger, setup_logging
from ravst_ray.media.clips import show_video
from ravst_ray.media.decoding import ChildDecoder
from ravst_ray.models.pretrained import check_model, loading, model_source
from ravst_ray.policy.families import family_of, fit
from ravst_ray.policy.prompts import question_prompt
from ravst_ray.progress import RunProgress
from ravst_ray.records import QAPair, VideoView
from ravst_ray.tasks import task_of
from ravst_ray.tasks.spaces import AnswerSpace
from ravst_ray.training.forward import Row, VideoForward
from ravst_ray.training.prompts import training_tasks
from ravst_ray.training.run_store import CHECKPOINTS, RunStore

log = get_logger(__name__)


@ray.remote(num_cpus=0.5, num_returns=2, max_retries=1)
def decode(task: VideoTask, config: SftRunConfig) -> tuple[Any, VideoView | StepError]:
    """The frames of a video and its view; in place of the view, why there are no frames."""
    decoder = ChildDecoder(config.decode)
    try:
        with local_copy(task.path) as path:
            return show_video(decoder, task.video_id, path, task.duration_s, config.frames)
    except StepError as error:
        return None, error
    finally:
        decoder.close()


class Examples(Sequence[Row]):
    """Rows made when they are asked for: the clip from the object store, prompt and answer as the model has them.

    Args:
        shown: for each question its pair, its video's view, and the reference to its clip.
        config: how answers are asked for.
        forward: of the model that learns.
    """

    def __init__(self, shown: Sequence[tuple[QAPair, VideoView, Any]], config: SftRunConfig, forward: VideoForward):
        self._shown, self._config, self._forward = shown, config, forward

    def __len__(self) -> int:
        return len(self._shown)

    @overload
    def __getitem__(self, place: int) -> Row: ...
    @overload
    def __getitem__(self, place: slice) -> list[Row]: ...
    def __getitem__(self, place: int | slice) -> Row | list[Row]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        from ravst_ray.training.sft import example

        pair, view, reference = self._shown[place]
        prompt = question_prompt(pair.task, pair.question, view, self._config.prompt)
        answer = task_of(pair.task).to_model(pair.answer, AnswerSpace.of(view, self._config.prompt))
        return example(self._forward, prompt, answer, ray.get(reference))


def train_sft(config: SftRunConfig, console: Console) -> str:
    """Fine-tune; gives the place of the model.

    Raises:
        ConfigError: a file or the model can't be used, or the output is taken.
        AbortError: the run can't go on.
    """
    setup_logging()
    store = RunStore(config.output, config.scratch)
    check_model(config.model, "model")
    family = family_of(config.model)
    family.learner()
    frames, prompt = fit(config.frames, config.prompt, family)
    config = config.model_copy(update={"frames": frames, "prompt": prompt})
    tasks = training_tasks(config.data)
    if store.read("metrics.jsonl") is not None:
        raise ConfigError(f"{store.output} holds a run already; name another output")
    store.check_writable()
    store.write("config.yaml", dump_config(config))
    start_ray(wait_s=config.cluster.wait_s)
    try:
        shown = _decode_all(tasks, config, console)
        console.print(f"{len(shown)} questions to learn: {store.output}", highlight=False, soft_wrap=True)
        _fit(config, shown)
    except ray.exceptions.RayError as error:
        raise plain_error(error) from error
    return store.place("model")


def _decode_all(
    tasks: Sequence[VideoTask], config: SftRunConfig, console: Console
) -> list[tuple[QAPair, VideoView, Any]]:
    made = [(task, *decode.remote(task, config)) for task in tasks]
    shown = []
    with RunProgress("decoding", "videos", len(made), console) as progress:
        for task, clip, view in made:
            known = ray.get(view)
            if isinstance(known, StepError):
                log.warning("%s is left out: %s (%s)", task.video_id, known, known.reason)
            else:
                shown += [(pair, known, clip) for pair in task.questions]
            progress.add(failed=isinstance(known, StepError))
    if not shown:
        raise AbortError("no video can be read, so there is nothing to learn; the warnings above say why")
    return shown


def _fit(config: SftRunConfig, shown: list[tuple[QAPair, VideoView, Any]]) -> None:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "300")
    resources = {"CPU": config.num_cpus} | ({"GPU": config.num_gpus} if config.num_gpus else {})
    model = os.path.abspath(config.model) if os.path.isdir(config.model) else config.model
    settings = config.model_copy(update={"output": absolute(config.output), "model": model})
    store = RunStore(settings.output, settings.scratch)
    trainer = TorchTrainer(
        work,
        train_loop_config={"config": settings.model_dump(mode="json"), "shown": shown, "mark": store.announce()},
        scaling_config=ScalingConfig(
            num_workers=config.workers, use_gpu=config.num_gpus > 0, resources_per_worker=resources
        ),
        run_config=RunConfig(name="ray", storage_path=store.trainer_folder),
    )
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        causes = getattr(error, "worker_failures", {})
        raise plain_error(next(iter(causes.values()), error)) from error


def work(payload: dict[str, Any]) -> None:
    """What each Ray Train worker runs."""
    setup_logging()
    with crossing():
        config = SftRunConfig.model_validate(payload["config"])
        RunStore(config.output, config.scratch).check_seen(payload["mark"], socket.gethostname())
        learn(config, payload["shown"])


def learn(config: SftRunConfig, shown: Sequence[tuple[QAPair, VideoView, Any]]) -> None:
    """Fine-tune in this Ray Train worker, and save the model."""
    from transformers import AutoProcessor

    from ravst_ray.training.sft import build_sft
    from ravst_ray.training.weights import save_policy_model

    store, rank = RunStore(config.output, config.scratch), ray.train.get_context().get_world_rank()
    store.prepare(None, first=rank == 0)
    source = model_source(config.model, "model")
    with loading(config.model, "model"):
        processor = AutoProcessor.from_pretrained(source)
    examples = Examples(shown, config, VideoForward(processor, family_of(config.model)))

    def on_step(step: int, numbers: dict[str, float]) -> None:
        if rank == 0:
            with (store.local / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **numbers}) + "\n")
            store.push_now_and_then()
            log.info("step %d: loss %.4f", step, numbers["loss"])

    folder = store.local / CHECKPOINTS
    learner = build_sft(config.model, config.sft, examples, folder, workers=config.workers, on_step=on_step)
    learner.train()
    save_policy_model(learner.model, processor, store.local / "model", rank)
    if rank == 0:
        shutil.rmtree(folder, ignore_errors=True)
        store.push()
