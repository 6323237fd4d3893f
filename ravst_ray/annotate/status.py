"""How a run stands: what it writes down as it goes, and what ``ravst status OUT`` reads, during the run and after it.

``OUT/_commit/run.json`` is a few hundred bytes, written every few seconds, so that asking costs two small reads however
many videos there are (the other is for the nodes). Only a run that was cut short is counted anew, from the store: its
last seconds were not written down.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal

from ravst_ray.datasets.lock import Holder, OutputLock, read_holder
from ravst_ray.datasets.node_log import read_nodes
from ravst_ray.datasets.store import DatasetStore, LedgerEntry
from ravst_ray.errors import ConfigError, RavstError
from ravst_ray.logs import get_logger
from ravst_ray.progress import Rate

log = get_logger(__name__)

RECORD = "_commit/run.json"
WRITE_EVERY_S = 5.0
State = Literal["running", "finished", "stopped", "aborted", "died"]


@dataclass(frozen=True)
class Status:
    """How a run stands. Counts are of videos; times are seconds since 1970.

    ``done`` and ``failed`` count all that is in the output, ``left`` what this run still has to do (or had, when it
    ended). ``doing`` says what goes on while nothing is annotated yet. ``rate_per_s`` is that of the last ten minutes
    while it runs, and that of the whole run afterwards.
    ``cluster`` is the last count of its nodes (:class:`ravst_ray.records.NodeCount`).
    """

    output: str
    state: State
    run_id: str
    host: str
    pid: int
    started_at: float
    updated_at: float
    done: int = 0
    failed: Mapping[str, int] = field(default_factory=dict)
    rejected: Mapping[str, int] = field(default_factory=dict)
    left: int = 0
    rate_per_s: float = 0.0
    expected_finish_at: float | None = None
    message: str = ""
    doing: str = ""
    command: str = "annotate"
    cluster: Mapping[str, float] | None = None

    def to_json(self) -> str:
        """As ``ravst status --json`` prints it."""
        return json.dumps(asdict(self), indent=2)

    def to_text(self) -> str:
        """As ``ravst status`` prints it."""
        seconds = max(self.updated_at - self.started_at, 0.0)
        span = f"since {_clock(self.started_at)}"
        if self.state != "running":
            span = f"{_clock(self.started_at)} to {_clock(self.updated_at)}, {_length(seconds)}"
        lines = [f"{self.output}: {self.state} (run {self.run_id} on {self.host}, process {self.pid}, {span})"]
        lines += [self.message] if self.message else []
        lines += [f"now       {self.doing}"] if self.doing else []
        lines.append(f"done      {self.done:,}")
        lines.append(f"failed    {_listed(self.failed)}")
        lines.append(f"rejected  {_listed(self.rejected)}")
        lines.append(f"left      {self.left:,}")
        lines.append(f"rate      {self.rate_per_s:.2f} videos/s")
        if self.expected_finish_at is not None:
            ahead = _length(max(self.expected_finish_at - time.time(), 0.0))
            lines.append(f"finish    {_clock(self.expected_finish_at)}, in {ahead}")
        if self.cluster is not None:
            lines.append(f"cluster   {_nodes(self.cluster)}")
        return "\n".join([*lines, *self._advice()])

    def _advice(self) -> Iterable[str]:
        if self.state in ("died", "stopped", "aborted"):
            yield f"the same `ravst {self.command}` command goes on from here"
        if self.failed and self.state == "finished":
            yield f"`ravst retry {self.output}` does the failed videos again"


class RunRecord:
    """Writes down how a run stands while it is entered, and how it ended.

    Args:
        store: the output.
        lock: held by this run.
        command: of ``ravst``, that began it.
    """

    def __init__(self, store: DatasetStore, lock: OutputLock, command: str = "annotate"):
        self._store, self._lock, self._command = store, lock, command
        self._before: tuple[int, Counter[str]] = (0, Counter())
        self._rejected: Counter[str] = Counter()
        self._todo = self._done = 0
        self._failed: Counter[str] = Counter()
        self._doing = ""
        self._rate = Rate()
        self._working_since = self._written = time.monotonic()

    def __enter__(self) -> RunRecord:
        self._write("running")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._write("finished")
        elif isinstance(error, Exception):
            self._write("aborted", str(error) if isinstance(error, RavstError) else f"{type(error).__name__}: {error}")
        else:  # Ctrl-C, `ray job stop`
            self._write("stopped")

    def plan(
        self, ledger: Mapping[str, LedgerEntry], todo: Iterable[str], rejected: Iterable[Mapping[str, Any]]
    ) -> None:
        """What is there already, what this run is going to do, and what the filter kept away."""
        doing = set(todo)
        self._todo = len(doing)
        self._before = counts(entry for name, entry in ledger.items() if name not in doing)
        self._rejected = Counter(row["reason"] for row in rejected)
        self._rate = Rate()
        self._working_since = time.monotonic()
        self._write("running")

    def add(self, reason: str | None) -> None:
        """One more video is committed; ``reason`` is why it failed."""
        self._lock.check()
        self._rate.add()
        if reason is None:
            self._done += 1
        else:
            self._failed[reason] += 1
        if time.monotonic() - self._written >= WRITE_EVERY_S:
            self._write("running")

    def first(self, doing: str, done: int, total: int) -> None:
        """What happens to ``done`` of ``total`` videos before they are annotated; all done, the annotation begins."""
        self._lock.check()
        began, was = not self._doing, self._doing
        self._doing = f"{doing}: {done:,} of {total:,} videos" if done < total else ""
        if was and not self._doing and not self._done and not self._failed:
            self._rate = Rate()  # when the run will be finished is not for the phase to tell
        if began or not self._doing or time.monotonic() - self._written >= WRITE_EVERY_S:
            self._write("running")

    def _write(self, state: State, message: str = "") -> None:
        if self._lock.is_lost:  # it is now the other run's to write
            return
        own = self._lock.own
        worked = self._done + self._failed.total()
        running = state == "running"
        rate = self._rate.per_s() if running else worked / max(time.monotonic() - self._working_since, 1e-9)
        left = self._todo - worked
        status = Status(
            output=self._store.root,
            state=state,
            run_id=own.run_id,
            host=own.host,
            pid=own.pid,
            started_at=own.started_at,
            updated_at=time.time(),
            done=self._before[0] + self._done,
            failed=dict((self._before[1] + self._failed).most_common()),
            rejected=dict(self._rejected.most_common()),
            left=left,
            rate_per_s=round(rate, 4),
            expected_finish_at=time.time() + left / rate if running and rate and left else None,
            message=message,
            doing=self._doing if running else "",
            command=self._command,
        )
        self._written = time.monotonic()
        content = status.to_json().encode()
        try:
            self._store.replace_bytes(RECORD, content)
        except OSError as error:
            log.warning("%s: how the run stands could not be written: %s", self._store.root, error)
            if not running and self._store.local_root:  # on a full disk there is room only where the old record lies
                self._overwrite(content)
        except Exception as error:  # a store that is away for a while costs no run; drivers raise what they like
            log.warning("%s: how the run stands could not be written: %s", self._store.root, error)

    def _overwrite(self, content: bytes) -> None:
        try:
            self._store.write_bytes(RECORD, content)
        except OSError as error:
            log.warning("%s: nor how it ended: %s", self._store.root, error)


def read_status(output: str) -> Status:
    """How the last run on an output directory stands.

    Raises:
        ConfigError: no run of ``ravst annotate`` has begun there.
    """
    store = DatasetStore(output)
    try:
        holder, recorded = read_holder(store), store.read_bytes(RECORD)
    except OSError as error:
        raise ConfigError(f"{output}: can't be read: {error}") from None
    if recorded is None:
        raise ConfigError(f"{output}: no run of ravst annotate has begun there")
    nodes = read_nodes(store)
    cluster = asdict(nodes[-1]) if nodes else None
    status = Status(**{**json.loads(recorded), "output": output, "cluster": cluster})
    if status.state == "finished" or (status.state == "running" and _is_alive(holder, status.run_id)):
        return status
    ledger = store.ledger()
    done, failed = counts(ledger.values())
    left = max(status.done + sum(status.failed.values()) + status.left - len(ledger), 0)
    if status.command == "retry":  # the old errors rows of what is left are in the ledger, too
        left = status.left
    status = replace(status, done=done, failed=dict(failed.most_common()), left=left)
    if status.state != "running":
        return status
    why = (holder.why_dead() if holder else None) or "its lock is gone"
    message = f"the run ended without a word: {why}"
    return replace(status, state="died", doing="", expected_finish_at=None, message=message)


def counts(entries: Iterable[LedgerEntry]) -> tuple[int, Counter[str]]:
    """How many videos are done, and how many failed for each reason."""
    done, failed = 0, Counter[str]()
    for entry in entries:
        if entry.error is None:
            done += 1
        else:
            failed[entry.error["reason"]] += 1
    return done, failed


def _is_alive(holder: Holder | None, run_id: str) -> bool:
    return holder is not None and holder.run_id == run_id and holder.why_dead() is None


def _listed(reasons: Mapping[str, int]) -> str:
    total = f"{sum(reasons.values()):,}"
    return f"{total}: " + ", ".join(f"{reason} {count:,}" for reason, count in reasons.items()) if reasons else total


def _nodes(count: Mapping[str, float]) -> str:
    nodes = f"{count['nodes']:,} node{'s' if count['nodes'] != 1 else ''}"
    used = f"{count['cpus_used']:g} of {count['cpus']:g} CPUs"
    if count["gpus"]:
        nodes += f", {count['gpu_nodes']:,} with GPUs"
        used += f" and {count['gpus_used']:g} of {count['gpus']:g} GPUs"
    return f"{nodes}; {used} in use"


def _clock(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _length(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
