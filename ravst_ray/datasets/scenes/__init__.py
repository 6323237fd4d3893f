"""Readers of scenes, by the name of their format."""

from __future__ import annotations

from ravst_ray.core.scenes import Scene, check_scene
from ravst_ray.datasets.scenes.kitti import KittiReader
from ravst_ray.datasets.scenes.ravst import RavstReader
from ravst_ray.datasets.scenes.scannet import ScannetReader
from ravst_ray.datasets.scenes.source import SceneReader, SceneRef
from ravst_ray.datasets.scenes.tao import TaoReader
from ravst_ray.datasets.scenes.toy import ToyReader

_ALL: tuple[SceneReader, ...] = (RavstReader(), TaoReader(), KittiReader(), ScannetReader(), ToyReader())
READERS: dict[str, SceneReader] = {reader.format: reader for reader in _ALL}


def read_scene(ref: SceneRef) -> Scene:
    """One scene, read and checked.

    Raises:
        ValueError: it is malformed; the message says in what.
    """
    try:
        return check_scene(READERS[ref.format].read(ref))
    except KeyError as error:
        raise ValueError(f"{error.args[0]!r} is missing") from error
    except (TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"not as the format has it: {error}") from error
