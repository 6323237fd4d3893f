"""Where a training run's results live: a directory that all nodes see, or a folder of an object store.

::

    OUT/config.yaml, metrics.jsonl, validation.jsonl, rollouts/, tensorboard/, model/
    OUT/report.html, report.completions.jsonl
    OUT/checkpoints/checkpoint-{step}/…              what the trainer writes
    OUT/checkpoints/checkpoint-{step}/complete.json  its files and their sizes; written last: only now it counts

A directory is written to as it is. For an object store each node has a working folder, which what is written goes to
first: :meth:`RunStore.push` and :meth:`RunStore.upload` bring it to the store, :meth:`RunStore.prepare` from there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pyarrow import fs

from ravst_ray.datasets.places import insist, join, resolve
from ravst_ray.datasets.transfer import Stored, alone, at_once, files_under, receive, send
from ravst_ray.errors import AbortError, ConfigError
from ravst_ray.logs import get_logger
from ravst_ray.training.position import Position

log = get_logger(__name__)

COMPLETE = "complete.json"
CHECKPOINTS = "checkpoints"
PUSH_S = 60.0
"""So often the record goes to an object store between checkpoints."""
RECORD = ("metrics.jsonl", "validation.jsonl", "wandb_run", "mlflow_run")
"""What a run that goes on adds to, or must know."""
_NAME = re.compile(r"checkpoint-\d+")
_SEEN = ".seen-by-the-driver"
_INDEX = ".metadata"
"""So torch names the index of a checkpoint that was written in parts."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that was written to its end.

    Attributes:
        name: ``checkpoint-{step}``.
        position: in the order of questions, at which the next step begins.
        files: what its files must be, by name; empty in those of earlier versions.
    """

    name: str
    position: Position
    files: Mapping[str, Stored] = field(default_factory=dict)

    @property
    def step(self) -> int:
        """The optimizer step after which it was taken."""
        return _step_of(self.name)


class RunStore:
    """The results of one run.

    Args:
        output: a path, or a URI (:mod:`ravst_ray.datasets.places`).
        scratch: folder of this node for the working folder of an object store's run; None: ``$TMPDIR``.

    Attributes:
        local: the folder on this node that results are written to: the output itself where it is a directory.
        remote: whether what is written there must be brought to the store.

    Raises:
        ConfigError: a URI that can't be opened.
    """

    def __init__(self, output: str, scratch: str | None = None):
        self.output = output
        self._fs, self._base = resolve(output)
        self.remote = not isinstance(self._fs, fs.LocalFileSystem)
        self.local = _working_folder(output, scratch) if self.remote else Path(self._base)
        self._pushed: dict[str, tuple[int, int]] = {}
        self._pushed_at = time.monotonic()
        self._pushing = threading.Lock()  # a checkpoint may end while the record is on its way

    def place(self, name: str) -> str:
        """The place of a file or folder of the run, for users and other programs."""
        return join(self.output, name) if self.remote else str(self.local / name)

    @property
    def trainer_folder(self) -> str:
        """What Ray Train writes of itself goes here; nothing of it is needed later."""
        return f"{self.local}-ray" if self.remote else str(self.local)

    # --- files -------------------------------------------------------------------------------------------------------

    def read(self, name: str) -> bytes | None:
        """The content of a file, None where there is none."""
        if not self.remote:
            path = self.local / name
            return path.read_bytes() if path.is_file() else None

        def once() -> bytes | None:
            try:
                with self._fs.open_input_stream(f"{self._base}/{name}") as file:
                    return bytes(file.read())
            except FileNotFoundError:
                return None

        return insist(once, self.place(name))

    def write(self, name: str, text: str) -> None:
        """Write a small file whole.

        Raises:
            OSError: a directory can't be written to.
            AbortError: a store can't.
        """
        if not self.remote:
            path = self.local / name
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}")
            partial.write_text(text, encoding="utf-8")
            partial.replace(path)
            return

        def once() -> None:
            with self._fs.open_output_stream(f"{self._base}/{name}") as file:
                file.write(text.encode())

        insist(once, self.place(name))

    def delete(self, name: str) -> None:
        """Remove a file; none there is fine."""
        try:
            self._fs.delete_file(f"{self._base}/{name}")
        except FileNotFoundError:
            log.debug("%s was already gone", name)

    def begun(self) -> bool:
        """Whether there is a run already."""
        return self.read("metrics.jsonl") is not None or self.last_checkpoint() is not None

    def push(self) -> None:
        """Bring what is new in the working folder to the store, all but checkpoints; nothing for a directory.

        A model's ``config.json`` goes last: without it the folder is none.

        Raises:
            AbortError: it can't be brought there.
        """
        if not self.remote:
            return
        with self._pushing:
            found = {name: path for name, path in _files(self.local).items() if not name.startswith(f"{CHECKPOINTS}/")}
            marks = {name: (path.stat().st_mtime_ns, path.stat().st_size) for name, path in found.items()}
            new = sorted(name for name, mark in marks.items() if self._pushed.get(name) != mark)
            last = [name for name in new if name.endswith("/config.json")]
            for some in ([name for name in new if name not in last], last):
                at_once(lambda name: send(found[name], self.place(name)), some)
            self._pushed |= marks

    def push_now_and_then(self, every_s: float = PUSH_S) -> None:
        """:meth:`push`, where the last one is so long ago; should it fail, the next one may do."""
        if not self.remote or time.monotonic() - self._pushed_at < every_s:
            return
        try:
            self.push()
        except AbortError as error:
            log.warning("what is new of the run stays on this node for now: %s", error)
        self._pushed_at = time.monotonic()

    def fetch(self, target: Path, *names: str) -> None:
        """Copy files and folders of the store that are there to a folder of this node."""
        for name in names:
            below = files_under(self.place(name))
            at_once(lambda one, name=name: receive(self.place(f"{name}/{one}"), target / name / one), sorted(below))  # type: ignore[misc]
            if not below and (data := self.read(name)) is not None:
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                (target / name).write_bytes(data)

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def whole_checkpoints(self) -> list[Checkpoint]:
        """Checkpoints that were written to their end and have all their files, the oldest first."""
        found = (self._whole(name, sizes) for name, sizes in self._folders().items())
        return sorted((one for one in found if one is not None), key=lambda one: one.step)

    def last_checkpoint(self) -> Checkpoint | None:
        """The newest of the whole checkpoints."""
        return next(reversed(self.whole_checkpoints()), None)

    def upload(self, name: str) -> dict[str, Stored]:
        """The files of a checkpoint that this node has, brought to the store; what they must be from now on.

        Each node that holds files of a checkpoint does it; :meth:`mark_whole` is given those of all.
        """
        folder = self.local / CHECKPOINTS / name
        found = {one: path for one, path in _files(folder).items() if one != COMPLETE}
        if not self.remote:
            return {one: Stored(path.stat().st_size) for one, path in found.items()}
        names = sorted(found)
        sent = at_once(lambda one: send(found[one], self.place(f"{CHECKPOINTS}/{name}/{one}")), names)
        return dict(zip(names, sent, strict=True))

    def mark_whole(self, checkpoint: Checkpoint, keep: int, best: int | None = None) -> None:
        """Say that a checkpoint is written to its end; only then the oldest go, so that there always is a whole one.

        Args:
            checkpoint: with the files of all nodes.
            keep: how many stay.
            best: the step of one that stays beside them.
        """
        self.write(f"{CHECKPOINTS}/{checkpoint.name}/{COMPLETE}", _manifest(checkpoint))
        for old in self.whole_checkpoints()[:-keep]:
            if old.step != best:
                self._remove(old.name)

    def discard_torn(self) -> None:
        """Remove what a killed run left of a checkpoint: files of two tries must not mix in one folder."""
        for name in self._folders().keys() - {one.name for one in self.whole_checkpoints()}:
            self._remove(name)

    def prepare(self, checkpoint: Checkpoint | None, first: bool = True) -> Path | None:
        """Make this node ready to go on from a checkpoint, before anything is written; gives the checkpoint's folder.

        Args:
            checkpoint: None: from the start.
            first: this process keeps the run's record, which is taken up as the store has it.
        """
        folder = self.local / CHECKPOINTS / checkpoint.name if checkpoint else None
        if not self.remote:
            return folder
        with alone(self.local.with_name(f"{self.local.name}.lock")):
            self.leave_only(checkpoint.name if checkpoint else "")
            if folder and checkpoint and not _holds(folder, checkpoint):
                shutil.rmtree(folder, ignore_errors=True)
                at_once(
                    lambda one: receive(
                        self.place(f"{CHECKPOINTS}/{checkpoint.name}/{one}"), folder / one, checkpoint.files[one]
                    ),
                    sorted(checkpoint.files),
                )
                (folder / COMPLETE).write_text(_manifest(checkpoint), encoding="utf-8")
        if first:
            for path in self.local.iterdir():
                if path.name != CHECKPOINTS:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            self.fetch(self.local, *RECORD)
        return folder

    def leave_only(self, name: str) -> None:
        """Remove the other checkpoints of this node's working folder; the store has what is kept of them."""
        if self.remote:
            for path in (self.local / CHECKPOINTS).glob("checkpoint-*"):
                if path.name != name:
                    shutil.rmtree(path, ignore_errors=True)

    def _folders(self) -> dict[str, dict[str, int]]:
        """Sizes of all files of the checkpoints, by folder."""
        found: dict[str, dict[str, int]] = {}
        if not self.remote:  # also those without a file
            found = {path.name: {} for path in (self.local / CHECKPOINTS).glob("checkpoint-*")}
        for name, info in files_under(self.place(CHECKPOINTS)).items():
            folder, _, file = name.partition("/")
            found.setdefault(folder, {})[file] = info.size or 0
        return {name: files for name, files in found.items() if _NAME.fullmatch(name)}

    def _whole(self, name: str, sizes: Mapping[str, int]) -> Checkpoint | None:
        if COMPLETE not in sizes:
            return None
        try:
            told = json.loads(self.read(f"{CHECKPOINTS}/{name}/{COMPLETE}") or b"")
            files = {one: Stored(**stored) for one, stored in told.get("files", {}).items()}
            checkpoint = Checkpoint(name, Position(int(told["place"]), tuple(told.get("ahead", ()))), files)
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
        bad = [one for one, stored in files.items() if sizes.get(one) != stored.size]
        if bad:
            log.warning("%s is passed over: %s isn't there as it was written", self.place(name), ", ".join(bad[:3]))
        return None if bad else checkpoint

    def _remove(self, name: str) -> None:
        try:
            self.delete(f"{CHECKPOINTS}/{name}/{COMPLETE}")  # first: half a checkpoint must not count
            self._fs.delete_dir(f"{self._base}/{CHECKPOINTS}/{name}")
        except OSError as error:
            log.warning("%s can't be removed: %s", self.place(f"{CHECKPOINTS}/{name}"), error)

    # --- nodes -------------------------------------------------------------------------------------------------------

    def announce(self) -> str:
        """Leave a mark in the output, by which others know that they see the same one; gives it."""
        mark = secrets.token_hex(8)
        self.write(_SEEN, mark)
        return mark

    def check_seen(self, mark: str, node: str) -> None:
        """Look for the driver's mark.

        Raises:
            ConfigError: this node sees another output than the driver.
        """
        if (self.read(_SEEN) or b"").decode(errors="replace") != mark:
            raise ConfigError(
                f"output: {self.output} on node {node} isn't the directory that the driver writes to; name one on a "
                "file system that all nodes share, or a place in an object store (s3://bucket/run)"
            )


