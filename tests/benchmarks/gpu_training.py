"""The learner's step on one card: Qwen2.5-VL of 3 and 7 billion parameters, randomly initialised, through our forward.

    python tests/benchmarks/gpu_training.py --out out/gpu_training      # one 80 GB card, at most 8 minutes
    python tests/benchmarks/gpu_training.py --tiny --out out/try        # a tiny model on a CPU, in a minute

Each case is the update of one micro-batch of G completions (policy gradient on log-probs, AdamW): step time, tokens
per second, share of the card's peak (MFU), peak memory; and once for each size how far log-probs in bfloat16 are from
those in float32. Writes ``gpu_training.json`` and ``gpu_training.md``. What doesn't fit is said, what there was no time
for as well. It needs torch, transformers, peft and this package with what that imports (pydantic, numpy, pyarrow,
pillow, pyyaml); neither vLLM nor Ray, and no network: the processor is the toy policy's.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ravst_ray.media.clips import Clip
from ravst_ray.policy.families import family_of
from ravst_ray.toyworld.checkpoints import DETECTOR
from ravst_ray.training.forward import Row, VideoForward
from ravst_ray.training.towers import set_aside

TOY = str(Path(DETECTOR).with_name("qwen2_5_vl-tiny-toy"))
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}
"""Of dense bfloat16, by a part of the card's name (NVIDIA's data sheets; SXM)."""
TEXT = {
    "7B": {"hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4}
    | {"intermediate_size": 18944, "vocab_size": 152064, "tie_word_embeddings": False},
    "3B": {"hidden_size": 2048, "num_hidden_layers": 36, "num_attention_heads": 16, "num_key_value_heads": 2}
    | {"intermediate_size": 11008, "vocab_size": 151936, "tie_word_embeddings": True},
}
TOWER = {"depth": 32, "hidden_size": 1280, "num_heads": 16, "intermediate_size": 3420, "window_size": 112}
TOWER |= {"fullatt_block_indexes": [7, 15, 23, 31]}
LORA = {"r": 16, "lora_alpha": 32, "task_type": "CAUSAL_LM"}
TARGETS = "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj"
STATE_BYTES = 16  # of a weight that is trained: float32 itself, its gradient and Adam's two moments


@dataclass(frozen=True)
class Case:
    """One line of the table; ``cached``: the frozen tower's features are kept from step to step."""

    size: str
    lora: bool
    frames: int
    cached: bool = True
    shared: bool = True

    @property
    def name(self) -> str:
        """For people."""
        parts = [self.size, "LoRA" if self.lora else "full", f"{self.frames} frames"]
        return ", ".join(parts + ["tower each step"] * (not self.cached) + ["a prompt for each"] * (not self.shared))


@dataclass(frozen=True)
class Work:
    """How large a step is."""

    group: int = 8
    completion: int = 512
    height: int = 308
    width: int = 560
    steps: int = 3


def cases(sizes: Sequence[str], frames: Sequence[int]) -> list[Case]:
    """Of each size, the most telling first."""
    few, many = min(frames), max(frames)
    plain = [Case(size, lora, count) for count in (few, many) for size in sizes for lora in (True, False)]
    ways = [Case(size, True, many, cached=False) for size in sizes] + [Case(sizes[0], True, many, shared=False)]
    return plain + ways + [Case(size, True, many, False, False) for size in sizes]


def build(size: str, dtype: torch.dtype, device: torch.device) -> Any:
    """A model of a size, made on the device; "tiny" is the toy policy's own architecture."""
    from transformers import AutoConfig, Qwen2_5_VLForConditionalGeneration

    config = copy.deepcopy(AutoConfig.from_pretrained(TOY))
    if size in TEXT:
        for key, value in TEXT[size].items():
            setattr(config.text_config, key, value)
        config.tie_word_embeddings = TEXT[size]["tie_word_embeddings"]
        head = config.text_config.hidden_size // config.text_config.num_attention_heads
        rope = {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6}
        assert head == 2 * sum(rope["mrope_section"])
        config.text_config.rope_parameters = rope
        config.text_config.layer_types = ["full_attention"] * config.text_config.num_hidden_layers
        for key, value in {**TOWER, "out_hidden_size": config.text_config.hidden_size}.items():
            setattr(config.vision_config, key, value)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            torch.manual_seed(0)
            return Qwen2_5_VLForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)


