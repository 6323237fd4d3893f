"""V-STaR's samples, and the five prompts of each, as its published inference demo has them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from pydantic import Field

from ravst_ray.evaluation.benchmarks.files import Row
from ravst_ray.evaluation.benchmarks.spoken_boxes import TrueBox

WHAT = "1/what"
"""The step that counts in both chains."""
_INDENT = "\n" + " " * 20  # the demo's own, inside its prompts


class VSTaRRow(Row):
    """A row of its file: one sample."""

    vid: str
    domain: str
    fps: float = Field(gt=0)
    width: int = Field(gt=0)
    height: int = Field(gt=0)
    frame_count: float = Field(gt=0)
    question: str
    answer: str
    temporal_question: str
    timestamps: tuple[float, float]
    spatial_question: str
    spatial_question_2: str
    bboxes: list[TrueBox]

    @property
    def duration_s(self) -> float:
        """Seconds, as its code rounds them."""
        return round(self.frame_count / self.fps, 2)


def prompts(row: VSTaRRow) -> Mapping[str, str]:
    """By step, word for word those of the demo, whose spaces at the ends of lines they keep."""
    boxes = [[box.xmin, box.ymin, box.xmax, box.ymax] for box in row.bboxes]
    count = len(boxes)
    # An interval without a whole second in it makes the demo fail; here the second before it is asked for.
    first, last = math.ceil(row.timestamps[0]), math.floor(row.timestamps[1])
    seconds = list(range(first, last + 1)) or [last]
    asked = (
        "Please answer the question about the video: {} with a series of bounding boxes in [x1, y1, x2, y2] format. \n"
    )
    return {
        WHAT: f"Answer the question about the video: {row.question} \n "
        "(If the answer is a person, you don't need to identify the person.)",
        "1/when": f"This video is {row.duration_s} seconds long. Answer the question about the video: "
        f"{row.temporal_question} \n Output the start and end moment timestamps.",
        "1/where": asked.format(row.spatial_question)
        + f"{_INDENT}For each whole second within the time range {seconds} provided (inclusive of the boundaries), "
        "output a series of bounding boxes of the object in JSON format. The keys should be the whole seconds (as "
        "strings), and the values should be the box in [x1, y1, x2, y2] format."
        f'{_INDENT}Example output: {{"{seconds[0]}": [x1, y1, x2, y2],...}}{_INDENT}',
        "2/where": asked.format(row.spatial_question_2)
        + f"{_INDENT}For each whole second that may related to the question, output a series of bounding boxes of the "
        f"object in JSON format. You only need to output {count} bbox(es). You need to determine which frame is "
        "related to the question, and you don't need to output the bbox for the frames not related to the question."
        f"{_INDENT}The keys should be the whole seconds (as strings), and the values should be the bounding box in "
        f"[x0,y0,x1,y1] format. {_INDENT}\n Example output:"
        f'{_INDENT}{{"0": [x0,y0,x1,y1], "1":..., ..., "{count}":...}} (if the frames at 0~{count} second are related '
        f"to the questions){_INDENT}",
        "2/when": f"This video is {row.duration_s} seconds long with a resolution of {row.width}x{row.height} "
        f"(width x height). Answer the question about the video: {row.temporal_question} \n There are {count} bounding "
        "boxes of the key object related to the question in the video without knowing the time, which are:"
        f"{boxes}. Output the start and end moment timestamps.",
    }