def _working_folder(output: str, scratch: str | None) -> Path:
    """A folder of this user for a run; the same one in all processes of a node.

    Raises:
        ConfigError: another user has made it.
    """
    name = f"ravst-run-{os.getuid()}-{hashlib.sha256(output.encode()).hexdigest()[:16]}"
    folder = Path(scratch or tempfile.gettempdir()).absolute() / name
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = folder.stat().st_uid
    except OSError as error:
        raise ConfigError(f"scratch: can't write to {folder}: {error}") from None
    if owner != os.getuid():
        raise ConfigError(f"scratch: {folder} belongs to another user; name another folder")
    return folder


def _files(folder: Path) -> dict[str, Path]:
    """Files below a folder that are written to their end, by their names from there."""
    found = (path for path in folder.rglob("*") if path.is_file())
    named = {path.relative_to(folder).as_posix(): path for path in found}
    return {
        name: path
        for name, path in named.items()
        if ".partial" not in name and (path.name == _INDEX or not path.name.startswith("."))
    }


def _manifest(checkpoint: Checkpoint) -> str:
    files = {name: asdict(stored) for name, stored in sorted(checkpoint.files.items())}
    at = checkpoint.position
    return json.dumps({"step": checkpoint.step, "place": at.place, "ahead": at.ahead, "files": files})


def _holds(folder: Path, checkpoint: Checkpoint) -> bool:
    """Whether a folder of this node is the checkpoint, from before the run began anew."""
    mark = folder / COMPLETE
    if not mark.is_file() or mark.read_text(encoding="utf-8") != _manifest(checkpoint):
        return False
    there = _files(folder)
    return all(name in there and there[name].stat().st_size == one.size for name, one in checkpoint.files.items())


def _step_of(name: str) -> int:
    return int(name.rpartition("-")[2])
