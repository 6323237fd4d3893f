"""What is known of a run before anything starts: what it needs, which prompts fit, and the dry run that tells it."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from ravst_ray.config.train import TrainConfig
from ravst_ray.config.video_llm import FramesConfig
from ravst_ray.datasets.places import folder_name, is_remote, list_names, local_copy
from ravst_ray.datasets.tasks import VideoTask
from ravst_ray.errors import ConfigError, StepError
from ravst_ray.logs import get_logger
from ravst_ray.media.clips import sound_samples, view_size, view_times
from ravst_ray.media.decoding import ChildDecoder
from ravst_ray.models.pretrained import check_model, loading, model_source
from ravst_ray.models.size import card_bytes
from ravst_ray.policy.families import family_of, fit
from ravst_ray.policy.families.protocols import Family, Shape
from ravst_ray.policy.prompts import question_prompt
from ravst_ray.records import VideoView
from ravst_ray.tasks import settled
from ravst_ray.training.memory import Budget, estimate
from ravst_ray.training.memory_table import budget_table
from ravst_ray.training.prompts import held_out_tasks, learned_from, training_tasks
from ravst_ray.training.run_store import RunStore, existing

log = get_logger(__name__)
_NAMED = 5


@dataclass(frozen=True)
class Need:
    """How many ``GPU`` or ``CPU`` learner workers and rollout actors hold at once."""

    kind: str
    learner: float
    rollout: float

    @property
    def total(self) -> float:
        """Of both."""
        return self.learner + self.rollout

    def __str__(self) -> str:
        return f"{self.total:g} {self.kind}s: {self.learner:g} learner + {self.rollout:g} rollout"


def needs(config: TrainConfig) -> tuple[Need, Need]:
    """GPUs and CPUs."""
    learner, rollouts = config.learner, config.rollouts
    return (
        Need("GPU", learner.workers * learner.num_gpus, rollouts.actors * rollouts.num_gpus),
        Need("CPU", learner.workers * learner.num_cpus, rollouts.actors * rollouts.num_cpus),
    )


def check_cluster(config: TrainConfig, there: Mapping[str, float]) -> None:
    """Check that a cluster can hold learner and rollout actors at once.

    Args:
        config: of the run.
        there: the cluster's resources by name, as ``ray.cluster_resources()`` gives them.

    Raises:
        ConfigError: it can't; the message says what is needed and what is there.
    """
    for need in needs(config):
        has = there.get(need.kind, 0.0)
        if need.total > has:
            raise ConfigError(f"needs {need}; the cluster has {has:g}")


def fitted(config: TrainConfig) -> TrainConfig:
    """The configuration with what the model's family and the tasks decide in it.

    Raises:
        ConfigError: there is no such model, or its family can't be trained, or shown or asked this, or the
            reward has weights for what there isn't.
    """
    family = family_of(config.model)
    family.learner()
    frames, prompt = fit(config.frames, config.prompt, family)
    reward = settled(config.reward, "reward.weights")
    return _with_adapter(config.model_copy(update={"frames": frames, "prompt": prompt, "reward": reward}), family)


def _with_adapter(config: TrainConfig, family: Family) -> TrainConfig:
    """The configuration with ``sync.adapter`` as it can be had; why it can't be otherwise is logged."""
    lora = config.learner.lora
    if lora is None or config.sync.adapter == "merged":
        return config
    why = config.merged_because
    if foreign := sorted(set(lora.targets) - family.adapter_targets):
        why = f"vLLM adapts no {', '.join(foreign)} of {family.name}"
    if why is None:
        return config
    log.warning("each sync sends the whole model with the adapter merged into it: %s", why)
    return config.model_copy(update={"sync": config.sync.model_copy(update={"adapter": "merged"})})


def load_tokenizer(model: str) -> Any:
    """The model's tokenizer.

    Raises:
        ConfigError: it can't be loaded.
    """
    source = model_source(model, "model")
    with loading(source, "model"):
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(source)


