"""What is known of a run before anything starts: what it needs, and which prompts fit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from ravst_ray.config.train import TrainConfig
from ravst_ray.config.video_llm import FramesConfig
from ravst_ray.datasets.places import local_copy
from ravst_ray.datasets.tasks import VideoTask
from ravst_ray.errors import ConfigError, StepError
from ravst_ray.logs import get_logger
from ravst_ray.media.clips import sound_samples, view_size, view_times
from ravst_ray.media.decoding import ChildDecoder
from ravst_ray.models.pretrained import loading, model_source
from ravst_ray.policy.families import family_of, fit
from ravst_ray.policy.families.protocols import Family, Shape
from ravst_ray.policy.prompts import question_prompt
from ravst_ray.records import VideoView
from ravst_ray.tasks import settled

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
            if not task.duration_s or too_long(task, config.frames):
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


def _counts(
    task: VideoTask, view: VideoView, shape: Shape, family: Family, config: TrainConfig, tokenizer: Any
) -> dict[str, int]:
    texts = {pair.qa_id: question_prompt(pair.task, pair.question, view, config.prompt) for pair in task.questions}
    return {name: len(family.prompt_ids(tokenizer, text, shape)) for name, text in texts.items()}


def too_long(task: VideoTask, config: FramesConfig) -> bool:
    """Whether a video is left out, as too few frames are shown of it for its length."""
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
