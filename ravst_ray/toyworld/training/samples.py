"""Training data of the tiny models: toy frames as the models will see them after a video file and a resize.

Frames are painted at 256 x 256, roughened by JPEG (4:2:0, as video codecs do) and brought to 128 x 128 by the same
antialiased bilinear resize that the image processors of transformers use. A pool keeps painted frames, so that painting
takes little of a training step; every frame is used new at least once.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from ravst_ray.toyworld.hard import hard_scene
from ravst_ray.toyworld.scene import SIZE_PX, Scene, random_scene, render

MODEL_SIZE_PX = 128
TRAINING_SEED = 20_251_121


@dataclass(frozen=True)
class Sample:
    """One frame at 128 x 128: ``image`` uint8 ``[3, 128, 128]``, names and boxes (xyxy, 0-1) of what can be seen."""

    image: np.ndarray
    names: tuple[str, ...]
    boxes_N: np.ndarray


def shrink(image: np.ndarray) -> np.ndarray:
    """uint8 ``[256, 256, 3]`` to uint8 ``[3, 128, 128]``, as torchvision's antialiased bilinear resize does it."""
    tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]
    size = (MODEL_SIZE_PX, MODEL_SIZE_PX)
    return torch.nn.functional.interpolate(tensor, size, mode="bilinear", antialias=True)[0].numpy()


def roughen(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The image after lossy compression, in most cases."""
    if rng.random() < 0.2:
        return image
    data = io.BytesIO()
    Image.fromarray(image).save(data, "JPEG", quality=int(rng.integers(60, 96)), subsampling=2)
    return np.asarray(Image.open(data))


def any_scene(rng: np.random.Generator, hard_share: float, number: int) -> Scene:
    """Hard scene ``number`` with this probability, else a plain one; with 0 nothing more is drawn than for that."""
    hard = hard_share > 0 and rng.random() < hard_share
    return hard_scene(rng, number) if hard else random_scene(rng)


def likely_time(scene: Scene, rng: np.random.Generator) -> float:
    """A random time of the scene, mostly within an event, since that is where the pipeline looks."""
    events = [event for sprite in scene.sprites for event in sprite.events_s]
    if events and rng.random() < 0.65:
        start, end = events[int(rng.integers(len(events)))]
        return float(rng.uniform(start, end))
    return float(rng.uniform(0, scene.duration_s))


def make_sample(scene: Scene, time_s: float, rng: np.random.Generator) -> Sample:
    """One frame of a scene, ready for training."""
    moment = render(scene, time_s)
    seen = [(sprite.name, box) for sprite, box in zip(scene.sprites, moment.boxes_N, strict=True) if box]
    boxes = np.array([box for _, box in seen], np.float32).reshape(-1, 4) / SIZE_PX
    return Sample(shrink(roughen(moment.image, rng)), tuple(name for name, _ in seen), boxes)


def mirrored(sample: Sample) -> Sample:
    """Left and right swapped."""
    boxes = sample.boxes_N.copy()
    boxes[:, [0, 2]] = 1 - boxes[:, [2, 0]]
    return Sample(sample.image[:, :, ::-1].copy(), sample.names, boxes)


class FramePool:
    """Endless batches: ``fresh`` newly painted frames each, the rest drawn from those painted before.

    Args:
        seed: of everything drawn; two pools of one seed give the same batches.
        fresh: newly painted frames in a batch.
        first: frames painted before the first batch.
        limit: frames kept; older ones are overwritten.
        hard_share: of the scenes, those that are hard ones.
    """

    def __init__(self, seed: int, fresh: int = 4, first: int = 1_000, limit: int = 10_000, hard_share: float = 0.0):
        self.rng = np.random.default_rng([TRAINING_SEED, seed])
        self.hard_share = hard_share
        self.fresh, self.limit = fresh, limit
        self.samples: list[Sample] = []
        self._painted = 0
        while len(self.samples) < first:
            self._paint()

    def _paint(self) -> None:
        scene = any_scene(self.rng, self.hard_share, self._painted)
        for _ in range(4):
            sample = make_sample(scene, likely_time(scene, self.rng), self.rng)
            if len(self.samples) < self.limit:
                self.samples.append(sample)
            else:
                self.samples[self._painted % self.limit] = sample
            self._painted += 1

    def batch(self, size: int) -> list[Sample]:
        """``size`` samples, half of them mirrored."""
        for _ in range(-(-self.fresh // 4)):
            self._paint()
        new = [(self._painted - 1 - i) % self.limit for i in range(self.fresh)]
        old = self.rng.integers(len(self.samples), size=size - self.fresh).tolist()
        picked = [self.samples[i] for i in new + old]
        return [mirrored(sample) if self.rng.random() < 0.5 else sample for sample in picked]
