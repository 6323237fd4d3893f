"""Train the toy policy that writes graphs, a tiny Qwen2.5-VL, on questions by rule about scenes of the toy world.

    python -m ravst_ray.toyworld.training.train_graph --out out/graph --resume

Made for one CPU core. It goes on from the trained toy policy, in two stages by the clock: graphs and how many objects
are in them; then all kinds of questions, and, without videos, what to read off a true graph. What the tokens of the
video should know and where attention should look are further losses (``policy_graph.py``). It ends early on purpose:
reinforcement learning goes on from there.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ravst_ray.logs import setup_logging
from ravst_ray.toyworld.training import graph_questions
from ravst_ray.toyworld.training.graph_lessons import Asked, Lessons
from ravst_ray.toyworld.training.graph_measure import graph_card, measure
from ravst_ray.toyworld.training.policy import build_processor, generation_config
from ravst_ray.toyworld.training.policy_graph import GRAPHS, Drawer, extended_model, extended_tokenizer
from ravst_ray.toyworld.training.policy_pool import CHUNK, Painted, fill, load
from ravst_ray.toyworld.training.trainer import Trainer
from ravst_ray.toyworld.training.trainer import export as save

SEED = 720
UNSEEN = 60
STAGES = {"drawing": ("object_counting",), "answering": None}
RATES = (1.5e-3, 1.2e-3)
_DENSE_WEIGHT, _GAZE_WEIGHT = 0.3, 0.3
_CLIPS, _EACH = 5, 10
_READ, _READINGS = 40, 2


def stage(
    drawer: Drawer, lessons: Lessons, out: Path, minutes: float, rate: float, resume: bool, read: bool
) -> Trainer:
    """Train by the clock, and leave the averaged weights in the model; ``read``: with lessons without videos."""
    trainer = Trainer(drawer, out, minutes, rate, decay=0.997, resume=resume)
    # The output layer is the embedding: its average must be the same tensor too, or the stale one would be loaded.
    trainer.average["model.lm_head.weight"] = trainer.average["model.model.language_model.embed_tokens.weight"]
    reader = torch.optim.AdamW(drawer.model.model.language_model.parameters(), betas=(0.9, 0.98))
    sums: dict[str, list[float]] = {}
    while not trainer.done:
        losses, right = lessons.losses(_CLIPS, _EACH)
        trainer.update(losses["replies"] + _DENSE_WEIGHT * losses["dense"] + _GAZE_WEIGHT * losses["gaze"])
        for _ in range(_READINGS if read else 0):
            losses["reading"] = lessons.reading(_READ)
            _read(reader, losses["reading"], rate * (1 - trainer.progress))
        for key, value in {**{key: float(one.detach()) for key, one in losses.items()}, **right}.items():
            sums.setdefault(key, []).append(value)
        if trainer.step % 25 == 0:
            trainer.note(**{key: float(np.mean(values)) for key, values in sums.items()})
            sums = {}
        if trainer.step % 100 == 0:
            trainer.save()
    trainer.save()
    drawer.load_state_dict(trainer.average)
    return trainer


def _read(reader: torch.optim.Optimizer, loss: torch.Tensor, rate: float) -> None:
    """A step of an optimizer of its own; in one loss with positions, letters were not learned at all."""
    reader.zero_grad(set_to_none=True)
    loss.backward()
    for group in reader.param_groups:
        torch.nn.utils.clip_grad_norm_(group["params"], 1.0)
        group["lr"] = rate
    reader.step()


def unseen_questions(scenes: Sequence[Painted], asked: Sequence[Sequence[Asked]]) -> list[tuple[Painted, Asked]]:
    """Of each scene at most two questions of each kind; of the rare kinds all."""
    found = []
    for scene, questions in zip(scenes, asked, strict=True):
        kinds: dict[str, list[Asked]] = {}
        for one in questions:
            kinds.setdefault(one.kind, []).append(one)
        for kind, those in kinds.items():
            found += [
                (scene, one) for one in those[: 8 if kind in ("appearance_order", "temporal_localization") else 2]
            ]
    return found


def train(out: Path, export: Path, minutes: Sequence[float], scenes: int, resume: bool) -> None:
    """Both stages; ``out`` gets a folder with ``log.jsonl`` and ``state.pt`` of each, ``export`` the model."""
    fill(out / "frames", scenes, SEED)
    chunks = range(-(-scenes // CHUNK))
    graph_questions.fill(out / "asked", chunks, SEED)
    painted = load(out / "frames", scenes)
    asked = [one for chunk in chunks for one in graph_questions.load(out / "asked", chunk)][:scenes]
    tokenizer = extended_tokenizer()
    processor = build_processor(tokenizer)
    torch.manual_seed(0)
    drawer = Drawer(extended_model(tokenizer).train())
    steps = []
    for (name, kinds), rate, budget in zip(STAGES.items(), RATES, minutes, strict=True):
        wanted = {index: [one for one in asked[index] if kinds is None or one.kind in kinds] for index in range(scenes)}
        shown = {index: painted[index] for index, those in wanted.items() if index >= UNSEEN and len(those) > 1}
        lessons = Lessons(drawer, processor, SEED, shown, wanted, np.random.default_rng())
        steps.append(stage(drawer, lessons, out / name, budget, rate, resume, kinds is None).step)
    write(drawer.model, processor, export, unseen_questions(painted[:UNSEEN], asked[:UNSEEN]), steps, minutes)


def write(
    model: Any,
    processor: Any,
    folder: Path,
    unseen: Sequence[tuple[Painted, Asked]],
    steps: Sequence[int],
    minutes: Sequence[float],
) -> None:
    """The checkpoint and its card, measured on unseen scenes."""
    # A model of its own: the trained one carries the hooks of its lessons.
    plain = extended_model(processor.tokenizer).eval()
    plain.load_state_dict(model.state_dict())
    plain.generation_config = generation_config(processor.tokenizer)
    numbers = measure(plain, processor, unseen)
    save(plain, processor, folder, graph_card(numbers, steps, minutes, plain.num_parameters()))


if __name__ == "__main__":
    setup_logging()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--export", type=Path, default=GRAPHS)
    parser.add_argument("--minutes", type=float, nargs=2, default=(4.0, 40.0), help="of the two stages")
    parser.add_argument("--scenes", type=int, default=3000)
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    train(args.out, args.export, args.minutes, args.scenes, args.resume)
