"""One annotation run from configuration to report: what ``ravst annotate`` and ``jobs/annotate.py`` do."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from ravst_ray.annotate.filter import filter_videos
from ravst_ray.annotate.summary import summarise
from ravst_ray.config.annotate import AnnotateConfig
from ravst_ray.config.base import dump_config
from ravst_ray.datasets.schemas import annotation_from_row, qa_from_row
from ravst_ray.datasets.splits import split_of
from ravst_ray.datasets.store import DatasetStore
from ravst_ray.datasets.unav import read_unav
from ravst_ray.errors import ConfigError
from ravst_ray.progress import RunProgress
from ravst_ray.records import ErrorRow, Video

# Settings that shape the rows. A run may not go on in a directory that was begun with others.
SHAPING = {
    "seed": None,
    "split": None,
    "quality": None,
    "decode": ("backend", "step_s", "max_side_px", "jpeg_quality"),
    "llm": ("backend", "model", "model_dir", "max_tokens", "write_captions", "caption_frames"),
    "grounding": (
        "detector", "segmenter", "box_threshold", "text_threshold", "nms_iou", "detect_every", "match_iou",
        "keep_score", "max_missed", "chunk_frames", "masks",
    ),
}  # fmt: skip


def annotate(config: AnnotateConfig, console: Console) -> dict[str, Any]:
    """Run the five steps over the input and write the dataset; returns the summary.

    Raises:
        ConfigError: an input, a model or the output can't be used; nothing was started.
        AbortError: the run broke; what is committed stays, and the same call goes on from there.
    """
    started = time.monotonic()
    videos, drops = _select(config, console)
    _check_models(config)
    store = DatasetStore(config.output)
    store.prepare()
    _same_settings(store, config)
    store.write_bytes("config.yaml", dump_config(config).encode())

    ledger = store.ledger()
    todo = [video for video in videos if not (video.video_id in ledger and ledger[video.video_id].settled)]
    if len(todo) < len(videos):
        console.print(f"{len(videos) - len(todo)} of {len(videos)} videos are done already", highlight=False)
    _run_steps(config, todo, console)
    summary = finish(config, store, videos, drops, time.monotonic() - started)
    _tell(summary, config, console)
    return summary


def finish(
    config: AnnotateConfig, store: DatasetStore, videos: list[Video], drops: list[dict[str, Any]], wall_s: float
) -> dict[str, Any]:
    """Compact what is committed and write everything that is made from it."""
    ledger = store.compact(drops)
    summary = summarise(store, ledger, drops, wall_s)
    summary["duration_groups_s"] = [config.filter.short_s, config.filter.medium_s]
    for split in ("train", "test"):
        write_questions(store, config, split)
    write_summary(store, summary)
    write_report(config, store, videos, summary)
    return summary


def refresh_report(config: AnnotateConfig, extra: dict[str, Any]) -> None:
    """Add findings to the summary of a finished run, and draw its report anew."""
    store = DatasetStore(config.output)
    summary = json.loads(store.read_bytes("summary.json") or b"{}") | extra
    write_summary(store, summary)
    write_report(config, store, read_unav(config.input.annotations, config.input.videos).videos, summary)


def write_summary(store: DatasetStore, summary: dict[str, Any]) -> None:
    """``summary.json``."""
    store.write_bytes("summary.json", (json.dumps(summary, indent=2) + "\n").encode())


def _select(config: AnnotateConfig, console: Console) -> tuple[list[Video], list[dict[str, Any]]]:
    found = read_unav(config.input.annotations, config.input.videos, config.input.subsets, config.input.limit)
    filtered = filter_videos(found.videos, config.filter, config.seed)
    drops: list[ErrorRow] = [*found.rejected, *filtered.rejected]
    console.print(
        f"{len(found.videos) + len(found.rejected)} videos listed, {len(filtered.videos)} kept, {len(drops)} rejected",
        highlight=False,
    )
    return filtered.videos, [asdict(row) for row in drops]


def _check_models(config: AnnotateConfig) -> None:
    from ravst_ray.annotate.captions import check_llm
    from ravst_ray.backends.pretrained import model_source

    check_llm(config.llm)
    model_source(config.grounding.detector, "grounding.detector")
    model_source(config.grounding.segmenter, "grounding.segmenter")


def _same_settings(store: DatasetStore, config: AnnotateConfig) -> None:
    before = store.read_bytes("config.yaml")
    if before is None or not store.ledger():
        return
    old, new = _shaping(yaml.safe_load(before)), _shaping(config.model_dump(mode="json"))
    changed = [f"{key}: {old.get(key)!r} -> {value!r}" for key, value in new.items() if old.get(key) != value]
    if changed:
        raise ConfigError(
            f"output {config.output}: begun with other settings ({'; '.join(changed)}); "
            "choose another output, or go on with the old settings"
        )


def _shaping(config: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for section, keys in SHAPING.items():
        value = config.get(section)
        if isinstance(value, dict):
            flat |= {f"{section}.{key}": value.get(key) for key in keys or value}
        else:
            flat[section] = value
    return flat


def _run_steps(config: AnnotateConfig, todo: list[Video], console: Console) -> None:
    if not todo:
        return
    from ravst_ray.annotate.pipeline import stream
    from ravst_ray.cluster import start_ray

    start_ray()
    with RunProgress("annotating", "videos", len(todo), console) as progress:
        for row in stream(config, todo):
            progress.add(failed=row["reason"] is not None)


def write_questions(store: DatasetStore, config: AnnotateConfig, split: str) -> None:
    """``ravst_{split}_QA.json`` in the published format, with accepted and suspect questions."""
    from ravst_ray.datasets.ravst_json import dump_questions

    pairs = [qa_from_row(row) for row in store.rows("qa") if row["split"] == split and row["status"] != "rejected"]
    durations = {
        row["video_id"]: row["duration_s"]
        for row in store.rows("annotations")
        if split_of(row["video_id"], config.seed, config.split.test_share) == split
    }
    store.write_bytes(f"ravst_{split}_QA.json", dump_questions(pairs, durations).encode())


def write_report(config: AnnotateConfig, store: DatasetStore, videos: list[Video], summary: dict[str, Any]) -> None:
    """``report/index.html``; an output that isn't a local directory gets it through a temporary one."""
    import tempfile

    from ravst_ray.reports.annotation_report import write_annotation_report

    samples = _samples(store, videos, config.report_videos)
    if "://" not in config.output:
        write_annotation_report(Path(config.output), summary, _report_events(store), samples)
        return
    with tempfile.TemporaryDirectory() as folder:
        write_annotation_report(Path(folder), summary, _report_events(store), samples)
        for file in sorted((Path(folder) / "report").rglob("*")):
            if file.is_file():
                store.write_bytes(str(file.relative_to(folder)), file.read_bytes())


