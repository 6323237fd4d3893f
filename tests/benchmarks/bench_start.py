"""How fast the command line answers: ``ravst --help``, best and median of several runs."""

import statistics
import subprocess
import sys
import time

from rich.console import Console
from rich.table import Table

RUNS = 7


def seconds_of(command: list[str]) -> float:
    """Wall-clock seconds of one command."""
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    table = Table("command", "best s", "median s", "goal s", title="Start-up")
    for name, command in (
        ("python -c pass", [sys.executable, "-c", "pass"]),
        ("ravst --help", [sys.executable, "-m", "ravst_ray.cli", "--help"]),
        ("ravst annotate --help", [sys.executable, "-m", "ravst_ray.cli", "annotate", "--help"]),
    ):
        times = [seconds_of(command) for _ in range(RUNS)]
        goal = "" if "pass" in name else "0.5"
        table.add_row(name, f"{min(times):.3f}", f"{statistics.median(times):.3f}", goal)
    Console().print(table)
