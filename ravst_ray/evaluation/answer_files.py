"""The files of ``ravst predict``: on this machine, or worked on there and brought to an object store."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ravst_ray.datasets.places import folder_name, is_remote, named
from ravst_ray.datasets.transfer import exists, receive, send
from ravst_ray.errors import AbortError
from ravst_ray.logs import get_logger

log = get_logger(__name__)
SEND_S = 60.0
"""So often answers go to an object store."""
BESIDE = ("", ".config.yaml", ".errors.jsonl")
"""Endings of the files: the answers, the settings that they were made with, what could not be asked."""


class AnswerFiles:
    """Answers and what lies beside them.

    Args:
        out: path or URI of the answers.
        path: where they are written to on this machine.
    """

    def __init__(self, out: str, path: Path):
        self.out, self.path = out, path
        self._sent_at = time.monotonic()

    def place(self, ending: str = "") -> str:
        """The place of one of the files."""
        name, mark, query = self.out.partition("?")
        return f"{name}{ending}{mark}{query}"

    def local(self, ending: str = "") -> Path:
        """Where it is written to."""
        return self.path.with_name(self.path.name + ending)

    def fetch(self) -> None:
        """What an earlier run brought to the store."""
        for ending in BESIDE:
            if exists(self.place(ending)):
                receive(self.place(ending), self.local(ending))

    def send(self) -> None:
        """Bring the files to the store, where they replace those that are there."""
        if is_remote(self.out):
            for ending in reversed(BESIDE):
                if self.local(ending).exists():
                    send(self.local(ending), self.place(ending))

    def send_now_and_then(self, every_s: float = SEND_S) -> None:
        """:meth:`send`, where the last one is so long ago; should it fail, the next one may do."""
        if time.monotonic() - self._sent_at < every_s:
            return
        try:
            self.send()
        except AbortError as error:
            log.warning("new answers stay on this machine for now: %s", error)
        self._sent_at = time.monotonic()


@contextmanager
def answer_files(out: str) -> Iterator[AnswerFiles]:
    """The files of one run; those of an object store are there at the end, however it ends.

    Raises:
        AbortError: the store can't be read or written.
        ConfigError: a URI that can't be opened.
    """
    if not is_remote(out):
        yield AnswerFiles(out, Path(out))
        return
    with tempfile.TemporaryDirectory(prefix="ravst-answers-") as folder:
        files = AnswerFiles(out, Path(folder) / folder_name(out))
        files.fetch()
        try:
            with named(str(files.path), out):
                yield files
        except BaseException:
            files.send_now_and_then(0.0)  # the first error is the one to tell
            raise
        files.send()
