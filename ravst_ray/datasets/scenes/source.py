"""What the readers of scenes share."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ravst_ray.core.scenes import Scene, Vector
from ravst_ray.datasets.places import is_remote, join, read_text
from ravst_ray.errors import ConfigError
from ravst_ray.records import Box

MOST_FRAMES = 1_000_000


@dataclass(frozen=True, slots=True)
class SceneRef:
    """One scene to be read; small enough to travel: its part of a file, or where its file is."""

    format: str
    scene_id: str
    content: Any


class SceneReader(Protocol):
    """Reads one format. ``list`` looks at whole files, ``read`` at one scene, wherever it runs."""

    format: str

    def list(self, place: str) -> list[SceneRef]:
        """What scenes there are.

        Raises:
            ConfigError: the place as a whole can't be used.
        """

    def read(self, ref: SceneRef) -> Scene:
        """One scene, unchecked.

        Raises:
            KeyError, TypeError, ValueError: something in this scene is malformed.
        """


def listed(format: str, scenes: Mapping[str, Any]) -> list[SceneRef]:
    """References to the scenes of a mapping, in its order."""
    return [SceneRef(format, scene_id, content) for scene_id, content in scenes.items()]


def frames_of(count: float) -> range:
    """The numbers of a scene's frames.

    Raises:
        ValueError: there are absurdly many.
    """
    if not 0 <= count <= MOST_FRAMES:
        raise ValueError(f"{count:g} frames; {MOST_FRAMES:,} at most")
    return range(round(count))


def box_of(numbers: Sequence[float]) -> Box:
    """Four numbers as a box.

    Raises:
        ValueError, TypeError: they are not four numbers.
    """
    x1, y1, x2, y2 = map(float, numbers)
    return x1, y1, x2, y2


def vector_of(numbers: Sequence[float]) -> Vector:
    """Three numbers as a point or a direction.

    Raises:
        ValueError, TypeError: they are not three numbers.
    """
    x, y, z = map(float, numbers)
    return x, y, z


def within(box: Box, size: tuple[int, int]) -> Box | None:
    """The part of a box in the picture; one that is no box at all is kept for the checks to find."""
    x1, y1, x2, y2 = box
    if not (x1 < x2 and y1 < y2):
        return box
    cut = max(x1, 0.0), max(y1, 0.0), min(x2, float(size[0])), min(y2, float(size[1]))
    return cut if cut[0] < cut[2] and cut[1] < cut[3] else None


def load_json(place: str, name: str = "") -> tuple[str, Any]:
    """A JSON file at any place, or the file of this name in a folder; with the place that was read.

    Raises:
        ConfigError: it can't be read.
    """
    is_folder = not place.partition("?")[0].endswith(".json") if is_remote(place) else Path(place).is_dir()
    if name and is_folder:
        place = join(place, name)
    try:
        return place, json.loads(read_text(place), object_pairs_hook=_once_each)
    except ConfigError as error:
        raise ConfigError(f"{error} (input.scenes)") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{place}: not a readable JSON file: {error} (input.scenes)") from None


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice!r} is there twice in one object")
    return found
