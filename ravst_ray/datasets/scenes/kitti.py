"""KITTI's tracking benchmark: a folder with ``label_02/*.txt`` and, beside it, ``calib/*.txt`` and ``image_02/``.

A line has 17 columns: frame, track, type, truncated, occluded, alpha, box x1 y1 x2 y2 (pixels), height width length
(metres), x y z (metres: the middle of the bottom in the axes of camera 0, x right, y down, z ahead), rotation_y.

What is made of it: centres, in the axes of the camera that took the pictures (camera 2, shifted as ``calib`` says; by
some centimetres). The car with the camera moves, and so do these axes. ``DontCare`` (something that nobody labelled)
and ``Misc`` (no name) are left out; a type that is among a sequence's DontCare may have more things than labels, and a
DontCare has no type: so nothing is counted in a sequence with one, and no label means a thing alone.
"""

from __future__ import annotations

import builtins
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import cos, sin
from pathlib import Path

from PIL import Image

from ravst_ray.core.scenes import Axes, Entity, Scene, Vector
from ravst_ray.datasets.scenes.source import SceneRef, frames_of
from ravst_ray.errors import ConfigError
from ravst_ray.records import Box

FPS = 10.0
SIZE_PX = (1242, 375)  # of most sequences; taken where the pictures aren't there to be asked
COLUMNS = 17
LABELS = {
    "Car": "car",
    "Van": "van",
    "Truck": "truck",
    "Pedestrian": "pedestrian",
    "Person": "sitting person",
    "Person_sitting": "sitting person",
    "Cyclist": "cyclist",
    "Tram": "tram",
}
LEFT_OUT = ("DontCare", "Misc")


@dataclass(slots=True)
class _Track:
    """One thing while its lines are read."""

    label: str
    size_m: Vector
    frames: list[int] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    centres: list[Vector] = field(default_factory=list)
    axes: list[Axes] = field(default_factory=list)


class KittiReader:
    """Reads a folder (``training``), or its ``label_02``; a scene is a sequence."""

    format = "kitti"

    def list(self, place: str) -> builtins.list[SceneRef]:
        """One reference a sequence, with the text of its files.

        Raises:
            ConfigError: no label files, a file that can't be read, or ``calib`` lacks a sequence.
        """
        root = Path(place)
        labels = root if root.name == "label_02" else root / "label_02"
        files = sorted(labels.glob("*.txt"))
        if not files:
            raise ConfigError(f"{labels}: no label files (*.txt); input.scenes is the folder that holds label_02")
        calib = labels.parent / "calib"
        refs = []
        for file in files:
            calibration = _text(calib / file.name) if calib.is_dir() else None
            content = (_text(file), calibration, _size(labels.parent / "image_02" / file.stem))
            refs.append(SceneRef(self.format, file.stem, content))
        return refs

    def read(self, ref: SceneRef) -> Scene:
        """One sequence.

        Raises:
            ValueError: a line is malformed; the message names it.
        """
        text, calibration, (width, height) = ref.content
        shift = _shift_m(calibration) if calibration is not None else (0.0, 0.0, 0.0)
        tracks: dict[str, _Track] = {}
        last, open_ended = -1, False
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip():
                continue
            try:
                frame, track, kind, numbers = _columns(line)
                if frame < last:
                    raise ValueError(f"frame {frame} comes after frame {last}")
                last = frame
                open_ended = open_ended or kind == "DontCare"
                if kind not in LEFT_OUT:
                    _add(tracks, frame, track, kind, numbers, shift)
            except ValueError as error:
                raise ValueError(f"{ref.scene_id}.txt line {number}: {error}") from None
        labels = frozenset(track.label for track in tracks.values())
        return Scene(
            scene_id=ref.scene_id,
            source=self.format,
            entities=tuple(_entities(tracks)),
            frame_times_s=tuple(frame / FPS for frame in frames_of(last + 1)),
            video=ref.scene_id,
            duration_s=(last + 1) / FPS,
            width=width,
            height=height,
            open_labels=labels if open_ended else frozenset(),
            metres_in="camera",
        )


def _columns(line: str) -> tuple[int, str, str, list[float]]:
    parts = line.split()
    if len(parts) not in (COLUMNS, COLUMNS + 1):  # trackers add a score
        raise ValueError(f"{len(parts)} columns, expected {COLUMNS}")
    if parts[2] not in LABELS and parts[2] not in LEFT_OUT:
        raise ValueError(f"unknown type {parts[2]!r}; known are {', '.join((*LABELS, *LEFT_OUT))}")
    return int(parts[0]), parts[1], parts[2], [float(part) for part in parts[3:COLUMNS]]


def _add(
    tracks: dict[str, _Track], frame: int, number: str, kind: str, columns: builtins.list[float], shift: Vector
) -> None:
    _, _, _, x1, y1, x2, y2, height, width, length, x, y, z, turn = columns
    track = tracks.setdefault(number, _Track(LABELS[kind], (length, height, width)))
    if track.label != LABELS[kind]:
        raise ValueError(f"track {number} is a {kind}, and was a {track.label} before")
    if track.frames and track.frames[-1] == frame:
        raise ValueError(f"track {number} is twice in frame {frame}")
    track.frames.append(frame)
    track.boxes.append((x1, y1, x2, y2))
    track.centres.append((x + shift[0], y - height / 2 + shift[1], z + shift[2]))
    track.axes.append(((cos(turn), 0.0, -sin(turn)), (0.0, -1.0, 0.0), (sin(turn), 0.0, cos(turn))))


def _entities(tracks: dict[str, _Track]) -> Iterator[Entity]:
    for number, track in tracks.items():
        times = tuple(frame / FPS for frame in track.frames)
        boxes, centres, axes = tuple(track.boxes), tuple(track.centres), tuple(track.axes)
        yield Entity(number, track.label, times, boxes, centres, track.size_m, axes)


def _shift_m(calibration: str) -> Vector:
    """What is added to positions in camera 0's axes to have them in camera 2's: K^-1 times the last column of P2."""
    rows: defaultdict[str, list[float]] = defaultdict(list)
    for line in calibration.splitlines():
        name, _, numbers = line.partition(" ")
        if name.rstrip(":") == "P2":
            rows["P2"] = [float(number) for number in numbers.split()]
    if len(rows["P2"]) != 12 or not rows["P2"][0] or not rows["P2"][5]:
        raise ValueError("its calib file has no line P2 with 12 numbers")
    f_x, _, c_x, t_x, _, f_y, c_y, t_y, _, _, _, t_z = rows["P2"]
    return (t_x - c_x * t_z) / f_x, (t_y - c_y * t_z) / f_y, t_z


def _size(pictures: Path) -> tuple[int, int]:
    first = next(iter(sorted(pictures.glob("*.png"))), None) if pictures.is_dir() else None
    if first is None:
        return SIZE_PX
    try:
        with Image.open(first) as picture:
            return picture.size
    except OSError as error:
        raise ConfigError(f"{first}: not a readable picture: {error}") from None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file; every sequence of label_02 has one in calib") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not a readable text file: {error}") from None
