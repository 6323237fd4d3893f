"""Places of files: a path on this machine, or a URI of an object store or another file system.

``s3://``, ``gs://`` and what else pyarrow knows go through pyarrow, any other scheme through fsspec and its driver.
Credentials, endpoints and regions come from the environment (``AWS_ENDPOINT_URL``, …) or follow a ``?`` in the URI as
pyarrow defines them; a password or a signature in a URI is refused: the configuration is kept beside the results.
A name in a URI is percent-encoded; :func:`join` does that.
"""

from __future__ import annotations

import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from pyarrow import fs

from ravst_ray.datasets.unav import UnavInput, VideoFiles, list_files, read_unav
from ravst_ray.errors import AbortError, ConfigError, StepError
from ravst_ray.logs import SECRET_NAME, get_logger

log = get_logger(__name__)

MAX_VIDEO_BYTES = 8 * 2**30
REPORT_VIDEO_BYTES = 2**30
"""Of a video in an object store that a report shows."""
ATTEMPTS = 3
FIRST_PAUSE_S = 2.0  # doubled from attempt to attempt, on top of the pauses that pyarrow's S3 client makes itself
_PIECE_BYTES = 4 * 2**20
_PYARROW_SCHEMES = ("s3", "gs", "gcs", "hdfs", "abfs", "abfss", "file")
_FORBIDDEN = ("ACCESS_DENIED", "HTTP status 401", "HTTP status 403", "INVALID_ACCESS_KEY", "SIGNATURE_DOES_NOT_MATCH")
T = TypeVar("T")


def is_remote(place: str) -> bool:
    """Whether a place is a URI, so that files have to be fetched from it."""
    return "://" in place


def resolve(place: str) -> tuple[fs.FileSystem, str]:
    """The file system of a place, and the path there.

    Raises:
        ConfigError: a URI that is malformed, holds a password, or whose scheme no installed driver knows.
    """
    if not is_remote(place):
        return fs.LocalFileSystem(), str(Path(place).absolute())
    try:
        parts = urlsplit(place)
        named, password = parts.scheme, parts.password
        asked = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
    except ValueError as error:
        raise ConfigError(f"{place}: not a URI: {error}") from None
    if password or any(SECRET_NAME.search(name) for name in asked):
        raise ConfigError(f"{named}://…: a key in the address would be saved; put it into the nodes' environment")
    try:
        if named not in _PYARROW_SCHEMES:
            return _by_fsspec(place)
        if named == "file":
            return fs.LocalFileSystem(), unquote(parts.path).rstrip("/")
        options = [parts.query] if parts.query else []
        if named == "s3" and "allow_delayed_open" not in parts.query:
            options.append("allow_delayed_open=true")  # a small file is one request, not the three of a large one
        query = "?" + "&".join(options) if options else ""
        if named.startswith("abfs"):  # the container may stand before the account
            found, base = fs.FileSystem.from_uri(f"{named}://{parts.netloc}{parts.path}{query}")
            return found, base.rstrip("/")
        found, _ = fs.FileSystem.from_uri(f"{named}://{parts.netloc}{query}")
        bucket = parts.netloc.rpartition("@")[2] if named in ("s3", "gs", "gcs") else ""
        return found, f"{bucket}{unquote(parts.path)}".rstrip("/")
    except ConfigError:
        raise
    except Exception as error:  # drivers raise what they like
        raise ConfigError(f"{place}: can't be opened: {_one_line(error)}") from None


def join(place: str, name: str) -> str:
    """The place of a file in a folder."""
    if not is_remote(place):
        return str(Path(place) / name)
    folder, mark, query = place.partition("?")
    return f"{folder.rstrip('/')}/{quote(name)}{mark}{query}"


def absolute(place: str) -> str:
    """A place that holds in every process: a path from the root, or the URI as it is."""
    return place if is_remote(place) else str(Path(place).absolute())


def folder_name(place: str) -> str:
    """The last part of a place."""
    return resolve(place)[1].rstrip("/").rpartition("/")[2]


def folder_names(place: str) -> list[str]:
    """The names of the files in a folder at any place, sorted; none where there is no such folder.

    Raises:
        ConfigError: it can't be listed.
    """
    filesystem, base = resolve(place)
    selector = fs.FileSelector(base, allow_not_found=True)
    try:
        found = _patiently(lambda: filesystem.get_file_info(selector), place)
    except StepError as error:
        raise ConfigError(f"not a readable folder: {error.message}") from None
    return sorted(info.base_name for info in found if info.is_file)


def read_text(place: str) -> str:
    """A text file (UTF-8, with or without a mark in front) at any place.

    Raises:
        ConfigError: there is no such file, or it can't be read.
    """
    try:
        with local_copy(place) as path:
            return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{place}: no such file") from None
    except StepError as error:
        raise ConfigError(error.message) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{place}: not a readable text file: {error}") from None


def list_names(place: str) -> frozenset[str]:
    """The names of the files in a remote folder.

    Raises:
        ConfigError: it can't be listed.
    """
    filesystem, base = resolve(place)
    try:
        found = _patiently(lambda: filesystem.get_file_info(fs.FileSelector(base)), place)
    except StepError as error:
        raise ConfigError(f"not a readable folder of videos: {error.message}") from None
    return frozenset(info.base_name for info in found if info.is_file)


