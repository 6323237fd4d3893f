"""Which checkpoints of a run are whole: a folder counts once ``complete.json``, written last, is in it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from ravst_ray.training.position import Position

COMPLETE = "complete.json"


def whole_checkpoints(output: Path) -> list[Path]:
    """Checkpoints that were written to their end, the oldest first."""
    found = [path.parent for path in (output / "checkpoints").glob(f"checkpoint-*/{COMPLETE}")]
    return sorted(found, key=step_of)


def last_checkpoint(output: Path) -> Path | None:
    """The newest of the whole checkpoints."""
    return next(reversed(whole_checkpoints(output)), None)


def step_of(checkpoint: Path) -> int:
    """The optimizer step after which a checkpoint was taken."""
    return int(checkpoint.name.rpartition("-")[2])


def position_of(checkpoint: Path) -> Position:
    """Where in the order of questions a run goes on from a checkpoint."""
    found = json.loads((checkpoint / COMPLETE).read_text())
    return Position(int(found["place"]), tuple(found.get("ahead", ())))


def mark_whole(checkpoint: Path, position: Position, keep: int) -> None:
    """Say that a checkpoint is written to its end; only then the oldest go, so that there always is a whole one.

    Args:
        checkpoint: its folder, ``OUT/checkpoints/checkpoint-{step}``.
        position: where in the order of questions the next step begins.
        keep: how many stay.
    """
    partial = checkpoint / f".{COMPLETE}"
    partial.write_text(json.dumps({"step": step_of(checkpoint), "place": position.place, "ahead": position.ahead}))
    partial.replace(checkpoint / COMPLETE)
    for old in whole_checkpoints(checkpoint.parents[1])[:-keep]:
        shutil.rmtree(old, ignore_errors=True)


def discard_torn(output: Path) -> None:
    """Remove what a killed run left of a checkpoint: files of two tries must not mix in one folder."""
    for folder in set((output / "checkpoints").glob("checkpoint-*")) - set(whole_checkpoints(output)):
        shutil.rmtree(folder, ignore_errors=True)
