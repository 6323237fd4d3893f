"""What the readers of scenes share."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ravst_ray.core.scenes import Scene, Vector
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


def load_json(place: str, name: str = "") -> tuple[Path, Any]:
    """A JSON file, or the file of this name in a folder; with the path that was read.

    Raises:
        ConfigError: it can't be read.
    """
    path = Path(place)
    if name and path.is_dir():
        path = path / name
    try:
        return path, json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once_each)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file (input.scenes)") from None
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not a readable JSON file: {error} (input.scenes)") from None


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice!r} is there twice in one object")
    return found