def _report_events(store: DatasetStore) -> Iterator[Any]:
    from ravst_ray.reports.annotation_report import ReportEvent

    for row in store.rows("annotations"):
        yield ReportEvent(
            video_id=row["video_id"],
            duration_s=row["duration_s"],
            event_num=row["event_num"],
            label=row["label"],
            start_s=row["start_s"],
            end_s=row["end_s"],
            object_names=tuple(found["name"] for found in row["objects"]),
            audible=tuple(found["audible"] for found in row["objects"]),
            status=row["status"],
            reasons=tuple(row["reasons"]),
        )


def _samples(store: DatasetStore, videos: list[Video], count: int) -> list[Any]:
    """The first videos by id, those with tracks before those without, with all their annotations and questions."""
    from ravst_ray.reports.annotation_report import SampleVideo

    paths = {video.video_id: video.path for video in videos}
    tracked: dict[str, bool] = {}
    for row in store.rows("annotations"):
        tracked[row["video_id"]] = tracked.get(row["video_id"], False) or bool(row["tracks"])
    chosen = sorted((name for name in tracked if name in paths), key=lambda name: (not tracked[name], name))[:count]
    kept: dict[str, dict[str, Any]] = {name: {"annotations": [], "qa": []} for name in sorted(chosen)}
    for row in store.rows("annotations"):
        if row["video_id"] in kept:
            kept[row["video_id"]]["annotations"].append(annotation_from_row(row))
            kept[row["video_id"]]["size"] = (row["width"], row["height"], row["duration_s"])
    for row in store.rows("qa"):
        if row["video_id"] in kept:
            kept[row["video_id"]]["qa"].append(qa_from_row(row))
    return [
        SampleVideo(
            video_id=name,
            path=paths[name],
            width=one["size"][0],
            height=one["size"][1],
            duration_s=one["size"][2],
            annotations=tuple(one["annotations"]),
            qa=tuple(one["qa"]),
        )
        for name, one in kept.items()
    ]


def _tell(summary: dict[str, Any], config: AnnotateConfig, console: Console) -> None:
    videos, status = summary["videos"], summary["status"]
    say = lambda text: console.print(text, highlight=False, soft_wrap=True)  # noqa: E731
    say(f"{videos['done']} videos done, {videos['failed']} failed, {sum(summary['drops'].values())} rejected before")
    if summary["errors"]:
        say("errors: " + ", ".join(f"{reason} {count}" for reason, count in summary["errors"].items()))
    say(
        f"{summary['events']} events ({', '.join(f'{count} {name}' for name, count in status.items())}), "
        f"{summary['objects']} objects, {100 * summary['share_audible']:.0f}% audible, "
        f"{sum(summary['questions'].values())} questions"
    )
    say(f"report: {config.output.rstrip('/')}/report/index.html")
