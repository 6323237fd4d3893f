"""One annotation run from configuration to report: what ``ravst annotate`` and ``jobs/annotate.py`` do."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from ravst_ray.annotate.filter import filter_videos
from ravst_ray.annotate.settings import absolute, check_same_settings, saved_config
from ravst_ray.annotate.status import RunRecord, counts
from ravst_ray.annotate.summary import own_objects, summarise
from ravst_ray.annotate.texts import lacks_caption, other_script
from ravst_ray.config.annotate import AnnotateConfig
from ravst_ray.config.base import dump_config
from ravst_ray.datasets.lock import OutputLock
from ravst_ray.datasets.node_log import NodeLog, read_nodes
from ravst_ray.datasets.places import REPORT_VIDEO_BYTES, insist, is_remote, local_copy, read_input
from ravst_ray.datasets.schemas import annotation_from_row, qa_from_row
from ravst_ray.datasets.store import DatasetStore, LedgerEntry
from ravst_ray.errors import AbortError, ConfigError, StepError
from ravst_ray.language.dialect import ADAPTATIONS
from ravst_ray.logs import get_logger
from ravst_ray.progress import RunProgress
from ravst_ray.records import ErrorRow, Video

log = get_logger(__name__)

Choose = Callable[[Mapping[str, LedgerEntry], list[Video]], list[Video]]
READING = "reading captions"


def annotate(config: AnnotateConfig, console: Console) -> dict[str, Any]:
    """Run the five steps over the input and write the dataset; returns the summary.

    Raises:
        ConfigError: an input, a model or the output can't be used; nothing was started.
        AbortError: the run broke; what is committed stays, and the same call goes on from there.
    """
    return _run(config, console, "annotate", _not_settled)


def retry(output: str, reasons: Sequence[str], overrides: Sequence[str], console: Console) -> dict[str, Any]:
    """Do failed videos of an output again, with the configuration that lies in it; returns the summary.

    An errors row stays until the video's new result is committed, whether that is an annotation or another error.

    Args:
        output: the directory of an earlier run.
        reasons: only videos that failed for one of these; none means all.
        overrides: settings to change, as ``key.sub=value`` (a longer deadline, more actors).
        console: where to say what happens.

    Raises:
        ConfigError: no run has begun there, or no video failed for one of the reasons.
        AbortError: as :func:`annotate`.
    """
    return _run(saved_config(output, overrides), console, "retry", partial(_failed, reasons=reasons))


def _run(config: AnnotateConfig, console: Console, command: str, choose: Choose) -> dict[str, Any]:
    started = time.monotonic()
    config = absolute(config)
    videos, drops = _select(config, console)
    _warn_of_texts(config, videos, console)
    _check_models(config)
    store = DatasetStore(config.output)
    store.prepare()
    with _plain_os_errors(config.output), OutputLock(store) as lock:
        ledger = insist(store.ledger, store.root)
        check_same_settings(store, config, begun=bool(ledger))
        todo = choose(ledger, videos)
        store.replace_bytes("config.yaml", dump_config(config).encode())
        with RunRecord(store, lock, command) as record:
            if any(video.video_id in ledger for video in todo):
                # So that what is known of them stays until they are done.
                insist(partial(store.compact, drops), store.root)
            if len(todo) < len(videos):
                console.print(
                    f"{len(videos) - len(todo)} of {len(videos)} videos are left as they are", highlight=False
                )
            record.plan(ledger, [video.video_id for video in todo], drops)
            _run_steps(config, todo, console, record, store)
            lock.check(now=True)
            wall_s = time.monotonic() - started
            summary = insist(partial(finish, config, store, videos, drops, wall_s, todo), store.root)
    _tell(summary, config, console)
    return summary


@contextmanager
def _plain_os_errors(output: str) -> Iterator[None]:
    """A disk that is full, or a store that is away, ends the run with a sentence."""
    try:
        yield
    except OSError as error:
        raise AbortError(f"output {output}: {error}; what is committed stays, the same command goes on") from error


def _not_settled(ledger: Mapping[str, LedgerEntry], videos: list[Video]) -> list[Video]:
    return [video for video in videos if not (video.video_id in ledger and ledger[video.video_id].settled)]


def _failed(ledger: Mapping[str, LedgerEntry], videos: list[Video], reasons: Sequence[str]) -> list[Video]:
    """Those that failed for one of the reasons, or at all."""
    _, there = counts(ledger.values())
    unknown = sorted(set(reasons) - set(there))
    if unknown:
        known = ", ".join(f"{reason} ({count})" for reason, count in there.most_common()) or "none failed"
        raise ConfigError(f"no video failed with {', '.join(unknown)}; there is: {known}")
    wanted = set(reasons) or set(there)
    failed = {name for name, entry in ledger.items() if entry.error and entry.error["reason"] in wanted}
    return [video for video in videos if video.video_id in failed]


def finish(
    config: AnnotateConfig,
    store: DatasetStore,
    videos: list[Video],
    drops: list[dict[str, Any]],
    wall_s: float,
    done_now: Sequence[Video],
) -> dict[str, Any]:
    """Compact what is committed and write everything that is made from it; returns the summary.

    Raises:
        AbortError: of ``done_now``, which this run has committed, something was damaged since. It is in no table, and
            the next run does it again.
    """
    ledger = store.compact(drops)
    summary = summarise(store, ledger, drops, wall_s, config.export.statuses)
    summary["events_without_caption"] = without_caption(videos)[0]
    summary["duration_groups_s"] = [config.filter.short_s, config.filter.medium_s]
    for split in ("train", "test"):
        write_questions(store, config, split)
    write_summary(store, summary)
    write_report(config, store, videos, summary)
    lost = [video.video_id for video in done_now if video.video_id not in ledger]
    if lost:
        raise AbortError(
            f"output {store.root}: what was committed of {len(lost)} videos was damaged ({', '.join(lost[:3])}"
            f"{', …' if len(lost) > 3 else ''}); the same command does them again"
        )
    return summary


def refresh_report(config: AnnotateConfig, extra: dict[str, Any]) -> None:
    """Add findings to the summary of a finished run, and draw its report anew."""
    store = DatasetStore(config.output)
    summary = json.loads(store.read_bytes("summary.json") or b"{}") | extra
    write_summary(store, summary)
    write_report(config, store, read_input(config.input.annotations, config.input.videos).videos, summary)


def write_summary(store: DatasetStore, summary: dict[str, Any]) -> None:
    """``summary.json``."""
    store.write_bytes("summary.json", (json.dumps(summary, indent=2) + "\n").encode())


def _select(config: AnnotateConfig, console: Console) -> tuple[list[Video], list[dict[str, Any]]]:
    found = read_input(config.input.annotations, config.input.videos, config.input.subsets, config.input.limit)
    filtered = filter_videos(found.videos, config.filter, config.seed)
    drops: list[ErrorRow] = [*found.rejected, *filtered.rejected]
    console.print(
        f"{len(found.videos) + len(found.rejected)} videos listed, {len(filtered.videos)} kept, {len(drops)} rejected",
        highlight=False,
    )
    return filtered.videos, [asdict(row) for row in drops]


def without_caption(videos: Iterable[Video]) -> tuple[int, int]:
    """How many events that are asked about, and whose objects aren't given, have no caption; and of how many."""
    named = [event for video in videos for event in video.events if event.asked and not event.given_objects]
    return sum(map(lacks_caption, named)), len(named)


