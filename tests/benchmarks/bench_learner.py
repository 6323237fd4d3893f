"""Samples per second of a whole GRPO step: ours against plain ``trl.GRPOTrainer`` with its own generation.

    python -m tests.benchmarks.bench_learner [--large] [--frames 16] [--pairs 3] [--steps 12]

A step samples groups of completions, scores, updates the policy and hands the new weights to the sampler. Same random
model, prompts, G, length of completions (fixed), rewards, micro-batches and optimizer. Ours: rollout manager and actor
(vLLM, one thread) and learner (one thread), the next step's groups sampled while one is learned from, weights published
after each step. TRL: transformers' ``generate`` and the update in turn in one process, with the number of threads that
is faster in the first pair. Pairs follow each other; told is the median of their ratios. TRL's trainer takes no videos:
with ``--frames`` ours runs alone. Goals: 1.3 times as fast on text; a weight sync below 5% of our step. Within a step
the engine loads the weights, once it has ended what it samples, while the learner goes on; syncs into an idle engine
that are waited for follow the last step.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from ravst_ray.config.train import LearnerConfig, RolloutConfig, TrainConfig
from ravst_ray.config.video_llm import EngineConfig, FramesConfig
from ravst_ray.core.answers import ObjectAnswer, render
from ravst_ray.datasets.ravst_json import dump_questions
from ravst_ray.records import QAPair
from tests.benchmarks.policies import (
    LARGE,
    NOISE,
    PROMPT,
    VIEW,
    MadeUpManager,
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
IDLE_SYNCS = 5
TRUTH = render([ObjectAnswer("red ball", (1.0, 3.0))])


@dataclass
class Measured:
    """One side's steps after the warm-up."""

    samples: int
    length: float
    step_s: list[float]
    learner_mib: float
    actor_mib: list[float] = field(default_factory=list)
    forward_s: list[float] = field(default_factory=list)
    backward_s: list[float] = field(default_factory=list)
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
    videos = folder / NOISE if args.frames else folder
    videos.mkdir(exist_ok=True)
    sizes = LARGE if args.large else {}
    model = endless_policy(folder / ("policy_large" if args.large else "policy_tiny"), **sizes)
    path = folder / "questions.json"
    path.write_text(dump_questions(pairs, {pair.video_id: VIEW.duration_s for pair in pairs}))
    return TrainConfig(
        data={"annotations": str(path), "videos": str(videos)},
        frames=FramesConfig(max_frames=args.frames or 2),
        output=str(folder),
        model=str(model),
        max_steps=WARM_UP + args.steps,
        engine=EngineConfig(max_model_len=2048, max_num_seqs=GROUP * args.prompts),
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


def clocked(owner: Any, name: str) -> list[float]:
    """The seconds of each call of a method from here on."""
    spent: list[float] = []
    call = getattr(owner, name)

    def timed(*given: Any, **more: Any) -> Any:
        started = time.perf_counter()
        found = call(*given, **more)
        spent.append(time.perf_counter() - started)
        return found

    setattr(owner, name, timed)
    return spent


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
    manager = ray.remote(MadeUpManager).options(num_cpus=0, max_concurrency=1000).remote(config)
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
        share = ray.get(asked)
        clips = ray.get(list(share.clips))
        found = [replace(group, clip=clip) for group, clip in zip(share.groups, clips, strict=True)]
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
    forward_s, backward_s = clocked(learner, "_compute_loss"), clocked(learner.accelerator, "backward")
    learner.train()
    settle()
    for extra in range(IDLE_SYNCS):
        publish(config.max_steps + extra + 1)
    result = measured(config, sum(lengths) / len(lengths), times)
    result.actor_mib = actor_peaks_mib()
    result.forward_s, result.backward_s = (
        spent[len(spent) * WARM_UP // config.max_steps :] for spent in (forward_s, backward_s)
    )
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
    parser.add_argument("--large", action="store_true", help="102 M parameters in place of 1.3 M")
    parser.add_argument("--frames", type=int, default=0, help="of a video in each prompt, an even number; ours alone")
    parser.add_argument("--pairs", type=int, default=3, help="runs of each side")
    parser.add_argument("--steps", type=int, default=12, help=f"that count; {WARM_UP} go before")
    parser.add_argument("--prompts", type=int, default=4, help=f"groups of {GROUP} in a step")
    parser.add_argument("--tokens", type=int, default=64, help="of each completion")
    args = parser.parse_args()
    runs: list[tuple[str, Measured]] = []
    threads: tuple[int, ...] = () if args.frames else (2, 1)
    ratios: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        config = run_config(Path(folder), args)
        for _ in range(args.pairs):
            theirs = {count: apart(trl_steps, config, count) for count in threads}
            runs += [(f"TRL, {count} threads", one) for count, one in theirs.items()]
            runs.append(("ours, 1 + 1 threads", apart(our_steps, config, 1)))
            if theirs:
                best = max(theirs, key=lambda count: theirs[count].rate)
                ratios.append(runs[-1][1].rate / theirs[best].rate)
                threads = (best,)
    tell(runs, ratios)


def tell(runs: list[tuple[str, Measured]], ratios: list[float]) -> None:
    """Print the tables."""
    ours = [one for name, one in runs if name.startswith("ours")]
    load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    table = Table("", "tokens a sample", "s/step", "samples/s", "learner MiB")
    table.title = f"Whole GRPO steps of {ours[0].samples} samples ({load})"
    for name, one in runs:
        step_s = sum(one.step_s) / len(one.step_s)
        table.add_row(name, f"{one.length:.1f}", f"{step_s:.2f}", f"{one.rate:.2f}", f"{one.learner_mib:.0f}")
    console = Console()
    console.print(table)
    if ratios:
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        console.print(f"ours / TRL, the median of {len(ratios)} pairs: {median(ratios):.2f} ({spread}; goal: 1.3)")
    table = Table("our step, median of runs", "seconds", "of the step", title="goal: a sync below 5%")
    step_s = median(sum(one.step_s) / len(one.step_s) for one in ours)
    for name, spent in (
        ("forward and loss", [sum(one.forward_s) / len(one.step_s) for one in ours]),
        ("backward", [sum(one.backward_s) / len(one.step_s) for one in ours]),
        ("waiting for groups", [sum(one.waiting_s) / len(one.step_s) for one in ours]),
        ("weight sync, as the learner sees it", [sum(one.sync_s) / len(one.step_s) for one in ours]),
        ("until an idle engine has the weights", [sum(one.load_s) / len(one.step_s) for one in ours]),
        ("sync into an idle engine, waited for", [median(one.idle_sync_s) for one in ours]),
    ):
        table.add_row(name, f"{median(spent):.3f}", f"{median(spent) / step_s:.1%}")
    console.print(table)
    console.print(f"peak RSS of the actor's processes (actor + its children): {listed_mib(ours[-1].actor_mib)} MiB")


if __name__ == "__main__":
    main()
