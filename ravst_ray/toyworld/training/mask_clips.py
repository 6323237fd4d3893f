"""Training clips of the tiny segmenter: runs of toy frames with the mask of every object."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ravst_ray.toyworld.hard import TRAITS, hard_scene, without_cuts
from ravst_ray.toyworld.scene import SIZE_PX, random_scene, render
from ravst_ray.toyworld.training.samples import TRAINING_SEED, roughen, shrink


@dataclass(frozen=True)
class Clip:
    """Frames about a second apart, at 128 x 128.

    ``images`` uint8 ``[T, 3, 128, 128]``; ``masks`` uint8 ``[T, N, 128, 128]``, coverage in quarters (0-4);
    ``boxes`` float ``[T, N, 4]`` xyxy in pixels of the 128 x 128 frame; ``seen`` bool ``[T, N]``.
    """

    images: np.ndarray
    masks: np.ndarray
    boxes: np.ndarray
    seen: np.ndarray

    def mirrored(self) -> Clip:
        """Left and right swapped."""
        boxes = self.boxes.copy()
        boxes[..., [0, 2]] = self.images.shape[-1] - boxes[..., [2, 0]]
        return replace(self, images=self.images[..., ::-1].copy(), masks=self.masks[..., ::-1].copy(), boxes=boxes)


def make_clip(rng: np.random.Generator, frames: int = 8, hard_share: float = 0.0) -> Clip:
    """A clip of a new scene, starting anywhere in it, with 0.6 to 1.4 s between its frames.

    With the probability ``hard_share`` it is a hard scene without its cuts: there the memory starts anew.
    """
    if hard_share and rng.random() < hard_share:
        scene = without_cuts(hard_scene(rng, int(rng.integers(len(TRAITS)))))
        step_s = float(rng.uniform(0.6, min(1.4, scene.duration_s / frames)))
    else:
        step_s = float(rng.uniform(0.6, 1.4))
        scene = random_scene(rng, duration_s=float(rng.uniform(frames * step_s, 20)))
    start_s = float(rng.uniform(0, scene.duration_s - (frames - 1) * step_s))
    images, masks, boxes, seen = [], [], [], []
    for t in range(frames):
        moment = render(scene, start_s + t * step_s)
        images.append(shrink(roughen(moment.image, rng)))
        half = SIZE_PX // 2
        masks.append(moment.masks_N.reshape(-1, half, 2, half, 2).sum((2, 4)).astype(np.uint8))
        boxes.append([box or (0.0, 0.0, 0.0, 0.0) for box in moment.boxes_N])
        seen.append([box is not None for box in moment.boxes_N])
    return Clip(np.stack(images), np.stack(masks), np.array(boxes, np.float32) / 2, np.array(seen))


class ClipPool:
    """Endless clips: one is painted anew every other batch, the rest are drawn from those painted before."""

    def __init__(self, seed: int, first: int = 150, limit: int = 1_500, hard_share: float = 0.0):
        self.rng = np.random.default_rng([TRAINING_SEED, 7, seed])
        self.hard_share = hard_share
        self.clips = [make_clip(self.rng, hard_share=hard_share) for _ in range(first)]
        self.limit, self._painted = limit, first

    def batch(self, size: int) -> list[Clip]:
        """``size`` clips, half of them mirrored."""
        if self.rng.random() < 0.5:
            clip = make_clip(self.rng, hard_share=self.hard_share)
            if len(self.clips) < self.limit:
                self.clips.append(clip)
            else:
                self.clips[self._painted % self.limit] = clip
            self._painted += 1
        picked = [self.clips[int(i)] for i in self.rng.integers(len(self.clips), size=size)]
        return [clip.mirrored() if self.rng.random() < 0.5 else clip for clip in picked]
