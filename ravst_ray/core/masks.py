"""Masks as boolean arrays ``[H, W]``: their boxes, their overlap, their COCO run-length code."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from ravst_ray.records import Box


def mask_box(mask: np.ndarray) -> Box | None:
    """The smallest box that holds all pixels of a mask; None where it has none.

    Boxes are half-open in the usual sense: a single pixel at (3, 5) has the box (3, 5, 4, 6).

    >>> mask_box(np.eye(4, dtype=bool))
    (0.0, 0.0, 4.0, 4.0)
    """
    columns = np.flatnonzero(mask.any(axis=0))
    rows = np.flatnonzero(mask.any(axis=1))
    if not columns.size:
        return None
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def without_specks(mask: np.ndarray, min_share: float = 0.1) -> np.ndarray:
    """The mask without its connected parts that are smaller than ``min_share`` of the largest one.

    One stray pixel far from the object would stretch its box. Parts that an occluder has cut off are large and stay.
    """
    labels, count = ndimage.label(mask)
    if count < 2:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return (sizes >= min_share * sizes.max())[labels] & mask


def mask_iou(masks_N: Sequence[np.ndarray], others_M: Sequence[np.ndarray]) -> np.ndarray:
    """Intersection over union of every mask with every other, ``[N, M]`` in [0, 1]; two empty masks have 0.

    >>> a = np.zeros((2, 2), bool); a[0] = True
    >>> mask_iou([a], [a, ~a, np.ones((2, 2), bool)]).tolist()
    [[1.0, 0.0, 0.5]]
    """
    if not len(masks_N) or not len(others_M):
        return np.zeros((len(masks_N), len(others_M)))
    left = np.stack([mask.ravel() for mask in masks_N]).astype(np.float32)
    right = np.stack([mask.ravel() for mask in others_M]).astype(np.float32)
    shared = (left @ right.T).astype(np.float64)
    union = left.sum(axis=1, dtype=np.float64)[:, None] + right.sum(axis=1, dtype=np.float64)[None, :] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def encode_rle(mask: np.ndarray) -> str:
    """A mask as COCO's compressed RLE, a JSON text ``{"size": [H, W], "counts": "…"}``."""
    from pycocotools import mask as coco

    rle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return json.dumps({"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode("ascii")})


def decode_rle(text: str) -> np.ndarray:
    """The inverse of :func:`encode_rle`."""
    from pycocotools import mask as coco

    rle = json.loads(text)
    return coco.decode({"size": rle["size"], "counts": rle["counts"].encode("ascii")}).astype(bool)
