"""Small files in the real formats of VSI-Bench, STI-Bench and V-STaR."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def vsi_row(number: int, kind: str, truth: str, **more) -> dict:
    options = None if kind in ("object_counting", "object_abs_distance") else ["A. left", "B. right", "C. back"]
    row = {"id": number, "dataset": "scannet", "scene_name": f"scene{number:04}_00", "question_type": kind}
    return row | {"question": f"Question {number}?", "options": options, "ground_truth": truth} | more


def sti_row(number: int, kind: str, answer: str, **more) -> dict:
    row = {"Video": f"scene{number:04}.mp4", "Source": "ScanNet", "Task": kind, "ID": number, "Question": "How far?"}
    candidates = {letter: f"{place} m" for place, letter in enumerate("ABCDE")}
    times = {"time_start": 0.5, "time_end": 3.0, "Scene": "indoor"}
    return row | {"Candidates": candidates, "Answer": answer} | times | more


def star_row(vid: str, **more) -> dict:
    """A video of 20 s; the object is at [10, 10, 50, 50] in the seconds 3 to 5."""
    box = {"xmin": 10, "ymin": 10, "xmax": 50, "ymax": 50}
    return {
        "vid": vid,
        "domain": "Sports",
        "fps": 25.0,
        "width": 640,
        "height": 360,
        "frame_count": 500,
        "question": "What does he throw?",
        "chain": "<think>…<think>",
        "object": "ball",
        "answer": "A red ball.",
        "temporal_question": "When does he throw it?",
        "timestamps": [2.5, 5.5],
        "spatial_question": "Where is the ball from 2.5 to 5.5?",
        "spatial_question_2": "Where is the ball?",
        "bboxes": [{"timestamp": second, "frame_index": 25 * second, **box} for second in (3, 4, 5)],
    } | more


def write_rows(path: Path, rows: list[dict]) -> Path:
    """As Parquet, a JSON list or JSON lines, by the path's ending."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_answers(path: Path, answers: dict[str, str | dict]) -> Path:
    """Lines of predictions; a dict has more than the text."""
    lines = [
        {"id": name, **({"prediction": said} if isinstance(said, str) else said)} for name, said in answers.items()
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
