"""From a scene to its questions."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

from ravst_ray.config.make_str import StrRules
from ravst_ray.core.scenes import Scene
from ravst_ray.questions.draft import Draft, Kind
from ravst_ray.questions.graph import reference_graph
from ravst_ray.questions.kinds import KINDS
from ravst_ray.questions.view import SceneView
from ravst_ray.tasks.video_str import VIDEO_STR

TRIES = 8  # … for each question that is wanted: a scene of which little can be asked costs little
Row = dict[str, Any]


def questions_of(scene: Scene, rules: StrRules) -> tuple[list[Row], Counter[str]]:
    """The rows of a scene, by kind, and how many questions were left out for which reason (``kind/reason``).

    At most ``rules.questions.per_kind`` of each kind, in an order that hangs on the seed, the scene's id and the kind
    alone. What is left out is counted among those that were tried until there were enough; things that no question can
    mean alone are counted as ``entity/ambiguous_name``.
    """
    view = SceneView(scene, rules)
    rows: list[Row] = []
    left_out = Counter({"entity/ambiguous_name": len(scene.entities) - len(view.named)})
    for kind in KINDS.values():
        if rules.questions.kinds is not None and kind.name not in rules.questions.kinds:
            continue
        if not kind.fits(view):
            left_out[f"{kind.name}/scene_has_no_such"] += 1
            continue
        drafts = _drafts(kind, view, rules, left_out)
        rows += [_row(view, kind.name, index, draft, rules) for index, draft in enumerate(drafts)]
    return rows, +left_out


def _drafts(kind: Kind, view: SceneView, rules: StrRules, left_out: Counter[str]) -> list[Draft]:
    wanted = rules.questions.per_kind
    found: dict[tuple[str, ...], Draft] = {}
    rng = Random(f"{kind.name}\0{rules.seed}\0{view.scene.source}\0{view.scene.scene_id}")
    for tries, draft in enumerate(kind.ask(view, rules, rng)):
        if isinstance(draft, str):
            left_out[f"{kind.name}/{draft}"] += 1
        else:
            found.setdefault((draft.question, *sorted(draft.options)), draft)
        if len(found) == wanted or tries + 1 == TRIES * wanted:
            break
    return list(found.values())


def _row(view: SceneView, kind: str, index: int, draft: Draft, rules: StrRules) -> Row:
    scene = view.scene
    graph = reference_graph(view, draft.about, draft.times_s, draft.space, rules.questions.max_nodes)
    return {
        "id": f"{scene.scene_id}/{kind}/{index}",
        "task": VIDEO_STR.name,
        "scene": scene.scene_id,
        "source": scene.source,
        "video": scene.video,
        "duration_s": scene.duration_s,
        "width": scene.width,
        "height": scene.height,
        "kind": kind,
        "form": draft.form,
        "question": draft.question,
        "options": list(draft.options),
        "answer": draft.answer,
        "unit": draft.unit,
        "times_s": [round(time_s, 2) for time_s in draft.times_s],
        "graph": graph,
        "space": draft.space,
    }
