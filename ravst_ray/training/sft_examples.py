"""Examples of supervised fine-tuning, made when they are asked for; their videos are decoded a window ahead.

::

    places that this rank comes to ─► expect: decode tasks (object store) ─► [place]: prompt, answer, clip
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ray

from ravst_ray.config.sft import SftRunConfig
from ravst_ray.datasets.tasks import VideoTask
from ravst_ray.errors import AbortError, StepError
from ravst_ray.logs import get_logger
from ravst_ray.media.clips import Clip
from ravst_ray.policy.prompts import question_prompt
from ravst_ray.records import QAPair, VideoView
from ravst_ray.tasks import task_of
from ravst_ray.tasks.spaces import AnswerSpace
from ravst_ray.training.clips import clip_bytes, decode_clip
from ravst_ray.training.forward import Row, VideoForward

log = get_logger(__name__)
_FIRST = 4
"""So many videos are decoded at once as long as it isn't known how large one is."""

Start = Callable[[VideoTask], tuple[Any, Any]]
"""Begins to decode a video: references to its clip, and to its view or the StepError in its place."""


class ClipWindow:
    """Clips that are being decoded or wait to be used.

    Args:
        start: begins to decode a video.
        most: videos that are decoded ahead.
        gib: how much of the object store the clips may take; the one that is asked for is had, however large.
        get: waits for what a reference stands for.
    """

    def __init__(self, start: Start, most: int, gib: float, get: Callable[[Any], Any] = ray.get):
        self._start, self._most, self._most_bytes, self._get = start, most, gib * 2**30, get
        self._begun: dict[str, tuple[Any, Any]] = {}
        self._bytes: dict[str, int] = {}
        self._coming: dict[str, VideoTask] = {}
        self._largest = 0
        self.bad: set[str] = set()
        """Videos that can't be shown."""

    def expect(self, coming: Sequence[VideoTask]) -> None:
        """Decode the videos that are needed next, as many as there is room for; let the others go."""
        self._coming = {task.video_id: task for task in coming if task.video_id not in self.bad}
        for name in self._begun.keys() - self._coming.keys():
            self._forget(name)
        self._fill()

    def _fill(self) -> None:
        for name in list(self._coming)[: self._most]:
            if name in self._begun or name in self.bad:
                continue
            # How large one is shows once it is decoded: till then it counts as the largest so far.
            taken = sum(self._bytes.get(one, self._largest) for one in self._begun)
            if taken + self._largest > self._most_bytes or (not self._largest and len(self._begun) >= _FIRST):
                return
            self._begun[name] = self._start(self._coming[name])

    def shown(self, task: VideoTask) -> tuple[Clip, VideoView] | None:
        """The clip of a video and its view; None if it can't be shown."""
        name = task.video_id
        if name in self.bad:
            return None
        if name not in self._begun:
            self._begun[name] = self._start(task)
        clip, view = self._begun[name]
        found = self._get(view)
        if isinstance(found, StepError):
            log.warning("%s is left out: %s (%s)", name, found, found.reason)
            self.bad.add(name)
            self._forget(name)
            self._fill()
            return None
        self._bytes[name] = clip_bytes(found)
        self._largest = max(self._largest, self._bytes[name])
        self._fill()
        return self._get(clip), found

    def _forget(self, name: str) -> None:
        del self._begun[name]
        self._bytes.pop(name, None)


class Examples(Sequence[Row | None]):
    """A row for each question; None where its video can't be shown.

    Args:
        tasks: the videos with their questions.
        config: how answers are asked for.
        forward: of the model that learns.
        window: of the videos' clips.
    """

    def __init__(self, tasks: Sequence[VideoTask], config: SftRunConfig, forward: VideoForward, window: ClipWindow):
        self._asked: list[tuple[VideoTask, QAPair]] = [(task, pair) for task in tasks for pair in task.questions]
        self._videos = {task.video_id for task, _ in self._asked}
        self._config, self._forward, self.window = config, forward, window

    def __len__(self) -> int:
        return len(self._asked)

    def expect(self, places: Sequence[int]) -> None:
        """Decode what is needed next, in this order."""
        self.window.expect([self._asked[place][0] for place in places])

    def __getitem__(self, place: Any) -> Any:
        """The row of a place.

        Raises:
            AbortError: no video at all can be shown.
        """
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        from ravst_ray.training.sft import example

        task, pair = self._asked[place]
        shown = self.window.shown(task)
        if shown is None:
            if self.window.bad >= self._videos:
                raise AbortError("no video can be read, so there is nothing to learn; the warnings above say why")
            return None
        clip, view = shown
        prompt = question_prompt(pair.task, pair.question, view, self._config.prompt)
        answer = task_of(pair.task).to_model(pair.answer, AnswerSpace.of(view, self._config.prompt))
        return example(self._forward, prompt, answer, clip)


def decoded_ahead(config: SftRunConfig) -> ClipWindow:
    """A window whose videos are decoded by Ray tasks."""
    return ClipWindow(lambda task: tuple(decode_clip.remote(task, config)), config.decode_ahead, config.clips_gib)
