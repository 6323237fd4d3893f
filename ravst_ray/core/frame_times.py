"""At which times frames are sampled. Decimal arithmetic, so that 0.4 + 1 is 1.4 and not 1.4000000000000001."""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import ROUND_HALF_UP, Decimal

_TENTH = Decimal("0.1")
MAX_TIMES = 100_000


def round_to_tenth(time_s: float) -> Decimal:
    """A time to 0.1 s, halves away from zero: 0.646 -> 0.6, 0.25 -> 0.3."""
    return Decimal(str(time_s)).quantize(_TENTH, ROUND_HALF_UP)


def rounded_interval(start_s: float, end_s: float) -> tuple[float, float]:
    """An event as questions and answers tell it, both ends to 0.1 s.

    >>> rounded_interval(1.39314, 4.31906)
    (1.4, 4.3)
    """
    return float(round_to_tenth(start_s)), float(round_to_tenth(end_s))


def event_times(start_s: float, end_s: float, step_s: float = 1.0, parts: int = 1) -> tuple[float, ...]:
    """The grid of one event: S, S + step, … <= E, after S and E are rounded to 0.1 s.

    A start before 0 counts as 0; an end before the start gives no times. Each step may be divided into ``parts``: the
    grid is as many times denser then, and still has all times of the undivided one, to the last bit.

        >>> event_times(0.41, 2.44)
        (0.4, 1.4, 2.4)
        >>> event_times(0.41, 1.7, parts=2)
        (0.4, 0.9, 1.4)

    Raises:
        ValueError: a bound isn't finite, the step isn't positive, or the grid has more than ``MAX_TIMES`` times.
    """
    if not (math.isfinite(start_s) and math.isfinite(end_s)):
        raise ValueError(f"an event can't last from {start_s} to {end_s} s")
    if not step_s > 0:
        raise ValueError(f"the step between frames must be positive, got {step_s}")
    start, end, step = max(round_to_tenth(start_s), Decimal(0)), round_to_tenth(end_s), Decimal(str(step_s))
    if end < start:
        return ()
    count = int((end - start) * parts / step) + 1
    if count > MAX_TIMES:
        raise ValueError(
            f"{start_s} to {end_s} s in steps of {step_s} s are {count} frames, at most {MAX_TIMES} are taken"
        )
    return tuple(float(start + k * step / parts) for k in range(count))


def on_event_grid(time_s: float, start_s: float, end_s: float, step_s: float) -> bool:
    """Whether a sampled time is one of an event's grid, to a hundredth of the step.

    >>> [on_event_grid(time_s, 0.41, 2.0, 0.5) for time_s in (0.4, 0.9, 1.0, 2.4)]
    [True, True, False, False]
    """
    first = float(max(round_to_tenth(start_s), Decimal(0)))
    steps = (time_s - first) / step_s
    return steps > -0.01 and abs(steps - round(steps)) < 0.01 and time_s <= float(round_to_tenth(end_s)) + 1e-6


def union_times(grids: Iterable[Iterable[float]]) -> tuple[float, ...]:
    """The times of all grids, sorted, each once."""
    return tuple(sorted({time for grid in grids for time in grid}))


def spread_indices(count: int, wanted: int) -> tuple[int, ...]:
    """Which of ``count`` things to take for ``wanted`` of them, evenly spread from the first to the last.

    >>> spread_indices(7, 3), spread_indices(2, 5), spread_indices(4, 1)
    ((0, 3, 6), (0, 1), (0,))
    """
    wanted = min(wanted, count)
    return tuple(round(k * (count - 1) / max(wanted - 1, 1)) for k in range(wanted))
