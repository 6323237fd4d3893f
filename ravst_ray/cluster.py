"""What every program on Ray shares: starting or joining a cluster, elastic actor pools, and plain errors."""

from __future__ import annotations

import logging
import os
import re
import warnings
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext

from ravst_ray.config.annotate import PoolConfig
from ravst_ray.errors import AbortError, ConfigError, RavstError
from ravst_ray.logs import get_logger

log = get_logger(__name__)

START_ATTEMPTS = 3
_OWN_ERROR = re.compile(r"ravst_ray\.errors\.(?P<kind>\w+Error): (?P<message>.+?)(?:\n\n|\Z)", re.DOTALL)


def start_ray(cpus: int | None = None, dashboard: bool = False) -> None:
    """Connect to the cluster that ``$RAY_ADDRESS`` names (a submitted job has it), else start Ray in this process.

    Args:
        cpus: of a Ray that is started here.
        dashboard: start one with it, on loopback; Ray Train watches its workers through it.
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
            return
        except Exception as error:  # Ray raises the bare class when a busy machine is too slow for its 30 s
            if "timed out during startup" not in str(error) or attempt + 1 == START_ATTEMPTS:
                raise AbortError(f"Ray could not be started at {address}: {error}") from error
            log.warning("Ray was slow to start, trying again: %s", error)
            ray.shutdown()


def stream_blocks() -> None:
    """Set up Ray Data for rows that go on as soon as they are done: a block a row, no order, no bars of its own."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    context.target_max_block_size = 1


def pool_operator(dataset: Any, name: str, actor: type, arguments: tuple, pool: PoolConfig, batch: int) -> Any:
    """``dataset`` mapped by a pool of actors that grows and shrinks within the bounds of ``pool``.

    Args:
        dataset: a Ray dataset.
        name: what Ray shows.
        actor: a callable class, Arrow table in, Arrow table out.
        arguments: of its constructor.
        pool: how many, and what each needs.
        batch: rows of one call.
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
        max_restarts=2,  # Ray's own default is without end: a row that kills its process would loop
        max_task_retries=1,
    )


def plain_error(error: BaseException) -> RavstError:
    """Our own error, of which Ray brings the traceback's text but not the object; else the last line of Ray's."""
    text = str(error)
    found = _OWN_ERROR.search(text)
    if found is None:
        return AbortError(text.strip().splitlines()[-1])
    kind = ConfigError if found["kind"] == "ConfigError" else AbortError
    return kind(found["message"].strip())
