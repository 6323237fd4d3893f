"""How well the toy policy answers when, by what it is given to hear: the video's own sound, silence, another's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ravst_ray.core.answers import parse
from ravst_ray.rewards.temporal import temporal_score
from ravst_ray.toyworld.training.hearing_lessons import School, Segment

MAX_TOKENS = 288
SILENT = -1.5
"""Of a spectrogram of nothing: (log10(1e-10) + 4) / 4."""


def answers(hearer: Any, school: School, desk: Any, asked: Sequence[tuple[int, Segment]], most: int) -> list[str]:
    """Greedy answers, in the dataset's space.

    Args:
        hearer: the model.
        school: of the lessons.
        desk: for its tokenizer.
        asked: questions, with the number of their lesson.
        most: tokens of an answer.
    """
    size = 128 if school.device == "cuda" else 16
    order = sorted(range(len(asked)), key=lambda place: len(school.lessons[asked[place][0]].prefix))
    said = [""] * len(asked)
    nothing = np.zeros(0, np.int16)
    for first in range(0, len(order), size):
        places = order[first : first + size]
        batch = school.collate([(asked[place][0], [(asked[place][1], nothing)]) for place in places])
        with torch.autocast("cuda", torch.bfloat16, enabled=school.device == "cuda"):
            done = hearer.answer(batch, most, desk.tokenizer.eos_token_id)
        for place, ids in zip(places, done, strict=True):
            text = desk.tokenizer.decode(ids, skip_special_tokens=True)
            said[place] = school.lessons[asked[place][0]].space().to_video(text)
    return said


def temporal_scores(hearer: Any, school: School, desk: Any) -> dict[str, float]:
    """Mean interval IoU of AVTR with each sound, quickly: spectrograms are swapped, not sounds."""
    asked = [
        (place, one) for place, lesson in enumerate(school.lessons) for one in lesson.segments if one.task == "AVTR"
    ]
    found: defaultdict[str, float] = defaultdict(float)
    for name in ("own", "silence", "other"):
        heard = school if name == "own" else school.hearing(SILENT if name == "silence" else None)
        for said, (_, one) in zip(answers(hearer, heard, desk, asked, 48), asked, strict=True):
            found[f"m_tIoU_{name}"] += temporal_score(parse(one.answer), parse(said)) / len(asked)
    return dict(found)
