"""Lessons for the toy policy that hears: scenes in which only the sound tells what sounds, and when.

Painting a scene takes far longer than a step of training on it. So processes of their own paint, encode and tokenise
scenes into files of ``CHUNK`` each; :mod:`~ravst_ray.toyworld.training.hearing_batches` takes in what is ready.
"""

from __future__ import annotations

import math
import multiprocessing
import os
from dataclasses import dataclass
from functools import cache, partial
from itertools import takewhile
from multiprocessing.pool import AsyncResult, Pool
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ravst_ray.config.video_llm import FramesConfig
from ravst_ray.core.answers import render
from ravst_ray.media.clips import Clip
from ravst_ray.policy.families.protocols import Shape
from ravst_ray.policy.families.qwen2_5_omni import Qwen25Omni
from ravst_ray.policy.prompts import question_prompt
from ravst_ray.tasks.spaces import AnswerSpace
from ravst_ray.toyworld.asked import read_question
from ravst_ray.toyworld.questions import SceneQuestions, scene_questions
from ravst_ray.toyworld.scene import NAMES, Scene, random_scene
from ravst_ray.toyworld.training.policy import SIDE_PX
from ravst_ray.toyworld.training.policy_annotators import careless
from ravst_ray.toyworld.training.policy_gaze import WHEN, mentions
from ravst_ray.toyworld.training.policy_omni import build_omni_processor, build_omni_tokenizer, thinker_config
from ravst_ray.toyworld.training.policy_pool import ASKED
from ravst_ray.toyworld.training.policy_targets import Targets, scene_targets

