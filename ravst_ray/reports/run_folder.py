"""What a training run left in its output folder, read with patience: whatever is missing or torn is told, not raised.

OUT/metrics.jsonl        -> :attr:`RunFolder.steps`, a mapping of numbers for each step
OUT/validation.jsonl     -> :attr:`RunFolder.validations`, likewise
OUT/rollouts/*.parquet   -> :attr:`RunFolder.completions`, without their texts, which :func:`read_texts` gets
OUT/config.yaml          -> :attr:`RunFolder.config`
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ravst_ray.config.base import load_config
from ravst_ray.config.train import TrainConfig
from ravst_ray.errors import ConfigError

Numbers = dict[str, float]
_TEXTS = ("prompt", "completion")


@dataclass(frozen=True)
class Sampled:
    """One completion without its texts, which are row ``place`` of ``path``; ``parts`` are scores in [0, 1]."""

    step: int
    question_id: str
    task: str
    reward: float
    tokens: int
    truncated: bool
    parts: Mapping[str, float]
    malformed: Mapping[str, int]
    path: Path
    place: int


@dataclass(frozen=True)
class RunFolder:
    """A run; ``steps`` and ``validations`` are in order, each with its number under ``"step"``.

    ``problems`` say what couldn't be read.
    """

    steps: list[Numbers]
    completions: list[Sampled]
    config: TrainConfig | None
    problems: list[str] = field(default_factory=list)
    validations: list[Numbers] = field(default_factory=list)


def read_run(output: Path) -> RunFolder:
    """Read the folder of a run."""
    problems: list[str] = []
    config = None
    try:
        # Earlier runs may have micro-batches that cut through groups, which is refused now; no report tells of them.
        config = load_config(TrainConfig, output / "config.yaml", ["learner.micro_batch=1"])
    except ConfigError as error:
        problems.append(f"The run's settings can't be read: {error}.")
    completions = _completions(output, problems)
    if config is not None:  # each of several updates from the same groups writes them once more
        completions = [one for one in completions if (one.step - 1) % config.learner.iterations == 0]
    steps, validations = (_steps(output / f"{name}.jsonl", problems) for name in ("metrics", "validation"))
    return RunFolder(steps, completions, config, problems, validations)


def read_texts(sampled: Sampled) -> tuple[str, str]:
    """Prompt and completion.

    Raises:
        OSError: the file is gone.
        pyarrow.ArrowException: it is no longer the file that it was.
    """
    names = [name for name in _TEXTS if name in pq.read_schema(sampled.path).names]
    row = pq.read_table(sampled.path, columns=names).slice(sampled.place, 1).to_pylist()[0]
    return str(row.get("prompt") or ""), str(row.get("completion") or "")


def in_order(names: Iterable[str], known: Sequence[str]) -> list[str]:
    """The known names in their order, then the others by name; each once."""
    return sorted(set(names), key=lambda name: (known.index(name) if name in known else len(known), name))


def _steps(path: Path, problems: list[str]) -> list[Numbers]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found: dict[float, Numbers] = {}
    torn = 0
    for line in lines:
        numbers = _numbers(line)
        if "step" in numbers:
            found[numbers["step"]] = numbers
        else:
            torn += bool(line.strip())
    if torn:
        problems.append(
            f"{_many(torn, 'line')} of {path.name} can't be read and {'are' if torn > 1 else 'is'} left out."
        )
    return [found[step] for step in sorted(found)]


def _numbers(line: str) -> Numbers:
    """The finite numbers of a line; none of a line that isn't a record."""
    try:
        record = json.loads(line)
    except ValueError:
        return {}
    pairs = record.items() if isinstance(record, dict) else ()
    return {key: float(value) for key, value in pairs if isinstance(value, (int, float)) and math.isfinite(value)}


def _completions(output: Path, problems: list[str]) -> list[Sampled]:
    found: list[Sampled] = []
    for path in sorted((output / "rollouts").glob("*.parquet")):
        try:
            # A prompt holds a place holder for each token of the video: all of them would fill the memory.
            names = [name for name in pq.read_schema(path).names if name not in _TEXTS]
            rows = pq.read_table(path, columns=names).to_pylist()
            found += [_sampled(row, path, place) for place, row in enumerate(rows)]
        except (OSError, pa.ArrowException, ValueError, TypeError, AttributeError) as error:
            problems.append(f"rollouts/{path.name} can't be read and is left out: {_line(error)}.")
    return found


def _sampled(row: Mapping[str, Any], path: Path, place: int) -> Sampled:
    reward = row.get("reward")
    return Sampled(
        step=int(row.get("step") or 0),
        question_id=str(row.get("id") or "?"),
        task=str(row.get("task") or "?"),
        reward=math.nan if reward is None else float(reward),
        tokens=int(row.get("tokens") or 0),
        truncated=bool(row.get("truncated")),
        parts={name: float(score) for name, score in json.loads(row.get("parts") or "{}").items()},
        malformed=json.loads(row.get("malformations") or "{}"),
        path=path,
        place=place,
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")[:200]


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
