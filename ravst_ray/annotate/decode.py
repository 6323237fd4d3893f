"""Decoding: sampled frames and the sound level of a video, read once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ravst_ray.annotate.step import Step
from ravst_ray.config.annotate import DecodeConfig
from ravst_ray.core.frame_times import event_times, union_times
from ravst_ray.datasets.places import local_copy
from ravst_ray.errors import StepError
from ravst_ray.media.decoding import ChildDecoder
from ravst_ray.media.protocols import Decoder
from ravst_ray.records import Event, EventAnnotation, Video, VideoItem


class DecodeFrames(Step):
    """Fills in ``meta``, ``loudness``, ``frames`` and the frame times of every annotation.

    Where there are no annotations yet, each event gets a bare one. Only live events get frames; a video without one
    isn't opened. A video in an object store is fetched to this node first, and its copy removed afterwards. An event
    that reaches beyond the end of the real file keeps the frames that exist (the quality step judges it).

    Args:
        config: the step of the answers' times, the size of the frames, which decoder.
        decoder: reads the files; default: a child process, as ``config`` says.
        track_step_s: seconds between frames, a whole part of ``config.step_s``, which is the default.
    """

    stage = "decode"

    def __init__(self, config: DecodeConfig, decoder: Decoder | None = None, track_step_s: float | None = None):
        self.config = config
        self.decoder = decoder or ChildDecoder(config)
        self._parts = round(config.step_s / track_step_s) if track_step_s else 1

    def process(self, item: VideoItem) -> VideoItem:
        """Decode one video.

        Raises:
            StepError: the file can't be fetched or used, there is no event, or all events are outside the video
                (``event_outside_video``).
        """
        if not item.video.events:
            raise StepError("no_events", f"{item.video.video_id} has no events, so no frame of it is needed")
        annotations = item.annotations or tuple(EventAnnotation(event) for event in item.video.events)
        if not any(annotation.live for annotation in annotations):
            return replace(item, annotations=annotations)
        times_s = union_times(self._grid(item.video, one.event, self._parts) for one in annotations if one.live)
        with local_copy(item.video.path) as path:
            decoded = self.decoder.decode(path, times_s)
        existing = set(decoded.frames.times_s)
        if not existing:
            where = f"{Path(item.video.path).name} ends at {decoded.meta.duration_s:.1f} s"
            raise StepError("event_outside_video", f"no event is within the video: {where}; is it the right file?")
        annotations = tuple(
            replace(one, frame_times_s=tuple(t for t in self._grid(item.video, one.event) if t in existing))
            if one.live
            else one
            for one in annotations
        )
        return replace(
            item,
            meta=decoded.meta,
            loudness=decoded.loudness,
            frames=decoded.frames,
            annotations=annotations,
            provenance={
                **item.provenance,
                "decoder": decoded.meta.decoder,
                **({"pictures": decoded.meta.notes} if decoded.meta.notes else {}),
                "frame_step_s": f"{self.config.step_s:g}",
            },
        ).with_stats(frames_decoded=len(existing))

    def _grid(self, video: Video, event: Event, parts: int = 1) -> tuple[float, ...]:
        try:
            return event_times(event.start_s, event.end_s, self.config.step_s, parts)
        except ValueError as error:
            raise StepError("bad_event", f"{video.video_id}: {error}") from None
