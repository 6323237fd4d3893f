"""The report at the end of an annotation run: one HTML file that needs nothing beside it.

``summary`` is what ``summary.json`` holds; a figure whose key is missing is left out. ``duration_groups_s`` in it moves
the borders of short, medium and long videos from 20 and 40 s. A table of toy-world accuracies
appears when ``summary["toy_accuracy"]`` is there: ``{table title: {metric: value | {"value": …, "target": …}}}``,
where a metric may also be a group of such metrics (``{"isolated objects": {"recall": …}}``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ravst_ray.records import NodeCount
from ravst_ray.reports import figures
from ravst_ray.reports.cluster_charts import cluster_charts
from ravst_ray.reports.page import Tile, duration, page_environment
from ravst_ray.reports.samples import SampleVideo, sample_cards
from ravst_ray.reports.statistics import DURATION_GROUPS, ReportEvent, Statistics, count_events
from ravst_ray.tasks import TASKS

__all__ = ["ReportEvent", "SampleVideo", "render_annotation_report", "write_annotation_report"]

STATUSES = ("accepted", "suspect", "rejected")
_TOP_LABELS = 15


@dataclass(frozen=True)
class Accuracy:
    """One measured number against its target; ``passed`` is None where there is no target."""

    group: str
    metric: str
    value: float
    target: float | None

    @property
    def passed(self) -> bool | None:
        """Whether the target is reached."""
        return None if self.target is None else self.value >= self.target


def write_annotation_report(
    out_dir: Path,
    summary: Mapping[str, Any],
    events: Iterable[ReportEvent],
    samples: Sequence[SampleVideo],
    nodes: Sequence[NodeCount] = (),
) -> Path:
    """Write ``out_dir/report/index.html`` and give its path.

    Args:
        out_dir: the run's output directory.
        summary: the run's numbers (see ``summary.json``); any key may be missing.
        events: all annotated events, read once; only counters are kept.
        samples: the videos to show; one that can't be read gets a card that says so.
        nodes: the cluster's nodes over time; drawn when there were several, or when their number changed.
    """
    page = render_annotation_report(summary, events, samples, nodes)
    path = Path(out_dir) / "report" / "index.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8", newline="\n")
    return path


def render_annotation_report(
    summary: Mapping[str, Any],
    events: Iterable[ReportEvent],
    samples: Sequence[SampleVideo],
    nodes: Sequence[NodeCount] = (),
) -> str:
    """The report as HTML; the same input gives the same text."""
    statistics = count_events(events, *summary.get("duration_groups_s", (20.0, 40.0)))
    return (
        page_environment()
        .get_template("annotation_report.html.j2")
        .render(
            tiles=key_figures(summary, statistics),
            statuses=_statuses(summary, statistics),
            accuracy=accuracy_tables(summary.get("toy_accuracy") or {}),
            charts=_charts(statistics),
            statistics=statistics,
            run=_run_figures(summary, statistics),
            cluster=cluster_charts(nodes),
            split=_split(summary.get("split") or {}),
            tasks=[task.name for task in TASKS.values() if task.json_key],
            cards=sample_cards(samples),
        )
    )


def key_figures(summary: Mapping[str, Any], statistics: Statistics) -> list[Tile]:
    """The numbers on top of the report, for those keys that ``summary`` has (else counted from the events)."""
    videos, tokens = summary.get("videos") or {}, summary.get("tokens") or {}
    questions, objects = summary.get("questions") or {}, statistics.audible + statistics.silent
    hours = summary.get("hours_of_video", statistics.video_s / 3600)
    status = summary.get("status") or statistics.status
    requests = _noted(tokens, "requests", "{:,} LLM requests") + _noted(
        tokens, "cache_hits", ", {:,} more from the cache"
    )
    token_sum = sum(tokens.get(kind, 0) for kind in ("prompt", "completion"))
    found: list[tuple[str, float | None, str, str]] = [
        ("Videos annotated", videos.get("done", statistics.videos), "{:,}", _of_input(videos)),
        ("Events", summary.get("events", statistics.events), "{:,}", ""),
        ("Objects", summary.get("objects", objects), "{:,}", ""),
        ("Audible objects", summary.get("share_audible", statistics.share_audible), "{:.1%}", "the others are silent"),
        ("Hours of video", hours, "{:.2f}" if hours < 10 else "{:,.1f}", ""),
        ("Questions", sum(questions.values()) if questions else None, "{:,}", _listed(questions, list(TASKS))),
        ("Events accepted", status.get("accepted", 0), "{:,}", _listed(status, STATUSES[1:])),
        ("Videos failed", videos.get("failed"), "{:,}", "reasons below and in errors/"),
        ("Wall time", summary.get("wall_s"), "duration", ""),
        ("Frames per second", summary.get("frames_per_s"), "{:,.1f}", _noted(summary, "frames", "{:,} frames in all")),
        ("Tokens", token_sum if tokens else None, "{:,}", _listed(tokens, ("prompt", "completion"))),
        ("Cost", summary.get("usd"), "${:,.2f}", requests),
    ]
    return [
        Tile(label, value, duration(value) if form == "duration" else form.format(value), note)
        for label, value, form, note in found
        if value is not None
    ]


def accuracy_tables(tables: Mapping[str, Any]) -> dict[str, list[Accuracy]]:
    """The toy-world tables as rows; see the module's docstring for what goes in."""
    return {title: _accuracy_rows(metrics, "") for title, metrics in tables.items()}


