"""Answers of language models, kept between runs in one SQLite file that several processes of a machine may share."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from ravst_ray.logs import get_logger

log = get_logger(__name__)

_LOCK_WAIT_S = 30.0
_COMPANIONS = ("", "-wal", "-shm")


def cache_key(*parts: Any) -> str:
    """The key of a question: a hash of all that shapes its answer (model, messages, schema, ...), JSON-able parts."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


class LLMCache:
    """A persistent mapping of :func:`cache_key` to the text of a good answer. Picklable; opened at first use.

    A damaged file is moved aside with a warning and a new one begun. A place that can't be written, or breaks later,
    is warned of once; the run goes on without a cache, because it costs money and time but no correctness.

    Args:
        path: the SQLite file; its folder is made.
    """

    def __init__(self, path: str | Path):
        self._path = Path(path).expanduser()
        self._mutex = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._broken = False

    def get(self, key: str) -> str | None:
        """The answer kept under a key."""
        row = self._run("SELECT text FROM answers WHERE key = ?", (key,))
        return row[0] if row else None

    def put(self, key: str, text: str) -> None:
        """Keep an answer; it is on disk when this returns."""
        self._run("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", (key, text, time.time()))

    def close(self) -> None:
        """Let go of the file; the next use opens it again."""
        with self._mutex:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def _run(self, statement: str, values: tuple[Any, ...]) -> tuple[Any, ...] | None:
        with self._mutex:
            if self._broken:
                return None
            try:
                if self._connection is None:
                    self._connection = _open_or_renew(self._path)
                with self._connection as transaction:
                    return transaction.execute(statement, values).fetchone()
            except (sqlite3.Error, OSError) as error:
                log.warning("%s: the cache of LLM answers is off for now: %s", self._path, error)
                self._broken = True
                return None

    def __reduce__(self) -> tuple[type[LLMCache], tuple[Path]]:
        return type(self), (self._path,)


def _open_or_renew(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    with _only_one(path):
        try:
            return _open(path)
        except sqlite3.OperationalError:  # locked, read-only, disk full: the file itself is sound
            raise
        except sqlite3.DatabaseError as error:
            aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
            log.warning("%s is damaged (%s): moved to %s, a new cache is begun", path, error, aside.name)
            for suffix in _COMPANIONS:
                damaged = Path(f"{path}{suffix}")
                if damaged.exists():
                    damaged.rename(f"{aside}{suffix}")
            return _open(path)


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_LOCK_WAIT_S, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, text TEXT NOT NULL, at REAL)")
        with closing(connection.execute("PRAGMA quick_check(1)")) as check:
            finding = check.fetchone()[0]
        if finding != "ok":
            raise sqlite3.DatabaseError(finding)
        connection.commit()
    except sqlite3.Error:
        connection.close()
        raise
    return connection


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Among the processes of this machine, so that no two of them move a damaged file aside."""
    handle = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
