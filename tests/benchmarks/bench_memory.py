"""Driver memory against the number of videos: real Ray Data graph and commits, stubbed models."""

import json
import resource
import subprocess
import sys
import tempfile
import time

from rich.console import Console
from rich.table import Table

COUNTS = (10, 100, 1000)


def measure(count: int) -> dict:
    """One run in this process: peak memory of the driver after Ray's start, and seconds."""
    from ravst_ray.annotate.pipeline import stream
    from ravst_ray.cluster.start import start_ray
    from ravst_ray.datasets.store import DatasetStore
    from tests.test_pipeline import STUBS, stub_config, videos

    start_ray()
    with tempfile.TemporaryDirectory() as folder:
        store = DatasetStore(folder)
        store.prepare()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.perf_counter()
        done = sum(1 for _ in stream(stub_config(folder), videos(*(f"v{n}" for n in range(count))), STUBS))
        seconds = time.perf_counter() - started
        store.compact()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"videos": done, "before_mib": before / 1024, "peak_mib": peak / 1024, "seconds": seconds}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.stdout.write("RESULT " + json.dumps(measure(int(sys.argv[1]))) + "\n")
        sys.exit()
    table = Table("videos", "driver MiB at start", "driver peak MiB", "seconds", title="Driver memory (goal: flat)")
    for count in COUNTS:
        command = [sys.executable, "-m", "tests.benchmarks.bench_memory", str(count)]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        row = json.loads(next(line for line in out.splitlines() if line.startswith("RESULT"))[7:])
        table.add_row(str(row["videos"]), f"{row['before_mib']:.0f}", f"{row['peak_mib']:.0f}", f"{row['seconds']:.1f}")
    Console().print(table)
