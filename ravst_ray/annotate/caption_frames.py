"""A few frames of each event that a vision-language model is to caption: no others, and no sound."""

from __future__ import annotations

from dataclasses import replace

from ravst_ray.annotate.step import Step
from ravst_ray.annotate.texts import lacks_caption
from ravst_ray.config.annotate import DecodeConfig
from ravst_ray.core.frame_times import event_times, round_to_tenth, spread_indices, union_times
from ravst_ray.datasets.places import local_copy
from ravst_ray.errors import StepError
from ravst_ray.media.decoding import ChildDecoder
from ravst_ray.media.protocols import Decoder
from ravst_ray.records import Event, Frames, VideoItem


class CaptionFrames(Step):
    """Fills in ``frames`` for the events without a caption; a video without such events passes unread.

    An event that lies outside the real file has no frames: its label is read.

    Args:
        config: how frames are decoded; its grid is that of the answers, of which these are a part.
        count: frames of each event.
        decoder: reads them.
    """

    stage = "decode"

    def __init__(self, config: DecodeConfig, count: int, decoder: Decoder | None = None):
        self._config = config
        self._count = count
        self._decoder = decoder or ChildDecoder(config, sound=False)

    def process(self, item: VideoItem) -> VideoItem:
        """Decode for one video.

        Raises:
            StepError: the file can't be fetched or used, or an event has no possible times (``bad_event``).
        """
        events = [event for event in item.video.events if lacks_caption(event)]
        if not events:
            return item
        try:
            times_s = union_times(self._times(event) for event in events)
        except ValueError as error:
            raise StepError("bad_event", f"{item.video.video_id}: {error}") from None
        with local_copy(item.video.path) as path:
            frames = self._decoder.decode(path, times_s).frames
        return replace(item, frames=frames).with_stats(caption_frames=len(frames.times_s))

    def _times(self, event: Event) -> tuple[float, ...]:
        grid = event_times(event.start_s, event.end_s, self._config.step_s)
        return tuple(grid[k] for k in spread_indices(len(grid), self._count))


def spread(frames: Frames, event: Event, count: int) -> list[bytes]:
    """Up to ``count`` of the frames that lie in an event, evenly spread over it, from its first to its last."""
    first_s, last_s = (float(round_to_tenth(time_s)) for time_s in (event.start_s, event.end_s))  # as they are sampled
    inside = [j for t, j in zip(frames.times_s, frames.jpegs, strict=True) if first_s <= t <= last_s]
    return [inside[k] for k in spread_indices(len(inside), count)]
