"""Many scenes as a Ray Data graph, one row a scene: read, ask, commit, in tasks of one CPU."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence

import pyarrow as pa
import ray

from ravst_ray.cluster.failures import GRAPH_ERRORS, plain_error
from ravst_ray.cluster.pools import stream_blocks
from ravst_ray.cluster.start import start_ray
from ravst_ray.config.make_str import MakeStrConfig
from ravst_ray.datasets.scenes import SceneRef
from ravst_ray.datasets.store import DatasetStore
from ravst_ray.logs import setup_logging
from ravst_ray.questions.work import commit_scenes

_BLOCKS = 200
_TRIES = 3  # of a task whose process dies


def commit_on_ray(refs: Sequence[SceneRef], config: MakeStrConfig, store: DatasetStore) -> Iterator[str | None]:
    """As :func:`~ravst_ray.questions.work.commit_scenes`, on all CPUs that Ray has.

    Raises:
        AbortError: Ray can't go on.
    """
    start_ray(wait_s=config.cluster.wait_s)
    stream_blocks()

    def work(table: pa.Table) -> pa.Table:
        setup_logging()
        found = [pickle.loads(ref) for ref in table["ref"].to_pylist()]
        return pa.table({"reason": pa.array(list(commit_scenes(found, config, store)), pa.string())})

    size = -(-len(refs) // _BLOCKS)
    chunks = [refs[start : start + size] for start in range(0, len(refs), size)]
    blocks = [pa.table({"ref": pa.array(map(pickle.dumps, chunk), pa.large_binary())}) for chunk in chunks]
    dataset = ray.data.from_blocks(blocks).map_batches(
        work, batch_size=None, batch_format="pyarrow", zero_copy_batch=True, num_cpus=1, max_retries=_TRIES
    )
    try:
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
            yield from batch["reason"].to_pylist()
    except GRAPH_ERRORS as error:
        raise plain_error(error) from error
