"""The dataset card that lies beside the questions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ravst_ray.config.make_str import MakeStrConfig

_SOURCES = {
    "ravst": "annotations by `ravst annotate`; the licence is that of the videos",
    "tao": "TAO (Dave et al., 2020): annotations by their licence, videos by those of seven datasets",
    "kitti": "KITTI tracking (Geiger et al., 2012): CC BY-NC-SA 3.0",
    "scannet": "ScanNet (Dai et al., 2017) by its terms of use; meta data of VSI-Bench: Apache-2.0",
    "toy": "synthetic, by `ravst toyworld`",
}


def dataset_card(config: MakeStrConfig, summary: Mapping[str, Any]) -> str:
    """``README.md``: what is in the dataset, where it is from, by which rules, and what its publisher must add."""
    source = config.input.format
    fields = type(config.margins).model_fields
    margins = {name: (getattr(config.margins, name), field.description) for name, field in fields.items()}
    excluded = ", ".join(summary["excluded"])
    return f"""---
license: other  # to fill in
task_categories: [visual-question-answering]
---
# Spatio-temporal questions by rule

{summary["questions"]} questions of {len(summary["kinds"])} kinds from {summary["scenes"]["done"]} scenes
(`questions.parquet`, the same as JSON Lines in `questions.jsonl`; numbers in `summary.json`, samples in `index.html`).
Made by `ravst make-str`, seed {config.seed}; `config.yaml` has all settings, and the same command makes the same rows.

## Questions

{_table(("kind", "questions"), summary["kinds"])}

Each has its answer, its unit, and the reference graph of the frames that it is about. Of choices the right option is
equally likely at each letter. Kinds that VSI-Bench (arXiv 2412.14171) has are defined as there; questions in the
picture, of motion and of boxes are our definition, consistent with the published description of Video-STR
(arXiv 2510.10976).

## Columns

{_table(("column", "what it holds"), summary["columns"])}

## Source

- {source}: {_SOURCES[source]}. Read from `{config.input.scenes}`.
- Licence: to fill in by whoever publishes this.

## What was left out

A question whose answer isn't clear by these margins is left out:

{_table(("margin", "value", "meaning"), margins)}

How often, of what was tried:

{_table(("kind/reason", "times"), summary["left_out"])}

Scenes that could not be read: {summary["scenes"]["failed"]} (table `errors/`).

## Exclusions

{excluded or "None. Before training for a benchmark, exclude its scenes (`exclude=[file]`)."}
"""


def _table(head: tuple[str, ...], rows: Mapping[str, Any]) -> str:
    lines = [head, ("---",) * len(head)]
    for name, values in rows.items():
        lines.append((f"`{name}`", *map(str, values if isinstance(values, tuple) else (values,))))
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
