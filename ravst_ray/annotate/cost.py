"""What an annotation run needs in GPU hours, CPU hours and dollars: arithmetic over rates that you give.

    python -m ravst_ray.annotate.cost --videos 5237 1000000 --ground-fps 3 7.6 --usd-gpu-hour 2

The defaults say where they come from; prices are assumptions, no measurements. Not in
the sum: the language model (``summary.json`` counts its tokens and dollars), storage, transfer, idle nodes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rich.console import Console
from rich.table import Table

HOUR_S = 3600.0


@dataclass(frozen=True)
class Rates:
    """What one video, one frame and one hour cost.

    ``frames`` is the mean of the published R-AVST test videos whose answers tell when an event is: a frame a second
    while it lasts. Measured on 2 CPU cores (README.md) are CPU seconds: ``decode_s`` of a sampled frame (360p),
    and of a video, with 10,000 of them and stubbed models on a simulated cluster of four nodes, ``control_s`` of the
    driver, the GCS and the raylets and ``tasks_s`` of the processes that do the steps. ``ground_fps``, the frames a
    second that detector and segmenter do on a GPU, was measured on an H100 with three objects
    (tests/benchmarks/gpu_grounding.py). Assumptions are both prices, and the rates of other cards.
    """

    frames: float = 25.5
    decode_s: float = 0.017
    control_s: float = 0.037
    tasks_s: float = 0.082
    ground_fps: float = 7.6
    usd_gpu_hour: float = 2.0
    usd_cpu_hour: float = 0.05


@dataclass(frozen=True)
class Cost:
    """Of a whole run: hours of GPUs and of CPU cores, and dollars."""

    gpu_hours: float
    cpu_hours: float
    usd: float


def cost(videos: int, rates: Rates) -> Cost:
    """What so many videos need.

    Example:
        >>> rates = Rates(36, decode_s=0.1, control_s=0.3, tasks_s=0.1, ground_fps=10, usd_gpu_hour=3, usd_cpu_hour=0.9)
        >>> cost(900, rates)
        Cost(gpu_hours=0.9, cpu_hours=1.0, usd=3.6)
    """
    gpu_hours = videos * rates.frames / rates.ground_fps / HOUR_S
    cpu_hours = videos * (rates.frames * rates.decode_s + rates.control_s + rates.tasks_s) / HOUR_S
    return Cost(gpu_hours, cpu_hours, gpu_hours * rates.usd_gpu_hour + cpu_hours * rates.usd_cpu_hour)


def most_gpus(rates: Rates) -> float:
    """How many GPUs one run keeps busy, if its control processes had one core: videos a second there and here."""
    return rates.frames / rates.ground_fps / rates.control_s


def table_of(videos: Sequence[int], ground_fps: Sequence[float], rates: Rates) -> Iterator[tuple[str, ...]]:
    """Lines of a table, its head first."""
    yield (
        "videos",
        "frames/s on a GPU",
        "GPU hours",
        "CPU core hours",
        "dollars",
        "GPUs that one run can feed",
    )
    for count in videos:
        for fps in ground_fps:
            one = replace(rates, ground_fps=fps)
            found = cost(count, one)
            hours = f"{found.gpu_hours:,.1f}", f"{found.cpu_hours:,.1f}"
            yield f"{count:,}", f"{fps:g}", *hours, f"{found.usd:,.0f}", f"{most_gpus(one):,.0f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    known = Rates()
    parser.add_argument("--videos", type=int, nargs="+", default=[5237, 1_000_000])
    parser.add_argument("--frames", type=float, default=known.frames, help="sampled frames of a video")
    parser.add_argument("--ground-fps", type=float, nargs="+", default=[3, 7.6], help="on a GPU; 7.6: an H100")
    parser.add_argument("--decode-ms", type=float, default=1000 * known.decode_s, help="CPU time of a sampled frame")
    parser.add_argument("--control-ms", type=float, default=1000 * known.control_s, help="CPU time of Ray for a video")
    parser.add_argument("--tasks-ms", type=float, default=1000 * known.tasks_s, help="CPU time of its steps' processes")
    parser.add_argument("--usd-gpu-hour", type=float, default=known.usd_gpu_hour, help="assumed")
    parser.add_argument("--usd-cpu-hour", type=float, default=known.usd_cpu_hour, help="of a core; assumed")
    args = parser.parse_args(arguments)
    rates = Rates(
        frames=args.frames,
        decode_s=args.decode_ms / 1000,
        control_s=args.control_ms / 1000,
        tasks_s=args.tasks_ms / 1000,
        usd_gpu_hour=args.usd_gpu_hour,
        usd_cpu_hour=args.usd_cpu_hour,
    )
    head, *lines = table_of(args.videos, args.ground_fps, rates)
    table = Table(*head, title="What a run needs beside the language model, storage and transfer")
    for line in lines:
        table.add_row(*line)
    Console().print(table)


if __name__ == "__main__":
    main()
