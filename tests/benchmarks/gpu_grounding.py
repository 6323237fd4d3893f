"""Grounding on one card: time and memory of detector and segmenter by dtype, batch and number of objects.

    python tests/benchmarks/gpu_grounding.py [--out FILE.json] [--dtypes bfloat16 float16 float32] [--budget-s 330]
    python tests/benchmarks/gpu_grounding.py --device cpu --tiny      # a dry run

The models have the true sizes (Grounding DINO base, SAM 2.1 hiera-large) and random weights: time and memory are those
of the published ones, what they find means nothing. So the detector runs in full and its boxes are put in by hand.
`ravst_ray/annotate/cards.py` holds the numbers that come out.
"""

from __future__ import annotations

import argparse
import gc
import io
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

from ravst_ray.annotate.grounding import Ground
from ravst_ray.config.annotate import GroundingConfig
from ravst_ray.grounding.grounding_dino import GroundingDino, build_prompts
from ravst_ray.grounding.protocols import Detection
from ravst_ray.grounding.sam2 import Sam2Video
from ravst_ray.records import Event, EventAnnotation, Frames, SceneObject, Video, VideoItem, VideoMeta
from tests import tiny_models

NAMES = ("red drum", "blue bell", "green ball")
BATCHES = (1, 4, 8, 16)
OBJECTS = (1, 2, 4, 8, 14)
ITEM_FRAMES = 25
WIDTH, HEIGHT = 1024, 576
GIB = 2**30
BEGUN = time.perf_counter()


def say(text: str) -> None:
    """A line of progress with the seconds since the start."""
    print(f"[{time.perf_counter() - BEGUN:6.1f} s] {text}", flush=True)


