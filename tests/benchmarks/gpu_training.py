"""The learner's step on one card: Qwen2.5-VL of 3 and 7 billion parameters, randomly initialised, through our forward.

    python -m tests.benchmarks.gpu_training --out out/gpu_training      # one 80 GB card, at most 8 minutes
    python -m tests.benchmarks.gpu_training --tiny --out out/try        # a tiny model on a CPU, to try the whole

A case is the update of G completions of one prompt with a video, as the learner makes it: GRPO's loss (``dapo``,
importance corrected), gradients with layers computed again, their norm clipped, fused AdamW.
Full training has float32 weights and computes in bfloat16; an adapter is float32 beside bfloat16. The tower is frozen:
its features are kept, or each step brings a video that it hasn't seen. Told are the median step, tokens per second, the
share of the card's peak (MFU, see ``step_flops`` for what counts), peak memory; and once for each size how far
log-probs in bfloat16 are from float32 (a trained model's are further: random weights give each token much the same
probability). Writes ``gpu_training.json`` and ``gpu_training.md`` after each case; says what doesn't fit, and what
there was no time for.

It needs torch, transformers, numpy, pillow, pyarrow, and peft for the cases with an adapter; this package as it lies
here, with neither Ray, vLLM, TRL nor pydantic, and no network.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ravst_ray.media.clips import Clip
from ravst_ray.policy.families.qwen2_5_vl import PATCH_PX, TEMPORAL_PATCH, Qwen25VL
from ravst_ray.training.forward import Row, VideoForward
from ravst_ray.training.towers import set_aside
from tests.benchmarks.large_models import TOY, build, card_peak, states_gib, step_flops, tokens_of

FAMILY = Qwen25VL()
LORA: dict[str, Any] = {"r": 16, "lora_alpha": 32, "task_type": "CAUSAL_LM"}
TARGETS = "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj"
CLIP, CAP = 0.2, 2.0
BEGUN = 0.85
"""No case begins after this share of the time."""


@dataclass(frozen=True)
class Case:
    """One line of the table; ``cached``: the tower's features are there from the step before."""

    size: str
    lora: bool
    frames: int
    cached: bool = True
    shared: bool = True

    @property
    def name(self) -> str:
        """For people."""
        parts = [self.size, "LoRA" if self.lora else "full", f"{self.frames} frames"]
        return ", ".join(parts + ["new video"] * (not self.cached) + ["a prompt for each"] * (not self.shared))


@dataclass(frozen=True)
class Work:
    """How large a step is; sides of frames are multiples of 28."""

    group: int = 8
    completion: int = 512
    height: int = 308
    width: int = 560
    steps: int = 3


def cases(sizes: Sequence[str], frames: tuple[int, int]) -> list[Case]:
    """The most telling first: the longer video of each model, then each thing that can be left off, then the rest."""
    models = [(size, lora) for size in sizes for lora in (True, False)]
    few, many = frames
    telling = [(many, True, True), (few, True, True), (many, False, True), (many, True, False)]
    rest = [(few, False, True), (few, True, False), (many, False, False), (few, False, False)]
    return [Case(*model, *ways) for part in (telling, rest) for model in models for ways in part]


