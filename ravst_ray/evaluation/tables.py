"""Tables that set a run beside trivial baselines and the paper's rows, as Markdown and as a page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from ravst_ray.core.page import HEAD
from ravst_ray.evaluation.metrics import METRICS
from ravst_ray.evaluation.paper import PAPER
from ravst_ray.records import TASKS, Task

TITLES: dict[Task, str] = {
    "AVTR": "AVTR · temporal reasoning",
    "AVSR": "AVSR · spatial reasoning",
    "AVSTR": "AVSTR · spatio-temporal reasoning",
}
Row = tuple[str, str, list[str]]


def task_rows(metrics: Mapping[str, Any], task: Task) -> list[Row]:
    """Rows ``(kind, name, cells)`` of a task's table: the run, the trivial answers, the paper's models.

    ``kind`` is ``run``, ``baseline`` or ``paper``; the cells follow ``METRICS[task]``, an empty one is unknown.
    """
    own = metrics[task]
    rows: list[Row] = [("run", "this run", [_with_interval(own, name) for name in METRICS[task]])]
    for name, by_task in metrics["baselines"].items():
        if task in by_task:
            rows.append(("baseline", name, [_cell(by_task[task].get(key)) for key in METRICS[task]]))
    for name, values in PAPER[task].items():
        rows.append(("paper", f"{name} (paper)", [_cell(values.get(key)) for key in METRICS[task]]))
    return rows


def markdown(metrics: Mapping[str, Any]) -> str:
    """All tables as Markdown."""
    blocks = ["# Evaluation\n\nIn percent; brackets: 95% bootstrap intervals. Trivial answers in italics.\n"]
    for task in _tasks(metrics):
        blocks.append(f"## {TITLES[task]}\n\n{_counts(metrics[task])}\n")
        lines = [["", *METRICS[task]], ["---", *("---:" for _ in METRICS[task])]]
        marks = {"run": "**{}**", "baseline": "*{}*", "paper": "{}"}
        lines += [[marks[kind].format(name), *cells] for kind, name, cells in task_rows(metrics, task)]
        blocks.append("\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n")
    blocks += [f"## By {grouping}\n\n{_group_table(groups)}" for grouping, groups in metrics["groups"].items()]
    return "\n".join(blocks)


def write_tables(out: Path, metrics: Mapping[str, Any]) -> None:
    """Write ``table.md`` and ``index.html``; the page shows the plots that lie in ``plots/``."""
    (out / "table.md").write_text(markdown(metrics), encoding="utf-8")
    plots = {path.stem: path.read_text(encoding="utf-8") for path in sorted((out / "plots").glob("*.svg"))}
    environment = Environment(loader=PackageLoader("ravst_ray.evaluation", "templates"), autoescape=True)
    environment.globals["head"] = Markup(HEAD)
    page = environment.get_template("evaluation.html.j2").render(
        tasks=[
            (TITLES[task], _counts(metrics[task]), METRICS[task], task_rows(metrics, task)) for task in _tasks(metrics)
        ],
        groups={name: _group_rows(groups) for name, groups in metrics["groups"].items()},
        plots={name: text[text.index("<svg") :] for name, text in plots.items()},
        names=metrics["names"],
        malformed=metrics["malformed"],
    )
    (out / "index.html").write_text(page, encoding="utf-8")


def _tasks(metrics: Mapping[str, Any]) -> list[Task]:
    return [task for task in TASKS if task in metrics]


def _counts(entry: Mapping[str, Any]) -> str:
    text = f"{entry['n']} questions, {entry['n_missing']} without a prediction (counted 0)"
    if "n_no_box" in entry:
        text += f"; {entry['n_no_box']} without any true box are left out of the spatial metrics"
    return text + "."


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _with_interval(entry: Mapping[str, Any], name: str) -> str:
    low, high = entry.get("ci95", {}).get(name, (None, None))
    return _cell(entry[name]) + (f" [{low:.1f}, {high:.1f}]" if low is not None and high is not None else "")


def _group_rows(groups: Mapping[str, Any]) -> list[list[str]]:
    shown = (("AVTR", "m_tIoU"), ("AVSR", "obj_acc"), ("AVSR", "m_vIoU"), ("AVSTR", "m_tIoU"), ("AVSTR", "m_vIoU"))
    rows = [["", *(f"{task} {name}" for task, name in shown)]]
    for key, summary in groups.items():
        cells = []
        for task, name in shown:
            entry = summary.get(task)
            cells.append(f"{_cell(entry[name])} (n={entry['n']})" if entry else "")
        rows.append([key, *cells])
    return rows


def _group_table(groups: Mapping[str, Any]) -> str:
    head, *rows = _group_rows(groups)
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
