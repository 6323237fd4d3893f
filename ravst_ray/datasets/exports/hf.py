"""A folder for Hugging Face ``datasets``: Parquet files of questions and annotations, named in the card's header."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from ravst_ray.datasets.exports.card import table
from ravst_ray.datasets.exports.folder import ExportFolder
from ravst_ray.datasets.exports.protocols import SPLITS, ExportedVideo, Row
from ravst_ray.datasets.parts import PartWriter
from ravst_ray.datasets.schemas import ANNOTATIONS, QA

_PAIRS = pa.list_(pa.struct([("key", pa.string()), ("value", pa.string())]))
_FILE = pa.field("video_file", pa.string(), metadata={"doc": "the video in this folder; null where it isn't there"})


def _loadable(schema: pa.Schema) -> pa.Schema:
    """Without maps, which the library can't read."""
    fields = [field.with_type(_PAIRS) if pa.types.is_map(field.type) else field for field in schema]
    return pa.schema([*fields, _FILE])


SCHEMAS = {"qa": _loadable(QA), "annotations": _loadable(ANNOTATIONS)}
"""The first is what is loaded when no name is given."""


class HuggingFaceWriter:
    """``{table}/{split}-{n}.parquet``."""

    def __init__(self, folder: ExportFolder):
        self._folder = folder
        self._writers: dict[tuple[str, str], PartWriter] = {}
        columns = "\n\n".join(
            f"Columns of `{name}`:\n\n{table(('column', 'what it holds'), _docs(schema))}"
            for name, schema in SCHEMAS.items()
        )
        self.about = f"""`qa/` has a row a question, `annotations/` a row an event: its objects with their audibility,
box tracks and provenance. Videos, where they are part of this, are under `videos/`.

```python
from datasets import load_dataset

questions = load_dataset("path/or/name")
annotations = load_dataset("path/or/name", "annotations")
```

{columns}
"""

    def add(self, video: ExportedVideo) -> None:
        """Its rows, and its file."""
        if video.path:
            self._folder.copy(video.path, video.file)
        for name, rows in (("qa", video.qa), ("annotations", video.annotations)):
            if rows:
                key = (name, video.split)
                if key not in self._writers:
                    self._writers[key] = PartWriter(self._folder.open, f"{name}/{video.split}", SCHEMAS[name])
                self._writers[key].add([_loadable_row(row, video.file) for row in rows])

    def close(self) -> None:
        """End the files; a split without rows has none."""
        for writer in self._writers.values():
            writer.close()

    def header(self) -> Mapping[str, Any]:
        """Which files are which table and split."""
        configs: list[dict[str, Any]] = []
        for name in SCHEMAS:
            files = [
                {"split": split, "path": f"{name}/{split}-*.parquet"}
                for split in SPLITS
                if (name, split) in self._writers
            ]
            if files:
                configs.append({"config_name": name, "default": not configs, "data_files": files})
        return {"configs": configs}


def _docs(schema: pa.Schema) -> list[tuple[str, str]]:
    return [(field.name, field.metadata[b"doc"].decode()) for field in schema]


def _loadable_row(row: Row, file: str) -> Row:
    pairs = [{"key": key, "value": value} for key, value in row.get("provenance") or ()]
    return {**row, "provenance": pairs, "video_file": file or None}
