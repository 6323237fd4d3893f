"""Benchmarks of others: their published files, prompts and rules."""

from __future__ import annotations

from ravst_ray.errors import ConfigError
from ravst_ray.evaluation.benchmarks.protocols import Benchmark
from ravst_ray.evaluation.benchmarks.sti_bench import STIBench
from ravst_ray.evaluation.benchmarks.v_star import VSTaR
from ravst_ray.evaluation.benchmarks.vsi_bench import VSIBench

BENCHMARKS: dict[str, Benchmark] = {one.name: one for one in (VSIBench(), STIBench(), VSTaR())}
"""By the name on the command line."""


def benchmark_of(name: str) -> Benchmark:
    """A benchmark by its name.

    Raises:
        ConfigError: there is none of it.
    """
    if name not in BENCHMARKS:
        raise ConfigError(f"--benchmark {name}: there is no such benchmark; known are {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]
