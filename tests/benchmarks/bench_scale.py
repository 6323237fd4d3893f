"""What a run costs beside its models, against the number of videos: the real graph, store, lock and report.

    python -m tests.benchmarks.bench_scale [--items 1000 2000] [--gpu-nodes 3] [--alone 10000 100000] [--shard 1000]

Decoder and models are stubs that do next to nothing, so that what is left is Ray and our own bookkeeping. The cluster
is a simulated one: a head without work, a node that decodes and nodes with a logical GPU, all of them on this machine.
``--alone`` runs without Ray, one video after the other: the store, the lock, the exports and the report for many more.
``--shard`` is the most videos of one execution of the graph. Everything is written to the temporary directory: with
``TMPDIR`` on a disk that is slow to sync, that is most of the time.
Every size runs in a process of its own: one annotates, a second repeats the finished run. Costs are CPU seconds (of the
driver, of Ray's control processes, of the workers) and the driver's own memory, which a busy machine disturbs little.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from ravst_ray.annotate.pipeline import SHARD

COUNTS, ALONE = (100, 200), (1000, 2000)
SAMPLE_S = 2.0
STORE_BYTES = 150 * 2**20  # of each node's object store
CONTROL = ("gcs_server", "raylet")
COMMITS = 100
START_ATTEMPTS = 5


def own_mib() -> float:
    """Memory of this process that it shares with none (the object store's pages, which it maps, don't count)."""
    return memory_kib("RssAnon") / 1024


def memory_kib(field: str) -> int:
    """A line of ``/proc/self/status``, in KiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


