"""The questions that are asked, and their order: a shuffle for each epoch, given by the seed and the place alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ravst_ray.config.train import TrainConfig, TrainDataConfig
from ravst_ray.datasets.splits import hash_share
from ravst_ray.datasets.tasks import VideoTask, read_tasks
from ravst_ray.errors import ConfigError
from ravst_ray.logs import get_logger
from ravst_ray.policy.families.chat import special_in
from ravst_ray.records import QAPair

log = get_logger(__name__)


def training_tasks(data: TrainDataConfig, tell: bool = True) -> list[VideoTask]:
    """The questions to train on; those in which a token of the model's own is written out are left out.

    Args:
        data: the files.
        tell: log how many are left out.

    Raises:
        ConfigError: as :func:`~ravst_ray.datasets.tasks.read_tasks`, or nothing is left.
    """
    tasks = read_tasks(data.annotations, data.videos, data.limit)
    pairs = [pair for task in tasks for pair in task.questions]
    if not pairs:
        raise ConfigError(
            f"data.annotations: no question in {data.annotations}; ravst annotate writes the accepted ones, and with "
            "export.statuses=[accepted,suspect] those that a person should look at, too"
        )
    bad = {pair.qa_id for pair in pairs if special_in(pair.question + pair.answer)}
    if not bad:
        return tasks
    message = f"a token of the model's own (<|…|>) stands in {len(bad)} of {len(pairs)} questions, {min(bad)} is one"
    if len(bad) == len(pairs):
        raise ConfigError(f"data.annotations: {message}; none can be asked")
    if tell:
        log.warning("%s; they are left out", message)
    kept = [replace(task, questions=tuple(pair for pair in task.questions if pair.qa_id not in bad)) for task in tasks]
    return [task for task in kept if task.questions]


def held_out_tasks(config: TrainConfig) -> list[VideoTask]:
    """The questions of a run's validation; those with the lowest hashes of seed and id where it has a limit.

    Raises:
        ConfigError: as :func:`training_tasks`, of ``validation``.
    """
    rules = config.validation
    assert rules.annotations is not None
    held_out = TrainDataConfig(annotations=rules.annotations, videos=rules.videos or config.data.videos)
    try:
        tasks = training_tasks(held_out, tell=False)
    except ConfigError as error:
        raise ConfigError(f"validation: {error}") from None
    by_hash = sorted((hash_share(config.seed, q.qa_id, "validation"), q.qa_id) for t in tasks for q in t.questions)
    chosen = {name for _, name in by_hash[: rules.limit]}
    kept = [replace(task, questions=tuple(q for q in task.questions if q.qa_id in chosen)) for task in tasks]
    return [task for task in kept if task.questions]


def learned_from(held_out: Sequence[VideoTask], tasks: Sequence[VideoTask]) -> int:
    """How many of the held-out videos are files that are trained on."""
    return len({task.path for task in held_out} & {task.path for task in tasks})


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
