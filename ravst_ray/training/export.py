"""``ravst export-model``: a checkpoint of a training run as a plain Hugging Face directory."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from ravst_ray.config.base import load_config
from ravst_ray.config.train import TrainConfig
from ravst_ray.datasets.places import is_remote, join
from ravst_ray.datasets.transfer import at_once, receive, send
from ravst_ray.errors import ConfigError
from ravst_ray.training.policy_loading import load_policy, load_saved
from ravst_ray.training.run_store import CHECKPOINTS, Checkpoint, RunStore
from ravst_ray.training.sharded import is_sharded, read_weights
from ravst_ray.training.validation import NAME as VALIDATIONS
from ravst_ray.training.validation import best_row, read_rows
from ravst_ray.training.weights import save_policy_model

_OPTIMIZER = ("optimizer", "scheduler", "rng_state", "training_args")


def export_model(run: str, step: int | None = None, best: bool = False, target: str | None = None) -> str:
    """Write the policy of a checkpoint, an adapter merged, frozen towers included; gives its place.

    Args:
        run: output of a training run, a path or a URI.
        step: of the checkpoint; None: the newest one.
        best: the checkpoint with the best validation instead.
        target: folder to write, a path or a URI; None: ``model-{step}`` in the run's output.

    Raises:
        ConfigError: there is no such run or checkpoint, or its model can't be loaded.
        AbortError: the place can't be read or written.
    """
    store = RunStore(run)
    settings = store.read("config.yaml")
    if settings is None:
        raise ConfigError(f"{run}: no config.yaml, so this is no training run's output")
    with tempfile.TemporaryDirectory(prefix="ravst-export-") as scratch:
        saved = Path(scratch) / "config.yaml"
        saved.write_bytes(settings)
        # Earlier runs may have micro-batches that are refused now.
        config = load_config(TrainConfig, saved, ["learner.micro_batch=1"])
        checkpoint = _chosen(store, config, step, best)
        place = target or store.place(f"model-{checkpoint.step}")
        folder = Path(scratch) / "model" if is_remote(place) else Path(place).absolute()
        _save(config, _files(store, checkpoint, Path(scratch)), folder)
        if is_remote(place):
            names = sorted(path.name for path in folder.iterdir())
            at_once(lambda name: send(folder / name, join(place, name)), names)
    return place


def _chosen(store: RunStore, config: TrainConfig, step: int | None, best: bool) -> Checkpoint:
    whole = {one.step: one for one in store.whole_checkpoints()}
    if not whole:
        raise ConfigError(f"{store.output}: no whole checkpoint in it")
    if best:
        marked = (store.read(VALIDATIONS) or b"").decode(errors="replace")
        rows = [row for row in read_rows(marked, config.max_steps) if row["step"] in whole]
        if not rows:
            raise ConfigError(f"{store.output}: no checkpoint with a validation in it; eval_every makes a run validate")
        step = int(best_row(rows, config.validation.metric)["step"])
    chosen = max(whole) if step is None else step
    if chosen not in whole:
        raise ConfigError(f"{store.output}: no checkpoint of step {chosen}; there are {', '.join(map(str, whole))}")
    return whole[chosen]


def _files(store: RunStore, checkpoint: Checkpoint, scratch: Path) -> Path:
    """The checkpoint's folder on this node; of an object store what the weights need of it."""
    if not store.remote:
        return store.local / CHECKPOINTS / checkpoint.name
    folder = f"{CHECKPOINTS}/{checkpoint.name}"
    wanted = [name for name in checkpoint.files if not name.startswith(_OPTIMIZER)]
    at_once(
        lambda name: receive(store.place(f"{folder}/{name}"), scratch / folder / name, checkpoint.files[name]), wanted
    )
    return scratch / folder


def _save(config: TrainConfig, checkpoint: Path, folder: Path) -> None:
    policy = load_policy(config.model, config.learner)
    model: Any = policy.model
    if is_sharded(checkpoint):  # read piece by piece into the model that is there
        if policy.adapter is not None:
            from peft import get_peft_model

            model = get_peft_model(model, policy.adapter)
        read_weights(model, checkpoint)
    elif policy.adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(checkpoint))
    else:
        load_saved(model, str(checkpoint))
    folder.parent.mkdir(parents=True, exist_ok=True)
    save_policy_model(model, policy.processor, folder, rank=0)
