"""Gating: what the graph counts, given the answer, and the answer, given the graph."""

from __future__ import annotations

from collections.abc import Mapping

from ravst_ray.config.rewards import Gating

GRAPH_PARTS = ("node", "edge")


def gated(parts: Mapping[str, float], gating: Gating, choice: bool) -> dict[str, float]:
    """The parts as they count.

    ``none``: as they are. ``correct_only``: ``node`` and ``edge`` count 0 unless the answer is right: a choice with a
    score of 1, anything else with more than 0.5. ``spacer``: as that, and a graph that earned nothing takes the answer
    with it. Both conditions are those of SpaceR's released code (arXiv 2504.01805) for its map.

    Args:
        parts: scores in [0, 1] by name, ``answer``, ``node`` and ``edge`` among them.
        gating: the rule.
        choice: whether the question has options.
    """
    counted = dict(parts)
    right = parts["answer"] >= 1 if choice else parts["answer"] > 0.5
    if gating != "none" and not right:
        counted.update(dict.fromkeys(GRAPH_PARTS, 0.0))
    if gating == "spacer" and not any(parts[name] > 0 for name in GRAPH_PARTS):
        counted["answer"] = 0.0
    return counted
