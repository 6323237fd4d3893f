"""Progress of a long run: a live line on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PLAIN_EVERY_S = 10.0


class RunProgress:
    """Counts things done and failed; use as a context manager and call :meth:`add` for each that is finished.

    Args:
        doing: what happens to them (``"annotating"``).
        things: what they are, in the plural (``"videos"``).
        total: how many there are.
        console: where to show it; standard error by default.
    """

    def __init__(self, doing: str, things: str, total: int, console: Console | None = None):
        self._doing, self._things = doing, things
        self.done = self.failed = 0
        self._total = total
        self._console = console or Console(stderr=True)
        self._started = self._last_line = time.monotonic()
        self._live: Progress | None = None
        if self._console.is_terminal:
            self._live = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(f"{{task.fields[failed]}} failed · {{task.fields[rate]:.2f}} {things}/s"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._live.add_task(doing, total=total, failed=0, rate=0.0)
        self._before = ""

    def __enter__(self) -> RunProgress:
        if self._live:
            self._live.start()
        else:
            self._line()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        if self._live:
            self._live.stop()
        elif self._total:
            self._line()

    def add(self, failed: bool) -> None:
        """One more is finished."""
        self.done += not failed
        self.failed += failed
        if self._live:
            self._live.update(self._task, advance=1, failed=self.failed, rate=self._rate())
        elif time.monotonic() - self._last_line >= PLAIN_EVERY_S:
            self._line()

    def first(self, doing: str, done: int, total: int) -> None:
        """What happens to ``done`` of ``total`` things before they come to the main thing."""
        if self._live:
            shown = f"{doing} {done}/{total}, then {self._doing}" if done < total else self._doing
            self._live.update(self._task, description=shown)
        elif self._before != doing or done == total or time.monotonic() - self._last_line >= PLAIN_EVERY_S:
            self._say(f"{doing}: {done}/{total} {self._things}")
        self._before = doing if done < total else ""

    def _rate(self) -> float:
        return (self.done + self.failed) / max(time.monotonic() - self._started, 1e-9)

    def _line(self) -> None:
        self._say(
            f"{self._doing}: {self.done + self.failed}/{self._total} {self._things}, {self.done} done, "
            f"{self.failed} failed, {self._rate():.2f} {self._things}/s"
        )

    def _say(self, line: str) -> None:
        self._last_line = time.monotonic()
        self._console.print(line, highlight=False, soft_wrap=True)


class Rate:
    """How many things a second were finished lately.

    Args:
        window_s: how far back "lately" goes.
        clock: seconds, for tests.
    """

    def __init__(self, window_s: float = 600.0, clock: Callable[[], float] = time.monotonic):
        self._window_s, self._clock = window_s, clock
        self._began = clock()
        self._finished: deque[tuple[float, float]] = deque()

    def add(self, count: float = 1) -> None:
        """So many more are finished."""
        self._finished.append((self._clock(), count))

    def per_s(self) -> float:
        """Over the window, or since the beginning where that is shorter.

        Example:
            >>> seconds = iter([0.0, 1.0, 4.0, 4.0])
            >>> rate = Rate(clock=lambda: next(seconds))
            >>> rate.add(), rate.add(), rate.per_s()
            (None, None, 0.5)
        """
        now = self._clock()
        while self._finished and self._finished[0][0] < now - self._window_s:
            self._finished.popleft()
        return sum(count for _, count in self._finished) / max(min(now - self._began, self._window_s), 1e-9)
