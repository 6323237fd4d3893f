"""The annotation as Ray Data graphs, a small one and then the large one: who runs where, and who waits for whom.

::

    input.annotations ─► filter (driver) ─► one row per video, minus those already committed
         │                                     │   in shards, for each:
         │     the captions phase              ▼
         │       caption_frames  CPU actors    with llm.write_captions: a few frames of events without a caption
         │       captions        LLM actors    objects of each event, audible or not; frames end here
         │                                     ▼   driver: small rows. The language model has given its card back
         │     the vision graph                ▼
         │       decode          CPU actors    sampled frames as JPEG, loudness
         │       ground          GPU actors    detector + segmenter ─► tracks; frames end here
         │       finish          CPU tasks     quality, questions, commit of the video
         │                                     ▼
         └─ rejections ──────► driver: progress, then compaction, JSON, summary, report

A row that fails carries its error along and passes the remaining steps untouched. Every operator pulls from the one
before it with back-pressure, so a few videos are in memory, however many there are. Texts wait for no frame, and no
frame for a text; a phase in which no text is to be read starts nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ravst_ray.annotate.attempts import Attempts
from ravst_ray.annotate.step import Step
from ravst_ray.annotate.texts import ADAPTED, known_item, lacks_caption
from ravst_ray.annotate.workers import Build, Letting, PresentActor, StepActor, attempted, guarded, table_of
from ravst_ray.cluster.failures import GRAPH_ERRORS, plain_error
from ravst_ray.cluster.metrics import RunMetrics
from ravst_ray.cluster.nodes import beside_driver
from ravst_ray.cluster.pools import check_room, pool_operator, stream_blocks
from ravst_ray.config.annotate import AnnotateConfig, PoolConfig
from ravst_ray.datasets.places import insist
from ravst_ray.datasets.schemas import rows_of
from ravst_ray.datasets.store import DatasetStore
from ravst_ray.language.dialect import ADAPTATIONS
from ravst_ray.language.smollm2 import default_cache_dir
from ravst_ray.logs import get_logger
from ravst_ray.records import Video, VideoItem

log = get_logger(__name__)

MAX_BLOCKS = 2000
_POOLS = {"caption_frames": "decode", "captions": "llm"}
SHARD = 20_000
"""Videos of one execution of both graphs. Ray Data notes every block in the driver until one ends, so a long run is
several of them, one after the other; each starts its actors anew, which is minutes among hours."""
DEATHS = 200
"""How often each actor may die: two for each video that kills it, and then some; a model that always dies must end."""
LET_GO_S = 120.0
"""How long the captions phase's processes may take to end: Ray gives an actor 30 s, a local server needs up to 25."""
Tell = Callable[[int, int], None]
"""Told how many of how many videos the captions phase has done."""


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
            items = guarded(step, items)
        return self._commit(items)

    def _commit(self, items: list[VideoItem]) -> list[VideoItem]:
        for item in items:
            rows = rows_of(item, self._config.seed, self._config.split.test_share)
            insist(partial(self._store.commit, item.video.video_id, rows, item.stats), self._store.root)
        return items


def build_steps(config: AnnotateConfig) -> dict[str, Build]:
    """What builds each step, inside the actor that runs it."""

    def decode() -> Step:
        from ravst_ray.annotate.decode import DecodeFrames

        return DecodeFrames(config.decode, track_step_s=config.grounding.track_step_s)

    def caption_frames() -> Step:
        from ravst_ray.annotate.caption_frames import CaptionFrames

        return CaptionFrames(config.decode, config.llm.caption_frames)

    def captions() -> Step:
        from ravst_ray.annotate.captions import build_captions

        return Letting(build_captions(config.llm, cache_path(config)))

    def ground() -> Step:
        from ravst_ray.annotate.grounding import build_ground

        return Letting(build_ground(config.grounding))

    return {"caption_frames": caption_frames, "captions": captions, "decode": decode, "ground": ground}


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
    folder = str(default_cache_dir()) if "://" in config.output else config.output
    return os.path.join(folder, "llm_cache.sqlite")


def stream(
    config: AnnotateConfig, videos: Sequence[Video], steps: dict[str, Build] | None = None, tell: Tell | None = None
) -> Iterator[dict]:
    """Run the steps over the videos; yields ``{"video_id", "reason", "frames"}`` as each is committed.

    Args:
        config: of the run.
        videos: that passed the filter.
        steps: what builds them, by name; default :func:`build_steps`.
        tell: hears how far the captions phase is, of the videos of a shard whose texts are to be read.
    """
    stream_blocks()
    builds = steps or build_steps(config)
    for pools in rooms(config, videos):
        check_room(pools)
    attempts = _start_attempts()
    metrics, adapted = RunMetrics(len(videos)), set[str]()
    try:
        for start in range(0, len(videos), SHARD):
            items = read_captions(config, videos[start : start + SHARD], builds, attempts, tell, adapted)
            dataset = graph(config, items, builds, attempts)
            for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
                for row in batch.to_pylist():
                    metrics.add(row["reason"], row["frames"])
                    yield row
            del dataset  # and with it, before the next one is made, what Ray noted of its blocks
    except GRAPH_ERRORS as error:
        raise plain_error(error) from error


