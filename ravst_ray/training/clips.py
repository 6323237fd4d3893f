"""The frames of videos for the rollout actors: each video is decoded once, by a Ray task, and kept by reference."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

import ray

from ravst_ray.config.sft import SftRunConfig
from ravst_ray.config.train import TrainConfig
from ravst_ray.datasets.places import check_seen, local_copy
from ravst_ray.datasets.tasks import VideoTask
from ravst_ray.errors import ConfigError, StepError
from ravst_ray.media.clips import SAMPLE_RATE_HZ, Clip, show_video
from ravst_ray.media.decoding import ChildDecoder
from ravst_ray.records import VideoView

Shown = tuple[Any, VideoView]
"""A reference to a clip in the object store, and how it is shown."""


class Clips:
    """The clips that were shown last.

    Args:
        decode: gives a video's clip; None where it can't be shown.
        gib: how much of the object store they may take; the one that was shown last stays, however large.
    """

    def __init__(self, decode: Callable[[VideoTask], Awaitable[Shown | None]], gib: float):
        self._decode, self._most_bytes = decode, gib * 2**30
        self._found: OrderedDict[str, asyncio.Future[Shown | None]] = OrderedDict()
        self._bytes: dict[str, int] = {}

    async def shown(self, task: VideoTask) -> Shown | None:
        """The clip of a video; who asks while it is being decoded waits for the same one."""
        name = task.video_id
        if name not in self._found:
            self._found[name] = asyncio.ensure_future(self._decode(task))
        self._found.move_to_end(name)
        found = await self._found[name]
        if name in self._found and name not in self._bytes:
            self._bytes[name] = clip_bytes(found[1]) if found else 0
            self._make_room(name)
        return found

    def _make_room(self, last: str) -> None:
        """Let those go that were shown longest ago; who has a reference keeps the clip."""
        for name in [name for name in self._found if name in self._bytes and name != last]:
            if sum(self._bytes.values()) <= self._most_bytes:
                break
            del self._found[name], self._bytes[name]


def clip_bytes(view: VideoView) -> int:
    """How large a clip is: its frames, and its sound where the model is given some."""
    sound = 0 if view.heard is None else round(view.frames * view.step_s * SAMPLE_RATE_HZ) * 4
    return view.frames * view.height * view.width * 3 + sound


async def decode(task: VideoTask, config: TrainConfig) -> Shown:
    """Decode a video in a Ray task; its clip stays in the memory of the node that did it.

    Raises:
        StepError: it can't be read.
        ConfigError: a node doesn't have the folder of the videos.
    """
    clip, view = decode_clip.remote(task, config)
    try:
        made = await view
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, ConfigError) else error from None
    if isinstance(made, StepError):
        raise made
    return clip, made


@ray.remote(num_cpus=0.1, num_returns=2, max_retries=1)
def decode_clip(task: VideoTask, config: TrainConfig | SftRunConfig) -> tuple[Clip | None, VideoView | StepError]:
    """The frames of a video and its view; in place of the view, why there are none.

    Raises:
        ConfigError: this node doesn't have the folder of the videos.
    """
    check_seen(task.folder)
    decoder = ChildDecoder(config.decode)
    try:
        with local_copy(task.path) as path:
            return show_video(decoder, task.video_id, path, task.duration_s, config.frames)
    except StepError as error:
        return None, error
    finally:
        decoder.close()