def rows_of(forward: VideoForward, frames: int, work: Work) -> list[Row]:
    """G completions of one prompt with a video."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (frames, work.height, work.width, 3), dtype=np.uint8)
    clip = Clip("video", pictures, 1.0)
    prompt = forward.prompt_ids("When is the moment red ball makes sound?", clip)
    return [Row(prompt, rng.integers(10, 400, work.completion).tolist(), clip) for _ in range(work.group)]


def flops(model: Any, rows: Sequence[Row], case: Case, work: Work) -> float:
    """Of a step: 6 a weight and token of the language model (LoRA: 4), its causal attention, 2 a weight of the tower.

    Activations that are computed again don't count, and so it is with the embedding.
    """
    text = model.config.text_config
    language = sum(p.numel() for name, p in model.named_parameters() if ".visual." not in name)
    language -= 0 if text.tie_word_embeddings else text.vocab_size * text.hidden_size
    prompt, answers = len(rows[0].prompt_ids), sum(len(row.completion_ids) for row in rows)
    tokens = answers + prompt * (1 if case.shared else len(rows))
    seen = prompt**2 / 2 * (1 if case.shared else len(rows))
    seen += sum(len(row.completion_ids) * (prompt + len(row.completion_ids) / 2) for row in rows)
    attention = 4 * seen * text.hidden_size * text.num_hidden_layers
    backward = 2 if case.lora else 3
    found = backward * (2 * language * tokens + attention)
    if not case.cached:
        tower = sum(p.numel() for p in model.model.visual.parameters())
        found += 2 * tower * case.frames / 2 * (work.height // 14) * (work.width // 14)
    return float(found)


def trained(model: Any, case: Case) -> Any:
    """The model as the learner has it: the tower aside, layers computed again, an adapter in float32 or all of it."""
    set_aside(model, ["model.visual"], torch.bfloat16)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if not case.lora:
        return model
    import peft

    scope = rf".*language_model.*\.({TARGETS})"
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=scope, **LORA))
    for weight in adapted.parameters():
        weight.data = weight.data.float() if weight.requires_grad else weight.data
    return adapted


def measured(case: Case, work: Work, device: torch.device) -> dict[str, Any]:
    """A case's numbers."""
    on_card = device.type == "cuda"
    if on_card:
        torch.cuda.reset_peak_memory_stats()
    model = trained(build(case.size, torch.bfloat16 if case.lora else torch.float32, device), case).train()
    from transformers import AutoProcessor

    forward = VideoForward(
        AutoProcessor.from_pretrained(TOY), family_of(TOY), frozen_vision=True, share_prompts=case.shared
    )
    rows = rows_of(forward, case.frames, work)
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-6, fused=on_card)
    advantages = torch.linspace(-1, 1, len(rows), device=device)[:, None]
    spent = []
    for _ in range(work.steps + 1):
        if not case.cached:
            forward.sight._kept.clear()
        started = time.monotonic()
        with torch.autocast(device.type, torch.bfloat16):
            scores = forward.score(model, rows, entropies=True)
            ratio = torch.exp(scores.logps - scores.logps.detach())
            loss = -(ratio * advantages)[scores.mask].mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if on_card:
            torch.cuda.synchronize()
        spent.append(time.monotonic() - started)
    step_s = statistics.median(spent[1:])  # the first one compiles kernels and fills the cache
    answers = work.group * work.completion
    tokens = answers + len(rows[0].prompt_ids) * (1 if case.shared else work.group)
    bare = model.get_base_model() if case.lora else model
    peak = next((value for name, value in PEAK_FLOPS.items() if on_card and name in torch.cuda.get_device_name()), None)
    return {
        "step_s": step_s,
        "completion_tokens_per_s": answers / step_s,
        "tokens_per_s": tokens / step_s,
        "mfu": flops(bare, rows, case, work) / step_s / peak if peak else None,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if on_card else None,
        "loss": float(loss.detach()),
    }


def precision(size: str, work: Work, device: torch.device) -> dict[str, float]:
    """Absolute differences of log-probs between bfloat16 autocast and float32, of the same weights."""
    from transformers import AutoProcessor

    model = build(size, torch.float32, device).eval()
    forward = VideoForward(AutoProcessor.from_pretrained(TOY), family_of(TOY))
    rows = rows_of(forward, 16, work)[:2]
    with torch.no_grad():
        exact = forward.score(model, rows)
        with torch.autocast(device.type, torch.bfloat16):
            rough = forward.score(model, rows)
    apart = (exact.logps - rough.logps)[exact.mask].abs()
    return {"mean": float(apart.mean()), "median": float(apart.median()), "max": float(apart.max())}


