"""What a rollout actor costs: tokens per second of bare vLLM against a RolloutActor, in steady state.

    python -m tests.benchmarks.bench_rollouts [--prompts 8] [--tokens 48] [--threads 1]

Both sample the same groups (a question and a short clip, G completions with log-probs, all of one length) with engines
of the same class and arguments, from one random model of over 100 M parameters in fp32. Bare: vLLM's AsyncLLM in a
plain process. Actor: as the rollout manager calls it, one ``sample`` a prompt, all at once. They take turns, round by
round, bare first and last, because these machines are noisy; the one that waits is idle. Goal: at least 95% of bare.

Then what a weight sync into that actor takes, from the learner's model to the engine, and the actor's peak memory.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
from rich.console import Console
from rich.table import Table

from ravst_ray.cluster.start import start_ray
from ravst_ray.config.train import TrainConfig
from ravst_ray.config.video_llm import EngineConfig, SamplingConfig
from ravst_ray.media.clips import Clip
from ravst_ray.policy.engine import VideoLLM
from ravst_ray.training.rollout import RolloutActor, Weights
from tests.benchmarks.policies import LARGE, actor_peaks_mib, endless_policy, listed_mib, prompt_text, same_terms
from tests.tiny_policies import noise_clip

GROUP = 6
REST_S = 2.0
"""Engines look out for work for a second after their last; then the other one has the cores to itself."""
Ask = tuple[str, Clip, SamplingConfig]


def asks(number: int, prompts: int, tokens: int) -> list[Ask]:
    """The groups of a round, new ones in each: nothing comes from a cache."""
    places = range(number * prompts, (number + 1) * prompts)
    return [
        (
            prompt_text(place),
            noise_clip(f"c{place}", 16, seed=place),
            SamplingConfig(temperature=1.0, n=GROUP, max_tokens=tokens, seed=1000 * place),
        )
        for place in places
    ]


class Bare:
    """vLLM in a process of its own, without Ray; this side only tells it which round to do."""

    def __init__(self, config: TrainConfig):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, config))
        self._process.start()
        theirs.close()

    def wait(self) -> None:
        """Until the engine is up."""
        self._pipe.recv()

    def round(self, given: list[Ask]) -> tuple[int, float]:
        """Tokens and seconds."""
        self._pipe.send(given)
        done: tuple[int, float] = self._pipe.recv()
        return done

    def close(self) -> None:
        """End the process."""
        self._pipe.send(None)
        self._process.join()


def _serve(pipe: Any, config: TrainConfig) -> None:
    asyncio.run(_rounds(pipe, config))


async def _rounds(pipe: Any, config: TrainConfig) -> None:
    """Rounds by vLLM alone: our wrapper only starts the engine and writes the prompts, before the clock runs."""
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    ours = VideoLLM(config.engine.model_copy(update={"model": config.model}), trainable=True)
    await ours.start()

    async def complete(name: str, prompt: Any, parameters: SamplingParams) -> int:
        final: Any = None
        async for output in ours.engine.generate(prompt, parameters, request_id=name):
            final = output
        return sum(len(one.token_ids) for one in final.outputs)

    pipe.send("up")
    while (given := await asyncio.to_thread(pipe.recv)) is not None:
        ready = []
        for text, clip, sampling in given:
            parameters = SamplingParams(
                n=sampling.n,
                temperature=sampling.temperature,
                max_tokens=sampling.max_tokens,
                seed=sampling.seed,
                logprobs=0,
                logit_bias=ours._bias,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            ready.append((f"bare{sampling.seed}", ours.family.request(ours.tokenizer, text, clip), parameters))
        started = time.perf_counter()
        tokens = sum(await asyncio.gather(*(complete(*one) for one in ready)))
        pipe.send((tokens, time.perf_counter() - started))
    await ours.close()


def actor_round(actor: Any, given: list[Ask]) -> tuple[int, float]:
    """Tokens and seconds of a round by the actor; its clips are in the object store, as in training."""
    ready = [(text, ray.put(clip), sampling) for text, clip, sampling in given]
    started = time.perf_counter()
    made = ray.get([actor.sample.remote(*one) for one in ready])
    spent_s = time.perf_counter() - started
    return sum(len(one.token_ids) for generation in made for one in generation.completions), spent_s


def sync_times(actor: Any, model: Any, repeats: int) -> list[tuple[float, float, float]]:
    """Seconds to copy the learner's weights, to put them into the object store, and to load them into the engine."""
    from ravst_ray.training.weights import policy_state

    found = []
    for version in range(1, repeats + 1):
        marks = [time.perf_counter()]
        state = policy_state(model, frozen_vision=True)
        marks.append(time.perf_counter())
        weights = Weights(version, [ray.put(state)])
        marks.append(time.perf_counter())
        ray.get(actor.set_weights.remote(weights))
        marks.append(time.perf_counter())
        found.append((marks[1] - marks[0], marks[2] - marks[1], marks[3] - marks[2]))
    return found


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=8, help=f"groups of {GROUP} in a round")
    parser.add_argument("--tokens", type=int, default=48, help="of each completion")
    parser.add_argument("--rounds", type=int, default=3, help="of the actor; one more of bare vLLM")
    parser.add_argument("--threads", type=int, default=1, help="of each engine")
    parser.add_argument("--hidden", type=int, default=LARGE["hidden"])
    parser.add_argument("--layers", type=int, default=LARGE["layers"])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "ravst_bench")
    args = parser.parse_args()
    same_terms(args.threads)
    name = f"policy_{args.hidden}x{args.layers}"
    model = endless_policy(args.folder / name, hidden=args.hidden, layers=args.layers)
    config = TrainConfig(
        data={"annotations": "-", "videos": "-"},
        output="-",
        model=str(model),
        engine=EngineConfig(max_model_len=1024, max_num_seqs=GROUP * args.prompts),
    )
    start_ray()
    actor = ray.remote(RolloutActor).options(num_cpus=1, max_concurrency=1000).remote(config)
    up = actor.start.remote(None)
    bare = Bare(config)
    bare.wait()
    ray.get(up)
    runs = {"bare": bare.round, "actor": lambda given: actor_round(actor, given)}
    rows = []
    for number, kind in enumerate(["bare", "actor"] * (args.rounds + 1) + ["bare"]):  # the first of each warm up
        rows.append((kind, *runs[kind](asks(number, args.prompts, args.tokens))))
        time.sleep(REST_S)
    bare.close()
    syncs(actor, config, rates(rows[2:], args))
    ray.shutdown()


