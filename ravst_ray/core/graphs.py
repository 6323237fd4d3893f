"""A graph of objects as JSON text: one renderer, one parser, exact inverses.

::

    {"frames":[{"t":2.0,"nodes":[{"id":"drum.1","pos":[0.31,0.62]},{"id":"dog.1","pos":[0.7,0.2]}],
    "edges":[{"s":"drum.1","o":"dog.1","dist":0.57,"angle":-0.82}]}]}

(It is written in one line.) The syntax is our definition, consistent with the published description (arXiv
2510.10976). Positions are shares of the picture's width and height, y down (2-D), or metres, the third upwards (3-D).
Edges say nothing that the nodes don't: they are recomputed, and stated ones only compared. ``dist`` is Euclidean in
units of ``pos``, ``angle`` the bearing atan2(dy, dx) in radians, in 2-D alone. Numbers are written with at most two
decimals.

The parser takes any text, never raises, is linear in its length and counts what is malformed by kind.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import atan2, dist, pi, remainder
from typing import Any

from ravst_ray.core.values import MOST

GRAPH_MALFORMATIONS: dict[str, str] = {
    "too_long": "a graph of more than 64k characters, or nested too deep (isn't read)",
    "bad_json": "the graph isn't JSON (isn't read)",
    "bad_shape": "a part of the graph that isn't as it should be (left out)",
    "empty_graph": "a graph without a frame",
    "too_many": "more than 64 frames, or 64 nodes or 2016 edges in a frame (the rest is left out)",
    "repeated_frame": "a second frame of one time (left out)",
    "bad_number": "a time or position that isn't finite, or beyond a million (left out)",
    "bad_id": "an id that isn't 'label.number' (its node is left out)",
    "repeated_id": "a second node of one id in a frame (left out)",
    "mixed_space": "a position with another number of coordinates than the first (left out)",
    "unknown_node": "an edge of a node that isn't there",
    "false_edge": "an edge whose dist or angle isn't that of its nodes",
}
"""Every kind of malformation that is counted, and what it means."""

LONGEST = 65_536  # characters of a graph
DEEPEST = 8  # brackets within brackets; a position lies in six
MOST_FRAMES = MOST_NODES = 64
MOST_EDGES = MOST_NODES * (MOST_NODES - 1) // 2
DIST_TOLERANCE, DIST_SHARE, ANGLE_TOLERANCE = 0.02, 0.02, 0.05
"""How far a stated edge may be off, for numbers are rounded: 0.02 and 2% of the distance; 0.05 rad."""
_ROUNDING = 1e-9

_ID = re.compile(r"(\S(?:.{0,98}\S)?)\.([1-9][0-9]{0,3})")
_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*+"?|([\[{])|[\]}]', re.DOTALL)
_DECODER = json.JSONDecoder(parse_int=float)  # an int of thousands of digits would raise


@dataclass(frozen=True, slots=True)
class Node:
    """An object in a frame. ``id`` is ``label.number``, ``pos`` of 2 shares of the picture in [0, 1], or 3 metres."""

    id: str
    label: str
    pos: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class GraphFrame:
    """The objects of one time."""

    time_s: float
    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Graph:
    """Frames in the order in which they are written; all positions have the same number of coordinates."""

    frames: tuple[GraphFrame, ...]


def render_graph(graph: Graph, edges: bool = True) -> str:
    """The graph as JSON text; edges are those of all pairs of a frame's nodes.

    Raises:
        ValueError: what :func:`parse_graph` would call malformed (an id that isn't ``label.number``, too many nodes).
    """
    frames: list[dict[str, Any]] = []
    for frame in graph.frames:
        nodes = [(node.id, [_rounded(x) for x in node.pos]) for node in frame.nodes]
        written = [{"id": name, "pos": pos} for name, pos in nodes]
        frames.append({"t": _rounded(frame.time_s), "nodes": written})
        if edges:
            frames[-1]["edges"] = [
                {"s": one, "o": other, **_relation(pos, other_pos)}
                for (one, pos), (other, other_pos) in combinations(nodes, 2)
            ]
    # "<" as an escape: no label ends the graph or the thinking.
    text = json.dumps({"frames": frames}, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    if malformed := parse_graph(text)[1]:
        raise ValueError(
            "the graph grammar can't carry it: " + "; ".join(GRAPH_MALFORMATIONS[kind] for kind in malformed)
        )
    return text


def parse_graph(text: str) -> tuple[Graph, Counter[str]]:
    """The graph of a JSON text as far as it can be read, and how often each kind of malformation was met."""
    malformed: Counter[str] = Counter()
    if len(text) > LONGEST or _depth(text) > DEEPEST:
        malformed["too_long"] += 1
        return Graph(()), malformed
    try:
        tree = _DECODER.decode(text)
    except ValueError:
        malformed["bad_json"] += 1
        return Graph(()), malformed
    reader = _Reader(malformed)
    frames: dict[float, GraphFrame] = {}
    for item in reader.items(tree, "frames", MOST_FRAMES):
        frame = reader.frame(item)
        if frame and _rounded(frame.time_s) in frames:
            malformed["repeated_frame"] += 1
        elif frame:
            frames[_rounded(frame.time_s)] = frame
    if not frames:
        malformed["empty_graph"] += 1
    return Graph(tuple(frames.values())), +malformed


class _Reader:
    """One pass over the tree of a graph; what can't be used is counted and left out."""

    def __init__(self, malformed: Counter[str]):
        self.malformed = malformed
        self.coordinates = 0  # of a position; 0 before the first

    def items(self, tree: object, key: str, most: int) -> list[Any]:
        found = tree.get(key) if isinstance(tree, dict) else None
        if not isinstance(found, list):
            self.malformed["bad_shape"] += 1
            return []
        if len(found) > most:
            self.malformed["too_many"] += 1
        return found[:most]

    def frame(self, tree: object) -> GraphFrame | None:
        if not isinstance(tree, dict):
            self.malformed["bad_shape"] += 1
            return None
        time_s: Any = tree.get("t")
        if not self._numbers([time_s]):
            return None
        nodes: dict[str, Node] = {}
        for item in self.items(tree, "nodes", MOST_NODES):
            node = self._node(item)
            if node and node.id in nodes:
                self.malformed["repeated_id"] += 1
            elif node:
                nodes[node.id] = node
        if "edges" in tree:
            for item in self.items(tree, "edges", MOST_EDGES):
                self._compare(item, nodes)
        return GraphFrame(float(time_s), tuple(nodes.values()))

    def _numbers(self, values: list[Any]) -> bool:
        """Whether all are numbers that can be used."""
        if not all(isinstance(value, float) for value in values):
            self.malformed["bad_shape"] += 1
        elif not all(abs(value) <= MOST for value in values):  # not: > MOST, for NaN
            self.malformed["bad_number"] += 1
        else:
            return True
        return False

    def _node(self, tree: object) -> Node | None:
        name, pos = (tree.get("id"), tree.get("pos")) if isinstance(tree, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(pos, list) or len(pos) not in (2, 3):
            self.malformed["bad_shape"] += 1
            return None
        found = _ID.fullmatch(name)
        if not found or not name.isprintable():
            self.malformed["bad_id"] += 1
            return None
        if not self._numbers(pos):
            return None
        self.coordinates = self.coordinates or len(pos)
        if len(pos) != self.coordinates:
            self.malformed["mixed_space"] += 1
            return None
        return Node(name, found[1], tuple(pos))

    def _compare(self, tree: object, nodes: Mapping[str, Node]) -> None:
        edge = tree if isinstance(tree, dict) else {}
        one, other = edge.get("s"), edge.get("o")
        stated = {key: edge[key] for key in ("dist", "angle") if key in edge}
        if not isinstance(one, str) or not isinstance(other, str):
            self.malformed["bad_shape"] += 1
        elif one not in nodes or other not in nodes:
            self.malformed["unknown_node"] += 1
        elif self._numbers([*stated.values()]):
            true = _relation(nodes[one].pos, nodes[other].pos)
            length = true["dist"]
            off = abs(stated.get("dist", length) - length) > DIST_TOLERANCE + DIST_SHARE * length + _ROUNDING
            # Where two nodes are as good as one, there is no bearing to be right about.
            if "angle" in stated and "angle" in true and length > DIST_TOLERANCE:
                off = off or abs(remainder(stated["angle"] - true["angle"], 2 * pi)) > ANGLE_TOLERANCE + _ROUNDING
            self.malformed["false_edge"] += off


def _relation(a: Sequence[float], b: Sequence[float]) -> dict[str, float]:
    relation = {"dist": _rounded(dist(a, b))}
    return relation if len(a) != 2 else {**relation, "angle": _rounded(atan2(b[1] - a[1], b[0] - a[0]))}


def _rounded(number: float) -> float:
    return round(float(number), 2) + 0.0  # no -0.0


def _depth(text: str) -> int:
    """How deep brackets lie within brackets, those in strings aside."""
    depth = deepest = 0
    for found in _BRACKET.finditer(text):
        if found[1]:
            depth += 1
            deepest = max(deepest, depth)
        elif found[0] in "]}":
            depth -= 1
    return deepest
