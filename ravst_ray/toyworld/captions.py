"""Labels and captions of toy events, in the words a person would use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_LABEL_VERB = {"drum": "beating", "bell": "ringing", "ball": "squeaking"}
_VERBS = {
    "drum": ("is beating", "is being played", "booms loudly"),
    "bell": ("is ringing", "chimes loudly", "rings out"),
    "ball": ("is squeaking", "squeaks loudly", "is making a squeaking sound"),
}
_WITH_ONE = (
    "a {a} {verb} next to a {b}",
    "a {a} {verb} while a silent {b} is visible",
    "a {a} {verb} near a {b} that lies still",
    "a {a} {verb}, and a {b} rests quietly beside it",
)
_WITH_MORE = (
    "a {a} {verb} next to {others}",
    "a {a} {verb} while {others} stay silent",
    "a {a} {verb}; {others} can be seen, lying still",
)
_PLAINLY = "a {a} {verb} while {others} can be seen"
_ALONE = ("a {a} {verb}", "a {a} {verb} on the ground", "in the picture a {a} {verb}")


def label(name: str) -> str:
    """The event label of a class: ``"red drum"`` gives ``"red drum beating"``."""
    return f"{name} {_LABEL_VERB[name.split()[1]]}"


def caption(name: str, silent: Sequence[str], rng: np.random.Generator, plainly: bool = False) -> str:
    """A sentence that says that ``name`` sounds and that the objects of ``silent`` can be seen.

    ``plainly``: it says neither that they are silent nor where they or ``name`` are.
    """
    verb = str(rng.choice(_VERBS[name.split()[1]]))
    if plainly:
        sentence = _PLAINLY if silent else _ALONE[0]
        return sentence.format(a=name, verb=verb, others=" and ".join(f"a {other}" for other in silent))
    if not silent:
        return str(rng.choice(_ALONE)).format(a=name, verb=verb)
    if len(silent) == 1:
        return str(rng.choice(_WITH_ONE)).format(a=name, verb=verb, b=silent[0])
    others = ", ".join(f"a {other}" for other in silent[:-1]) + f" and a {silent[-1]}"
    return str(rng.choice(_WITH_MORE)).format(a=name, verb=verb, others=others)