def rates(rows: list[tuple[str, int, float]], args: argparse.Namespace) -> Console:
    """Print tokens per second, round by round and in all."""
    title = f"Actor against bare vLLM (load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)"
    table = Table("", "tokens", "seconds", "tokens/s", "of bare", title=title)
    for place, (kind, tokens, spent_s) in enumerate(rows):
        share = ""
        if kind == "actor":  # bare vLLM ran just before and just after
            near = [rows[place + step][1] / rows[place + step][2] for step in (-1, 1)]
            share = f"{tokens / spent_s / (sum(near) / 2):.1%}"
        table.add_row(kind, str(tokens), f"{spent_s:.2f}", f"{tokens / spent_s:.1f}", share)
    table.add_section()
    whole = {}
    for kind in ("bare", "actor"):
        tokens, spent_s = (sum(row[column] for row in rows if row[0] == kind) for column in (1, 2))
        whole[kind] = tokens / spent_s
        share = f"{whole['actor'] / whole['bare']:.1%}" if kind == "actor" else ""
        table.add_row(f"{kind}, all rounds", str(tokens), f"{spent_s:.2f}", f"{whole[kind]:.1f}", share)
    console = Console()
    console.print(table, f"threads of an engine: {args.threads}; goal: at least 95% of bare")
    return console


def syncs(actor: Any, config: TrainConfig, console: Console) -> None:
    """Measure and print the weight syncs and the actor's memory."""
    from ravst_ray.training.policy_loading import load_policy

    sampled = actor_peaks_mib()
    model, *_ = load_policy(config.model, config.learner)
    millions = model.num_parameters() / 1e6
    table = Table("sync", "copy s", "put s", "load s", "all s", title=f"Weight sync, {millions:.1f} M parameters, fp32")
    for number, parts in enumerate(sync_times(actor, model, 3), 1):
        table.add_row(str(number), *(f"{part:.2f}" for part in (*parts, sum(parts))))
    console.print(table)
    table = Table("after", "peak RSS in MiB: all (actor + its children)", title="Memory of the actor's process tree")
    table.add_row("sampling", listed_mib(sampled))
    table.add_row("weight syncs too", listed_mib(actor_peaks_mib()))
    console.print(table)


if __name__ == "__main__":
    main()
