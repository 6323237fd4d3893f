"""The learner's forward on a card against the CPU's, by the tiny checkpoints: with pictures, with sound, with text.

    python tests/benchmarks/gpu_forward.py

Log-probs and gradients in float32 on both, then log-probs in bfloat16 with towers set aside; what is kept of clips lies
in pinned memory. It needs torch, transformers and this package, no engine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ravst_ray.media.clips import Clip
from ravst_ray.policy.families import family_of
from ravst_ray.toyworld.checkpoints import DETECTOR
from ravst_ray.training.forward import Row, VideoForward
from ravst_ray.training.towers import set_aside

SIDE_PX, FRAMES = 112, 9
MODELS = ("qwen2_5_vl-tiny-toy", "qwen2_5_omni-tiny-toy")


def rows_of(forward: VideoForward, hears: bool) -> list[Row]:
    """Groups of completions about a clip, about another, and about none."""
    rng = np.random.default_rng(0)
    rows = []
    for name in ("a", "b", None):
        frames = rng.integers(0, 256, (FRAMES, SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
        sound = rng.normal(0, 0.1, FRAMES * 16000).astype(np.float32) if hears else None
        clip = Clip(name, frames, 1.0, sound) if name else None
        prompt = forward.prompt_ids("When is the moment red ball makes sound?", clip)
        rows += [Row(prompt, rng.integers(10, 400, length).tolist(), clip) for length in (40, 7, 23)]
    return rows


def scored(model: Any, forward: VideoForward, rows: list[Row]) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs, and the gradient of their sum."""
    model.zero_grad()
    logps = forward.score(model, rows).logps
    logps.sum().backward()
    gradient = torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])
    return logps.detach().cpu(), gradient.cpu()


def main() -> None:
    """Print a line for each checkpoint."""
    from transformers import AutoProcessor

    print(torch.cuda.get_device_name(), "| torch", torch.__version__)
    for name in MODELS:
        folder = str(Path(DETECTOR).with_name(name))
        family, processor = family_of(folder), AutoProcessor.from_pretrained(folder)
        side = family.learner()

        def fresh(side: Any = side, folder: str = folder) -> Any:
            return side.load(folder, torch.float32)

        forward = VideoForward(processor, family)
        rows = rows_of(forward, family.hears)
        wanted, slope = scored(fresh(), forward, rows)
        found, theirs = scored(fresh().cuda(), VideoForward(processor, family), rows)
        model = fresh()
        set_aside(model, side.towers, torch.bfloat16)
        half = VideoForward(processor, family, frozen_vision=True)
        with torch.autocast("cuda", torch.bfloat16), torch.no_grad():
            rough = [half.score(model.cuda(), rows).logps.cpu() for _ in range(2)]
        kept = [value for tensors in half.sight._kept.values() for value in tensors.values()]
        far, steep = float((found - wanted).abs().max()), float((theirs - slope).norm() / slope.norm())
        mean, again = float((rough[0] - wanted).abs().mean()), float((rough[1] - rough[0]).abs().max())
        print(
            f"{name}: float32 log-probs {far:.1e} off at most, gradient {steep:.1e} of its norm; bfloat16 log-probs "
            f"{mean:.1e} off on average, a second time {again:.1e}; "
            f"{len(half.sight._kept)} clips kept, pinned: {all(value.is_pinned() for value in kept)}"
        )


if __name__ == "__main__":
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    main()
