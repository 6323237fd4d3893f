"""Which point is which, and how one set of points is turned and moved onto another; 2-D and 3-D alike."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from ravst_ray.core.matching import best_assignment

Pairs = list[tuple[int, int]]

_STEPS = 10_000  # in which likeness is told apart
_CANDIDATES, _POINTS, _MANY, _TRIED, _REFINED, _ROUNDS = 8, 8, 256, 64, 4, 8


def kabsch(fixed_KD: np.ndarray, moving_KD: np.ndarray, upright: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The rotation and shift that bring points onto others with the least squared distance; never a mirroring.

    W. Kabsch, Acta Cryst. A32 (1976) 922, with the determinant held at +1.

    Args:
        fixed_KD: ``[..., K, D]`` points.
        moving_KD: ``[..., K, D]``, the point that belongs to each.
        upright: rotations about the third axis only (where D is 3).

    Returns:
        rotation ``[..., D, D]`` and shift ``[..., 1, D]``, for ``moving @ rotation + shift``.
    """
    fixed_mean, moving_mean = fixed_KD.mean(-2, keepdims=True), moving_KD.mean(-2, keepdims=True)
    product_DD = np.swapaxes(moving_KD - moving_mean, -1, -2) @ (fixed_KD - fixed_mean)
    if upright and product_DD.shape[-1] == 3:
        # The third axis by itself, and with the largest singular value: it stays as it is.
        third = 1 + abs(product_DD).sum((-1, -2))
        product_DD[..., 2, :] = product_DD[..., :, 2] = 0
        product_DD[..., 2, 2] = third
    u, _, vt = np.linalg.svd(product_DD)
    u[..., -1] *= np.sign(np.linalg.det(u @ vt))[..., None]
    rotation = u @ vt
    return rotation, fixed_mean - moving_mean @ rotation


def distances(a_ND: np.ndarray, b_MD: np.ndarray) -> np.ndarray:
    """``[..., N, M]`` Euclidean distances."""
    return np.asarray(np.sqrt(_squares(a_ND, b_MD)))


def _squares(a_ND: np.ndarray, b_MD: np.ndarray) -> np.ndarray:
    # Axis by axis: a sum over a last axis of two or three is slow.
    squares = [(a_ND[..., :, None, axis] - b_MD[..., None, :, axis]) ** 2 for axis in range(a_ND.shape[-1])]
    return np.asarray(sum(squares[1:], squares[0]))


def nearest_pairs(alike_NM: np.ndarray, distances_NM: np.ndarray) -> Pairs:
    """One-to-one pairs of points that are alike: as many as can be, the most alike, then the nearest in sum.

    Args:
        alike_NM: ``[N, M]`` in [0, 1]; 0: never a pair.
        distances_NM: ``[N, M]``, >= 0, finite.
    """
    if not distances_NM.size:
        return []
    nearness = 1 - distances_NM / max(float(distances_NM.max()), 1e-12)
    # Orders of magnitude apart, so that the order of preference is strict.
    most = min(alike_NM.shape) + 1
    weights = most * most * _STEPS + most * np.round(_STEPS * alike_NM) + nearness
    return best_assignment(np.where(alike_NM > 0, weights, 0.0).tolist())


def aligned_pairs(
    alike_NM: np.ndarray, fixed_ND: np.ndarray, moving_MD: np.ndarray, upright: bool = False
) -> tuple[Pairs, np.ndarray]:
    """Pairs of points that are alike and nearest after the best alignment, and the moving points so aligned.

    Pairs need an alignment and an alignment needs pairs. Where likeness leaves no choice, one Kabsch does. Else each
    way to pair a few points that lie far apart is a hypothesis; those whose sides agree best are tried on all points,
    and from the best four, pairing and aligning take turns until nothing changes; the smallest squared error wins.
    Nothing in it depends on how the moving points are turned or where they lie. It is exact where one set is the
    other, moved. With noise the best pairs may be missed: for five points without labels and noise of a tenth of
    their extent, about once in twenty; so they may with more than 8 candidates for a point. Points that all lie on
    a line leave a turn about it open.

    Args:
        alike_NM: ``[N, M]`` in [0, 1]; 0: never a pair.
        fixed_ND: ``[N, D]``, D of 2 or 3.
        moving_MD: ``[M, D]``.
        upright: in 3-D, turns about the third axis only.
    """
    allowed = alike_NM > 0
    if not allowed.any():
        return [], moving_MD
    if allowed.sum(0).max() == 1 and allowed.sum(1).max() == 1:
        starts = [moving_MD]
    else:
        starts = _starts(allowed, fixed_ND, moving_MD, upright)
    tried: set[tuple[tuple[int, int], ...]] = set()
    best_error, best_pairs, best_MD = np.inf, Pairs(), moving_MD
    for aligned_MD in starts:
        for _ in range(_ROUNDS):
            pairs = nearest_pairs(alike_NM, distances(fixed_ND, aligned_MD))
            if tuple(pairs) in tried:
                break
            tried.add(tuple(pairs))
            rows, columns = np.array(pairs).T
            rotation, shift = kabsch(fixed_ND[rows], moving_MD[columns], upright)
            aligned_MD = moving_MD @ rotation + shift
            error = float(((fixed_ND[rows] - aligned_MD[columns]) ** 2).sum())
            if error < best_error:
                best_error, best_pairs, best_MD = error, pairs, aligned_MD
    return best_pairs, best_MD


