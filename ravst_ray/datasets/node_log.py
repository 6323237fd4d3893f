"""How many nodes a run had, and what of them was in use: ``OUT/_commit/nodes.json``, over all runs on an output.

One small file, written whole: object stores can't append. It never holds many more than ``MOST`` counts, however long a
run is: then every second one goes, except where nodes came or went, and from there on they are taken half as often.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, fields, replace
from itertools import pairwise
from types import TracebackType

from ravst_ray.datasets.store import DatasetStore
from ravst_ray.logs import get_logger
from ravst_ray.records import NodeCount

log = get_logger(__name__)

NODES = "_commit/nodes.json"
MOST = 1000
WRITE_EVERY_S = 30.0


_COLUMNS = [field.name for field in fields(NodeCount)]


def read_nodes(store: DatasetStore) -> list[NodeCount]:
    """The counts of all runs on an output, in the order of time; none where none were taken."""
    data = store.read_bytes(NODES)
    if data is None:
        return []
    try:
        kept = json.loads(data)
        return [NodeCount(**dict(zip(kept["columns"], row, strict=True))) for row in kept["rows"]]
    except (ValueError, KeyError, TypeError):
        log.warning("%s/%s can't be read; the counts of nodes begin anew", store.root, NODES)
        return []


def thinned(counts: Sequence[NodeCount]) -> list[NodeCount]:
    """Without every second count, as long as no node came or went beside it; the first and the last stay.

    Example:
        >>> one = NodeCount(0.0, 1, 0, 4, 0, 0, 0)
        >>> [count.at for count in thinned([replace(one, at=at, nodes=1 + (at == 5)) for at in range(8)])]
        [0, 2, 4, 5, 6, 7]
    """
    kept = list(counts[:1])
    for place in range(1, len(counts) - 1):
        beside = counts[place - 1 : place + 2]
        if place % 2 == 0 or len({one.same_as for one in beside}) > 1:
            kept.append(counts[place])
    return kept + list(counts[-1:] if len(counts) > 1 else [])


class NodeLog:
    """Keeps the counts of one run beside those of the runs before it; what is left to write is written on leaving.

    Args:
        store: the output, locked by this run.
        every_s: what comes sooner after the count before is left out, unless a node came or went.
        clock: seconds, for tests.
    """

    def __init__(self, store: DatasetStore, every_s: float = 0.0, clock: Callable[[], float] = time.monotonic):
        self._store, self._every_s, self._clock = store, every_s, clock
        self._counts = read_nodes(store)
        self._run = self._counts[-1].run + 1 if self._counts else 0
        self._left_out: NodeCount | None = None
        self._written = -WRITE_EVERY_S

    def __enter__(self) -> NodeLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._counts:
            self.write()

    def add(self, count: NodeCount) -> None:
        """One more count; it is written down now and then, and at once when a node came or went."""
        count = replace(count, run=self._run)
        changed = not self._counts or self._counts[-1].same_as != count.same_as
        if not changed and count.at - self._counts[-1].at < self._every_s:
            self._left_out = count
            return
        before = [self._left_out] if changed and self._left_out else []  # so that it is seen when they came or went
        self._counts += [*before, count]
        self._left_out = None
        if len(self._counts) > MOST:
            span_s = count.at - self._counts[0].at
            self._counts = thinned(self._counts)
            self._every_s = max(2 * self._every_s, span_s / MOST)
        if changed or self._clock() - self._written >= WRITE_EVERY_S:
            self.write()

    def write(self) -> None:
        """Write all of them down; a store that is away for a while costs no run."""
        self._written = self._clock()
        rows = [[round(value, 3) for value in astuple(count)] for count in self._counts]
        try:
            self._store.replace_bytes(NODES, json.dumps({"columns": _COLUMNS, "rows": rows}).encode())
        except Exception as error:  # drivers raise what they like
            log.warning("%s: the number of nodes could not be written: %s", self._store.root, error)


def working_seconds(counts: Sequence[NodeCount]) -> list[float]:
    """Of each count, how long the runs had worked until then, without the time between two runs.

    Example:
        >>> one = NodeCount(0.0, 1, 0, 4, 0, 0, 0)
        >>> working_seconds([one, replace(one, at=5.0), replace(one, at=905.0, run=1), replace(one, at=910.0, run=1)])
        [0.0, 5.0, 5.0, 10.0]
    """
    passed = [0.0]
    for before, after in pairwise(counts):
        passed.append(passed[-1] + (max(after.at - before.at, 0.0) if after.run == before.run else 0.0))
    return passed[: len(counts)]
