"""Where the tiny checkpoints lie, as paths that ``from_pretrained`` takes."""

from __future__ import annotations

from pathlib import Path

DETECTOR = Path(__file__).parent / "grounding-dino-tiny-toy"
SEGMENTER = Path(__file__).parent / "sam2-tiny-toy"
