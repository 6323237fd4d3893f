"""Lessons for the toy policy that hears: scenes in which only the sound tells what sounds, and when.

Painting a scene takes far longer than a step of training on it. So processes of their own paint, encode and tokenise
scenes into files of ``CHUNK`` each, and a :class:`School` takes in what is ready and makes batches of it. In a batch a
scene is one line: pictures and sound once, then several questions with their answers, which don't see each other.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ravst_ray.config.video_llm import FramesConfig
from ravst_ray.core.answers import render
from ravst_ray.media.clips import Clip
from ravst_ray.policy.families.protocols import Shape
from ravst_ray.policy.families.qwen2_5_omni import Qwen25Omni
from ravst_ray.policy.prompts import AnswerSpace, question_prompt
from ravst_ray.records import Task
from ravst_ray.toyworld.asked import read_question
from ravst_ray.toyworld.questions import SceneQuestions, scene_questions
from ravst_ray.toyworld.scene import NAMES, Scene, random_scene
from ravst_ray.toyworld.training.policy import SIDE_PX
from ravst_ray.toyworld.training.policy_annotators import CARELESS_SHARE, careless
from ravst_ray.toyworld.training.policy_gaze import WHEN, WHERE, mentions
from ravst_ray.toyworld.training.policy_omni import build_omni_processor, build_omni_tokenizer, thinker_config
from ravst_ray.toyworld.training.policy_pool import ASKED
from ravst_ray.toyworld.training.policy_targets import Targets, scene_targets

CHUNK = 25
SHOWN = FramesConfig(min_pixels=SIDE_PX**2, max_pixels=SIDE_PX**2, sound="own")
CELLS = (SIDE_PX // 28) ** 2
COLUMNS = 200  # of the spectrogram, beside one pair of pictures: 2 s
PER_SECOND = 25
SEEN_AT_MOST = 16  # tokens that a head should look at
LONG = 90  # tokens of an answer
LONGEST = 1536  # tokens of a line
KINDS = (WHERE, WHEN)


@dataclass(frozen=True)
class Segment:
    """A question after its scene: token ids of what follows the scene's prefix, and of the answers.

    ``looks [K, 2 + SEEN_AT_MOST]``: the kind of look, the answer's token that it is for, and columns of the prefix
    (-1: none).
    """

    task: Task
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


def start_painting(folder: Path, scenes: int, seed: int, workers: int) -> Any:
    """Let processes write the lessons 0 … ``scenes`` - 1 into ``folder``; gives the pool, which must be kept.

    Chunks that are there already stay. What is ready, :meth:`School.take_in` finds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chunks = [number for number in range(-(-scenes // CHUNK)) if not _path(folder, number).exists()]
    pool = multiprocessing.get_context("spawn").Pool(workers, initializer=os.nice, initargs=(5,))
    pool.map_async(partial(_write, folder, seed), chunks, chunksize=1, error_callback=_failed)
    return pool


def _failed(error: BaseException) -> None:
    raise error


def _path(folder: Path, number: int) -> Path:
    return folder / f"lessons_{number:04d}.pickle"


def _write(folder: Path, seed: int, number: int) -> None:
    lessons = [desk().lesson(seed, number * CHUNK + index) for index in range(CHUNK)]
    partial_path = _path(folder, number).with_suffix(".partial")
    partial_path.write_bytes(pickle.dumps(lessons))
    partial_path.replace(_path(folder, number))


@dataclass
class Batch:
    """Lines of one batch, ``[B, L]`` and flat lists of places in them (row * L + column), on the model's device.

    ``parts``: 0 for the scene, n for its n-th question, -1 for padding. ``targets`` are the tokens that stand at
    ``answers``. ``pictures``, ``mel`` and ``columns`` (of each chunk of sound) go to the towers, ``lengths [B]`` are
    those of the whole spectrograms. ``looks``: for each kind the columns ``[B, K]`` that look, and at which
    ``[B, K, SEEN_AT_MOST]`` (-1: none).
    """

    ids: torch.Tensor
    positions: torch.Tensor
    parts: torch.Tensor
    answers: torch.Tensor
    targets: torch.Tensor
    video_at: torch.Tensor
    audio_at: torch.Tensor
    pictures: torch.Tensor
    mel: torch.Tensor
    columns: torch.Tensor
    lengths: torch.Tensor
    names: torch.Tensor
    boxes: torch.Tensor
    pairs: torch.Tensor
    sounds: torch.Tensor
    edges: torch.Tensor
    ticks: torch.Tensor
    looks: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]]

    def mask(self) -> torch.Tensor:
        """Who sees whom, bool ``[B, 1, L, L]``: what comes before, of the scene and of the own question."""
        parts, columns = self.parts, torch.arange(self.parts.shape[1], device=self.parts.device)
        same = (parts[:, None, :] == 0) | (parts[:, None, :] == parts[:, :, None])
        return (same & (columns[None, None, :] <= columns[None, :, None]))[:, None]


class School:
    """Lessons, their pictures and sounds on the model's device, and batches of them.

    Args:
        device: of the model.
        config: of the model.
        rng: what batches are drawn from.
    """

    def __init__(self, device: str, config: Any, rng: np.random.Generator):
        self.device, self.rng = device, rng
        self.video, self.audio = config.video_token_id, config.audio_token_id
        self.lessons: list[Lesson] = []
        self.two_annotators = False
        self._known: set[Path] = set()
        self._pictures: list[torch.Tensor] = []
        self._mels: list[torch.Tensor] = []

    def take_in(self, folder: Path) -> None:
        """Learn of the chunks that have come into a folder."""
        for path in sorted(folder.glob("lessons_*.pickle")):
            if path not in self._known:
                self._known.add(path)
                self.add(pickle.loads(path.read_bytes()))

    def add(self, lessons: Sequence[Lesson]) -> None:
        """Lessons, whose pictures and sounds go to the device."""
        pairs, empty = [len(one.mel) for one in lessons], np.zeros(0)
        for kept, field in ((self._pictures, "pictures"), (self._mels, "mel")):
            joined = torch.from_numpy(np.concatenate([getattr(one, field) for one in lessons]))
            kept.extend(joined.to(self.device).split(pairs))
        self.lessons += [replace(one, pictures=empty, mel=empty) for one in lessons]

    def batch(self, clips: int, others: int = 2, long_share: float = 0.2, asked: bool = True) -> Batch:
        """Scenes of about the same length, with their questions: every AVTR, and some of the others.

        Args:
            clips: how many scenes.
            others: questions of other kinds, at most, of each scene.
            long_share: share of the scenes of which one may have an answer of any length.
            asked: whether there are questions at all.
        """
        picked = self.rng.choice(len(self.lessons), min(3 * clips, len(self.lessons)), replace=False)
        picked = picked[np.argsort([len(self.lessons[place].prefix) for place in picked], kind="stable")]
        first = int(self.rng.integers(max(len(picked) - clips, 0) + 1))
        lines = []
        for place in picked[first : first + clips].tolist():
            limit = LONGEST if self.rng.random() < long_share else LONG
            lines.append((place, self._some(self.lessons[place], others, limit) if asked else []))
        return self.collate(lines)

    def _some(self, lesson: Lesson, others: int, limit: int) -> list[tuple[Segment, np.ndarray]]:
        segments = [one for one in lesson.segments if one.task == "AVTR"]
        rest = [one for one in lesson.segments if one.task != "AVTR" and len(one.true) <= limit]
        segments += [rest[place] for place in self.rng.permutation(len(rest))[:others].tolist()]
        hasty = self.two_annotators
        chosen = [(one, one.careless if hasty and self.rng.random() < CARELESS_SHARE else one.true) for one in segments]
        room, kept = LONGEST - len(lesson.prefix), []
        for one, answer in chosen:
            room -= len(one.prompt) + len(answer)
            if room >= 0:
                kept.append((one, answer))
        return kept

    def collate(self, lines: Sequence[tuple[int, Sequence[tuple[Segment, np.ndarray]]]]) -> Batch:
        """A batch of these lessons (by number), with segments and the answers to be learned (or to go on from)."""
        lessons = [self.lessons[place] for place, _ in lines]
        total = [
            len(lesson.prefix) + sum(len(one.prompt) + len(answer) for one, answer in segments)
            for lesson, (_, segments) in zip(lessons, lines, strict=True)
        ]
        shape = (len(lines), -(-max(total) // 64) * 64)
        ids, parts = np.zeros(shape, np.int64), np.full(shape, -1, np.int64)
        positions, wanted = np.zeros((3, *shape), np.int64), np.zeros(shape, bool)
        looks: list[list[np.ndarray]] = []
        for line, (lesson, (_, segments)) in enumerate(zip(lessons, lines, strict=True)):
            end = len(lesson.prefix)
            ids[line, :end], parts[line, :end], positions[:, line, :end] = lesson.prefix, 0, lesson.positions
            after, seen = int(lesson.positions[0, -1]) + 1, []
            for number, (one, answer) in enumerate(segments, start=1):
                start, middle = end, end + len(one.prompt)
                end = middle + len(answer)
                ids[line, start:middle], ids[line, middle:end], parts[line, start:end] = one.prompt, answer, number
                positions[:, line, start:end] = after + np.arange(end - start)
                wanted[line, middle:end] = True
                if answer is one.true and not self.two_annotators:
                    moved = one.looks.astype(np.int64)
                    moved[:, 1] += middle - 1
                    seen.append(moved)
            looks.append(seen)
        return self._batch([place for place, _ in lines], lessons, ids, parts, positions, wanted, looks)

    def _batch(
        self,
        places: Sequence[int],
        lessons: Sequence[Lesson],
        ids: np.ndarray,
        parts: np.ndarray,
        positions: np.ndarray,
        wanted: np.ndarray,
        looks: Sequence[Sequence[np.ndarray]],
    ) -> Batch:
        columns = [[COLUMNS] * (len(self._mels[p]) - 1) + [one.last] for p, one in zip(places, lessons, strict=True)]
        answers = np.flatnonzero(wanted)

        def put(values: Any, kind: torch.dtype = torch.long) -> torch.Tensor:
            return torch.as_tensor(np.asarray(values)).to(self.device, kind, non_blocking=True)

        def joined(field: str, kind: torch.dtype = torch.long) -> torch.Tensor:
            return put(np.concatenate([getattr(one, field) for one in lessons]), kind)

        return Batch(
            ids=put(ids),
            positions=put(positions),
            parts=put(parts),
            answers=put(answers),
            targets=put(ids.ravel()[answers]),
            video_at=put(np.flatnonzero(ids == self.video)),
            audio_at=put(np.flatnonzero(ids == self.audio)),
            pictures=torch.cat([self._pictures[place] for place in places]),
            mel=torch.cat([self._mels[place] for place in places]),
            columns=put(np.concatenate(columns)),
            lengths=put([sum(one) for one in columns]),
            names=joined("names"),
            boxes=joined("boxes", torch.float32),
            pairs=put(np.concatenate([np.arange(len(one.names)) // CELLS for one in lessons])),
            sounds=joined("sounds"),
            edges=joined("edges"),
            ticks=put(np.concatenate([np.arange(len(one.sounds)) for one in lessons])),
            looks={kind: _padded(looks, number, put) for number, kind in enumerate(KINDS)},
        )


def _padded(looks: Sequence[Sequence[np.ndarray]], kind: int, put: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The looks of one kind, ``[B, K]`` and ``[B, K, SEEN_AT_MOST]``."""
    own = [np.concatenate([part[part[:, 0] == kind] for part in parts]) if parts else None for parts in looks]
    most = max((len(rows) for rows in own if rows is not None), default=0)
    columns = np.zeros((len(looks), most), np.int64)
    targets = np.full((len(looks), most, SEEN_AT_MOST), -1, np.int64)
    for line, rows in enumerate(own):
        if rows is not None:
            columns[line, : len(rows)], targets[line, : len(rows)] = rows[:, 1], rows[:, 2:]
    return put(columns), put(targets)
