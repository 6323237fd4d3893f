"""Greedy answers of a run's engines to questions that it doesn't learn from."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from ravst_ray.config.train import TrainConfig
from ravst_ray.config.video_llm import SamplingConfig
from ravst_ray.datasets.tasks import VideoTask
from ravst_ray.errors import StepError
from ravst_ray.logs import get_logger
from ravst_ray.policy.prompts import question_prompt
from ravst_ray.records import QAPair
from ravst_ray.tasks import task_of
from ravst_ray.tasks.spaces import AnswerSpace
from ravst_ray.training.clips import Clips, Shown
from ravst_ray.training.pool import RolloutPool

log = get_logger(__name__)


class Examiner(Protocol):
    """Holds the questions, and marks answers to them (:class:`~ravst_ray.training.validation.Validation`)."""

    tasks: Sequence[VideoTask]

    def mark(self, step: int, said: Mapping[str, str]) -> Any:
        """What the answers after a step, by question, are worth."""


class HeldOut:
    """Asks held-out questions.

    Args:
        config: of the run; they are asked as it asks.
        tasks: the questions, by video.
        pool: who answers.
        decode: gives a video's clip.
    """

    def __init__(
        self,
        config: TrainConfig,
        tasks: Sequence[VideoTask],
        pool: RolloutPool,
        decode: Callable[[VideoTask], Awaitable[Shown]],
    ):
        self._config, self._tasks, self._pool = config, tasks, pool
        self._clips = Clips(decode, config.rollouts.clips_gib)  # its own: a video of the same name may be another one
        self._sampling = SamplingConfig(max_tokens=config.rollouts.max_tokens)

    async def answers(self) -> dict[str, str]:
        """Completions by question, in seconds and pixels of the video; those that can't be asked are missing."""
        # As many as the engines can run, and some: clips must not all wait in memory.
        room = asyncio.Semaphore(2 * self._config.engine.max_num_seqs * self._config.rollouts.actors)
        failed: Counter[str] = Counter()

        async def one(task: VideoTask, pair: QAPair) -> tuple[str, str] | None:
            async with room:
                try:
                    return pair.qa_id, await self._answer(task, pair)
                except StepError as error:
                    failed[f"{error.reason}: {error.message}"] += 1
                    return None

        found = await asyncio.gather(*(one(task, pair) for task in self._tasks for pair in task.questions))
        if failed:
            worst, _ = failed.most_common(1)[0]
            log.warning("%d held-out questions could not be asked; they count as wrong (%s)", failed.total(), worst)
        return dict(answer for answer in found if answer is not None)

    async def _answer(self, task: VideoTask, pair: QAPair) -> str:
        shown = await self._clips.shown(task)
        assert shown is not None
        clip, view = shown
        prompt = self._config.prompt
        text = question_prompt(pair.task, pair.question, view, prompt)
        generation, _ = await self._pool.sample(text, clip, self._sampling)
        return task_of(pair.task).to_video(generation.completions[0].text, AnswerSpace.of(view, prompt))
