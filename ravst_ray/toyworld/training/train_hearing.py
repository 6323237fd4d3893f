"""Train the toy policy that hears, a tiny Qwen2.5-Omni, on scenes in which nothing but the sound tells what sounds.

    python -m ravst_ray.toyworld.training.train_hearing --out out/hearing

By the clock, in the three stages of :mod:`~ravst_ray.toyworld.training.train_policy`: what is seen and heard, and when;
true answers; answers of two annotators, of whom one is careless. Scenes are painted by other processes all the while.
After each minute and stage the averaged weights are written to OUT/STAGE.pt, from which ``--start`` goes on: a GPU can
do the first two stages in some minutes (``--minutes 0.7 6.4 0 --clips 64 --workers 15``), and a CPU core the last one.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ravst_ray.logs import get_logger, setup_logging
from ravst_ray.policy.families.qwen2_5_omni import Qwen25Omni
from ravst_ray.toyworld.training.hearing import Hearer
from ravst_ray.toyworld.training.hearing_lessons import Desk, School, start_painting
from ravst_ray.toyworld.training.measure_hearing import SEED as UNSEEN_SEED
from ravst_ray.toyworld.training.measure_hearing import hear, hearing_card
from ravst_ray.toyworld.training.policy import generation_config, look_back
from ravst_ray.toyworld.training.policy_omni import HEARING, thinker_config
from ravst_ray.toyworld.training.policy_pool import paint
from ravst_ray.toyworld.training.trainer import Trainer
from ravst_ray.toyworld.training.trainer import export as save

log = get_logger(__name__)

SEED = 7_700
STAGES = {
    "seeing": "on what is there, what sounds, and when",
    "answering": "on true answers",
    "imitating": "on those of two annotators",
}
RATES = (2e-3, 1.5e-3, 4e-4)
_DENSE_WEIGHT, _GAZE_WEIGHT = 0.3, 0.3
_NOTE_S, _KEEP_S = 10.0, 60.0


def build(desk: Desk) -> Hearer:
    """An untrained model with its helps."""
    torch.manual_seed(0)
    model = _thinker(desk).train()
    look_back(model.model, 1, 1)
    look_back(model.model, 3, 0)
    return Hearer(model, desk.processor)


def _thinker(desk: Desk) -> Any:
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration

    return Qwen2_5OmniThinkerForConditionalGeneration(thinker_config(desk.tokenizer, spread=0.08))


def stage(name: str, hearer: Hearer, school: School, pool: Path, minutes: float, args: argparse.Namespace) -> Trainer:
    """Train by the clock, and leave the averaged weights in the model."""
    rate = dict(zip(STAGES, RATES, strict=True))[name]
    trainer = Trainer(hearer, args.out / name, minutes, rate, decay=0.998)
    # The output layer is the embedding: its average must be the same tensor too, or the stale one would be loaded.
    trainer.average["model.lm_head.weight"] = trainer.average["model.model.embed_tokens.weight"]
    noted = kept = time.monotonic()
    sums: dict[str, list[torch.Tensor]] = {}
    seeing = name == "seeing"
    while not trainer.done:
        batch = school.batch(args.clips, asked=not seeing)
        with torch.autocast("cuda", torch.bfloat16, enabled=args.device == "cuda"):
            losses, right = hearer.losses(batch, answers=not seeing)
        loss = losses["dense"] * (1.0 if seeing else _DENSE_WEIGHT)
        trainer.update(loss + losses.get("answers", 0.0) + _GAZE_WEIGHT * losses.get("gaze", 0.0))
        for key, value in {**losses, **right}.items():
            sums.setdefault(key, []).append(value.detach())
        now = time.monotonic()
        if now - noted > _NOTE_S:
            trainer.note(**{key: float(torch.stack(values).mean()) for key, values in sums.items()})
            sums, noted = {}, now
            school.take_in(pool)
        if now - kept > _KEEP_S:
            kept = now
            keep(trainer.average, args.out / f"{name}.pt")
    hearer.load_state_dict(trainer.average)
    return trainer


def keep(weights: dict[str, torch.Tensor], path: Path, history: tuple[str, ...] = ()) -> None:
    """Write weights and how they came about; what was there stays until they are whole."""
    torch.save({"weights": {key: value.cpu() for key, value in weights.items()}, "history": history}, f"{path}.new")
    Path(f"{path}.new").replace(path)


def train(args: argparse.Namespace) -> None:
    """All stages, and the export."""
    torch.set_float32_matmul_precision("high")
    pool = args.out / "pool"
    painters = start_painting(pool, args.scenes, SEED, args.workers)
    desk = Desk()
    hearer = build(desk).to(args.device)
    history: tuple[str, ...] = ()
    if args.start:
        state = torch.load(args.start, weights_only=True, map_location=args.device)
        hearer.load_state_dict(state["weights"])
        history = tuple(state["history"])
    school = School(args.device, hearer.model.config, np.random.default_rng())
    while len(school.lessons) < min(args.first, args.scenes):
        time.sleep(0.5)
        school.take_in(pool)
    where = torch.cuda.get_device_name() if args.device == "cuda" else "one CPU core"
    for name, minutes in zip(STAGES, args.minutes, strict=True):
        school.two_annotators = name == "imitating"
        if minutes:
            steps = stage(name, hearer, school, pool, minutes, args).step
            history += (f"{steps} steps of {args.clips} scenes in {minutes:g} min {STAGES[name]} ({where})",)
            keep(hearer.state_dict(), args.out / f"{name}.pt", history)
    painters.terminate()
    export(desk, hearer, args.export, history, args.unseen)


def export(desk: Desk, hearer: Hearer, folder: Path, history: tuple[str, ...], unseen: int) -> None:
    """Write the model and its card, measured on unseen scenes."""
    # A model of its own: the trained one carries the hooks of its lessons.
    plain = _thinker(desk).eval()
    plain.load_state_dict({key: value.cpu() for key, value in hearer.model.state_dict().items()})
    plain.generation_config = generation_config(desk.tokenizer)
    family = Qwen25Omni()
    scenes = [paint(UNSEEN_SEED, index, heard=True) for index in range(unseen)]
    found, share = hear(plain, desk.processor, family, scenes)
    card = hearing_card(found, share, history, plain.num_parameters(), unseen)
    side = family.learner()
    save(plain, desk.processor, folder, card, lambda model, path: side.save(model, model.state_dict(), path))


if __name__ == "__main__":
    setup_logging()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--export", type=Path, default=HEARING)
    parser.add_argument("--minutes", type=float, nargs=3, default=(12.0, 50.0, 2.0), help="of the three stages")
    parser.add_argument("--clips", type=int, default=5, help="scenes in a batch")
    parser.add_argument("--scenes", type=int, default=4000, help="to be painted")
    parser.add_argument("--first", type=int, default=150, help="scenes painted before training begins")
    parser.add_argument("--unseen", type=int, default=60, help="scenes on which it is measured")
    parser.add_argument("--workers", type=int, default=1, help="processes that paint")
    parser.add_argument("--start", type=Path, metavar="FILE", help="weights to go on from")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    train(arguments)