def _warn_of_texts(config: AnnotateConfig, videos: Sequence[Video], console: Console) -> None:
    """Say what labels alone come to, where that is most of what there is to read, and of scripts no detector knows."""
    warnings = []
    lacking, named = without_caption(videos)
    if not config.llm.write_captions and 2 * lacking > named:
        warnings.append(
            f"{lacking} of {named} events have no caption: the language model reads their labels alone, which name "
            "hardly any silent object; llm.write_captions=true with a vision-language model writes captions from the "
            "frames (jobs/configs/annotate_captioner.yaml)"
        )
    asked = [event for video in videos for event in video.events if event.asked]
    if other := sum(map(other_script, asked)):
        warnings.append(
            f"{other} of {len(asked)} events are described in another script than the Latin one: their objects are "
            "named in it, but Grounding DINO's checkpoints know English names alone; translate the captions, or name "
            "a grounding.detector that was trained on their language"
        )
    for warning in warnings:
        log.warning("%s", warning)
        console.print(warning, style="yellow", highlight=False, soft_wrap=True)


def _check_models(config: AnnotateConfig) -> None:
    from ravst_ray.annotate.captions import check_llm
    from ravst_ray.annotate.cards import check_cards
    from ravst_ray.annotate.quality import check_skip
    from ravst_ray.models.pretrained import check_model
    from ravst_ray.models.size import card_bytes

    check_skip(config.quality)
    check_llm(config.llm)
    check_model(config.grounding.detector, "grounding.detector")
    check_model(config.grounding.segmenter, "grounding.segmenter")
    check_cards(config, card_bytes())


