"""Checkpoints of a sharded learner: each rank writes its own part while training goes on, any number of ranks reads it.

::

    checkpoint-{step}/pytorch_model_fsdp_0/  the weights that learn, float32, each once
    checkpoint-{step}/optimizer_0/           their moments
      .metadata, __{rank}_0.distcp           torch's: which piece of which tensor is where

The folders are named as accelerate names them. Nothing in them is unpickled but torch's own index of tensors.
"""

from __future__ import annotations

import functools
import pickle
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

from ravst_ray.errors import AbortError, ConfigError
from ravst_ray.logs import get_logger
from ravst_ray.training.failures import writing

log = get_logger(__name__)

WEIGHTS, MOMENTS = "pytorch_model_fsdp_0", "optimizer_0"
PATIENCE = timedelta(days=1)
"""So long ranks wait for one whose disk or store is slow; of one that is dead Ray knows."""
State = dict[str, torch.Tensor]
_INDEX = {
    "torch.distributed.checkpoint.metadata": {
        *("Metadata", "TensorStorageMetadata", "TensorProperties", "ChunkStorageMetadata", "MetadataIndex"),
        *("StorageMeta", "_MEM_FORMAT_ENCODING"),
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size", "float32", "bfloat16", "float16", "float64", "int64"},
    "pathlib": {"PosixPath", "Path"},
}
"""What an index of tensors is made of, by module."""


def host_group() -> Any:
    """A group of all ranks that talks from main memory, whatever the cards are busy with; None without ranks.

    The first call makes it, on all ranks together.
    """
    return _group_beside(dist.group.WORLD) if dist.is_available() and dist.is_initialized() else None


def is_sharded(folder: str | Path) -> bool:
    """Whether a checkpoint has been written in parts."""
    return (Path(folder) / WEIGHTS).is_dir()


def learned(model: Any) -> State:
    """The weights that learn, a shared one once, by the bare model's names."""
    return {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}


def read_weights(model: Any, folder: str | Path) -> None:
    """Put a checkpoint's weights into a model, sharded over any number of ranks or whole, piece by piece.

    Args:
        model: bare, or in PEFT's wrapper, as it was when it learned.
        folder: of the checkpoint.

    Raises:
        ConfigError: it doesn't hold this model's weights, or can't be read.
    """
    _read(learned(model), Path(folder) / WEIGHTS)


def read_moments(model: Any, optimizer: torch.optim.Optimizer, folder: str | Path) -> None:
    """Put a checkpoint's moments into an optimizer; its rates and settings stay. As :func:`read_weights`."""
    _read(_moments(model, optimizer), Path(folder) / MOMENTS)


class Saver:
    """Writes checkpoints beside the training; made on all ranks, and used by all in the same order.

    As a context it waits at its end for what is being written, also where something else has failed.
    """

    def __init__(self) -> None:
        self._group = host_group()
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._work: Future[None] | None = None

    def save(
        self, folder: Path, model: Any, optimizer: torch.optim.Optimizer, written: Callable[[], None] | None = None
    ) -> None:
        """Copy this rank's part to main memory, then write it in a thread.

        Args:
            folder: of the checkpoint; it goes where writing it fails.
            model: the policy.
            optimizer: of it.
            written: called on each rank, in the thread, once all ranks have written.

        Raises:
            AbortError: the one before couldn't be written.
        """
        self.wait()
        parts = []
        for name, state in ((WEIGHTS, learned(model)), (MOMENTS, _moments(model, optimizer))):
            writer = dcp.FileSystemWriter(folder / name)
            parts.append((writer, writer.stage(state)))
        self._work = self._thread.submit(self._write, folder, parts, written)

    def check(self) -> None:
        """Raise what :meth:`wait` would, if it is known by now."""
        if self._work is not None and self._work.done():
            self.wait()

    def wait(self) -> None:
        """Wait until what is being written is written.

        Raises:
            AbortError: it can't be; what the disk said.
        """
        work, self._work = self._work, None
        if work is not None:
            work.result()

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        try:
            self.wait()
        except Exception as unwritten:
            if error is None:
                raise
            log.warning("the last checkpoint wasn't written: %s", unwritten)
        finally:
            self._thread.shutdown(wait=False)

    def _write(self, folder: Path, parts: list[Any], written: Callable[[], None] | None) -> None:
        try:
            with writing(folder), _plainly():
                while parts:  # what is written needs no memory any more
                    writer, state = parts.pop(0)
                    dcp.save(state, storage_writer=writer, process_group=self._group)
                if written is not None:
                    written()
        except AbortError:
            shutil.rmtree(folder, ignore_errors=True)  # half of one is of no use, and the disk is full
            raise


@functools.cache
def _group_beside(world: Any) -> Any:
    return dist.new_group(backend="gloo", timeout=PATIENCE)


def _moments(model: Any, optimizer: torch.optim.Optimizer) -> State:
    """The optimizer's own tensors, by the weights' names; zeros are made where there are none yet."""
    inner = getattr(optimizer, "optimizer", optimizer)  # accelerate's wrapper may leave out steps
    found = get_optimizer_state_dict(model, inner, options=StateDictOptions(flatten_optimizer_state_dict=True))
    tensors = {name: value for name, value in found.items() if name.startswith("state.")}
    return {name: value for name, value in tensors.items() if isinstance(value, torch.Tensor)}


def _read(state: State, folder: Path) -> None:
    group = host_group()
    try:
        reader = _Reader(folder)
        if others := reader.index.state_dict_metadata.keys() ^ state.keys():
            raise ValueError(f"{min(others)} is only in one of them")
        with _plainly():
            dcp.load(state, storage_reader=reader, process_group=group, no_dist=group is None)
    except (OSError, RuntimeError, ValueError, AttributeError, EOFError, pickle.UnpicklingError) as error:
        said = " ".join(str(error).split())
        raise ConfigError(f"{folder} can't be read into this model: {said}") from error


@contextmanager
def _plainly() -> Iterator[None]:
    """What went wrong on a rank, in place of torch's collection of it, which is no ``Exception``."""
    try:
        yield
    except dcp.CheckpointException as error:
        failures: Mapping[int, Any] = error.failures
        raise failures[min(failures)][0] from error


class _Reader(dcp.FileSystemReader):
    """Unpickles of torch's index only what indexes of tensors are made of: a bucket may hold anything."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        with (folder / ".metadata").open("rb") as file:
            self.index = _Index(file).load()

    def read_metadata(self) -> Any:
        """As it was found at the start."""
        self.index.storage_meta = dcp.metadata.StorageMeta(load_id=self.load_id)
        return self.index


class _Index(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Look up what may be there."""
        if name not in _INDEX.get(module, ()):
            raise pickle.UnpicklingError(f"{module}.{name} is nothing that an index of tensors holds")
        return super().find_class(module, name)
