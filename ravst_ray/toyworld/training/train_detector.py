"""Train the tiny Grounding DINO: ``python -m ravst_ray.toyworld.training.train_detector --out DIR --minutes 45``."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torchvision.ops import box_convert, box_iou, nms

from ravst_ray.core.matching import best_assignment
from ravst_ray.logs import get_logger, setup_logging
from ravst_ray.toyworld.checkpoints import DETECTOR
from ravst_ray.toyworld.scene import NAMES, render
from ravst_ray.toyworld.training.detector import (
    build_model,
    build_processor,
    detection_loss,
    forward_stages,
    phrase_tokens,
)
from ravst_ray.toyworld.training.samples import FramePool, Sample, any_scene, likely_time
from ravst_ray.toyworld.training.trainer import Trainer, add_hard_options, export, started

log = get_logger(__name__)

_BATCH = 16
_UNSEEN_SEED = 77


def make_prompt(sample: Sample, rng: np.random.Generator) -> list[str]:
    """Most of what can be seen and up to five names of absent things, in random order; never empty."""
    present = [name for name in dict.fromkeys(sample.names) if rng.random() < 0.88]
    absent = [name for name in NAMES if name not in sample.names]
    count = int(rng.integers(0 if present else 1, 6))
    names = present + [str(name) for name in rng.choice(absent, count, replace=False)]
    rng.shuffle(names)
    return names


def dressed(name: str, rng: np.random.Generator) -> str:
    """The name, now and then with an article, as language models write it."""
    return f"a {name}" if rng.random() < 0.08 else name


def batch_loss(model, processor, samples: list[Sample], rng: np.random.Generator) -> torch.Tensor:
    """Loss of one batch, every image with a prompt of its own."""
    prompts = [make_prompt(sample, rng) for sample in samples]
    texts = [". ".join(dressed(name, rng) for name in prompt) + "." for prompt in prompts]
    text = processor.tokenizer(texts, padding=True, return_tensors="pt")
    images = torch.from_numpy(np.stack([sample.image for sample in samples])).float() / 255
    gain = torch.from_numpy(rng.uniform(0.92, 1.08, (len(samples), 1, 1, 1)).astype(np.float32))
    mean, std = (
        torch.tensor(x).view(3, 1, 1)
        for x in (processor.image_processor.image_mean, processor.image_processor.image_std)
    )
    pixels = ((images * gain).clamp(0, 1) - mean) / std
    boxes, tokens = [], []
    for i, (sample, prompt) in enumerate(zip(samples, prompts, strict=True)):
        spans = phrase_tokens(text["input_ids"][i], len(prompt)).float()
        asked = [j for j, name in enumerate(sample.names) if name in prompt]
        boxes.append(box_convert(torch.from_numpy(sample.boxes_N[asked]), "xyxy", "cxcywh"))
        tokens.append(spans[[prompt.index(sample.names[j]) for j in asked]])
    outputs = forward_stages(model, pixel_values=pixels, **text)
    return detection_loss(outputs, text["attention_mask"], boxes, tokens)


def evaluate(
    model, processor, frames: int = 100, seed: int = _UNSEEN_SEED, hard_share: float = 0.0
) -> dict[str, float]:
    """Recall, precision (IoU 0.5, right name) and mean IoU on unseen frames, asked for as the pipeline does it.

    Thresholds 0.4 and 0.3, non-maximum suppression at 0.6; prompts hold what can be seen and two absent names. Several
    instances of a name are matched one-to-one. ``hard_share`` of the frames are of hard scenes.
    """
    rng = np.random.default_rng([seed, 5])
    found = total = claimed = 0
    overlaps: list[float] = []
    for number in range(frames):
        scene = any_scene(rng, hard_share, number)
        moment = render(scene, likely_time(scene, rng))
        truth = [(s.name, box) for s, box in zip(scene.sprites, moment.boxes_N, strict=True) if box]
        absent = [name for name in NAMES if name not in {s.name for s in scene.sprites}]
        names = [
            *dict.fromkeys(name for name, _ in truth),
            *(str(name) for name in rng.choice(absent, 2, replace=False)),
        ]
        inputs = processor(images=moment.image, text=[names], return_tensors="pt")
        result = processor.post_process_grounded_object_detection(
            model(**inputs), threshold=0.4, text_threshold=0.3, target_sizes=[moment.image.shape[:2]]
        )[0]
        kept = nms(result["boxes"], result["scores"], 0.6)
        total += len(truth)
        claimed += len(kept)
        rows = kept.tolist() if truth else []
        fits = box_iou(result["boxes"][rows].reshape(-1, 4), torch.tensor([box for _, box in truth]).reshape(-1, 4))
        for i, row in enumerate(rows):
            for j, (name, _) in enumerate(truth):
                if name != result["text_labels"][row] or fits[i, j] < 0.5:
                    fits[i, j] = 0.0
        matched = best_assignment(fits.tolist())
        overlaps += [float(fits[i, j]) for i, j in matched]
        found += len(matched)
    return {
        "recall": found / max(total, 1),
        "precision": found / max(claimed, 1),
        "mean_iou": float(np.mean(overlaps)) if overlaps else 0.0,
    }


def model_card(numbers: Mapping[str, float], trained: Sequence[str], parameters: int) -> str:
    """README.md of the checkpoint.

    Args:
        numbers: of :func:`evaluate` on plain scenes, and as ``hard_…`` on hard ones.
        trained: what was done, a sentence for each training.
        parameters: how many it has.
    """
    history = "; then ".join(trained)
    return f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: zero-shot-object-detection
---
# grounding-dino-tiny-toy

Grounding DINO (transformers' `GroundingDinoForObjectDetection`) with {parameters / 1e6:.2f} M parameters, trained from
scratch on the toy world of this package. It knows twelve things, {{red, blue, green, yellow}} x {{drum, bell, ball}},
and nothing else; it stands in for `IDEA-Research/grounding-dino-base` in the demo and in the tests, and is loaded by
the same code.

- **Data**: frames of random toy scenes, 256 x 256, JPEG-roughened, resized to 128 x 128; prompts hold absent names too.
- **Training** with AdamW, cosine decay and averaged weights, by
  `python -m ravst_ray.toyworld.training.train_detector`:
  {history}.
- **Accuracy** on {int(numbers["frames"])} unseen frames (thresholds 0.4 / 0.3, NMS at 0.6; a find has the right name
  and an IoU of 0.5 or more): {_accuracy(numbers, "")}{"; of hard scenes: " if "hard_recall" in numbers else ""}\
{_accuracy(numbers, "hard_")}.
"""