def rooms(config: AnnotateConfig, videos: Sequence[Video]) -> Iterator[dict[str, PoolConfig]]:
    """The actor pools of each phase that these videos need; those of one phase are at work together."""
    pools = dict(config.actors)
    asking = [video for video in videos if known_item(video, config.llm.write_captions) is None]
    if asking:
        yield {_POOLS[name]: pools[_POOLS[name]] for name in _captions_steps(config, asking)}
    yield {name: pools[name] for name in ("decode", "ground")}


def read_captions(
    config: AnnotateConfig,
    videos: Sequence[Video],
    builds: dict[str, Build],
    attempts: Any,
    tell: Tell | None = None,
    adapted: set[str] | None = None,
) -> list[VideoItem]:
    """The captions phase: the videos with the objects of their events, or with their errors, in their order.

    When it returns, its actors and what they started are gone. Where no text is to be read, none are started.
    ``adapted`` are the endpoint's wishes that were told of before; new ones are added.
    """
    adapted = set() if adapted is None else adapted
    items = {video.video_id: known_item(video, config.llm.write_captions) for video in videos}
    asking = [video for video in videos if items[video.video_id] is None]
    tell = tell or _tell_nobody
    if asking:
        tell(0, len(asking))
        done = 0
        dataset = _captions_graph(config, asking, builds, attempts)
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
            read = [VideoItem.from_row(row) for row in batch.to_pylist()]
            _tell_adaptations(read, adapted)
            items |= {item.video.video_id: item for item in read}
            done += len(read)
            tell(done, len(asking))
        del dataset
        wait_for_end(ray.get(attempts.leave.remote()))
    return [item for item in items.values() if item is not None]


def _tell_adaptations(read: Iterable[VideoItem], told: set[str]) -> None:
    """Say once of each thing that the language model's endpoint doesn't take what is sent instead."""
    names = {key.removeprefix(ADAPTED) for item in read for key in item.stats if key.startswith(ADAPTED)}
    for name in sorted(names - told):
        log.warning("the language model's endpoint doesn't take all that was sent: %s", ADAPTATIONS[name])
    told |= names


def _captions_graph(config: AnnotateConfig, videos: Sequence[Video], builds: dict[str, Build], attempts: Any) -> Any:
    """The lazy Ray dataset whose rows are videos with their texts read."""
    dataset = _rows([VideoItem(video) for video in videos])
    pools = dict(config.actors)
    for name in _captions_steps(config, videos):
        actor, batch = (PresentActor, 2 * config.llm.concurrency) if name == "captions" else (StepActor, 1)
        dataset = pool_operator(dataset, name, actor, (builds[name], attempts), pools[_POOLS[name]], batch, DEATHS)
    return dataset


def _captions_steps(config: AnnotateConfig, videos: Sequence[Video]) -> list[str]:
    wanting = config.llm.write_captions and any(lacks_caption(event) for video in videos for event in video.events)
    return ["caption_frames", "captions"] if wanting else ["captions"]


def graph(config: AnnotateConfig, items: Sequence[VideoItem], builds: dict[str, Build], attempts: Any) -> Any:
    """The vision graph: the lazy Ray dataset whose rows are videos that are committed."""
    dataset, pools = _rows(items), dict(config.actors)
    for name in ("decode", "ground"):
        dataset = pool_operator(dataset, name, StepActor, (builds[name], attempts), pools[name], 1, DEATHS)
    finish = Finish(config, finishing_steps(config), attempts)
    return dataset.map_batches(finish.__call__, batch_size=1, batch_format="pyarrow", num_cpus=0.1)


def _rows(items: Sequence[VideoItem]) -> Any:
    """A Ray dataset of items, a block each as far as that goes.

    Not ``from_arrow``: that counts each block's rows in a task of a CPU, for which an autoscaler brings all nodes.
    """
    return ray.data.from_blocks([table_of(chunk) for chunk in _chunks(items, min(len(items), MAX_BLOCKS))])


def wait_for_end(homes: Iterable[tuple[str, int]], within_s: float = LET_GO_S) -> None:
    """Until processes are gone: an actor that ends well takes its server along, and only then its card is free.

    Args:
        homes: node and process id of each; of a node that is lost, all are gone.
        within_s: then the run goes on, with a warning.
    """
    asked = []
    for node_id, pid in homes:
        there = NodeAffinitySchedulingStrategy(node_id, soft=False)
        asked.append((pid, ray.remote(_is_gone).options(num_cpus=0, scheduling_strategy=there).remote(pid, within_s)))
    for pid, answer in asked:
        try:
            if not ray.get(answer):
                log.warning("process %d of the captions phase did not end within %g s", pid, within_s)
        except ray.exceptions.RayError as error:
            log.info("process %d of the captions phase went with its node: %s", pid, type(error).__name__)


def _is_gone(pid: int, within_s: float) -> bool:
    """Whether a process of this node ends in time."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def _tell_nobody(done: int, total: int) -> None:
    pass


def _start_attempts() -> Any:
    """The actor that counts attempts, on the driver's node: where the run ends with it anyway."""
    return ray.remote(Attempts).options(max_restarts=-1, max_task_retries=-1, **beside_driver()).remote()


def _chunks(items: Sequence[VideoItem], count: int) -> Iterator[Sequence[VideoItem]]:
    for index in range(count):
        chunk = items[index * len(items) // count : (index + 1) * len(items) // count]
        if chunk:
            yield chunk
