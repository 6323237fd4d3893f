"""What a training report shows of the answers to held-out questions: OUT/validation.jsonl as charts and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ravst_ray.reports.curves import COLORS, INK, Chart, Series, chart
from ravst_ray.tasks import TASKS

_TRIVIAL = "trivial/"


@dataclass(frozen=True)
class HeldOutTable:
    """A task's metrics in percent; each row has the value at the start, at the best step, at the end, and trivially."""

    task: str
    rows: tuple[tuple[str, tuple[float | None, ...]], ...]


def best_step(rows: Sequence[Mapping[str, float]], metric: str) -> int | None:
    """The step with the highest value, the earliest of several; None where none has any."""
    known = [row for row in rows if metric in row]
    return int(max(known, key=lambda row: (row[metric], -row["step"]))["step"]) if known else None


def held_out_charts(rows: Sequence[Mapping[str, float]]) -> list[Chart]:
    """The reward, and of each task its headline metrics beside the best trivial answer's."""
    steps = [int(row["step"]) for row in rows]
    wanted = ["reward", *(f"{name}/{metric}" for name in TASKS for metric in TASKS[name].headline)]
    found = []
    for key in wanted:
        own = {int(row["step"]): row[key] for row in rows if key in row}
        beside = {int(row["step"]): row[_TRIVIAL + key] for row in rows if _TRIVIAL + key in row}
        series = [Series("policy", own, COLORS[0])] + ([Series("best trivial answer", beside, INK)] if beside else [])
        hint = "mean, greedy answers" if key == "reward" else "percent, greedy answers"
        found.append(chart("Reward" if key == "reward" else key.replace("/", " · "), series, steps, hint=hint))
    return [one for one in found if one is not None]


def held_out_tables(rows: Sequence[Mapping[str, float]], best: int | None) -> list[HeldOutTable]:
    """By task all metrics: before the run (or at its first validation), at the best step, at the end, trivially."""
    if not rows:
        return []
    chosen = next((row for row in rows if row["step"] == best), rows[-1])
    tables = []
    for name, task in TASKS.items():
        keys = [f"{name}/{metric}" for metric in task.metrics]
        lines = [
            (
                metric,
                (rows[0].get(key), chosen.get(key), rows[-1].get(key), rows[-1].get(_TRIVIAL + key)),
            )
            for metric, key in zip(task.metrics, keys, strict=True)
            if any(key in row for row in rows)
        ]
        if lines:
            tables.append(HeldOutTable(name, tuple(lines)))
    return tables
