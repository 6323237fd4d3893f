"""What every step has in common: items in, items out, an error caught once, seconds counted.

A step knows nothing of Ray; ``pipeline.py`` gives it a place to run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace

from ravst_ray.errors import StepError
from ravst_ray.logs import SECRET_NAME, get_logger
from ravst_ray.records import ErrorRow, VideoItem

log = get_logger(__name__)

_SHORTEST_SECRET = 8


def failed(item: VideoItem, stage: str, error: StepError) -> VideoItem:
    """The item as an errors row: whatever it carried is let go."""
    message = without_secrets(error.message)
    log.warning("%s: %s: %s: %s", item.video.video_id, stage, error.reason, message)
    row = ErrorRow(item.video.video_id, stage, error.reason, message, error.retryable)
    return replace(item, frames=None, loudness=None, annotations=(), qa=(), error=row)


def without_secrets(text: str) -> str:
    """The text with the environment's keys masked: an endpoint's error may quote what it was sent.

    Example:
        >>> os.environ["SOME_API_KEY"] = "sk-12345678"
        >>> without_secrets("no such key: sk-12345678")
        'no such key: $SOME_API_KEY'
    """
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST_SECRET and SECRET_NAME.search(name):
            text = text.replace(value, f"${name}")
    return text


class Step:
    """A step of the annotation; subclasses set ``stage`` and write :meth:`process`.

    Calling a step passes items that already failed through untouched, turns a ``StepError`` into an errors row and
    adds the seconds spent to ``item.stats["seconds/<stage>"]``. Any other exception is a fault of ours and is raised.
    """

    stage: str = ""

    def process(self, item: VideoItem) -> VideoItem:
        """One video through this step; raises ``StepError`` when it can't be done."""
        raise NotImplementedError

    def process_batch(self, items: Sequence[VideoItem]) -> list[VideoItem | StepError]:
        """Several videos at once; steps that gain from batches override this instead of :meth:`process`."""
        done: list[VideoItem | StepError] = []
        for item in items:
            try:
                done.append(self.process(item))
            except StepError as error:
                done.append(error)
        return done

    def close(self) -> None:
        """End what the step has started; called when its process ends well."""

    def __call__(self, items: Sequence[VideoItem]) -> list[VideoItem]:
        """All items, in their order."""
        live = [item for item in items if item.error is None]
        started = time.perf_counter()
        results = self.process_batch(live) if live else []
        share_s = (time.perf_counter() - started) / max(len(live), 1)
        out = iter(
            (failed(item, self.stage, got) if isinstance(got, StepError) else got).with_stats(
                **{f"seconds/{self.stage}": share_s}
            )
            for item, got in zip(live, results, strict=True)
        )
        return [item if item.error is not None else next(out) for item in items]
