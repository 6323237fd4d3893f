"""Sampling one video: index, pictures at the wanted times, JPEG, loudness. Runs in the decoder's child process."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np
from PIL import Image

from ravst_ray.config.annotate import DecodeConfig
from ravst_ray.errors import StepError
from ravst_ray.logs import get_logger
from ravst_ray.media import pyav_decoder
from ravst_ray.media.audio import loudness
from ravst_ray.media.index import VideoIndex, index_video
from ravst_ray.records import Loudness, VideoMeta

log = get_logger(__name__)


@dataclass(frozen=True)
class Sampled:
    """What is known of a video when its pictures have been handed over.

    ``picture_T`` tells for each of ``times_s`` which of the handed-over pictures is shown then.
    """

    meta: VideoMeta
    loudness: Loudness | None
    times_s: tuple[float, ...]
    picture_T: tuple[int, ...]
    width: int
    height: int


def sample_video(
    path: str, times_s: Sequence[float], config: DecodeConfig, keep: Callable[[bytes], None], sound: bool = True
) -> Sampled:
    """Hand the JPEGs of the pictures shown at ``times_s`` to ``keep``, each picture once, in order.

    Times at which no picture is shown are left out. Loudness is measured where ``sound`` is wanted.

    Raises:
        StepError: the file can't be used, see :func:`ravst_ray.media.index.index_video`.
    """
    index = index_video(path)
    shown = [(time_s, number) for time_s in times_s if (number := index.shown_at(time_s)) is not None]
    wanted = sorted({number for _, number in shown})
    width, height = scaled_size(index.meta.width, index.meta.height, config.max_side_px)
    reader = _Reader(config.backend)
    try:
        for picture in reader.read(index, wanted):
            keep(to_jpeg(picture, width, height, config.jpeg_quality))
    except av.error.FFmpegError as error:
        raise StepError("undecodable", f"{Path(path).name}: its pictures can't be decoded: {error}") from None
    place = {number: position for position, number in enumerate(wanted)}
    return Sampled(
        meta=replace(index.meta, decoder=reader.name),
        loudness=loudness(path, index.meta.duration_s) if sound and index.meta.has_audio else None,
        times_s=tuple(time_s for time_s, _ in shown),
        picture_T=tuple(place[number] for _, number in shown),
        width=width,
        height=height,
    )


class _Reader:
    """The chosen decoder, and PyAV for what decord refuses; ``name`` is the one that read last."""

    def __init__(self, backend: str):
        self._backend = backend
        self.name = pyav_decoder.NAME

    def read(self, index: VideoIndex, wanted: Sequence[int]) -> Iterator[np.ndarray]:
        """The wanted pictures, in order."""
        done = 0
        if self._backend == "decord":
            from ravst_ray.media import decord_decoder

            self.name = decord_decoder.NAME
            try:
                for picture in decord_decoder.read_pictures(index, wanted):
                    done += 1
                    yield picture
                return
            except decord_decoder.DecordRefusal as refusal:
                log.info("%s: read by PyAV, not decord: %s", index.path, refusal)
                self.name = pyav_decoder.NAME
        yield from pyav_decoder.read_pictures(index, wanted[done:])


def scaled_size(width: int, height: int, max_side_px: int) -> tuple[int, int]:
    """Width and height such that the longer side is at most ``max_side_px``; nothing is scaled up."""
    scale = min(1.0, max_side_px / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def to_jpeg(picture: np.ndarray, width: int, height: int, quality: int) -> bytes:
    """Scale uint8 RGB ``[H, W, 3]`` and encode it, colours at full resolution (4:4:4)."""
    image = Image.fromarray(np.ascontiguousarray(picture))
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, subsampling=0)
    return file.getvalue()
