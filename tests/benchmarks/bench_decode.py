"""CPU a sampled frame, by decoder and size of the video, and what seeking wins over reading through.

    python -m tests.benchmarks.bench_decode [--seconds 30] [--folder DIR]

Each decoder runs in its child process as in production. "every" seconds between frames: at 1 there are several
frames between two keyframes, at 12 a keyframe is nearer than the frame before. The files are made once and kept.
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
from ravst_ray.media import pyav_decoder
from ravst_ray.media.decoding import ChildDecoder
from ravst_ray.media.index import index_video

SIZES = {"360p": (640, 360), "720p": (1280, 720), "1080p": (1920, 1080), "4K": (3840, 2160)}
FPS = 25
EVERY_S = (1.0, 12.0)


def make_clip(path: Path, width: int, height: int, seconds: int) -> Path:
    """H.264 with B-frames and a keyframe every 10 s, as on video sites: a moving, noisy texture."""
    rng = np.random.default_rng(0)
    canvas = rng.integers(0, 256, (height // 8 + 64, width // 8 + 64, 3), dtype=np.uint8)
    texture = np.kron(canvas, np.ones((8, 8, 1), np.uint8))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.colorspace = 1  # BT.709; decord isn't given HD that doesn't say
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


def measure(backend: str, path: Path, times_s: list[float], repeats: int) -> tuple[float, str]:
    """CPU seconds a sampled frame in the child process, and the decoder that read."""
    decoder = ChildDecoder(DecodeConfig.model_validate({"backend": backend}))
    decoded = decoder.decode(str(path), times_s[:1])  # the child starts, the file is in the page cache
    assert decoder.pid is not None
    before_s = cpu_seconds(decoder.pid)
    for _ in range(repeats):
        decoded = decoder.decode(str(path), times_s)
    taken_s = cpu_seconds(decoder.pid) - before_s
    decoder.close()
    return taken_s / repeats / len(times_s), decoded.meta.decoder


def measure_walk(path: Path, times_s: list[float], seeking: bool, skipping: bool) -> float:
    """CPU seconds a frame that PyAV reads, when it may seek or not, and may leave out what isn't needed or not."""
    index = index_video(str(path))
    wanted = [number for time_s in times_s if (number := index.shown_at(time_s)) is not None]
    ways = pyav_decoder._SEEKING, pyav_decoder._SKIPPING
    pyav_decoder._SEEKING = ways[0] if seeking else ()
    pyav_decoder._SKIPPING = ways[1] if skipping else ()
    started = time.process_time()
    for _ in pyav_decoder.read_pictures(index, wanted, (1024, 576), 2**30):
        pass
    pyav_decoder._SEEKING, pyav_decoder._SKIPPING = ways
    return (time.process_time() - started) / len(wanted)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=30, help="length of the clips")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "ravst_bench")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    decoders = Table(title=f"CPU ms a sampled frame, {args.seconds} s of H.264 at {FPS} fps ({load})")
    walks = Table(title="PyAV alone: CPU ms a frame")
    for column in ("file", "every", "decord", "pyav"):
        decoders.add_column(column, justify="left" if column == "file" else "right")
    for column in ("file", "every", "reads all", "skips", "seeks", "seeks and skips"):
        walks.add_column(column, justify="left" if column == "file" else "right")
    for size, (width, height) in SIZES.items():
        path = args.folder / f"{size}_{args.seconds}s.mp4"
        if not path.exists():
            make_clip(path.with_suffix(".part.mp4"), width, height, args.seconds).rename(path)
        for every_s in EVERY_S:
            times_s = np.arange(0.5, args.seconds - 0.1, every_s).tolist()
            spent = [measure(backend, path, times_s, args.repeats) for backend in ("auto", "pyav")]
            assert [name.split()[0] for _, name in spent] == ["decord", "pyav"]
            decoders.add_row(size, f"{every_s:g} s", *(f"{1000 * cpu_s:.0f}" for cpu_s, _ in spent))
            ways = [(False, False), (False, True), (True, False), (True, True)]
            taken = [f"{1000 * measure_walk(path, times_s, *way):.0f}" for way in ways]
            walks.add_row(size, f"{every_s:g} s", *taken)
    Console().print(decoders, walks)


if __name__ == "__main__":
    main()
