"""How often a video's step began and never ended: what tells a video that kills its process from bad luck.

A process that dies takes its step's knowledge along, so the counts are kept elsewhere, by one small actor of the run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

MAX_ATTEMPTS = 2


class Attempts:
    """Counts attempts by stage and video, and knows where processes are; without Ray a plain object."""

    def __init__(self) -> None:
        self._open: Counter[tuple[str, str]] = Counter()
        self._homes: list[tuple[str, int]] = []

    def begin(self, stage: str, video_ids: Sequence[str]) -> list[int]:
        """Note that these are attempted together; gives how many attempts of each never ended.

        Several of which any has been attempted before aren't noted: they are to be attempted one by one, so that the
        one at fault is found. Neither is a video that has had all its attempts.
        """
        before = [self._open[stage, video_id] for video_id in video_ids]
        if not any(before) or (len(before) == 1 and before[0] < MAX_ATTEMPTS):
            self._open.update((stage, video_id) for video_id in video_ids)
        return before

    def end(self, stage: str, video_ids: Sequence[str]) -> None:
        """Note that they came to an end, good or bad."""
        for video_id in video_ids:
            self._open.pop((stage, video_id), None)

    def arrive(self, node_id: str, pid: int) -> None:
        """Note that a process has begun there."""
        self._homes.append((node_id, pid))

    def leave(self) -> list[tuple[str, int]]:
        """All processes that arrived since the last call, by node and id: their end is now someone's to wait for."""
        homes, self._homes = self._homes, []
        return homes
