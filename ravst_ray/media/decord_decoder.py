"""Reading chosen pictures with decord, in sorted batches of bounded size.

decord reads ahead without limit between single pictures (one batch doesn't), gives no signs of its errors, and is
wrong on many kinds of files. It is given those alone on which it was shown to be right, picture by picture (the sweep
in ``tests/test_decoders.py``); what it refuses here with :class:`DecordRefusal` is for PyAV.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import decord
import numpy as np

from ravst_ray.media.display import is_untagged_hd
from ravst_ray.media.index import VideoIndex

NAME = f"decord {decord.__version__}"
THREADS = 1
_MAX_BATCH = 32
_MAX_BATCH_BYTES = 256 * 2**20
_MIN_WIDTH = 64  # padding of narrower rows is taken for a fourth channel

decord.logging.set_level(decord.logging.QUIET)


class DecordRefusal(Exception):
    """decord isn't proven for this file, or gave up on it."""


def read_pictures(index: VideoIndex, wanted: Sequence[int]) -> Iterator[np.ndarray]:
    """The pictures with these rising indices: uint8 RGB ``[H, W, 3]``, at their full size.

    Raises:
        DecordRefusal: before the first picture, or in between.
    """
    if doubt := unproven(index):
        raise DecordRefusal(doubt)
    try:
        reader = decord.VideoReader(os.path.abspath(index.path), num_threads=THREADS)
        if len(reader) != len(index):
            raise DecordRefusal(f"it counts {len(reader)} pictures, there are {len(index)}")
        for batch in batches(wanted, 3 * index.meta.width * index.meta.height):
            pictures = reader.get_batch(batch).asnumpy()
            if pictures.shape[1:] != (index.meta.height, index.meta.width, 3):
                raise DecordRefusal(f"its pictures have the shape {pictures.shape[1:]}")
            yield from pictures
    except (decord.DECORDError, RuntimeError, IndexError) as error:
        raise DecordRefusal(str(error).strip().splitlines()[0]) from None


def batches(wanted: Sequence[int], picture_bytes: int) -> Iterator[list[int]]:
    """Pieces of ``wanted`` of at most 32 pictures and, above one picture, 256 MiB."""
    size = max(1, min(_MAX_BATCH, _MAX_BATCH_BYTES // max(picture_bytes, 1)))
    for start in range(0, len(wanted), size):
        yield list(wanted[start : start + size])


def unproven(index: VideoIndex) -> str:
    """Why decord isn't proven for a file, "" where it is."""
    container = index.container.split(",")[0]
    facts = {
        f"in this container ({container})": container in ("mov", "matroska"),
        f"for this codec ({index.codec})": index.codec in ("h264", "hevc"),
        f"for these pixels ({index.pixels})": index.pixels == "yuv420p",
        "for HD without a colour matrix": not is_untagged_hd(index.display.coded, index.display.tagged),
        "in fragmented MP4": container != "mov" or index.listed == len(index),
        "with several video streams": index.video_streams == 1,
        "where keyframes need pictures before them": index.clean,
        "where the container hides pictures": not index.hidden,
        "where pictures have no times, or the same": not index.counted and bool((np.diff(index.pts_T) > 0).all()),
        "where pictures are turned, interlaced, HDR or not of square pixels": index.display.plain,
        f"for pictures narrower than {_MIN_WIDTH} pixels": min(index.display.coded) >= _MIN_WIDTH,
        "for a part of a file": index.part is None,
    }
    return next((f"it isn't proven {doubt}" for doubt, proven in facts.items() if not proven), "")
