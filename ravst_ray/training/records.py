"""What a run tells of itself: one record a step, from which every sink is fed.

``metrics.jsonl`` under the output always; TensorBoard, wandb and mlflow by name; and ``rollouts/step_*.parquet`` with
prompts, completions and rewards.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ravst_ray.errors import ConfigError
from ravst_ray.training.groups import Group


@dataclass(frozen=True)
class Sink:
    """Where numbers go, step by step; ``close`` waits until all are there."""

    write: Callable[[int, dict[str, float]], None]
    close: Callable[[], None]


def group_numbers(groups: Sequence[Group], version: int) -> dict[str, float]:
    """Means over the completions of a step: rewards and parts, also per task, lengths, malformations, staleness."""
    found: dict[str, list[float]] = {}

    def add(key: str, value: float) -> None:
        found.setdefault(key, []).append(value)

    malformed: Counter[str] = Counter()
    for group in groups:
        add("group/zero_variance", float(len(set(group.totals)) == 1))
        add("group/std", float(np.std(group.totals)))
        for one, reward in zip(group.completions, group.rewards, strict=True):
            add("reward/mean", reward.total)
            add(f"{group.task}/reward/mean", reward.total)
            for name, score in reward.parts.items():
                add(f"reward/{name}", score)
                add(f"{group.task}/reward/{name}", score)
            add("completion/tokens", float(len(one.token_ids)))
            add("completion/truncated", float(one.truncated))
            add("staleness/mean", float(version - min(one.versions, default=version)))
            malformed.update(reward.malformed)
    count = sum(len(group.completions) for group in groups)
    numbers = {key: float(np.mean(values)) for key, values in sorted(found.items())}
    numbers["completion/longest"] = max(found["completion/tokens"])
    return numbers | {f"malformed/{kind}": number / count for kind, number in sorted(malformed.items())}


class RunRecord:
    """Feeds the sinks.

    Args:
        output: folder of the run.
        sinks: ``tensorboard``, ``wandb``, ``mlflow``.
        resumed: the step that the run goes on from; what later steps of an earlier try wrote is dropped.
        settings: the configuration, for sinks that show it.
    """

    def __init__(self, output: Path, sinks: Sequence[str], resumed: int, settings: dict[str, Any]):
        self._path, self._validation = output / "metrics.jsonl", output / "validation.jsonl"
        self._rollouts = output / "rollouts"
        self._rollouts.mkdir(parents=True, exist_ok=True)
        for path in (self._path, self._validation):
            drop_after(path, resumed)
        self._sinks = [_SINKS[name](output, resumed, settings) for name in sinks]

    def write(self, step: int, numbers: dict[str, float]) -> dict[str, float]:
        """One step's record; gives it as it stands in ``metrics.jsonl``."""
        row = {"step": step, **{key: round(value, 8) for key, value in numbers.items()}}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        for sink in self._sinks:
            sink.write(step, numbers)
        return row

    def validated(self, row: Mapping[str, Any]) -> None:
        """A line of ``validation.jsonl``; the sinks get what comes before the first step, which has no record."""
        with self._validation.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if not row["step"]:
            for sink in self._sinks:
                sink.write(0, {f"validation/{key}": value for key, value in row.items() if key != "step"})

    def close(self) -> None:
        """End of the run, for now or for good."""
        for sink in self._sinks:
            sink.close()

    def rollouts(self, step: int, groups: Sequence[Group], texts: Sequence[str]) -> None:
        """Completions and rewards of a step as Parquet; ``texts`` are the prompts of the groups."""
        write_rows(rollout_rows(step, groups, texts), self._rollouts / f"step_{step:06d}.parquet")


def drop_after(path: Path, step: int) -> None:
    """Leave the lines up to a step; none before the first, at which the run begins anew."""
    if path.exists():
        kept = [line for line in path.read_text().splitlines() if step and _step_of(line) <= step]
        partial = path.with_suffix(".partial")  # a full disk must not cost the lines that there are
        partial.write_text("".join(line + "\n" for line in kept))
        partial.replace(path)


def write_rows(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Rows as Parquet; the file appears whole or not at all."""
    partial = path.with_suffix(f".{os.getpid()}.partial")  # workers may write the same one
    pq.write_table(pa.Table.from_pylist(list(rows)), partial)
    partial.replace(path)


def rollout_rows(step: int, groups: Sequence[Group], texts: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each completion; ``texts`` are the prompts of the groups."""
    return [
        {
            "step": step,
            "id": group.question_id,
            "task": group.task,
            "prompt": text,
            "completion": one.text,
            "tokens": len(one.token_ids),
            "token_ids": list(one.token_ids),
            "truncated": one.truncated,
            "version": min(one.versions, default=0),
            "reward": reward.total,
            "parts": json.dumps(dict(reward.parts)),
            "malformations": json.dumps(dict(reward.malformed)),
        }
        for group, text in zip(groups, texts, strict=True)
        for one, reward in zip(group.completions, group.rewards, strict=True)
    ]


def check_sinks(sinks: Sequence[str]) -> None:
    """Look whether what the sinks need is there, before anything is started.

    Raises:
        ConfigError: the package of a sink isn't installed.
    """
    for name in sinks:
        if name != "tensorboard" and importlib.util.find_spec(name) is None:
            raise ConfigError(f"sinks: {name} is not installed; pip install {name}, or leave it out")


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return float("inf")  # a line that was cut off


def _tensorboard(output: Path, resumed: int, settings: dict[str, Any]) -> Sink:
    from tensorboardX import SummaryWriter

    # A try that was killed before its first checkpoint has left steps as well.
    writer = SummaryWriter(str(output / "tensorboard"), purge_step=resumed + 1, flush_secs=5)

    def write(step: int, numbers: dict[str, float]) -> None:
        for key, value in numbers.items():
            writer.add_scalar(key, value, step)

    return Sink(write, writer.close)


def _read(path: Path) -> str | None:
    """The id under which an earlier start of this run told its numbers; None at the first."""
    return path.read_text().strip() if path.exists() else None


def _wandb(output: Path, resumed: int, settings: dict[str, Any]) -> Sink:
    import wandb

    known = output / "wandb_run"
    run = wandb.init(project="ravst_ray", dir=str(output), config=settings, id=_read(known), resume="allow")
    known.write_text(run.id)
    return Sink(lambda step, numbers: run.log(numbers, step=step), run.finish)


def _mlflow(output: Path, resumed: int, settings: dict[str, Any]) -> Sink:
    import mlflow

    known = output / "mlflow_run"
    run = mlflow.start_run(run_id=_read(known), run_name=output.name)
    known.write_text(run.info.run_id)
    return Sink(lambda step, numbers: mlflow.log_metrics(dict(numbers), step=step), mlflow.end_run)


_SINKS: dict[str, Callable[[Path, int, dict[str, Any]], Sink]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
}
