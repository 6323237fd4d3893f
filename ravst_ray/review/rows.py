"""The rows of an output, found by video: a slim index in memory, whole rows only of the video that is looked at.

Parts never change once they are named, so each is read once. Of a run that goes on, videos that are committed and in
no part yet are seen, too.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ravst_ray.config.annotate import QualityConfig
from ravst_ray.datasets.store import DatasetStore
from ravst_ray.errors import AbortError
from ravst_ray.review.slim import COLUMNS, Entry, entries_of

_TABLES = ("annotations", "qa", "videos")
LOOK_EVERY_S = 2.0
_WHILE_S = 1.0  # as long may a look at what a run has committed take
_AT_ONCE = 32
_KEPT_GROUPS = 12  # row groups of some hundred rows each
_GROUPS_AT_ONCE = 16  # are read for the index

_COLUMNS = {"annotations": COLUMNS, "qa": ("video_id", "event_num", "task", "status"), "videos": ("video_id",)}
_UNIT_COLUMNS = [f"{name}.list.element.{column}" for name in ("annotations", "qa") for column in _COLUMNS[name]]

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
    tasks: dict[str, Tasks] = field(default_factory=lambda: defaultdict(Counter))
    groups: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))


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
        self._behind = False

    @property
    def pending(self) -> int:
        """How many videos are committed and in no part yet."""
        return len(self._units)

    def refresh(self, now: bool = False) -> bool:
        """Read what has been committed since, at most every ``LOOK_EVERY_S``; True when there was any."""
        with self._lock:
            if not now and not self._behind and time.monotonic() - self._looked < LOOK_EVERY_S:
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
        units = {key: one for key, one in self._read_units() if not compacted & one.groups.keys()}
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
                for first in range(0, parquet.num_row_groups, _GROUPS_AT_ONCE):
                    groups = range(first, min(first + _GROUPS_AT_ONCE, parquet.num_row_groups))
                    table = parquet.read_row_groups(groups, columns=list(_COLUMNS[name]))
                    self._add(
                        source, name, table, {group: parquet.metadata.row_group(group).num_rows for group in groups}
                    )
        except (pa.ArrowInvalid, KeyError) as error:
            message = f"{self._store.root}/{part} can't be read ({error}); is it whole, and of this version?"
            raise AbortError(message) from None
        return source

    def _read_units(self) -> Iterator[tuple[str, _Source]]:
        """Those that were read before, and what can be read of the others in a while; the rest is for the next time."""
        started = time.monotonic()
        fresh: list[tuple[str, pa.Table]] = []
        self._behind = False
        for key, table in self._store.pending(self._units, _UNIT_COLUMNS):
            if table is None:
                yield key, self._units[key]
                continue
            fresh.append((key, table))
            if len(fresh) >= _AT_ONCE:
                yield from self._of_units(fresh)
                fresh = []
                if time.monotonic() - started > _WHILE_S:
                    self._behind = True
                    return
        if fresh:
            yield from self._of_units(fresh)

    def _of_units(self, units: Sequence[tuple[str, pa.Table]]) -> Iterator[tuple[str, _Source]]:
        """Several at once: what is done for each table costs more than what is done for its few rows."""
        both = _Source()
        whole = pa.concat_tables([table.select(["annotations", "qa"]) for _, table in units])
        for name in whole.column_names:
            rows = whole[name].combine_chunks().flatten()
            self._add(both, name, pa.Table.from_struct_array(rows), {0: len(rows)})
        entries: dict[str, list[Entry]] = {}
        for entry in both.entries:
            entries.setdefault(entry.video_id, []).append(entry)
        for key, table in units:
            ids = pc.unique(pc.struct_field(table["annotations"].combine_chunks().flatten(), "video_id")).to_pylist()
            found = [entry for video_id in ids for entry in entries[video_id]]
            tasks = {video_id: both.tasks[video_id] for video_id in ids if video_id in both.tasks}
            yield key, _Source(found, tasks, {video_id: [0] for video_id in ids})

    def _add(self, source: _Source, name: str, table: pa.Table, groups: Mapping[int, int]) -> None:
        """Rows of a table, so many of each row group."""
        if not table.num_rows:
            return
        if name == "annotations":
            source.entries += entries_of(table, self._quality)
        elif name == "qa":
            columns = (table[column].to_pylist() for column in ("video_id", "event_num", "task", "status"))
            for (video_id, *asked), count in Counter(zip(*columns, strict=True)).items():
                source.tasks[video_id][tuple(asked)] += count
        start = 0
        for group, rows in groups.items():
            for video_id in pc.unique(table["video_id"].slice(start, rows)).to_pylist():
                source.groups[video_id].append(group)
            start += rows

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
