"""The tables of ``ravst make-str``: one row a question, one row a scene that can't be used."""

from __future__ import annotations

import pyarrow as pa

from ravst_ray.datasets.schemas import ERRORS, documented

QUESTIONS = documented(
    ("id", pa.string(), "{scene}/{kind}/{index}"),
    ("task", pa.string(), "the task's name"),
    ("scene", pa.string(), "as in the input"),
    ("source", pa.string(), "ravst | tao | kitti | scannet | toy"),
    ("video", pa.string(), "stem of the video's file; empty if there is none"),
    ("duration_s", pa.float64(), "of the video, seconds; 0 for a room at rest"),
    ("width", pa.int32(), "of the picture, pixels; null where there is none"),
    ("height", pa.int32(), "of the picture, pixels; null where there is none"),
    ("kind", pa.string(), "object_counting, relative_direction_easy, …"),
    ("form", pa.string(), "choice | number | box | interval"),
    ("question", pa.string(), "the question alone, without its options"),
    ("options", pa.list_(pa.string()), "texts without letters; empty unless form is choice"),
    ("answer", pa.string(), "a letter, a number, [x1, y1, x2, y2] in pixels, or [start, end] in seconds"),
    ("unit", pa.string(), "m | cm | m2 | s | px | % | m/s | %/s (% of the picture's width); empty where there is none"),
    ("times_s", pa.list_(pa.float64()), "of the reference graph's frames, seconds"),
    ("graph", pa.string(), "the reference graph as JSON text, as it stands inside <graph>"),
    ("space", pa.string(), "2d: positions are shares of width and height; 3d: metres, z up"),
)
STR_TABLES: dict[str, pa.Schema] = {"questions": QUESTIONS, "errors": ERRORS}
