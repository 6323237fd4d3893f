"""Tables that set a run on a benchmark beside trivial answers and published rows, as Markdown and as a page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ravst_ray.evaluation.benchmarks.protocols import Benchmark
from ravst_ray.evaluation.benchmarks.published import PUBLISHED
from ravst_ray.reports.page import Tile, page_environment

Row = tuple[str, str, list[str]]
_MARKS = {"run": "**{}**", "baseline": "*{}*", "paper": "{}"}
_ALL_RULES = (
    "this run: questions without a prediction count as wrong. By the published code: as that has it, which leaves "
    "them out; where a rule below names a difference, that one too.",
    "Thinking is taken off before a rule is applied: what counts is the last <answer>, else what follows </think>.",
    "Trivial answers are the commonest or middle ones of this very file, so they are a floor to beat, not a method.",
)


def table_rows(benchmark: Benchmark, metrics: Mapping[str, Any], columns: tuple[str, ...]) -> list[Row]:
    """Rows ``(kind, name, cells)``: the run by either rule, the trivial answers, published rows with a value here."""
    found = [("run", "this run", metrics["ours"]), ("run", "this run, by the published code", metrics["official"])]
    found += [("baseline", name, values) for name, values in metrics["trivial"].items()]
    found += [
        ("paper", f"{', '.join(filter(None, (one.name, one.setting)))} [{number}]", one.values)
        for number, one in enumerate(PUBLISHED.get(benchmark.name, ()), start=1)
        if any(column in one.values for column in columns)
    ]
    return [(kind, name, [_cell(values.get(column)) for column in columns]) for kind, name, values in found]


def sources(benchmark: Benchmark) -> list[str]:
    """Where the published rows stand, by their numbers, and what is to be said of them."""
    rows = enumerate(PUBLISHED.get(benchmark.name, ()), start=1)
    return [f"[{number}] {one.name}: {one.source}. {one.note}".strip() for number, one in rows]


def markdown(benchmark: Benchmark, metrics: Mapping[str, Any]) -> str:
    """All tables as Markdown."""
    blocks = [f"# {benchmark.title}\n\n{_counts(metrics)} In percent; trivial answers in italics.\n"]
    if metrics["settings"]:
        blocks.append("How the answers were made: " + "; ".join(_setting_lines(metrics)) + ".\n")
    for title, columns in benchmark.tables:
        lines = [(_MARKS[kind].format(name), cells) for kind, name, cells in table_rows(benchmark, metrics, columns)]
        blocks.append(f"## {title}\n\n" + _table(["", *columns], [[name, *cells] for name, cells in lines]))
    for grouping, rows in _group_tables(benchmark, metrics).items():
        blocks.append(f"## By {grouping}\n\n" + _table(rows[0], rows[1:]))
    if published := sources(benchmark):
        blocks.append(
            "## Published rows\n\nFrames and harness stand with the name where they are known.\n\n"
            + "\n".join(f"- {line}" for line in published)
            + "\n"
        )
    blocks.append("## Rules\n\n" + "\n".join(f"- {rule}" for rule in _rules(benchmark, metrics)) + "\n")
    return "\n".join(blocks)


def write_benchmark_tables(out: Path, benchmark: Benchmark, metrics: Mapping[str, Any]) -> None:
    """Write ``table.md`` and ``index.html``."""
    (out / "table.md").write_text(markdown(benchmark, metrics), encoding="utf-8")
    page = (
        page_environment()
        .get_template("benchmark.html.j2")
        .render(
            title=benchmark.title,
            tiles=_tiles(benchmark, metrics),
            settings=_setting_lines(metrics),
            tables=[(title, columns, table_rows(benchmark, metrics, columns)) for title, columns in benchmark.tables],
            groups=_group_tables(benchmark, metrics),
            sources=sources(benchmark),
            rules=_rules(benchmark, metrics),
        )
    )
    (out / "index.html").write_text(page, encoding="utf-8", newline="\n")


def _tiles(benchmark: Benchmark, metrics: Mapping[str, Any]) -> list[Tile]:
    """How many questions, and the headline columns beside the best trivial answer."""
    asked, missing = metrics["n"], metrics["n_missing"]
    tiles = [Tile("Questions", asked, f"{asked:,}", f"{missing:,} without a prediction" if missing else "all answered")]
    for column in benchmark.headline:
        if (value := metrics["ours"].get(column)) is not None:
            best = max(
                (row[column] for row in metrics["trivial"].values() if row.get(column) is not None), default=None
            )
            said = "" if best is None else f"{'above' if value > best else 'not above'} {best:.2f} (trivial)"
            tiles.append(Tile(column, value, f"{value:.2f}", said))
    return tiles


def _group_tables(benchmark: Benchmark, metrics: Mapping[str, Any]) -> dict[str, list[list[str]]]:
    columns = benchmark.tables[0][1]
    return {
        grouping: [
            ["", "n", *columns],
            *(
                [key, f"{row['n']:.0f}" if "n" in row else "", *(_cell(row.get(column)) for column in columns)]
                for key, row in rows.items()
            ),
        ]
        for grouping, rows in metrics["groups"].items()
    }


def _rules(benchmark: Benchmark, metrics: Mapping[str, Any]) -> list[str]:
    judge = [f"The judge was {metrics['judge']}."] if metrics["judge"] else []
    return [*_ALL_RULES, *benchmark.rules, *judge]


def _counts(metrics: Mapping[str, Any]) -> str:
    return f"{metrics['n']} questions, {metrics['n_missing']} without a prediction."


def _setting_lines(metrics: Mapping[str, Any]) -> list[str]:
    lines = []
    for key, value in metrics["settings"].items():
        parts = {f"{key}.{name}": one for name, one in value.items()} if isinstance(value, dict) else {key: value}
        lines += [f"{name}={one}" for name, one in parts.items() if one is not None]
    return lines


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
