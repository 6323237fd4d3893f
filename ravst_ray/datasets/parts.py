"""The Parquet parts of a table: rows come in as they are read, files of about ``PART_BYTES`` come out."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

PART_BYTES = 128 * 2**20
GROUP_ROWS = 512


def is_full(size: int) -> bool:
    """Whether a part of so many bytes stays as it is, instead of being merged with what is new."""
    return size >= PART_BYTES // 2


class PartWriter:
    """Writes one table of one generation; ``parts`` names its files, which count once a manifest names them too.

    Args:
        filesystem: of the store.
        base: the store's path there.
        name: of the table, and of its folder, which must exist.
        number: of the generation.
        schema: of the table.
    """

    def __init__(self, filesystem: fs.FileSystem, base: str, name: str, number: int, schema: pa.Schema):
        self.parts: list[str] = []
        self._fs, self._base, self._name, self._number = filesystem, base, name, number
        self._schema = schema
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
            self.parts.append(f"{self._name}/part-{self._number:06d}-{len(self.parts):05d}.parquet")
            self._sink = self._fs.open_output_stream(f"{self._base}/{self.parts[-1]}")
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
