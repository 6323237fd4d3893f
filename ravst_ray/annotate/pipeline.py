"""The annotation as one streaming Ray Data graph: the only place under ``annotate/`` that knows Ray.

::

    input.annotations ─► filter (driver) ─► one row per video, minus those already committed
         │                                     │
         │                                     ▼
         │                    decode    CPU actors   sampled frames as JPEG, loudness
         │                                     ▼
         │                    captions  LLM actors   objects of each event, audible or not
         │                                     ▼
         │                    ground    GPU actors   detector + segmenter ─► tracks; frames end here
         │                                     ▼
         │                    finish    CPU tasks    quality, questions, commit of the video
         │                                     ▼
         └─ rejections ──────► driver: progress, then compaction, JSON, summary, report

A row that fails carries its error along and passes the remaining steps untouched. Every operator pulls from the one
before it with back-pressure, so a few videos are in memory, however many there are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ravst_ray.annotate.attempts import MAX_ATTEMPTS, Attempts
from ravst_ray.annotate.step import Step, failed
from ravst_ray.cluster import GRAPH_ERRORS, RunMetrics, check_room, plain_error, pool_operator, stream_blocks
from ravst_ray.config.annotate import AnnotateConfig
from ravst_ray.datasets.places import insist
from ravst_ray.datasets.schemas import rows_of
from ravst_ray.datasets.store import DatasetStore
from ravst_ray.errors import RavstError, StepError
from ravst_ray.logs import get_logger, setup_logging
from ravst_ray.records import Video, VideoItem

log = get_logger(__name__)

ROW = pa.schema([("video_id", pa.string()), ("state", pa.binary()), ("jpegs", pa.list_(pa.large_binary()))])
MAX_BLOCKS = 2000
SHARD = 20_000
"""Videos of one execution of the graph. Ray Data notes every block in the driver until an execution ends, so a long run
is several of them, one after the other; each starts its actors anew, which is minutes among hours."""
DEATHS = 200
"""How often each actor may die: two for each video that kills it, and then some; a model that always dies must end."""
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

    def __call__(self, table: pa.Table) -> pa.Table:
        """One batch."""
        items = [VideoItem.from_row(row) for row in table.to_pylist()]
        return _table(attempted(self._attempts, self._step.stage, items, partial(_guarded, self._step)))


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


def _guarded(step: Step, items: list[VideoItem]) -> list[VideoItem]:
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
            return [done for item in items for done in _guarded(step, [item])]
        log.exception("%s: unforeseen error in step %s", items[0].video.video_id, step.stage)
        row = StepError("internal_error", f"{type(error).__name__}: {error}", retryable=True)
        return [failed(items[0], step.stage, row)]


def is_sick_card(error: Exception) -> bool:
    """Whether CUDA raised it, which then goes on failing in this process, whatever the video (full memory doesn't)."""
    return type(error).__name__ == "AcceleratorError" or "CUDA error" in str(error)


class Finish:
    """The last operator: the cheap steps, then the commit of each video.

    Args:
        config: of the run.
        steps: before the commit.
        attempts: as in :func:`attempted`; Ray repeats a task whose process died without end.
    """

    def __init__(self, config: AnnotateConfig, steps: Sequence[Step], attempts: Any = None):
        self._config = config
        self._steps = steps
        self._attempts = attempts
        self._store = DatasetStore(config.output)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Commit the videos of one batch; gives one small row each for the driver's progress."""
        items = [VideoItem.from_row(row) for row in table.to_pylist()]
        items = attempted(self._attempts, "finish", items, self._work, self._commit)
        return pa.table(
            {
                "video_id": [item.video.video_id for item in items],
                "reason": pa.array([item.error.reason if item.error else None for item in items], pa.string()),
                "frames": [item.stats.get("frames_grounded", 0.0) for item in items],
            }
        )

    def _work(self, items: list[VideoItem]) -> list[VideoItem]:
        for step in self._steps:
            items = _guarded(step, items)
        return self._commit(items)

    def _commit(self, items: list[VideoItem]) -> list[VideoItem]:
        for item in items:
            rows = rows_of(item, self._config.seed, self._config.split.test_share)
            insist(partial(self._store.commit, item.video.video_id, rows, item.stats), self._store.root)
        return items


class Letting(Step):
    """A step after which the frames are no longer needed."""

    def __init__(self, inner: Step):
        self.stage = inner.stage
        self._inner = inner

    def __call__(self, items: Sequence[VideoItem]) -> list[VideoItem]:
        """The inner step, without the frames."""
        return [replace(item, frames=None) for item in self._inner(items)]


def _table(items: Sequence[VideoItem]) -> pa.Table:
    return pa.Table.from_pylist([item.to_row() for item in items], schema=ROW)


def build_steps(config: AnnotateConfig) -> dict[str, Build]:
    """What builds each step, inside the actor that runs it."""

    def decode() -> Step:
        from ravst_ray.annotate.decode import DecodeFrames

        return DecodeFrames(config.decode, track_step_s=config.grounding.track_step_s)

    def captions() -> Step:
        from ravst_ray.annotate.captions import build_captions

        return build_captions(config.llm, cache_path(config))

    def ground() -> Step:
        from ravst_ray.annotate.grounding import build_ground

        return Letting(build_ground(config.grounding))

    return {"decode": decode, "captions": captions, "ground": ground}


def finishing_steps(config: AnnotateConfig) -> list[Step]:
    """The cheap steps after grounding: events are judged, then asked about."""
    from ravst_ray.annotate.quality import CheckQuality
    from ravst_ray.annotate.questions import MakeQuestions

    most = config.grounding.max_instances
    return [CheckQuality(config.quality, most), MakeQuestions(config.questions, most, config.seed)]


def cache_path(config: AnnotateConfig) -> str:
    """Where the LLM's answers are kept between runs."""
    if config.llm.cache:
        return config.llm.cache
    folder = os.path.expanduser("~/.cache/ravst_ray") if "://" in config.output else config.output
    return os.path.join(folder, "llm_cache.sqlite")


def stream(config: AnnotateConfig, videos: Sequence[Video], steps: dict[str, Build] | None = None) -> Iterator[dict]:
    """Run the steps over the videos; yields ``{"video_id", "reason", "frames"}`` as each is committed."""
    stream_blocks()
    builds = steps or build_steps(config)
    check_room(dict(config.actors))
    attempts = _start_attempts()
    metrics = RunMetrics(len(videos))
    try:
        for start in range(0, len(videos), SHARD):
            dataset = graph(config, videos[start : start + SHARD], builds, attempts)
            for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
                for row in batch.to_pylist():
                    metrics.add(row["reason"], row["frames"])
                    yield row
            del dataset  # and with it, before the next one is made, what Ray noted of its blocks
    except GRAPH_ERRORS as error:
        raise plain_error(error) from error


def graph(config: AnnotateConfig, videos: Sequence[Video], builds: dict[str, Build], attempts: Any) -> Any:
    """The lazy Ray dataset whose rows are videos that are committed."""
    pools = dict(config.actors)
    # Not from_arrow: that counts each block's rows in a task of a whole CPU, for which an autoscaler brings all nodes.
    dataset = ray.data.from_blocks(
        [
            pa.Table.from_pylist([VideoItem(video).to_row() for video in chunk], schema=ROW)
            for chunk in _chunks(videos, min(len(videos), MAX_BLOCKS))
        ]
    )
    for name, batch in (("decode", 1), ("captions", 2 * config.llm.concurrency), ("ground", 1)):
        pool = pools["llm" if name == "captions" else name]
        dataset = pool_operator(dataset, name, StepActor, (builds[name], attempts), pool, batch, DEATHS)
    finish = Finish(config, finishing_steps(config), attempts)
    return dataset.map_batches(finish.__call__, batch_size=1, batch_format="pyarrow", num_cpus=0.1)


def _start_attempts() -> Any:
    """The actor that counts attempts, on the driver's node: where the run ends with it anyway."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
    return ray.remote(Attempts).options(**options).remote()


def _chunks(videos: Sequence[Video], count: int) -> Iterator[Sequence[Video]]:
    for index in range(count):
        chunk = videos[index * len(videos) // count : (index + 1) * len(videos) // count]
        if chunk:
            yield chunk