def too_large(case: Case, device: torch.device) -> str:
    """Why a case can't fit by its states alone, "" where it may."""
    if case.lora or device.type != "cuda" or case.size not in TEXT:
        return ""
    with torch.device("meta"):
        weights = sum(p.numel() for n, p in build_meta(case.size).named_parameters() if ".visual." not in n)
    needed, there = weights * STATE_BYTES / 2**30, torch.cuda.get_device_properties(device).total_memory / 2**30
    return f"doesn't fit: {needed:.0f} GiB of states, the card has {there:.0f}" if needed > there else ""


def build_meta(size: str) -> Any:
    """A model without storage."""
    return build(size, torch.float32, torch.device("meta"))


def attempted(case: Case, work: Work, device: torch.device) -> dict[str, Any]:
    """A case's numbers, or why there are none."""
    if reason := too_large(case, device):
        return {"left_out": reason}
    try:
        return measured(case, work, device)
    except torch.cuda.OutOfMemoryError as error:
        return {"left_out": f"out of memory: {str(error).splitlines()[0][:120]}"}
    finally:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def lines(result: dict[str, Any]) -> Iterator[str]:
    """The result as Markdown."""
    yield f"{result['card']}, torch {result['torch']}, transformers {result['transformers']}; {result['work']}."
    yield ""
    yield "| case | s a step | completion tokens/s | all tokens/s | MFU | peak GiB |"
    yield "| --- " * 6 + "|"
    for case in result["cases"]:
        if "left_out" in case:
            yield f"| {case['name']} | {case['left_out']} | | | | |"
            continue
        mfu = "" if case["mfu"] is None else f"{case['mfu']:.1%}"
        peak = "" if case["peak_gib"] is None else f"{case['peak_gib']:.1f}"
        rates = f"{case['completion_tokens_per_s']:,.0f} | {case['tokens_per_s']:,.0f}"
        yield f"| {case['name']} | {case['step_s']:.2f} | {rates} | {mfu} | {peak} |"
    yield ""
    for size, found in result["precision"].items():
        told = ", ".join(f"{name} {value:.4f}" for name, value in found.items())
        yield f"Log-probs of {size} in bfloat16 against float32, absolute: {told}."


def main() -> None:
    """Measure until all is done or the time is up."""
    import transformers

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/gpu_training"))
    parser.add_argument("--minutes", type=float, default=8.0, help="no case is begun after 85%% of it")
    parser.add_argument("--sizes", nargs="+", default=["3B", "7B"], choices=[*TEXT, "tiny"])
    parser.add_argument("--tiny", action="store_true", help="a tiny model on a CPU, to try the whole")
    args = parser.parse_args()
    work, sizes, frames = Work(), args.sizes, (16, 64)
    if args.tiny:
        work, sizes, frames = Work(group=2, completion=24, height=112, width=112, steps=1), ["tiny"], (4, 8)
    device = torch.device("cpu" if args.tiny else "cuda")
    card = "CPU" if args.tiny else torch.cuda.get_device_name()
    result: dict[str, Any] = {"card": card, "torch": torch.__version__, "transformers": transformers.__version__}
    result |= {"work": f"{work.group} completions of {work.completion} tokens, frames of {work.width} x {work.height}"}
    result |= {"cases": [], "precision": {}}
    args.out.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + args.minutes * 60 * 0.85

    def keep() -> None:  # after each case: a machine that is taken away leaves what was measured
        (args.out / "gpu_training.json").write_text(json.dumps(result, indent=2) + "\n")
        (args.out / "gpu_training.md").write_text("\n".join(lines(result)) + "\n")

    for case in cases(sizes, frames):
        late = time.monotonic() > ends
        found = {"left_out": "no time left"} if late else attempted(case, work, device)
        result["cases"].append({"name": case.name, **asdict(case), **found})
        print(case.name, found, flush=True)
        keep()
    for size in sizes:
        if time.monotonic() < ends:
            result["precision"][size] = precision(size, work, device)
            keep()
    print((args.out / "gpu_training.md").read_text())


if __name__ == "__main__":
    main()
