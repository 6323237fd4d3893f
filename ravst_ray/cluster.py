"""What every program on Ray shares: starting or joining a cluster, elastic actor pools, and plain errors."""

from __future__ import annotations

import logging
import math
import os
import re
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from types import TracebackType
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data.exceptions import ExecutionTimeoutError
from ray.util.metrics import Counter, Gauge

from ravst_ray.config.annotate import PoolConfig
from ravst_ray.errors import AbortError, ConfigError, RavstError
from ravst_ray.logs import get_logger
from ravst_ray.progress import Rate
from ravst_ray.records import NodeCount

log = get_logger(__name__)

START_ATTEMPTS = 3
NO_PROGRESS_S = 6 * 3600.0
"""After so long without anything done a run ends. Ray's own half hour is less than spot GPUs may be away for."""
GRAPH_ERRORS = (ray.exceptions.RayError, ExecutionTimeoutError)
"""What an execution of a Ray dataset raises; for :func:`plain_error`."""
_OWN_ERROR = re.compile(r"ravst_ray\.errors\.(?P<kind>\w+Error): (?P<message>.+?)(?:\n\n|\Z)", re.DOTALL)


def start_ray(cpus: int | None = None, dashboard: bool = True) -> None:
    """Connect to the cluster that ``$RAY_ADDRESS`` names (a submitted job has it), else start Ray in this process.

    Args:
        cpus: of a Ray that is started here.
        dashboard: start one with it, on loopback; Ray Train watches its workers through it, and complains without.
    """
    if ray.is_initialized():
        return
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # it says that we draw our own
    warnings.filterwarnings("ignore", message=".*ray_remote_args.*")  # the only way to max_restarts in this release
    address = os.environ.get("RAY_ADDRESS", "local")
    local: dict[str, Any] = {"include_dashboard": dashboard, "num_cpus": cpus} if address == "local" else {}
    for attempt in range(START_ATTEMPTS):
        try:
            ray.init(address=address, log_to_driver=True, logging_level="WARNING", **local)
            _keep_sigterm()
            return
        except Exception as error:  # Ray raises the bare class when a busy machine is too slow for its 30 s
            if "timed out during startup" not in str(error) or attempt + 1 == START_ATTEMPTS:
                raise AbortError(f"Ray could not be started at {address}: {error}") from error
            log.warning("Ray was slow to start, trying again: %s", error)
            ray.shutdown()


def _keep_sigterm() -> None:
    """Have SIGTERM go to Python's handler alone again.

    Ray's C++ part puts itself before it, and aborts the process three seconds after the signal: too soon for letting
    go of locks and ending servers on a busy machine.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


def stream_blocks() -> None:
    """Set up Ray Data for rows that go on as soon as they are done: a block a row, no order, no bars of its own."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    context.target_max_block_size = 1
    context.execution_no_progress_timeout_s = NO_PROGRESS_S
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
    if os.environ.get("RAY_ADDRESS", "local") == "local":
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
    if os.environ.get("RAY_ADDRESS", "local") != "local" or not nodes:
        return
    cpus, gpus = (sum(pool.min * getattr(pool, kind) for pool in pools.values()) for kind in ("num_cpus", "num_gpus"))
    if cpus > nodes[0].get("CPU", 0) or gpus > nodes[0].get("GPU", 0):
        names = " and ".join(f"actors.{name}" for name in pools)
        raise ConfigError(
            f"{names}: together they take {cpus:g} CPUs and {gpus:g} GPUs, this machine has "
            f"{nodes[0].get('CPU', 0):g} CPUs and {nodes[0].get('GPU', 0):g} GPUs; lower their min, num_cpus or "
            "num_gpus, or submit the run to a cluster"
        )


def plain_error(error: BaseException) -> RavstError:
    """Our own error, of which Ray brings the traceback's text but not the object; else the last line of Ray's."""
    if isinstance(error, ExecutionTimeoutError):
        return AbortError(
            f"nothing was done for {NO_PROGRESS_S / 3600:g} h: has the cluster room for each step, and are its nodes "
            "well? The same command goes on"
        )
    text = str(error)
    found = _OWN_ERROR.search(text)
    if found is None:
        return AbortError(text.strip().splitlines()[-1])
    kind = ConfigError if found["kind"] == "ConfigError" else AbortError
    return kind(found["message"].strip())


class RunMetrics:
    """Numbers of a run for Prometheus; Ray serves them on every node's metrics port, with ``ray_`` before the name.

    ``ravst_videos_done``, ``ravst_videos_failed`` (by ``reason``) and ``ravst_frames`` count up, ``ravst_videos_left``
    and ``ravst_frames_per_s`` (of the last minute) are as of the video finished last.

    Args:
        total: videos of this run.
    """

    def __init__(self, total: int):
        self._done = Counter("ravst_videos_done", "videos annotated by this run")
        self._failed = Counter("ravst_videos_failed", "videos that became errors rows", ("reason",))
        self._frames = Counter("ravst_frames", "frames grounded")
        self._left = Gauge("ravst_videos_left", "videos that this run still has to do")
        self._per_s = Gauge("ravst_frames_per_s", "frames grounded a second, over the last minute")
        self._rate = Rate(window_s=60.0)
        self._count = total
        self._left.set(total)

    def add(self, reason: str | None, frames: float) -> None:
        """One more video is finished; ``reason`` is why it failed."""
        if reason is None:
            self._done.inc()
        else:
            self._failed.inc(tags={"reason": reason})
        if frames > 0:
            self._frames.inc(frames)
        self._rate.add(frames)
        self._per_s.set(self._rate.per_s())
        self._count -= 1
        self._left.set(self._count)


class TrainingMetrics:
    """The record of a training's last step for Prometheus: ``ravst_training`` by ``number`` (``reward/mean``, …)."""

    def __init__(self) -> None:
        self._numbers = Gauge("ravst_training", "numbers of the last step, as metrics.jsonl has them", ("number",))

    def show(self, record: Mapping[str, float]) -> None:
        """One more step."""
        for number, value in record.items():
            self._numbers.set(value, tags={"number": number})


class QueueLengths(ExecutionCallback):
    """``ravst_queue_length`` by ``step``: blocks (a video each, at the very first step perhaps several) that wait."""

    EVERY_S = 2.0

    def __init__(self) -> None:
        self._gauge = _queue_gauge(ray.get_runtime_context().get_job_id())
        self._next_s = 0.0

    def on_execution_step(self, executor: Any) -> None:
        """Ray Data calls this many times a second."""
        if time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + self.EVERY_S
        for operator, state in executor._topology.items():
            step = step_of_operator(operator.name)
            if step is not None:
                self._gauge.set(state.total_enqueued_input_blocks(), {"step": step})


@cache
def _queue_gauge(job_id: str) -> Gauge:
    """One for all graphs of a driver: a second one of its name would forget what the first one told."""
    return Gauge("ravst_queue_length", "blocks waiting for a step, most of them one video", ("step",))


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


def step_of_operator(name: str) -> str | None:
    """The step that an operator of Ray Data runs, from its name; None for Ray's own.

    Example:
        >>> step_of_operator("MapBatches(DecodeActor)"), step_of_operator("MapBatches(Finish.__call__)")
        ('decode', 'finish')
    """
    found = re.search(r"MapBatches\((\w+?)(?:Actor|\.__call__)\)", name)
    return found[1].lower() if found else None