def prompt_tokens(tasks: Sequence[VideoTask], config: TrainConfig, tokenizer: Any) -> dict[str, int]:
    """Tokens of each question's prompt, frames included, by id.

    Files are read only where it matters: a prompt that fits with frames as large as the settings allow is counted with
    those. For a video of unknown length its file's counts. Questions about unreadable files, or too long ones, are
    left out, as the run leaves them out.
    """
    family = family_of(config.model)
    found: dict[str, int] = {}
    with closing(ChildDecoder(config.decode)) as decoder:
        for task in timed(tasks, decoder):
            if not task.duration_s or _too_long(task, config.frames):
                continue
            view, shape = _largest_view(task.duration_s, config.frames)
            counts = _counts(task, view, shape, family, config, tokenizer)
            if max(counts.values()) >= config.engine.max_model_len:
                exact = _file_view(task, config.frames, decoder)
                if exact is None:
                    continue
                shape = Shape(exact.frames, exact.height, exact.width, exact.step_s, shape.samples)
                counts = _counts(task, exact, shape, family, config, tokenizer)
            found |= counts
    return found


def timed(tasks: Sequence[VideoTask], decoder: ChildDecoder) -> list[VideoTask]:
    """With the file's own length where the dataset states none; 0 remains where the file can't be read."""
    return [task if task.duration_s else replace(task, duration_s=_length_s(task, decoder)) for task in tasks]


def _length_s(task: VideoTask, decoder: ChildDecoder) -> float:
    try:
        with local_copy(task.path) as path:
            return decoder.index(path).duration_s
    except StepError:
        return 0.0


def check_prompts(tokens: Mapping[str, int], config: TrainConfig) -> None:
    """Check that every prompt leaves room for an answer.

    Args:
        tokens: from :func:`prompt_tokens`.
        config: of the run.

    Raises:
        ConfigError: some don't; the message names them.
    """
    limit = config.engine.max_model_len
    long = {name: count for name, count in tokens.items() if count >= limit}
    if long:
        worst = sorted(long.items(), key=lambda one: (-one[1], one[0]))[:_NAMED]
        named = ", ".join(f"{name} ({count} tokens)" for name, count in worst)
        more = f" and {len(long) - _NAMED} more" if len(long) > _NAMED else ""
        raise ConfigError(
            f"prompts that don't fit engine.max_model_len = {limit}: {named}{more}; raise it, show fewer or smaller "
            "frames (frames.max_frames, frames.total_pixels), or take these questions out"
        )


def dry_run(config: TrainConfig, console: Console) -> None:
    """Tell what a run would do; nothing is started, and what is written as a trial is removed.

    Raises:
        ConfigError: a prompt doesn't fit, the reward has weights for what there isn't, or a place can't be read,
            written to, or has no room.
    """
    budget = estimate(config)
    for line in _lines(config, budget):
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    if budget is not None:
        console.print(budget_table(budget, config, card_bytes()))


def _lines(config: TrainConfig, budget: Budget | None) -> list[str]:
    rollouts = config.rollouts
    settled(config.reward, "reward.weights")
    gpus, cpus = needs(config)
    completions = rollouts.prompts_per_step * rollouts.group_size
    samplings = math.ceil(config.max_steps / config.learner.iterations)
    lines = ["configuration: valid", f"resources: {gpus}", f"resources: {cpus}"]
    lines.append(
        f"tokens: a step samples at most {rollouts.prompts_per_step} prompts x {rollouts.group_size} completions x "
        f"{rollouts.max_tokens} = {completions * rollouts.max_tokens}; the run {samplings} times as many"
    )
    fewest, most = rollouts.bounds
    lines.append(f"rollout actors: {fewest} to {most}" if most > fewest else f"rollout actors: {most}")
    lines.append(f"weights{' (the adapter alone)' if config.ships_adapter else ''}: reach them by {config.transport}")
    if rollouts.share_gpu:
        lines[-1] += "; they sleep while the learner computes on their cards"
    if budget is None:
        lines.append(f"memory: nothing tells how {config.model} is built, so what the run takes isn't known")
    lines.append(_output_line(config, budget))
    places = (config.data.annotations, config.data.videos)
    absent = [one for one in places if not is_remote(one) and not Path(one).exists()]
    if absent:
        return [*lines, f"data: {', '.join(absent)} not there, so nothing is counted"]
    tasks = training_tasks(config.data)
    kinds = Counter(pair.task for task in tasks for pair in task.questions)
    count, missing = sum(kinds.values()), sum(not there for there in _there(tasks, config.data.videos))
    by_task = ", ".join(f"{kind} {number}" for kind, number in sorted(kinds.items()))
    lines.append(f"data: {count} questions ({by_task}) on {len(tasks)} videos, {missing} of them without a file")
    epoch = math.ceil(count / rollouts.prompts_per_step)
    epochs = samplings * rollouts.prompts_per_step / max(count, 1)
    if config.eval_every:
        held_out = held_out_tasks(config)
        learned = learned_from(held_out, tasks)
        lines.append(
            f"validation: {sum(len(task.questions) for task in held_out)} held-out questions on {len(held_out)} videos "
            f"every {config.eval_every} steps"
            + (f"; {learned} of the videos are trained on as well" if learned else "")
        )
    lines.append(f"steps: {config.max_steps}; an epoch is {epoch} steps, the run {epochs:.2f} epochs")
    try:
        check_model(config.model, "model")
        config = fitted(config)
        tokenizer = load_tokenizer(config.model)
    except ConfigError as error:
        return [*lines, f"prompts: not measured: {error}"]
    with closing(ChildDecoder(config.decode)) as decoder:
        tasks = timed(tasks, decoder)
    if long := sum(_too_long(task, config.frames) for task in tasks):
        lines.append(
            f"frames: {long} videos are left out, as frames.max_frames = {config.frames.max_frames} of them would be "
            f"more than {config.frames.max_step_s:g} s apart"
        )
    tokens = prompt_tokens(tasks, config, tokenizer)
    check_prompts(tokens, config)
    longest, limit = max(tokens.values(), default=0), config.engine.max_model_len
    short = sum(count + rollouts.max_tokens > limit for count in tokens.values())
    lines.append(
        f"prompts: at most {longest} tokens of {limit}; {short} leave less than rollouts.max_tokens = "
        f"{rollouts.max_tokens} for the answer"
    )
    return lines


