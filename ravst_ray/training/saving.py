"""Checkpoints, as both learners write and read them: transformers' own, or in parts where the policy is sharded."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback

from ravst_ray.errors import AbortError, ConfigError
from ravst_ray.training import sharded
from ravst_ray.training.failures import writing
from ravst_ray.training.policy_loading import load_saved

AfterSave = Callable[[Path, int], None]
_SCHEDULER = "scheduler.pt"
_EARLIER = "pytorch_model_fsdp.bin"
"""The weights in checkpoints of earlier versions, which rank 0 gathered."""


class SavesCheckpoints(Trainer):
    """A trainer whose checkpoints are as this module says.

    Attributes:
        after_save: called with the folder and the step of each checkpoint once it is written: on all ranks, of a
            sharded policy in a thread beside the training.
    """

    after_save: AfterSave | None = None
    _saver: sharded.Saver | None = None

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train; a checkpoint that is being written is waited for, whatever ends the training."""
        if not self.is_fsdp_enabled:
            return super().train(*args, **kwargs)
        with sharded.Saver() as self._saver:
            self.add_callback(_Unwritten(self._saver))
            return super().train(*args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As transformers does, but not into a checkpoint that is written in parts."""
        if not (_internal_call and self.is_fsdp_enabled):
            super().save_model(output_dir, _internal_call)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        step = self.state.global_step
        folder = Path(self.args.output_dir) / f"checkpoint-{step}"
        if self._saver is not None:
            self._saver.wait()
        try:
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
                Trainer._save_checkpoint(self, model, trial)  # without TRL's model card for each
                done = partial(self.after_save or _nothing, folder, step)
                if self._saver is not None:
                    self._saver.save(folder, self.model, self.optimizer, done)
                else:
                    done()
        except AbortError:
            shutil.rmtree(folder, ignore_errors=True)  # half of one is of no use, and the disk is full
            raise

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
        elif self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / _SCHEDULER)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        policy = self.model if model is None else model
        if sharded.is_sharded(resume_from_checkpoint):
            sharded.read_weights(policy, resume_from_checkpoint)
        elif self.is_fsdp_enabled and not (Path(resume_from_checkpoint) / _EARLIER).exists():
            raise ConfigError(
                f"{resume_from_checkpoint} isn't of a sharded learner, so that none can go on from it; name another "
                "output, or go on with learner.shard=false"
            )
        elif self.is_fsdp_enabled or hasattr(policy, "get_base_model"):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            load_saved(policy, resume_from_checkpoint)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not sharded.is_sharded(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        sharded.read_moments(self.model, self.optimizer, checkpoint)
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / _SCHEDULER, weights_only=True))
        for group, rate in zip(self.optimizer.param_groups, self.lr_scheduler.get_last_lr(), strict=True):
            group["lr"] = rate


class _Unwritten(TrainerCallback):
    """Ends the training after the step in which a checkpoint turned out not to be writable."""

    def __init__(self, saver: sharded.Saver):
        self._saver = saver

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Look."""
        self._saver.check()


def _nothing(folder: Path, step: int) -> None:
    """Nobody wants to know."""
