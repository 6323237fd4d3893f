"""The log of verdicts, ``OUT/review/*.jsonl``: a line a verdict, a file a session, so that no two processes share one.

On a disk a line is synced before it counts as saved, and a lock lets one process at a time look and write. An object
store has neither: there the session's file is put as a whole, and what others wrote meanwhile is looked for afterwards;
of two verdicts on the same state all readers take the same one (:mod:`ravst_ray.review.verdicts`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from ravst_ray.datasets.store import DatasetStore
from ravst_ray.errors import AbortError
from ravst_ray.logs import get_logger
from ravst_ray.review.verdicts import EventHistory, Target, Verdict, history_of

log = get_logger(__name__)

FOLDER = "review"
LOOK_EVERY_S = 2.0  # at an object store, for what others wrote
_PUT_BYTES = 2**18  # a session's file there is begun anew from this size on: it is put whole for each verdict


class Stale(Exception):
    """A verdict was made on a state that isn't the last one any more."""


class VerdictLog:
    """All verdicts on an output, of this process and of others. Safe to use from several threads.

    Args:
        store: the output.

    Raises:
        OSError: what is there can't be read.
    """

    def __init__(self, store: DatasetStore):
        self._store = store
        self._lock = threading.RLock()
        self._read: dict[str, int] = {}  # file -> bytes of whole lines that were read
        self._lines: dict[Target, dict[str, Verdict]] = defaultdict(dict)
        self._histories: dict[Target, EventHistory] = {}
        self._by_video: dict[str, set[int]] = defaultdict(set)
        self._numbers: Counter[str] = Counter()  # file -> lines that were read
        self._corrupt: list[str] = []
        self._tails: dict[str, bytes] = {}
        self._own = b""
        self._begin_session()
        self._looked = 0.0
        self.refresh(now=True)

    def _begin_session(self) -> None:
        self._session = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid4().hex[:8]}"
        self._count, self._own = 0, b""

    @property
    def _own_file(self) -> str:
        return f"{FOLDER}/{self._session}.jsonl"

    def why_not_writable(self) -> str | None:
        """Why no verdict can be saved here, None where it can."""
        try:
            self._store.write_bytes(f"{FOLDER}/writable", b"yes")
        except OSError as error:
            place = f"{self._store.root}/{FOLDER}"
            return f"{place}: verdicts can't be saved there ({error}); make it writable, or review a copy"
        return None

    # --- reading -----------------------------------------------------------------------------------------------------

    def refresh(self, now: bool = False) -> None:
        """Read what others wrote since the last look; at an object store at most every ``LOOK_EVERY_S``."""
        with self._lock:
            if not now and not self._store.local_root and time.monotonic() - self._looked < LOOK_EVERY_S:
                return
            self._looked = time.monotonic()
            for name, size in self._store.sizes(FOLDER).items():
                known = self._read.get(name, 0) + len(self._tails.get(name, b""))
                if name.endswith(".jsonl") and size != known:
                    if size < known:  # what could not be synced was taken back
                        self._forget(name)
                    self._read_file(name)

    def _read_file(self, name: str) -> None:
        start = self._read.get(name, 0)
        try:
            with self._store.open(name) as file:
                file.seek(start)
                data = file.read()
        except FileNotFoundError:
            return
        whole, end, self._tails[name] = data.rpartition(b"\n")
        self._read[name] = start + len(whole) + len(end)
        for line in whole.split(b"\n") if end else ():
            self._numbers[name] += 1
            try:
                self._add(Verdict.from_json(line))
            except ValueError as error:
                problem = f"{name}, line {self._numbers[name]}: no verdict, left out ({str(error).splitlines()[0]})"
                self._corrupt.append(problem)
                log.warning("%s: %s", self._store.root, problem)

    def _forget(self, name: str) -> None:
        """A session's file, as if it had never been read."""
        session = Path(name).stem
        for lines in self._lines.values():
            for line_id in [one for one in lines if one.partition(":")[0] == session]:
                del lines[line_id]
        self._histories.clear()
        del self._read[name], self._numbers[name]

    def _add(self, verdict: Verdict) -> None:
        self._lines[verdict.target].setdefault(verdict.id, verdict)
        self._histories.pop(verdict.target, None)
        self._by_video[verdict.video_id].add(verdict.event_num)

    @property
    def problems(self) -> tuple[str, ...]:
        """What of the log can't be read, a sentence each."""
        with self._lock:
            cut = [name for name, tail in self._tails.items() if tail and name != self._own_file]
        return (*self._corrupt, *(f"{name} ends in the middle of a line, which is left out" for name in cut))

    def history(self, target: Target) -> EventHistory:
        """The verdicts of an event."""
        with self._lock:
            if target not in self._histories:
                self._histories[target] = history_of(self._lines.get(target, {}).values())
            return self._histories[target]

    def histories(self, video_id: str) -> dict[int, EventHistory]:
        """Those of a video's events that have any, by their numbers."""
        with self._lock:
            return {number: self.history((video_id, number)) for number in sorted(self._by_video.get(video_id, ()))}

    def all(self) -> Mapping[Target, EventHistory]:
        """Of every event that somebody said something of."""
        with self._lock:
            return {target: self.history(target) for target in list(self._lines)}

    # --- writing -----------------------------------------------------------------------------------------------------

    def append(self, draft: Verdict) -> Verdict:
        """Save a verdict; ``id`` and ``when`` of the draft are filled in. When this returns, a crash loses nothing.

        Raises:
            Stale: ``on`` isn't the event's last line; at an object store it may stand in the log all the same, without
                effect.
            AbortError: it can't be written; it doesn't count as saved.
        """
        with self._lock, self._alone():
            self._insist(lambda: self.refresh(now=True))
            if draft.on != self.history(draft.target).version:
                raise Stale
            if len(self._own) >= _PUT_BYTES:
                self._begin_session()
            when = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
            verdict = replace(draft, id=f"{self._session}:{self._count}", when=when)
            self._count += 1
            self._insist(lambda: self._write(verdict.to_json() + b"\n"))
            self._add(verdict)
            if not self._store.local_root:
                self._insist(lambda: self.refresh(now=True))
                if verdict not in self.history(verdict.target).chain:
                    raise Stale
            return verdict

    def _insist(self, action: Callable[[], None]) -> None:
        try:
            action()
        except OSError as error:
            place = f"{self._store.root}/{FOLDER}"
            raise AbortError(f"{place}: the verdict is not saved ({error}); see to it, then say it again") from None

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """While no other process on this disk writes."""
        root = self._store.local_root
        if root is None:
            yield
            return
        try:
            folder = Path(root) / FOLDER
            folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise AbortError(f"{root}/{FOLDER}: the verdict is not saved ({error}); make it writable") from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _write(self, line: bytes) -> None:
        root = self._store.local_root
        if root is not None:
            _append_synced(Path(root) / self._own_file, line)
            self._read[self._own_file] = self._read.get(self._own_file, 0) + len(line)
            return
        self._store.write_bytes(self._own_file, self._own + line)
        self._own += line
        self._read[self._own_file] = len(self._own)


def _append_synced(path: Path, line: bytes) -> None:
    """Append a line and have it on the disk; where that fails, the file is as it was."""
    new = not path.exists()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        size = os.fstat(handle).st_size
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[os.write(handle, rest) :]
            os.fsync(handle)
        except OSError:
            os.ftruncate(handle, size)
            raise
    finally:
        os.close(handle)
    if new:
        folder = os.open(path.parent, os.O_RDONLY)
        with contextlib.suppress(OSError):  # some network file systems don't sync folders
            os.fsync(folder)
        os.close(folder)
