"""The Parquet parts of a table: rows come in as they are read, files of about ``PART_BYTES`` come out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

PART_BYTES = 128 * 2**20
GROUP_ROWS = 512


def is_full(size: int) -> bool:
    """Whether a part of so many bytes stays as it is, instead of being merged with what is new."""
    return size >= PART_BYTES // 2


class PartWriter:
    """Writes one table; ``parts`` names its files, which count once a manifest names them too.

    Args:
        open_part: opens a file of that name to be written.
        stem: of the files' names: ``{stem}-{n}.parquet``.
        schema: of the table.
    """

    def __init__(self, open_part: Callable[[str], pa.NativeFile], stem: str, schema: pa.Schema):
        self.parts: list[str] = []
        self._open, self._stem, self._schema = open_part, stem, schema
        self._group: list[dict[str, Any]] = []
        self._sink: pa.NativeFile | None = None
        self._writer: pq.ParquetWriter | None = None

    def add(self, rows: list[dict[str, Any]]) -> None:
        """So many more rows; they are held back until they fill a row group."""
        self._group += rows
        if len(self._group) >= GROUP_ROWS:
            self._flush()

    def close(self) -> None:
        """Write what is held back, and end the file; without any row it is a part that can be read all the same."""
        if self._group or not self.parts:
            self._flush()
        self._end_file()

    def _flush(self) -> None:
        if self._writer is None or self._sink is None:
            self.parts.append(f"{self._stem}-{len(self.parts):05d}.parquet")
            self._sink = self._open(self.parts[-1])
            self._writer = pq.ParquetWriter(self._sink, self._schema, compression="zstd")
        self._writer.write_table(pa.Table.from_pylist(self._group, schema=self._schema))
        self._group = []
        if self._sink.tell() >= PART_BYTES:
            self._end_file()

    def _end_file(self) -> None:
        if self._writer is not None and self._sink is not None:
            self._writer.close()
            self._sink.close()
        self._writer = self._sink = None