class Watch:
    """CPU seconds by kind of process, and peaks of memory, while it is entered.

    Args:
        store_bytes: gives the bytes used in all object stores.
    """

    def __init__(self, store_bytes: Callable[[], int] = lambda: 0):
        self._store_bytes = store_bytes
        self._seen: dict[int, tuple[str, float]] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._sampling_s = 0.0
        self.peak_mib = self.start_mib = own_mib()
        self.peak_store = 0
        self.cpu_s: Counter[str] = Counter()
        self.wall_s = 0.0

    def __enter__(self) -> Watch:
        self._look()
        self._before = Counter(dict(self._by_kind()))
        self._began = (time.monotonic(), time.process_time())
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.wall_s = time.monotonic() - self._began[0]
        driver_s = time.process_time() - self._began[1]
        self._over.set()
        self._thread.join()
        driver_s -= self._sampling_s
        self._look()
        self.cpu_s = self._by_kind()
        self.cpu_s.subtract(self._before)
        self.cpu_s["driver"] = driver_s

    def _loop(self) -> None:
        while not self._over.wait(SAMPLE_S):
            self._look()
            self._sampling_s = time.thread_time()

    def _look(self) -> None:
        self.peak_mib = max(self.peak_mib, own_mib())
        self.peak_store = max(self.peak_store, self._store_bytes())
        for process in psutil.Process().children(recursive=True):
            try:
                used = process.cpu_times()
                self._seen[process.pid] = (kind_of(process.name(), process.cmdline()), used.user + used.system)
            except psutil.Error:
                continue  # it has ended: what it used until the last look counts

    def _by_kind(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for kind, seconds in self._seen.values():
            total[kind] += seconds
        return total


def kind_of(name: str, command: list[str]) -> str:
    """Which part of Ray a process is: control (GCS and raylets), a worker, or an agent that watches."""
    if name in CONTROL:
        return "control"
    title = command[0] if command else name
    return "workers" if title.startswith("ray::") and "Agent" not in title else "agents"


@contextmanager
def simulated(gpu_nodes: int) -> Iterator[Callable[[], int]]:
    """A cluster of logical nodes; gives what tells the bytes in its object stores. No nodes: no cluster."""
    if not gpu_nodes:
        yield lambda: 0
        return
    from ray._private.internal_api import node_stats
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        cluster.add_node(wait=False, num_cpus=3, object_store_memory=STORE_BYTES)
        for _ in range(gpu_nodes):
            cluster.add_node(wait=False, num_cpus=1, num_gpus=1, object_store_memory=STORE_BYTES)
        cluster.wait_for_nodes(timeout=300)
        os.environ["RAY_ADDRESS"] = cluster.address

        def store_bytes() -> int:
            import ray

            nodes = [(node["NodeManagerAddress"], node["NodeManagerPort"]) for node in ray.nodes() if node["Alive"]]
            return sum(
                node_stats(*node, include_memory_info=False).store_stats.object_store_bytes_used for node in nodes
            )

        yield store_bytes
    finally:
        import ray

        ray.shutdown()
        cluster.shutdown()


def run_config(folder: Path, gpu_nodes: int) -> Any:
    """Of the run: pools like those of a cluster, one grounding actor a GPU node."""
    from tests.stub_run import stub_config

    if not gpu_nodes:
        return stub_config(folder)
    ground = f"actors.ground={{min: 1, max: {gpu_nodes}, num_cpus: 0.5, num_gpus: 1}}"
    return stub_config(folder, "actors.decode.max=2", ground)


def first_run(count: int, folder: Path, gpu_nodes: int, shard: int) -> dict[str, float]:
    """Annotate so many videos; what it cost."""
    from ravst_ray.annotate import pipeline, run
    from ravst_ray.cluster import start
    from tests.stub_run import stream_without_ray, write_labels
    from tests.test_pipeline import STUBS

    write_labels(folder / "labels.json", *(f"video_{number:07d}" for number in range(count)))
    config = run_config(folder, gpu_nodes)
    pipeline.build_steps = lambda _: STUBS
    pipeline.SHARD = shard
    if not gpu_nodes:
        pipeline.stream, start.start_ray = partial(stream_without_ray, STUBS), lambda wait_s=0: None
    finished: dict[str, float] = {}
    run.finish = partial(watched_finish, run.finish, finished)
    with simulated(gpu_nodes) as store_bytes:
        start.start_ray()
        with Watch(store_bytes) as watch:
            summary = run.annotate(config, Console(quiet=True))
    assert summary["videos"]["done"] == count, summary["videos"]
    return {
        "videos": count,
        "gpu_nodes": gpu_nodes,
        "shard": shard,
        "start_mib": watch.start_mib,
        "streamed_mib": finished.pop("streamed_mib"),
        "end_mib": own_mib(),
        "peak_mib": watch.peak_mib,
        "store_mib": watch.peak_store / 2**20,
        "wall_s": watch.wall_s,
        "driver_s": watch.cpu_s["driver"] - finished["listing_s"] - finished["finish_s"] - finished.pop("commits_s"),
        "control_s": watch.cpu_s["control"],
        "workers_s": watch.cpu_s["workers"],
        "agents_s": watch.cpu_s["agents"],
        **finished,
    }


def watched_finish(finish: Callable[..., Any], found: dict[str, float], config: Any, store: Any, *rest: Any) -> Any:
    """The end of a run and its cost; before it that of listing and committing, while nothing is compacted."""
    found["streamed_mib"] = own_mib()
    found["listing_s"] = cpu_of(store.ledger)
    found["commits_s"] = cpu_of(lambda: commit_again(config, store))
    found["commit_ms"] = 1000 * found["commits_s"] / COMMITS
    results: list[Any] = []
    found["finish_s"] = cpu_of(lambda: results.append(finish(config, store, *rest)))
    return results[0]


def commit_again(config: Any, store: Any) -> None:
    """Commit a video that is in the store already: a file is removed, two are written."""
    from ravst_ray.annotate.pipeline import finishing_steps
    from ravst_ray.datasets.schemas import rows_of
    from ravst_ray.records import VideoItem
    from tests.test_pipeline import STUBS, videos

    items = [VideoItem(*videos("video_0000000"))]
    for step in (*(build() for build in STUBS.values()), *finishing_steps(config)):
        items = step(items)
    rows = rows_of(items[0], config.seed, config.split.test_share)
    for _ in range(COMMITS):
        store.commit("video_0000000", rows, items[0].stats)


def cpu_of(action: Callable[[], Any]) -> float:
    """CPU seconds of this process."""
    before = time.process_time()
    action()
    return time.process_time() - before


def second_run(count: int, folder: Path, gpu_nodes: int, shard: int) -> dict[str, float]:
    """The same command again, with nothing left to do."""
    from ravst_ray.annotate import run

    config = run_config(folder, gpu_nodes)
    with Watch() as watch:
        summary = run.annotate(config, Console(quiet=True))
    assert summary["videos"]["done"] == count, summary["videos"]
    return {"again_s": watch.cpu_s["driver"], "again_mib": watch.peak_mib}


PHASES = {"first": first_run, "second": second_run}


def measure(count: int, gpu_nodes: int, shard: int) -> dict[str, float]:
    """Both phases, each in a fresh process."""
    result: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="ravst-scale-") as folder:
        for phase in PHASES:
            sizes = ["--gpu-nodes", str(gpu_nodes), "--items", str(count), "--shard", str(shard)]
            own = [*sizes, "--phase", phase, "--folder", folder]
            command = [sys.executable, "-m", "tests.benchmarks.bench_scale", *own]
            for _ in range(START_ATTEMPTS):
                done = subprocess.run(command, capture_output=True, text=True)
                if "timed out during startup" not in done.stderr:  # Ray gives a node 30 s, also on a busy machine
                    break
            if done.returncode:
                sys.exit(f"{count} videos, phase {phase}: {done.stdout[-2000:]}\n{done.stderr[-4000:]}")
            result |= json.loads(next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))[7:])
    return result


