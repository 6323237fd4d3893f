"""The tail of a run: nodes that no step needs any more are let go."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ray.data._internal.execution.execution_callback import ExecutionCallback


class LetGo(ExecutionCallback):
    """Lets nodes go at the tail of a run, while other steps still work.

    A pool gives its idle actors back once nothing waits for it. But Ray Data goes on asking the autoscaler for as much
    as it last did, until the whole graph is done, and nodes that are asked for stay, idle or not.
    """

    def before_execution_starts(self, executor: Any) -> None:
        """Stand between Ray Data and what passes its requests on to the autoscaler."""
        autoscaler = getattr(executor, "_cluster_autoscaler", None)  # private: another release may have none
        asked = getattr(autoscaler, "_autoscaling_coordinator", None)
        if autoscaler is not None and asked is not None:
            autoscaler._autoscaling_coordinator = TailRequests(asked, executor._topology)


class TailRequests:
    """Passes requests for resources on, without those that no step needs any more.

    Args:
        coordinator: Ray Data's, which is asked for bundles of resources, one for each actor or task.
        topology: the operators of the graph and their states.
    """

    def __init__(self, coordinator: Any, topology: Mapping[Any, Any]):
        self._coordinator, self._topology = coordinator, topology

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coordinator, name)

    def request_resources(self, resources: list[dict[str, float]], **how: Any) -> None:
        """Of bundles that only steps at their tail ask for, no more than these steps have actors."""
        room = self._room()
        kept = []
        for bundle in resources:
            left = room.get(_key(bundle), math.inf)
            if left > 0:
                kept.append(bundle)
            room[_key(bundle)] = left - 1
        self._coordinator.request_resources(resources=kept, **how)

    def _room(self) -> dict[Any, float]:
        """How many bundles of each kind are still needed."""
        room: dict[Any, float] = {}
        for operator, state in self._topology.items():
            needs = operator.min_scheduling_resources().copy(object_store_memory=0).to_resource_dict()
            at_tail = operator.has_completed() or (
                operator._inputs_complete and not state.total_enqueued_input_blocks()
            )
            pools = operator.get_autoscaling_actor_pools()
            more = sum(pool.current_size() for pool in pools) if at_tail and pools else math.inf
            room[_key(needs)] = room.get(_key(needs), 0) + more
        return room


def _key(bundle: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    return tuple(sorted((name, value) for name, value in bundle.items() if value > 0))
