"""``ravst predict``: a video-LLM's answers to the questions of a dataset.

::

    annotations ─► one row per video, minus questions already answered
                       ▼
       decode   CPU actors: the frames that the model is shown, once per video
                       ▼
       answer   vLLM actors: all questions of the video, several videos at once
                       ▼
       driver   a line of OUT per answer, a line of OUT.errors.jsonl per question that could not be asked
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from rich.console import Console

from ravst_ray.cluster.failures import GRAPH_ERRORS, plain_error
from ravst_ray.cluster.pools import check_room, pool_operator, stream_blocks
from ravst_ray.cluster.start import start_ray
from ravst_ray.config.base import dump_config, load_config
from ravst_ray.config.train import TrainConfig
from ravst_ray.config.video_llm import PredictConfig, SamplingConfig
from ravst_ray.datasets.places import absolute, check_seen, folder_name, local_copy, named
from ravst_ray.datasets.tasks import VideoTask, read_tasks, without_file
from ravst_ray.datasets.transfer import check_writable
from ravst_ray.errors import AbortError, ConfigError, StepError
from ravst_ray.evaluation.answer_files import AnswerFiles, answer_files
from ravst_ray.evaluation.answer_lengths import answer_lengths
from ravst_ray.logs import get_logger, setup_logging
from ravst_ray.media.clips import Clip, show_video
from ravst_ray.media.decoding import ChildDecoder
from ravst_ray.models.pretrained import check_model
from ravst_ray.policy.engine import VideoLLM
from ravst_ray.policy.families import family_of, fit
from ravst_ray.policy.prompts import question_prompt
from ravst_ray.policy.protocols import Generation
from ravst_ray.progress import RunProgress
from ravst_ray.records import QAPair, VideoView
from ravst_ray.tasks import task_of
from ravst_ray.tasks.spaces import AnswerSpace

log = get_logger(__name__)
ROW = pa.schema([("state", pa.large_string()), ("frames", pa.large_binary()), ("sound", pa.large_binary())])
LINE = pa.schema([("line", pa.large_string())])


Reading = Callable[[str | Path, str | Path, int | None], list[VideoTask]]


@dataclass(frozen=True)
class Outcome:
    """What a run came to: answers in the file, those of this run, and questions that could not be asked."""

    answered: int
    new: int
    failed: int


def predict(
    annotations: str | Path,
    videos: str | Path,
    out: str | Path,
    config: PredictConfig,
    console: Console,
    read: Reading = read_tasks,
) -> Outcome:
    """Answer every question that ``out`` has no answer to yet.

    Args:
        annotations: questions in the published format.
        videos: folder of their videos.
        out: path or URI; lines ``{"id", "prediction", …}``; added to, never rewritten. With several samples a line also
            holds all of them as ``completions``; ``prediction`` is the first. Verbatim ones have ``box_scale``, the
            model's units in a pixel of the video. ``"sound": "missing"`` marks answers of a model
            that hears about a file without a sound track, or with a broken one: it was given silence.
        config: model, frames, prompt and sampling.
        console: for progress.
        read: how questions are read, where they are in another format.

    Raises:
        ConfigError: a file or the model can't be used, or ``out`` was begun with other settings.
        AbortError: the run can't go on; the same command goes on from there.
    """
    tasks = read(annotations, absolute(str(videos)), config.limit)
    check_model(config.engine.model, "engine.model")
    with answer_files(str(out)) as files:
        return _answer_all(tasks, files, _fitted(config), console)


def predict_dry_run(
    annotations: str | Path, videos: str | Path, out: str | Path, config: PredictConfig, console: Console, read: Reading
) -> None:
    """Tell what :func:`predict` would ask; nothing is started or kept.

    Raises:
        ConfigError: a file or the model can't be used, or ``out`` can't be written to or was begun with other settings.
    """
    tasks = read(annotations, absolute(str(videos)), config.limit)
    check_model(config.engine.model, "engine.model")
    path, mark, query = absolute(str(out)).partition("?")
    check_writable(f"{path.rpartition('/')[0]}{mark}{query}", "--out")
    with tempfile.TemporaryDirectory(prefix="ravst-answers-") as kept:
        files = AnswerFiles(absolute(str(out)), Path(kept) / folder_name(str(out)))
        files.fetch()
        with named(str(files.path), str(out)):
            done = _begin(files.path, _fitted(config))
    ids = {pair.qa_id for task in tasks for pair in task.questions}
    say = partial(console.print, highlight=False, soft_wrap=True, markup=False)
    say(f"data: {len(ids)} questions on {len(tasks)} videos, {without_file(tasks, str(videos))} of them without a file")
    say(f"answers: {out} can be written to; it answers {len(ids & done)} of them, {len(ids - done)} would be asked")
    for line in answer_lengths(tasks, config):
        say(line)


def _answer_all(tasks: Sequence[VideoTask], files: AnswerFiles, config: PredictConfig, console: Console) -> Outcome:
    done = _begin(files.path, config)
    pending = [replace(task, questions=tuple(q for q in task.questions if q.qa_id not in done)) for task in tasks]
    pending = [task for task in pending if task.questions]
    total = sum(len(task.questions) for task in pending)
    say = lambda text: console.print(text, highlight=False, soft_wrap=True)  # noqa: E731
    say(f"{total} questions on {len(pending)} videos to answer, {len(done)} answered before")
    for line in answer_lengths(tasks, config):
        say(line)
    failed = 0
    if pending:
        start_ray(wait_s=config.cluster.wait_s)
        with (
            files.path.open("a", encoding="utf-8") as sink,
            files.local(".errors.jsonl").open("w", encoding="utf-8") as errors,
            RunProgress("answering", "questions", total, console) as progress,
        ):
            for row in stream(config, pending):
                bad = "reason" in row
                file = errors if bad else sink
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                file.flush()
                failed += bad
                progress.add(failed=bad)
                files.send_now_and_then()
    say(f"{len(done) + total - failed} answers: {files.out}")
    if failed:
        say(f"{failed} questions could not be asked: {files.place('.errors.jsonl')}; the same command tries them again")
    return Outcome(len(done) + total - failed, total - failed, failed)


def asked_as_in(training: TrainConfig, model: str) -> PredictConfig:
    """Greedy answers of a model that is shown and asked what a training run shows and asks."""
    return PredictConfig(
        engine=training.engine.model_copy(update={"model": model}),
        frames=training.frames,
        prompt=training.prompt,
        sampling=SamplingConfig(max_tokens=training.rollouts.max_tokens),
        decode=training.decode,
    )


def stream(config: PredictConfig, tasks: Sequence[VideoTask]) -> Iterator[dict[str, Any]]:
    """The lines of all questions, as they are answered."""
    stream_blocks()
    pool = config.actors.llm
    if ray.cluster_resources().get("GPU") and not pool.num_gpus:
        pool = pool.model_copy(update={"num_gpus": float(config.engine.tensor_parallel)})
    check_room({"decode": config.actors.decode, "llm": pool})
    if os.path.isdir(config.engine.model):  # actors may have another working directory
        engine = config.engine.model_copy(update={"model": os.path.abspath(config.engine.model)})
        config = config.model_copy(update={"engine": engine})
    rows = [{"state": json.dumps(asdict(task))} for task in tasks]
    dataset = ray.data.from_blocks([pa.Table.from_pylist([row], schema=ROW) for row in rows])
    dataset = pool_operator(dataset, "decode", DecodeClips, (config,), config.actors.decode, 1)
    dataset = pool_operator(dataset, "answer", AnswerQuestions, (config,), pool, config.videos_per_batch)
    try:
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
            yield from map(json.loads, batch.column("line").to_pylist())
    except GRAPH_ERRORS as error:
        raise plain_error(error) from error


class DecodeClips:
    """Actor: videos in, the frames that the model is shown out; a video that can't be read carries its error on."""

    def __init__(self, config: PredictConfig):
        setup_logging()
        self._config = config
        self._decoder = ChildDecoder(config.decode)

    def __call__(self, table: pa.Table) -> pa.Table:
        """One batch of rows of ``ROW``."""
        return pa.Table.from_pylist([self._row(json.loads(row["state"])) for row in table.to_pylist()], schema=ROW)

    def _row(self, task: dict[str, Any]) -> dict[str, Any]:
        check_seen(task["folder"])
        try:
            stated_s, frames = task["duration_s"], self._config.frames
            with local_copy(task["path"]) as path:
                clip, view = show_video(self._decoder, task["video_id"], path, stated_s, frames)
        except StepError as error:
            return {"state": json.dumps({**task, "error": [error.reason, error.message]})}
        state = {**task, "view": asdict(view), "shape": clip.frames.shape}
        sound = None if clip.sound is None else clip.sound.tobytes()
        return {"state": json.dumps(state), "frames": clip.frames.tobytes(), "sound": sound}


