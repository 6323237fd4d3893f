"""Elastic actor pools in Ray Data's graphs, and whether there is room for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext

from ravst_ray.cluster import failures
from ravst_ray.cluster.metrics import QueueLengths
from ravst_ray.cluster.start import joins_cluster
from ravst_ray.cluster.tail import LetGo
from ravst_ray.config.annotate import PoolConfig
from ravst_ray.errors import ConfigError
from ravst_ray.logs import get_logger

log = get_logger(__name__)


def stream_blocks() -> None:
    """Set up Ray Data for rows that go on as soon as they are done: a block a row, no order, no bars of its own."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    context.target_max_block_size = 1
    context.execution_no_progress_timeout_s = failures.NO_PROGRESS_S
    context.max_consecutive_actor_init_deaths = 2  # a new node that can't fetch its model at once is no end of a run
    # Else it advises every 30 s to reserve memory for actors that hold a model.
    context.issue_detectors_config.high_memory_detector_config.detection_time_interval_s = -1
    context.custom_execution_callback_classes = [QueueLengths, LetGo]


def pool_operator(
    dataset: Any, name: str, actor: type, arguments: tuple, pool: PoolConfig, batch: int, deaths: int = 2
) -> Any:
    """``dataset`` mapped by a pool of actors that grows and shrinks within the bounds of ``pool``.

    Args:
        dataset: a Ray dataset.
        name: what Ray shows.
        actor: a callable class, Arrow table in, Arrow table out.
        arguments: of its constructor.
        pool: how many, and what each needs.
        batch: rows of one call.
        deaths: how often an actor is started anew. Ray's own default is without end: a row that kills its process
            would loop.
    """
    shown = type(f"{name.capitalize()}Actor", (actor,), {})
    return dataset.map_batches(
        shown,
        fn_constructor_args=arguments,
        batch_size=batch,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ActorPoolStrategy(min_size=pool.min, max_size=pool.max, max_tasks_in_flight_per_actor=2),
        num_cpus=pool.num_cpus,
        num_gpus=pool.num_gpus or None,
        max_restarts=deaths,
        max_task_retries=deaths - 1,
    )


def check_room(pools: Mapping[str, PoolConfig]) -> None:
    """Refuse steps that a Ray of this machine alone can't hold; on a cluster say that one waits for a node.

    Args:
        pools: of steps that work together, by the names that they have in the configuration (``actors.<name>``).

    Raises:
        ConfigError: no cluster was joined, so no node will ever come.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    homeless = {
        name: f"{pool.num_cpus:g} CPUs and {pool.num_gpus:g} GPUs"
        for name, pool in pools.items()
        if not any(node.get("CPU", 0) >= pool.num_cpus and node.get("GPU", 0) >= pool.num_gpus for node in nodes)
    }
    if not homeless:
        _check_together(pools, nodes)
        return
    if not joins_cluster():
        name, needs = next(iter(homeless.items()))
        has = f"{nodes[0].get('CPU', 0):g} CPUs and {nodes[0].get('GPU', 0):g} GPUs" if nodes else "none"
        raise ConfigError(
            f"actors.{name}: one process takes {needs}, this machine has {has}; lower actors.{name}.num_cpus or "
            "num_gpus, or submit the run to a cluster"
        )
    waiting = "; ".join(f"{name} ({needs})" for name, needs in homeless.items())
    log.warning("no node has room for these steps yet, they wait for one that an autoscaler brings: %s", waiting)


def _check_together(pools: Mapping[str, PoolConfig], nodes: list[Mapping[str, float]]) -> None:
    """Refuse steps of which one alone finds room on this machine, but not all at once: each waits for the next."""
    if joins_cluster() or not nodes:
        return
    cpus, gpus = (sum(pool.min * getattr(pool, kind) for pool in pools.values()) for kind in ("num_cpus", "num_gpus"))
    if cpus > nodes[0].get("CPU", 0) or gpus > nodes[0].get("GPU", 0):
        names = " and ".join(f"actors.{name}" for name in pools)
        raise ConfigError(
            f"{names}: together they take {cpus:g} CPUs and {gpus:g} GPUs, this machine has "
            f"{nodes[0].get('CPU', 0):g} CPUs and {nodes[0].get('GPU', 0):g} GPUs; lower their min, num_cpus or "
            "num_gpus, or submit the run to a cluster"
        )
