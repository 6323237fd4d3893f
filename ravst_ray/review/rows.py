"""The rows of an output, found by video: a slim index in memory, whole rows only of the video that is looked at.

Parts never change once they are named, so each is read once. Of a run that goes on, videos that are committed and in
no part yet are seen, too.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ravst_ray.config.annotate import QualityConfig
from ravst_ray.datasets.schemas import ANNOTATIONS
from ravst_ray.datasets.store import DatasetStore
from ravst_ray.errors import AbortError
from ravst_ray.review.slim import COLUMNS, Entry, entries_of

_TABLES = ("annotations", "qa", "videos")
LOOK_EVERY_S = 2.0
_KEPT_GROUPS = 12  # row groups of some hundred rows each

Tasks = Counter[tuple[int, str, str]]  # event_num, task, status


@dataclass(frozen=True, slots=True)
class VideoRows:
    """The whole rows of one video; ``video`` is None in outputs of older versions."""

    annotations: tuple[Mapping[str, Any], ...] = ()
    qa: tuple[Mapping[str, Any], ...] = ()
    video: Mapping[str, Any] | None = None


@dataclass(slots=True)
class _Source:
    """What one file holds: entries, counts of questions and, of each video, its row groups."""

    entries: list[Entry] = field(default_factory=list)
    tasks: dict[str, Tasks] = field(default_factory=dict)
    groups: dict[str, list[int]] = field(default_factory=dict)


class Rows:
    """Reads an output. Safe to use from several threads.

    Args:
        store: the output.
        quality: thresholds of the run.
    """

    def __init__(self, store: DatasetStore, quality: QualityConfig):
        self._store, self._quality = store, quality
        self._lock = threading.RLock()
        self._parts: dict[str, _Source] = {}
        self._units: dict[str, _Source] = {}
        self._places: dict[str, list[tuple[str, str]]] = {}
        self._tables: OrderedDict[tuple[str, int], pa.Table] = OrderedDict()
        self.entries: dict[str, Entry] = {}
        self.tasks: dict[str, Tasks] = {}
        self.version = 0
        self._looked = -LOOK_EVERY_S

    @property
    def pending(self) -> int:
        """How many videos are committed and in no part yet."""
        return len(self._units)

    def refresh(self, now: bool = False) -> bool:
        """Read what has been committed since, at most every ``LOOK_EVERY_S``; True when there was any."""
        with self._lock:
            if not now and time.monotonic() - self._looked < LOOK_EVERY_S:
                return False
            self._looked = time.monotonic()
            try:
                return self._refresh()
            except FileNotFoundError:  # a run has just folded what was there into other parts
                return self._refresh()

    def _refresh(self) -> bool:
        tables = self._store.generation().tables
        named = {part for name in _TABLES for part in tables.get(name, ())}
        parts = {part: self._parts.get(part) or self._read_part(part) for part in sorted(named)}
        compacted = {video_id for source in parts.values() for video_id in source.groups}
        units: dict[str, _Source] = {}
        for key, rows in self._store.pending(self._units):
            source = self._units[key] if rows is None else self._of_unit(rows)
            if not compacted & source.groups.keys():
                units[key] = source
        changed = parts.keys() != self._parts.keys() or units.keys() != self._units.keys()
        self._parts, self._units = parts, units
        if changed:
            self._join()
        return changed

    def _join(self) -> None:
        self.entries, self.tasks, self._places = {}, {}, defaultdict(list)
        for kind, sources in (("part", self._parts), ("unit", self._units)):
            for name, source in sources.items():
                self.entries |= {entry.annotation_id: entry for entry in source.entries}
                for video_id, counts in source.tasks.items():
                    known = self.tasks.get(video_id)
                    self.tasks[video_id] = counts if known is None else known + counts
                for video_id in source.groups:
                    self._places[video_id].append((kind, name))
        self._tables.clear()
        self.version += 1

    def _read_part(self, part: str) -> _Source:
        source = _Source()
        name = part.partition("/")[0]
        try:
            with self._store.open(part) as file:
                parquet = pq.ParquetFile(file, pre_buffer=True)
                for group in range(parquet.num_row_groups):
                    self._add(source, name, parquet.read_row_group(group, columns=_columns(name)), group)
        except (pa.ArrowInvalid, KeyError) as error:
            message = f"{self._store.root}/{part} can't be read ({error}); is it whole, and of this version?"
            raise AbortError(message) from None
        return source

    def _of_unit(self, rows: Mapping[str, list[dict[str, Any]]]) -> _Source:
        source = _Source()
        self._add(source, "annotations", pa.Table.from_pylist(rows["annotations"], schema=ANNOTATIONS), 0)
        if rows["qa"]:
            self._add(source, "qa", pa.Table.from_pylist(rows["qa"]), 0)
        return source

    def _add(self, source: _Source, name: str, table: pa.Table, group: int) -> None:
        if not table.num_rows:
            return
        if name == "annotations":
            source.entries += entries_of(table, self._quality)
        elif name == "qa":
            columns = (table[column].to_pylist() for column in ("video_id", "event_num", "task", "status"))
            for video_id, *asked in zip(*columns, strict=True):
                source.tasks.setdefault(video_id, Counter())[tuple(asked)] += 1
        for video_id in pc.unique(table["video_id"]).to_pylist():
            source.groups.setdefault(video_id, []).append(group)

    def of_video(self, video_id: str) -> VideoRows:
        """All rows of a video; none of one that isn't there."""
        with self._lock:
            try:
                return self._of_video(video_id)
            except FileNotFoundError:
                self._refresh()
                return self._of_video(video_id)

    def _of_video(self, video_id: str) -> VideoRows:
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in _TABLES}
        for kind, name in self._places.get(video_id, ()):
            if kind == "unit":
                rows = self._store.pending_rows(name)
                if rows is None:
                    raise FileNotFoundError(name)
                return VideoRows(tuple(rows["annotations"]), tuple(rows["qa"]), next(iter(rows["videos"]), None))
            for group in self._parts[name].groups[video_id]:
                table = self._group(name, group)
                mine = table.filter(pc.equal(table["video_id"], video_id))
                found[name.partition("/")[0]] += mine.to_pylist()
        found["annotations"].sort(key=lambda row: row["event_num"])
        return VideoRows(tuple(found["annotations"]), tuple(found["qa"]), next(iter(found["videos"]), None))

    def _group(self, part: str, group: int) -> pa.Table:
        key = part, group
        if key not in self._tables:
            with self._store.open(part) as file:
                self._tables[key] = pq.ParquetFile(file, pre_buffer=True).read_row_group(group)
            if len(self._tables) > _KEPT_GROUPS:
                self._tables.popitem(last=False)
        self._tables.move_to_end(key)
        return self._tables[key]


def _columns(name: str) -> list[str]:
    named = {"annotations": COLUMNS, "qa": ("video_id", "event_num", "task", "status"), "videos": ("video_id",)}
    return list(named[name])
