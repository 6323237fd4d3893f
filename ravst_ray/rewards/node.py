"""Node: are the right objects there, and where they are?"""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np

from ravst_ray.config.rewards import GraphMode
from ravst_ray.rewards.graph_match import FrameMatch, GraphMatch

SHARPNESS = {"sharp": 0.25, "paper_like": 1.0}
"""How far off, in diagonals, a node earns nothing; at a whole one, nodes in the middle earn most of the score."""


def node_score(match: GraphMatch, mode: GraphMode = "sharp") -> float:
    """R_n in [0, 1], the mean over the frames (our definition, consistent with the published description).

    For each label c of a true frame, with n_c true and m_c predicted nodes, e the error of a pair's position and tau a
    quarter (``sharp``) or the whole (``paper_like``) of the diagonal::

        S_c = sum(max(0, 1 - e / tau)) / max(n_c, m_c)        R_n = sum(n_c * S_c) / (sum(n_c) + strays)

    Strays are predicted nodes that are like no true label: without them in it, naming an object in three ways would
    cost nothing. A frame in which nothing is and nothing is predicted scores 1.
    """
    tau = SHARPNESS[mode] * match.diagonal
    return sum(frame_node_score(frame, tau) for frame in match.frames) / max(match.asked, 1)


def frame_node_score(frame: FrameMatch, tau: float) -> float:
    """R_n of one frame; ``tau`` in the units of the positions."""
    said_labels = list(frame.said_labels)
    earned: defaultdict[str, float] = defaultdict(float)
    for i, j in frame.pairs:
        said_labels[j] = frame.labels[i]  # of two alike labels, the one that it is paired with
        error = float(np.linalg.norm(frame.true_ND[i] - frame.placed_MD[j]))
        earned[frame.labels[i]] += max(0.0, 1 - error / tau)
    true, said = Counter(frame.labels), Counter(said_labels)
    most = len(frame.labels) + said[""]
    return sum(true[label] * earned[label] / max(true[label], said[label]) for label in true) / most if most else 1.0
