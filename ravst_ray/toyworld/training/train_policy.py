"""Warm the toy policy up by supervised training until it mostly keeps the grammar, but still errs: GRPO goes on there.

    python -m ravst_ray.toyworld.training.train_policy --out out/policy --resume

Made for one CPU core, in three stages: first the tower and the first layers learn what is where (``policy_targets.py``)
and the language model, without videos, to take over what the question says; then the whole model learns to answer, with
what is where and where to look (``policy_gaze.py``) as further losses; last it imitates two annotators, of whom one is
careless (``policy_annotators.py``), so that reinforcement learning has something to find out. Every batch holds several
questions about each of a few scenes, whose frames are encoded once. It has a loop of its own because of these losses
and the schedule by the clock; plain fine-tuning is :mod:`ravst_ray.training.sft`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ravst_ray.logs import setup_logging
from ravst_ray.policy.families.qwen2_5_vl import Qwen25VL
from ravst_ray.toyworld.scene import random_scene
from ravst_ray.toyworld.training.policy import (
    POLICY,
    SIDE_PX,
    build_processor,
    build_tokenizer,
    generation_config,
    look_back,
    policy_config,
)
from ravst_ray.toyworld.training.policy_annotators import CARELESS_SHARE, careless
from ravst_ray.toyworld.training.policy_gaze import Gaze, Look, looks
from ravst_ray.toyworld.training.policy_measure import measure, model_card
from ravst_ray.toyworld.training.policy_pool import Painted, fill, load
from ravst_ray.toyworld.training.policy_targets import DenseHead, Targets, scene_targets
from ravst_ray.toyworld.training.trainer import Trainer
from ravst_ray.toyworld.training.trainer import export as save
from ravst_ray.training.forward import Row, VideoForward

SEED = 700
UNSEEN = 40
TAP = 3
LONG = 90
_DENSE_WEIGHT, _GAZE_WEIGHT = 0.3, 0.3


class Student(nn.Module):
    """The policy and the head that reads its video tokens after the first ``TAP`` layers."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model
        self.head = DenseHead(model.config.text_config.hidden_size)
        self.gaze = Gaze(model)
        self.tapped: torch.Tensor | None = None
        model.model.language_model.layers[TAP - 1].register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.tapped = output[0] if isinstance(output, tuple) else output

    @contextmanager
    def first_layers_only(self) -> Iterator[None]:
        """The language model ends at the tap."""
        language = self.model.model.language_model
        layers = language.layers
        language.layers = layers[:TAP]
        try:
            yield
        finally:
            language.layers = layers


