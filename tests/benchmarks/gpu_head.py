"""The output layer of a 7B policy on a card: memory and time for the log-probs of completions, beside plain logits.

    python tests/benchmarks/gpu_head.py

Random weights of the true shape (152,064 x 3,584, float32, computed in bfloat16), forward and backward. It needs torch
alone, so that it runs on a bare machine: the module is loaded from its file.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path

import torch

VOCABULARY, WIDTH = 152_064, 3_584
TOKENS = (512, 2_048, 8_192)


def load_head():
    """``ravst_ray.training.head`` without the package around it."""
    path = Path(__file__).parents[2] / "ravst_ray" / "training" / "head.py"
    spec = importlib.util.spec_from_file_location("head", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def plain(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """All logits at once, as it is usually written."""
    logits = torch.nn.functional.linear(hidden, weight.to(hidden.dtype)).float() / 0.9
    return torch.log_softmax(logits, dim=-1).gather(1, targets[:, None])[:, 0]


def measure(score: Callable[..., torch.Tensor], tokens: int, weight: torch.Tensor) -> tuple[float, float, torch.Tensor]:
    """GiB above what was there before, seconds, and the log-probs; the second of two rounds."""
    generator = torch.Generator("cuda").manual_seed(0)
    hidden = torch.randn(tokens, WIDTH, device="cuda", dtype=torch.bfloat16, generator=generator).requires_grad_()
    targets = torch.randint(0, VOCABULARY, (tokens,), device="cuda", generator=generator)
    for _ in range(2):
        hidden.grad = weight.grad = None
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before, started = torch.cuda.memory_allocated(), time.perf_counter()
        logps = score(hidden, weight, targets)
        logps.mean().backward()
        torch.cuda.synchronize()
        taken_s = time.perf_counter() - started
        peak = (torch.cuda.max_memory_allocated() - before) / 2**30
    return peak, taken_s, logps.detach()


def main() -> None:
    """Print the table."""
    head = load_head()
    weight = (0.02 * torch.randn(VOCABULARY, WIDTH, device="cuda")).requires_grad_()
    print(torch.cuda.get_device_name(), f"| gradient of the weights alone: {weight.nbytes / 2**30:.2f} GiB")
    print("tokens | plain GiB | plain s | chunks GiB | chunks s | largest difference")
    for tokens in TOKENS:
        ours = measure(lambda h, w, t: head.ScoreTokens.apply(h, w, None, t, 0.9, True)[0], tokens, weight)
        try:
            theirs = measure(plain, tokens, weight)
        except torch.OutOfMemoryError:
            print(f"{tokens} | out of memory | | {ours[0]:.2f} | {ours[1]:.3f} |")
            continue
        gap = float((ours[2] - theirs[2]).abs().max())
        print(f"{tokens} | {theirs[0]:.2f} | {theirs[1]:.3f} | {ours[0]:.2f} | {ours[1]:.3f} | {gap:.1e}")


if __name__ == "__main__":
    main()
