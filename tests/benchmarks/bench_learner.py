"""Samples per second of a whole GRPO step: ours against plain ``trl.GRPOTrainer`` with its own generation.

    python -m tests.benchmarks.bench_learner [--steps 12] [--prompts 4] [--tokens 64]

A step samples groups of completions of text prompts, scores, updates the policy and hands the new weights to the
sampler. Same tiny random model, prompts, G, length of completions (fixed), rewards, micro-batches and optimizer. Ours:
rollout manager and actor (vLLM, one thread) and learner (one thread), the next step's groups sampled while one is
learned from, weights published after each step. TRL: transformers' ``generate`` and the update in turn in one process,
with two threads before ours and with one after it; ours is compared with the faster. Goals: 1.3 times as fast; a
weight sync takes less than 5% of our step. Within a step the engine loads the weights, once it has ended what it
samples, while the learner goes on; syncs into an idle engine that are waited for follow the last step.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ravst_ray.config.train import LearnerConfig, RolloutConfig, TrainConfig
from ravst_ray.config.video_llm import EngineConfig
from ravst_ray.core.answers import ObjectAnswer, render
from ravst_ray.datasets.ravst_json import dump_questions
from ravst_ray.records import QAPair
from tests.benchmarks.policies import (
    PROMPT,
    VIEW,
    TextManager,
    VariedRubric,
    actor_peaks_mib,
    endless_policy,
    listed_mib,
    peak_mib,
    prompt_text,
    question,
    same_terms,
)

GROUP = 6
WARM_UP = 4
IDLE_SYNCS = 3
TRUTH = render([ObjectAnswer("red ball", (1.0, 3.0))])


@dataclass
class Measured:
    """One side's steps after the warm-up."""

    samples: int
    length: float
    step_s: list[float]
    learner_mib: float
    actor_mib: list[float] = field(default_factory=list)
    waiting_s: list[float] = field(default_factory=list)
    sync_s: list[float] = field(default_factory=list)
    load_s: list[float] = field(default_factory=list)
    idle_sync_s: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Samples per second."""
        return self.samples * len(self.step_s) / sum(self.step_s)


def run_config(folder: Path, args: argparse.Namespace) -> TrainConfig:
    """The run, and its questions on disk."""
    count = args.prompts * (WARM_UP + args.steps + 1)
    pairs = [QAPair(f"v{n}/1/AVTR/0", f"v{n}", 1, "AVTR", question(n), TRUTH) for n in range(count)]
    path = folder / "questions.json"
    path.write_text(dump_questions(pairs, {pair.video_id: VIEW.duration_s for pair in pairs}))
    return TrainConfig(
        data={"annotations": str(path), "videos": str(folder)},
        output=str(folder),
        model=str(endless_policy(folder / "policy_tiny")),
        max_steps=WARM_UP + args.steps,
        engine=EngineConfig(max_model_len=1024, max_num_seqs=GROUP * args.prompts),
        prompt=PROMPT,
        rollouts=RolloutConfig(group_size=GROUP, prompts_per_step=args.prompts, max_tokens=args.tokens),
        learner=LearnerConfig(micro_batch=GROUP, schedule="constant"),
    )


def arguments(config: TrainConfig, **more: Any) -> Any:
    """TRL's arguments, the same on both sides."""
    from ravst_ray.training.arguments import trainer_arguments

    rollouts = config.rollouts
    rows = rollouts.prompts_per_step * rollouts.group_size
    return trainer_arguments(
        config.learner,
        Path(config.output) / "trainer",
        rows=rows,
        group_size=rollouts.group_size,
        max_tokens=rollouts.max_tokens,
        max_steps=config.max_steps,
        seed=config.seed,
        **more,
    )


def ended_steps(after_step: Any = None) -> tuple[Any, list[float]]:
    """A callback, and the times that it keeps: when the training began, and when each step ended."""
    from transformers import TrainerCallback

    times: list[float] = []

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if after_step is not None:
                after_step(state.global_step)
            times.append(time.perf_counter())

    return Clock(), times


def measured(config: TrainConfig, length: float, times: list[float]) -> Measured:
    """What is known of both sides."""
    spent = [after - before for before, after in pairwise(times)]
    return Measured(config.rollouts.prompts_per_step * GROUP, length, spent[WARM_UP:], peak_mib())


