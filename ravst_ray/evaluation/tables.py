"""Tables that set a run beside trivial baselines and the paper's rows, as Markdown and as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ravst_ray.evaluation.baselines import best_trivial, trivial_names
from ravst_ray.reports.page import Tile, page_environment
from ravst_ray.reports.plots import Plot
from ravst_ray.tasks import TASKS, malformations
from ravst_ray.tasks.protocols import Task

Row = tuple[str, str, list[str]]
_GROUPS = "In brackets the number of questions, and the best of the trivial answers."


def task_rows(metrics: Mapping[str, Any], name: str) -> list[Row]:
    """Rows ``(kind, name, cells)`` of a task's table: the run, the trivial answers, the paper's models.

    ``kind`` is ``run``, ``baseline`` or ``paper``; the cells follow the task's metrics, an empty one is unknown.
    """
    task = TASKS[name]
    rows: list[Row] = [("run", "this run", [_with_interval(metrics[name], key) for key in task.metrics])]
    for trivial in trivial_names(name):
        if values := metrics["baselines"].get(trivial, {}).get(name):
            rows.append(("baseline", trivial, [_cell(values.get(key)) for key in task.metrics]))
    for model, values in task.published.items():
        rows.append(("paper", f"{model} (paper)", [_cell(values.get(key)) for key in task.metrics]))
    return rows


def markdown(metrics: Mapping[str, Any]) -> str:
    """All tables as Markdown."""
    blocks = ["# Evaluation\n\nIn percent; brackets: 95% bootstrap intervals. Trivial answers in italics.\n"]
    for task in _tasks(metrics):
        blocks.append(f"## {task.title}\n\n{_counts(metrics[task.name], task)}\n")
        lines = [["", *task.metrics], ["---", *("---:" for _ in task.metrics)]]
        marks = {"run": "**{}**", "baseline": "*{}*", "paper": "{}"}
        lines += [[marks[kind].format(name), *cells] for kind, name, cells in task_rows(metrics, task.name)]
        blocks.append("\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n")
    blocks += [f"## By {name}\n\n{_GROUPS}\n\n{_group_table(metrics, name)}" for name in metrics["groups"]]
    return "\n".join(blocks)


def write_tables(out: Path, metrics: Mapping[str, Any], plots: Sequence[Plot] = ()) -> None:
    """Write ``table.md``, and ``index.html`` with the plots."""
    (out / "table.md").write_text(markdown(metrics), encoding="utf-8")
    meanings = malformations()
    counts = sorted(metrics["malformed"].items(), key=lambda pair: (-pair[1], pair[0]))
    page = (
        page_environment()
        .get_template("evaluation.html.j2")
        .render(
            tiles=_tiles(metrics),
            tasks=[
                (task.name, task.title, _counts(metrics[task.name], task), task.metrics, task_rows(metrics, task.name))
                for task in _tasks(metrics)
            ],
            groups={name: _group_rows(metrics, name) for name in metrics["groups"]},
            plots=plots,
            names=metrics["names"],
            malformed=[(kind, meanings.get(kind, ""), count) for kind, count in counts],
        )
    )
    (out / "index.html").write_text(page, encoding="utf-8", newline="\n")


def _tiles(metrics: Mapping[str, Any]) -> list[Tile]:
    """How many questions, and each task's headline metrics beside the best trivial answer."""
    tasks = _tasks(metrics)
    asked, missing = (sum(metrics[task.name][key] for task in tasks) for key in ("n", "n_missing"))
    tiles = [Tile("Questions", asked, f"{asked:,}", f"{missing:,} without a prediction" if missing else "all answered")]
    for task in tasks:
        for metric in task.headline:
            if (value := metrics[task.name][metric]) is not None:
                best, name = best_trivial(metrics["baselines"], task.name, metric)
                note = f"{'above' if value > best else 'not above'} {best:.2f} ({name})" if name else ""
                tiles.append(Tile(f"{task.name} {metric}", value, f"{value:.2f}", note))
    return tiles


def _tasks(metrics: Mapping[str, Any]) -> list[Task[Any]]:
    return [task for name, task in TASKS.items() if name in metrics]


def _counts(entry: Mapping[str, Any], task: Task[Any]) -> str:
    text = f"{entry['n']} questions, {entry['n_missing']} without a prediction (counted 0)"
    if task.uncounted:
        text += f"; {entry[task.uncounted[1]]} {task.uncounted[2]}"
    return text + "."


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _with_interval(entry: Mapping[str, Any], name: str) -> str:
    low, high = entry.get("ci95", {}).get(name, (None, None))
    return _cell(entry[name]) + (f" [{low:.1f}, {high:.1f}]" if low is not None and high is not None else "")


def _group_rows(metrics: Mapping[str, Any], grouping: str) -> list[list[str]]:
    groups, trivial = metrics["groups"][grouping], metrics["trivial_groups"][grouping]
    there = {task for summary in groups.values() for task in summary}
    shown = [(name, metric) for name, task in TASKS.items() if name in there for metric in task.headline]
    rows = [["", *(f"{task} {name}" for task, name in shown)]]
    for key, summary in groups.items():
        cells = []
        for task, name in shown:
            entry = summary.get(task)
            best = _cell(trivial[key][task].get(name)) if entry else ""
            cells.append(f"{_cell(entry[name])} (n={entry['n']}{best and f', trivial {best}'})" if entry else "")
        rows.append([key, *cells])
    return rows


def _group_table(metrics: Mapping[str, Any], grouping: str) -> str:
    head, *rows = _group_rows(metrics, grouping)
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
