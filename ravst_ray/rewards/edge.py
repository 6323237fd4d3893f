"""Edge: are the objects related as they are, however the graph lies and is turned?"""

from __future__ import annotations

import numpy as np

from ravst_ray.config.rewards import Angles, GraphMode
from ravst_ray.rewards.graph_match import FrameMatch, GraphMatch
from ravst_ray.rewards.node import SHARPNESS, frame_node_score

_TINY = 1e-9


def edge_score(
    match: GraphMatch, angles: Angles = "invariant", scale_free: bool = False, mode: GraphMode = "sharp"
) -> float:
    """R_e in [0, 1], the mean over the frames (our definition, consistent with the published description).

    Edges are those of all pairs of a frame's nodes, E true ones and F predicted ones. With the lengths d and f of an
    edge whose two nodes are matched, and its direction's error a::

        R_e = mean(s_d) / 2 + s_a / 2        s_d = min(d, f) / max(d, f)

    Sums over matched edges are divided by max(E, F), so that missing and extra edges count 0, as do those of length 0.
    ``invariant``: a turn of the whole graph costs nothing. In 2-D, s_a = max(0, (k * rho^2 - 1) / (k - 1)) of the k
    matched edges, rho = |mean(exp(i * a))|: about 0 for random bearings, less than 1 for a mirror image. In 3-D, s_a
    is the mean cosine after the rotation that fits the nodes best. ``literal``: 1 - abs(a) / pi, of the bearings as
    written (in 3-D of the directions, turned about the vertical).

    A frame of one true edge has nothing but s_d where turns cost nothing. One without any, of a single object, scores
    as its node does: there is nothing to relate.

    Args:
        match: the two graphs.
        angles: whether directions count relative to each other or to the axes.
        scale_free: lengths are divided by their mean over the matched edges of their graph.
        mode: of the node's score, where that stands in.
    """
    literal = angles == "literal"
    pairs = [_vectors(frame, literal) for frame in match.frames]
    scale = 1.0
    if scale_free:
        true, said = (sum(float(np.linalg.norm(one[side], axis=1).sum()) for one in pairs) for side in (0, 1))
        scale = true / said if true > _TINY and said > _TINY else 1.0
    tau = SHARPNESS[mode] * match.diagonal
    scores = [
        _frame_score(frame, one, other * scale, literal) if len(frame.labels) > 1 else frame_node_score(frame, tau)
        for frame, (one, other) in zip(match.frames, pairs, strict=True)
    ]
    return sum(scores) / max(match.asked, 1)


def _vectors(frame: FrameMatch, literal: bool) -> tuple[np.ndarray, np.ndarray]:
    """From node to node of each matched edge, ``[k, D]``, true and predicted."""
    pairs = np.array(frame.pairs if literal else frame.related, dtype=int).reshape(-1, 2)
    said_MD = frame.placed_MD if literal else frame.turned_MD
    first, second = np.triu_indices(len(pairs), 1)
    true, said = frame.true_ND[pairs[:, 0]], said_MD[pairs[:, 1]]
    return true[second] - true[first], said[second] - said[first]


def _frame_score(frame: FrameMatch, true_KD: np.ndarray, said_KD: np.ndarray, literal: bool) -> float:
    n, m = len(frame.labels), len(frame.placed_MD)
    most = max(n * (n - 1), m * (m - 1)) // 2
    d, f = np.linalg.norm(true_KD, axis=1), np.linalg.norm(said_KD, axis=1)
    real = (d > _TINY) & (f > _TINY)
    true_KD, said_KD, d, f = true_KD[real], said_KD[real], d[real], f[real]
    length = float((np.minimum(d, f) / np.maximum(d, f)).sum()) / most
    if n == 2 and not literal:
        return length
    k = len(d)
    if literal:
        cosines = (true_KD * said_KD).sum(1) / (d * f)
        angle = float((1 - np.arccos(np.clip(cosines, -1, 1)) / np.pi).sum())
    elif true_KD.shape[1] == 3:
        angle = max(0.0, float(((true_KD * said_KD).sum(1) / (d * f)).sum()))
    elif k < 2:
        angle = 0.0
    else:
        turns = (said_KD @ [1, 1j]) * np.conj(true_KD @ [1, 1j]) / (d * f)
        rho = abs(turns.mean())
        angle = k * max(0.0, (k * rho**2 - 1) / (k - 1))
    return (length + angle / most) / 2
