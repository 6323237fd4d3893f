"""Plain files below one place, a directory or an object store's prefix, as a run's bookkeeping needs them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import pyarrow as pa
from pyarrow import fs

from ravst_ray.datasets.places import resolve
from ravst_ray.logs import get_logger

log = get_logger(__name__)

AT_ONCE = 32  # requests to an object store, each of which takes tens of milliseconds
_CHUNK = 4 * AT_ONCE
One = TypeVar("One")
Other = TypeVar("Other")


class Folder:
    """Files by their names from ``root`` on: a local path, or a URI (see :mod:`ravst_ray.datasets.places`)."""

    def __init__(self, root: str):
        self.root = root
        self._fs, self._base = resolve(root)
        self._folders: set[str] = set()

    def read_bytes(self, name: str) -> bytes | None:
        """The content of a file, None where there is none."""
        try:
            with self._fs.open_input_file(f"{self._base}/{name}") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a whole file."""
        with self.sink(name) as file:
            file.write(data)

    @contextmanager
    def sink(self, name: str) -> Iterator[pa.NativeFile]:
        """A file to be written piece by piece."""
        self._make_folder(name.rpartition("/")[0])
        with self._create(name) as file:
            yield file

    def _create(self, name: str) -> pa.NativeFile:
        return self._fs.open_output_stream(f"{self._base}/{name}")

    def replace_bytes(self, name: str, data: bytes) -> None:
        """Write a small file that others read at any time: they see the old content or the new, never a part."""
        if not self.local_root:  # a put is whole by itself
            return self.write_bytes(name, data)
        draft = f"{name}.{os.getpid()}.draft"
        try:
            self.write_bytes(draft, data)
            self._fs.move(f"{self._base}/{draft}", f"{self._base}/{name}")
        except OSError:
            self._delete(draft)
            raise

    def delete(self, name: str) -> None:
        """Remove a file; none there is fine."""
        self._delete(name)

    @property
    def local_root(self) -> str | None:
        """The directory on this machine (or mounted there), None for an object store."""
        return self._base if isinstance(self._fs, fs.LocalFileSystem) else None

    def _make_folder(self, folder: str) -> None:
        """Once only: on an object store it costs a request for each level."""
        if folder not in self._folders:
            self._fs.create_dir(f"{self._base}/{folder}".rstrip("/"), recursive=True)
            self._folders.add(folder)

    def open(self, name: str) -> pa.NativeFile:
        """A file to be read here and there."""
        return self._fs.open_input_file(f"{self._base}/{name}")

    def sizes(self, folder: str) -> dict[str, int]:
        """The files of a folder and how many bytes each has; none where there is no such folder."""
        selector = fs.FileSelector(f"{self._base}/{folder}", allow_not_found=True)
        found = sorted(self._fs.get_file_info(selector), key=lambda info: info.base_name)
        return {f"{folder}/{info.base_name}": info.size for info in found if info.is_file}

    def _each(self, action: Callable[[One], Other], things: Sequence[One]) -> Iterator[Other]:
        """What the action gives for each thing, in order; on an object store many are under way at once."""
        if self.local_root:
            yield from map(action, things)
            return
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for start in range(0, len(things), _CHUNK):
                yield from pool.map(action, things[start : start + _CHUNK])

    def _list(self, folder: str) -> list[str]:
        return list(self.sizes(folder))

    def _delete(self, name: str) -> None:
        try:
            self._fs.delete_file(f"{self._base}/{name}")
        except FileNotFoundError:
            log.debug("%s was already gone", name)

    def _settle(self, names: Iterable[str]) -> None:
        """Have files and folders on the disk itself: a power cut may lose what was written before what was removed."""
        if self.local_root is None:  # an object store has what it has confirmed
            return
        for name in names:
            path = os.path.join(self.local_root, name)
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            except OSError:
                if not os.path.isdir(path):  # some network file systems don't sync folders
                    raise
            finally:
                os.close(handle)
