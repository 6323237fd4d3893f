"""What the two training scripts share: averaged weights, a schedule by the clock, and checkpoints to go on from."""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ravst_ray.logs import get_logger

log = get_logger(__name__)


def add_hard_options(parser: argparse.ArgumentParser) -> None:
    """Options to train on a checkpoint with hard scenes mixed in."""
    parser.add_argument("--hard-share", type=float, default=0.0, metavar="P", help="share of hard scenes (default 0)")
    parser.add_argument("--start", type=Path, metavar="DIR", help="checkpoint to go on from (default: from scratch)")
    parser.add_argument("--rate", type=float, default=1e-3, help="highest learning rate (default 1e-3)")


def started(model: Any, start: Path | None) -> Any:
    """The model, with the weights of a checkpoint where one is given."""
    if start:
        model.load_state_dict(type(model).from_pretrained(start, dtype=torch.float32).state_dict())
    return model


class Trainer:
    """AdamW with warm-up and cosine decay over a time budget, gradient clipping, averaged weights, resumable state.

    Args:
        model: trained in place.
        out: folder for ``state.pt`` and ``log.jsonl``.
        minutes: time budget of the whole training, earlier runs included.
        rate: highest learning rate.
        decay: of the averaged weights, per step.
        resume: go on from ``state.pt`` if there is one.
    """

    def __init__(
        self, model: torch.nn.Module, out: Path, minutes: float, rate: float, decay: float, resume: bool = False
    ):
        out.mkdir(parents=True, exist_ok=True)
        self.model, self.out, self.budget_s, self.rate, self.decay = model, out, minutes * 60, rate, decay
        self.weights = list(model.parameters())
        self.optimizer = torch.optim.AdamW(self.weights, lr=rate, betas=(0.9, 0.98), weight_decay=1e-4, fused=True)
        self.average = {key: value.detach().clone() for key, value in model.state_dict().items()}
        self.step, self.spent_s = 0, 0.0
        self._began = time.monotonic()
        if resume and (out / "state.pt").exists():
            self._load()

    @property
    def elapsed_s(self) -> float:
        """Seconds of training so far, earlier runs included."""
        return self.spent_s + time.monotonic() - self._began

    @property
    def done(self) -> bool:
        """Whether the time budget is used up."""
        return self.elapsed_s >= self.budget_s

    @property
    def progress(self) -> float:
        """Share of the time budget used, 0-1."""
        return min(self.elapsed_s / self.budget_s, 1.0)

    def update(self, loss: torch.Tensor) -> float:
        """One step; a loss that isn't finite ends the training."""
        value = float(loss.detach())
        if not math.isfinite(value):
            raise FloatingPointError(f"loss {value} at step {self.step}")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        rate = (
            self.rate * min(1.0, (self.step + 1) / 150) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * self.progress)))
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.step += 1
        self._track()
        return value

    @torch.no_grad()
    def _track(self) -> None:
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        names = dict(self.model.named_parameters())
        torch._foreach_lerp_([self.average[name] for name in names], [p.data for p in names.values()], 1 - decay)

    def with_average(self, use: Callable[[], Any]) -> Any:
        """Call ``use`` while the model holds the averaged weights."""
        training = self.model.training
        current = {key: value.detach().clone() for key, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.average)
        self.model.eval()
        try:
            with torch.no_grad():
                return use()
        finally:
            self.model.load_state_dict(current)
            self.model.train(training)

    def note(self, **numbers: float) -> None:
        """Log numbers and append them to ``log.jsonl``."""
        row = {
            "step": self.step,
            "minutes": round(self.elapsed_s / 60, 2),
            **{k: round(v, 4) for k, v in numbers.items()},
        }
        log.info("%s", row)
        with (self.out / "log.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")

    def save(self) -> None:
        """Write what a later run needs to go on."""
        state = {
            "model": self.model.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "spent_s": self.elapsed_s,
        }
        torch.save(state, self.out / "state.tmp")
        os.replace(self.out / "state.tmp", self.out / "state.pt")

    def _load(self) -> None:
        state = torch.load(self.out / "state.pt", weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average = state["average"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.spent_s = state["step"], state["spent_s"]
        self._began = time.monotonic()


def _write(model: Any, folder: Path) -> None:
    model.save_pretrained(folder)


def export(model: Any, processor: Any, folder: Path, card: str, write: Callable[[Any, Path], None] = _write) -> None:
    """Save model (fp16 safetensors), processor and model card; the folder is replaced as a whole.

    ``write`` saves a model to a folder; left out, the model itself does.
    """
    fresh = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    write(copy.deepcopy(model).half(), fresh)
    processor.save_pretrained(fresh)
    (fresh / "README.md").write_text(card)
    for file in fresh.iterdir():
        file.chmod(0o644)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(fresh, folder)
