"""One layer's attention for completions that share a prompt: by lines, by a dense mask, with the prompt once for each.

    python tests/benchmarks/bench_attention.py [--prompts 4096 16384] [--group 8] [--tokens 512] [--rounds 5]

Forward and backward. On a card in bfloat16 with the heads of Qwen2.5-VL-7B (28, of keys 4, 128 wide); on a CPU in
float32, one thread, CPU seconds, with 8 heads and shorter texts. It needs torch alone, so that it runs on a bare
machine: the module is loaded from its file. First, how far results are from a float64 formula, for each precision.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

WIDTH, KEY_HEADS = 128, 4
RAGGED = [[40, 300, 301, 350, 400, 433], [0, 300, 340, 340, 500, 511], [299, 300, 364, 428, 492, 512]]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def load_attention() -> Any:
    """``ravst_ray.training.attention`` without the package around it."""
    path = Path(__file__).parents[2] / "ravst_ray" / "training" / "attention.py"
    spec = importlib.util.spec_from_file_location("attention", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def who_sees_whom(lines: Sequence[Sequence[int]], length: int) -> torch.Tensor:
    """``[B, 1, L, L]``, true where a column sees another; padding sees padding."""
    parts = torch.full((len(lines), length), -1, device=DEVICE)
    for line, (start, first, *ends) in enumerate(lines):
        parts[line, start:first] = 0
        for number, (begin, end) in enumerate(zip([first, *ends], ends, strict=False), start=1):
            parts[line, begin:end] = number
    earlier = torch.ones(length, length, dtype=torch.bool, device=DEVICE).tril()
    return (earlier & ((parts[:, None] == 0) | (parts[:, None] == parts[:, :, None])))[:, None]


def tensors(batch: int, length: int, heads: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """Query, key, value and a gradient, ``[B, heads, L, D]``, in memory as layers have them."""
    generator = torch.Generator(DEVICE).manual_seed(0)
    made = [
        torch.randn(batch, length, n, WIDTH, device=DEVICE, generator=generator).to(dtype).transpose(1, 2)
        for n in (heads, KEY_HEADS, KEY_HEADS, heads)
    ]
    return [one.requires_grad_() for one in made[:3]] + made[3:]


def masked(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """As transformers' ``sdpa`` does it with a mask."""
    key, value = (one.repeat_interleave(query.shape[1] // KEY_HEADS, dim=1) for one in (key, value))
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def errors(attention: Any, heads: int, dtype: torch.dtype) -> tuple[float, float]:
    """Largest difference from float64, relative to the largest value, of by lines and of a dense mask.

    The larger one of outputs and gradients.
    """
    *inputs, given = tensors(len(RAGGED), 512, heads, dtype)
    mask = who_sees_whom(RAGGED, 512)
    exact = [one.detach().double().requires_grad_() for one in inputs]
    real = torch.zeros(len(RAGGED), 1, 512, 1, dtype=torch.bool, device=DEVICE)
    for line, (start, *_, end) in enumerate(RAGGED):
        real[line, :, start:end] = True
    given = given * real  # what comes out at padding is of no interest
    scores = exact[0] @ exact[1].repeat_interleave(heads // KEY_HEADS, 1).transpose(-1, -2) * WIDTH**-0.5
    seen = scores.masked_fill(~mask, -torch.inf).softmax(-1)
    right = seen @ exact[2].repeat_interleave(heads // KEY_HEADS, 1) * real
    wanted = [right, *torch.autograd.grad(right, exact, given.double())]
    blocks = attention.blocks_of(attention.lines_mask(RAGGED))
    found = []
    for out in (attention.LineAttention.apply(*inputs, blocks, WIDTH**-0.5), masked(*inputs, mask) * real):
        ours = [out, *torch.autograd.grad(out, inputs, given)]
        gaps = [float((a - b).detach().abs().max() / b.detach().abs().max()) for a, b in zip(ours, wanted, strict=True)]
        found.append(max(gaps))
    return found[0], found[1]


def peak_gib(run: Callable[[], Any]) -> float:
    """Above what was there before, those bytes included that kernels take for themselves."""
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**30
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    events: Any = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
    now = most = 0
    for _, size in sorted((one.start_ns(), one.nbytes()) for one in events if one.name() == "[memory]"):
        now += size
        most = max(most, now)
    return most / 2**30


def seconds(run: Callable[[], Any]) -> float:
    """Of one call."""
    if DEVICE == "cpu":
        started = time.process_time()
        run()
        return time.process_time() - started
    torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def compare(attention: Any, heads: int, prompt: int, group: int, tokens: int, rounds: int) -> str:
    """A row of the table."""
    dtype = torch.bfloat16 if DEVICE == "cuda" else torch.float32
    length = prompt + group * tokens
    lines = [[0, *range(prompt, length + 1, tokens)]]
    *inputs, given = tensors(1, length, heads, dtype)
    *apart, given_apart = tensors(group, prompt + tokens, heads, dtype)
    made = who_sees_whom(lines, length)
    plain = functional.scaled_dot_product_attention

    def by_lines() -> None:
        blocks = attention.blocks_of(attention.lines_mask(lines))
        attention.LineAttention.apply(*inputs, blocks, WIDTH**-0.5).backward(given)

    def dense(mask: torch.Tensor | None = None) -> None:
        masked(*inputs, who_sees_whom(lines, length) if mask is None else mask).backward(given)

    def once_each() -> None:
        plain(*apart, is_causal=True, enable_gqa=True).backward(given_apart)

    # The mask is made once for all layers: its memory counts, its time doesn't.
    timed: list[Callable[[], None]] = [by_lines, lambda: dense(made), once_each]
    spent: list[list[float]] = [[], [], []]
    for _ in range(rounds + 1):
        for times, run in zip(spent, timed, strict=True):
            for one in (*inputs, *apart):
                one.grad = None
            times.append(seconds(run))
    cells = []
    for times, run in zip(spent, (by_lines, dense, once_each), strict=True):
        for one in (*inputs, *apart):
            one.grad = None
        cells.append(f"{sorted(times[1:])[rounds // 2]:.4f} | {peak_gib(run):.3f}")  # the first one warms up
    return " | ".join([f"{prompt} + {group} x {tokens}", *cells])


def main() -> None:
    """Print both tables."""
    card = DEVICE == "cuda"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, nargs="+", default=[4096, 16384] if card else [512, 1024, 2048, 4096])
    for name, value in (("group", 8), ("tokens", 512 if card else 64), ("rounds", 5), ("heads", 28 if card else 8)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    torch.set_num_threads(torch.get_num_threads() if card else 1)
    attention = load_attention()
    print(torch.cuda.get_device_name() if card else "CPU", "| torch", torch.__version__)
    print("\nprecision | error by lines | error of a dense mask (largest, relative to the largest value)")
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        ours, theirs = errors(attention, args.heads, dtype)
        print(f"{dtype} | {ours:.1e} | {theirs:.1e}")
    print("\nprompt + completions | by lines s | GiB | dense mask s | GiB | a prompt for each s | GiB")
    for prompt in args.prompts:
        print(compare(attention, args.heads, prompt, args.group, args.tokens, args.rounds))


if __name__ == "__main__":
    main()
