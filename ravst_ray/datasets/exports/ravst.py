"""R-AVST's published JSON, a file for each split: what ``ravst train``, ``predict`` and ``evaluate`` read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from ravst_ray.datasets.exports.folder import ExportFolder
from ravst_ray.datasets.exports.protocols import SPLITS, ExportedVideo
from ravst_ray.datasets.ravst_json import video_entry
from ravst_ray.datasets.schemas import qa_from_row


class RavstWriter:
    """``ravst_{split}_QA.json`` with an entry a video; a video without questions has none."""

    about = """`ravst_train_QA.json` and `ravst_test_QA.json` hold the questions in the format of R-AVST's publication:
`[{"video_name", "duration", "annotation": [{"event_num", "AV Temporal Reasoning": [{"Q", "A"}], …}]}]`. Videos, where
they are part of this, are `videos/{video_name}.mp4` (or another ending).

```console
$ ravst predict --model MODEL --annotations ravst_test_QA.json --videos videos/ --out answers.jsonl
$ ravst evaluate --predictions answers.jsonl --annotations ravst_test_QA.json --out eval
```
"""

    def __init__(self, folder: ExportFolder):
        self._folder = folder
        self._files: dict[str, pa.NativeFile] = {}
        self._begun: set[str] = set()

    def add(self, video: ExportedVideo) -> None:
        """Its questions, in the tables' order."""
        if video.path:
            self._folder.copy(video.path, video.file)
        if video.qa:
            pairs = [qa_from_row(row) for row in video.qa]
            self._write(video.split, video_entry(video.video_id, pairs, video.duration_s))

    def _write(self, split: str, entry: Mapping[str, Any]) -> None:
        text = json.dumps(entry, ensure_ascii=False)
        self._file(split).write((", " if split in self._begun else "").encode() + text.encode())
        self._begun.add(split)

    def _file(self, split: str) -> pa.NativeFile:
        if split not in self._files:
            self._files[split] = self._folder.open(f"ravst_{split}_QA.json")
            self._files[split].write(b"[")
        return self._files[split]

    def close(self) -> None:
        """A split without questions has an empty list."""
        for split in SPLITS:
            with self._file(split) as file:
                file.write(b"]")

    def header(self) -> Mapping[str, Any]:
        """None is wanted."""
        return {}
