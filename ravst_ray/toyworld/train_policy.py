"""Warm the toy policy up by supervised training until it mostly keeps the grammar, but still errs: GRPO goes on there.

    python -m ravst_ray.toyworld.train_policy --out out/policy --minutes 40 --scenes 4000 --resume

Made for one CPU core. Every batch holds several questions about each of a few scenes, whose frames are encoded once.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ravst_ray.core.answers import parse
from ravst_ray.logs import setup_logging
from ravst_ray.rewards.rubric import Rubric
from ravst_ray.toyworld.policy import build_processor, build_tokenizer, policy_config
from ravst_ray.toyworld.policy_pool import Painted, Question, fill, load
from ravst_ray.toyworld.training import Trainer
from ravst_ray.training.forward import Row, VideoForward

SEED = 700
SCENES_PER_BATCH, QUESTIONS_PER_SCENE = 4, 4
MAX_TOKENS = 288


def batches(scenes: Sequence[Painted], rng: np.random.Generator) -> Iterator[list[tuple[Painted, Question]]]:
    """Endless batches: a few scenes, a few questions of each."""
    while True:
        for chosen in np.array_split(rng.permutation(len(scenes)), len(scenes) // SCENES_PER_BATCH):
            batch = []
            for scene in (scenes[i] for i in chosen):
                some = rng.permutation(len(scene.questions))[:QUESTIONS_PER_SCENE]
                batch += [(scene, scene.questions[i]) for i in some]
            yield batch


class Teacher:
    """Turns questions into rows whose completions are the true answers."""

    def __init__(self, processor: Any):
        self.forward = VideoForward(processor, banned=False)
        self.tokenizer = processor.tokenizer

    def row(self, scene: Painted, question: Question, answered: bool = True) -> Row:
        """Prompt and, if ``answered``, the true answer as the model should give it."""
        prompt = self.forward.prompt_ids(scene.prompt(question), scene.clip)
        if not answered:
            return Row(prompt, [], scene.clip)
        target = self.tokenizer(scene.space.to_model(question.answer))["input_ids"]
        return Row(prompt, [*target, self.tokenizer.eos_token_id], scene.clip)

    def loss(self, model: Any, batch: Sequence[tuple[Painted, Question]]) -> torch.Tensor:
        """Mean cross-entropy over all answer tokens of the batch."""
        scores = self.forward.score(model, [self.row(*one) for one in batch])
        return -scores.logps.sum() / scores.mask.sum()

    def greedy(self, model: Any, batch: Sequence[tuple[Painted, Question]]) -> list[str]:
        """Greedy answers, up to ``MAX_TOKENS`` tokens each."""
        rows = [self.row(*one, answered=False) for one in batch]
        done = greedy_tokens(self.forward, model, rows, MAX_TOKENS, self.tokenizer.eos_token_id)
        texts: list[str] = self.tokenizer.batch_decode(done, skip_special_tokens=True)
        return texts


@torch.no_grad()
def greedy_tokens(forward: VideoForward, model: Any, rows: Sequence[Row], most: int, end: int) -> list[list[int]]:
    """Greedy completions with the positions of :class:`VideoForward` (transformers' own differ after a video)."""
    batch = forward._collate(rows, model.config)
    mask, positions = batch["attention_mask"], batch["position_ids"]
    out = model(**batch, **forward._vision(model, model, rows, mask.device), use_cache=True, logits_to_keep=1)
    at = positions.amax(dim=(0, 2)) + 1
    found: list[list[int]] = [[] for _ in rows]
    open_rows = set(range(len(rows)))
    for _ in range(most):
        token = out.logits[:, -1].argmax(-1)
        for place in list(open_rows):
            found[place].append(int(token[place]))
            if int(token[place]) == end:
                open_rows.remove(place)
        if not open_rows:
            break
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        out = model(
            input_ids=token[:, None],
            attention_mask=mask,
            position_ids=at[None, :, None].expand(3, -1, 1),
            past_key_values=out.past_key_values,
            use_cache=True,
        )
        at = at + 1
    return found


def measure(teacher: Teacher, model: Any, scenes: Sequence[Painted], size: int = 32) -> dict[str, float]:
    """Greedy answers to every question of the scenes: mean format, and each task's parts."""
    rubric = Rubric()
    pairs = [(scene, question) for scene in scenes for question in scene.questions]
    pairs.sort(key=lambda pair: len(pair[1].answer))
    found: dict[str, list[float]] = {}
    for first in range(0, len(pairs), size):
        batch = pairs[first : first + size]
        for (scene, question), text in zip(batch, teacher.greedy(model, batch), strict=True):
            reward = rubric.score(question.task, scene.space.to_video(text), question.answer)
            found.setdefault("format", []).append(reward.parts["format"])
            weights = rubric.config.weights.of(question.task)
            for part in ("object", "temporal", "spatial"):
                if getattr(weights, part):
                    found.setdefault(f"{question.task}/{part}", []).append(reward.parts[part])
            whole = (0.0, scene.view.duration_s)
            if question.task != "AVSR":
                (truth,) = (one.when for one in parse(question.answer).objects if one.when)
                found.setdefault(f"{question.task}/whole video", []).append(
                    (truth[1] - truth[0]) / (whole[1] - whole[0])
                )
    return {key: float(np.mean(values)) for key, values in sorted(found.items())} | {"n": float(len(pairs))}


def train(out: Path, minutes: float, scenes: int, resume: bool, rate: float, **sizes: Any) -> None:
    """Train by the clock; ``out`` gets ``log.jsonl``, ``state.pt`` and, at the end, the model's directory ``model``."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    pool = out / "pool"
    fill(pool, scenes, SEED)
    everything = load(pool, scenes)
    unseen, seen = everything[:40], everything[40:]
    processor = build_processor(build_tokenizer())
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(policy_config(processor.tokenizer, **sizes)).train()
    trainer = Trainer(model, out, minutes, rate, decay=0.998, resume=resume)
    teacher = Teacher(processor)
    rng = np.random.default_rng(trainer.step)
    source = batches(seen, rng)
    losses: list[float] = []
    while not trainer.done:
        losses.append(trainer.update(teacher.loss(model, next(source))))
        if trainer.step % 25 == 0:
            trainer.note(loss=float(np.mean(losses[-25:])))
        if trainer.step % 400 == 0:
            trainer.save()
            numbers = trainer.with_average(lambda: measure(teacher, model, unseen[:12]))
            trainer.note(**numbers)
    model.load_state_dict(trainer.average)
    model.eval()
    trainer.note(**measure(teacher, model, unseen))
    model.save_pretrained(out / "model")
    processor.save_pretrained(out / "model")


if __name__ == "__main__":
    setup_logging()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=40.0)
    parser.add_argument("--scenes", type=int, default=4000)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    train(args.out, args.minutes, args.scenes, args.resume, args.rate)
