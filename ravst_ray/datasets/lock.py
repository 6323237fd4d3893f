"""One run at a time in an output directory: a lock with a sign of life, on a disk or in an object store.

The holder writes ``OUT/_commit/lock.json`` (run, host, process, heartbeat) and renews it every few seconds. Another run
is refused while the holder lives. It is dead when its process is gone from this machine, or when it gave no sign of
life for ``STALE_S``; then the lock is taken over. A holder that was only suspended finds that out at its next
heartbeat and stops. Clocks of the machines may differ, but not by minutes.

On a file system, taking the lock is exclusive (``flock``). An object store has no such thing: there the lock is
written, and read again after ``SETTLE_S``; of two that came at the same moment the one that wrote last goes on.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from uuid import uuid4

from ravst_ray.datasets.store import DatasetStore
from ravst_ray.errors import AbortError, ConfigError
from ravst_ray.logs import get_logger

log = get_logger(__name__)

LOCK = "_commit/lock.json"
HEARTBEAT_S = 15.0
STALE_S = 300.0
SETTLE_S = 2.0


@dataclass(frozen=True)
class Holder:
    """Who holds a lock. ``machine`` is one boot of one machine (or container): process ids mean something within it."""

    run_id: str
    host: str
    pid: int
    started_at: float
    heartbeat_at: float
    machine: str
    process_start: int

    def why_dead(self, stale_s: float = STALE_S) -> str | None:
        """Why the holder can't be alive any more, None while it may be."""
        if self.machine == _machine() and _process_start(self.pid) != self.process_start:
            return f"its process {self.pid} is gone"
        age_s = time.time() - self.heartbeat_at
        return f"it gave no sign of life for {age_s:.0f} s" if age_s > stale_s else None


def read_holder(store: DatasetStore) -> Holder | None:
    """Who holds the lock of an output, dead or alive."""
    data = store.read_bytes(LOCK)
    if data is None:
        return None
    try:
        return Holder(**json.loads(data))
    except (ValueError, TypeError):
        log.warning("%s/%s can't be read; it is taken for no lock", store.root, LOCK)
        return None


class OutputLock:
    """Holds an output directory while it is entered; made for one ``with``.

    Args:
        store: the output, prepared.
        heartbeat_s: between two signs of life.
        stale_s: how long another holder may be silent before it counts as dead.

    Raises:
        ConfigError: on entering, when another run holds it.
    """

    def __init__(self, store: DatasetStore, heartbeat_s: float = HEARTBEAT_S, stale_s: float = STALE_S):
        now = time.time()
        run_id = f"{datetime.fromtimestamp(now, UTC):%Y%m%dT%H%M%S}-{uuid4().hex[:6]}"
        pid = os.getpid()
        self.own = Holder(run_id, socket.gethostname(), pid, now, now, _machine(), _process_start(pid))
        self._store = store
        self._heartbeat_s, self._stale_s = heartbeat_s, stale_s
        self._over = threading.Event()
        self._taken_by: Holder | None = None
        self._thread = threading.Thread(target=self._beat, name="output lock", daemon=True)

    def __enter__(self) -> OutputLock:
        with _exclusive(self._store):
            self._refuse_if_held()
            self._write()
        if not self._store.local_root:
            time.sleep(SETTLE_S)
            self._refuse_if_held()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(timeout=60.0)
        with _exclusive(self._store):
            holder = read_holder(self._store)
            if holder is not None and holder.run_id == self.own.run_id:
                self._store.delete(LOCK)

    @property
    def is_lost(self) -> bool:
        """Whether another run has taken it over."""
        return self._taken_by is not None

    def check(self, now: bool = False) -> None:
        """Raise ``AbortError`` when another run has taken the lock over; ``now`` looks instead of remembering."""
        if now:
            self._renew()
        if self._taken_by is not None:
            holder = self._taken_by
            raise AbortError(
                f"output {self._store.root}: run {holder.run_id} on {holder.host} has taken it over, because this run "
                f"was silent for more than {self._stale_s:g} s; this run stops, the other goes on"
            )

    def _refuse_if_held(self) -> None:
        holder = read_holder(self._store)
        if holder is None or holder.run_id == self.own.run_id:
            return
        why_dead = holder.why_dead(self._stale_s)
        if why_dead is None:
            raise ConfigError(_refusal(self._store.root, holder, self._stale_s))
        log.warning(
            "%s: the lock of run %s on %s is stale (%s)", self._store.root, holder.run_id, holder.host, why_dead
        )

    def _write(self) -> None:
        self.own = replace(self.own, heartbeat_at=time.time())
        self._store.replace_bytes(LOCK, json.dumps(asdict(self.own)).encode())

    def _beat(self) -> None:
        while not self._over.wait(self._heartbeat_s):
            try:
                self._renew()
            except Exception as error:  # a store that is away for a while; drivers raise what they like
                log.warning("%s: no sign of life could be written: %s", self._store.root, error)

    def _renew(self) -> None:
        with _exclusive(self._store):
            holder = read_holder(self._store)
            if holder is not None and holder.run_id != self.own.run_id:
                self._taken_by = holder
                self._over.set()
                return
            self._write()


def _refusal(root: str, holder: Holder, stale_s: float) -> str:
    since = f"{datetime.fromtimestamp(holder.started_at, UTC):%Y-%m-%d %H:%M:%S} UTC"
    age_s = max(time.time() - holder.heartbeat_at, 0.0)
    return (
        f"output {root}: run {holder.run_id} (host {holder.host}, process {holder.pid}) works on it since {since}, its "
        f"last sign of life was {age_s:.0f} s ago. Wait until it ends (`ravst status {root}` tells), end it, or choose "
        f"another output. If it is dead, this command goes on {stale_s / 60:g} min after its last sign of life"
    )


@contextlib.contextmanager
def _exclusive(store: DatasetStore) -> Iterator[None]:
    """Among the processes that share a file system; nothing on an object store."""
    if not store.local_root:
        yield
        return
    handle = os.open(f"{store.local_root}/{LOCK}.guard", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with contextlib.suppress(OSError):  # a file system without locks: as good as an object store
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _machine() -> str:
    """This boot of this machine, and the container in it; empty where the kernel doesn't tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"unknown {uuid4().hex}"  # equal to none: only the heartbeat counts


def _process_start(pid: int) -> int:
    """When a process started, in the kernel's ticks, which tells it from a later one of the same number; 0: gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])
