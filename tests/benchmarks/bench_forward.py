"""CPU seconds of the learner's forward and backward: a prompt once for its G completions, against once for each.

    python -m tests.benchmarks.bench_forward [--prompts 4] [--group 8] [--tokens 50] [--rounds 5]

The shipped toy policy on toy scenes, one thread, features of the frozen tower kept. Rounds alternate, so that a busy
machine hits both; the ratio is what counts.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from ravst_ray.policy.families.qwen2_5_vl import Qwen25VL
from ravst_ray.toyworld.training.policy import POLICY
from ravst_ray.toyworld.training.policy_pool import paint
from ravst_ray.training.forward import Row, VideoForward

SEED = 31


def main() -> None:
    """Print the table."""
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("prompts", 4), ("group", 8), ("tokens", 50), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(POLICY, dtype=torch.float32).train()
    model.model.visual.requires_grad_(False)
    processor = AutoProcessor.from_pretrained(POLICY)
    forwards = {
        name: VideoForward(processor, Qwen25VL(), frozen_vision=True, share_prompts=shared)
        for name, shared in (("a prompt once", True), ("once a completion", False))
    }
    rows, rng = [], np.random.default_rng(SEED)
    for index in range(args.prompts):
        scene = paint(SEED, index)
        prompt = forwards["a prompt once"].prompt_ids(scene.prompt(scene.questions[0]), scene.clip)
        rows += [Row(prompt, rng.integers(20, 100, args.tokens).tolist(), scene.clip) for _ in range(args.group)]
    spent: dict[str, list[float]] = {name: [] for name in forwards}
    for _ in range(args.rounds + 1):
        for name, forward in forwards.items():
            started = time.process_time()
            forward.score(model, rows).logps.sum().backward()
            model.zero_grad()
            spent[name].append(time.process_time() - started)
    seconds = {name: sorted(times[1:])[args.rounds // 2] for name, times in spent.items()}  # the first one warms up
    long = np.mean([len(row.prompt_ids) for row in rows])
    table = Table(
        title=f"{args.prompts} prompts of {long:.0f} tokens on average, {args.group} x {args.tokens} tokens each"
    )
    for column in ("", "CPU s, forward and backward", "ratio"):
        table.add_column(column, justify="left" if not column else "right")
    best = min(seconds.values())
    for name, value in seconds.items():
        table.add_row(name, f"{value:.2f}", f"{value / best:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