def scene_box(number: int, count: int, frame: int) -> tuple[float, float, float, float]:
    """Object ``number`` of ``count`` on a grid, drifting to the right."""
    columns = max(1, round(count**0.5 * 1.3))
    rows = -(-count // columns)
    x = (number % columns + 0.2) * WIDTH / columns + 2.0 * frame
    y = (number // columns + 0.2) * HEIGHT / rows
    return x, y, min(x + 0.6 * WIDTH / columns, WIDTH - 1.0), y + 0.6 * HEIGHT / rows


def scene(count: int, frame: int) -> np.ndarray:
    """A frame ``[H, W, 3]``: noise, a slope of brightness, and the objects as plain boxes."""
    rng = np.random.default_rng(frame)
    picture = rng.integers(0, 60, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    picture += np.linspace(0, 120, WIDTH, dtype=np.uint8)[None, :, None]
    for number in range(count):
        x1, y1, x2, y2 = (round(value) for value in scene_box(number, count, frame))
        picture[y1:y2, x1:x2] = (250, 25 * (number % 10), 10 * number)
    return picture


class PutIn:
    """A detector that runs another one in full, and then says that every name is where the scene has it."""

    def __init__(self, detector: GroundingDino, step: int):
        self._detector = detector
        self._step = step
        self._frame = 0

    def detect(self, frames_T: Sequence[np.ndarray], names: Sequence[str]) -> list[list[Detection]]:
        """One detection a name and frame."""
        self._detector.detect(frames_T, names)
        found_T = []
        for _ in frames_T:
            boxes = [scene_box(number, len(names), self._frame) for number in range(len(names))]
            found_T.append([Detection(number, box, 0.9) for number, box in enumerate(boxes)])
            self._frame += self._step
        return found_T


class Card:
    """Clock and memory of the device; on a CPU all memory is 0."""

    def __init__(self, device: str):
        self.cuda = device != "cpu"

    def sync(self) -> None:
        """Wait until the card has done what it was given."""
        if self.cuda:
            torch.cuda.synchronize()

    def fresh(self) -> None:
        """Give memory back that nothing needs, and count peaks from here."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peaks(self) -> dict[str, float]:
        """Highest memory since :meth:`fresh`, of tensors and as taken from the card."""
        if not self.cuda:
            return {"peak_gib": 0.0, "reserved_gib": 0.0}
        peak, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
        return {"peak_gib": round(peak / GIB, 3), "reserved_gib": round(reserved / GIB, 3)}

    def beside_tensors_gib(self) -> float:
        """What the card has in use beside this process's tensors and their cache: the CUDA context."""
        if not self.cuda:
            return 0.0
        free, total = torch.cuda.mem_get_info()
        return round((total - free - torch.cuda.memory_reserved()) / GIB, 3)

    def median_s(self, call: Callable[[], Any], repeats: int, warm_up: int = 1) -> float:
        """Median seconds of a call, the card waited for."""
        taken_s = []
        for number in range(warm_up + repeats):
            self.sync()
            started = time.perf_counter()
            call()
            self.sync()
            if number >= warm_up:
                taken_s.append(time.perf_counter() - started)
        return statistics.median(taken_s)


def wake(model: torch.nn.Module) -> None:
    """Fill what starts at zero (box heads, gates between text and picture), alike for every dtype."""
    made = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, values in model.named_parameters():
            if "bbox_embed" in name and not values.any():
                values.copy_(0.05 * torch.randn(values.shape, generator=made))
            elif name.endswith(("vision_param", "text_param")):
                values.fill_(0.3)


def bytes_of(model: torch.nn.Module) -> int:
    """Bytes of parameters and buffers."""
    return sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))


def bench_detector(detector: GroundingDino, card: Card) -> list[dict[str, float]]:
    """Milliseconds a frame and memory, by frames at once."""
    rows = []
    for batch in BATCHES:
        frames = [scene(len(NAMES), number) for number in range(batch)]
        detector.batch_frames = batch
        card.fresh()
        repeats = 5 if batch < 8 else 3
        whole_s = card.median_s(partial(detector.detect, frames, NAMES), repeats)
        peaks = card.peaks()
        image_s = card.median_s(
            lambda frames=frames: detector.processor.image_processor(frames, return_tensors="pt"), 2
        )
        if detector.batch_frames != batch:
            say(f"  {batch} frames at once don't fit")
            break
        ms = {"ms_frame": 1000 * whole_s / batch, "of_it_image_processor_ms": 1000 * image_s / batch}
        rows.append({"batch_frames": batch} | {key: round(value, 2) for key, value in ms.items()} | peaks)
        say(f"  detector {rows[-1]}")
    return rows


def bench_segmenter(segmenter: Sam2Video, card: Card) -> list[dict[str, float]]:
    """Milliseconds a frame by objects that are followed, and of prompting as many boxes."""
    rows = []
    for count in OBJECTS:
        card.fresh()
        memory = segmenter.memory()
        memory.advance(scene(count, 0))
        boxes = [scene_box(number, count, 0) for number in range(count)]
        for number, candidate in enumerate(memory.segment(boxes)):
            memory.adopt(number, candidate)
        pictures = [scene(count, number) for number in range(1, 14)]
        follow_s = card.median_s(map(memory.advance, pictures).__next__, repeats=5, warm_up=8)
        prompt_s = card.median_s(partial(memory.segment, boxes), repeats=3)
        ms = {"ms_frame": 1000 * follow_s, "ms_prompts": 1000 * prompt_s}
        rows.append({"objects": count} | {key: round(value, 2) for key, value in ms.items()} | card.peaks())
        say(f"  segmenter {rows[-1]}")
    return rows


def item() -> VideoItem:
    """A video of ``ITEM_FRAMES`` seconds with one event and three objects."""
    times_s = tuple(float(second) for second in range(ITEM_FRAMES))
    jpegs = []
    for number in range(ITEM_FRAMES):
        buffer = io.BytesIO()
        Image.fromarray(scene(len(NAMES), number)).save(buffer, "JPEG", quality=95)
        jpegs.append(buffer.getvalue())
    event = Event(event_num=0, label="drumming", start_s=0.0, end_s=ITEM_FRAMES - 1.0)
    annotation = EventAnnotation(event, tuple(SceneObject(name, True) for name in NAMES), times_s)
    return VideoItem(
        Video("made", "made.mp4", duration_s=float(ITEM_FRAMES), events=(event,)),
        meta=VideoMeta(float(ITEM_FRAMES), 25.0, WIDTH, HEIGHT, has_audio=True, decoder="none"),
        frames=Frames(times_s, WIDTH, HEIGHT, tuple(jpegs)),
        annotations=(annotation,),
    )


def bench_ground(detector: GroundingDino, segmenter: Sam2Video, config: GroundingConfig, card: Card) -> dict[str, Any]:
    """The whole step on one video, after one that warms up."""
    video = item()
    detector.batch_frames = config.batch_frames
    card.fresh()
    done: list[VideoItem] = []

    def once() -> None:
        done.append(Ground(PutIn(detector, config.detect_every), segmenter, config).process(video))

    taken_s = card.median_s(once, repeats=1)
    tracks = done[-1].annotations[0].tracks
    boxes = sum(len(track.times_s) for track in tracks)
    row = {
        "frames": ITEM_FRAMES,
        "frames_per_s": round(ITEM_FRAMES / taken_s, 2),
        "tracks": len(tracks),
        "boxes": boxes,
    }
    say(f"  ground {row | card.peaks()}")
    return row | card.peaks()


def look(detector: GroundingDino, segmenter: Sam2Video) -> dict[str, np.ndarray]:
    """What the models give for fixed frames: to compare dtypes. Boxes are centre and size in [0, 1]."""
    frames = [scene(len(NAMES), number) for number in range(6)]
    images = detector.processor.image_processor(images=frames[:2], return_tensors="pt")
    prompt = build_prompts(NAMES, detector.processor.tokenizer, detector.model.config.max_text_len)[0]
    ids = torch.tensor([prompt.token_ids], device=detector.device).repeat(2, 1)
    with torch.inference_mode():
        out = detector.model(
            pixel_values=images["pixel_values"].to(detector.device, detector.dtype),
            pixel_mask=images["pixel_mask"].to(detector.device),
            input_ids=ids,
            token_type_ids=torch.zeros_like(ids),
            attention_mask=torch.ones_like(ids),
        )
    memory = segmenter.memory()
    memory.advance(frames[0])
    for number, candidate in enumerate(memory.segment([scene_box(n, 3, 0) for n in range(3)])):
        memory.adopt(number, candidate)
    seen = [memory.advance(frame) for frame in frames[1:]]
    return {
        "boxes": out.pred_boxes.float().cpu().numpy(),
        "probs": out.logits.float().sigmoid().cpu().numpy()[..., : len(prompt.token_ids)],
        "proposals": out.enc_outputs_coord_logits.float().sigmoid().cpu().numpy(),
        "masks": np.stack([one.mask for at in seen for one in at.values()]),
        "mask_scores": np.array([one.score for at in seen for one in at.values()]),
    }


def compare(given: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> dict[str, Any]:
    """A dtype against float32. Queries may change places, so each box is held against the nearest one.

    ``proposal_px`` compares the boxes before the best 900 are chosen, place by place; pixels of a frame 1920 wide.
    """
    finite = all(np.isfinite(given[key]).all() for key in ("boxes", "probs", "mask_scores"))
    nearest = [
        np.abs(mine[:, None] - theirs[None]).mean(axis=-1).min(axis=1)
        for mine, theirs in zip(given["boxes"], truth["boxes"], strict=True)
    ]
    moved = 1920 * np.abs(given["proposals"] - truth["proposals"])[..., 0]
    area = given["masks"].mean(), truth["masks"].mean()
    return {
        "finite": bool(finite),
        "nearest_box_mean_abs": float(np.mean(nearest)),
        "proposal_px": {"mean": float(np.nanmean(moved)), "max": float(np.nanmax(moved))},
        "best_prob_mean_abs": float(np.abs(given["probs"].max(-1) - truth["probs"].max(-1)).mean()),
        "mask_pixels_that_differ": float((given["masks"] != truth["masks"]).mean()),
        "mask_share": [float(share) for share in area],
        "mask_score_mean_abs": float(np.abs(given["mask_scores"] - truth["mask_scores"]).mean()),
    }


def save_models(folder: Path, tiny: bool) -> tuple[str, str]:
    """Detector and segmenter with random weights."""
    if tiny:
        return tiny_models.save_detector(folder / "detector"), tiny_models.save_segmenter(folder / "segmenter")
    (folder / "segmenter").mkdir(parents=True)
    return tiny_models.save_full_detector(folder / "detector"), tiny_models.save_full_segmenter(folder / "segmenter")


def bench_dtype(places: tuple[str, str], dtype: str, device: str, card: Card, keep: Callable[[dict], None]) -> dict:
    """All measurements of one dtype; returns what :func:`look` saw."""
    row: dict[str, Any] = {}
    card.fresh()
    detector = GroundingDino(places[0], device=device, dtype=dtype, box_threshold=0.999, text_threshold=0.999)
    wake(detector.model)
    segmenter = Sam2Video(places[1], device=device, dtype=dtype)
    sizes = {"detector": detector.model, "segmenter": segmenter.model}
    row["parameters_millions"] = {
        key: round(sum(p.numel() for p in model.parameters()) / 1e6, 1) for key, model in sizes.items()
    }
    row["weights_gib"] = {key: round(bytes_of(model) / GIB, 3) for key, model in sizes.items()}
    row["loaded"] = card.peaks()
    say(f"{dtype}: loaded, {row['parameters_millions']} M parameters, {row['weights_gib']} GiB, {row['loaded']}")
    seen = look(detector, segmenter)
    row["context_gib"] = card.beside_tensors_gib()
    keep(row)
    config = GroundingConfig(detector=places[0], segmenter=places[1], device=device, dtype=dtype, batch_frames=8)
    row["ground"] = bench_ground(detector, segmenter, config, card)
    keep(row)
    row["detector"] = bench_detector(detector, card)
    keep(row)
    row["segmenter"] = bench_segmenter(segmenter, card)
    row["context_gib"] = max(row["context_gib"], card.beside_tensors_gib())
    keep(row)
    return seen


def table(result: dict[str, Any]) -> str:
    """The measurements as Markdown."""
    lines = [f"### {result['device']}, torch {result['torch']}, transformers {result['transformers']}", ""]
    for title, key, first in (("Detector", "detector", "batch_frames"), ("Segmenter", "segmenter", "objects")):
        lines += [f"{title}, ms a frame (peak GiB of tensors, both models' weights included)", ""]
        rows = {dtype: {one[first]: one for one in row.get(key, [])} for dtype, row in result["dtypes"].items()}
        lines += [f"| {first} | " + " | ".join(rows) + " |", "|" + " --- |" * (len(rows) + 1)]
        for size in BATCHES if key == "detector" else OBJECTS:
            cells = []
            for found in rows.values():
                one = found.get(size)
                prompts = f" + {one['ms_prompts']:.0f} prompting" if one and "ms_prompts" in one else ""
                cells.append(f"{one['ms_frame']:.1f}{prompts} ({one['peak_gib']:.2f})" if one else "")
            lines.append(f"| {size} | " + " | ".join(cells) + " |")
        lines.append("")
    lines += ["| dtype | weights GiB | context GiB | Ground frames/s (peak) | against float32 |", "|" + " --- |" * 5]
    for dtype, row in result["dtypes"].items():
        ground, same = row.get("ground", {}), row.get("compared", {})
        weights = " + ".join(f"{value:.2f}" for value in row["weights_gib"].values())
        how = (
            f"finite {same['finite']}, proposals {same['proposal_px']['mean']:.1f} px of 1920 on average, "
            if same
            else ""
        )
        how += f"masks {100 * same['mask_pixels_that_differ']:.2f}% of pixels" if same else ""
        speed = f"{ground['frames_per_s']} ({ground['peak_gib']:.2f})" if ground else ""
        lines.append(f"| {dtype} | {weights} | {row['context_gib']} | {speed} | {how} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print the tables, write the JSON after every part so that a run that is cut off leaves something."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="tiny models, for a dry run")
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float16", "float32"])
    parser.add_argument("--budget-s", type=float, default=330.0, help="no dtype is begun after three quarters of this")
    parser.add_argument("--out", type=Path, help="the numbers as JSON")
    args = parser.parse_args()
    card = Card(args.device)
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if card.cuda else platform.processor() or "CPU",
        "card_gib": round(torch.cuda.get_device_properties(0).total_memory / GIB, 2) if card.cuda else 0.0,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "frame_px": [WIDTH, HEIGHT],
        "dtypes": {},
    }

    def keep(dtype: str, row: dict[str, Any]) -> None:
        result["dtypes"][dtype] = row
        if args.out:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(result, indent=1) + "\n")

    say(f"{result['device']}, {result['card_gib']} GiB")
    seen: dict[str, dict[str, np.ndarray]] = {}
    with tempfile.TemporaryDirectory() as folder:
        places = save_models(Path(folder), args.tiny)
        say("models made and saved")
        for dtype in args.dtypes:
            if time.perf_counter() - BEGUN > 0.75 * args.budget_s:
                say(f"{dtype}: left out, the time is up")
                continue
            try:
                seen[dtype] = bench_dtype(places, dtype, args.device, card, lambda row, dtype=dtype: keep(dtype, row))
            except RuntimeError as error:  # one dtype that an operator lacks must not cost the others
                say(f"{dtype}: {type(error).__name__}: {error}")
    for dtype, outputs in seen.items():
        if "float32" in seen and dtype != "float32":
            keep(dtype, result["dtypes"][dtype] | {"compared": compare(outputs, seen["float32"])})
            say(f"{dtype}: {result['dtypes'][dtype]['compared']}")
    print("\n" + table(result), flush=True)


if __name__ == "__main__":
    main()
