"""Scenes that are left out because a benchmark has them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ravst_ray.errors import ConfigError

_SCANNET = re.compile(r"(scene\d{4})(?:_\d\d)?")


def read_excluded(files: Sequence[str]) -> frozenset[str]:
    """The ids in these files, one a line; blank lines and what follows a # don't count.

    Raises:
        ConfigError: a file can't be read.
    """
    found: set[str] = set()
    for file in files:
        try:
            lines = Path(file).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file}: not a readable list of scenes: {error} (exclude)") from None
        found |= {name for line in lines if (name := line.partition("#")[0].strip())}
    return frozenset(found)


def aliases(scene_id: str) -> set[str]:
    """Names under which a list may mean a scene: its id, the parts of it, and of a ScanNet scan the room.

    A room was scanned several times (scene0011_00, scene0011_01): whoever has seen one scan knows the room.

    >>> sorted(aliases("scene0011_01"))
    ['scene0011', 'scene0011_01']
    >>> sorted(aliases("train/HACS/v_1"))
    ['train/HACS', 'train/HACS/v_1', 'v_1']
    """
    folder, _, name = scene_id.rpartition("/")
    found = {scene_id, name} | ({folder} if folder else set())
    return found | {match[1] for part in (name, folder) if (match := _SCANNET.fullmatch(part))}


def split_excluded(scene_ids: Iterable[str], excluded: frozenset[str]) -> tuple[set[str], int]:
    """Which of the scenes are left out, and how many of the list's ids are none of them."""
    rooms = excluded | {match[1] for name in excluded if (match := _SCANNET.fullmatch(name))}
    out: set[str] = set()
    known: set[str] = set()
    for scene_id in scene_ids:
        names = aliases(scene_id)
        known |= names
        if names & rooms:
            out.add(scene_id)
    met = sum(bool(aliases(name) & known) for name in excluded)
    return out, len(excluded) - met
