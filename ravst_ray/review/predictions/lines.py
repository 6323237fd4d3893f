"""Files of predictions, read once: where each answer stands is kept, its text is not."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from ravst_ray.datasets.places import local_copy
from ravst_ray.errors import ConfigError, StepError

LONGEST = 2**23
"""Bytes of a line; a longer one is no answer."""
_EXAMPLES = 3
_TEXTS = ("prediction", "completion")
_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Answer:
    """A line of a file; ``tokens`` and ``box_scale`` are None where it doesn't say.

    Attributes:
        qa_id: of the question.
        text: what the model said.
        truncated: it hit the token limit.
        tokens: how long it is.
        silent: the model hears, and the file had no sound that can be read.
        others: how many more samples the line holds.
        verbatim: boxes are in the model's own units.
    """

    qa_id: str
    text: str
    truncated: bool = False
    tokens: int | None = None
    silent: bool = False
    others: int = 0
    verbatim: bool = False


@dataclass(slots=True)
class Faults:
    """What of a file isn't shown: counts by kind, and the first of each to name.

    ``broken``: lines that are no answer; ``foreign``: answers to questions that there aren't.
    """

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, example: str) -> None:
        """Count one."""
        self.counts[kind] += 1
        named = self.examples.setdefault(kind, [])
        if len(named) < _EXAMPLES:
            named.append(example)


class AnswerLines:
    """One file of lines ``{"id", "prediction"}`` (or ``"completion"``), at any place; of an object store a copy.

    Args:
        place: path or URI.

    Raises:
        ConfigError: it can't be read.
    """

    def __init__(self, place: str):
        self.place = place
        self._stack = ExitStack()
        try:
            self.path = Path(self._stack.enter_context(local_copy(place)))
            with self.path.open("rb"):
                pass
        except StepError as error:
            raise ConfigError(f"file of predictions {error.message}") from None
        except OSError as error:
            raise ConfigError(f"{place}: not readable: {error}") from None

    def close(self) -> None:
        """Remove the copy."""
        self._stack.close()

    def read(self, known: Collection[str], take: Callable[[int, Answer], None]) -> Faults:
        """Go through the file once; a torn or foreign line is counted, and doesn't stop it.

        Args:
            known: ids of the questions.
            take: called with the place of each answer (bytes from the start) and the answer.

        Raises:
            ConfigError: the disk fails.
        """
        faults = Faults()
        try:
            with self.path.open("rb") as source:
                for number, (place, line) in enumerate(_lines(source), start=1):
                    answer = None if line is None else _answer(line)
                    if answer is None:
                        faults.add("broken", f"line {number}")
                    elif answer.qa_id not in known:
                        faults.add("foreign", answer.qa_id)
                    else:
                        take(place, answer)
        except OSError as error:
            raise ConfigError(f"{self.place}: not readable: {error}") from None
        return faults

    def at(self, place: int, qa_id: str) -> Answer | None:
        """The answer at a place; None where the file has become another one since.

        Raises:
            OSError: the file is gone.
        """
        with self.path.open("rb") as source:
            source.seek(place)
            answer = _answer(source.readline(LONGEST))
        return answer if answer is not None and answer.qa_id == qa_id else None


def _lines(source: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Where each line that isn't empty begins, and the line; None of one that is too long."""
    while True:
        place = source.tell()
        line: bytes | None = source.readline(LONGEST)
        if not line:
            return
        if len(line) == LONGEST and not line.endswith(b"\n"):
            while (more := source.readline(LONGEST)) and not more.endswith(b"\n"):
                pass
            line = None
        if line is None or line.strip():
            yield place, line


def _answer(line: bytes) -> Answer | None:
    try:
        row = json.loads(line.removeprefix(_MARK).decode())
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not isinstance(row.get("id"), str):
        return None
    text = next((row[key] for key in _TEXTS if isinstance(row.get(key), str)), None)
    return None if text is None else Answer(row["id"], text, **_facts(row))


def _facts(row: dict[str, Any]) -> dict[str, Any]:
    tokens, samples = row.get("tokens"), row.get("completions")
    return {
        "truncated": row.get("truncated") is True,
        "tokens": tokens if isinstance(tokens, int) and not isinstance(tokens, bool) else None,
        "silent": row.get("sound") == "missing",
        "others": max(len(samples) - 1, 0) if isinstance(samples, list) else 0,
        "verbatim": "box_scale" in row,
    }
