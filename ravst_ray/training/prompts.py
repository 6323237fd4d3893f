"""The order in which questions are asked: a shuffle for each epoch, given by the seed and the place alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ravst_ray.datasets.tasks import VideoTask
from ravst_ray.records import QAPair


@dataclass(frozen=True)
class Ask:
    """One question about one video."""

    pair: QAPair
    video: VideoTask


class PromptOrder:
    """Questions at places 0, 1, 2, …; every epoch holds each question once, in an order of its own.

    Args:
        tasks: videos with their questions.
        seed: of the run.
    """

    def __init__(self, tasks: Sequence[VideoTask], seed: int):
        self._asks = [Ask(pair, task) for task in tasks for pair in task.questions]
        self._seed = seed
        self._epoch, self._order = -1, np.zeros(0, int)

    def __len__(self) -> int:
        return len(self._asks)

    def at(self, place: int) -> Ask:
        """The question at a place."""
        epoch, index = divmod(place, len(self._asks))
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([self._seed, epoch]).permutation(len(self._asks))
        return self._asks[int(self._order[index])]
