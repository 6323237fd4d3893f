"""Train the tiny SAM 2 from scratch: ``python -m ravst_ray.toyworld.training.train_segmenter --out DIR --minutes 45``.

First single images, then clips that grow longer, with a share of single images throughout.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from ravst_ray.core.geometry import box_iou
from ravst_ray.core.masks import mask_box, without_specks
from ravst_ray.logs import get_logger, setup_logging
from ravst_ray.toyworld.checkpoints import SEGMENTER
from ravst_ray.toyworld.hard import hard_scene, without_cuts
from ravst_ray.toyworld.scene import random_scene, render
from ravst_ray.toyworld.training.mask_clips import Clip, ClipPool
from ravst_ray.toyworld.training.samples import MODEL_SIZE_PX
from ravst_ray.toyworld.training.segmenter import Memory, build_model, build_processor, encode, segmentation_loss, step
from ravst_ray.toyworld.training.trainer import Trainer, add_hard_options, export, started

log = get_logger(__name__)

_MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
_STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
_IMAGES, _CLIPS, _OBJECTS = 8, 4, 3
_UNSEEN_SEED = 78


def clip_length(progress: float, rng: np.random.Generator) -> int:
    """How many frames the next batch has: 1 at first, then 2-5, then 4-8; 30% single images all along."""
    if progress < 0.22 or rng.random() < 0.3:
        return 1
    if progress < 0.4:
        return int(rng.integers(2, 6))
    return int(rng.integers(4, 9))


def to_pixels(images: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
    """uint8 ``[..., 3, H, W]`` to normalised floats, a little brighter or darker."""
    return ((torch.from_numpy(images).float() / 255 * float(rng.uniform(0.92, 1.08))).clamp(0, 1) - _MEAN) / _STD


def jittered(boxes: torch.Tensor, rng: np.random.Generator, share: float = 0.06) -> torch.Tensor:
    """Boxes whose sides are moved by a normal error of ``share`` of the box size."""
    size = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    noise = torch.from_numpy(
        rng.normal(0, share, tuple(boxes.shape)).clip(-2.5 * share, 2.5 * share).astype(np.float32)
    )
    return (boxes + noise * size).clamp(0, MODEL_SIZE_PX)


def batch_loss(model, clips: list[Clip], frames: int, rng: np.random.Generator) -> torch.Tensor:
    """Loss of one batch: objects seen in the first frame are prompted there by their box and followed from memory.

    In a third of the batches they are prompted once more on the way, either starting anew or on top of the memory.
    """
    first = [int(rng.integers(clip.images.shape[0] - frames + 1)) for clip in clips]
    picked = []
    for i, clip in enumerate(clips):
        objects = np.flatnonzero(clip.seen[first[i]])
        picked += [(i, int(j)) for j in rng.permutation(objects)[:_OBJECTS]]
    if not picked:
        return sum(p.sum() for p in model.parameters()) * 0.0
    owner = torch.tensor([i for i, _ in picked])
    images = np.stack([clip.images[s : s + frames] for clip, s in zip(clips, first, strict=True)])
    masks = np.stack([clips[i].masks[first[i] : first[i] + frames, j] for i, j in picked])
    boxes = torch.from_numpy(np.stack([clips[i].boxes[first[i] : first[i] + frames, j] for i, j in picked]))
    seen = torch.from_numpy(np.stack([clips[i].seen[first[i] : first[i] + frames, j] for i, j in picked]))
    truth = torch.from_numpy(masks).float() / 4
    pixels = to_pixels(images, rng)
    memory = Memory(frames=int(rng.choice([max(frames, 2), 16]))) if frames > 1 else None
    again = int(rng.integers(1, frames)) if frames > 1 and rng.random() < 0.33 else -1
    anew = bool(rng.random() < 0.5)
    losses = []
    for t in range(frames):
        levels, position = encode(model, pixels[:, t], owner)
        prompted = t == 0 or (t == again and bool(seen[:, t].all()))
        prompt = jittered(boxes[:, t], rng) if prompted else None
        prediction = step(model, levels, position, memory, t, prompt, fresh=prompted and (t == 0 or anew))
        losses.append(segmentation_loss(prediction, truth[:, t], seen[:, t]))
    return torch.stack(losses).mean()


def evaluate(
    model, processor, scenes: int = 20, frames: int = 8, seed: int = _UNSEEN_SEED, hard: bool = False
) -> dict[str, float]:
    """Mask and box IoU on unseen scenes: of the prompted frame, and of the frames followed from it.

    Boxes of the first frame are prompts as they are; frames are one second apart; only seen objects count; masks lose
    their specks first, as in the pipeline. ``hard``: hard scenes without their cuts.
    """
    rng = np.random.default_rng([seed, 5])
    scores: dict[str, list[float]] = {"prompted_mask": [], "followed_mask": [], "prompted_box": [], "followed_box": []}
    for number in range(scenes):
        scene = without_cuts(hard_scene(rng, number)) if hard else random_scene(rng, duration_s=20.0)
        start = float(rng.uniform(0, scene.duration_s - frames))
        moments = [render(scene, start + t) for t in range(frames)]
        objects = [i for i, box in enumerate(moments[0].boxes_N) if box]
        if not objects:
            continue
        video = np.stack([moment.image for moment in moments])
        session = processor.init_video_session(video=video, inference_device="cpu", dtype=torch.float32)
        # The session empties the list of ids that it is given.
        prompts = [[list(moments[0].boxes_N[i] or ()) for i in objects]]
        processor.add_inputs_to_inference_session(session, frame_idx=0, obj_ids=[*objects], input_boxes=prompts)
        for output in model.propagate_in_video_iterator(session, start_frame_idx=0):
            t, kind = output.frame_idx, "prompted" if output.frame_idx == 0 else "followed"
            masks = processor.post_process_masks([output.pred_masks], [video.shape[1:3]])[0][:, 0].numpy()
            for row, i in enumerate(objects):
                box = moments[t].boxes_N[i]
                if box:
                    mask = without_specks(masks[row])
                    scores[f"{kind}_mask"].append(_iou(mask, moments[t].masks_N[i]))
                    scores[f"{kind}_box"].append(box_iou(mask_box(mask) or (0, 0, 0, 0), box))
    return {key: float(np.mean(values)) for key, values in scores.items()}


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))


def model_card(numbers: dict[str, float], trainer: Trainer, parameters: int) -> str:
    """README.md of the checkpoint."""
    return f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: mask-generation
---
# sam2-tiny-toy

SAM 2 with its memory (transformers' `Sam2VideoModel`) with {parameters / 1e6:.2f} M parameters, trained from scratch on
the toy world of this package: sprites on textured ground. It stands in for `facebook/sam2.1-hiera-large` in the demo
and in the tests, and is loaded by the same code.

- **Data**: clips of random toy scenes, frames 0.6-1.4 s apart, 256 x 256, JPEG-roughened, resized to 128 x 128.
- **Training**: {trainer.step} steps, {trainer.elapsed_s / 60:.0f} min on one (busy) CPU core, AdamW at 1e-3 with cosine
  decay, averaged weights; single images first, then clips of up to 8 frames:
  `python -m ravst_ray.toyworld.training.train_segmenter`
- **Accuracy** on {int(numbers["scenes"])} unseen scenes, 8 frames a second apart, the true boxes of the first given:

| | mask IoU | box IoU |
| --- | --- | --- |
| prompted frame | {numbers["prompted_mask"]:.3f} | {numbers["prompted_box"]:.3f} |
| following 7 frames, from memory alone | {numbers["followed_mask"]:.3f} | {numbers["followed_box"]:.3f} |
"""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for state and log")
    parser.add_argument("--minutes", type=float, default=45.0, help="time budget, earlier runs included")
    parser.add_argument("--resume", action="store_true")
    add_hard_options(parser)
    parser.add_argument("--export", type=Path, default=SEGMENTER, help="where the checkpoint goes")
    args = parser.parse_args()
    setup_logging()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    processor, model = build_processor(), started(build_model(), args.start)
    trainer = Trainer(model, args.out, args.minutes, rate=args.rate, decay=0.995, resume=args.resume)
    parameters = sum(p.numel() for p in model.parameters())
    pool = ClipPool(seed=trainer.step, hard_share=args.hard_share)
    rng = np.random.default_rng([2, trainer.step])

    def publish(scenes: int) -> None:
        numbers = trainer.with_average(lambda: evaluate(model, processor, scenes)) | {"scenes": float(scenes)}
        if args.hard_share:
            hard = trainer.with_average(lambda: evaluate(model, processor, scenes, hard=True))
            numbers |= {f"hard_{key}": value for key, value in hard.items()}
        trainer.note(**numbers)
        trainer.save()
        if numbers["prompted_mask"] > 0.5:
            trainer.with_average(
                lambda: export(model, processor, args.export, model_card(numbers, trainer, parameters))
            )

    losses: list[float] = []
    while not trainer.done:
        frames = clip_length(trainer.progress, rng)
        losses.append(trainer.update(batch_loss(model, pool.batch(_IMAGES if frames == 1 else _CLIPS), frames, rng)))
        if trainer.step % 50 == 0:
            trainer.note(loss=float(np.mean(losses[-50:])))
        if trainer.step % 500 == 0:
            publish(15)
    publish(60)


if __name__ == "__main__":
    main()
