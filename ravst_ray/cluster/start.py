"""Ray started in this process, or the cluster joined that ``$RAY_ADDRESS`` names."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
import warnings
from typing import Any

import grpc
import ray
from ray._private.grpc_utils import init_grpc_channel
from ray._private.services import canonicalize_bootstrap_address

from ravst_ray.config.base import ClusterConfig
from ravst_ray.errors import AbortError, ConfigError
from ravst_ray.logs import get_logger
from ravst_ray.surroundings import prepare_surroundings

log = get_logger(__name__)
START_ATTEMPTS = 3
LOCAL = "local"
CLIENT = "ray://"
SAY_S = 10.0
"""After so long without an answer it is said what is waited for."""


def cluster_address() -> str:
    """``$RAY_ADDRESS``; ``local``, for a Ray of this process, where it isn't set or empty."""
    return os.environ.get("RAY_ADDRESS", "").strip() or LOCAL


def joins_cluster() -> bool:
    """Whether a cluster is joined, to which nodes may come."""
    return cluster_address() != LOCAL


def start_ray(cpus: int | None = None, dashboard: bool = True, wait_s: float = ClusterConfig().wait_s) -> None:
    """Connect to the cluster that ``$RAY_ADDRESS`` names (a submitted job has it), else start Ray in this process.

    Args:
        cpus: of a Ray that is started here.
        dashboard: start one with it, on loopback; Ray Train watches its workers through it, and complains without.
        wait_s: how long a cluster may take to answer.

    Raises:
        ConfigError: ``$RAY_ADDRESS`` is no address.
        AbortError: no cluster answers there, or Ray can't be started.
    """
    if ray.is_initialized():
        return
    prepare_surroundings()
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # it says that we draw our own
    warnings.filterwarnings("ignore", message=".*ray_remote_args.*")  # the only way to max_restarts in this release
    address = cluster_address()
    local: dict[str, Any] = {}
    if address == LOCAL:
        local = {"include_dashboard": dashboard, "num_cpus": cpus}
    else:
        wait_for_cluster(address, wait_s)
    for attempt in range(START_ATTEMPTS):
        try:
            ray.init(address=address, log_to_driver=True, logging_level="WARNING", **local)
            _keep_sigterm()
            return
        except Exception as error:  # Ray raises the bare class when a busy machine is too slow for its 30 s
            if "timed out during startup" not in str(error) or attempt + 1 == START_ATTEMPTS:
                raise AbortError(_refusal(address, error)) from error
            log.warning("Ray was slow to start, trying again: %s", error)
            ray.shutdown()


def _refusal(address: str, error: Exception) -> str:
    if address == LOCAL:
        return f"Ray could not be started on this machine: {error}"
    return (
        f"the Ray cluster at {address} can't be joined: {error}. It answers, so is it of the same version, does it "
        "know this machine's token (RAY_AUTH_MODE, ~/.ray/auth_token), and is this machine one of its nodes?"
    )


def wait_for_cluster(address: str, wait_s: float) -> None:
    """Until something that speaks Ray's protocol answers; Ray itself would wait for a quarter of an hour, and silently.

    Args:
        address: as in ``$RAY_ADDRESS``: ``HOST:PORT``, ``auto`` or ``ray://HOST:PORT``.
        wait_s: seconds from now on.

    Raises:
        ConfigError: it is no address.
        AbortError: nothing answered in time.
    """
    started = time.monotonic()
    place = _host_and_port(address)
    with init_grpc_channel(place) as channel:
        # Ready is a channel whose other side has answered; a port that is merely open never is.
        ready = grpc.channel_ready_future(channel)
        for until_s in (min(SAY_S, wait_s), wait_s):
            try:
                ready.result(timeout=max(started + until_s - time.monotonic(), 0.1))
                return
            except grpc.FutureTimeoutError:
                if until_s < wait_s:
                    log.warning(
                        "no Ray cluster answers at %s (RAY_ADDRESS=%s); waiting for it, %g s at most (cluster.wait_s)",
                        place,
                        address,
                        wait_s,
                    )
        ready.cancel()
    raise AbortError(
        f"no Ray cluster answered at {place} (RAY_ADDRESS={address}) within {wait_s:g} s: start it, give it more time "
        "(cluster.wait_s), or unset RAY_ADDRESS to start Ray on this machine"
    )


def _host_and_port(address: str) -> str:
    try:
        place = address.removeprefix(CLIENT) if address.startswith(CLIENT) else canonicalize_bootstrap_address(address)
    except ConnectionError:
        place = None
    except ValueError as error:
        raise ConfigError(f"RAY_ADDRESS={address}: {error}; it is HOST:PORT, or unset to start Ray here") from None
    if place is None:
        raise AbortError(
            f"RAY_ADDRESS={address}, but no Ray cluster runs on this machine: start one (ray start --head), or unset it"
        )
    return place


def _keep_sigterm() -> None:
    """Have SIGTERM go to Python's handler alone again.

    Ray's C++ part puts itself before it, and aborts the process three seconds after the signal: too soon for letting
    go of locks and ending servers on a busy machine.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
