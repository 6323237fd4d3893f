"""What ends a run on purpose, and what is kept of it: a batch that can't be learned from, a disk that is full."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ravst_ray.errors import AbortError, BadBatchError
from ravst_ray.tasks.rubric import Reward, Rubric
from ravst_ray.training.groups import Group
from ravst_ray.training.records import rollout_rows, write_rows

_NAMED = 3
_TORCH_CANT_WRITE = re.compile("PytorchStreamWriter|inline_container|unexpected pos")


@dataclass(frozen=True, slots=True)
class FailedReward(Reward):
    """The place of a reward that there isn't: ``total`` is NaN.

    Attributes:
        error: what was raised, or which number came out.
    """

    error: str = ""


class GuardedRubric(Rubric):
    """A rubric that hands on what goes wrong in a reward, so that the batch can be saved as a whole."""

    def score(
        self, task: str, completion: str, truth: str, truncated: bool = False, tokens: int | None = None
    ) -> Reward:
        """The reward of one completion; a :class:`FailedReward` where it raises or isn't a finite number."""
        # A new NaN each time: no two of them are equal, so a group of them isn't taken for one of equal rewards.
        try:
            reward = super().score(task, completion, truth, truncated, tokens)
        except Exception as error:  # whatever a reward's author forgot; the learner stops at it
            said = " ".join(f"{type(error).__name__}: {error}".split())
            return FailedReward(float("nan"), {}, error=f"raised {said}")
        if math.isfinite(reward.total):
            return reward
        return FailedReward(float("nan"), reward.parts, reward.malformed, reward.maximum, f"is {reward.total}")


def check_rewards(groups: Sequence[Group]) -> None:
    """Look at the rewards before anything is learned from them.

    Raises:
        BadBatchError: one isn't a finite number; the message names the questions.
    """
    bad = {
        group.question_id: getattr(reward, "error", "") or f"is {reward.total}"
        for group in groups
        for reward in group.rewards
        if not math.isfinite(reward.total)
    }
    if bad:
        named = ", ".join(f"of {name} {what}" for name, what in sorted(bad.items())[:_NAMED])
        more = f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
        raise BadBatchError(f"the reward {named}{more}, not a finite number; nothing was learned from it")


def save_batch(output: Path, step: int, groups: Sequence[Group], texts: Sequence[str], reason: str) -> Path:
    """Write ``failed_batch_step_*.parquet``: a row for each completion, its reward's error, what stopped the run.

    Args:
        output: folder of the run.
        step: the step that failed, from 1.
        groups: all of the step.
        texts: the groups' prompts.
        reason: what stopped the run.
    """
    errors = [getattr(reward, "error", "") for group in groups for reward in group.rewards]
    rows = rollout_rows(step, groups, texts)
    rows = [{**row, "error": error, "reason": reason} for row, error in zip(rows, errors, strict=True)]
    path = output / f"failed_batch_step_{step:06d}.parquet"
    write_rows(rows, path)
    return path


@contextmanager
def writing(what: object) -> Iterator[None]:
    """Turn the ways in which a disk refuses to be written into one error that says what to do.

    Raises:
        AbortError: in place of ``OSError`` and of what safetensors and torch make of it.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _TORCH_CANT_WRITE.search(str(error)):
            raise
        said = " ".join(str(error).split())
        raise AbortError(
            f"{what} can't be written ({said}); make room on the disk, then the same command with --resume goes on; "
            "checkpoints before it are whole"
        ) from error
