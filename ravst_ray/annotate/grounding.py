"""Step 3: where each named object is, second by second.

    JPEGs ──► chunk of frames ──► detector (batches) ──┐
                    │                                   ▼
                    └─► segmenter's memory, frame by frame ──► Tracker ──► tracks in pixels of the video

Frames are decoded a chunk at a time and streamed through the segmenter's memory, which runs on from chunk to chunk: an
hour of video needs as much memory as a minute, and where chunks end makes no difference to the tracks.

At a cut, memory and tracker begin anew, and the detector looks at the first frame after it: no track crosses a cut,
unless the run asks for objects to be recognised by their colours. A frame in which nothing can be seen (black, white,
the flash of a camera) is passed over: whether a cut lies there, the next picture tells.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version

import numpy as np
from PIL import Image

from ravst_ray.annotate.reidentify import Appearance, same_objects
from ravst_ray.annotate.step import Step
from ravst_ray.annotate.tracking import DetectedMask, Tracker, TrackingRules, Update
from ravst_ray.config.annotate import GroundingConfig
from ravst_ray.core.cuts import Look, colour_histogram, look, unlikeness
from ravst_ray.core.frame_times import on_event_grid
from ravst_ray.core.masks import encode_rle
from ravst_ray.errors import StepError
from ravst_ray.grounding.protocols import Candidate, Detection, Detector, MaskMemory, Segmenter
from ravst_ray.records import Box, EventAnnotation, Frames, SceneObject, Track, VideoItem, VideoMeta


@dataclass(frozen=True)
class _Spot:
    """A sighting as it is kept: in pixels of the frames, ``frame`` counted within the event."""

    frame: int
    box: Box
    score: float
    detected: bool
    rle: str | None


@dataclass
class _Path:
    """A track as it grows. ``colours`` is the sum of its sightings' colour histograms, where they are asked for."""

    name: int
    shot: int
    spots: list[_Spot] = field(default_factory=list)
    colours: np.ndarray = field(default_factory=lambda: np.zeros(1))


@dataclass(frozen=True)
class _LookedAt:
    """A frame with its number within the event; ``found`` is None where the detector was not run."""

    number: int
    frame: np.ndarray
    found: list[Detection] | None
    after_cut: bool


class Ground(Step):
    """Adds tracks to every annotated event: its objects, followed through the frames of its time grid.

    Args:
        detector: finds named objects in single frames.
        segmenter: follows objects from frame to frame.
        config: thresholds, and how many frames are in memory at once.
    """

    stage = "ground"

    def __init__(self, detector: Detector, segmenter: Segmenter, config: GroundingConfig):
        self._detector = detector
        self._segmenter = segmenter
        self._config = config
        self._provenance = {
            "detector": config.detector,
            "segmenter": config.segmenter,
            "box_threshold": str(config.box_threshold),
            "text_threshold": str(config.text_threshold),
            "detect_every": str(config.detect_every),
            "cut_score": f"{config.cut_score:g}",
            "max_instances": str(config.max_instances),
            "transformers": version("transformers"),
        }

    def process(self, item: VideoItem) -> VideoItem:
        """One video: all its events.

        Raises:
            StepError: ``no_frames`` or ``bad_frame`` when the frames aren't there or aren't JPEGs, ``out_of_memory``.
        """
        if item.annotations and not any(annotation.live for annotation in item.annotations):
            return item
        if item.frames is None or item.meta is None:
            raise StepError("no_frames", f"{item.video.video_id}: no decoded frames to look at")
        grounded, frames_seen = [], 0
        for annotation in item.annotations:
            if not annotation.live or not annotation.objects:
                grounded.append(annotation)
                continue
            indices = self._tracked(item.frames, annotation)
            grounded.append(replace(annotation, tracks=self._tracks(item.frames, item.meta, indices, annotation)))
            frames_seen += len(indices)
        dense = self._config.track_step_s
        step = f"{dense:g}" if dense else item.provenance.get("frame_step_s", "")
        provenance = {**item.provenance, **self._provenance, "track_step_s": step}
        return replace(item, annotations=tuple(grounded), provenance=provenance).with_stats(frames_grounded=frames_seen)

    def _tracked(self, frames: Frames, annotation: EventAnnotation) -> list[int]:
        """Which frames an event is followed through: those of its answers, and the ones between that are asked for."""
        answers, event, dense = _rounded(annotation.frame_times_s), annotation.event, self._config.track_step_s
        return [
            index
            for index, time_s in enumerate(frames.times_s)
            if round(time_s, 3) in answers
            or (answers and dense and on_event_grid(time_s, event.start_s, event.end_s, dense))
        ]

    def _tracks(
        self, frames: Frames, meta: VideoMeta, indices: Sequence[int], annotation: EventAnnotation
    ) -> tuple[Track, ...]:
        answers = _rounded(annotation.frame_times_s)
        times_s = {number: frames.times_s[index] for number, index in enumerate(indices)}
        kept = {number: time_s for number, time_s in times_s.items() if round(time_s, 3) in answers}
        paths = self._follow(frames, indices, [one.name for one in annotation.objects])
        seen = [path for path in paths if any(spot.frame in kept for spot in path.spots)]
        return tuple(
            _to_track(number, path, annotation.objects[path.name], kept, frames, meta)
            for number, path in enumerate(seen, start=1)
        )

    def _follow(self, frames: Frames, indices: Sequence[int], names: Sequence[str]) -> list[_Path]:
        """Paths through the frames ``indices``, in the order in which objects appear."""
        config = self._config
        rules = TrackingRules(config.match_iou, config.keep_score, config.max_missed, config.max_instances)
        tracker, memory, shot = Tracker(rules), self._segmenter.memory(), 0
        paths: dict[int, _Path] = {}
        for one in self._looked_at(frames, indices, names):
            if one.after_cut:
                tracker, memory, shot = Tracker(rules, tracker.next_id), self._segmenter.memory(), shot + 1
            for track_id, sighting in sorted(_advance(tracker, memory, one).sightings.items()):
                path = paths.setdefault(track_id, _Path(tracker.name_of(track_id), shot))
                code = encode_rle(sighting.mask) if config.masks else None
                path.spots.append(_Spot(one.number, sighting.box, sighting.score, sighting.detected, code))
                if config.reidentify is not None:
                    path.colours = path.colours + colour_histogram(one.frame[sighting.mask])
        return list(paths.values()) if config.reidentify is None else _reidentified(paths.values(), config.reidentify)

    def _looked_at(self, frames: Frames, indices: Sequence[int], names: Sequence[str]) -> Iterator[_LookedAt]:
        """The frames that show anything, chunk by chunk; of each shot the first is due for the detector, and so on."""
        size, every, place, before = self._config.chunk_frames, self._config.detect_every, 0, None
        for start in range(0, len(indices), size):
            chunk, cuts, due = {}, set(), []
            for number, index in enumerate(indices[start : start + size], start):
                frame = _decode(frames.jpegs[index])
                seen = look(frame)
                if seen.plain:
                    continue
                if self._is_cut(before, seen):
                    cuts.add(number)
                place = 0 if before is None or number in cuts else place + 1
                if place % every == 0:
                    due.append(number)
                chunk[number], before = frame, seen
            found = dict(zip(due, self._detector.detect([chunk[number] for number in due], names), strict=True))
            for number, frame in chunk.items():
                yield _LookedAt(number, frame, found.get(number), number in cuts)

    def _is_cut(self, before: Look | None, after: Look) -> bool:
        return before is not None and unlikeness(before, after) >= self._config.cut_score


