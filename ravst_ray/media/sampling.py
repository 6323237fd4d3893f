"""Sampling one video: index, pictures at the wanted times, JPEG, loudness. Runs in the decoder's child process."""

from __future__ import annotations

import io
import itertools
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
from ravst_ray.media.display import Picture, is_combed
from ravst_ray.media.index import VideoIndex, index_video, long_span
from ravst_ray.records import Loudness, VideoMeta

log = get_logger(__name__)

# Combing that nobody flagged is looked for in the first pictures; a few must show it, and most of them.
_PROBED = 8
_COMBED = 2


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
    index = index_video(path, times_s, config.max_pixels)
    shown = [(time_s, number) for time_s in times_s if (number := index.shown_at(time_s)) is not None]
    wanted = sorted({number for _, number in shown})
    size = scaled_size(index.meta.width, index.meta.height, config.max_side_px)
    reader = _Reader(index, wanted, size, config)
    try:
        for jpeg in reader.jpegs():
            keep(jpeg)
    except av.error.FFmpegError as error:
        raise StepError("undecodable", f"{Path(path).name}: its pictures can't be decoded: {error}") from None
    place = {number: position for position, number in enumerate(wanted)}
    notes = [*reader.notes, *index.notes([time_s for time_s, _ in shown])]
    heard, part = sound and index.meta.has_audio, index.part or long_span(times_s, index.end_s)
    return Sampled(
        meta=replace(index.meta, decoder=reader.name, notes="; ".join(notes)),
        loudness=loudness(path, index.meta.duration_s, part) if heard else None,
        times_s=tuple(time_s for time_s, _ in shown),
        picture_T=tuple(place[number] for _, number in shown),
        width=size[0],
        height=size[1],
    )


class _Reader:
    """The decoder that is right for a file. ``name`` is the one that read last, ``notes`` what it did unasked."""

    def __init__(self, index: VideoIndex, wanted: Sequence[int], size: tuple[int, int], config: DecodeConfig):
        self._index, self._wanted, self._size, self._config = index, wanted, size, config
        self.name = pyav_decoder.NAME
        self.notes: list[str] = []

    def jpegs(self) -> Iterator[bytes]:
        """The wanted pictures, in order. Where the first ones turn out to be combed, all are read deinterlaced."""
        held: list[bytes] = []
        combed = damaged = 0
        pictures = self._pictures()
        for picture in itertools.islice(pictures, _PROBED):
            held.append(self._jpeg(picture))
            combed += picture.combed
            damaged += picture.damaged
        if combed >= _COMBED and 2 * combed > len(held):
            self.name, self.notes = pyav_decoder.NAME, ["combed, so deinterlaced (bwdif)"]
            held, combed, damaged, pictures = [], 0, 0, self._pyav(self._wanted, combed=True)
        yield from held
        for picture in pictures:
            combed += picture.combed
            damaged += picture.damaged
            yield self._jpeg(picture)
        told = {"combed": combed, "damaged": damaged}
        self.notes += [f"{what} pictures: {count} of {len(self._wanted)}" for what, count in told.items() if count]

    def _jpeg(self, picture: Picture) -> bytes:
        return to_jpeg(picture.rgb, *self._size, self._config.jpeg_quality)

    def _pyav(self, wanted: Sequence[int], combed: bool = False) -> Iterator[Picture]:
        return pyav_decoder.read_pictures(self._index, wanted, self._size, self._config.max_pixels, combed)

    def _pictures(self) -> Iterator[Picture]:
        done = 0
        if self._config.backend != "pyav":
            from ravst_ray.media import decord_decoder

            try:
                self.name = decord_decoder.NAME
                for picture in decord_decoder.read_pictures(self._index, self._wanted):
                    done += 1
                    yield Picture(picture, is_combed(picture[..., 1]))
                return
            except decord_decoder.DecordRefusal as refusal:
                file = Path(self._index.path).name
                if self._config.backend == "decord":
                    message = f"{file}: decord can't be trusted: {refusal}; set decode.backend=auto"
                    raise StepError("not_for_decord", message, retryable=True) from None
                log.debug("%s: read by PyAV, not decord: %s", file, refusal)
                self.name = pyav_decoder.NAME
        yield from self._pyav(self._wanted[done:])


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
