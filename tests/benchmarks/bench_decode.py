"""Frames per second decoded at 1 fps by decord and by PyAV, each in its child process as in production.

    python tests/benchmarks/bench_decode.py [--seconds 20] [--folder DIR]

The files are made once and kept in the folder.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from rich.console import Console
from rich.table import Table

from ravst_ray.config.annotate import DecodeConfig
from ravst_ray.core.frame_times import event_times
from ravst_ray.media.decoding import ChildDecoder

SIZES = {"360p": (640, 360), "1080p": (1920, 1080)}
FPS = 25


def make_clip(path: Path, width: int, height: int, seconds: int) -> Path:
    """H.264 with B-frames and a keyframe every 10 s, as on video sites: a moving, noisy texture."""
    rng = np.random.default_rng(0)
    canvas = rng.integers(0, 256, (height // 8 + 64, width // 8 + 64, 3), dtype=np.uint8)
    texture = np.kron(canvas, np.ones((8, 8, 1), np.uint8))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.options = {"preset": "veryfast", "bf": "2", "g": str(10 * FPS)}
        for number in range(seconds * FPS):
            y, x = number % 256, 2 * number % 512
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(texture[y : y + height, x : x + width]), "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used, which tells more than the clock on a busy machine (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(backend: str, path: Path, seconds: int, repeats: int) -> tuple[int, float, float, str]:
    """Sampled frames, seconds of the fastest of the repeats, mean CPU seconds, and the decoder that did it."""
    decoder = ChildDecoder(DecodeConfig(backend=backend))
    times_s = event_times(0.0, seconds - 0.1)
    decoder.decode(str(path), times_s[:1])  # the child starts, the file is in the page cache
    best_s, cpu_before_s = float("inf"), cpu_seconds(decoder.pid)
    for _ in range(repeats):
        started = time.perf_counter()
        decoded = decoder.decode(str(path), times_s)
        best_s = min(best_s, time.perf_counter() - started)
    cpu_s = (cpu_seconds(decoder.pid) - cpu_before_s) / repeats
    decoder.close()
    return len(decoded.frames.times_s), best_s, cpu_s, decoded.meta.decoder


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=20, help="length of the clips")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "ravst_bench")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    table = Table(title=f"Decoding at 1 fps from {args.seconds} s of H.264, {FPS} fps ({load})")
    for column in ("file", "decoder", "frames", "seconds", "frames/s", "x real time", "CPU ms/frame"):
        table.add_column(column, justify="left" if column in ("file", "decoder") else "right")
    for size, (width, height) in SIZES.items():
        path = args.folder / f"{size}_{args.seconds}s.mp4"
        if not path.exists():
            make_clip(path.with_suffix(".part.mp4"), width, height, args.seconds).rename(path)
        for backend in ("decord", "pyav"):
            frames, taken_s, cpu_s, decoder = measure(backend, path, args.seconds, args.repeats)
            speed = f"{args.seconds / taken_s:.1f}"
            cpu = f"{1000 * cpu_s / frames:.0f}"
            table.add_row(size, decoder, str(frames), f"{taken_s:.2f}", f"{frames / taken_s:.1f}", speed, cpu)
    Console().print(table)


if __name__ == "__main__":
    main()
