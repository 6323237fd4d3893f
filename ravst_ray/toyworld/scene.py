"""Scenes of the toy world: what is where at any time, and how it looks.

A scene is pure data (:class:`Scene`, :class:`Sprite`) drawn from a random generator; :func:`render` paints one moment
of it and returns, beside the picture, the exact mask of every sprite. Coordinates are pixels of the 256 x 256 picture;
where a scene has a camera, those of its sprites are pixels of the larger ground.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from ravst_ray.core.masks import mask_box
from ravst_ray.records import Box
from ravst_ray.toyworld.camera import Camera, View, eased
from ravst_ray.toyworld.sprites import COLOURS, SHAPES, paint

SIZE_PX = 256
FPS = 10
NAMES: tuple[str, ...] = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
MIN_VISIBLE_SHARE = 0.15
_SHRINK_S = 0.2
_WHOLE = View(0.0, 0.0, 1.0, SIZE_PX)


@dataclass(frozen=True)
class Sprite:
    """One object: its way through the picture, when it sounds and when it hides.

    ``knots_s`` and ``knots_px`` (x, y) are the points of a smooth way; the sprite is ``2 * radius_px`` wide at most.
    """

    name: str
    radius_px: float
    knots_s: np.ndarray
    knots_px: np.ndarray
    tilt_rad: float = 0.0
    sway_rad: float = 0.0
    tint: tuple[float, float, float] = (0.0, 0.0, 0.0)
    hidden_s: tuple[tuple[float, float], ...] = ()
    events_s: tuple[tuple[float, float], ...] = ()

    @property
    def audible(self) -> bool:
        """Whether it sounds at some time of the video."""
        return bool(self.events_s)

    def centre_px(self, time_s: float) -> tuple[float, float]:
        """Where its centre is, which may be outside the picture."""
        x, y = eased(time_s, self.knots_s, self.knots_px)
        return float(x), float(y)

    def scale(self, time_s: float) -> float:
        """1 when it is there, 0 when it hides; it shrinks and grows back within 0.2 s."""
        scale = 1.0
        for start, end in self.hidden_s:
            if start < time_s < end:
                scale = min(scale, 1 - min(time_s - start, end - time_s, _SHRINK_S) / _SHRINK_S)
        return scale

    def sounds_at(self, time_s: float) -> bool:
        """Whether it sounds at this time: events are closed at the start and open at the end."""
        return any(start <= time_s < end for start, end in self.events_s)


@dataclass(frozen=True)
class Scene:
    """A video before it is painted and heard; sprites further back in the tuple cover those before them.

    Without a camera the ground is the picture. ``floor_db`` is the level of a steady noise under the whole sound track,
    dBFS (None: digital silence); ``clicks_s`` are the times of short clicks that belong to nothing. Without ``cues``
    sprites look the same whether they sound or not: only the sound tells when, and by its voice which.
    """

    duration_s: float
    ground: np.ndarray
    sprites: tuple[Sprite, ...]
    camera: Camera | None = None
    floor_db: float | None = None
    clicks_s: tuple[float, ...] = ()
    cues: bool = True

    def view(self, time_s: float) -> View:
        """What the picture shows at this time."""
        return self.camera.view(time_s) if self.camera else _WHOLE


@dataclass(frozen=True)
class Moment:
    """One painted moment: the picture ``uint8 [H, W, 3]``, visible masks ``bool [N, H, W]``, and what truth says.

    A box is the extent of the visible pixels, ``[x_min, y_min, x_max + 1, y_max + 1]``; it is None where less than 15%
    of the sprite's whole area can be seen.
    """

    image: np.ndarray
    masks_N: np.ndarray
    boxes_N: tuple[Box | None, ...]


def render(scene: Scene, time_s: float) -> Moment:
    """Paint the scene at one time."""
    view = scene.view(time_s)
    canvas = (view.crop(scene.ground) if scene.camera else scene.ground).astype(np.float32)
    masks = np.zeros((len(scene.sprites), SIZE_PX, SIZE_PX), bool)
    areas = np.zeros(len(scene.sprites))
    for i, sprite in enumerate(scene.sprites):
        scale = sprite.scale(time_s)
        if scale * sprite.radius_px * view.zoom < 2:
            continue
        covered, areas[i] = paint(
            canvas,
            sprite.name,
            view.in_picture_px(sprite.centre_px(time_s)),
            sprite.radius_px * scale * view.zoom,
            sprite.tilt_rad + sprite.sway_rad * np.sin(1.7 * time_s + sprite.radius_px),
            np.asarray(sprite.tint, np.float32),
            time_s if scene.cues and sprite.sounds_at(time_s) else None,
        )
        areas[i] /= scale**2
        masks[:i] &= ~covered
        masks[i] = covered
    boxes = tuple(
        mask_box(mask) if area and mask.sum() >= MIN_VISIBLE_SHARE * area else None
        for mask, area in zip(masks, areas, strict=True)
    )
    return Moment(np.clip(canvas + 0.5, 0, 255).astype(np.uint8), masks, boxes)


def make_ground(rng: np.random.Generator, size_px: int = SIZE_PX) -> np.ndarray:
    """A textured ground, ``uint8 [size_px, size_px, 3]``: three octaves of noise, and faint planks or tiles."""
    height = np.zeros((size_px, size_px), np.float32)
    for of_picture, weight in ((5, 0.5), (17, 0.3), (64, 0.2)):
        cells = round(of_picture * size_px / SIZE_PX)
        noise = Image.fromarray((rng.random((cells, cells)) * 255).astype(np.uint8))
        height += weight * np.asarray(noise.resize((size_px, size_px), Image.Resampling.BICUBIC), np.float32) / 255
    height += rng.normal(0, 0.03, height.shape).astype(np.float32)
    level, warmth = rng.uniform(70, 175), rng.uniform(-18, 22)
    tone = np.array([level + warmth, level, level - warmth], np.float32) + rng.normal(0, 6, 3).astype(np.float32)
    ground = tone + (height[..., None] - 0.5) * rng.uniform(60, 120)
    ground[_seams(rng, size_px)] -= 14
    return np.clip(ground, 0, 255).astype(np.uint8)


def _seams(rng: np.random.Generator, size_px: int) -> np.ndarray:
    """Mask of the thin seams between planks or tiles; empty in a third of the scenes."""
    seams = np.zeros((size_px, size_px), bool)
    kind, pitch = rng.integers(3), int(rng.integers(28, 72))
    first = int(rng.integers(pitch))
    if kind >= 1:
        seams[first::pitch] = True
    if kind == 2:
        seams[:, first::pitch] = True
    return seams


def random_scene(rng: np.random.Generator, duration_s: float | None = None) -> Scene:
    """A scene of 1-4 sprites whose names differ; at least one of them sounds.

    Some sprites enter or leave over the border, some hide for a while, some cross another one's place.
    """
    duration = float(rng.integers(12, 41)) / 2 if duration_s is None else duration_s
    names = rng.choice(len(NAMES), size=int(rng.choice([1, 2, 3, 4], p=[0.15, 0.35, 0.3, 0.2])), replace=False)
    radii = rng.uniform(20, 60 if len(names) < 3 else 46, len(names))
    homes = make_homes(rng, radii)
    sprites = [make_sprite(rng, NAMES[name], i, radii, homes, duration) for i, name in enumerate(names)]
    scene = Scene(duration, make_ground(rng), tuple(sprites))
    return replace(scene, sprites=_with_events(rng, scene))


def make_homes(rng: np.random.Generator, radii: np.ndarray) -> np.ndarray:
    """Places around which sprites live, mostly apart from each other: ``[N, 2]``."""
    homes: list[np.ndarray] = []
    for i, radius in enumerate(radii):
        tries = rng.uniform(radius, SIZE_PX - radius, (24, 2))
        gaps = [min((np.hypot(*(t - h)) - radii[j] - radius for j, h in enumerate(homes)), default=0.0) for t in tries]
        free = [t for t, gap in zip(tries, gaps, strict=True) if gap > 12]
        homes.append(free[0] if free else tries[int(np.argmax(gaps))] if i else tries[0])
    return np.array(homes)


def make_sprite(
    rng: np.random.Generator, name: str, i: int, radii: np.ndarray, homes: np.ndarray, duration_s: float
) -> Sprite:
    """Sprite ``i``: it wanders around its home, and may visit another's home, cross the border or hide."""
    radius, home = float(radii[i]), homes[i]
    knots_s = np.append(np.arange(0.0, duration_s, 3.0), max(duration_s, 3.0) + 0.1)
    knots = home + rng.normal(0, 13, (len(knots_s), 2))
    knots = np.clip(knots, 0.7 * radius, SIZE_PX - 0.7 * radius)
    if len(homes) > 1 and rng.random() < 0.3:
        other = homes[int(rng.choice([j for j in range(len(homes)) if j != i]))]
        knots[int(rng.integers(len(knots)))] = home + rng.uniform(0.5, 0.9) * (other - home)
    if rng.random() < 0.22:
        side = np.where(home > SIZE_PX / 2, SIZE_PX + 1.1 * radius, -1.1 * radius)
        axis = int(np.argmin(np.minimum(home, SIZE_PX - home)))
        gone = slice(0, 1) if rng.random() < 0.5 else slice(len(knots) - 1, None)
        knots[gone, axis] = side[axis]
    hidden: tuple[tuple[float, float], ...] = ()
    if rng.random() < 0.2:
        start = float(rng.uniform(1.0, 0.6 * duration_s))
        hidden = ((start, start + float(rng.uniform(1.5, 3.5))),)
    red, green, blue = rng.normal(0, 8, 3).tolist()
    tilt, sway = float(rng.uniform(-0.2, 0.2)), float(rng.uniform(0, 0.12))
    return Sprite(name, radius, knots_s, knots, tilt, sway, (red, green, blue), hidden)


