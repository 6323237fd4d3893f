"""The completions that a report shows, as a file of predictions: ``ravst review`` plays their videos."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from urllib.parse import urlencode

from ravst_ray.config.rewards import RewardConfig
from ravst_ray.config.train import TrainConfig
from ravst_ray.datasets.places import join
from ravst_ray.reports.completions import CompletionCard
from ravst_ray.tasks import settled

NAME = "report.completions.jsonl"


def completion_lines(cards: Iterable[CompletionCard]) -> tuple[list[CompletionCard], str]:
    """The cards, each with its address on the page of predictions, and the lines of the file that has them.

    A completion whose video can't be read has neither: in which space it answered isn't known.
    """
    known: list[CompletionCard] = []
    lines: list[str] = []
    seen: Counter[str] = Counter()
    for card in cards:
        one = card.sampled
        if card.in_video is None:
            known.append(card)
            continue
        address = urlencode({"id": one.question_id, "sample": seen[one.question_id]}, errors="replace")
        known.append(replace(card, address=f"#{address}"))
        seen[one.question_id] += 1
        row = {"id": one.question_id, "prediction": card.in_video, "truncated": one.truncated, "tokens": one.tokens}
        lines.append(json.dumps({**row, "step": one.step, "reward": one.reward}) + "\n")
    return known, "".join(lines)


def review_command(config: TrainConfig, place: str) -> str:
    """What shows the file: the run's questions and videos, scored as the run did.

    Args:
        config: of the run.
        place: of the run, a path or a URI.
    """
    words = ["ravst", "review", "--predictions", join(place, NAME), "--annotations", str(config.data.annotations)]
    words += ["--videos", str(config.data.videos)]
    usual = settled(RewardConfig()).model_dump(mode="json")
    for name, value in config.reward.model_dump(mode="json").items():
        if name in usual and value not in (usual[name], RewardConfig().model_dump(mode="json")[name]):
            words.append(f"{name}={json.dumps(value)}")
    return shlex.join(words)
