"""Reading chosen pictures with decord, in sorted batches of bounded size.

decord reads ahead without limit between single pictures (one batch doesn't), gives no signs of its errors, and is
wrong on some files: those it refuses here with :class:`DecordRefusal`, and PyAV reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import decord
import numpy as np

from ravst_ray.media.index import VideoIndex

NAME = f"decord {decord.__version__}"
THREADS = 1
_MAX_BATCH = 32
_MAX_BATCH_BYTES = 256 * 2**20
_SEEKABLE = ("mov", "matroska")
_MIN_WIDTH = 64  # padding of narrower rows is taken for a fourth channel

decord.logging.set_level(decord.logging.QUIET)


class DecordRefusal(Exception):
    """decord can't be trusted with this file, or gave up on it."""


def read_pictures(index: VideoIndex, wanted: Sequence[int]) -> Iterator[np.ndarray]:
    """The pictures with these rising indices, as they are shown: uint8 RGB ``[H, W, 3]``.

    Raises:
        DecordRefusal: before the first picture, or in between.
    """
    _check_trust(index)
    try:
        reader = decord.VideoReader(index.path, num_threads=THREADS)
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


def _check_trust(index: VideoIndex) -> None:
    """Refuse what decord was measured to get wrong: other pictures than asked for, without any sign."""
    if not index.container.startswith(_SEEKABLE):
        raise DecordRefusal(f"its seeking is inexact in this container ({index.container})")
    if index.container.startswith("mov") and index.listed != len(index):
        raise DecordRefusal("its seeking is inexact in fragmented MP4")
    if index.leading:
        raise DecordRefusal("it miscounts pictures stored after the keyframe that follows them (open GOP)")
    if index.hidden:
        raise DecordRefusal("it shows pictures that the container hides")
    if min(index.coded_width, index.coded_height) < _MIN_WIDTH:
        raise DecordRefusal(f"it misreads pictures narrower than {_MIN_WIDTH} pixels")
    if index.rotation and not index.container.startswith("mov"):
        raise DecordRefusal("it ignores the rotation in this container")
