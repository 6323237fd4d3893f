"""Batches of lessons for the toy policy that hears, on its device.

A scene is one line: its pictures and its sound once, then several questions with their answers, which don't see each
other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ravst_ray.toyworld.training.hearing_lessons import (
    CELLS,
    COLUMNS,
    SEEN_AT_MOST,
    Lesson,
    Segment,
    read,
    written,
)
from ravst_ray.toyworld.training.policy_annotators import CARELESS_SHARE
from ravst_ray.toyworld.training.policy_gaze import WHEN, WHERE

LONG = 90  # tokens of an answer
LONGEST = 1536  # tokens of a line
KINDS = (WHERE, WHEN)


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
        for path in written(folder):
            if path not in self._known:
                self._known.add(path)
                self.add(read(path))

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
