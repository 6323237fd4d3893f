"""The cluster's nodes: counted while a run goes on, waited for where one is gone, and the driver's own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ravst_ray.logs import get_logger
from ravst_ray.records import NodeCount

log = get_logger(__name__)
GIVEN_UP_S = 90.0
"""After so long Ray's control has given up a node that is gone: it asks five times, 13 s at most each time."""


def beside_driver() -> dict[str, Any]:
    """Options of an actor that needs no CPU and must outlive the nodes that work: it is on the driver's.

    It asks for a byte of memory. One that asks for nothing goes to any node, whatever its strategy prefers, and dies
    where that one is gone but still counts as alive.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    return {"num_cpus": 0, "memory": 1, "scheduling_strategy": here}


def settle(limit_s: float = GIVEN_UP_S) -> None:
    """Wait until each node that counts as alive has answered, or counts no longer.

    A node that is gone counts as alive until Ray's control has asked it in vain for a while, and an actor that is sent
    there meanwhile dies without having lived.

    Args:
        limit_s: go on after so long, whoever has not answered.
    """
    places = {node: NodeAffinitySchedulingStrategy(node, soft=False) for node in _alive()}
    asked = {_answer.options(scheduling_strategy=place).remote(): node for node, place in places.items()}
    until = time.monotonic() + limit_s
    while asked and time.monotonic() < until:
        answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=1.0)
        alive = _alive()  # what a silent node was asked stays without an answer
        asked = {one: node for one, node in asked.items() if one not in answered and node in alive}
    if asked:
        log.warning("%d of the cluster's %d nodes didn't answer within %g s", len(asked), len(places), limit_s)


def _alive() -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


@ray.remote(num_cpus=0)
def _answer() -> None:
    pass


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
