"""The charts of a cluster that grew and shrank: nodes, CPUs and GPUs over the time that was worked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ravst_ray.datasets.node_log import working_seconds
from ravst_ray.records import NodeCount
from ravst_ray.reports.curves import COLORS, Chart, Series, chart


def cluster_charts(counts: Sequence[NodeCount]) -> list[Chart]:
    """Nodes by kind, then what was there and in use; none for a single node that was there all the time."""
    if len({(one.nodes, one.gpu_nodes) for one in counts}) <= 1 and all(one.nodes <= 1 for one in counts):
        return []
    seconds = [round(passed) for passed in working_seconds(counts)]

    def series(label: str, value: Callable[[NodeCount], float], color: str) -> Series:
        return Series(label, {at: value(one) for at, one in zip(seconds, counts, strict=True)}, color)

    cpu, gpu, there = COLORS[0], COLORS[1], "var(--soft)"
    drawn = {
        ("Nodes", "alive; the time between two runs is left out"): [
            series("without a GPU", lambda one: one.nodes - one.gpu_nodes, cpu),
            series("with a GPU", lambda one: one.gpu_nodes, gpu),
        ],
        ("CPUs", "as Ray counts them"): [
            series("in use", lambda one: one.cpus_used, cpu),
            series("there", lambda one: one.cpus, there),
        ],
        ("GPUs", "as Ray counts them"): [
            series("in use", lambda one: one.gpus_used, gpu),
            series("there", lambda one: one.gpus, there),
        ],
    }
    if not any(one.gpus for one in counts):
        del drawn["GPUs", "as Ray counts them"]
    steps = sorted(set(seconds))
    made = [chart(title, curves, steps, hint=hint, along="time") for (title, hint), curves in drawn.items()]
    return [one for one in made if one is not None]