CHUNK = 25
SHOWN = FramesConfig(min_pixels=SIDE_PX**2, max_pixels=SIDE_PX**2, sound="own")
CELLS = (SIDE_PX // 28) ** 2
COLUMNS = 200  # of the spectrogram, beside one pair of pictures: 2 s
PER_SECOND = 25
SEEN_AT_MOST = 16  # tokens that a head should look at


@dataclass(frozen=True)
class Segment:
    """A question after its scene: token ids of what follows the scene's prefix, and of the answers.

    ``looks [K, 2 + SEEN_AT_MOST]``: the kind of look, the answer's token that it is for, and columns of the prefix
    (-1: none).
    """

    task: str
    prompt: np.ndarray
    true: np.ndarray
    careless: np.ndarray
    looks: np.ndarray


@dataclass(frozen=True)
class Lesson:
    """A scene as the model is given it, and what it should find in it.

    ``prefix [P]`` are the token ids that all prompts begin with, ``positions [3, P]`` their places; ``pictures
    [G, patches, D]`` (0-255) and ``mel [G, 128, COLUMNS]`` what the towers take, ``last`` the columns of sound in the
    last of the G pairs. ``names [V, 2]`` and ``boxes [V, 2, 4]`` as in :class:`Targets`, of V video tokens; of A tokens
    of sound ``sounds [A]``: 0 or 1 + the place in ``NAMES`` of what sounds; ``edges [A]``: 1 where a sound begins, 2
    where it ends.
    """

    prefix: np.ndarray
    positions: np.ndarray
    pictures: np.ndarray
    mel: np.ndarray
    last: int
    names: np.ndarray
    boxes: np.ndarray
    sounds: np.ndarray
    edges: np.ndarray
    segments: tuple[Segment, ...]


class Desk:
    """Makes lessons: what a process needs for it."""

    def __init__(self) -> None:
        self.family = Qwen25Omni()
        self.tokenizer = build_omni_tokenizer()
        self.processor = build_omni_processor(self.tokenizer)
        self.config = thinker_config(self.tokenizer)
        video = self.processor.video_processor
        self._mean, self._std = (
            np.repeat(np.float32(values), 2 * 14 * 14) for values in (video.image_mean, video.image_std)
        )

    def lesson(self, seed: int, index: int) -> Lesson:
        """The lesson of scene ``index`` of the world ``seed``."""
        scene = random_scene(np.random.default_rng([seed, index]))
        shown = scene_questions(seed, index, SHOWN, noisy=True, cues=False)
        return self.of(scene, shown)

    def of(self, scene: Scene, shown: SceneQuestions) -> Lesson:
        """The lesson of a scene that is shown so."""
        clip, shape = shown.clip, Shape.of(shown.clip)
        prompts = [question_prompt(one.task, one.question, shown.view, ASKED) for one in shown.drafts]
        ids = [self.family.prompt_ids(self.tokenizer, text, shape) for text in prompts]
        other = self.family.prompt_ids(self.tokenizer, question_prompt("AVTR", "?", shown.view, ASKED), shape)
        prefix = [same[0] for same in takewhile(lambda same: len(set(same)) == 1, zip(other, *ids, strict=False))]
        positions = self.family.positions(ids[0], shape, self.config)[:, : len(prefix)]
        targets = scene_targets(scene, shown.view)
        heard = np.flatnonzero(np.asarray(prefix) == self.config.audio_token_id)
        sounds, edges = _sounds(scene, len(heard))
        seen = np.flatnonzero(np.asarray(prefix) == self.config.video_token_id)
        pictures, mel, last = self.encode(clip)
        segments = []
        for draft, prompt in zip(shown.drafts, ids, strict=True):
            answer = render(draft.objects)
            true, hasty = (
                self._answer(AnswerSpace.of(shown.view, ASKED).to_model(text))
                for text in (answer, careless(answer, shown.view))
            )
            looks = self._looks(draft.question, true, targets, sounds, seen, heard)
            after = np.array(prompt[len(prefix) :], np.int16)
            segments.append(Segment(draft.task, after, true, hasty, looks))
        return Lesson(
            np.array(prefix, np.int16),
            positions.astype(np.int16),
            pictures,
            mel,
            last,
            targets.names.numpy().astype(np.int8),
            targets.boxes.numpy().astype(np.float16),
            sounds,
            edges,
            tuple(segments),
        )

    def encode(self, clip: Clip) -> tuple[np.ndarray, np.ndarray, int]:
        """Pictures, spectrogram and its last columns of a clip, as in :class:`Lesson`."""
        encoded = self.family.learner().encode(self.processor, clip)
        pairs = int(encoded["grid_thw"][0])
        pixels = encoded["pixels"].numpy() * self._std + self._mean
        pictures = np.round(pixels * 255).astype(np.uint8).reshape(pairs, -1, pixels.shape[-1])
        columns = encoded["mel"].numpy()
        mel = np.pad(columns, ((0, 0), (0, pairs * COLUMNS - columns.shape[1]))).astype(np.float16)
        mel = np.ascontiguousarray(mel.reshape(len(mel), pairs, COLUMNS).transpose(1, 0, 2))
        return pictures, mel, columns.shape[1] - (pairs - 1) * COLUMNS

    def _answer(self, text: str) -> np.ndarray:
        return np.array([*self.tokenizer(text)["input_ids"], self.tokenizer.eos_token_id], np.int16)

    def _looks(
        self,
        question: str,
        answer: np.ndarray,
        targets: Targets,
        sounds: np.ndarray,
        seen: np.ndarray,
        heard: np.ndarray,
    ) -> np.ndarray:
        """For ends of intervals the sound about then; for coordinates the object; for what sounds, its sound.

        ``seen`` and ``heard`` are the columns of the tokens of pictures and sound.
        """
        pieces = [self.tokenizer.decode([token]) for token in answer.tolist()]
        found: list[tuple[int, int, np.ndarray]] = []
        for one in mentions(pieces):
            if one.at == WHEN:
                middle = round(one.time_s * PER_SECOND)
                columns = heard[np.clip(np.arange(middle - 1, middle + 2), 0, len(heard) - 1)]
                found += [(1, piece, columns) for piece in one.pieces]
            else:
                pair = min(round(one.time_s), int(targets.times[-1]) * 2 + 1) // 2
                there = (targets.times == pair) & (targets.names == one.name).any(1)
                found.append((0, one.pieces[0], seen[there.numpy()]))
        asked = read_question(question)
        if asked and asked.span and asked.audible:
            start, end = (int(time_s * PER_SECOND) for time_s in asked.span)
            columns = heard[start:end][sounds[start:end] > 0]
            columns = columns[np.linspace(0, len(columns) - 1, SEEN_AT_MOST).astype(int)] if len(columns) else columns
            first = pieces.index("<object>") + 1
            found += [(1, piece, columns) for piece in range(first, pieces.index("</object>"))]
        looks = np.full((len(found), 2 + SEEN_AT_MOST), -1, np.int16)
        for row, (kind, token, columns) in zip(looks, found, strict=True):
            row[:2] = kind, token
            row[2 : 2 + len(columns)] = columns[:SEEN_AT_MOST]
        return looks[(looks[:, 2] >= 0)]


def _sounds(scene: Scene, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """What sounds in each 1/25 s, and where it begins and ends."""
    sounds, edges = np.zeros(tokens, np.int8), np.zeros(tokens, np.int8)
    for sprite in scene.sprites:
        for start_s, end_s in sprite.events_s:
            first, last = int(start_s * PER_SECOND + 1e-6), math.ceil(end_s * PER_SECOND - 1e-6) - 1
            sounds[first : last + 1] = 1 + NAMES.index(sprite.name)
            edges[first], edges[last] = 1, 2
    return sounds, edges


@cache
def desk() -> Desk:
    """This process's own."""
    torch.set_num_threads(1)
    return Desk()


def start_painting(folder: Path, scenes: int, seed: int, workers: int) -> tuple[Pool, AsyncResult[Any]]:
    """Let processes write the lessons 0 … ``scenes`` - 1 into ``folder``; chunks that are there already stay.

    Gives the pool of processes, which must be kept, and what tells whether they are done, or how they failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chunks = [number for number in range(-(-scenes // CHUNK)) if not _path(folder, number).exists()]
    pool = multiprocessing.get_context("spawn").Pool(workers, initializer=os.nice, initargs=(5,))
    return pool, pool.map_async(partial(_write, folder, seed), chunks, chunksize=1)


def written(folder: Path) -> list[Path]:
    """The chunks that are ready, for :func:`read`."""
    return sorted(folder.glob("lessons_*.pt"))


def read(path: Path) -> list[Lesson]:
    """The lessons of a chunk."""
    lessons = []
    for one in torch.load(path, weights_only=True):
        segments = tuple(Segment(**_arrays(segment)) for segment in one.pop("segments"))
        lessons.append(Lesson(**_arrays(one), segments=segments))
    return lessons


def _arrays(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value.numpy() if torch.is_tensor(value) else value for name, value in fields.items()}


def _tensors(one: Lesson | Segment) -> dict[str, Any]:
    return {
        name: torch.from_numpy(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value
        for name, value in vars(one).items()
    }


def _path(folder: Path, number: int) -> Path:
    return folder / f"lessons_{number:04d}.pt"


def _write(folder: Path, seed: int, number: int) -> None:
    lessons = [desk().lesson(seed, number * CHUNK + index) for index in range(CHUNK)]
    partial_path = _path(folder, number).with_suffix(".partial")
    torch.save(
        [_tensors(one) | {"segments": [_tensors(each) for each in one.segments]} for one in lessons], partial_path
    )
    partial_path.replace(_path(folder, number))
