"""Step 3: where each named object is, second by second.

    JPEGs ──► chunk of frames ──► detector (batches) ──┐
                    │                                   ▼
                    └─► segmenter's memory, frame by frame ──► Tracker ──► tracks in pixels of the video

Frames are decoded a chunk at a time and streamed through the segmenter's memory, which runs on from chunk to chunk: an
hour of video needs as much memory as a minute, and where chunks end makes no difference to the tracks.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version

import numpy as np
from PIL import Image

from ravst_ray.annotate.step import Step
from ravst_ray.annotate.tracking import DetectedMask, Sighting, Tracker, TrackingRules, Update
from ravst_ray.backends.protocols import Candidate, Detection, Detector, MaskMemory, Segmenter
from ravst_ray.config.annotate import GroundingConfig
from ravst_ray.core.masks import encode_rle
from ravst_ray.errors import StepError
from ravst_ray.records import Box, EventAnnotation, Frames, SceneObject, Track, VideoItem, VideoMeta


@dataclass
class _Path:
    """A track as it grows; boxes in pixels of the frames."""

    name: int
    frames: list[int] = field(default_factory=list)
    sightings: list[tuple[Box, float, str | None]] = field(default_factory=list)


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
            "transformers": version("transformers"),
        }

    def process(self, item: VideoItem) -> VideoItem:
        """One video: all its events.

        Raises:
            StepError: ``no_frames`` or ``bad_frame`` when the frames aren't there or aren't JPEGs, ``out_of_memory``.
        """
        if item.frames is None or item.meta is None:
            raise StepError("no_frames", f"{item.video.video_id}: no decoded frames to look at")
        index_of = {round(time_s, 3): index for index, time_s in enumerate(item.frames.times_s)}
        grounded, frames_seen = [], 0
        for annotation in item.annotations:
            wanted = (round(time_s, 3) for time_s in annotation.frame_times_s)
            indices = [index_of[time_s] for time_s in wanted if time_s in index_of]
            tracks = self._tracks(item.frames, item.meta, indices, annotation)
            grounded.append(replace(annotation, tracks=tracks))
            frames_seen += len(indices) if annotation.objects else 0
        provenance = {**item.provenance, **self._provenance}
        return replace(item, annotations=tuple(grounded), provenance=provenance).with_stats(frames_grounded=frames_seen)

    def _tracks(
        self, frames: Frames, meta: VideoMeta, indices: Sequence[int], annotation: EventAnnotation
    ) -> tuple[Track, ...]:
        if not annotation.objects or not indices:
            return ()
        names = [one.name for one in annotation.objects]
        paths = self._follow(frames, indices, names)
        times_s = [frames.times_s[index] for index in indices]
        return tuple(
            _to_track(number, path, annotation.objects[path.name], times_s, frames, meta)
            for number, path in enumerate(paths.values(), start=1)
        )

    def _follow(self, frames: Frames, indices: Sequence[int], names: Sequence[str]) -> dict[int, _Path]:
        """Track id -> path through the frames ``indices``, in the order in which objects appear."""
        config = self._config
        tracker = Tracker(TrackingRules(config.match_iou, config.keep_score, config.max_missed))
        memory = self._segmenter.memory()
        paths: dict[int, _Path] = {}
        for number, frame, found in self._looked_at(frames, indices, names):
            for track_id, sighting in sorted(_advance(tracker, memory, number, frame, found).sightings.items()):
                path = paths.setdefault(track_id, _Path(tracker.name_of(track_id)))
                path.frames.append(number)
                path.sightings.append((sighting.box, sighting.score, self._rle(sighting)))
        return paths

    def _looked_at(
        self, frames: Frames, indices: Sequence[int], names: Sequence[str]
    ) -> Iterator[tuple[int, np.ndarray, list[Detection] | None]]:
        """(number within the event, frame, detections), chunk by chunk; None where the detector is not run."""
        size = self._config.chunk_frames
        for start in range(0, len(indices), size):
            chunk = [_decode(frames.jpegs[index]) for index in indices[start : start + size]]
            due = [offset for offset in range(len(chunk)) if (start + offset) % self._config.detect_every == 0]
            found = dict(zip(due, self._detector.detect([chunk[offset] for offset in due], names), strict=True))
            for offset, frame in enumerate(chunk):
                yield start + offset, frame, found.get(offset)

    def _rle(self, sighting: Sighting) -> str | None:
        return encode_rle(sighting.mask) if self._config.masks else None


def build_ground(config: GroundingConfig) -> Ground:
    """The step with its models loaded, as the configuration says.

    Raises:
        ConfigError: a model can't be found or loaded, the device isn't there, or its memory doesn't hold both.
    """
    from ravst_ray.backends.cards import check_grounding
    from ravst_ray.backends.grounding_dino import GroundingDino
    from ravst_ray.backends.model_size import card_bytes
    from ravst_ray.backends.sam2 import Sam2Video

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


def _advance(
    tracker: Tracker, memory: MaskMemory, number: int, frame: np.ndarray, found: list[Detection] | None
) -> Update:
    """One frame through memory and tracker; the memory follows what the tracker decided."""
    masks = memory.advance(frame)
    if found is None:
        return tracker.follow(number, masks)
    candidates: list[Candidate] = memory.segment([one.box_xyxy_px for one in found])
    detected = [
        DetectedMask(one.phrase, one.box_xyxy_px, one.score, candidate.seen)
        for one, candidate in zip(found, candidates, strict=True)
    ]
    update = tracker.update(number, masks, detected)
    for track_id, index in update.adopted.items():
        memory.adopt(track_id, candidates[index])
    for track_id in update.forgotten:
        memory.forget(track_id)
    return update


def _decode(jpeg: bytes) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(jpeg)) as image:
            return np.array(image.convert("RGB"))
    except OSError as error:
        raise StepError("bad_frame", f"a sampled frame is no readable JPEG: {error}") from error


def _to_track(
    number: int, path: _Path, thing: SceneObject, times_s: Sequence[float], frames: Frames, meta: VideoMeta
) -> Track:
    """A path as a record. Here, and nowhere else, boxes go from pixels of the frames to pixels of the video."""
    x_scale, y_scale = meta.width / frames.width, meta.height / frames.height
    boxes = [
        (round(x1 * x_scale, 1), round(y1 * y_scale, 1), round(x2 * x_scale, 1), round(y2 * y_scale, 1))
        for (x1, y1, x2, y2), _, _ in path.sightings
    ]
    codes = tuple(code for _, _, code in path.sightings if code is not None)
    return Track(
        track_id=number,
        name=thing.name,
        audible=thing.audible,
        times_s=tuple(times_s[frame] for frame in path.frames),
        boxes_xyxy_px=tuple(boxes),
        scores=tuple(round(min(max(score, 0.0), 1.0), 4) for _, score, _ in path.sightings),
        masks_rle=codes or None,
    )
