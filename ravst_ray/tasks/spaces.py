"""The one place where answers change their space.

A dataset's answers are in pixels of the video, a line a second. A model may be asked for boxes in another space and
fewer seconds: :class:`AnswerSpace` turns true answers into what the model should say, and back what it said.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ravst_ray.config.video_llm import PromptConfig
from ravst_ray.core.answers import BoxLine, rewrite_where
from ravst_ray.core.geometry import is_real_box
from ravst_ray.records import Box, VideoView

DATA_STEP_S = 1.0
_FAR = 1e7


@dataclass(frozen=True)
class AnswerSpace:
    """Between a model's answers and the dataset's: boxes are scaled, seconds thinned out and filled in again.

    Args:
        scale_x, scale_y: model units in one pixel of the video.
        integer: whether the model's coordinates are whole numbers.
        step_s: seconds between the model's boxes.
    """

    scale_x: float
    scale_y: float
    integer: bool
    step_s: float

    @classmethod
    def of(cls, view: VideoView, config: PromptConfig) -> AnswerSpace:
        """The space that a prompt asks for."""
        width, height = {
            "frame": (view.width, view.height),
            "video": (view.video_width, view.video_height),
            "thousand": (1000, 1000),
        }[config.space]
        return cls(width / view.video_width, height / view.video_height, config.integer_boxes, config.box_step_s)

    def to_model(self, answer: str) -> str:
        """A true answer as the model should give it: of each track the ends and every ``step_s`` between, scaled."""
        return rewrite_where(answer, self._thinned, integer=self.integer)

    def to_video(self, completion: str) -> str:
        """What a model said, in the dataset's space; everything but readable box lines stays as it is.

        Where an object has one real box at a time, and ``step_s`` is more than a second, the seconds between two of
        its boxes are filled in by linear interpolation. Coordinates are kept to 0.1 pixel.
        """
        return rewrite_where(completion, self._filled, integer=False)

    def box_to_model(self, box: Box) -> Box:
        """A single box as the model should give it."""
        x1, y1, x2, y2 = self._scaled(box, self.scale_x, self.scale_y)
        return (round(x1), round(y1), round(x2), round(y2)) if self.integer else (x1, y1, x2, y2)

    def box_to_video(self, box: Box) -> Box:
        """A single box that a model gave, in pixels of the video, kept to 0.1."""
        return self._scaled(box, 1 / self.scale_x, 1 / self.scale_y)

    def _thinned(self, lines: Sequence[BoxLine]) -> list[BoxLine]:
        kept: list[BoxLine] = []
        first = min((time_s for time_s, _ in lines), default=0.0)
        last = max((time_s for time_s, _ in lines), default=0.0)
        for time_s, box in lines:
            steps = (time_s - first) / self.step_s
            on_grid = abs(steps - round(steps)) * self.step_s < DATA_STEP_S / 2 - 1e-6
            if self.step_s <= DATA_STEP_S or on_grid or time_s == last:
                kept.append((time_s, self._scaled(box, self.scale_x, self.scale_y)))
        return kept

    def _filled(self, lines: Sequence[BoxLine]) -> list[BoxLine]:
        given = [(time_s, self._scaled(box, 1 / self.scale_x, 1 / self.scale_y)) for time_s, box in lines]
        if self.step_s <= DATA_STEP_S:
            return given
        at: dict[float, list[Box]] = defaultdict(list)
        for time_s, box in given:
            at[time_s].append(box)
        times = sorted(at)
        filled = list(given)
        for start, end in pairwise(times):
            if len(at[start]) != 1 or len(at[end]) != 1 or end - start > 1.5 * self.step_s:
                continue
            one, other = at[start][0], at[end][0]
            if not (is_real_box(one) and is_real_box(other)):
                continue
            for second in range(1, math.ceil((end - start) / DATA_STEP_S - 1e-6)):
                share = second * DATA_STEP_S / (end - start)
                x1, y1, x2, y2 = (round(a + share * (b - a), 1) for a, b in zip(one, other, strict=True))
                filled.append((round(start + second * DATA_STEP_S, 6), (x1, y1, x2, y2)))
        return sorted(filled, key=lambda line: line[0])

    @staticmethod
    def _scaled(box: Box, scale_x: float, scale_y: float) -> Box:
        scales = (scale_x, scale_y, scale_x, scale_y)
        x1, y1, x2, y2 = (
            round(min(max(value * scale, -_FAR), _FAR), 1) for value, scale in zip(box, scales, strict=True)
        )
        return (x1, y1, x2, y2)


def boxes_are(view: VideoView, config: PromptConfig) -> str:
    """How the prompt says in which space boxes are wanted."""
    space = {
        "frame": f"pixels of the frames ({view.width} x {view.height})",
        "video": f"pixels of a {view.video_width} x {view.video_height} picture",
        "thousand": "thousandths of the width and the height",
    }[config.space]
    return f"Boxes are {'whole numbers, ' if config.integer_boxes else ''}in {space}"
