"""A run held against the cards that there are, before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from math import ceil
from typing import Any

from ravst_ray.config.train import TrainConfig
from ravst_ray.errors import ConfigError
from ravst_ray.logs import get_logger
from ravst_ray.models.cards import GIB, MOST_SHARE
from ravst_ray.training.memory import Budget, estimate

log = get_logger(__name__)
_STEP = 0.05


def check_cards(config: TrainConfig, cards: Sequence[int]) -> None:
    """Refuse a run that fits none of the cards; tell of those on which it doesn't, and where it isn't known.

    Args:
        config: of the run.
        cards: bytes of the cards, one of each node; none where there is none yet.

    Raises:
        ConfigError: even the largest is too small; the message has the parts, and a setting that fits.
    """
    if not config.learner.num_gpus and not config.rollouts.num_gpus:
        return
    budget = estimate(config)
    if budget is None:
        log.warning("nothing tells how %s is built; whether the run fits the cards isn't known", config.model)
        return
    if not cards:
        log.warning("no card is there yet; the run is for cards of %.1f GiB or more", budget.card / GIB)
        return
    if budget.card > max(cards):
        raise ConfigError(
            f"{config.model} doesn't fit cards of {max(cards) / GIB:.1f} GiB: {_reason(budget, max(cards))}; "
            + _fix(config, max(cards))
        )
    if budget.card > min(cards):
        small, need = min(cards) / GIB, budget.card / GIB
        log.warning("a node's card has %.1f GiB: the run fails if it gets that one, it needs %.1f GiB", small, need)


def _reason(budget: Budget, card: float) -> str:
    """The first that doesn't fit."""
    if budget.learner_on_card and budget.learner.total > card:
        return f"a learner needs {budget.learner}"
    part = f"{budget.share * card / GIB:.1f} GiB (engine.gpu_memory_utilization = {budget.share:g})"
    if budget.engine.total > budget.share * card:
        return f"an engine needs {budget.engine} of its {part}"
    return f"an engine that is awake takes {part}, and beside it the learner keeps {budget.states}"


def _fix(config: TrainConfig, card: float) -> str:
    """The fewest changes that fit, the mildest first."""
    changes = list(_changes(config, card))
    for count in range(1, len(changes) + 1):
        for chosen in combinations(changes, count):
            changed = config
            for key, value in chosen:
                changed = _with(changed, key, value)
            budget = estimate(changed)
            assert budget is not None
            if budget.card <= card:
                return "set " + " and ".join(f"{key}={str(value).lower()}" for key, value in chosen)
    whole = estimate(config)
    assert whole is not None
    more = "" if config.learner.lora is not None else "train an adapter (learner.lora.rank=32), "
    return f"{more}use more learner.workers with learner.shard, or take cards of {ceil(whole.card / GIB)} GiB or more"


def _changes(config: TrainConfig, card: float) -> Iterator[tuple[str, Any]]:
    """Settings that take less, and what to set them to."""
    learner, group = config.learner, config.rollouts.group_size
    budget = estimate(config)
    assert budget is not None
    share = ceil(budget.engine.total / card / _STEP - 1e-9) * _STEP
    if budget.engine_on_card and share <= MOST_SHARE + 1e-9 and abs(share - budget.share) > _STEP / 2:
        yield "engine.gpu_memory_utilization", round(share, 2)
    if not learner.gradient_checkpointing:
        yield "learner.gradient_checkpointing", True
    if learner.workers > 1 and not learner.shard:
        yield "learner.shard", True
    if learner.micro_batch > group:
        yield "learner.micro_batch", group
    if learner.micro_batch > 1:
        yield "learner.micro_batch", 1
    if config.engine.max_model_len > 4096:
        yield "engine.max_model_len", 4096


def _with(config: TrainConfig, key: str, value: Any) -> TrainConfig:
    section, name = key.split(".")
    part = getattr(config, section).model_copy(update={name: value})
    return config.model_copy(update={section: part})
