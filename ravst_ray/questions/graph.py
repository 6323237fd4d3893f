"""The reference graph of a question."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ravst_ray.core.scenes import Entity, Space
from ravst_ray.questions.view import SceneView


def reference_graph(
    view: SceneView, about: Sequence[Entity], times_s: Sequence[float], space: Space, max_nodes: int
) -> str:
    """The graph of these frames as JSON text: nodes are what is in sight, those asked about first.

    Positions are shares of width and height (2d) or metres (3d), with two decimals. Ids count from 1 by label, in the
    order in which entities first come into the graph; an entity keeps its id over the frames.
    """
    ids: dict[str, str] = {}
    labels: Counter[str] = Counter()
    frames: list[dict[str, Any]] = []
    for time_s in times_s:
        seen = view.seen(time_s)
        first = [entity for entity in about if entity in seen]
        nodes = []
        for entity in [*first, *(entity for entity in seen if entity not in first)][:max_nodes]:
            if entity.entity_id not in ids:
                labels[entity.label] += 1
                ids[entity.entity_id] = f"{entity.label}.{labels[entity.label]}"
            nodes.append({"id": ids[entity.entity_id], "pos": _position(view, entity, time_s, space)})
        frames.append({"t": round(time_s, 2), "nodes": nodes})
    return json.dumps({"frames": frames}, separators=(",", ":"))


def _position(view: SceneView, entity: Entity, time_s: float, space: Space) -> list[float]:
    if space == "3d":
        return [round(x, 2) + 0.0 for x in view.centre_m(entity, time_s)]
    x, y = view.middle_px(entity, time_s)
    width, height = view.scene.width or 1, view.scene.height or 1
    return [round(min(max(x / width, 0.0), 1.0), 2), round(min(max(y / height, 0.0), 1.0), 2)]
