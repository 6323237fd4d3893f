"""The cluster's nodes, counted while a run goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any

import ray

from ravst_ray.logs import get_logger
from ravst_ray.records import NodeCount

log = get_logger(__name__)


class NodeWatch:
    """Counts the cluster's nodes, and what of them is in use, every few seconds while it is entered.

    Args:
        tell: gets each count, in a thread.
        every_s: between two counts, which are two small questions to Ray's control each.
    """

    def __init__(self, tell: Callable[[NodeCount], None], every_s: float = 5.0):
        self._tell, self._every_s = tell, every_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="node watch", daemon=True)

    def __enter__(self) -> NodeWatch:
        if ray.is_initialized():
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10.0)  # Ray's control may be gone, and then an answer takes a minute

    def _watch(self) -> None:
        try:
            while True:
                over = self._over.is_set()
                self._tell(count_nodes(ray.nodes(), ray.available_resources()))
                if over:
                    break
                self._over.wait(self._every_s)
        except Exception as error:  # what it tells is no reason to end a run
            log.warning("the nodes are not counted any more: %s", error)


def count_nodes(nodes: Iterable[Mapping[str, Any]], free: Mapping[str, float]) -> NodeCount:
    """What ``ray.nodes()`` and ``ray.available_resources()`` tell, counted."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    there = {kind: sum(one.get(kind, 0.0) for one in alive) for kind in ("CPU", "GPU")}
    used = {kind: max(total - free.get(kind, 0.0), 0.0) for kind, total in there.items()}
    with_gpu = sum(one.get("GPU", 0.0) > 0 for one in alive)
    return NodeCount(time.time(), len(alive), with_gpu, there["CPU"], used["CPU"], there["GPU"], used["GPU"])
