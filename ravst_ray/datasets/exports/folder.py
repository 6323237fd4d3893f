"""The folder that an export is written to: it is whole, or nothing is left of it.

On this machine the files lie in ``DIR/.export-…`` until all are written, and are moved then. In an object store, which
can't move, they are written in place and removed again when something fails. Everywhere ``export.json``, which names
the files with their sizes, comes last: a folder without it is not whole.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from tempfile import TemporaryFile
from types import TracebackType
from typing import Any, BinaryIO

import pyarrow as pa
from pyarrow import fs

from ravst_ray.datasets.places import resolve
from ravst_ray.errors import ConfigError

MARKER = "export.json"
_PIECE_BYTES = 8 * 2**20


class ExportFolder:
    """Use as a context manager; leaving it without :meth:`finish` removes what was written.

    Args:
        place: a path or a URI; made if missing.

    Raises:
        ConfigError: on entering: it holds something already, or can't be written to.
    """

    def __init__(self, place: str):
        self.place = place
        self._fs, self._target = resolve(place)
        self._local = isinstance(self._fs, fs.LocalFileSystem)
        self._base = f"{self._target}/.export-{os.getpid()}" if self._local else self._target
        self._sizes: dict[str, int] = {}
        self._folders: set[str] = set()
        self._handles: list[pa.NativeFile] = []
        self._made = self._whole = False

    def __enter__(self) -> ExportFolder:
        try:
            there = self._fs.get_file_info(self._target)
            if there.type == fs.FileType.File:
                raise ConfigError(f"{self.place}: is a file; choose a folder")
            held = self._fs.get_file_info(fs.FileSelector(self._target, allow_not_found=True))
            if held:
                names = sorted(info.base_name for info in held)
                raise ConfigError(
                    f"{self.place}: isn't empty ({', '.join(names[:3])}{', …' if len(names) > 3 else ''}); "
                    "choose another folder, or remove what is there"
                )
            self._made = there.type == fs.FileType.NotFound
            if self._local:
                self._fs.create_dir(self._base, recursive=True)
        except OSError as error:
            raise ConfigError(f"{self.place}: can't be written to ({error}); choose another folder") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._whole:
            return
        for handle in self._handles:  # what is closed later would be there again
            with suppress(Exception):  # of a full disk, or a store that is away; drivers raise what they like
                handle.close()
        if self._local:
            shutil.rmtree(self._base, ignore_errors=True)
            if self._made:
                with suppress(OSError):  # something else may lie there by now
                    os.rmdir(self._target)
            return
        for name in self._folders | {name for name in self._sizes if "/" not in name}:
            with suppress(Exception):
                remove = self._fs.delete_dir if name in self._folders else self._fs.delete_file
                remove(f"{self._base}/{name}")

    def open(self, name: str) -> pa.NativeFile:
        """A file to be written from its beginning to its end; folders are made."""
        folder = name.rpartition("/")[0]
        if folder and folder not in self._folders:
            self._fs.create_dir(f"{self._base}/{folder}", recursive=True)
            self._folders.add(folder)
        self._sizes[name] = 0
        handle = self._fs.open_output_stream(f"{self._base}/{name}")
        self._handles = [one for one in self._handles if not one.closed] + [handle]
        return handle

    def scratch(self) -> BinaryIO:
        """A file without a name, for what can't be written yet; on the disk that the export is on, if it is one."""
        return TemporaryFile(dir=self._base if self._local else None)

    def write(self, name: str, text: str) -> None:
        """A small file, in UTF-8."""
        with self.open(name) as file:
            file.write(text.encode())

    def copy(self, path: str, name: str) -> None:
        """A file of this machine, byte for byte."""
        with open(path, "rb") as source, self.open(name) as target:
            for piece in pieces(source):
                target.write(piece)

    def finish(self, facts: Mapping[str, Any]) -> None:
        """All is written: say so in ``export.json``, beside the files' sizes in bytes."""
        for name in self._sizes:
            self._sizes[name] = self._fs.get_file_info(f"{self._base}/{name}").size
        self.write(MARKER, json.dumps({**facts, "files": dict(sorted(self._sizes.items()))}, indent=1) + "\n")
        if self._local:
            names = sorted(os.listdir(self._base), key=lambda name: name == MARKER)
            for name in names:
                os.rename(f"{self._base}/{name}", f"{self._target}/{name}")
            shutil.rmtree(self._base, ignore_errors=True)
        self._whole = True


def pieces(source: Any) -> Iterator[bytes]:
    """A file's content, a few MB at a time."""
    while piece := source.read(_PIECE_BYTES):
        yield piece