class Lessons:
    """Batches from a pool of scenes, and their losses."""

    def __init__(
        self, student: Student, processor: Any, scenes: Sequence[Painted], first: int, rng: np.random.Generator
    ):
        self.student, self.scenes, self.first, self.rng = student, scenes, first, rng
        self.two_annotators = False
        self.forward = VideoForward(processor, Qwen25VL(), banned=False, share_prompts=False)
        self.tokenizer = processor.tokenizer
        self._by_length = sorted(range(len(scenes)), key=lambda place: scenes[place].view.frames)
        self._numbers = self.tokenizer.convert_tokens_to_ids([str(number) for number in range(SIDE_PX + 1)])
        self._targets: dict[int, Targets] = {}
        self._looks: dict[tuple[int, int], list[Look]] = {}
        self._rows: dict[tuple[int, int, bool, bool], Row] = {}

    def seeing(self, clips: int) -> torch.Tensor:
        """The dense loss of random scenes through the first layers alone."""
        places = self.rng.choice(len(self.scenes), clips, replace=False).tolist()
        rows = [
            Row(self.forward.prompt_ids("", self.scenes[place].clip), [], self.scenes[place].clip) for place in places
        ]
        model = self.student.model
        batch = self.forward.collate([[row] for row in rows], model.config)
        seen, _ = self.forward.seen(rows, model, torch.device("cpu"))
        with self.student.first_layers_only():
            self.forward.side.call(model, model, {**batch, "logits_to_keep": 1}, seen)
        return self._dense(places, rows)

    def reading(self, each: int) -> torch.Tensor:
        """Cross-entropy over short answers to questions without their videos: what can be copied is learned soon."""
        rows = []
        for task in ("AVTR", "AVSR", "AVSTR"):
            asked = self._asked(each, 1, [task], LONG)
            rows += [self._row(place, number, shown=False) for place, number in asked]
        scores = self.forward.score(self.student.model, rows)
        return -scores.logps.sum() / scores.mask.sum()

    def answering(self, clips: int, each: int, tasks: Sequence[str], longest: int) -> torch.Tensor:
        """Cross-entropy over answer tokens, and the dense loss, of scenes that are about as long as each other."""
        asked = self._asked(clips, each, tasks, longest)
        rows = [self._row(*one) for one in asked]
        scores = self.forward.score(self.student.model, rows)
        firsts = {place: number for number, (place, _) in reversed(list(enumerate(asked)))}
        dense = self._dense(list(firsts), [rows[number] for number in firsts.values()], rows, list(firsts.values()))
        aside = _DENSE_WEIGHT * dense
        if not self.two_annotators:  # where to look is known of true answers
            aside = aside + _GAZE_WEIGHT * self._gaze(asked, rows)
        return -scores.logps.sum() / scores.mask.sum() + aside

    def _gaze(self, asked: Sequence[tuple[int, int]], rows: Sequence[Row]) -> torch.Tensor:
        """The loss of where the watched heads look."""
        video = self.student.model.config.video_token_id
        before = max(len(row.prompt_ids) for row in rows)
        wanted = []
        for number, ((place, question), row) in enumerate(zip(asked, rows, strict=True)):
            column = before - len(row.prompt_ids) + list(row.prompt_ids).index(video)
            wanted += [(number, column, before, look) for look in self._looks_of(place, question)]
        return self.student.gaze.loss(wanted)

    def _looks_of(self, place: int, question: int) -> list[Look]:
        if (place, question) not in self._looks:
            pieces = [self.tokenizer.decode([token]) for token in self._row(place, question).completion_ids]
            self._looks[place, question] = list(looks(pieces, self._target(place), self.scenes[place].view))
        return self._looks[place, question]

    def _asked(self, clips: int, each: int, tasks: Sequence[str], longest: int) -> list[tuple[int, int]]:
        middle = int(self.rng.integers(len(self._by_length)))
        near = self._by_length[max(middle - 120, 0) : middle + 120]
        found: list[tuple[int, int]] = []
        chosen: set[int] = set()
        for place in self.rng.permutation(near).tolist():
            fit = [
                number
                for number, question in enumerate(self.scenes[place].questions)
                if question.task in tasks and len(self._row(place, number).completion_ids) <= longest
            ]
            if fit:
                chosen.add(place)
                found += [(place, int(number)) for number in self.rng.permutation(fit)[:each]]
            if len(chosen) == clips:
                break
        return found

    def _row(self, place: int, number: int, shown: bool = True) -> Row:
        careful = not self.two_annotators or self.rng.random() >= CARELESS_SHARE
        key = (place, number, shown, careful)
        if key not in self._rows:
            scene = self.scenes[place]
            clip, question = scene.clip if shown else None, scene.questions[number]
            answer = question.answer if careful else careless(question.answer, scene.view)
            target = self.tokenizer(scene.space.to_model(answer))["input_ids"]
            prompt = self.forward.prompt_ids(scene.prompt(question), clip)
            self._rows[key] = Row(prompt, [*target, self.tokenizer.eos_token_id], clip)
        return self._rows[key]

    def _dense(
        self,
        places: Sequence[int],
        rows: Sequence[Row],
        batch: Sequence[Row] | None = None,
        numbers: Sequence[int] | None = None,
    ) -> torch.Tensor:
        """The head's loss at the video tokens of ``rows``, which are rows ``numbers`` of the padded ``batch``."""
        tapped = self.student.tapped
        assert tapped is not None
        video = self.student.model.config.video_token_id
        before = max(len(row.prompt_ids) for row in batch or rows)
        hidden = []
        for number, row in zip(numbers or range(len(rows)), rows, strict=True):
            start = before - len(row.prompt_ids) + list(row.prompt_ids).index(video)
            hidden.append(tapped[number, start : start + list(row.prompt_ids).count(video)])
        targets = Targets.join([self._target(place) for place in places])
        numbers = self.student.model.get_input_embeddings().weight[self._numbers]
        return self.student.head.loss(torch.cat(hidden), targets, numbers)[0]

    def _target(self, place: int) -> Targets:
        if place not in self._targets:
            scene = random_scene(np.random.default_rng([SEED, self.first + place]))
            self._targets[place] = scene_targets(scene, self.scenes[place].view)
        return self._targets[place]


