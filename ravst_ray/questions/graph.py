"""The reference graph of a question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ravst_ray.core.graphs import Graph, GraphFrame, Node, render_graph
from ravst_ray.core.scenes import Entity, Space
from ravst_ray.questions.view import SceneView


def reference_graph(
    view: SceneView, about: Sequence[Entity], times_s: Sequence[float], space: Space, max_nodes: int
) -> str:
    """The graph of these frames as JSON text: nodes are what is in sight, those asked about first.

    Positions are shares of width and height (2d) or metres with z up (3d), with two decimals. Edges say nothing more
    and are left out. Ids count from 1 by label, as entities come into the graph; an entity keeps its id throughout.
    """
    ids: dict[str, str] = {}
    labels: Counter[str] = Counter()
    frames: list[GraphFrame] = []
    for time_s in times_s:
        seen = view.seen(time_s)
        first = [entity for entity in about if entity in seen]
        nodes = []
        for entity in [*first, *(entity for entity in seen if entity not in first)][:max_nodes]:
            if entity.entity_id not in ids:
                labels[entity.label] += 1
                ids[entity.entity_id] = f"{entity.label}.{labels[entity.label]}"
            nodes.append(Node(ids[entity.entity_id], entity.label, _position(view, entity, time_s, space)))
        frames.append(GraphFrame(time_s, tuple(nodes)))
    return render_graph(Graph(tuple(frames)), edges=False)


def _position(view: SceneView, entity: Entity, time_s: float, space: Space) -> tuple[float, ...]:
    if space == "3d":
        x, y, z = view.centre_m(entity, time_s)
        return (x, y, z) if view.scene.metres_in == "room" else (x, z, -y)
    x, y = view.middle_px(entity, time_s)
    width, height = view.scene.width or 1, view.scene.height or 1
    return min(max(x / width, 0.0), 1.0), min(max(y / height, 0.0), 1.0)
