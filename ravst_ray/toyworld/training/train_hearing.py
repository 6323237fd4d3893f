"""Train the toy policy that hears, a tiny Qwen2.5-Omni, on scenes in which nothing but the sound tells what sounds.

    python -m ravst_ray.toyworld.training.train_hearing --out out/hearing --minutes 1 6 0.5 --clips 64 --workers 15

By the clock, in the three stages of :mod:`~ravst_ray.toyworld.training.train_policy`: what is seen and heard, and when;
true answers; answers of two annotators, of whom one is careless. Scenes are painted by other processes all the while.
On a GPU the averaged weights are ready after a few minutes; a CPU core needs more than an hour, with fewer clips.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ravst_ray.logs import get_logger, setup_logging
from ravst_ray.toyworld.training.hearing import Hearer
from ravst_ray.toyworld.training.hearing_lessons import CHUNK, Desk, School, start_painting
from ravst_ray.toyworld.training.measure_hearing import temporal_scores
from ravst_ray.toyworld.training.policy import look_back
from ravst_ray.toyworld.training.policy_omni import thinker_config
from ravst_ray.toyworld.training.trainer import Trainer

log = get_logger(__name__)

SEED = 7_700
STAGES = ("seeing", "answering", "imitating")
RATES = (2e-3, 1.5e-3, 4e-4)
UNSEEN = 4 * CHUNK  # the first scenes are for measuring alone
_DENSE, _GAZE = 0.3, 0.3
_NOTE_S, _KEEP_S = 10.0, 60.0


def build(desk: Desk) -> Hearer:
    """An untrained model with its helps."""
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration

    torch.manual_seed(0)
    model = Qwen2_5OmniThinkerForConditionalGeneration(thinker_config(desk.tokenizer, spread=0.08)).train()
    look_back(model.model, 1, 1)
    look_back(model.model, 3, 0)
    return Hearer(model, desk.processor)


def stage(
    name: str, hearer: Hearer, school: School, unseen: School, desk: Desk, minutes: float, rate: float, args: Any
) -> None:
    """Train by the clock, and leave the averaged weights in the model and in ``keep``/``name``.pt."""
    trainer = Trainer(hearer, args.out / name, minutes, rate, decay=0.998, resume=args.resume)
    # The output layer is the embedding: its average must be the same tensor too, or the stale one would be loaded.
    trainer.average["model.lm_head.weight"] = trainer.average["model.model.embed_tokens.weight"]
    noted = kept = time.monotonic()
    sums: dict[str, list[torch.Tensor]] = {}
    seeing = name == "seeing"
    while not trainer.done:
        batch = school.batch(args.clips, asked=not seeing)
        with torch.autocast("cuda", torch.bfloat16, enabled=args.device == "cuda"):
            losses, right = hearer.losses(batch, answers=not seeing)
        loss = losses["dense"] * (1.0 if seeing else _DENSE) + losses.get("answers", 0.0)
        trainer.update(loss + _GAZE * losses["gaze"] if "gaze" in losses else loss)
        for key, value in {**losses, **right}.items():
            sums.setdefault(key, []).append(value.detach())
        now = time.monotonic()
        if now - noted > _NOTE_S:
            means = {key: float(torch.stack(values).mean()) for key, values in sums.items()}
            trainer.note(**means, lessons=len(school.lessons), length=batch.ids.shape[1])
            sums, noted = {}, now
            school.take_in(args.pool)
        if now - kept > _KEEP_S:
            kept = now
            keep(trainer.average, args.keep / f"{name}.pt")
            if args.resume:
                trainer.save()
    if args.resume:
        trainer.save()
    hearer.load_state_dict(trainer.average)
    keep(trainer.average, args.keep / f"{name}.pt")
    if not seeing:
        hearer.eval()
        trainer.note(**temporal_scores(hearer, unseen, desk))
        hearer.train()


def keep(weights: dict[str, torch.Tensor], path: Path) -> None:
    """Write weights; what was there stays until they are whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({key: value.cpu() for key, value in weights.items()}, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def train(args: argparse.Namespace) -> None:
    """All stages."""
    torch.set_float32_matmul_precision("high")
    painters = start_painting(args.pool, args.scenes, SEED, args.workers) if args.workers else None
    desk = Desk()
    hearer = build(desk).to(args.device)
    if args.start:
        hearer.load_state_dict(torch.load(args.start, weights_only=True, map_location=args.device))
    log.info("%.2f M parameters on %s", sum(one.numel() for one in hearer.model.parameters()) / 1e6, args.device)
    everything = School(args.device, hearer.model.config, np.random.default_rng())
    began = time.monotonic()
    while len(everything.lessons) < min(args.first, args.scenes):
        everything.take_in(args.pool)
        time.sleep(0.5)
    log.info("%d lessons after %.0f s", len(everything.lessons), time.monotonic() - began)
    unseen = everything.split_off(min(UNSEEN, args.unseen))
    for name, minutes, rate in zip(STAGES, args.minutes, RATES, strict=True):
        everything.two_annotators = name == "imitating"
        if minutes:
            stage(name, hearer, everything, unseen, desk, minutes, rate, args)
    if painters:
        painters.terminate()


if __name__ == "__main__":
    setup_logging()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="log.jsonl of each stage")
    parser.add_argument("--pool", type=Path, help="of painted scenes (default: OUT/pool)")
    parser.add_argument("--keep", type=Path, help="averaged weights after each minute and stage (default: OUT)")
    parser.add_argument("--minutes", type=float, nargs=3, default=(15.0, 75.0, 4.0), help="of the three stages")
    parser.add_argument("--clips", type=int, default=6, help="scenes in a batch")
    parser.add_argument("--scenes", type=int, default=4000, help="to be painted")
    parser.add_argument("--first", type=int, default=500, help="scenes painted before training begins")
    parser.add_argument("--unseen", type=int, default=UNSEEN, help="of them, kept for measuring")
    parser.add_argument("--workers", type=int, default=1, help="processes that paint; 0: what is there will do")
    parser.add_argument("--start", type=Path, help="weights to go on from")
    parser.add_argument("--resume", action="store_true", help="keep each stage's whole state, and go on from it")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    args.pool, args.keep = args.pool or args.out / "pool", args.keep or args.out
    train(args)