class AnswerQuestions:
    """Actor: a vLLM engine on an event loop of its own; rows of ``ROW`` in, a line per question out."""

    def __init__(self, config: PredictConfig):
        setup_logging()
        self._config = config
        self._engine = VideoLLM(config.engine)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._run(self._engine.start())

    def __del__(self) -> None:
        self._run(self._engine.close())  # else vLLM tells in length that its processes have died before this one

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def __call__(self, table: pa.Table) -> pa.Table:
        """Answer all questions of a batch of videos at once."""
        try:
            lines = self._run(self._batch(table.to_pylist()))
        except AbortError as error:
            log.error("%s; starting it anew", error)
            os._exit(1)  # Ray starts the actor again, and gives it the same rows
        return pa.Table.from_pylist([{"line": json.dumps(line, ensure_ascii=False)} for line in lines], schema=LINE)

    async def _batch(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        questions = [work for row in rows for work in self._questions(row)]
        return list(await asyncio.gather(*questions))

    def _questions(self, row: dict[str, Any]) -> list[Any]:
        state = json.loads(row["state"])
        pairs = [QAPair(**pair) for pair in state["questions"]]
        if "error" in state:
            return [_failed(pair, *state["error"]) for pair in pairs]
        view = VideoView(**state["view"])
        frames = np.frombuffer(row["frames"], np.uint8).reshape(state["shape"]).copy()  # torch wants to own it
        sound = None if row["sound"] is None else np.frombuffer(row["sound"], np.float32).copy()
        clip = Clip(state["video_id"], frames, view.step_s, sound)
        return [self._answer(pair, clip, view) for pair in pairs]

    async def _answer(self, pair: QAPair, clip: Clip, view: VideoView) -> dict[str, Any]:
        config = self._config
        text = question_prompt(pair.task, pair.question, view, config.prompt)
        try:
            generation = await self._engine.generate(text, clip, config.sampling)
        except StepError as error:
            return await _failed(pair, error.reason, error.message)
        space = AnswerSpace.of(view, config.prompt)
        line = answer_line(pair, generation, None if config.prompt.verbatim else space)
        if config.prompt.verbatim:
            line["box_scale"] = [space.scale_x, space.scale_y]
        return line | ({"sound": "missing"} if view.heard is False else {})


def answer_line(pair: QAPair, generation: Generation, space: AnswerSpace | None) -> dict[str, Any]:
    """The output line of one question, its answers converted to pixels and seconds of the video; None: as they are."""
    texts = [task_of(pair.task).to_video(one.text, space) if space else one.text for one in generation.completions]
    first = generation.completions[0]
    line = {
        "id": pair.qa_id,
        "prediction": texts[0],
        "truncated": first.truncated,
        "tokens": len(first.token_ids),
        "prompt_tokens": len(generation.prompt_ids),
    }
    return line | ({"completions": texts} if len(texts) > 1 else {})


async def _failed(pair: QAPair, reason: str, message: str) -> dict[str, Any]:
    return {"id": pair.qa_id, "reason": reason, "message": message}


def _fitted(config: PredictConfig) -> PredictConfig:
    """With what the model's family decides."""
    frames, prompt = fit(config.frames, config.prompt, family_of(config.engine.model, "engine.model"))
    return config.model_copy(update={"frames": frames, "prompt": prompt})


def _settled(config: PredictConfig) -> dict[str, str]:
    """All that answers depend on."""
    return _flat(config.model_dump(mode="json", exclude={"actors", "cluster", "videos_per_batch", "limit"}))


def _begin(out: Path, config: PredictConfig) -> set[str]:
    """Check that the file belongs to these settings, cut off a line that was not finished; the ids that it answers."""
    settings = out.with_name(out.name + ".config.yaml")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if not out.exists() or not out.stat().st_size:
            settings.write_text(dump_config(config), encoding="utf-8")
            return set()
        before: dict[str, str] = {}
        if settings.exists():  # it may be of a version that had fewer settings, or left to the family what is said now
            known = load_config(PredictConfig, settings)
            before = _settled(_fitted(known) if known.engine.model == config.engine.model else known)
        differing = sorted(_settled(config).items() - before.items())
        if differing:
            keys = ", ".join(f"{key}={value}" for key, value in differing)
            raise ConfigError(f"{out} was begun with other settings than {keys}; name another file, or remove this one")
        data = out.read_bytes()
        if not data.endswith(b"\n"):
            data = data[: data.rfind(b"\n") + 1]
            with out.open("r+b") as file:
                file.truncate(len(data))
        return {json.loads(line)["id"] for line in data.splitlines() if line.strip()}
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{out}: can't go on with this file: {error!r}") from None


def _flat(value: Any, key: str = "") -> dict[str, str]:
    """Nested settings as ``{"a.b": repr}``."""
    if not isinstance(value, dict):
        return {key: repr(value)}
    return {k: v for name, child in value.items() for k, v in _flat(child, f"{key}.{name}".lstrip(".")).items()}