def tables(rows: list[dict[str, float]]) -> Iterator[Table]:
    """What was measured, a line for each number of videos."""
    load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    columns = ("videos", "GPU nodes", "driver", "GCS and raylets", "workers", "agents", "commit", "videos/s")
    streamed = Table(*columns, title=f"CPU ms a video while it streams ({load})")
    for row in rows:
        kinds = [
            f"{1000 * row[f'{kind}_s'] / row['videos']:.1f}" for kind in ("driver", "control", "workers", "agents")
        ]
        streamed.add_row(*run_of(row), *kinds, f"{row['commit_ms']:.1f}", f"{row['videos'] / row['wall_s']:.1f}")
    yield streamed
    columns = ("videos", "GPU nodes", "at the start", "last video", "peak", "finished run again", "object stores, peak")
    memory = Table(*columns, title="Driver's own memory, MiB")
    for row in rows:
        names = ("start_mib", "streamed_mib", "peak_mib", "again_mib", "store_mib")
        memory.add_row(*run_of(row), *(f"{row[name]:.0f}" for name in names))
    yield memory
    columns = ("videos", "GPU nodes", "list what is done", "compact, export, report", "finished run again")
    whole = Table(*columns, title="CPU seconds of the driver (ms a video)")
    for row in rows:
        names = ("listing_s", "finish_s", "again_s")
        whole.add_row(*run_of(row), *(f"{row[name]:.2f} ({1000 * row[name] / row['videos']:.2f})" for name in names))
    yield whole


def run_of(row: dict[str, float]) -> tuple[str, str]:
    """Which run a line is about."""
    return f"{row['videos']:,}", str(row["gpu_nodes"]) if row["gpu_nodes"] else "no Ray"


def main() -> None:
    """Measure and print; with ``--phase`` be one of the measured processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, nargs="*", default=list(COUNTS), help="videos, on the cluster")
    parser.add_argument("--alone", type=int, nargs="*", default=list(ALONE), help="videos, without Ray")
    parser.add_argument("--gpu-nodes", type=int, default=2, help="nodes with a logical GPU")
    parser.add_argument("--shard", type=int, default=SHARD, help="most videos of one execution")
    parser.add_argument("--phase", choices=PHASES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.phase:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the cluster is shut down
        result = PHASES[args.phase](args.items[0], args.folder, args.gpu_nodes, args.shard)
        sys.stdout.write("RESULT " + json.dumps(result) + "\n")
        return
    rows = []
    for count, nodes in [(count, 0) for count in args.alone] + [(count, args.gpu_nodes) for count in args.items]:
        rows.append(measure(count, nodes, args.shard))
        print(json.dumps(rows[-1]), flush=True)
    for table in tables(rows):
        Console().print(table)


if __name__ == "__main__":
    main()
