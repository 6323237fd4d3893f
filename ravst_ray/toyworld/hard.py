"""Hard scenes of the toy world: what real footage does and the plain scenes don't.

    several instances of a class, of which one (seldom two) sounds · cuts · pan and zoom · sources off screen ·
    sources seen in a fifth of their event · events that overlap · a noise floor and clicks

The ground is larger than the picture and has two stages; the camera looks at one of them, moves over it, and may cut to
the other. All that is drawn is a :class:`~ravst_ray.toyworld.scene.Scene` like any other.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ravst_ray.toyworld.camera import Camera, Shot
from ravst_ray.toyworld.hard_events import with_events
from ravst_ray.toyworld.scene import NAMES, SIZE_PX, Scene, Sprite, make_ground, make_homes, make_sprite

WORLD_PX = 640
FLOOR_DB = -58.0
TRAITS: dict[str, float] = {
    "instances": 0.5,
    "cut": 0.35,
    "pan": 0.35,
    "zoom": 0.3,
    "off_screen": 0.08,
    "rarely_seen": 0.12,
    "overlap": 0.3,
    "noise": 0.7,
    "click": 0.25,
}
"""What makes a scene hard, and the share of scenes that is meant to have it."""

_TRIES = 50
_STAGES_PX = ((188.0, 238.0), (428.0, 458.0))  # range of each stage's centre, on both axes
_NEAR, _FAR = 1.4, 0.72  # zooms
_CUT_TO_OTHER = 0.6
_RADII_PX = (22.0, 44.0)


def hard_scene(rng: np.random.Generator, number: int) -> Scene:
    """A scene of 9-16 s with some traits of :data:`TRAITS`, by chance; scene ``number`` is meant to have one of them.

    Which ones it has in the end only the painted frames tell (:func:`~ravst_ray.toyworld.traits.traits_of`): a source
    may be covered, or no place found for an event.
    """
    main = list(TRAITS)[number % len(TRAITS)]
    for _ in range(_TRIES):
        wanted = {trait for trait, share in TRAITS.items() if rng.random() < share or trait == main}
        scene, placed = _draw(rng, wanted)
        if placed and (main in placed or main not in ("instances", "off_screen", "rarely_seen", "overlap")):
            return scene
    return scene


def without_cuts(scene: Scene) -> Scene:
    """The scene as its first shot shows it, which rests where it ended."""
    camera = scene.camera
    return replace(scene, camera=replace(camera, shots=camera.shots[:1])) if camera else scene


def _draw(rng: np.random.Generator, wanted: set[str]) -> tuple[Scene, set[str]]:
    """A scene, and for which traits its events found a place ("plain": an ordinary event); none: no event at all."""
    duration_s = float(rng.integers(18, 33)) / 2
    centres = [rng.uniform(*around, 2) for around in _STAGES_PX]
    camera = _camera(rng, wanted, centres, duration_s)
    sprites = _cast(rng, wanted, centres, duration_s)
    scene = Scene(duration_s, _two_grounds(rng), sprites, camera)
    scene, placed = with_events(rng, scene, wanted)
    floor_db = FLOOR_DB if "noise" in wanted else None
    clicks_s = (_quiet_time(rng, scene),) if "click" in wanted else ()
    return replace(scene, floor_db=floor_db, clicks_s=clicks_s), placed


def _two_grounds(rng: np.random.Generator) -> np.ndarray:
    """A ground of two kinds, a kind for each stage: a cut to the other one shows another place."""
    ground, other = make_ground(rng, WORLD_PX), make_ground(rng, WORLD_PX)
    across = np.add.outer(np.arange(WORLD_PX), np.arange(WORLD_PX)) >= sum(sum(pair) for pair in _STAGES_PX) / 2
    return np.where(across[..., None], other, ground)


def _camera(rng: np.random.Generator, wanted: set[str], centres: list[np.ndarray], duration_s: float) -> Camera:
    """One shot, or two or three: each cut goes to the other stage, or to another zoom on the same one."""
    cuts = sorted(rng.uniform(0.25, 0.75, 1 if rng.random() < 0.7 else 2) * duration_s) if "cut" in wanted else []
    if len(cuts) == 2 and cuts[1] - cuts[0] < 2.5:
        cuts = cuts[:1]
    starts = [0.0, *(round(float(cut), 1) for cut in cuts)]
    stage, zoom, shots = 0, float(rng.uniform(0.9, 1.15)), []
    for start_s, end_s in zip(starts, [*starts[1:], duration_s], strict=True):
        offset = rng.normal(0, 8, 2)
        if start_s > 0:
            if rng.random() < _CUT_TO_OTHER:
                stage, zoom = 1 - stage, float(rng.uniform(0.85, 1.2))
            else:
                zoom = _FAR if zoom > 1 else _NEAR
                offset = rng.choice([-1, 1], 2) * rng.uniform(20, 40, 2)
        shots.append(_shot(rng, wanted, centres[stage] + offset, zoom, (start_s, end_s)))
        zoom = float(shots[-1].knots[-1, 2])
    return Camera(tuple(shots), WORLD_PX, SIZE_PX)


def _shot(
    rng: np.random.Generator, wanted: set[str], centre_px: np.ndarray, zoom: float, span_s: tuple[float, float]
) -> Shot:
    """A shot that rests, or goes to and fro about its centre, or near and far; a knot every 3 s or so."""
    count = max(2, round((span_s[1] - span_s[0]) / 3) + 1)
    side = np.where(np.arange(count) % 2, 1.0, -1.0) * rng.choice([-1, 1])
    knots = np.tile([*centre_px, zoom], (count, 1))
    if "pan" in wanted:
        angle = rng.uniform(0, np.pi)
        reach = rng.uniform(22, 45, count) * side
        knots[:, :2] += reach[:, None] * np.array([np.cos(angle), np.sin(angle)])
    if "zoom" in wanted:
        knots[:, 2] = np.where(side > 0, rng.uniform(1.1, _NEAR, count), rng.uniform(_FAR, 0.9, count))
    return Shot(span_s[0], np.linspace(*span_s, count), knots)


def _cast(
    rng: np.random.Generator, wanted: set[str], centres: list[np.ndarray], duration_s: float
) -> tuple[Sprite, ...]:
    """The sprites of both stages; with ``instances`` the first two or three have one name."""
    names = [str(name) for name in rng.permutation(NAMES)]
    first = [names[0]] * int(rng.choice([2, 3], p=[0.7, 0.3])) if "instances" in wanted else [names[0]]
    first += names[1 : 2 + int(rng.random() < 0.5 and len(first) < 3)]
    # Away from the camera another instance of the name may sound, which nobody sees.
    away = [names[0] if rng.random() < 0.5 else names[4], *names[5 : 5 + int(rng.random() < 0.4)]]
    if not wanted & {"cut", "off_screen"} and rng.random() < 0.5:
        away = []
    sprites: list[Sprite] = []
    for stage, centre in zip((first, away), centres, strict=True):
        radii = rng.uniform(*_RADII_PX, len(stage))
        homes = make_homes(rng, radii)
        for i, name in enumerate(stage):
            sprite = make_sprite(rng, name, i, radii, homes, duration_s)
            sprites.append(replace(sprite, knots_px=sprite.knots_px + centre - SIZE_PX / 2))
    return tuple(sprites)


def _quiet_time(rng: np.random.Generator, scene: Scene) -> float:
    """A time, if there is one, at which nothing else sounds."""
    times = rng.uniform(0.3, scene.duration_s - 0.3, 20).round(2).tolist()
    quiet = [t for t in times if not any(s - 0.5 < t < e + 0.5 for one in scene.sprites for s, e in one.events_s)]
    return float((quiet or times)[0])
