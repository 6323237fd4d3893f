"""The report of ``ravst make-str``: one HTML file with numbers and drawn samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ravst_ray.reports import figures
from ravst_ray.reports.page import Tile, page_environment
from ravst_ray.reports.str_drawing import WIDTH, Drawing, draw

_MOST_ERRORS = 20


@dataclass(frozen=True)
class Sample:
    """One drawn question; ``options`` with their letters, and which of them is right."""

    row: Mapping[str, Any]
    drawing: Drawing
    options: tuple[tuple[str, str, bool], ...]


def render_str_report(
    summary: Mapping[str, Any], samples: Mapping[str, Sequence[Mapping[str, Any]]], errors: Sequence[Mapping[str, Any]]
) -> str:
    """The report as HTML; the same input gives the same text.

    Args:
        summary: what ``summary.json`` holds.
        samples: some rows of each kind.
        errors: rows of the scenes that could not be read.
    """
    template = page_environment().get_template("str_report.html.j2")
    return template.render(
        tiles=_tiles(summary),
        kinds=figures.ranked(summary["kinds"]),
        sources=figures.ranked(summary["sources"]),
        left_out=figures.ranked(_tried(summary["left_out"]), top=25),
        letters={kind: figures.bars(counts) for kind, counts in summary["letters"].items()},
        samples={kind: [_sample(row) for row in rows] for kind, rows in samples.items()},
        errors=errors[:_MOST_ERRORS],
        more_errors=max(len(errors) - _MOST_ERRORS, 0),
        excluded=summary["excluded"],
        width=WIDTH,
    )


def _tried(left_out: Mapping[str, int]) -> dict[str, int]:
    """Without the scenes that a kind doesn't fit, in words."""
    tried = {name: count for name, count in left_out.items() if not name.endswith("/scene_has_no_such")}
    return {name.replace("/", ": ").replace("_", " "): count for name, count in tried.items()}


def _tiles(summary: Mapping[str, Any]) -> list[Tile]:
    scenes = summary["scenes"]
    found = (
        ("Questions", summary["questions"], ""),
        ("Kinds", len(summary["kinds"]), ""),
        ("Scenes", scenes["done"], ", ".join(summary["sources"])),
        ("Scenes failed", scenes["failed"], "reasons below and in errors/"),
        ("Scenes excluded", len(summary["excluded"]), "those of benchmarks"),
    )
    return [Tile(label, value, f"{value:,}", note) for label, value, note in found]


def _sample(row: Mapping[str, Any]) -> Sample:
    letters = "ABCDEFGHIJ"
    options = tuple(
        (letter, text, letter == row["answer"]) for letter, text in zip(letters, row["options"], strict=False)
    )
    return Sample(row, draw(row), options)
