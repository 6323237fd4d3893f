"""Grounded frames per second of the bare models, with decoding, in one process without Ray: what a pipeline is held to.

    python tests/benchmarks/bench_grounding.py [--videos 3] [--seconds 12] [--threads 1] [--folder DIR]

The models are the real architectures with random weights, 210 M parameters together, on smaller pictures. What they
find means nothing, so the three best boxes of a frame are followed, whatever their scores.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from ravst_ray.annotate.grounding import Ground
from ravst_ray.annotate.tracking import DetectedMask, Tracker, TrackingRules
from ravst_ray.config.annotate import GroundingConfig
from ravst_ray.core.frame_times import event_times
from ravst_ray.grounding.protocols import Detection, Detector, Segmenter

NAMES = ("red drum", "blue bell")
OBJECTS = 3
FPS = 25


class BestBoxes:
    """A detector that gives the best boxes of another one, and no more."""

    def __init__(self, detector: Detector):
        self.detector = detector

    def detect(self, frames_T: Sequence[np.ndarray], names: Sequence[str]) -> list[list[Detection]]:
        """The best boxes of each frame."""
        return [found[:OBJECTS] for found in self.detector.detect(frames_T, names)]


def model_config(folder: Path) -> GroundingConfig:
    """Models in ``folder``, saved there on first use."""
    from tests.tiny_models import save_medium_detector, save_medium_segmenter

    places = {"detector": folder / "detector", "segmenter": folder / "segmenter"}
    for place, save in zip(places.values(), (save_medium_detector, save_medium_segmenter), strict=True):
        if not (place / "processor_config.json").exists():
            save(place)
    names = {key: str(place) for key, place in places.items()}
    return GroundingConfig(**names, box_threshold=0.0, text_threshold=0.0, match_iou=0.0, detect_every=2)


def load(config: GroundingConfig) -> tuple[BestBoxes, Segmenter]:
    """The models of a configuration."""
    from ravst_ray.grounding.grounding_dino import GroundingDino
    from ravst_ray.grounding.sam2 import Sam2Video

    detector = GroundingDino(config.detector, box_threshold=0.0, text_threshold=0.0, batch_frames=config.batch_frames)
    return BestBoxes(detector), Sam2Video(config.segmenter)


def bench_step(config: GroundingConfig) -> Ground:
    """The grounding step with these models: the factory that a pipeline is given for stage ``ground``."""
    return Ground(*load(config), config)


def bare(
    detector: Detector, segmenter: Segmenter, path: Path, times_s: Sequence[float], config: GroundingConfig
) -> int:
    """Decode one file with decord and ground it, frames straight from one to the other; gives the frames grounded."""
    import decord

    pictures = list(decord.VideoReader(str(path), num_threads=1).get_batch([round(t * FPS) for t in times_s]).asnumpy())
    due = range(0, len(pictures), config.detect_every)
    found_at = dict(zip(due, detector.detect([pictures[i] for i in due], NAMES), strict=True))
    memory, tracker = segmenter.memory(), Tracker(TrackingRules(config.match_iou, config.keep_score, config.max_missed))
    for number, picture in enumerate(pictures):
        masks = memory.advance(picture)
        if number not in found_at:
            tracker.follow(number, masks)
            continue
        found = found_at[number]
        candidates = memory.segment([one.box_xyxy_px for one in found])
        pairs = zip(found, candidates, strict=True)
        seen = [DetectedMask(one.phrase, one.box_xyxy_px, one.score, candidate.seen) for one, candidate in pairs]
        update = tracker.update(number, masks, seen)
        for track_id, index in update.adopted.items():
            memory.adopt(track_id, candidates[index])
        for track_id in update.forgotten:
            memory.forget(track_id)
    return len(pictures)


def main() -> None:
    """Print the table."""
    import torch

    from tests.benchmarks.bench_decode import make_clip

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=12, help="length of the clip")
    parser.add_argument("--threads", type=int, default=1, help="as many as the pipeline's grounding actor has CPUs")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "ravst_bench")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.folder.mkdir(parents=True, exist_ok=True)
    clip = args.folder / f"360p_{args.seconds}s.mp4"
    if not clip.exists():
        make_clip(clip.with_suffix(".part.mp4"), 640, 360, args.seconds).rename(clip)
    config = model_config(args.folder)
    detector, segmenter = load(config)
    times_s = event_times(0.0, args.seconds - 0.1)
    bare(detector, segmenter, clip, times_s[:2], config)  # first calls allocate
    started = time.perf_counter()
    frames = sum(bare(detector, segmenter, clip, times_s, config) for _ in range(args.videos))
    taken_s = time.perf_counter() - started
    title = f"Bare models, {args.threads} threads (load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)"
    table = Table("videos", "frames", "seconds", "frames/s", title=title)
    table.add_row(str(args.videos), str(frames), f"{taken_s:.1f}", f"{frames / taken_s:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
