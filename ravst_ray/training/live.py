"""A run as it goes, for the one who waits: a live table on a terminal, a plain line a step elsewhere."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

Record = Mapping[str, float]
SHOWN = {
    "reward": "reward/mean",
    "format": "reward/format",
    "object": "reward/object",
    "temporal": "reward/temporal",
    "spatial": "reward/spatial",
    "tokens": "completion/tokens",
    "equal groups": "group/zero_variance",
    "staleness": "staleness/mean",
    "loss": "loss",
    "gap": "sync/logprob_gap",
    "engines busy": "rollout/busy_share",
    "s": "seconds/step",
}
_IN_A_LINE = ("reward", "format", "object", "temporal", "spatial", "loss", "gap", "s")
_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 40


class LiveView:
    """Shows the records of a run while the body of the ``with`` waits for it.

    Args:
        fetch: gives the records after the first so many, oldest first; called about once a second from a thread.
        total: steps of the run.
        console: to write to.
        poll_s: seconds between two calls of ``fetch``.
    """

    def __init__(self, fetch: Callable[[int], Sequence[Record]], total: int, console: Console, poll_s: float = 1.0):
        self._fetch, self._total, self._console, self._poll_s = fetch, total, console, poll_s
        self._records: list[Record] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="live view")
        self._progress = Progress(
            TextColumn("steps"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
        )
        self._task = self._progress.add_task("steps", total=total)
        self._live: Live | None = None

    def __enter__(self) -> LiveView:
        if self._console.is_terminal:
            self._live = Live(self._picture(), console=self._console, refresh_per_second=4)
            self._live.start()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        if self._live is not None:
            self._live.stop()

    def _watch(self) -> None:
        while not self._stop.wait(self._poll_s):
            self._take()
        self._take()

    def _take(self) -> None:
        for record in self._fetch(len(self._records)):
            self._records.append(record)
            if self._live is None:
                self._console.print(line(record, self._total), soft_wrap=True, highlight=False)
        if self._live is not None and self._records:
            self._progress.update(self._task, completed=self._records[-1]["step"])
            self._live.update(self._picture())

    def _picture(self) -> Group:
        return Group(*([numbers_table(self._records)] if self._records else []), self._progress)


def line(record: Record, total: int) -> str:
    """A step in a line."""
    told = ", ".join(f"{name} {record[SHOWN[name]]:.3g}" for name in _IN_A_LINE if SHOWN[name] in record)
    return f"step {record['step']:.0f}/{total}: {told}"


def numbers_table(records: Sequence[Record]) -> Table:
    """What is worth watching: its last value, its mean over the last ten steps, and how it went."""
    table = Table(box=None, pad_edge=False)
    for title, justify in (("", "left"), ("now", "right"), ("last 10", "right"), ("", "left")):
        table.add_column(title, justify=justify)  # type: ignore[arg-type]
    for name, key in SHOWN.items():
        values = [record[key] for record in records if key in record]
        if values:
            last = values[-10:]
            table.add_row(name, f"{values[-1]:.3g}", f"{sum(last) / len(last):.3g}", sparkline(values))
    return table


def sparkline(values: Sequence[float], width: int = _WIDTH) -> str:
    """Values as bars from the lowest to the highest; of more than ``width``, the means of neighbours."""
    if len(values) > width:
        edges = [round(place * len(values) / width) for place in range(width + 1)]
        values = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, high = min(values), max(values)
    if high == low:
        return _BARS[0] * len(values)
    return "".join(_BARS[round((value - low) / (high - low) * (len(_BARS) - 1))] for value in values)
