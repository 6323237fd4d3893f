"""The published files that lie beside a checkout on some machines; tests that want them skip without."""

import json
from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def published(name: str) -> Path:
    """A published file, or a skip that says what is missing."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"the published file {path} isn't there")
    return path


def question(name: str, *parts: str) -> str:
    """An answer of one object: ``question("dog", when(0, 4))``."""
    return answer(f"<object>{name}</object>", *parts)


def answer(*parts: str) -> str:
    """Parts in an ``<answer>``."""
    return "\n".join(["<answer>", *parts, "</answer>"])


def when(start: float, end: float) -> str:
    """A ``<when>``."""
    return f"<when>[{float(start)}, {float(end)}]</when>"


def where(*lines: tuple[float, tuple]) -> str:
    """A ``<where>``."""
    rows = [f"{float(time_s)}: {json.dumps([float(x) for x in box])}" for time_s, box in lines]
    return "\n".join(["<where>", *rows, "</where>"])
