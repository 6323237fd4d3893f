"""Exact questions about scenes of the toy world, and the frames that go with them, without encoding a video."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from ravst_ray.annotate.questions import Draft, drafts, questions_of
from ravst_ray.annotate.unite import unite
from ravst_ray.config.annotate import QuestionsConfig
from ravst_ray.config.video_llm import FramesConfig
from ravst_ray.core.frame_times import event_times
from ravst_ray.core.intervals import overlap
from ravst_ray.datasets.ravst_json import dump_questions
from ravst_ray.media.clips import Clip, resized, sound_samples, view_size, view_times
from ravst_ray.records import Box, Event, EventAnnotation, QAPair, SceneObject, Track, VideoView
from ravst_ray.toyworld.audio import heard, soundtrack
from ravst_ray.toyworld.captions import label
from ravst_ray.toyworld.scene import SIZE_PX, Scene, random_scene, render
from ravst_ray.toyworld.wrong import Verdict, judge_question

SEEN_SHARE = 0.5
RULES = QuestionsConfig(repeated="skip")
"""The toy policy is taught the published wording alone."""


@dataclass(frozen=True)
class SceneQuestions:
    """A scene as a model is shown it, and every question that annotation would ask about it."""

    clip: Clip
    view: VideoView
    drafts: tuple[Draft, ...]


def scene_questions(
    seed: int, index: int, config: FramesConfig, noisy: bool = False, cues: bool = True
) -> SceneQuestions:
    """Scene ``index`` of the world ``seed``, the same one that ``write_world`` paints.

    Args:
        seed: of the world.
        index: of the scene.
        config: which frames, how large, and whether with the scene's own sound.
        noisy: disturb the frames as a codec would, each scene in its own way, and put noise under half the sounds.
        cues: as in ``write_world``.
    """
    scene = replace(random_scene(np.random.default_rng([seed, index])), cues=cues)
    rng = np.random.default_rng([seed, index, 3])
    step_s, times = view_times(scene.duration_s, config)
    size = view_size(SIZE_PX, SIZE_PX, len(times), config)
    frames = np.stack([_shown(render(scene, time_s).image, size, rng if noisy else None) for time_s in times])
    view = VideoView(len(times), step_s, *size, scene.duration_s, SIZE_PX, SIZE_PX)
    asked, _ = drafts(scene_annotations(scene), scene.duration_s, RULES)
    sound, samples = None, sound_samples(len(times), step_s, config)
    if samples is not None:
        if noisy and rng.random() < 0.5:
            scene = replace(scene, floor_db=float(rng.uniform(-80, -55)))
        sound = heard(soundtrack(scene, np.random.default_rng([seed, index, 1])), samples)
    return SceneQuestions(Clip(f"toy_{seed}_{index:04d}", frames, step_s, sound), view, tuple(asked))


def scene_annotations(scene: Scene) -> list[EventAnnotation]:
    """The scene's events as the pipeline annotates them when it makes no error.

    An event's objects are the one that sounds and every other that has a box in half of its seconds.
    """
    events = sorted((event, number) for number, sprite in enumerate(scene.sprites) for event in sprite.events_s)
    found = []
    for event_num, ((start_s, end_s), sounding) in enumerate(events, start=1):
        times = tuple(time_s for time_s in event_times(start_s, end_s) if time_s < scene.duration_s)
        boxes_T = [render(scene, time_s).boxes_N for time_s in times]
        tracks = []
        for number, sprite in enumerate(scene.sprites):
            seen: list[tuple[float, Box]] = [
                (time_s, box) for time_s, boxes_N in zip(times, boxes_T, strict=True) if (box := boxes_N[number])
            ]
            if seen and (number == sounding or len(seen) >= SEEN_SHARE * len(times)):
                where, boxes = zip(*seen, strict=True)
                tracks.append(Track(number, sprite.name, number == sounding, where, boxes, (1.0,) * len(where)))
        name = scene.sprites[sounding].name
        objects = tuple(SceneObject(track.name, track.audible) for track in tracks)
        event = Event(event_num, start_s, end_s, label(name))
        found.append(EventAnnotation(event, objects, times, tuple(tracks)))
    return found


def true_annotations(video: Mapping[str, Any], entry: Mapping[str, Any]) -> list[EventAnnotation]:
    """A video's events as the pipeline annotates them when it makes no error and hears which instance sounds.

    An event's objects are those that its caption names, and what sounds in the events that it meets. A silent instance
    of a name that sounds has no track.

    Args:
        video: the video's entry in ``truth.json``.
        entry: its entry in the UnAV-100 file.
    """
    read = []
    for number, one in enumerate(entry["annotations"], start=1):
        start_s, end_s = one["segment"]
        event = Event(number, start_s, end_s, one["label"], one["label_id"], one["caption"])
        names = {thing["name"]: label(thing["name"]) == event.label for thing in video["objects"]}
        objects = tuple(SceneObject(name, own) for name, own in names.items() if name in one["caption"])
        times = tuple(time_s for time_s in event_times(start_s, end_s) if time_s < video["duration"])
        read.append(EventAnnotation(event, objects, times))
    return [replace(one, tracks=tuple(_true_tracks(video, one))) for one in unite(read)]


def _true_tracks(video: Mapping[str, Any], annotation: EventAnnotation) -> Iterator[Track]:
    span = (annotation.event.start_s, annotation.event.end_s)
    audible = {one.name: one.audible for one in annotation.objects}
    for thing in video["objects"]:
        name, keys = thing["name"], [f"{time_s:.1f}" for time_s in annotation.frame_times_s]
        if name not in audible or (audible[name] and not any(overlap((s, e), span) > 0 for s, e in thing["events"])):
            continue
        seen = {float(key): tuple(thing["boxes"][key]) for key in keys if key in thing["boxes"]}
        if seen:
            yield Track(thing["instance"], name, audible[name], tuple(seen), tuple(seen.values()), (1.0,) * len(seen))


def write_true_questions(path: str | Path, truth: Mapping[str, Any], database: Mapping[str, Any]) -> int:
    """Questions about a hard world that its truth doesn't contradict, in the published format; gives how many."""
    pairs = [
        pair
        for video_id, video in truth.items()
        for pair in questions_of(video_id, true_annotations(video, database[video_id]), video["duration"])[0]
        if judge_question(video, pair) == Verdict((), off_screen=False)
    ]
    durations = {video_id: video["duration"] for video_id, video in truth.items()}
    Path(path).write_text(dump_questions(pairs, durations), encoding="utf-8")
    return len(pairs)


def write_questions(path: str | Path, videos: int, seed: int) -> int:
    """Exact questions about the videos of a world in the published format; gives how many."""
    pairs: list[QAPair] = []
    durations: dict[str, float] = {}
    for index in range(videos):
        scene = random_scene(np.random.default_rng([seed, index]))
        video_id = f"toy_{seed}_{index:04d}"
        durations[video_id] = scene.duration_s
        pairs += questions_of(video_id, scene_annotations(scene), scene.duration_s, RULES)[0]
    Path(path).write_text(dump_questions(pairs, durations), encoding="utf-8")
    return len(pairs)


def _shown(image: np.ndarray, size: tuple[int, int], rng: np.random.Generator | None) -> np.ndarray:
    picture = Image.fromarray(image)
    if rng is not None:
        picture = picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 0.7))))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=95 if rng is None else int(rng.integers(60, 96)))
    return resized(buffer.getvalue(), size)