def trl_steps(config: TrainConfig) -> Measured:
    """TRL alone."""
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import GRPOTrainer

    from ravst_ray.training.policy_loading import load_policy

    model, processor, _, family = load_policy(config.model, config.learner)
    rubric, tokens = VariedRubric(config.reward), config.rollouts.max_tokens

    def reward(completions: list[Any], **_: Any) -> list[float]:
        return [rubric.score("AVTR", one[0]["content"], TRUTH, truncated=True).total for one in completions]

    count = config.rollouts.prompts_per_step * config.max_steps
    chats = [[{"role": "user", "content": prompt_text(number)}] for number in range(count)]
    banned = family.banned_ids(processor.tokenizer)
    clock, times = ended_steps()
    trainer = GRPOTrainer(
        model,
        reward_funcs=reward,
        args=arguments(
            config,
            generation_kwargs={"min_new_tokens": tokens, "suppress_tokens": banned},
        ),
        train_dataset=Dataset.from_dict({"prompt": chats}),
        processing_class=processor,
        callbacks=[clock],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    lengths = [one["completions/mean_length"] for one in trainer.state.log_history if "loss" in one]
    return measured(config, sum(lengths) / len(lengths), times)


def our_steps(config: TrainConfig) -> Measured:
    """Manager, actor and learner, wired as in ``ravst_ray.training.loop``."""
    import ray

    from ravst_ray.cluster.start import start_ray
    from ravst_ray.training.learner import GRPOLearner
    from ravst_ray.training.policy_loading import load_policy
    from ravst_ray.training.transport import open_transport

    start_ray()
    manager = ray.remote(TextManager).options(num_cpus=0, max_concurrency=1000).remote(config)
    ray.get(manager.start.remote())
    model, processor, _, family = load_policy(config.model, config.learner)
    sender = open_transport(config, manager, 0)
    waiting_s: list[float] = []
    sync_s: list[float] = []
    load_s: list[float] = []
    lengths: list[int] = []

    def source(step: int) -> list[Any]:
        started = time.perf_counter()
        asked = manager.groups.remote(step, 0)
        sender.check(asked)
        found = ray.get(asked).groups
        waiting_s.append(time.perf_counter() - started)
        lengths.extend(len(one.token_ids) for group in found for one in group.completions)
        return found

    def publish(version: int) -> None:
        started = time.perf_counter()
        settle()
        sender.publish(learner.model, version)
        if version > config.max_steps:
            settle()
        sync_s.append(time.perf_counter() - started)

    def settle() -> None:
        if (synced := sender.settled()) is not None:
            load_s.append(synced.load_s)

    learner = GRPOLearner(
        model,
        arguments(config),
        processor,
        family,
        source,
        temperature=config.rollouts.temperature,
        frozen_vision=config.learner.freeze_vision,
    )
    clock, times = ended_steps(publish)
    learner.add_callback(clock)
    learner.train()
    settle()
    for extra in range(IDLE_SYNCS):
        publish(config.max_steps + extra + 1)
    result = measured(config, sum(lengths) / len(lengths), times)
    result.actor_mib = actor_peaks_mib()
    result.waiting_s, result.sync_s = waiting_s[WARM_UP:], sync_s[WARM_UP:-IDLE_SYNCS]
    result.idle_sync_s, result.load_s = sync_s[-IDLE_SYNCS:], load_s[WARM_UP:-IDLE_SYNCS]
    ray.shutdown()
    return result


def apart(steps: Any, config: TrainConfig, threads: int) -> Measured:
    """Run one side in a fresh process."""
    same_terms(threads)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(steps, config).result()


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12, help=f"that count; {WARM_UP} go before")
    parser.add_argument("--prompts", type=int, default=4, help=f"groups of {GROUP} in a step")
    parser.add_argument("--tokens", type=int, default=64, help="of each completion")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = run_config(Path(folder), args)
        sides = {"TRL, 2 threads": apart(trl_steps, config, 2)}
        ours = apart(our_steps, config, 1)
        sides |= {"ours, 1 + 1 threads": ours, "TRL, 1 thread": apart(trl_steps, config, 1)}
    best = max(one.rate for one in sides.values() if one is not ours)
    title = f"Whole GRPO steps of {ours.samples} samples (load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)"
    table = Table("", "steps", "tokens a sample", "s/step", "samples/s", "of faster TRL", "learner MiB", title=title)
    for name, one in sides.items():
        share = f"{one.rate / best:.2f} x" if one is ours else ""
        step_s = sum(one.step_s) / len(one.step_s)
        shown = (f"{one.length:.1f}", f"{step_s:.2f}", f"{one.rate:.2f}", share, f"{one.learner_mib:.0f}")
        table.add_row(name, str(len(one.step_s)), *shown)
    console = Console()
    console.print(table)
    table = Table("", "s/step", "of step", title="Our step (goal: a sync below 5%)")
    idle_s = sum(ours.idle_sync_s) / len(ours.idle_sync_s)
    count, whole_s = len(ours.step_s), sum(ours.step_s)
    for name, spent_s in (
        ("waiting for groups", sum(ours.waiting_s) / count),
        ("weight sync, as the learner sees it", sum(ours.sync_s) / count),
        ("until the engine has the weights, from the moment it is idle", sum(ours.load_s) / count),
        ("weight sync into an idle engine, waited for", idle_s),
    ):
        table.add_row(name, f"{spent_s:.3f}", f"{spent_s / (whole_s / count):.1%}")
    console.print(table)
    console.print(f"peak RSS of the actor's process tree (actor + its children): {listed_mib(ours.actor_mib)} MiB")


if __name__ == "__main__":
    main()
