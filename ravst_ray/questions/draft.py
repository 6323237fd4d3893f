"""A question before it has an id, and what makes one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from ravst_ray.config.make_str import StrRules
from ravst_ray.core.scenes import Entity, Space
from ravst_ray.questions.view import SceneView

Form = Literal["choice", "number", "box", "interval"]
LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True, slots=True)
class Draft:
    """A question and its answer. ``about`` are the entities that the reference graph shows first.

    ``times_s`` are the seconds of the frames that the question is about, at most four, rising.
    """

    form: Form
    question: str
    answer: str
    about: tuple[Entity, ...]
    times_s: tuple[float, ...]
    space: Space
    options: tuple[str, ...] = ()
    unit: str = ""


Ask = Callable[[SceneView, StrRules, Random], Iterator[Draft | str]]
"""Goes through what could be asked of a scene in random order, and gives for each a draft or why it is left out.

The reasons are short keys by which they are counted. Who calls stops when there are enough drafts.
"""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of question: its name in the rows, what makes its drafts, and what a scene must have for it."""

    name: str
    ask: Ask
    fits: Callable[[SceneView], bool]


def choice(
    rng: Random,
    right: str,
    wrong: Sequence[str],
    question: str,
    about: Sequence[Entity],
    times_s: Sequence[float],
    space: Space,
) -> Draft:
    """A question with letters; the right option is equally likely in each place."""
    options = [right, *wrong]
    rng.shuffle(options)
    letter = LETTERS[options.index(right)]
    return Draft("choice", question, letter, tuple(about), tuple(times_s), space, tuple(options))


def number_text(value: float, digits: int = 2) -> str:
    """A number that isn't negative, with at most so many decimals.

    >>> number_text(2.0), number_text(2.345, 1)
    ('2', '2.3')
    """
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
