"""The towers that make features of pictures and sound, and the features that are kept.

A frozen tower stands beside its model (:func:`set_aside`): DDP, FSDP2, the optimizer and checkpoints don't see it, it
is whole on every worker, in the precision that engines have it in, and sees each clip once.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from ravst_ray.media.clips import Clip
from ravst_ray.policy.families.protocols import LearnerSide, Tensors

GIB = 2**30


def set_aside(model: Any, paths: Sequence[str], dtype: torch.dtype) -> None:
    """Take towers out of a model's registered modules; under their paths they stay.

    Args:
        model: bare.
        paths: from the model on, as in :attr:`LearnerSide.towers`.
        dtype: that the towers get.
    """
    for path in paths:
        above, _, name = path.rpartition(".")
        parent = model.get_submodule(above)
        tower = parent._modules.pop(name)
        parent.__dict__[name] = tower.requires_grad_(False).eval()
        for weight in tower.parameters():  # not the buffers: rotary frequencies stay float32, as where it is loaded so
            weight.data = weight.data.to(dtype)


def towers_aside(model: Any, paths: Sequence[str]) -> dict[str, nn.Module]:
    """Those of the towers that :func:`set_aside` took out, by path."""
    found = {}
    for path in paths:
        above, _, name = path.rpartition(".")
        parent = model.get_submodule(above)
        if name not in parent._modules:
            found[path] = parent.__dict__[name]
    return found


def share_towers(model: Any, other: Any, paths: Sequence[str]) -> None:
    """Set a model's towers aside, and put those of another, where they stand aside, in their place."""
    for path, tower in towers_aside(other, paths).items():
        above, _, name = path.rpartition(".")
        parent = model.get_submodule(above)
        parent._modules.pop(name)
        parent.__dict__[name] = tower


class Sight:
    """What a model is given of clips.

    Args:
        side: of the model's family.
        processor: the model's.
        frozen: whether the towers stay as they are; then each clip's features are kept, else its pixels are.
        limit_bytes: of what is kept, in main memory; what was used longest ago goes.
    """

    def __init__(self, side: LearnerSide, processor: Any, frozen: bool, limit_bytes: float):
        self.side, self.processor, self.frozen = side, processor, frozen
        self.limit_bytes = limit_bytes
        self.kept_bytes = 0
        self._kept: OrderedDict[Any, Tensors] = OrderedDict()

    def see(self, model: Any, clips: Sequence[Clip], device: torch.device) -> tuple[list[Tensors], list[Tensors]]:
        """Features of clips, or, where the towers are sharded, what these are given themselves.

        A sharded tower has its weights together only inside the wrapped model's forward; it sees a clip once for each
        of its lines, others once.
        """
        towers = [model.get_submodule(path) for path in self.side.towers]
        if any(isinstance(weight, DTensor) for tower in towers for weight in tower.parameters()):
            return [], [_on(device, self._encoded(clip)) for clip in clips]
        by_key = {clip_key(clip): clip for clip in clips}
        found = {key: _on(device, self._get(key)) for key in by_key if self.frozen and key in self._kept}
        missing = [key for key in by_key if key not in found]
        if missing:
            for tower in towers:
                tower.to(device)  # those that stand aside aren't moved with the model
            inputs = [_on(device, self._encoded(by_key[key])) for key in missing]
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
                made = self.side.features(model, inputs)
            found |= dict(zip(missing, made, strict=True))
            if self.frozen:
                for key in missing:
                    self._keep(key, found[key])
        return [found[clip_key(clip)] for clip in clips], []

    def _encoded(self, clip: Clip) -> Tensors:
        key = clip_key(clip)
        if key in self._kept and not self.frozen:
            return self._get(key)
        with torch.autocast("cpu", enabled=False):  # a spectrogram in half precision is none
            made = self.side.encode(self.processor, clip)
        if not self.frozen:
            self._keep(key, made)
        return made

    def _get(self, key: Any) -> Tensors:
        self._kept.move_to_end(key)
        return self._kept[key]

    def _keep(self, key: Any, tensors: Tensors) -> None:
        host = {name: _to_host(value) for name, value in tensors.items()}
        self._kept[key] = host
        self.kept_bytes += _bytes(host)
        while self.kept_bytes > self.limit_bytes and len(self._kept) > 1:
            self.kept_bytes -= _bytes(self._kept.popitem(last=False)[1])


def clip_key(clip: Clip) -> tuple[Any, ...]:
    """By what a clip is known: its video, how it is shown, and its sound."""
    heard = None if clip.sound is None else zlib.crc32(clip.sound.tobytes())
    return (clip.video_id, clip.step_s, *clip.frames.shape, heard)


def _on(device: torch.device, tensors: Tensors) -> Tensors:
    return {name: value.to(device, non_blocking=True) for name, value in tensors.items()}


def _to_host(value: torch.Tensor) -> torch.Tensor:
    """In memory from which a card reads by itself, if it came from one."""
    host = value.detach().cpu()
    return host.pin_memory() if value.is_cuda else host


def _bytes(tensors: Tensors) -> int:
    return sum(value.nbytes for value in tensors.values())
