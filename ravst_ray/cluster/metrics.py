"""Numbers of a run for Prometheus; Ray serves them on every node's metrics port."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from functools import cache
from typing import Any

import ray
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.util.metrics import Counter, Gauge

from ravst_ray.progress import Rate


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


def step_of_operator(name: str) -> str | None:
    """The step that an operator of Ray Data runs, from its name; None for Ray's own.

    Example:
        >>> step_of_operator("MapBatches(DecodeActor)"), step_of_operator("MapBatches(Finish.__call__)")
        ('decode', 'finish')
    """
    found = re.search(r"MapBatches\((\w+?)(?:Actor|\.__call__)\)", name)
    return found[1].lower() if found else None