def grpo_loss(logps: torch.Tensor, sampled: torch.Tensor, advantages: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """TRL's ``dapo`` with ``token_truncate``: the mean over all tokens; all ``[B, C]``, ``advantages [B, 1]``."""
    old = logps.detach()  # log-probs before the update
    ratio = torch.exp(logps - old)
    gain = torch.min(ratio * advantages, ratio.clamp(1 - CLIP, 1 + CLIP) * advantages)
    return -(gain * torch.exp(old - sampled).clamp(max=CAP))[mask].mean()


class Learner:
    """A model of a size as the learner has it, with its optimizer."""

    def __init__(self, size: str, lora: bool, device: torch.device):
        from transformers import AutoProcessor

        self.size, self.lora, self.device = size, lora, device
        self.processor = AutoProcessor.from_pretrained(TOY)
        side = FAMILY.learner()
        model = build(size, torch.bfloat16 if lora else torch.float32, device)
        set_aside(model, side.towers, torch.bfloat16)
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if lora:
            import peft

            scope = side.adapter_scope.format(targets=TARGETS)
            model = peft.get_peft_model(model, peft.LoraConfig(target_modules=scope, **LORA))
        self.model = model.train()
        self.learning = [weight for weight in model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(self.learning, lr=1e-6, weight_decay=0.0, fused=device.type == "cuda")

    def step(self, forward: VideoForward, rows: Sequence[Row], advantages: torch.Tensor) -> float:
        """One update; gives the gradient's norm."""
        with torch.autocast(self.device.type, torch.bfloat16):
            scores = forward.score(self.model, rows, entropies=True)
        loss = grpo_loss(scores.logps, scores.logps.detach(), advantages, scores.mask)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.learning, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(norm)

    def measured(self, case: Case, work: Work, late: Callable[[], bool]) -> dict[str, Any]:
        """A case's numbers, of as many steps as there is time for."""
        forward = VideoForward(self.processor, FAMILY, frozen_vision=True, share_prompts=case.shared)
        advantages = torch.linspace(-1, 1, work.group, device=self.device)[:, None]
        rows = rows_of(forward, case.frames, work, "video 0")
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        spent, norm = [], 0.0
        for number in range(work.steps + 1):
            if len(spent) > 1 and late():
                break
            if not case.cached:
                rows = rows_of(forward, case.frames, work, f"video {number}")
            started = time.perf_counter()
            norm = self.step(forward, rows, advantages)
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            spent.append(time.perf_counter() - started)
        step_s = statistics.median(spent[1:])  # the first one compiles kernels and fills caches
        tokens, answers = tokens_of(rows, case.shared)
        patches = 0 if case.cached else -(-case.frames // TEMPORAL_PATCH) * work.height * work.width // PATCH_PX**2
        flops = step_flops(case.size, rows, shared=case.shared, lora=case.lora, patches=patches)
        on_card = self.device.type == "cuda"
        peak = card_peak(torch.cuda.get_device_name()) if on_card else None
        return {
            "step_s": step_s,
            "steps_s": spent,
            "tokens": tokens,
            "completion_tokens_per_s": answers / step_s,
            "tokens_per_s": tokens / step_s,
            "flops": flops,
            "mfu": flops / step_s / peak if peak else None,
            "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if on_card else None,
            "gradient_norm": norm,
        }


def rows_of(forward: VideoForward, frames: int, work: Work, name: str) -> list[Row]:
    """G completions of one prompt with a video that no other name has."""
    rng = np.random.default_rng(0)
    clip = Clip(name, rng.integers(0, 256, (frames, work.height, work.width, 3), dtype=np.uint8), 1.0)
    prompt = forward.prompt_ids("When is the moment red ball makes sound?", clip)
    return [Row(prompt, rng.integers(10, 400, work.completion).tolist(), clip) for _ in range(work.group)]


def precision(size: str, frames: int, work: Work, device: torch.device) -> dict[str, float]:
    """Absolute differences of log-probs between float32 and the learner's bfloat16, of the same weights."""
    from transformers import AutoProcessor

    processor, model = AutoProcessor.from_pretrained(TOY), build(size, torch.float32, device).eval()
    forward = VideoForward(processor, FAMILY)
    rows = rows_of(forward, frames, work, "video")[:2]
    with torch.no_grad():
        exact = forward.score(model, rows)
        set_aside(model, FAMILY.learner().towers, torch.bfloat16)
        with torch.autocast(device.type, torch.bfloat16):
            rough = VideoForward(processor, FAMILY, frozen_vision=True).score(model, rows)
    apart = (exact.logps - rough.logps)[exact.mask].abs()
    return {"mean": float(apart.mean()), "median": float(apart.median()), "max": float(apart.max())}


def tried(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What it gives, or why it gives nothing."""
    try:
        return run()
    except torch.cuda.OutOfMemoryError as error:
        return {"left_out": f"out of memory: {str(error).splitlines()[0][:120]}"}
    except ModuleNotFoundError as error:
        if error.name != "peft":
            raise
        return {"left_out": "peft isn't installed"}


def free() -> None:
    """Give back what nobody holds."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def lines(result: dict[str, Any]) -> Iterator[str]:
    """The result as Markdown."""
    yield f"{result['card']}, torch {result['torch']}, transformers {result['transformers']}; {result['work']}."
    yield ""
    yield "| case | tokens | s a step | completion tokens/s | all tokens/s | MFU | peak GiB |"
    yield "| --- | " + "---: | " * 5 + "---: |"
    for case in result["cases"]:
        if "left_out" in case:
            yield f"| {case['name']} | {case['left_out']} | | | | | |"
            continue
        mfu = "" if case["mfu"] is None else f"{case['mfu']:.1%}"
        peak = "" if case["peak_gib"] is None else f"{case['peak_gib']:.1f}"
        rates = f"{case['completion_tokens_per_s']:,.0f} | {case['tokens_per_s']:,.0f}"
        yield f"| {case['name']} | {case['tokens']:,} | {case['step_s']:.3f} | {rates} | {mfu} | {peak} |"
    yield ""
    for size, found in result["precision"].items():
        told = ", ".join(f"{key} {value if isinstance(value, str) else f'{value:.4f}'}" for key, value in found.items())
        yield f"Log-probs of {size} in bfloat16 against float32, absolute: {told}."


def main() -> None:
    """Measure until all is done or the time is up."""
    import transformers

    began = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/gpu_training"))
    parser.add_argument("--minutes", type=float, default=8.0, help="no case begins after 85%% of it")
    parser.add_argument("--sizes", nargs="+", default=["7B", "3B"], choices=["7B", "3B"], help="in this order")
    parser.add_argument("--tiny", action="store_true", help="a tiny model on a CPU")
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    work, sizes, frames = Work(), args.sizes, (16, 64)
    if args.tiny:
        work, sizes, frames = Work(group=2, completion=12, height=56, width=84, steps=1), ["tiny"], (2, 4)
    device = torch.device("cpu" if args.tiny else "cuda")
    card = "CPU" if args.tiny else torch.cuda.get_device_name()
    there_gib = float("inf") if args.tiny else torch.cuda.get_device_properties(device).total_memory / 2**30
    result: dict[str, Any] = {"card": card, "python": sys.version.split()[0], "torch": torch.__version__}
    result |= {"transformers": transformers.__version__, "sizes": asdict(work), "cases": [], "precision": {}}
    result["work"] = f"{work.group} completions of {work.completion} tokens, frames of {work.width} x {work.height}"
    args.out.mkdir(parents=True, exist_ok=True)

    def late() -> bool:
        return time.monotonic() - began > args.minutes * 60 * BEGUN

    def keep() -> None:  # after each case: a machine that is taken away leaves what was measured
        (args.out / "gpu_training.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        (args.out / "gpu_training.md").write_text("\n".join(lines(result)) + "\n", encoding="utf-8")

    every = cases(sizes, frames)
    learner: Learner | None = None
    for number, case in enumerate(every):
        if number == len(every) // 2:
            learner = None
            free()
            for size in [] if late() else sizes:
                result["precision"][size] = tried(lambda size=size: precision(size, frames[0], work, device))
                free()
        if learner is not None and (learner.size, learner.lora) != (case.size, case.lora):
            learner = None
            free()
        if late():
            found = {"left_out": "no time left"}
        elif not case.lora and (needed := states_gib(case.size)) > there_gib:
            found = {"left_out": f"doesn't fit: {needed:.0f} GiB of states, the card has {there_gib:.0f}"}
        else:

            def run(case: Case = case) -> dict[str, Any]:
                nonlocal learner
                learner = learner or Learner(case.size, case.lora, device)
                return learner.measured(case, work, late)

            found = tried(run)
            if "left_out" in found:  # gradients may lie around, the optimizer be half-way
                learner = None
                free()
        result["cases"].append({"name": case.name, **asdict(case), **found})
        print(
            case.name,
            {key: found[key] for key in ("left_out", "step_s", "mfu", "peak_gib") if key in found},
            flush=True,
        )
        keep()
    print((args.out / "gpu_training.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
