"""Who is who across a cut, by the colours of what the masks hold. Pure; off unless a run asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Appearance:
    """How the object of one track looks: its name, the shot it is in, and its mean colour histogram (sums to 1)."""

    name: int
    shot: int
    colours: np.ndarray


def likeness(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection of two histograms that sum to 1, in [0, 1].

    >>> likeness(np.array([0.5, 0.5, 0.0]), np.array([0.25, 0.5, 0.25]))
    0.75
    """
    return float(np.minimum(one, other).sum())


def same_objects(tracks: Sequence[Appearance], threshold: float) -> list[int]:
    """For each track the first track (index) of the object that it shows: itself, or one of an earlier shot.

    Shot by shot, tracks are paired with the objects of their name that are known from earlier shots, the most alike
    first, down to ``threshold``; an object goes on in one track a shot. It looks as in the last shot it was seen in.
    """
    first = list(range(len(tracks)))
    latest: dict[int, int] = {}  # object -> its last track
    for shot in sorted({track.shot for track in tracks}):
        here = [index for index, track in enumerate(tracks) if track.shot == shot]
        pairs = sorted(
            (-likeness(tracks[index].colours, tracks[last].colours), known, index)
            for index in here
            for known, last in latest.items()
            if tracks[last].name == tracks[index].name
        )
        gone_on: set[int] = set()
        for unlike, known, index in pairs:
            if -unlike >= threshold and known not in gone_on and first[index] == index:
                first[index] = known
                gone_on.add(known)
        latest |= {first[index]: index for index in here}
    return first