def in_picture(sprite: Sprite, time_s: float) -> bool:
    """Whether most of the sprite is there and inside the picture, other sprites aside."""
    x, y = sprite.centre_px(time_s)
    return sprite.scale(time_s) > 0.9 and 0 < x < SIZE_PX and 0 < y < SIZE_PX


def _with_events(rng: np.random.Generator, scene: Scene) -> tuple[Sprite, ...]:
    """The sprites with their events: at most three in a scene, never two at once, while their sprite is in view."""
    count = len(scene.sprites)
    audible = 1 if count == 1 else int(rng.choice([1, 2, 3] if count > 2 else [1, 2]))
    plan = [1] * audible
    if audible < 3 and rng.random() < 0.3:
        plan[0] += 1
    taken: list[tuple[float, float]] = []
    sprites = list(scene.sprites)
    for i, events in zip(rng.permutation(count)[:audible], plan, strict=True):
        budget = float(rng.uniform(0.14, 0.5 if audible == 1 else 0.33)) * scene.duration_s
        own = [_event(rng, sprites[i], budget / events, taken, scene.duration_s) for _ in range(events)]
        kept = tuple(sorted(event for event in own if event))
        share = sum(end - start for start, end in kept) / scene.duration_s
        sprites[i] = replace(sprites[i], events_s=kept if 0.1 <= share <= 0.5 else ())
    if not any(sprite.audible for sprite in sprites):
        length = round(0.3 * scene.duration_s, 1)
        start = round(float(rng.uniform(0.5, scene.duration_s - length - 0.5)), 1)
        sprites[0] = replace(sprites[0], hidden_s=(), knots_px=np.clip(sprites[0].knots_px, 30, SIZE_PX - 30))
        sprites[0] = replace(sprites[0], events_s=((start, round(start + length, 1)),))
    return tuple(sprites)


def _event(
    rng: np.random.Generator, sprite: Sprite, length_s: float, taken: list[tuple[float, float]], duration_s: float
) -> tuple[float, float] | None:
    """A free interval on the 0.1 s grid in which the sprite stays in the picture; None when none was found."""
    length = round(max(length_s, 1.0), 1)
    if length > duration_s - 0.4:
        return None
    for _ in range(30):
        start = round(float(rng.uniform(0.2, duration_s - length - 0.2)), 1)
        end = round(start + length, 1)
        seen = all(in_picture(sprite, t) for t in np.arange(start, end + 0.1, 0.2).tolist())
        if seen and all(end + 0.3 <= s or start >= e + 0.3 for s, e in taken):
            taken.append((start, end))
            return start, end
    return None