def _output_line(config: TrainConfig, budget: Budget | None) -> str:
    """Whether results can be written, and whether what this machine would keep of them has room.

    Raises:
        ConfigError: the output can't be written to.
    """
    store = RunStore(config.output, config.scratch)
    store.check_writable()
    free = shutil.disk_usage(existing(store.local)).free
    line = f"output: {store.output} can be written to; {free / 2**30:.1f} GiB are free at {store.local}"
    if budget is None:
        return line
    line += f", checkpoints and model take up to {budget.disk.total / 2**30:.1f} GiB"
    if budget.disk.total < free:
        return line
    way = "name another disk by scratch" if store.remote else "lower keep_checkpoints, or name another output"
    return f"{line}, TOO LITTLE where nodes have disks like this machine's: {way}"


def _there(tasks: Sequence[VideoTask], videos: str) -> list[bool]:
    """Whether each video has a file."""
    if not is_remote(videos):
        return [Path(task.path).exists() for task in tasks]
    names = list_names(videos)
    return [folder_name(task.path) in names for task in tasks]


def _counts(
    task: VideoTask, view: VideoView, shape: Shape, family: Family, config: TrainConfig, tokenizer: Any
) -> dict[str, int]:
    texts = {pair.qa_id: question_prompt(pair.task, pair.question, view, config.prompt) for pair in task.questions}
    return {name: len(family.prompt_ids(tokenizer, text, shape)) for name, text in texts.items()}


def _too_long(task: VideoTask, config: FramesConfig) -> bool:
    try:
        view_times(task.duration_s, config)
    except StepError:
        return True
    return False


def _largest_view(duration_s: float, config: FramesConfig) -> tuple[VideoView, Shape]:
    """Of a video of unknown size the view, and a shape with the most tokens that it can have: a row of them."""
    step_s, times = view_times(duration_s, config)
    multiple = config.multiple_px
    most = max(min(config.max_pixels, config.total_pixels // len(times)), config.min_pixels)
    side = math.isqrt(most)
    # What is scaled up to min_pixels may exceed it by a row of patches.
    pixels = most + (side + multiple) * multiple if most == config.min_pixels else most
    samples = sound_samples(len(times), step_s, config)
    shape = Shape(len(times), multiple, pixels // multiple**2 * multiple, step_s, samples)
    return VideoView(len(times), step_s, side, side, duration_s, side, side), shape


def _file_view(task: VideoTask, config: FramesConfig, decoder: ChildDecoder) -> VideoView | None:
    try:
        with local_copy(task.path) as path:
            meta = decoder.index(path)
    except StepError:
        return None
    step_s, times = view_times(task.duration_s, config)
    width, height = view_size(meta.width, meta.height, len(times), config)
    return VideoView(len(times), step_s, width, height, task.duration_s, meta.width, meta.height)
