"""Whole files between this machine and any place, verified on the way."""

from __future__ import annotations

import fcntl
import hashlib
import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pyarrow import fs

from ravst_ray.datasets.places import insist, resolve
from ravst_ray.errors import AbortError, ConfigError

AT_ONCE = 8
"""Files under way at once; each takes a few pieces of memory."""
_PIECE_BYTES = 8 * 2**20
One = TypeVar("One")
Other = TypeVar("Other")


@dataclass(frozen=True, slots=True)
class Stored:
    """What a file must be when it is read again; ``sha256`` is empty where it wasn't read when it was written."""

    size: int
    sha256: str = ""


def send(path: Path, place: str) -> Stored:
    """Write a file of this machine to a place; what lies there afterwards has its size.

    Raises:
        AbortError: it failed to the end.
        ConfigError: see :func:`~ravst_ray.datasets.places.resolve`.
    """
    filesystem, base = resolve(place)

    def once() -> Stored:
        digest = hashlib.sha256()
        with path.open("rb") as source, filesystem.open_output_stream(base) as target:
            while piece := source.read(_PIECE_BYTES):
                digest.update(piece)
                target.write(piece)
            size = source.tell()
        there = filesystem.get_file_info(base).size
        if there != size:  # a stream that broke may have been closed as if it were whole
            raise OSError(f"{there} of {size:,} bytes have come")
        return Stored(size, digest.hexdigest())

    return insist(once, place.partition("?")[0])


def receive(place: str, path: Path, expected: Stored | None = None) -> None:
    """Read a file of a place to this machine, where it appears whole or not at all.

    Args:
        place: of the file.
        path: on this machine; folders are made.
        expected: what it was when it was written.

    Raises:
        AbortError: it failed to the end, or isn't the file that was expected.
        ConfigError: see :func:`~ravst_ray.datasets.places.resolve`.
    """
    filesystem, base = resolve(place)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")

    def once() -> None:
        digest = hashlib.sha256()
        with filesystem.open_input_stream(base) as source, partial.open("wb") as target:
            while piece := source.read(_PIECE_BYTES):
                digest.update(piece)
                target.write(piece)
            size = target.tell()
        wanted = expected or Stored(filesystem.get_file_info(base).size or size)
        if size != wanted.size or (wanted.sha256 and digest.hexdigest() != wanted.sha256):
            raise OSError(f"{size:,} of {wanted.size:,} bytes came, or others than were written")
        partial.replace(path)

    try:
        insist(once, place.partition("?")[0])
    finally:
        partial.unlink(missing_ok=True)


def exists(place: str) -> bool:
    """Whether there is a file.

    Raises:
        AbortError: the store doesn't tell.
        ConfigError: see :func:`~ravst_ray.datasets.places.resolve`.
    """
    filesystem, base = resolve(place)
    return insist(lambda: bool(filesystem.get_file_info(base).is_file), place.partition("?")[0])


def check_writable(folder: str, key: str) -> None:
    """Write a small file to a folder and remove it; a directory that isn't there isn't made, its parent is tried.

    Args:
        folder: a path or a URI.
        key: the setting that names it.

    Raises:
        ConfigError: that can't be done.
    """
    filesystem, base = resolve(folder)
    probe = f"{base}/.writable-{secrets.token_hex(4)}"

    def once() -> None:
        with filesystem.open_output_stream(probe) as file:
            file.write(b"yes")
        filesystem.delete_file(probe)

    try:
        if isinstance(filesystem, fs.LocalFileSystem):
            tempfile.TemporaryFile(dir=existing(Path(base))).close()
        else:
            insist(once, folder)
    except (OSError, AbortError) as error:
        raise ConfigError(f"{key}: can't write to {folder}: {error}") from None


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next((one for one in (path, *path.parents) if one.exists()), path)


def files_under(place: str) -> dict[str, fs.FileInfo]:
    """All files below a folder, by their names from there (``a/b.txt``); none where there is no such folder.

    Raises:
        AbortError: it can't be listed.
        ConfigError: see :func:`~ravst_ray.datasets.places.resolve`.
    """
    filesystem, base = resolve(place)
    selector = fs.FileSelector(base, allow_not_found=True, recursive=True)
    found = insist(lambda: filesystem.get_file_info(selector), place.partition("?")[0])
    return {info.path[len(base) + 1 :]: info for info in found if info.is_file}


def at_once(action: Callable[[One], Other], things: Sequence[One]) -> list[Other]:
    """What an action gives for each thing, in order; some are under way at once."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(action, things))


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Only one process of this node at a time; ``path`` is the file that they agree on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
