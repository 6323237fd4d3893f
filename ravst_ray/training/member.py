"""One actor of the rollout pool, and how it is told that it is stuck.

An actor is asked again and again since when it has work and gives no sign of life: a token of any of its requests, or
the end of something that it does with its weights. So a group may wait in an engine's queue as long as it likes while
the engine is at work on others. An actor that doesn't even answer is stuck as well.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

import ray

MOST_PAUSE_S = 5.0
_PARTS = 10
"""So many times within the limit an actor is asked."""


@dataclass(eq=False)
class Member:
    """One actor. ``seat`` is the place that it has in the pool (and in the placement group), ``name`` its own."""

    name: int
    seat: int
    handle: Any
    up: bool = False
    current: bool = False
    leaving: bool = False
    load: int = 0
    idle_since: float = field(default_factory=time.monotonic)
    busy_s: float = 0.0
    measured_at: float = field(default_factory=time.monotonic)


async def end_of(handle: Any, limit_s: float) -> Exception:
    """Wait until an actor is dead or stuck, and give why: Ray's error, or TimeoutError.

    Args:
        handle: of an actor with ``quiet_s()``; it must have started, which may take its time.
        limit_s: how long it may be without a sign of life while it has work.
    """
    answered = time.monotonic()
    while True:
        await asyncio.sleep(min(limit_s / _PARTS, MOST_PAUSE_S))
        try:
            call = asyncio.wrap_future(handle.quiet_s.remote().future())
            quiet_s = await asyncio.wait_for(call, limit_s)
            answered = time.monotonic()
        except ray.exceptions.ActorUnavailableError:  # the network's fault, perhaps for a moment
            quiet_s = time.monotonic() - answered
        except (ray.exceptions.RayActorError, TimeoutError) as error:
            return error
        if quiet_s >= limit_s:
            return TimeoutError()
