"""One export, from a finished dataset to a folder that can be handed on: what ``ravst export`` does.

::

    OUT/annotations, OUT/qa ─► by video ─► revised ─► of the wanted statuses ─► (its file fetched) ─► writer ─► DIR
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from typing import Any

import pyarrow as pa
import yaml
from rich.console import Console

from ravst_ray.datasets.exports.card import Tally, dataset_card
from ravst_ray.datasets.exports.coco import CocoWriter
from ravst_ray.datasets.exports.folder import ExportFolder
from ravst_ray.datasets.exports.hf import HuggingFaceWriter
from ravst_ray.datasets.exports.protocols import SPLITS, ExportedVideo, Row, Writer
from ravst_ray.datasets.exports.ravst import RavstWriter
from ravst_ray.datasets.exports.reading import Rows, event_count, finished, read_videos, with_files
from ravst_ray.datasets.exports.webdataset import WebDatasetWriter
from ravst_ray.datasets.places import video_files
from ravst_ray.datasets.store import DatasetStore
from ravst_ray.errors import AbortError, ConfigError
from ravst_ray.progress import RunProgress
from ravst_ray.records import STATUSES

FORMATS: dict[str, type[Writer]] = {
    "ravst": RavstWriter,
    "hf": HuggingFaceWriter,
    "coco": CocoWriter,
    "webdataset": WebDatasetWriter,
}
Revise = Callable[[str, list[Row], list[Row]], tuple[list[Row], list[Row]]]
"""A person's verdicts: a video's id and its rows of both tables to the same rows as they are to be."""


def export(
    output: str,
    to: str,
    form: str,
    console: Console,
    statuses: Collection[str] = STATUSES[:1],
    videos: str | None = None,
    revise: Revise | None = None,
    review: Mapping[str, Any] | None = None,
) -> Tally:
    """Write a dataset in one of the formats, with a card; what is exported is counted and given back.

    Args:
        output: of ``ravst annotate``, a path or a URI; it may be running, what is in no table yet is then left out.
        to: the folder to write, a path or a URI; made if missing, else empty.
        form: a key of ``FORMATS``.
        console: where progress is told.
        statuses: of the rows that are wanted.
        videos: None: without the videos' files; "": from where the run had them; else the folder that they are in.
        revise: applied to every video before its rows are chosen by status.
        review: figures for the card.

    Raises:
        ConfigError: an argument can't be used; nothing was written.
        AbortError: reading or writing failed; nothing is left of the export.
    """
    if form not in FORMATS:
        raise ConfigError(f"{form}: no such format; there are {', '.join(FORMATS)}")
    if unknown := sorted(set(statuses) - set(STATUSES)):
        raise ConfigError(f"{unknown[0]}: no such status; there are {', '.join(STATUSES)}")
    statuses = list(dict.fromkeys(statuses))
    store = DatasetStore(output)
    generation, waiting = finished(store)
    settings = _settings(store)
    files = None if videos is None else video_files(videos or _folder_of_videos(settings, output))
    tally = Tally()
    try:
        with ExportFolder(to) as folder:
            total = event_count(store, generation)
            with RunProgress("exporting", "events", total, console) as progress:
                rows = _followed(read_videos(store, generation), progress)
                chosen = _chosen(rows, statuses, revise, tally)
                writer = FORMATS[form](folder)
                with closing(chosen if files is None else with_files(chosen, files)) as exported:
                    for video in exported:
                        _add(writer, video, output)
                        tally.add(video)
                if not tally.total["videos"]:
                    raise ConfigError(
                        f"{output}: no row is {' or '.join(statuses)} ({_listed(tally)}); --statuses names others"
                    )
                writer.close()
            card = dataset_card(tally, writer.about, writer.header(), statuses, settings, review)
            folder.write("README.md", card)
            folder.finish({"format": form, "statuses": statuses, **tally.facts()})
    except (OSError, pa.ArrowException) as error:
        raise AbortError(f"{to}: can't be written: {error}; nothing is left of the export") from None
    _tell(tally, waiting, to, files is not None, console)
    return tally


def _add(writer: Writer, video: ExportedVideo, output: str) -> None:
    try:
        writer.add(video)
    except (KeyError, TypeError, ValueError) as error:  # some formats hold rows back, and look at them later
        raise AbortError(
            f"{output}: the rows of {video.video_id!r}, or of a video shortly before it, aren't as ravst annotate "
            f"writes them: {error!r}"
        ) from error


def _settings(store: DatasetStore) -> Mapping[str, Any]:
    """The run's ``config.yaml``; empty where it can't be read, because others may have written it."""
    try:
        found = yaml.safe_load(store.read_bytes("config.yaml") or b"")
    except (OSError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def _folder_of_videos(settings: Mapping[str, Any], output: str) -> str:
    given = settings.get("input")
    place = given.get("videos") if isinstance(given, dict) else None
    if not isinstance(place, str) or not place:
        raise ConfigError(f"{output}: its config.yaml names no folder of videos; name it: --videos DIR")
    return place


def _followed(videos: Iterable[Rows], progress: RunProgress) -> Iterator[Rows]:
    for video in videos:
        yield video
        for _ in video[1]:
            progress.add(failed=False)


def _chosen(
    videos: Iterable[Rows], statuses: Collection[str], revise: Revise | None, tally: Tally
) -> Generator[ExportedVideo]:
    """The rows of the wanted statuses; a video that has none is left out."""
    for video_id, events, qa in videos:
        split, duration_s = events[0]["split"], events[0]["duration_s"]
        if split not in SPLITS:  # it becomes a part of file names
            raise AbortError(f"the split of {video_id!r} is {split!r}, not {' or '.join(SPLITS)}; its row is damaged")
        if revise is not None:
            events, qa = revise(video_id, events, qa)
        tables = {"events": events, "questions": qa}
        for kind, rows in tables.items():
            tally.leave_out(kind, (row for row in rows if row["status"] not in statuses))
        kept = {kind: [row for row in rows if row["status"] in statuses] for kind, rows in tables.items()}
        if any(kept.values()):
            yield ExportedVideo(video_id, split, duration_s, kept["events"], kept["questions"])


def _listed(tally: Tally) -> str:
    left = tally.left_out["events"]
    return ", ".join(f"{count} {status}" for status, count in left.items()) or "there are no events"


def _tell(tally: Tally, waiting: int, to: str, with_videos: bool, console: Console) -> None:
    total, left = tally.total, tally.left_out["questions"]
    told = [f"{total['videos']:,} videos, {total['events']:,} events, {total['questions']:,} questions: {to}"]
    if left:
        listed = ", ".join(f"{count:,} {status}" for status, count in left.items())
        told.append(f"left out for their status: {listed} questions (--statuses)")
    if with_videos and (lacking := total["videos"] - total["files"]):
        told.append(f"{lacking:,} of the videos have no file that could be had; the log names them")
    if waiting:
        told.append(
            f"{waiting:,} videos that are committed, but in no table until their run has ended, are not among them"
        )
    for line in told:
        console.print(line, highlight=False, soft_wrap=True)