def stage(
    student: Student, out: Path, minutes: float, rate: float, resume: bool, loss: Callable[[], torch.Tensor]
) -> Trainer:
    """Train by the clock, and leave the averaged weights in the student."""
    trainer = Trainer(student, out, minutes, rate, decay=0.997, resume=resume)
    # The output layer is the embedding: its average must be the same tensor too, or the stale one would be loaded.
    trainer.average["model.lm_head.weight"] = trainer.average["model.model.language_model.embed_tokens.weight"]
    losses: list[float] = []
    while not trainer.done:
        losses.append(trainer.update(loss()))
        if trainer.step % 50 == 0:
            trainer.note(loss=float(np.mean(losses[-50:])))
        if trainer.step % 200 == 0:
            trainer.save()
    trainer.save()
    student.load_state_dict(trainer.average)
    return trainer


def train(out: Path, export: Path, minutes: tuple[float, float, float], scenes: int, resume: bool) -> None:
    """All stages; ``out`` gets a folder with ``log.jsonl`` and ``state.pt`` of each, ``export`` the model."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    fill(out / "pool", scenes, SEED)
    everything = load(out / "pool", scenes)
    unseen, seen = everything[:UNSEEN], everything[UNSEEN:]
    processor = build_processor(build_tokenizer())
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(policy_config(processor.tokenizer, spread=0.08)).train()
    look_back(model.model.language_model, 1, 1)
    look_back(model.model.language_model, 3, 0)
    student = Student(model)
    lessons = Lessons(student, processor, seen, UNSEEN, np.random.default_rng())

    def answer() -> torch.Tensor:
        where = LONG if lessons.rng.random() < 0.75 else 10**6
        return lessons.answering(4, 2, ["AVTR"], 10**6) + lessons.answering(3, 3, ["AVSR", "AVSTR"], where)

    first = stage(student, out / "seeing", minutes[0], 2e-3, resume, lambda: lessons.seeing(12) + lessons.reading(4))
    second = stage(student, out / "answering", minutes[1], 1.2e-3, resume, answer)
    lessons.two_annotators = True
    third = stage(student, out / "imitating", minutes[2], 5e-4, resume, answer)
    model.eval()
    numbers = measure(model, processor, Qwen25VL(), unseen)
    third.note(**numbers)
    steps = (first.step, second.step, third.step)
    # A model of its own: this one carries the hooks of its lessons.
    plain = Qwen2_5_VLForConditionalGeneration(policy_config(processor.tokenizer, spread=0.08))
    plain.load_state_dict(model.state_dict())
    plain.generation_config = generation_config(processor.tokenizer)
    save(plain, processor, export, model_card(numbers, steps, minutes, model.num_parameters(), UNSEEN))


if __name__ == "__main__":
    setup_logging()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--export", type=Path, default=POLICY)
    parser.add_argument("--minutes", type=float, nargs=3, default=(12.0, 77.0, 4.0), help="of the three stages")
    parser.add_argument("--scenes", type=int, default=4600)
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    train(args.out, args.export, tuple(args.minutes), args.scenes, args.resume)