def _starts(allowed_NM: np.ndarray, fixed_ND: np.ndarray, moving_MD: np.ndarray, upright: bool) -> list[np.ndarray]:
    """The moving points in the best few hypothetical alignments, ``[M, D]`` each."""
    # The basis is of the side with fewer points that may have a counterpart: more of them do.
    turned = bool(allowed_NM.any(0).sum() < allowed_NM.any(1).sum())
    guesses = (
        _hypotheses(allowed_NM.T, moving_MD, fixed_ND)[:, ::-1]
        if turned
        else _hypotheses(allowed_NM, fixed_ND, moving_MD)
    )
    rotation, shift = kabsch(fixed_ND[guesses[:, 0]], moving_MD[guesses[:, 1]], upright)
    aligned = moving_MD @ rotation + shift
    apart = np.where(allowed_NM, _squares(fixed_ND, aligned), np.inf)
    # Each point of the smaller side to its nearest: a bound of the error that costs no assignment.
    nearest = apart.min(1 if turned else 2)
    error = np.where(np.isfinite(nearest), nearest, 0.0).sum(1)
    return list(aligned[np.argsort(error, kind="stable")[:_REFINED]])


def _hypotheses(allowed: np.ndarray, basis_side: np.ndarray, other_side: np.ndarray) -> np.ndarray:
    """``[H, 2, K]`` indices: K <= D points of the one side and what they may be on the other, likely ones first."""
    inner, outer = distances(basis_side, basis_side), distances(other_side, other_side)
    order = _far_apart(allowed.sum(1), inner)
    reach, other_reach = inner.mean(1), outer.mean(1)
    options: dict[int, list[int]] = {}
    for point in order:
        candidates = np.flatnonzero(allowed[point])
        likely = np.argsort(abs(other_reach[candidates] - reach[point]), kind="stable")[:_CANDIDATES]
        options[point] = candidates[likely].tolist()
    found: list[tuple[Sequence[int], Sequence[int]]] = []
    size = min(basis_side.shape[1], len(order)) + 1
    while not found:  # one point always has a counterpart
        size -= 1
        for first in range(len(order) - size + 1):
            window = order[first : first + size]
            ways = product(*(options[point] for point in window))
            found += [(window, chosen) for chosen in ways if len(set(chosen)) == size]
            if len(found) >= _MANY:
                break
    guesses = np.array(found)
    a, b = np.triu_indices(size, 1)
    here, there = guesses[:, 0], guesses[:, 1]
    wrong = abs(inner[here[:, a], here[:, b]] - outer[there[:, a], there[:, b]]).sum(1)
    return np.asarray(guesses[np.argsort(wrong, kind="stable")[:_TRIED]])


def _far_apart(choices: np.ndarray, apart: np.ndarray) -> list[int]:
    """At most 8 points that have a counterpart, those with the fewest first; among these, far from the ones before."""
    away = apart.mean(1)
    open_choices = np.where(choices > 0, choices, np.inf)
    order: list[int] = []
    for _ in range(min(int((choices > 0).sum()), _POINTS)):
        fewest = open_choices == open_choices.min()
        best = int(np.argmax(np.where(fewest, away, -1.0)))
        away = apart[best] if not order else np.minimum(away, apart[best])
        open_choices[best] = np.inf
        order.append(best)
    return order
