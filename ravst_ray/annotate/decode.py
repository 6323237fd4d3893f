"""Decoding: sampled frames and the sound level of a video, read once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ravst_ray.annotate.step import Step
from ravst_ray.backends.decoding import ChildDecoder
from ravst_ray.backends.protocols import Decoder
from ravst_ray.config.annotate import DecodeConfig
from ravst_ray.core.frame_times import event_times, union_times
from ravst_ray.datasets.places import local_copy
from ravst_ray.errors import StepError
from ravst_ray.records import EventAnnotation, Video, VideoItem


class DecodeFrames(Step):
    """Fills in ``meta``, ``loudness``, ``frames`` and the frame times of each live event.

    A video in an object store is fetched to this node first, and its copy removed afterwards.
    An event that reaches beyond the end of the real file keeps the frames that exist (the quality step judges it).
    """

    stage = "decode"

    def __init__(self, config: DecodeConfig, decoder: Decoder | None = None):
        self.config = config
        self.decoder = decoder or ChildDecoder(config)

    def process(self, item: VideoItem) -> VideoItem:
        """Decode one video.

        Raises:
            StepError: the file can't be fetched or used, there is no event, or all events are outside the video
                (``event_outside_video``).
        """
        annotations = item.annotations or tuple(EventAnnotation(event) for event in item.video.events)
        if annotations and not any(one.live for one in annotations):
            return replace(item, annotations=annotations)
        grids = self._grids(replace(item.video, events=tuple(one.event for one in annotations if one.live)))
        with local_copy(item.video.path) as path:
            decoded = self.decoder.decode(path, union_times(grids))
        existing = set(decoded.frames.times_s)
        if not existing:
            where = f"{Path(item.video.path).name} ends at {decoded.meta.duration_s:.1f} s"
            raise StepError("event_outside_video", f"no event is within the video: {where}; is it the right file?")
        seen = iter(tuple(time_s for time_s in grid if time_s in existing) for grid in grids)
        annotations = tuple(replace(one, frame_times_s=next(seen)) if one.live else one for one in annotations)
        return replace(
            item,
            meta=decoded.meta,
            loudness=decoded.loudness,
            frames=decoded.frames,
            annotations=annotations,
            provenance={**item.provenance, "decoder": decoded.meta.decoder, "frame_step_s": f"{self.config.step_s:g}"},
        ).with_stats(frames_decoded=len(existing))

    def _grids(self, video: Video) -> list[tuple[float, ...]]:
        if not video.events:
            raise StepError("no_events", f"{video.video_id} has no events, so no frame of it is needed")
        try:
            return [event_times(event.start_s, event.end_s, self.config.step_s) for event in video.events]
        except ValueError as error:
            raise StepError("bad_event", f"{video.video_id}: {error}") from None