def _accuracy(numbers: Mapping[str, float], prefix: str) -> str:
    titles = {"recall": "recall", "precision": "precision", "mean_iou": "mean IoU of finds"}
    found = {title: numbers[prefix + key] for key, title in titles.items() if prefix + key in numbers}
    return ", ".join(f"{title} {value:.3f}" for title, value in found.items())


def trained_before(start: Path | None) -> list[str]:
    """The trainings of the checkpoint that another one starts from, as its card tells them."""
    card = start / "README.md" if start else None
    if card is None or not card.exists():
        return []
    return re.findall(r"\d+ steps of \d+ images[^;.]*", " ".join(card.read_text().split()))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for state and log")
    parser.add_argument("--minutes", type=float, default=45.0, help="time budget, earlier runs included")
    parser.add_argument("--resume", action="store_true")
    add_hard_options(parser)
    parser.add_argument("--export", type=Path, default=DETECTOR, help="where the checkpoint goes")
    args = parser.parse_args()
    setup_logging()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    processor, model = build_processor(args.out / "vocabulary"), started(build_model(), args.start)
    trainer = Trainer(model, args.out, args.minutes, rate=args.rate, decay=0.998, resume=args.resume)
    parameters = sum(p.numel() for p in model.parameters())
    pool = FramePool(seed=trainer.step, hard_share=args.hard_share)
    rng = np.random.default_rng([1, trainer.step])

    before = trained_before(args.start)

    def publish(frames: int) -> None:
        numbers = trainer.with_average(lambda: evaluate(model, processor, frames)) | {"frames": float(frames)}
        if args.hard_share:
            hard = trainer.with_average(lambda: evaluate(model, processor, frames, hard_share=1.0))
            numbers |= {f"hard_{key}": value for key, value in hard.items()}
        trainer.note(**numbers)
        trainer.save()
        now = (
            f"{trainer.step} steps of {_BATCH} images, {trainer.elapsed_s / 60:.0f} min on one (busy) core at "
            f"{args.rate:g}, {args.hard_share:.0%} hard scenes"
        )
        if numbers["recall"] > 0.3:
            card = model_card(numbers, [*before, now], parameters)
            trainer.with_average(lambda: export(model, processor, args.export, card))

    model.train()
    losses: list[float] = []
    while not trainer.done:
        losses.append(trainer.update(batch_loss(model, processor, pool.batch(_BATCH), rng)))
        if trainer.step % 50 == 0:
            trainer.note(loss=float(np.mean(losses[-50:])))
        if trainer.step % 500 == 0:
            publish(60)
    publish(300)


if __name__ == "__main__":
    main()
