"""The output directory as a store of finished videos, safe against dying at any moment.

::

    OUT/_commit/units/{key}.parquet   everything about one video (key: a safe name made from its id)
    OUT/_commit/units/{key}.json      its manifest, written after it: only now the video is committed
    OUT/{table}/part-{generation}-{n}.parquet   compacted parts of about 128 MB (annotations, qa, videos, errors)
    OUT/_commit/ledger-{generation}.parquet                   every committed video, its status and numbers
    OUT/_commit/manifest-{generation}.json                    names the living parts; written last

Object stores have no rename, so nothing here relies on one: a file counts when a manifest that is written later
names it with its size and hash, and a manifest counts when it is whole (its own hash is right). What no manifest
names is invisible, and is overwritten or removed by the next run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ravst_ray.datasets.folder import Folder
from ravst_ray.datasets.parts import PartWriter, is_full
from ravst_ray.datasets.schemas import ERRORS, TABLES
from ravst_ray.datasets.splits import unit_key
from ravst_ray.errors import ConfigError
from ravst_ray.logs import get_logger

log = get_logger(__name__)

_LEDGER = pa.schema(
    [
        ("video_id", pa.string()),
        ("ok", pa.bool_()),
        ("retryable", pa.bool_()),
        ("stats", pa.string()),
        ("error", pa.struct(list(ERRORS))),
    ]
)


@dataclass(frozen=True)
class LedgerEntry:
    """What is known of a committed video without reading its rows."""

    video_id: str
    ok: bool
    retryable: bool
    stats: Mapping[str, float] = field(default_factory=dict)
    error: Mapping[str, Any] | None = None

    @property
    def settled(self) -> bool:
        """True when a rerun has nothing to do for this video."""
        return self.ok or not self.retryable


@dataclass(frozen=True)
class Generation:
    """A compacted state of the dataset: its number, and the living files of each table."""

    number: int = 0
    tables: Mapping[str, list[str]] = field(default_factory=dict)


class DatasetStore(Folder):
    """An output directory: a local path, or a URI (``s3://…``, see :mod:`ravst_ray.datasets.places`).

    Cheap to make and picklable, so that every worker can hold one.

    Args:
        root: the place.
        tables: schemas by name; ``errors`` is among them. What is committed under an id, a video's or another thing's,
            is rows of these.
    """

    def __init__(self, root: str, tables: Mapping[str, pa.Schema] = TABLES):
        super().__init__(root)
        self._tables = dict(tables)
        self._contents = [name for name in tables if name != "errors"]
        self._unit_schema = pa.schema([(name, pa.list_(pa.struct(list(schema)))) for name, schema in tables.items()])

    def __reduce__(self):
        return type(self), (self.root, self._tables)

    def prepare(self) -> None:
        """Make the directory, and find out now whether it can be written to."""
        try:
            self._fs.create_dir(f"{self._base}/_commit/units", recursive=True)
            self.write_bytes("_commit/writable", b"yes")
        except OSError as error:
            raise ConfigError(f"output {self.root}: can't be written to ({error}); choose another directory") from None

    # --- one video ---------------------------------------------------------------------------------------------------

    def commit(self, video_id: str, rows: Mapping[str, list[dict[str, Any]]], stats: Mapping[str, float]) -> None:
        """Make one finished video part of the dataset. Doing it again replaces it."""
        key = unit_key(video_id)
        sink = pa.BufferOutputStream()
        pq.write_table(
            pa.table({name: [rows[name]] for name in self._tables}, schema=self._unit_schema), sink, compression="zstd"
        )
        part = sink.getvalue().to_pybytes()
        error = rows["errors"][0] if rows["errors"] else None
        manifest = {
            "video_id": video_id,
            "ok": error is None,
            "retryable": bool(error and error["retryable"]),
            "error": error,
            "stats": dict(stats),
            "bytes": len(part),
            "part_sha256": hashlib.sha256(part).hexdigest(),
        }
        self._delete(f"_commit/units/{key}.json")  # of an earlier attempt: a manifest never names another part
        self.write_bytes(f"_commit/units/{key}.parquet", part)
        self.write_bytes(f"_commit/units/{key}.json", _sealed(manifest))

    def _unit_table(
        self, key: str, manifest: Mapping[str, Any], columns: Sequence[str] | None = None
    ) -> pa.Table | None:
        """A unit as it was written, one row with a list a table; None where it isn't whole."""
        part = self.read_bytes(f"_commit/units/{key}.parquet")
        if part is None or hashlib.sha256(part).hexdigest() != manifest["part_sha256"]:
            return None
        return pq.ParquetFile(pa.BufferReader(part)).read(columns, use_threads=False)  # small: threads cost more

    def _unit(self, key: str, manifest: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]] | None:
        table = self._unit_table(key, manifest)
        if table is None:
            return None
        row = table.to_pylist()[0]
        return {name: row.get(name) or [] for name in self._tables}  # a unit of an older version lacks a table

    def _units(self) -> dict[str, dict[str, Any]]:
        """Manifests of the units that are whole, by key."""
        names = self._list("_commit/units")
        there = set(names)
        sealed = [n for n in names if n.endswith(".json") and n.removesuffix(".json") + ".parquet" in there]
        manifests = zip(sealed, self._each(self.read_bytes, sealed), strict=True)
        opened = ((name.rpartition("/")[2].removesuffix(".json"), _opened(data)) for name, data in manifests)
        return {key: manifest for key, manifest in opened if manifest is not None}

    def pending(
        self, known: Container[str] = (), columns: Sequence[str] | None = None
    ) -> Iterator[tuple[str, pa.Table | None]]:
        """Committed videos that are in no part yet, but those that couldn't be annotated: their keys and rows.

        The rows are one row with a list for each table, read as they are asked for; None for a key that is ``known``,
        which come first. ``columns`` are paths within that row, all by default.
        """
        sealed = [name for name in self._list("_commit/units") if name.endswith(".json")]
        keys = [name.rpartition("/")[2].removesuffix(".json") for name in sealed]
        yield from ((key, None) for key in keys if key in known)
        fresh = [key for key in keys if key not in known]

        def read(key: str) -> pa.Table | None:
            manifest = _opened(self.read_bytes(f"_commit/units/{key}.json"))
            return self._unit_table(key, manifest, columns) if manifest is not None and manifest["ok"] else None

        for key, table in zip(fresh, self._each(read, fresh), strict=True):
            if table is not None:
                yield key, table

    def pending_rows(self, key: str) -> dict[str, list[dict[str, Any]]] | None:
        """The rows of one of :meth:`pending`; None where it is gone (into a part) or isn't whole."""
        manifest = _opened(self.read_bytes(f"_commit/units/{key}.json"))
        return None if manifest is None else self._unit(key, manifest)

    # --- the whole ---------------------------------------------------------------------------------------------------

    def generation(self) -> Generation:
        """The newest whole manifest; generation 0 is empty, and so is a table that older versions didn't write."""
        none: dict[str, list[str]] = {name: [] for name in self._tables}
        for name in reversed(self._list("_commit")):
            if "/manifest-" in name:
                manifest = _opened(self.read_bytes(name))
                if manifest is not None:
                    return Generation(manifest["number"], none | manifest["tables"])
        return Generation(tables=none)

    def ledger(self) -> dict[str, LedgerEntry]:
        """Every committed video, compacted or not, by id."""
        entries = {entry.video_id: entry for entry in self._compacted_ledger(self.generation())}
        for manifest in self._units().values():
            entry = _entry(manifest)
            known = entries.get(entry.video_id)
            if known is None or not known.ok:
                entries[entry.video_id] = entry
        return entries

    def _compacted_ledger(self, generation: Generation) -> Iterator[LedgerEntry]:
        if generation.number:
            data = self.read_bytes(f"_commit/ledger-{generation.number:06d}.parquet")
            for row in pq.read_table(pa.BufferReader(data)).to_pylist():
                yield LedgerEntry(**{**row, "stats": json.loads(row["stats"])})

    def compact(self, more_errors: Iterable[Mapping[str, Any]] = ()) -> dict[str, LedgerEntry]:
        """Fold committed units into parts, and write the errors table anew.

        ``more_errors`` are rows that belong to this run alone (rejections by the filter).
        Returns the ledger. Interrupted at any point, the next call starts from the same state.
        """
        old = self.generation()
        ledger = {entry.video_id: entry for entry in self._compacted_ledger(old)}
        units = self._units()
        done = {name for name, entry in ledger.items() if entry.ok}
        fresh = [(key, manifest) for key, manifest in units.items() if manifest["video_id"] not in done]
        number = old.number + 1
        tables = {name: list(old.tables[name]) for name in self._contents}
        if fresh or not all(tables.values()):
            tables = self._fold(number, old, fresh, ledger)
        errors = [dict(entry.error) for entry in ledger.values() if entry.error] + [dict(row) for row in more_errors]
        errors.sort(key=lambda row: (row["video_id"], row["stage"]))
        tables |= self._write_parts(number, ("errors",), [{"errors": errors}])
        self._write_ledger(number, ledger)
        living = Generation(number, tables)
        self._settle([name for name in self._files(living) if f"-{number:06d}" in name and "/manifest-" not in name])
        self.write_bytes(f"_commit/manifest-{number:06d}.json", _sealed({"number": number, "tables": tables}))
        self._settle([f"_commit/manifest-{number:06d}.json", "_commit", *self._tables])
        self._sweep(living, units)
        return ledger

    def _fold(
        self, number: int, old: Generation, fresh: Sequence[tuple[str, Mapping[str, Any]]], ledger: dict[str, Any]
    ) -> dict[str, list[str]]:
        """Old parts that are full stay as they are; small ones are merged with what is new, which enters the ledger.

        Each unit is read once, whatever the number of tables.
        """
        full: dict[str, list[str]] = {name: [] for name in self._contents}
        small: list[tuple[str, str]] = []
        for name, parts in full.items():
            for part in old.tables[name]:
                if is_full(self._fs.get_file_info(f"{self._base}/{part}").size):
                    parts.append(part)
                else:
                    small.append((name, part))

        def batches() -> Iterator[dict[str, list[dict[str, Any]]]]:
            for name, part in small:
                yield from ({name: rows} for rows in self._read_part(part))
            for (key, manifest), unit in zip(fresh, self._each(lambda one: self._unit(*one), fresh), strict=True):
                if unit is None:
                    log.warning("%s: unit %s is damaged; its video will be done again", self.root, key)
                    continue
                ledger[manifest["video_id"]] = _entry(manifest)
                yield {name: unit[name] for name in full}

        written = self._write_parts(number, tuple(full), batches())
        return {name: full[name] + written[name] for name in full}

    def _write_parts(
        self, number: int, names: Sequence[str], batches: Iterable[Mapping[str, list[dict[str, Any]]]]
    ) -> dict[str, list[str]]:
        """The parts of some tables, from batches that hold rows of any of them."""
        for name in names:
            self._make_folder(name)
        writers = {name: PartWriter(self._create, f"{name}/part-{number:06d}", self._tables[name]) for name in names}
        for batch in batches:
            for name, rows in batch.items():
                writers[name].add(rows)
        for writer in writers.values():
            writer.close()
        return {name: writer.parts for name, writer in writers.items()}

    def _write_ledger(self, number: int, ledger: Mapping[str, LedgerEntry]) -> None:
        rows = [
            {
                "video_id": entry.video_id,
                "ok": entry.ok,
                "retryable": entry.retryable,
                "stats": json.dumps(dict(entry.stats)),
                "error": entry.error,
            }
            for entry in sorted(ledger.values(), key=lambda entry: entry.video_id)
        ]
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows, schema=_LEDGER), sink, compression="zstd")
        self.write_bytes(f"_commit/ledger-{number:06d}.parquet", sink.getvalue().to_pybytes())

    def _files(self, living: Generation) -> set[str]:
        parts = {part for parts in living.tables.values() for part in parts}
        return parts | {f"_commit/{kind}-{living.number:06d}.{end}" for kind, end in _KINDS}

    def _sweep(self, living: Generation, units: Mapping[str, Any]) -> None:
        """Remove what the newest manifest has made superfluous."""
        keep = self._files(living)
        for folder in ("_commit", *self._tables):
            for name in self._list(folder):
                if name not in keep and ("/part-" in name or "/ledger-" in name or "/manifest-" in name):
                    self._delete(name)
        for _ in self._each(self._delete_unit, list(units)):
            pass

    def _delete_unit(self, key: str) -> None:
        self._delete(f"_commit/units/{key}.json")
        self._delete(f"_commit/units/{key}.parquet")

    def _read_part(self, part: str) -> Iterator[list[dict[str, Any]]]:
        with self._fs.open_input_file(f"{self._base}/{part}") as file:
            for batch in pq.ParquetFile(file).iter_batches(batch_size=256):
                yield batch.to_pylist()

    def waiting(self) -> int:
        """How many videos are committed but in no table yet, because their run goes on or was cut off."""
        return sum(name.endswith(".json") for name in self._list("_commit/units"))

    def row_count(self, name: str, generation: Generation) -> int:
        """How many rows a table has, by the ends of its files alone."""
        count = 0
        for part in generation.tables[name]:
            with self._fs.open_input_file(f"{self._base}/{part}") as file:
                count += pq.ParquetFile(file).metadata.num_rows
        return count

    def rows(self, name: str, generation: Generation | None = None) -> Iterator[dict[str, Any]]:
        """The rows of a compacted table (``annotations``, …), a few at a time; those of a video follow one another.

        Videos come in the same order in each table of a generation, which is the newest unless one is given.
        """
        for part in (generation or self.generation()).tables[name]:
            for batch in self._read_part(part):
                yield from batch

    def table(self, name: str) -> pa.Table:
        """The same as one table in memory."""
        parts = [f"{self._base}/{part}" for part in self.generation().tables[name]]
        return pa.concat_tables(
            [self._tables[name].empty_table(), *(pq.read_table(part, filesystem=self._fs) for part in parts)]
        )


_KINDS = (("ledger", "parquet"), ("manifest", "json"))


def _entry(manifest: Mapping[str, Any]) -> LedgerEntry:
    return LedgerEntry(**{key: manifest[key] for key in LedgerEntry.__dataclass_fields__})


def _sealed(content: Mapping[str, Any]) -> bytes:
    body = json.dumps(content, sort_keys=True)
    return json.dumps({"sha256": hashlib.sha256(body.encode()).hexdigest(), "body": body}).encode()


def _opened(data: bytes | None) -> dict[str, Any] | None:
    """The content of a sealed file; None when the writer died in the middle of it."""
    try:
        sealed = json.loads(data or b"")
        body = sealed["body"]
        whole = hashlib.sha256(body.encode()).hexdigest() == sealed["sha256"]
        return json.loads(body) if whole else None
    except (ValueError, KeyError, TypeError):
        return None