def _accuracy_rows(metrics: Mapping[str, Any], group: str) -> list[Accuracy]:
    rows: list[Accuracy] = []
    for name, entry in metrics.items():
        if not isinstance(entry, Mapping):
            rows.append(Accuracy(group, name, float(entry), None))
        elif "value" in entry:
            target = entry.get("target")
            rows.append(Accuracy(group, name, float(entry["value"]), None if target is None else float(target)))
        else:
            rows += _accuracy_rows(entry, f"{group}, {name}" if group else name)
    return rows


def _of_input(videos: Mapping[str, int]) -> str:
    return f"{videos['kept']:,} of {videos['input']:,} kept by the filter" if {"kept", "input"} <= set(videos) else ""


def _listed(numbers: Mapping[str, float], keys: Sequence[str]) -> str:
    return " · ".join(f"{key} {numbers[key]:,}" for key in keys if key in numbers)


def _noted(numbers: Mapping[str, Any], key: str, form: str) -> str:
    return form.format(numbers[key]) if numbers.get(key) is not None else ""


def _statuses(summary: Mapping[str, Any], statistics: Statistics) -> list[figures.Bar]:
    numbers = summary.get("status") or statistics.status
    return figures.bars([(status, numbers.get(status, 0)) for status in STATUSES])


def _charts(statistics: Statistics) -> dict[str, Any]:
    """The figures of the R-AVST paper's figure 3, and what else tells a dataset apart."""
    short, medium = f"{statistics.short_s:g}", f"{statistics.medium_s:g}"
    ranges = dict(zip(DURATION_GROUPS, (f"≤ {short} s", f"{short}–{medium} s", f"> {medium} s"), strict=True))
    groups = [(f"{group} · {ranges[group]}", statistics.duration_groups[group]) for group in DURATION_GROUPS]
    return {
        "groups": figures.bars(groups),
        "durations": figures.histogram(statistics.video_seconds),
        "event_lengths": figures.histogram(statistics.event_seconds),
        "events_per_video": figures.counts(statistics.events_per_video),
        "objects_per_event": figures.counts(statistics.objects_per_event),
        "audible": figures.bars([("audible", statistics.audible), ("silent", statistics.silent)]),
        "labels": figures.ranked(statistics.labels, _TOP_LABELS),
        "words": figures.word_cloud(statistics.names, statistics.audible_names),
    }


def _run_figures(summary: Mapping[str, Any], statistics: Statistics) -> dict[str, list[figures.Bar]]:
    return {
        "seconds": figures.bars(summary.get("seconds_per_stage") or {}),
        "drops": figures.ranked(summary.get("drops") or {}),
        "errors": figures.ranked(summary.get("errors") or {}),
        "left_out": figures.ranked(summary.get("questions_left_out") or {}),
        "quality": figures.ranked(summary.get("quality_reasons") or statistics.reasons),
    }


def _split(split: Mapping[str, Mapping[str, int]]) -> list[tuple[str, Mapping[str, int], float]]:
    """Per part: its name, its numbers and its share of all videos."""
    total = sum(part.get("videos", 0) for part in split.values()) or 1
    return [(name, part, part.get("videos", 0) / total) for name, part in split.items()]
