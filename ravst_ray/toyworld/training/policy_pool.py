"""A pool of painted scenes with their questions, made once and kept on disk for training the toy policy."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ravst_ray.config.video_llm import FramesConfig, PromptConfig
from ravst_ray.core.answers import render
from ravst_ray.media.clips import Clip
from ravst_ray.policy.prompts import question_prompt
from ravst_ray.records import VideoView
from ravst_ray.tasks.spaces import AnswerSpace
from ravst_ray.toyworld.questions import scene_questions
from ravst_ray.toyworld.training.policy import SIDE_PX

CHUNK = 100
SHOWN = FramesConfig(min_pixels=SIDE_PX**2, max_pixels=SIDE_PX**2)
ASKED = PromptConfig(box_step_s=4.0, state_grammar=False)


@dataclass(frozen=True)
class Question:
    """A question with its true answer in the dataset's space."""

    task: str
    text: str
    answer: str


@dataclass(frozen=True)
class Painted:
    """A scene as it is shown, and its questions."""

    clip: Clip
    view: VideoView
    questions: tuple[Question, ...]

    def prompt(self, question: Question) -> str:
        """What the toy policy is asked."""
        return question_prompt(question.task, question.text, self.view, ASKED)

    @property
    def space(self) -> AnswerSpace:
        """Between the policy's answers and the dataset's."""
        return AnswerSpace.of(self.view, ASKED)


def paint(seed: int, index: int, heard: bool = False) -> Painted:
    """One scene, its frames disturbed a little; ``heard``: without cues in its pictures, with its sound."""
    frames = SHOWN.model_copy(update={"sound": "own" if heard else "none"})
    made = scene_questions(seed, index, frames, noisy=True, cues=not heard)
    questions = tuple(Question(one.task, one.question, render(one.objects)) for one in made.drafts)
    return Painted(made.clip, made.view, questions)


def fill(folder: str | Path, scenes: int, seed: int, workers: int = 1) -> None:
    """Paint the scenes 0 … ``scenes`` - 1 of a world into ``folder``; chunks that are there already are kept."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    chunks = [number for number in range(-(-scenes // CHUNK)) if not _path(folder, number).exists()]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for _ in pool.imap_unordered(partial(_fill, folder, seed), chunks):
            pass


def load(folder: str | Path, scenes: int) -> list[Painted]:
    """The scenes of a pool."""
    return [one for number in range(-(-scenes // CHUNK)) for one in _read(_path(folder, number))][:scenes]


def _path(folder: str | Path, number: int) -> Path:
    return Path(folder) / f"scenes_{number:04d}.npz"


def _fill(folder: str | Path, seed: int, number: int) -> None:
    made = [paint(seed, number * CHUNK + index) for index in range(CHUNK)]
    rows = [
        {"id": one.clip.video_id, "view": asdict(one.view), "questions": [asdict(q) for q in one.questions]}
        for one in made
    ]
    path = _path(folder, number)
    partial_path = path.with_suffix(".partial.npz")
    arrays: dict[str, Any] = {f"f{i}": one.clip.frames for i, one in enumerate(made)}
    np.savez(partial_path, rows=json.dumps(rows), **arrays)
    partial_path.replace(path)


def _read(path: Path) -> Sequence[Painted]:
    with np.load(path) as file:
        rows = json.loads(str(file["rows"]))
        return [
            Painted(
                Clip(row["id"], file[f"f{i}"], row["view"]["step_s"]),
                VideoView(**row["view"]),
                tuple(Question(**one) for one in row["questions"]),
            )
            for i, row in enumerate(rows)
        ]
