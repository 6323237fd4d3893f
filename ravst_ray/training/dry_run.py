"""``ravst train --dry-run`` and ``ravst train-sft --dry-run``: what a run would do and take; nothing is started."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from rich.console import Console

from ravst_ray.config.sft import SftRunConfig
from ravst_ray.config.train import TrainConfig, TrainDataConfig
from ravst_ray.config.video_llm import FramesConfig
from ravst_ray.datasets.places import is_remote
from ravst_ray.datasets.tasks import VideoTask, without_file
from ravst_ray.datasets.transfer import check_writable, existing
from ravst_ray.errors import ConfigError
from ravst_ray.media.decoding import ChildDecoder
from ravst_ray.models.pretrained import check_model
from ravst_ray.models.size import card_bytes
from ravst_ray.policy.families import family_of, fit
from ravst_ray.tasks import settled
from ravst_ray.training.memory import Budget, estimate
from ravst_ray.training.memory_table import budget_table
from ravst_ray.training.plan import check_prompts, fitted, load_tokenizer, needs, prompt_tokens, timed, too_long
from ravst_ray.training.prompts import held_out_tasks, learned_from, training_tasks
from ravst_ray.training.run_store import RunStore


def dry_run(config: TrainConfig, console: Console) -> None:
    """Tell what a run would do; what is written as a trial is removed.

    Raises:
        ConfigError: a prompt doesn't fit, the reward has weights for what there isn't, or a place can't be read,
            written to, or has no room.
    """
    budget = estimate(config)
    _tell(_lines(config, budget), console)
    if budget is not None:
        console.print(budget_table(budget, config, card_bytes()))


def sft_dry_run(config: SftRunConfig, console: Console) -> None:
    """Tell what a supervised run would do; what is written as a trial is removed.

    Raises:
        ConfigError: a place or the model can't be used.
    """
    _tell(_sft_lines(config), console)


def _tell(lines: Sequence[str], console: Console) -> None:
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def _sft_lines(config: SftRunConfig) -> list[str]:
    gpus, cpus = config.workers * config.num_gpus, config.workers * config.num_cpus
    lines = ["configuration: valid", f"resources: {gpus:g} GPUs, {cpus:g} CPUs for {config.workers} workers"]
    lines.append(_output_line(config.output, config.scratch, None))
    if absent := _absent(config.data):
        return [*lines, absent]
    tasks = training_tasks(config.data)
    count = sum(len(task.questions) for task in tasks)
    steps = config.sft.steps(count)
    lines.append(_data_line(tasks, config.data))
    lines.append(f"steps: {steps} of {config.sft.batch} examples, {steps * config.sft.batch / count:.2f} epochs")
    check_model(config.model, "model")
    family = family_of(config.model)
    family.learner()
    frames, _ = fit(config.frames, config.prompt, family)
    with closing(ChildDecoder(config.decode)) as decoder:
        return [*lines, *_long_lines(timed(tasks, decoder), frames)]


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
    lines.append(_output_line(config.output, config.scratch, budget))
    if absent := _absent(config.data):
        return [*lines, absent]
    tasks = training_tasks(config.data)
    count = sum(len(task.questions) for task in tasks)
    lines.append(_data_line(tasks, config.data))
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
    lines += _long_lines(tasks, config.frames)
    tokens = prompt_tokens(tasks, config, tokenizer)
    check_prompts(tokens, config)
    longest, limit = max(tokens.values(), default=0), config.engine.max_model_len
    short = sum(count + rollouts.max_tokens > limit for count in tokens.values())
    lines.append(
        f"prompts: at most {longest} tokens of {limit}; {short} leave less than rollouts.max_tokens = "
        f"{rollouts.max_tokens} for the answer"
    )
    return lines


def _output_line(output: str, scratch: str | None, budget: Budget | None) -> str:
    """Whether results can be written, and whether what this machine would keep of them has room.

    Raises:
        ConfigError: the output can't be written to.
    """
    store = RunStore(output, scratch)
    check_writable(store.output, "output")
    free = shutil.disk_usage(existing(store.local)).free
    line = f"output: {store.output} can be written to; {free / 2**30:.1f} GiB are free at {store.local}"
    if budget is None:
        return line
    line += f", checkpoints and model take up to {budget.disk.total / 2**30:.1f} GiB"
    if budget.disk.total < free:
        return line
    way = "name another disk by scratch" if store.remote else "lower keep_checkpoints, or name another output"
    return f"{line}, TOO LITTLE where nodes have disks like this machine's: {way}"


def _absent(data: TrainDataConfig) -> str | None:
    absent = [one for one in (data.annotations, data.videos) if not is_remote(one) and not Path(one).exists()]
    return f"data: {', '.join(absent)} not there, so nothing is counted" if absent else None


def _data_line(tasks: Sequence[VideoTask], data: TrainDataConfig) -> str:
    kinds = Counter(pair.task for task in tasks for pair in task.questions)
    by_task = ", ".join(f"{kind} {number}" for kind, number in sorted(kinds.items()))
    missing = without_file(tasks, data.videos)
    return f"data: {sum(kinds.values())} questions ({by_task}) on {len(tasks)} videos, {missing} of them without a file"


def _long_lines(tasks: Sequence[VideoTask], frames: FramesConfig) -> list[str]:
    long = sum(too_long(task, frames) for task in tasks)
    if not long:
        return []
    limit = f"frames.max_frames = {frames.max_frames} of them would be more than {frames.max_step_s:g} s apart"
    return [f"frames: {long} videos are left out, as {limit}"]
