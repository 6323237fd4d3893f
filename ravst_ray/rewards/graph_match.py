"""Which node of a model's graph is which of the true one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ravst_ray.core.alignment import Pairs, aligned_pairs, distances, nearest_pairs
from ravst_ray.core.graphs import Graph, GraphFrame, Node
from ravst_ray.core.matching import best_assignment
from ravst_ray.core.names import NameMatcher

NEAREST_S = 0.5
"""A predicted frame may be this far from the time that it is about."""


@dataclass(frozen=True, slots=True)
class FrameMatch:
    """A true frame and the predicted one that belongs to it.

    Attributes:
        labels: label of each true node.
        said_labels: of each predicted node the true label that it is most alike, "" where it is like none.
        true_ND: positions ``[n, D]``, D of 2 or 3.
        placed_MD: predicted positions ``[m, D]`` where their error is measured: in 2-D as written, in 3-D turned about
            the vertical and moved onto the true ones.
        pairs: true and predicted index of the nodes whose places are compared.
        turned_MD: predicted positions turned and moved freely onto the true ones, for what is blind to that.
        related: the pairs then; others than ``pairs`` only where a label occurs more than once.
    """

    labels: tuple[str, ...]
    said_labels: tuple[str, ...]
    true_ND: np.ndarray
    placed_MD: np.ndarray
    pairs: Pairs
    turned_MD: np.ndarray
    related: Pairs


@dataclass(frozen=True, slots=True)
class GraphMatch:
    """The frames of two graphs that belong together.

    Attributes:
        frames: at most one per true frame.
        asked: number of frames that scores are the mean over: the larger of true and predicted, so that missing
            frames count 0 and extra ones cost as much.
        diagonal: of the picture, sqrt(2), in 2-D; in 3-D of the box around all true nodes, metres, 0.1 at least.
    """

    frames: tuple[FrameMatch, ...]
    asked: int
    diagonal: float


def match_graphs(true: Graph, said: Graph | None, names: NameMatcher) -> GraphMatch:
    """Pair frames by time, and their nodes by label and position (our definition).

    A predicted frame belongs to a true time at most 0.5 s away, one to one, the nearest. Nodes with the same label are
    paired one to one so that the sum of their distances is least. Positions in a picture can be seen, so in 2-D they
    are compared as they are. Of metres, what is up can be seen and the other axes are the model's own choice, so in
    3-D one rotation about the third axis and one shift (Kabsch, never a mirroring) of all frames together come first:
    motion has to be right as well. With a free rotation, the mirror image of things that stand on a floor would be
    nearly as good as the truth: it is the floor seen from below. Relations don't depend on where a graph lies or how
    it is turned, so they are paired after any rotation and a shift.

    Args:
        true: the reference.
        said: the model's graph; None, or one of another dimension, has no match.
        names: decides which labels are the same.
    """
    everything = [node.pos for frame in true.frames for node in frame.nodes]
    space = len(everything[0]) if everything else 2
    diagonal = max(float(np.linalg.norm(np.ptp(everything, axis=0))), 0.1) if space == 3 else float(np.sqrt(2))
    asked = max(len(true.frames), len(said.frames) if said else 0)
    if not said or any(len(node.pos) != space for frame in said.frames for node in frame.nodes):
        return GraphMatch((), asked, diagonal)
    paired = [(true.frames[i], said.frames[j]) for i, j in _same_times(true.frames, said.frames)]
    true_ND = _positions([one for one, _ in paired], space)
    said_MD = _positions([other for _, other in paired], space)
    # All frames at once; nodes of different frames are never alike.
    alike = np.zeros((len(true_ND), len(said_MD)))
    places: list[tuple[slice, slice]] = []
    row = column = 0
    for one, other in paired:
        rows, columns = slice(row, row + len(one.nodes)), slice(column, column + len(other.nodes))
        block = [[names.score(node.label, guess.label) for guess in other.nodes] for node in one.nodes]
        alike[rows, columns] = np.reshape(block, (len(one.nodes), len(other.nodes)))
        places.append((rows, columns))
        row, column = rows.stop, columns.stop
    related, turned_MD = aligned_pairs(alike, true_ND, said_MD)
    if space == 3:
        pairs, placed_MD = aligned_pairs(alike, true_ND, said_MD, upright=True)
    else:
        pairs, placed_MD = nearest_pairs(alike, distances(true_ND, said_MD)), said_MD
    frames = [
        FrameMatch(
            labels=tuple(node.label for node in one.nodes),
            said_labels=tuple(_most_alike(other.nodes, one.nodes, names)),
            true_ND=true_ND[rows],
            placed_MD=placed_MD[columns],
            pairs=_within(pairs, rows, columns),
            turned_MD=turned_MD[columns],
            related=_within(related, rows, columns),
        )
        for (one, other), (rows, columns) in zip(paired, places, strict=True)
    ]
    return GraphMatch(tuple(frames), asked, diagonal)


def _same_times(true: Sequence[GraphFrame], said: Sequence[GraphFrame]) -> Pairs:
    """Indices of the frames that belong together: as many as can be, then the nearest."""
    apart = [[abs(one.time_s - other.time_s) for other in said] for one in true]
    most = min(len(true), len(said)) + 1
    return best_assignment([[most - far if far <= NEAREST_S + 1e-6 else 0.0 for far in row] for row in apart])


def _positions(frames: Sequence[GraphFrame], space: int) -> np.ndarray:
    return np.array([node.pos for frame in frames for node in frame.nodes], dtype=float).reshape(-1, space)


def _most_alike(said: Sequence[Node], true: Sequence[Node], names: NameMatcher) -> list[str]:
    labels = sorted({node.label for node in true})
    best: dict[str, str] = {}
    for label in {guess.label for guess in said}:
        score, name = max(((names.score(name, label), name) for name in labels), default=(0.0, ""))
        best[label] = name if score > 0 else ""
    return [best[guess.label] for guess in said]


def _within(pairs: Pairs, rows: slice, columns: slice) -> Pairs:
    """The pairs of a frame, counted from its first nodes."""
    return [(i - rows.start, j - columns.start) for i, j in pairs if rows.start <= i < rows.stop]