def read_input(
    annotations: str, videos: str, subsets: Sequence[str] | None = None, limit: int | None = None
) -> UnavInput:
    """:func:`~ravst_ray.datasets.unav.read_unav` for labels and videos at any place.

    Raises:
        ConfigError: as there, and for a place that can't be read.
    """
    if not is_remote(annotations) and not is_remote(videos):
        return read_unav(annotations, videos, subsets, limit)
    try:
        with local_copy(annotations) as path, named(path, annotations):
            return read_unav(path, video_files(videos), subsets, limit)
    except StepError as error:
        raise ConfigError(f"annotations file {error.message}") from None


def video_files(videos: str) -> VideoFiles:
    """The videos of a folder at any place.

    Raises:
        ConfigError: it can't be listed.
    """
    return VideoFiles(list_names(videos), lambda name: join(videos, name)) if is_remote(videos) else list_files(videos)


@contextmanager
def named(path: str, place: str) -> Iterator[None]:
    """Errors name the place that the user knows."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(str(error).replace(path, place)) from None


def check_seen(folder: str) -> None:
    """Check that this node has a folder, or all that it holds would seem to be missing; a URI is the same everywhere.

    Raises:
        ConfigError: it has not.
    """
    if folder and not is_remote(folder) and not Path(folder).is_dir():
        raise ConfigError(
            f"{folder} isn't there on node {socket.gethostname()}; name a folder that all nodes share, "
            "or a place in an object store (s3://bucket/videos)"
        )


@contextmanager
def local_copy(place: str, max_bytes: int = MAX_VIDEO_BYTES) -> Iterator[str]:
    """The path of a file on this machine: its own, or that of a copy that is removed at the end.

    The copy lies in ``$TMPDIR``, in a folder of its own.

    Raises:
        StepError: ``missing_file``, ``too_large``, ``place_forbidden`` or ``place_unreachable``; only in the
            last two and the first may another try help.
        ConfigError: see :func:`resolve`.
    """
    if not is_remote(place):
        yield place
        return
    filesystem, base = resolve(place)
    with tempfile.TemporaryDirectory(prefix="ravst-fetch-") as folder:
        path = Path(folder) / base.rpartition("/")[2]
        _patiently(lambda: _copy(filesystem, base, path, max_bytes), place)
        yield str(path)


def _copy(filesystem: fs.FileSystem, base: str, path: Path, max_bytes: int) -> None:
    """Copy a file; half a file, of a connection that broke, is never taken for a whole one."""
    size = filesystem.get_file_info(base).size
    _refuse_large(path.name, size or 0, max_bytes)  # some stores don't know sizes before
    with filesystem.open_input_stream(base) as source, path.open("wb") as target:
        while piece := source.read(_PIECE_BYTES):
            _refuse_large(path.name, target.tell() + len(piece), max_bytes)
            target.write(piece)
        if size is not None and target.tell() != size:
            raise OSError(f"{target.tell():,} of {size:,} bytes came")


def _refuse_large(name: str, size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise StepError("too_large", f"{name}: {size:,} bytes; {max_bytes / 2**30:.3g} GiB are fetched at most")


def _patiently(action: Callable[[], T], place: str) -> T:
    """Do it, again after a pause where that may help, and sort what is left for the errors table."""
    name = place.partition("?")[0]
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return action()
        except StepError:
            raise
        except FileNotFoundError:
            raise StepError("missing_file", f"{name}: no such file; put it there and run again", True) from None
        except Exception as error:  # drivers raise what they like
            message = _one_line(error)
            if isinstance(error, PermissionError) or any(word in message for word in _FORBIDDEN):
                denied = f"{name}: the store refuses to give it; check the nodes' credentials ({message})"
                raise StepError("place_forbidden", denied, True) from None
            if attempt == ATTEMPTS:
                failed = f"{name}: could not be fetched in {ATTEMPTS} attempts: {message}"
                raise StepError("place_unreachable", failed, True) from None
            log.warning("%s: attempt %d failed, trying again: %s", name, attempt, message)
            time.sleep(FIRST_PAUSE_S * 2 ** (attempt - 1))
    raise AssertionError("unreachable")


def insist(action: Callable[[], T], place: str) -> T:
    """Read or write in a place, again after a pause where it fails: what is lost there costs the run.

    Raises:
        AbortError: it failed to the end.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return action()
        except OSError as error:
            if attempt == ATTEMPTS:
                raise AbortError(f"{place}: can't be read or written: {_one_line(error)}") from None
            log.warning("%s: attempt %d failed, trying again: %s", place, attempt, _one_line(error))
            time.sleep(FIRST_PAUSE_S * 2 ** (attempt - 1))
    raise AssertionError("unreachable")


def _by_fsspec(place: str) -> tuple[fs.FileSystem, str]:
    import fsspec

    found, base = fsspec.core.url_to_fs(place)
    return fs.PyFileSystem(fs.FSSpecHandler(found)), unquote(base).rstrip("/")


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
