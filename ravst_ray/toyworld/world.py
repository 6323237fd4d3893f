"""Writing the toy world to disk: real video files, their event labels and the exact truth.

OUT/videos/{id}.mp4            H.264 + AAC, 256 x 256, 10 frames/s, 6-20 s
OUT/unav100_annotations.json   UnAV-100's format; every annotation has a ``caption`` beside its label
OUT/questions.json             exact questions and answers in R-AVST's format
OUT/truth.json                 {id: {duration, fps, width, height, objects: [{name, audible, events, boxes}]}}

A hard world's truth has ``cuts`` and ``traits`` beside these, and ``instance`` and ``off_screen`` in every object.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from ravst_ray.core.intervals import overlap
from ravst_ray.logs import get_logger
from ravst_ray.toyworld.audio import SAMPLE_RATE_HZ, soundtrack
from ravst_ray.toyworld.captions import caption, label
from ravst_ray.toyworld.hard import hard_scene
from ravst_ray.toyworld.questions import write_questions, write_true_questions
from ravst_ray.toyworld.scene import FPS, NAMES, SIZE_PX, Moment, Scene, random_scene, render
from ravst_ray.toyworld.traits import ticks, with_traits

log = get_logger(__name__)

_SUBSETS = ("train", "validation", "test")
_NAMED_SHARE = 0.5


def write_world(
    out_dir: str | Path,
    videos: int,
    seed: int,
    progress: Callable[[int], None] | None = None,
    hard: bool = False,
    cues: bool = True,
) -> Path:
    """Write ``videos`` toy videos with labels and truth; the same seed gives the same bytes of ``truth.json``.

    Args:
        out_dir: folder to write to, made if needed; files of the same name are overwritten.
        videos: how many, at least 1.
        seed: of the whole world. Video ``i`` depends on the seed and on ``i`` alone.
        progress: called with the number of videos written so far.
        hard: scenes of :func:`~ravst_ray.toyworld.hard.hard_scene`, named ``hard_…``.
        cues: whether what sounds pulses; else only the sound tells, and truth, labels and questions stay the same.

    Returns:
        ``out_dir`` as a path.
    """
    out = Path(out_dir)
    (out / "videos").mkdir(parents=True, exist_ok=True)
    database: dict[str, Any] = {}
    truth: dict[str, Any] = {}
    for index in range(videos):
        rng = np.random.default_rng([seed, index])
        video_id = f"{'hard' if hard else 'toy'}_{seed}_{index:04d}"
        scene = replace(hard_scene(rng, index) if hard else random_scene(rng), cues=cues)
        sound = soundtrack(scene, np.random.default_rng([seed, index, 1]))
        moments = write_video(out / "videos" / f"{video_id}.mp4", scene, sound)
        truth[video_id] = scene_truth(scene, moments)
        if hard:
            truth[video_id] = with_traits(scene, truth[video_id])
        database[video_id] = scene_labels(scene, truth[video_id], np.random.default_rng([seed, index, 2]))
        database[video_id]["subset"] = _SUBSETS[min(index % 10 // 8 + index % 10 // 9, 2)]
        if progress:
            progress(index + 1)
    (out / "truth.json").write_text(json.dumps(truth))
    (out / "unav100_annotations.json").write_text(json.dumps({"database": database}, indent=1))
    if hard:
        write_true_questions(out / "questions.json", truth, database)
    else:
        write_questions(out / "questions.json", videos, seed)
    log.info("wrote %d toy videos to %s", videos, out)
    return out


def write_video(path: Path, scene: Scene, sound: np.ndarray) -> list[tuple[Any, ...]]:
    """Paint and encode a scene with its sound; gives the boxes of every frame, in the order of the sprites."""
    boxes: list[tuple[Any, ...]] = []
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=FPS, options={"crf": "18", "preset": "veryfast"})
        stream.width = stream.height = SIZE_PX
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        audio: Any = container.add_stream("aac", rate=SAMPLE_RATE_HZ, layout="mono")
        for index in range(round(scene.duration_s * FPS)):
            moment: Moment = render(scene, index / FPS)
            boxes.append(moment.boxes_N)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(moment.image, format="rgb24")))
        container.mux(stream.encode(None))
        frame = av.AudioFrame.from_ndarray(sound[None, :], format="fltp", layout="mono")
        frame.sample_rate = SAMPLE_RATE_HZ
        frame.pts, frame.time_base = 0, Fraction(1, SAMPLE_RATE_HZ)  # else the encoder's 23 ms of priming are heard
        container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
    return boxes


def scene_truth(scene: Scene, boxes_T: list[tuple[Any, ...]]) -> dict[str, Any]:
    """The entry of one video in ``truth.json``; boxes are keyed by the time in seconds with one decimal."""
    objects = [
        {
            "name": sprite.name,
            "audible": sprite.audible,
            "events": [list(event) for event in sprite.events_s],
            "boxes": {f"{t / FPS:.1f}": list(boxes[i]) for t, boxes in enumerate(boxes_T) if boxes[i]},
        }
        for i, sprite in enumerate(scene.sprites)
    ]
    return {
        "duration": scene.duration_s,
        "fps": float(FPS),
        "width": SIZE_PX,
        "height": SIZE_PX,
        "objects": objects,
    }


def scene_labels(scene: Scene, truth: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """The entry of one video in the UnAV-100 file; a caption names only objects in view for half of its event.

    Instances of one name that sound in the same interval have one event, and a caption names each name once.
    """
    things: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for thing in truth["objects"]:
        things[thing["name"]].append(thing)
    events = sorted({((start, end), thing["name"]) for thing in truth["objects"] for start, end in thing["events"]})
    annotations = []
    for (start, end), name in events:
        others = [
            other
            for other, group in things.items()
            if other != name and _seen_share(group, start, end) >= _NAMED_SHARE and rng.random() < 0.8
        ]
        heard = any(_sounds(one, start, end) for other in others for one in things[other])
        unseen = all([start, end] in one.get("off_screen", ()) for one in things[name] if [start, end] in one["events"])
        annotations.append(
            {
                "segment": [start, end],
                "label": label(name),
                "label_id": NAMES.index(name),
                "caption": caption(name, others, rng, plainly=heard or unseen),
            }
        )
    return {"duration": scene.duration_s, "fps": float(FPS), "annotations": annotations}


def _seen_share(things: Sequence[dict[str, Any]], start_s: float, end_s: float) -> float:
    """Share of the 0.1 s grid of [start, end] in which any of these objects has a box."""
    keys = ticks(start_s, end_s)
    return sum(any(key in thing["boxes"] for thing in things) for key in keys) / len(keys)


def _sounds(thing: dict[str, Any], start_s: float, end_s: float) -> bool:
    return any(overlap((start, end), (start_s, end_s)) > 0 for start, end in thing["events"])
