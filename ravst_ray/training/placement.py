"""Where a run's GPUs are: checked to be free, and reserved for the rollout actors before anything is loaded.

Ray Train makes a placement group of its own for its workers and takes none from outside (2.60:
``WorkerGroup._create_placement_group``), so learner and actors can't be in one. What works: the actors that are always
there (``rollouts.min_actors``) are reserved together first, on as few nodes as possible, and Ray Train reserves the
learner's workers beside them. A run for which there is no room ends before an engine is loaded. A member's place stays
reserved while it is started again. Actors beyond those come and go one by one, wherever there is room.

Learner and actor of a shared card have a part of a GPU each. Which card a part comes from is Ray's choice; that pairs
come together (actors take over half a card, so no two fit on one) hasn't been seen on real GPUs yet.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import ray
from ray._private.state import state as ray_state
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ravst_ray.config.train import RolloutConfig, TrainConfig
from ravst_ray.errors import ConfigError
from ravst_ray.models.size import card_bytes
from ravst_ray.training.plan import needs

FREE_S = 30.0
"""How long resources may be taken that a run needs: what a run before it has left is not given back at once."""
READY_S = 60.0
ASKED_S = 60.0
GROWING_S = 1800.0


def cluster_limit() -> dict[str, float] | None:
    """What a cluster that grows can have at most; None: it doesn't grow. Asked as Ray Train asks: no API tells."""
    limit: dict[str, float] | None = ray_state.get_max_resources_from_cluster_config()
    return limit


def cluster_capacity() -> dict[str, float]:
    """What the cluster has, or will have when it has grown, by name."""
    there, limit = ray.cluster_resources(), cluster_limit() or {}
    return {name: max(there.get(name, 0.0), limit.get(name, 0.0)) for name in {*there, *limit}}


def has_room(rollouts: RolloutConfig) -> bool:
    """Whether one more actor would find a place, now or once the cluster has grown."""
    wanted = {"CPU": rollouts.num_cpus, "GPU": rollouts.num_gpus}
    free = ray.available_resources()
    if all(free.get(name, 0.0) >= count for name, count in wanted.items()):
        return True
    there, limit = ray.cluster_resources(), cluster_limit()
    return limit is not None and all(there.get(name, 0.0) + c <= limit.get(name, 0.0) for name, c in wanted.items())


def cards() -> list[int]:
    """Bytes of the smallest card of each node that has some now; without nodes that can't be asked."""
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]
    there = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
    asked = [_card_bytes.options(scheduling_strategy=node).remote() for node in there]
    answered, _ = ray.wait(asked, num_returns=len(asked), timeout=ASKED_S) if asked else ([], [])
    found = []
    for answer in answered:
        with suppress(ray.exceptions.RayError):  # a node that went
            found.append(ray.get(answer))
    return [one for one in found if one is not None]


@ray.remote(num_cpus=0)
def _card_bytes() -> int | None:
    return card_bytes(every=True)  # a task without GPUs may use none


def reserve(config: TrainConfig) -> PlacementGroup | None:
    """Reserve the rollout actors' places; None where they need no GPU, which needs no reserving.

    Raises:
        ConfigError: not everything that the run needs is free, or no node is large enough for an actor.
    """
    rollouts = config.rollouts
    if not rollouts.num_gpus:
        return None
    grows = cluster_limit() is not None
    if not grows:
        _wait_until_free(config)
    bundle: dict[str, float] = {"CPU": rollouts.num_cpus, "GPU": rollouts.num_gpus}
    bundle = {name: count for name, count in bundle.items() if count}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fitting = [node for node in nodes if all(node.get(name, 0.0) >= count for name, count in bundle.items())]
    named = " and ".join(f"{count:g} {name}s" for name, count in bundle.items())
    if not grows and not fitting:
        raise ConfigError(f"a rollout actor needs {named} on one node; none of the {len(nodes)} has them")
    group = placement_group([bundle] * rollouts.bounds[0], strategy="PACK")
    if not group.wait(GROWING_S if grows else READY_S):
        remove_placement_group(group)
        raise ConfigError(f"no places for {rollouts.bounds[0]} rollout actors with {named} each on the cluster's nodes")
    return group


def release(group: PlacementGroup | None) -> None:
    """Give the places back."""
    if group is not None:
        remove_placement_group(group)


def _wait_until_free(config: TrainConfig) -> None:
    deadline = time.monotonic() + FREE_S
    while True:
        free: dict[str, Any] = ray.available_resources()
        short = [need for need in needs(config) if need.total > free.get(need.kind, 0.0)]
        if not short:
            return
        if time.monotonic() > deadline:
            has = ray.cluster_resources().get(short[0].kind, 0.0)
            raise ConfigError(f"needs {short[0]}; of the cluster's {has:g} {free.get(short[0].kind, 0.0):g} are free")
        time.sleep(0.5)