def _run_steps(
    config: AnnotateConfig, todo: list[Video], console: Console, record: RunRecord, store: DatasetStore
) -> None:
    if not todo:
        return
    from ravst_ray.annotate.pipeline import stream
    from ravst_ray.cluster.nodes import NodeWatch
    from ravst_ray.cluster.start import start_ray

    start_ray(wait_s=config.cluster.wait_s)
    progress = RunProgress("annotating", "videos", len(todo), console)
    with NodeLog(store) as nodes, NodeWatch(nodes.add), progress:

        def tell(done: int, total: int) -> None:
            progress.first(READING, done, total)
            record.first(READING, done, total)

        for row in stream(config, todo, tell=tell):
            record.add(row["reason"])
            progress.add(failed=row["reason"] is not None)


def write_questions(store: DatasetStore, config: AnnotateConfig, split: str) -> None:
    """``ravst_{split}_QA.json`` in the published format, with the questions of ``export.statuses``."""
    from ravst_ray.datasets.ravst_json import dump_questions

    wanted = config.export.statuses
    pairs = [qa_from_row(row) for row in store.rows("qa") if row["split"] == split and row["status"] in wanted]
    durations = {row["video_id"]: row["duration_s"] for row in store.rows("annotations") if row["split"] == split}
    store.write_bytes(f"ravst_{split}_QA.json", dump_questions(pairs, durations).encode())


def write_report(config: AnnotateConfig, store: DatasetStore, videos: list[Video], summary: dict[str, Any]) -> None:
    """``report/index.html``; an output that isn't a local directory gets it through a temporary one."""
    from ravst_ray.reports.annotation_report import write_annotation_report

    nodes = read_nodes(store)
    with _fetched(_samples(store, videos, config.report_videos)) as samples, tempfile.TemporaryDirectory() as folder:
        if not is_remote(config.output):
            write_annotation_report(Path(config.output), summary, _report_events(store), samples, nodes)
            return
        write_annotation_report(Path(folder), summary, _report_events(store), samples, nodes)
        for file in sorted((Path(folder) / "report").rglob("*")):
            if file.is_file():
                store.write_bytes(str(file.relative_to(folder)), file.read_bytes())


@contextmanager
def _fetched(samples: list[Any]) -> Iterator[list[Any]]:
    """The samples with files on this machine; one that can't be had keeps its place, and its card says so."""
    with ExitStack() as copies:
        found = []
        for sample in samples:
            try:
                found.append(replace(sample, path=copies.enter_context(local_copy(sample.path, REPORT_VIDEO_BYTES))))
            except StepError as error:
                log.warning("%s: not shown in the report: %s", sample.video_id, error)
                found.append(sample)
        yield found


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
            object_names=tuple(found["name"] for found in own_objects(row)),
            audible=tuple(found["audible"] for found in own_objects(row)),
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
    for name in summary["llm_adaptations"]:
        say(f"the language model's endpoint doesn't take all that was sent: {ADAPTATIONS[name]}")
    say(
        f"{summary['events']} events ({', '.join(f'{count} {name}' for name, count in status.items())}), "
        f"{summary['objects']} objects, {100 * summary['share_audible']:.0f}% audible, "
        f"{sum(summary['questions'].values())} questions"
    )
    if left_out := {status: count for status, count in summary["export"]["left_out"].items() if count}:
        listed = ", ".join(f"{count} {status}" for status, count in left_out.items())
        say(f"not in ravst_train_QA.json and ravst_test_QA.json: {listed} questions (export.statuses)")
    say(f"report: {config.output.rstrip('/')}/report/index.html")
