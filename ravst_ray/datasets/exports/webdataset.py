"""WebDataset: tar shards with a JSON file a video and, when asked for, the video beside it under the same key."""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa

from ravst_ray.datasets.exports.folder import ExportFolder
from ravst_ray.datasets.exports.protocols import ExportedVideo, Row
from ravst_ray.datasets.splits import unit_key

SHARD_BYTES = 2**30
"""A shard that has so many is ended; it is larger by its last video at most."""
_KEY = re.compile(r"[A-Za-z0-9_-]{1,80}")


@dataclass(frozen=True, slots=True)
class _Shard:
    file: pa.NativeFile
    tar: tarfile.TarFile

    def add(self, name: str, file: BinaryIO, size: int) -> None:
        member = tarfile.TarInfo(name)
        member.size = size
        self.tar.addfile(member, file)

    def close(self) -> None:
        self.tar.close()
        self.file.close()


class WebDatasetWriter:
    """``{split}-{n}.tar``; samples are whole, and in the tables' order."""

    about = """`train-000000.tar`, …, `test-000000.tar`, …: in each shard a video has `KEY.json` (`video_id`, `split`,
its `annotations` and `qa`, as rows) and, where the videos are part of this, `KEY.mp4` (or another ending).

```python
import webdataset

for sample in webdataset.WebDataset("train-{000000..000000}.tar", shardshuffle=False).decode():
    print(sample["__key__"], len(sample["json"]["qa"]))
```
"""

    def __init__(self, folder: ExportFolder):
        self._folder = folder
        self._shards: dict[str, _Shard] = {}  # those that are open, by split
        self._begun: Counter[str] = Counter()

    def add(self, video: ExportedVideo) -> None:
        """One sample."""
        shard = self._shard(video.split)
        key = video.video_id if _KEY.fullmatch(video.video_id) else unit_key(video.video_id)  # a dot would end a key
        record = {
            "video_id": video.video_id,
            "split": video.split,
            "annotations": [_plain(row) for row in video.annotations],
            "qa": video.qa,
        }
        text = json.dumps(record, ensure_ascii=False).encode()
        shard.add(f"{key}.json", io.BytesIO(text), len(text))
        if video.path:
            with open(video.path, "rb") as file:
                shard.add(f"{key}{video.suffix}", file, os.stat(video.path).st_size)
        if shard.file.tell() >= SHARD_BYTES:
            self._shards.pop(video.split).close()

    def _shard(self, split: str) -> _Shard:
        """The one that is open, or the next."""
        if split not in self._shards:
            file = self._folder.open(f"{split}-{self._begun[split]:06d}.tar")
            self._shards[split] = _Shard(file, tarfile.open(fileobj=file, mode="w"))  # noqa: SIM115
            self._begun[split] += 1
        return self._shards[split]

    def close(self) -> None:
        """End the shards."""
        for shard in self._shards.values():
            shard.close()

    def header(self) -> Mapping[str, Any]:
        """None is wanted."""
        return {}


def _plain(row: Row) -> Row:
    return {**row, "provenance": dict(row.get("provenance") or ())}
