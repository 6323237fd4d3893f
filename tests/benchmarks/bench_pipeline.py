"""What the pipeline costs: grounded frames per second of the bare models against the whole graph in steady state.

    python tests/benchmarks/bench_pipeline.py [--videos 3] [--seconds 8]

Both ground the same clip again and again with the same random models of 210 M parameters, with as many threads. The
objects are given, so no text is read. The pipeline's rate is taken between its first and its last finished video, so
that its start doesn't count; the bare models run before and after it, because these machines are noisy. Goal: less
than 10% overhead.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ravst_ray.annotate.decode import DecodeFrames
from ravst_ray.annotate.pipeline import stream
from ravst_ray.cluster.start import start_ray
from ravst_ray.config.annotate import AnnotateConfig, DecodeConfig, GroundingConfig
from ravst_ray.core.frame_times import event_times
from ravst_ray.datasets.store import DatasetStore
from ravst_ray.records import Event, SceneObject, Video
from tests.benchmarks.bench_decode import make_clip
from tests.benchmarks.bench_grounding import NAMES, bare, bench_step, load, model_config


def bare_rate(clip: Path, seconds: int, videos: int, config: GroundingConfig) -> float:
    """Frames per second of decoding and models in this process."""
    import torch

    torch.set_num_threads(1)
    detector, segmenter = load(config)
    times_s = event_times(0.0, seconds - 0.1)
    bare(detector, segmenter, clip, times_s[:2], config)
    started = time.perf_counter()
    frames = sum(bare(detector, segmenter, clip, times_s, config) for _ in range(videos))
    return frames / (time.perf_counter() - started)


def pipeline_rate(clip: Path, seconds: int, videos: int, config: GroundingConfig) -> float:
    """Frames per second of the Ray Data graph between its first and its last finished video."""
    named = tuple(SceneObject(name, audible=True) for name in NAMES)
    event = Event(1, 0.0, seconds - 0.1, "drum beating", given_objects=named)
    pools = {"decode": {"num_cpus": 0.25}, "llm": {"num_cpus": 0.25}, "ground": {"num_cpus": 1}}
    steps = {
        "decode": partial(DecodeFrames, DecodeConfig()),
        "ground": partial(bench_step, config),
    }
    with tempfile.TemporaryDirectory() as folder:
        whole = AnnotateConfig(input={"annotations": "-", "videos": "-"}, output=folder, actors=pools)
        DatasetStore(folder).prepare()
        items = [Video(f"v{number}", str(clip), float(seconds), (event,)) for number in range(videos + 1)]
        finished = []
        for row in stream(whole, items, steps):
            assert row["reason"] is None, row
            finished.append((time.perf_counter(), row["frames"]))
    return sum(frames for _, frames in finished[1:]) / (finished[-1][0] - finished[0][0])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=8, help="length of the clip")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "ravst_bench")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    clip = args.folder / f"360p_{args.seconds}s.mp4"
    if not clip.exists():
        make_clip(clip.with_suffix(".part.mp4"), 640, 360, args.seconds).rename(clip)
    config = model_config(args.folder)
    start_ray()
    runs = (bare_rate, pipeline_rate, bare_rate)
    before, piped, after = (run(clip, args.seconds, args.videos, config) for run in runs)
    mean = (before + after) / 2
    title = f"Pipeline against bare models (load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)"
    table = Table("", "frames/s", "of bare", title=title)
    table.add_row("bare models and decoding, before", f"{before:.3f}", "")
    table.add_row("pipeline, steady state", f"{piped:.3f}", f"{piped / mean:.1%}")
    table.add_row("bare models and decoding, after", f"{after:.3f}", "")
    Console().print(table)


if __name__ == "__main__":
    main()
