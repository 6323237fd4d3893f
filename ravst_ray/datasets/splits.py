"""Train and test, and file names, from a video id alone: adding videos never moves one."""

from __future__ import annotations

import hashlib
import re
from typing import Literal

Split = Literal["train", "test"]

_PREFIX_CHARS = 40


def hash_share(seed: int, video_id: str, purpose: str = "") -> float:
    """A number in [0, 1), uniform over ids and fixed by its arguments on every machine.

    Args:
        seed: of the run.
        video_id: any text.
        purpose: keeps two uses of the same seed independent of each other.
    """
    digest = hashlib.sha256(f"{purpose}\0{seed}\0{video_id}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def split_of(video_id: str, seed: int, test_share: float) -> Split:
    """The part of the dataset that a video belongs to; a larger ``test_share`` only ever moves videos into test.

    >>> split_of("zLfhRM6G0OU", seed=0, test_share=0.0)
    'train'
    """
    return "test" if hash_share(seed, video_id, "split") < test_share else "train"


def unit_key(video_id: str) -> str:
    """A file name for what belongs to a video: ASCII, at most 57 characters, different for different ids.

    The readable prefix is for people, the hash behind it tells ids apart (also where case is ignored).
    """
    prefix = re.sub(r"[^A-Za-z0-9_]+", "_", video_id)[:_PREFIX_CHARS]
    return f"{prefix}-{hashlib.sha1(video_id.encode(), usedforsecurity=False).hexdigest()[:16]}"
