"""Questions a second of ``ravst make-str``, from stored tracks in TAO's and in KITTI's format.

    python -m tests.benchmarks.bench_make_str --videos 2900 --sequences 21

The goal is 205,000 questions in under 10 minutes on two cores. Tracks are random walks; reading, asking, committing,
compacting and the report are all in the time.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path

from rich.console import Console

from ravst_ray.config.base import load_config
from ravst_ray.config.make_str import MakeStrConfig
from ravst_ray.questions.run import make_str

LABELS = ("person", "dog", "car_(automobile)", "bicycle", "ball", "cup", "bus", "horse", "chair", "backpack")
WIDTH, HEIGHT, SECONDS = 1280, 720, 36


def write_tao(path: Path, videos: int, seed: int = 0) -> Path:
    """Videos of 36 annotated seconds with 3 to 9 tracks that come, wander and go."""
    rng = random.Random(seed)
    data: dict[str, list] = {name: [] for name in ("videos", "images", "tracks", "annotations")}
    data["categories"] = [{"id": number, "name": name} for number, name in enumerate(LABELS)]
    for video in range(videos):
        data["videos"].append({"id": video, "name": f"train/walk/v_{video}", "width": WIDTH, "height": HEIGHT})
        images = [{"id": video * 100 + k, "video_id": video, "frame_index": 30 * k} for k in range(SECONDS)]
        data["images"] += images
        for _ in range(rng.randint(3, 9)):
            track, category = len(data["tracks"]), rng.randrange(len(LABELS))
            data["tracks"].append({"id": track, "category_id": category, "video_id": video})
            x, y = rng.uniform(0, WIDTH - 200), rng.uniform(0, HEIGHT - 200)
            first = rng.randrange(SECONDS // 2) if rng.random() < 0.6 else 0
            for image in images[first : rng.randint(SECONDS // 2 + 2, SECONDS)]:
                x, y = x + rng.gauss(0, 40), y + rng.gauss(0, 20)
                x, y = min(max(x, 0), WIDTH - 100), min(max(y, 0), HEIGHT - 100)
                data["annotations"].append(
                    {"image_id": image["id"], "track_id": track, "video_id": video, "category_id": category}
                    | {"id": len(data["annotations"]), "bbox": [round(x, 1), round(y, 1), 100, 100]}
                )
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def write_kitti(folder: Path, sequences: int, seed: int = 0) -> Path:
    """Sequences of 40 seconds at 10 frames a second in which cars and people pass."""
    rng = random.Random(seed)
    (folder / "label_02").mkdir(parents=True)
    for sequence in range(sequences):
        lines: list[tuple[int, str]] = []
        for track in range(30):
            kind, size = rng.choice((("Car", "1.5 1.7 4.2"), ("Pedestrian", "1.8 0.6 0.8"), ("Cyclist", "1.7 0.6 1.8")))
            x, z, turn = rng.uniform(-12, 12), rng.uniform(8, 60), rng.uniform(-3, 3)
            first = rng.randrange(380)
            for frame in range(first, min(first + rng.randint(20, 120), 400)):
                x, z = x + rng.gauss(0, 0.1), max(z - rng.uniform(-0.1, 0.5), 5)
                middle, half = 620 + 720 * x / z, 700 / z
                if not half < middle < 1241 - half:
                    break  # it leaves the picture
                box = f"{middle - half:.2f} 150.00 {middle + half:.2f} 250.00"
                lines.append((frame, f"{frame} {track} {kind} 0 0 0.1 {box} {size} {x:.2f} 1.6 {z:.2f} {turn:.2f}"))
        text = "\n".join(line for _, line in sorted(lines, key=lambda one: one[0]))
        (folder / "label_02" / f"{sequence:04d}.txt").write_text(text + "\n", encoding="utf-8")
    return folder


def measure(folder: Path, form: str, scenes: Path, *more: str) -> None:
    """One run and its rate."""
    places = [f"input.scenes={scenes}", f"input.format={form}", f"output={folder / f'out_{form}'}"]
    config = load_config(MakeStrConfig, None, [*places, *more])
    started = time.perf_counter()
    summary = make_str(config, Console(quiet=True))
    wall_s = time.perf_counter() - started
    rate = summary["questions"] / wall_s
    found = f"{summary['scenes']['done']} scenes, {summary['questions']} questions in {wall_s:.1f} s"
    print(f"{form}: {found}, {rate:.0f} questions/s: 205,000 in {205_000 / rate / 60:.1f} min")
    print("  ", ", ".join(f"{kind} {count}" for kind, count in summary["kinds"].items()))


def main() -> None:
    """Both formats."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=2900)
    parser.add_argument("--sequences", type=int, default=21)
    parser.add_argument("--per-kind", type=int, default=10)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        per_kind = f"questions.per_kind={args.per_kind}"
        measure(folder, "tao", write_tao(folder / "tao.json", args.videos), per_kind)
        measure(folder, "kitti", write_kitti(folder / "kitti", args.sequences), per_kind)


if __name__ == "__main__":
    main()
