"""Readers of scenes, by the name of their format."""

from __future__ import annotations

from collections import Counter

from ravst_ray.core.scenes import Scene, check_scene
from ravst_ray.datasets.scenes.kitti import KittiReader
from ravst_ray.datasets.scenes.ravst import RavstReader
from ravst_ray.datasets.scenes.scannet import ScannetReader
from ravst_ray.datasets.scenes.source import SceneReader, SceneRef
from ravst_ray.datasets.scenes.tao import TaoReader
from ravst_ray.datasets.scenes.toy import ToyReader
from ravst_ray.errors import ConfigError

_ALL: tuple[SceneReader, ...] = (RavstReader(), TaoReader(), KittiReader(), ScannetReader(), ToyReader())
READERS: dict[str, SceneReader] = {reader.format: reader for reader in _ALL}


_NOT_SO = (TypeError, AttributeError, IndexError, OverflowError, ZeroDivisionError)
"""What reading raises where something has another type or size than the format says."""


def list_scenes(form: str, place: str) -> list[SceneRef]:
    """References to the scenes of a place.

    Raises:
        ConfigError: the place as a whole can't be used, or a scene is there twice.
    """
    try:
        refs = READERS[form].list(place)
    except (KeyError, *_NOT_SO) as error:
        raise ConfigError(f"{place}: not as the format {form} has it: {error!r} (input.scenes)") from error
    twice = [name for name, count in Counter(ref.scene_id for ref in refs).items() if count > 1]
    if twice:
        raise ConfigError(f"{place}: {len(twice)} scene ids are there twice ({twice[0]}, …)")
    if not refs:
        raise ConfigError(f"{place}: no scenes in it (input.scenes, format {form})")
    return refs


def read_scene(ref: SceneRef) -> Scene:
    """One scene, read and checked.

    Raises:
        ValueError: it is malformed; the message says in what.
    """
    try:
        return check_scene(READERS[ref.format].read(ref))
    except KeyError as error:
        raise ValueError(f"{error.args[0]!r} is missing") from error
    except _NOT_SO as error:
        raise ValueError(f"not as the format has it: {error}") from error
