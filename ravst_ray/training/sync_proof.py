"""The proof that an engine has the learner's weights: how far its log-probs are off, and may be.

An update of GRPO moves log-probs by less than bf16's noise, so what is found here is a broken transfer or a computation
that differs, not one missed update: that is for the engines' versions and checksums.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from ravst_ray.errors import AbortError
from ravst_ray.training.forward import Row, VideoForward
from ravst_ray.training.groups import Group

UNSURE = math.log(0.9)
FEWEST = 32
FACTOR, FLOOR, CEILING = 4.0, 0.02, 0.25


def typical_gap(ours: np.ndarray, theirs: np.ndarray) -> float:
    """How far two sides' log-probs of the same tokens are apart: the median over those of which a side is unsure.

    Most tokens of a trained policy's answers have a probability near 1 on both sides whatever the weights are; with
    them the number would follow the policy's entropy. bf16 puts single rare tokens off by 0.3 and more: no matter to a
    median.

    Args:
        ours: log-probs, ``[N]``; one that is no number counts as infinitely far, as it does in ``theirs``.
        theirs: log-probs, ``[N]``.

    Returns:
        The median over tokens whose probability is below 0.9 on a side, or over the 32 least sure ones.
    """
    with np.errstate(invalid="ignore"):
        apart = np.nan_to_num(np.abs(ours - theirs), nan=np.inf)
    sure = np.nan_to_num(np.minimum(ours, theirs), nan=-np.inf)
    count = max(int((sure < UNSURE).sum()), FEWEST)
    return float(np.median(apart[np.argsort(sure, kind="stable")[:count]]))


def logprob_gap(model: object, forward: VideoForward, groups: Sequence[Group]) -> float:
    """:func:`typical_gap` between the learner and the engine that sampled these groups, scored one by one."""
    ours = []
    for group in groups:
        rows = [Row(group.prompt_ids, one.token_ids, group.clip) for one in group.completions]
        with torch.no_grad():
            scores = forward.score(model, rows)
        ours.append(scores.logps[scores.mask].float().cpu().numpy())
    theirs = [one.logprobs for group in groups for one in group.completions]
    return typical_gap(np.concatenate(ours), np.concatenate(theirs))


class GapLimit:
    """How far apart log-probs may be.

    What is normal (the type that each side computes in, its kernels) shows before the first update, when both sides
    surely have the same weights: ``FACTOR`` times that gap is the limit, at least ``FLOOR``, at most ``CEILING``, which
    also holds for the first gap itself. A resumed run has no such moment (its engines start with other weights than the
    learner, and a transfer that fails would be taken for normal), so the gap of the start goes with the checkpoints.

    Args:
        fixed: the limit (``sync.max_gap``); None: found as above.

    Attributes:
        start: the gap before the first update; None as long as it isn't known.
    """

    def __init__(self, fixed: float | None):
        self._fixed = fixed
        self.start: float | None = None

    @property
    def value(self) -> float:
        """The limit as it is now."""
        if self._fixed is not None:
            return self._fixed
        return CEILING if self.start is None else min(max(FACTOR * self.start, FLOOR), CEILING)

    def check(self, gap: float, engine_version: int, learner_version: int) -> None:
        """Stop a run whose engine and learner don't agree; the first gap that may be becomes that of the start.

        Args:
            gap: from :func:`logprob_gap`; a second one where the first was above the limit.
            engine_version: the oldest with which the engine sampled.
            learner_version: what it should have.

        Raises:
            AbortError: the gap is above the limit, or the engine has other weights; the message says which side is
                behind.
        """
        if engine_version == learner_version and gap <= self.value:
            self.start = gap if self.start is None else self.start
            return
        if engine_version != learner_version:
            side = f"the engine is stale: it has version {engine_version}, the learner {learner_version}"
        elif not learner_version:
            side = "nothing was learned yet: the two sides compute otherwise; raise sync.max_gap if that is meant"
        else:
            side = f"both have version {learner_version}: the engine did not take the weights, or computes otherwise"
        raise AbortError(f"after a weight sync log-probs differ by {gap:.4f} (limit {self.value:.4f}); {side}")
