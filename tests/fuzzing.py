"""Files as nobody writes them on purpose: valid ones, damaged at random but the same way for the same number."""

from __future__ import annotations

import copy
import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.broken_videos import Recipe, write_video

_SMALL = {"pictures": 30, "width": 64, "height": 48, "key_every": 10}
CONTAINERS: dict[str, tuple[str, Recipe]] = {
    "mp4": ("mp4", Recipe(**_SMALL)),
    "fragmented": ("mp4", Recipe(**_SMALL, container_options=(("movflags", "frag_keyframe+empty_moov"),))),
    "hevc": ("mp4", Recipe(**_SMALL, codec="libx265")),
    "mkv": ("mkv", Recipe(**_SMALL, sound_codec="pcm_s16le")),
    "avi": ("avi", Recipe(**_SMALL, codec="mpeg4", sound_codec="libmp3lame")),
    "ts": ("ts", Recipe(**_SMALL, sound_codec="mp2")),
    "flv": ("flv", Recipe(**_SMALL)),
}
_SIZES = (0, 1, 7, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_BOXES = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stts", b"stsz", b"stco", b"stss", b"ctts", b"stsc", b"stsd",
          b"mvhd", b"tkhd", b"mdhd", b"edts", b"elst", b"mdat", b"ftyp", b"avcC", b"moof", b"traf",
          b"trun")  # fmt: skip
Bytes = Callable[[bytearray, random.Random], None]


def write_containers(folder: Path) -> dict[str, bytes]:
    """One valid file of each container."""
    return {
        name: write_video(folder / f"{name}.{ending}", recipe).read_bytes()
        for name, (ending, recipe) in CONTAINERS.items()
    }


def damage(valid: bytes, number: int) -> bytes:
    """A file with one to three damages, chosen by the number."""
    chance, data = random.Random(number), bytearray(valid)
    for _ in range(chance.randint(1, 3)):
        chance.choice(_DAMAGES)(data, chance)
    return bytes(data)


def _place(data: bytearray, chance: random.Random) -> int:
    """A place, often one near an end: that is where headers and indexes are."""
    where = chance.random()
    if where < 0.4:
        return chance.randrange(min(len(data), 1500) or 1)
    if where < 0.6:
        return max(0, len(data) - 1 - chance.randrange(3000))
    return chance.randrange(len(data) or 1)


def _flip(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 3, 30, 300))):
        if data:
            data[_place(data, chance)] ^= 1 << chance.randrange(8)


def _truncate(data: bytearray, chance: random.Random) -> None:
    del data[_place(data, chance) :]


def _splice(data: bytearray, chance: random.Random) -> None:
    start, length = _place(data, chance), chance.choice((4, 60, 900, 5000))
    data[(to := _place(data, chance)) : to] = data[start : start + length]


def _cut_out(data: bytearray, chance: random.Random) -> None:
    start = _place(data, chance)
    del data[start : start + chance.choice((1, 4, 60, 900))]


def _fill(data: bytearray, chance: random.Random) -> None:
    start, length = _place(data, chance), chance.choice((4, 60, 900))
    end = min(start + length, len(data))
    data[start:end] = bytes([chance.choice((0, 0xFF, 0x47))]) * (end - start)


def _huge_number(data: bytearray, chance: random.Random) -> None:
    place = _place(data, chance)
    if place + 4 <= len(data):
        struct.pack_into(chance.choice(("<I", ">I")), data, place, chance.choice(_SIZES))


def _boxes(data: bytearray) -> list[tuple[int, int]]:
    """Start and length of what looks like a box of MP4, nested ones too."""
    found = []
    for name in _BOXES:
        place = data.find(name)
        while place >= 4:
            length = int.from_bytes(data[place - 4 : place], "big")
            if 8 <= length <= len(data) - place + 4:
                found.append((place - 4, length))
            place = data.find(name, place + 1)
    return sorted(found)


def _box_field(data: bytearray, chance: random.Random) -> None:
    """Another size of a box, or another number in its first fields: a count, a width, a rate."""
    if found := _boxes(data):
        start, length = chance.choice(found)
        place = start + chance.choice((0, 12, 16, 20, *range(8, max(min(length, 100), 12), 4)))
        if place + 4 <= len(data):
            struct.pack_into(">I", data, place, chance.choice(_SIZES))


def _swap_boxes(data: bytearray, chance: random.Random) -> None:
    if len(found := _boxes(data)) >= 2:
        (a, a_length), (b, b_length) = sorted(chance.sample(found, 2))
        if a + a_length <= b:
            data[a : b + b_length] = data[b : b + b_length] + data[a + a_length : b] + data[a : a + a_length]
        else:  # one within the other: the inner one becomes the outer one's neighbour
            data[a:a] = data[b : b + b_length]


_DAMAGES: tuple[Bytes, ...] = (
    _flip, _truncate, _splice, _cut_out, _fill, _huge_number, _box_field, _box_field, _swap_boxes
)  # fmt: skip

_ODD_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1e308, float("nan"), float("inf"), 10**30, "", " ", "nan", "\ud800", "\0", "../../x", "<b>",
    [], {}, [[]], "x" * 5000, ["a", 1, None], {"a": {"b": []}}, [0.0, 1.0], [5.0, 1.0], [[0.0, 1.0]],
)  # fmt: skip


def damage_json(valid: str, number: int) -> bytes:
    """A JSON text in which values are replaced, removed or doubled, or whose text itself is damaged."""
    chance = random.Random(number)
    if chance.random() < 0.25:
        data = bytearray(valid.encode())
        chance.choice((_flip, _truncate, _cut_out, _splice))(data, chance)
        return bytes(data)
    tree = json.loads(valid)
    for _ in range(chance.randint(1, 4)):
        node: Any = {"": tree}
        key: Any = ""
        while isinstance(node[key], dict | list) and node[key] and chance.random() < 0.9:
            node = node[key]
            key = chance.choice(list(node)) if isinstance(node, dict) else chance.randrange(len(node))
        kind = chance.random()
        if key == "":
            tree = copy.deepcopy(chance.choice(_ODD_VALUES))
            break
        if kind < 0.6:
            node[key] = copy.deepcopy(chance.choice(_ODD_VALUES))
        elif kind < 0.75:
            del node[key]
        elif kind < 0.9 and isinstance(node, list):
            node.append(copy.deepcopy(node[key]))
        elif isinstance(node, dict):
            node[chance.choice(("", "id", "segment", "../x", "\0", "label"))] = copy.deepcopy(node[key])
        else:
            node[key] = [copy.deepcopy(node[key])]
    return json.dumps(tree, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")
