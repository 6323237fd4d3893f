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
from ravst_ray.toyworld.captions import label
from ravst_ray.toyworld.evaluate import BoxScore, score_names, score_tracks, true_objects

# What the tiny checkpoints are held to when the true names are given: recall, precision, mean IoU.
TARGETS = {"objects that touch no other": (0.92, 0.92, 0.85), "all objects": (0.85, 0.85, 0.8)}

LANGUAGE_MODEL = "Language model"


def name_objects(world: str | Path) -> Path:
    """Write a copy of a toy world's labels that names each event's true objects, so that no LLM is needed.

    They are what a perfect reader would make of the caption of this event: what sounds is what the event is labelled
    with. That another one of its objects sounds at the same time is said by the event that overlaps it.
    """
    root = Path(world)
    truth = json.loads((root / "truth.json").read_text())
    labels = json.loads((root / "unav100_annotations.json").read_text())
    for video_id, entry in labels["database"].items():
        for one in entry["annotations"]:
            event = Event(1, one["segment"][0], one["segment"][1], one["label"], caption=one.get("caption"))
            found = true_objects(truth[video_id], event)
            heard = {thing.name: thing.audible and label(thing.name) == one["label"] for thing in found}
            one["objects"] = [{"name": name, "audible": audible} for name, audible in heard.items()]
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
    tables: dict[str, Any] = {"True names given": _boxes(score.isolated, score.overall, targets=True)}
    if with_llm is not None:
        annotations = stored_annotations(with_llm)
        score = score_tracks(truth, annotations)
        names = score_names(truth, annotations)
        tables["Names from the language model"] = _boxes(score.isolated, score.overall, targets=False)
        tables[LANGUAGE_MODEL] = {
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
    """The same for a terminal: a row per group of objects, a column per metric, and whether a target is met."""
    shown = Table("boxes at IoU 0.5", "recall", "precision", "mean IoU", title="Accuracy on unseen toy scenes")
    for title, groups in tables.items():
        if title == LANGUAGE_MODEL:
            shown.caption = f"{title}: " + ", ".join(f"{name} {value:.3f}" for name, value in groups.items())
            continue
        for group, metrics in groups.items():
            shown.add_row(f"{title}:\n  {group}", *(f"\n{_cell(entry)}" for entry in metrics.values()))
    return shown


def _cell(entry: float | Mapping[str, float]) -> str:
    if not isinstance(entry, Mapping):
        return f"{entry:.3f}"
    value, target = entry["value"], entry["target"]
    return f"{value:.3f} [green]≥ {target:.2f}[/]" if value >= target else f"{value:.3f} [red]< {target:.2f}[/]"
