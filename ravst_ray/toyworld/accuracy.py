"""The demo's accuracy tables: what the pipeline wrote, against the toy world's exact truth."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from ravst_ray.datasets.schemas import annotation_from_row
from ravst_ray.datasets.store import DatasetStore
from ravst_ray.records import Event, EventAnnotation
from ravst_ray.toyworld.evaluate import BoxScore, score_names, score_tracks, true_objects

# What the tiny checkpoints are held to when the true names are given: recall, precision, mean IoU.
TARGETS = {"objects that touch no other": (0.92, 0.92, 0.85), "all objects": (0.85, 0.85, 0.8)}


def name_objects(world: str | Path) -> Path:
    """Write a copy of a toy world's labels that names each event's true objects, so that no LLM is needed."""
    root = Path(world)
    truth = json.loads((root / "truth.json").read_text())
    labels = json.loads((root / "unav100_annotations.json").read_text())
    for video_id, entry in labels["database"].items():
        for one in entry["annotations"]:
            event = Event(1, one["segment"][0], one["segment"][1], one["label"], caption=one.get("caption"))
            found = true_objects(truth[video_id], event)
            one["objects"] = [{"name": thing.name, "audible": thing.audible} for thing in found]
    path = root / "unav100_annotations_named.json"
    path.write_text(json.dumps(labels, indent=1))
    return path


def stored_annotations(store: DatasetStore) -> dict[str, list[EventAnnotation]]:
    """A dataset's annotations by video id."""
    found: dict[str, list[EventAnnotation]] = {}
    for row in store.rows("annotations"):
        found.setdefault(row["video_id"], []).append(annotation_from_row(row))
    return found


def accuracy_of(truth: Mapping[str, Any], with_true_names: DatasetStore, with_llm: DatasetStore | None = None) -> dict:
    """Tables of metrics, ``{title: {group: {metric: value or {"value", "target"}}}}``, as the report shows them."""
    score = score_tracks(truth, stored_annotations(with_true_names))
    tables: dict[str, Any] = {"Boxes, true names given": _boxes(score.isolated, score.overall, targets=True)}
    if with_llm is not None:
        annotations = stored_annotations(with_llm)
        score = score_tracks(truth, annotations)
        names = score_names(truth, annotations)
        tables["Boxes, names from the language model"] = _boxes(score.isolated, score.overall, targets=False)
        tables["Language model"] = {
            "named objects found": names.recall,
            "names that are right": names.precision,
            "audibility right": names.audibility,
        }
    return tables


def _boxes(isolated: BoxScore, overall: BoxScore, targets: bool) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for (group, goals), score in zip(TARGETS.items(), (isolated, overall), strict=True):
        values = {"recall": score.recall, "precision": score.precision, "mean IoU": score.mean_iou}
        table[group] = {
            name: {"value": value, "target": goal} if targets else value
            for (name, value), goal in zip(values.items(), goals, strict=True)
        }
    return table


def accuracy_table(tables: Mapping[str, Any]) -> Table:
    """The same for a terminal."""
    shown = Table("", "", "value", "target", "", title="Accuracy on unseen toy scenes (boxes at IoU 0.5)")
    for title, groups in tables.items():
        for group, metrics in groups.items():
            for name, entry in metrics.items() if isinstance(metrics, Mapping) else ((group, metrics),):
                value, target = (entry["value"], entry["target"]) if isinstance(entry, Mapping) else (entry, None)
                label = name if name == group else f"{group}: {name}"
                mark = "" if target is None else "[green]met[/]" if value >= target else "[red]missed[/]"
                shown.add_row(title, label, f"{value:.3f}", "" if target is None else f"{target:.2f}", mark)
                title = ""
        shown.add_section()
    return shown
