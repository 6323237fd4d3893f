"""When the sprites of a hard scene sound: events that overlap, that nobody sees, or of which little is seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ravst_ray.core.intervals import Interval, overlap
from ravst_ray.toyworld.scene import SIZE_PX, Scene, Sprite

_TRIES = 60
_APART_S = 0.6
_LENGTHS_S = (2.5, 6.0)
_LONG_S = (5.0, 7.0)
_SEEN_PART = 0.2
_TWO_SOUND = 0.35
_SPANS_CUT = 0.5
_ONE_MORE = 0.5
_MOST_EVENTS = 3


class _Plan:
    """The events of a scene while they are chosen: ``(start_s, end_s)`` of each, by the sprite's place."""

    def __init__(self, rng: np.random.Generator, scene: Scene):
        self.rng = rng
        self.scene = scene
        self.events: list[tuple[int, Interval]] = []
        self.placed: set[str] = set()

    @property
    def full(self) -> bool:
        """Whether no further event may be added."""
        return len({(self.scene.sprites[place].name, event) for place, event in self.events}) >= _MOST_EVENTS

    def add(
        self,
        trait: str,
        places: list[int],
        seen: tuple[float, float] = (0.8, 1.0),
        lengths_s: tuple[float, float] = _LENGTHS_S,
        meets: Interval | None = None,
    ) -> tuple[int, Interval] | None:
        """A free interval for one of the sprites, seen in a share of it within ``seen``; None where none was found.

        Args:
            trait: what the event is for; noted where a place was found.
            places: of the sprites that may sound, in the order in which they are tried.
            seen: smallest and largest share of the event in which the sprite is in the picture.
            lengths_s: shortest and longest event.
            meets: an interval that it overlaps by a second or more.
        """
        for place in [] if self.full else places:
            name = self.scene.sprites[place].name if trait == "overlap" else None
            for _ in range(_TRIES):
                event = self._draw(lengths_s)
                met = event and (meets is None or overlap(event, meets) >= 1.0)
                if event and met and self._free(event, name) and self._fits(place, event, seen):
                    self.events.append((place, event))
                    self.placed.add(trait)
                    return place, event
        return None

    def shuffled(self, names: set[str] | None = None) -> list[int]:
        """Places of the sprites of these names (None: of all), in random order."""
        order = self.rng.permutation(len(self.scene.sprites)).tolist()
        return [place for place in order if names is None or self.scene.sprites[place].name in names]

    def _draw(self, lengths_s: tuple[float, float]) -> Interval | None:
        length = float(self.rng.uniform(*lengths_s))
        latest = self.scene.duration_s - length - 0.3
        if latest <= 0.3:
            return None
        start = round(float(self.rng.uniform(0.3, latest)), 1)
        return start, round(start + length, 1)

    def _free(self, event: Interval, name: str | None) -> bool:
        """Whether it is apart from all events of this name (None: of any), and is none of the others."""
        near = (event[0] - _APART_S, event[1] + _APART_S)
        return all(
            event != taken and (name not in (None, self.scene.sprites[place].name) or overlap(near, taken) == 0)
            for place, taken in self.events
        )

    def _fits(self, place: int, event: Interval, seen: tuple[float, float]) -> bool:
        sprite = self.scene.sprites[place]
        times = np.arange(event[0], event[1] + 0.1, 0.2).tolist()
        if seen[1] == 0.0:
            return all(_is_out(self.scene, sprite, time_s) for time_s in times)
        share = sum(_is_in(self.scene, sprite, time_s) for time_s in times) / len(times)
        return seen[0] <= share <= seen[1]


def with_events(rng: np.random.Generator, scene: Scene, wanted: set[str]) -> tuple[Scene, set[str]]:
    """The scene with its events, and for which of the wanted traits a place was found ("plain": none of them).

    At most three events; a name's instances may share one. They overlap only for the trait ``overlap``.
    """
    plan = _Plan(rng, scene)
    names = [sprite.name for sprite in scene.sprites]
    several = {name for name in names if names.count(name) > 1}
    hidden: tuple[int, Interval] | None = None
    if "off_screen" in wanted:
        plan.add("off_screen", plan.shuffled(), seen=(0.0, 0.0))
    if "rarely_seen" in wanted:
        hidden = plan.add("rarely_seen", plan.shuffled(), seen=(0.95, 1.0), lengths_s=_LONG_S)
    if "instances" in wanted and (first := plan.add("instances", plan.shuffled(several))):
        _second_instance(plan, first)
    if "overlap" in wanted:
        _overlapping(plan, hidden)
    if scene.camera and scene.camera.cuts_s and rng.random() < _SPANS_CUT:
        cut_s = scene.camera.cuts_s[0]
        if not any(start < cut_s < end for _, (start, end) in plan.events):
            plan.add("plain", plan.shuffled(), (0.35, 1.0), _LONG_S, meets=(cut_s - 1.0, cut_s + 1.0))
    if not plan.events or rng.random() < _ONE_MORE:
        plan.add("plain", plan.shuffled())
    return replace(scene, sprites=_sounding(plan, hidden)), plan.placed


def _second_instance(plan: _Plan, first: tuple[int, Interval]) -> None:
    """Now and then another instance of the name sounds, too: at the same time, or at another."""
    place, event = first
    name = plan.scene.sprites[place].name
    others = [other for other in plan.shuffled({name}) if other != place]
    if plan.rng.random() >= _TWO_SOUND:
        return
    if plan.rng.random() < 0.4:
        plan.events += [(other, event) for other in others[:1]]
    else:
        plan.add("instances", others)


def _overlapping(plan: _Plan, hidden: tuple[int, Interval] | None) -> None:
    """An event of another name that overlaps one; of two new ones where there is none."""
    ready = [one for one in plan.events if one != hidden]
    first = ready[0] if ready else plan.add("plain", plan.shuffled(), lengths_s=_LONG_S)
    if first:
        name = plan.scene.sprites[first[0]].name
        others = {sprite.name for sprite in plan.scene.sprites} - {name}
        plan.add("overlap", plan.shuffled(others), meets=first[1])


def _sounding(plan: _Plan, hidden: tuple[int, Interval] | None) -> tuple[Sprite, ...]:
    """The sprites with their events; the ``hidden`` one is away for most of its own."""
    sprites = list(plan.scene.sprites)
    for place, event in plan.events:
        sprites[place] = replace(sprites[place], events_s=tuple(sorted({*sprites[place].events_s, event})))
    if hidden:
        place, (start, end) = hidden
        shown = _SEEN_PART * (end - start)
        since = float(plan.rng.uniform(start + 0.3, end - shown - 0.3))
        away = ((start - 0.6, since), (since + shown, end + 0.6))
        sprites[place] = replace(sprites[place], hidden_s=away)
    return tuple(sprites)


def _is_in(scene: Scene, sprite: Sprite, time_s: float) -> bool:
    """Whether most of the sprite is in the picture, other sprites aside."""
    x, y = scene.view(time_s).in_picture_px(sprite.centre_px(time_s))
    return sprite.scale(time_s) > 0.9 and 0 < x < SIZE_PX and 0 < y < SIZE_PX


def _is_out(scene: Scene, sprite: Sprite, time_s: float) -> bool:
    """Whether nothing of the sprite is in the picture."""
    view = scene.view(time_s)
    x, y = view.in_picture_px(sprite.centre_px(time_s))
    reach = 1.25 * sprite.radius_px * view.zoom
    return not (-reach < x < SIZE_PX + reach and -reach < y < SIZE_PX + reach)