def build_ground(config: GroundingConfig) -> Ground:
    """The step with its models loaded, as the configuration says.

    Raises:
        ConfigError: a model can't be found or loaded, the device isn't there, or its memory doesn't hold both.
    """
    from ravst_ray.grounding.grounding_dino import GroundingDino
    from ravst_ray.grounding.sam2 import Sam2Video
    from ravst_ray.models.cards import check_grounding
    from ravst_ray.models.size import card_bytes

    card = card_bytes() if config.device != "cpu" else None
    if card is not None:
        check_grounding(config, card)
    detector = GroundingDino(
        config.detector,
        device=config.device,
        dtype=config.dtype,
        box_threshold=config.box_threshold,
        text_threshold=config.text_threshold,
        nms_iou=config.nms_iou,
        batch_frames=config.batch_frames,
    )
    return Ground(detector, Sam2Video(config.segmenter, device=config.device, dtype=config.dtype), config)


def _advance(tracker: Tracker, memory: MaskMemory, one: _LookedAt) -> Update:
    """One frame through memory and tracker; the memory follows what the tracker decided."""
    masks = memory.advance(one.frame)
    if one.found is None:
        return tracker.follow(one.number, masks)
    found = tracker.choose(masks, one.found)
    candidates: list[Candidate] = memory.segment([detection.box_xyxy_px for detection in found])
    detected = [
        DetectedMask(detection.phrase, detection.box_xyxy_px, detection.score, candidate.seen)
        for detection, candidate in zip(found, candidates, strict=True)
    ]
    update = tracker.update(one.number, masks, detected)
    for track_id, index in update.adopted.items():
        memory.adopt(track_id, candidates[index])
    for track_id in update.forgotten:
        memory.forget(track_id)
    return update


def _reidentified(paths: Iterable[_Path], threshold: float) -> list[_Path]:
    """The paths, those across a cut that show one object joined."""
    parts = list(paths)
    looks = [Appearance(path.name, path.shot, path.colours / max(path.colours.sum(), 1e-9)) for path in parts]
    joined: dict[int, _Path] = {}
    for first, path in zip(same_objects(looks, threshold), parts, strict=True):
        joined.setdefault(first, _Path(path.name, path.shot)).spots.extend(path.spots)
    return list(joined.values())


def _rounded(times_s: Iterable[float]) -> set[float]:
    return {round(time_s, 3) for time_s in times_s}


def _decode(jpeg: bytes) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(jpeg)) as image:
            return np.array(image.convert("RGB"))
    except OSError as error:
        raise StepError("bad_frame", f"a sampled frame is no readable JPEG: {error}") from error


def _to_track(
    number: int, path: _Path, thing: SceneObject, times_s: Mapping[int, float], frames: Frames, meta: VideoMeta
) -> Track:
    """A path as a record, at the frames that have one of ``times_s``.

    Here, and nowhere else, boxes go from pixels of the frames to pixels of the video.
    """
    x_scale, y_scale = meta.width / frames.width, meta.height / frames.height
    spots = [spot for spot in path.spots if spot.frame in times_s]
    boxes = [
        (round(x1 * x_scale, 1), round(y1 * y_scale, 1), round(x2 * x_scale, 1), round(y2 * y_scale, 1))
        for x1, y1, x2, y2 in (spot.box for spot in spots)
    ]
    codes = tuple(spot.rle for spot in spots if spot.rle is not None)
    return Track(
        track_id=number,
        name=thing.name,
        audible=thing.audible,
        times_s=tuple(times_s[spot.frame] for spot in spots),
        boxes_xyxy_px=tuple(boxes),
        scores=tuple(round(min(max(spot.score, 0.0), 1.0), 4) for spot in spots),
        masks_rle=codes or None,
        detected=tuple(spot.detected for spot in spots),
        shot=path.shot,
    )
