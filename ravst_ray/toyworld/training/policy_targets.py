"""What every video token of the toy policy should know of its place: a dense target that answers are too thin to teach.

From answers alone the tiny model would need hours to find out that pictures matter. So while it is trained, a head of
its own reads from each video token, after the first layers, which object is there, where it ends, whether it sounds,
and whether its sound begins or ends there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ravst_ray.policy.families.qwen2_5_vl import FRAME_MULTIPLE, TEMPORAL_PATCH
from ravst_ray.records import VideoView
from ravst_ray.toyworld.scene import NAMES, SIZE_PX, Scene
from ravst_ray.toyworld.training.policy import SIDE_PX

_EXTENT = {"ball": (-1.0, -1.0, 1.0, 1.0), "drum": (-1.0, -0.84, 1.0, 0.92), "bell": (-1.0, -0.98, 1.0, 0.98)}
_OWN_SHARE, _CELL_SHARE, _SEEN_SHARE = 0.2, 0.35, 0.15


@dataclass(frozen=True)
class Targets:
    """For each of P video tokens and the 2 frames in it.

    ``names [P, 2]``: 0 for no object, else 1 + its place in ``NAMES``; ``boxes [P, 2, 4]`` in pixels of the frames;
    ``sounding [P, 2]``; ``turning [P, 2]``: 1 where it sounds and didn't a frame before, 2 where it no longer does;
    ``times [P]``: the token's place in time.
    """

    names: torch.Tensor
    boxes: torch.Tensor
    sounding: torch.Tensor
    turning: torch.Tensor
    times: torch.Tensor

    @classmethod
    def join(cls, parts: list[Targets]) -> Targets:
        """Those of several clips, one after the other."""
        fields = ("names", "boxes", "sounding", "turning", "times")
        return cls(*(torch.cat([getattr(part, field) for part in parts]) for field in fields))


def scene_targets(scene: Scene, view: VideoView) -> Targets:
    """The targets of a scene as it is shown; what covers an object is left out of account."""
    across, down = view.width // FRAME_MULTIPLE, view.height // FRAME_MULTIPLE
    frames = view.frames + view.frames % TEMPORAL_PATCH  # the processor repeats the last frame of an odd number
    names = np.zeros((frames, down, across), np.int64)
    boxes = np.zeros((frames, down, across, 4), np.float32)
    sounding = np.zeros((frames, down, across), np.float32)
    turning = np.zeros((frames, down, across), np.int64)
    scale = np.array([view.width, view.height] * 2) / SIZE_PX
    for frame in range(frames):
        time_s = min(frame, view.frames - 1) * view.step_s
        most = np.zeros((down, across))
        for sprite in scene.sprites:
            radius = sprite.radius_px * sprite.scale(time_s)
            centre = np.array(sprite.centre_px(time_s) * 2)
            whole = centre + np.array(_EXTENT[sprite.name.split()[1]]) * radius
            box = np.clip(whole, 0, SIZE_PX)
            if radius < 2 or _area(box) < _SEEN_SHARE * _area(whole):
                continue
            box = box * scale
            shared = _shared(box, across, down)
            here = (shared >= _OWN_SHARE * _area(box)) | (shared >= _CELL_SHARE * FRAME_MULTIPLE**2)
            here &= shared >= 0.8 * most  # later sprites lie in front
            most[here] = shared[here]
            names[frame][here] = 1 + NAMES.index(sprite.name)
            boxes[frame][here] = box
            sounding[frame][here] = sprite.sounds_at(time_s)
            before = frame > 0 and sprite.sounds_at(time_s - view.step_s)
            turning[frame][here] = (sprite.sounds_at(time_s) and not before) + 2 * (
                before and not sprite.sounds_at(time_s)
            )
    grids = frames // TEMPORAL_PATCH
    times = torch.arange(grids).repeat_interleave(across * down)
    names_P, boxes_P, sounding_P, turning_P = (_by_token(values, grids) for values in (names, boxes, sounding, turning))
    return Targets(names_P, boxes_P, sounding_P, turning_P, times)


def _area(box: np.ndarray) -> float:
    return float(np.prod(np.maximum(box[2:] - box[:2], 0)))


def _shared(box: np.ndarray, across: int, down: int) -> np.ndarray:
    """Area that a box has in common with each cell, ``[down, across]``."""
    columns, rows = np.arange(across) * FRAME_MULTIPLE, np.arange(down) * FRAME_MULTIPLE
    wide = np.clip(np.minimum(box[2], columns + FRAME_MULTIPLE) - np.maximum(box[0], columns), 0, None)
    high = np.clip(np.minimum(box[3], rows + FRAME_MULTIPLE) - np.maximum(box[1], rows), 0, None)
    return high[:, None] * wide[None]


def _by_token(values: np.ndarray, grids: int) -> torch.Tensor:
    """``[frames, down, across, …]`` to ``[tokens, 2, …]``."""
    paired = values.reshape(grids, TEMPORAL_PATCH, *values.shape[1:])
    moved = np.moveaxis(paired, 1, 3)
    return torch.from_numpy(np.ascontiguousarray(moved.reshape(-1, TEMPORAL_PATCH, *values.shape[3:])))


class DenseHead(nn.Module):
    """Reads the targets from hidden states; thrown away after training.

    Coordinates and seconds are asked for as the tokens that answers are written in, through those tokens' own
    embeddings: an answer can then be read off what is seen, by one linear map.
    """

    def __init__(self, hidden: int):
        super().__init__()
        self.sizes = [len(NAMES) + 1, 1, 3, 4, 4 * hidden]
        self.norm = nn.RMSNorm(hidden)
        self.frames = nn.Linear(hidden, TEMPORAL_PATCH * sum(self.sizes))
        self.seconds = nn.Linear(hidden, TEMPORAL_PATCH * hidden)

    def loss(
        self, hidden: torch.Tensor, targets: Targets, numbers: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss of ``hidden [P, D]``, and what can be watched: names and sound right, pixels of error.

        Args:
            hidden: states of the video tokens.
            targets: of as many.
            numbers: embeddings of the tokens 0 … ``SIDE_PX``, ``[113, D]``.
        """
        states = self.norm(hidden)
        read_P = self.frames(states).unflatten(-1, (TEMPORAL_PATCH, -1))
        names, sound, turn, boxes, coordinates = read_P.split(self.sizes, -1)
        there = targets.names > 0
        loss = functional.cross_entropy(names.flatten(0, 1), targets.names.flatten())
        seconds = self.seconds(states).unflatten(-1, (TEMPORAL_PATCH, -1)) @ numbers.T
        at = torch.stack([targets.times * TEMPORAL_PATCH + place for place in range(TEMPORAL_PATCH)], dim=1)
        loss = loss + 0.5 * functional.cross_entropy(seconds.flatten(0, 1), at.flatten())
        if not there.any():
            return loss, {}
        truth, middle = targets.boxes[there], 2 * FRAME_MULTIPLE
        read = boxes[there] * FRAME_MULTIPLE + middle
        loss = loss + functional.binary_cross_entropy_with_logits(sound[..., 0][there], targets.sounding[there])
        loss = loss + 0.05 * functional.smooth_l1_loss(read, truth, beta=2.0)
        logits = coordinates[there].unflatten(-1, (4, -1)) @ numbers.T
        loss = loss + 0.5 * functional.cross_entropy(
            logits.flatten(0, 1), truth.round().long().clamp(0, SIDE_PX).flatten()
        )
        turns, wanted = turn[there], targets.turning[there]
        loss = loss + functional.cross_entropy(turns, wanted, weight=torch.tensor([1.0, 3.0, 3.0]))
        seen = {
            "names": float((names.argmax(-1) == targets.names)[there].float().mean()),
            "sounding": float(((sound[..., 0] > 0) == (targets.sounding > 0.5))[there].float().mean()),
            "turning": float((turns.argmax(-1) == wanted)[wanted > 0].float().mean()),
            "error_px": float((read - truth).detach().abs().mean()),
            "token_error_px": float((logits.argmax(-1) - truth).detach().abs().mean()),
        }
        return loss, seen
