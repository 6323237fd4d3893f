"""A step in a process of its own: what an actor of the graph does around it, whatever goes wrong."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa
import ray

from ravst_ray.annotate.attempts import MAX_ATTEMPTS
from ravst_ray.annotate.step import Step, failed
from ravst_ray.errors import RavstError, StepError
from ravst_ray.logs import get_logger, setup_logging
from ravst_ray.records import VideoItem

log = get_logger(__name__)

ROW = pa.schema([("video_id", pa.string()), ("state", pa.binary()), ("jpegs", pa.list_(pa.large_binary()))])
Build = Callable[[], Step]
Work = Callable[[list[VideoItem]], list[VideoItem]]


class StepActor:
    """A step in a Ray actor: Arrow rows in, Arrow rows out. An unforeseen exception costs its video, not the run.

    Nor does a video that kills the process: Ray starts it anew and gives it the same rows, and ``attempts`` (an actor
    of :class:`Attempts`) remembers whose step had begun.
    """

    def __init__(self, build: Build, attempts: Any):
        setup_logging()
        os.environ.setdefault("TQDM_DISABLE", "1")  # bars of the libraries would fill the driver's terminal
        self._step = build()
        self._attempts = attempts

    def __del__(self) -> None:
        if "_step" in vars(self):
            self._step.close()

    def __call__(self, table: pa.Table) -> pa.Table:
        """One batch."""
        items = [VideoItem.from_row(row) for row in table.to_pylist()]
        return table_of(attempted(self._attempts, self._step.stage, items, partial(guarded, self._step)))


class PresentActor(StepActor):
    """One whose end is waited for: it says where it is, each time that it is started."""

    def __init__(self, build: Build, attempts: Any):
        ray.get(attempts.arrive.remote(ray.get_runtime_context().get_node_id(), os.getpid()))
        super().__init__(build, attempts)


def attempted(attempts: Any, stage: str, items: list[VideoItem], work: Work, give_up: Work = list) -> list[VideoItem]:
    """What ``work`` makes of the items; of those that killed its process too often, what ``give_up`` makes of errors.

    Args:
        attempts: an actor of :class:`Attempts`; None where nothing is counted, because nothing is tried again.
        stage: under which they are counted, and which the error names.
        items: of one batch.
        work: may end this process.
        give_up: what is done with the items as errors.
    """
    if attempts is None:
        return work(items)
    names = [item.video.video_id for item in items]
    before = ray.get(attempts.begin.remote(stage, names))
    if len(items) > 1 and any(before):
        return [done for item in items for done in attempted(attempts, stage, [item], work, give_up)]
    if before[0] >= MAX_ATTEMPTS:
        error = StepError("process_died", f"the process of step {stage} died in each of {before[0]} attempts", True)
        return give_up([failed(item, stage, error) for item in items])
    done = work(items)
    ray.get(attempts.end.remote(stage, names))
    return done


def guarded(step: Step, items: list[VideoItem]) -> list[VideoItem]:
    """The step over the items; our own errors end the run, any other costs the video that raised it."""
    try:
        return step(items)
    except RavstError:
        raise
    except Exception as error:
        if is_sick_card(error):
            log.exception("%s: the card fails this process, which ends; another tries again", items[0].video.video_id)
            os._exit(1)
        if len(items) > 1:
            return [done for item in items for done in guarded(step, [item])]
        log.exception("%s: unforeseen error in step %s", items[0].video.video_id, step.stage)
        row = StepError("internal_error", f"{type(error).__name__}: {error}", retryable=True)
        return [failed(items[0], step.stage, row)]


def is_sick_card(error: Exception) -> bool:
    """Whether CUDA raised it, which then goes on failing in this process, whatever the video (full memory doesn't)."""
    return type(error).__name__ == "AcceleratorError" or "CUDA error" in str(error)


class Letting(Step):
    """A step after which the frames are no longer needed."""

    def __init__(self, inner: Step):
        self.stage = inner.stage
        self._inner = inner

    def close(self) -> None:
        """End what the inner step has started."""
        self._inner.close()

    def __call__(self, items: Sequence[VideoItem]) -> list[VideoItem]:
        """The inner step, without the frames."""
        return [replace(item, frames=None) for item in self._inner(items)]


def table_of(items: Sequence[VideoItem]) -> pa.Table:
    """The items as a block of rows."""
    return pa.Table.from_pylist([item.to_row() for item in items], schema=ROW)
