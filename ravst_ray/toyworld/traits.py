"""What truth says of a hard scene beyond a plain one: instances, cuts, sources off screen, what is hard about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import combinations
from typing import Any

from ravst_ray.core.intervals import Interval, overlap
from ravst_ray.toyworld.scene import FPS, Scene

RARELY = 0.3


def ticks(start_s: float, end_s: float) -> list[str]:
    """The keys of ``boxes`` in ``truth.json`` from start to end, both included."""
    return [f"{tick / FPS:.1f}" for tick in range(round(start_s * FPS), round(end_s * FPS) + 1)]


def visible_share(thing: Mapping[str, Any], start_s: float, end_s: float) -> float:
    """Share of the 0.1 s grid of [start, end] in which an object of ``truth.json`` has a box."""
    keys = ticks(start_s, end_s)
    return sum(key in thing["boxes"] for key in keys) / len(keys)


def with_traits(scene: Scene, truth: dict[str, Any]) -> dict[str, Any]:
    """The entry of a hard scene in ``truth.json``.

    Each object gets an ``instance`` (several objects may share a name) and ``off_screen``, those of its events in which
    it is never in the picture; the video gets ``cuts`` (seconds) and ``traits``.
    """
    objects = [
        {"instance": number, **thing, "off_screen": [event for event in thing["events"] if not _in_view(thing, event)]}
        for number, thing in enumerate(truth["objects"])
    ]
    cuts = list(scene.camera.cuts_s) if scene.camera else []
    hard = {**truth, "cuts": cuts, "objects": objects}
    return {**hard, "traits": traits_of(scene, hard)}


def traits_of(scene: Scene, truth: dict[str, Any]) -> list[str]:
    """Which of :data:`~ravst_ray.toyworld.hard.TRAITS` a scene has, in their order.

    ``instances``: a name has several objects and one of them sounds. ``rarely_seen``: a source is in the picture in at
    most 30% of its event, but not never. ``overlap``: events of two names share some time.
    """
    shots = scene.camera.shots if scene.camera else ()
    things = truth["objects"]
    names = Counter(thing["name"] for thing in things)
    events = [(thing, event) for thing in things for event in thing["events"]]
    found = {
        "instances": any(names[thing["name"]] > 1 for thing, _ in events),
        "cut": bool(truth["cuts"]),
        "pan": any(shot.pans for shot in shots),
        "zoom": any(shot.zooms for shot in shots),
        "off_screen": any(thing["off_screen"] for thing in things),
        "rarely_seen": any(0 < visible_share(thing, *event) <= RARELY for thing, event in events),
        "overlap": any(
            one["name"] != other["name"] and overlap(tuple(a), tuple(b)) > 0
            for (one, a), (other, b) in combinations(events, 2)
        ),
        "noise": scene.floor_db is not None,
        "click": bool(scene.clicks_s),
    }
    return [trait for trait, there in found.items() if there]


def _in_view(thing: dict[str, Any], event: Interval) -> bool:
    return visible_share(thing, *event) > 0
