"""What the Hugging Face backends share: device, dtype, and plain messages when a model can't be had."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ravst_ray.errors import ConfigError, StepError

if TYPE_CHECKING:
    import torch


def resolve_device(device: str) -> str:
    """``auto`` becomes ``cuda`` where there is a card, else ``cpu``.

    Raises:
        ConfigError: ``cuda`` is asked for and there is none.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"grounding.device: {device} is asked for, but torch sees no CUDA device; use auto or cpu")
    return device


def resolve_dtype(dtype: str, device: str, on_gpu: str = "bfloat16") -> torch.dtype:
    """``auto`` becomes float32 on a CPU and ``on_gpu`` on a GPU, whatever the checkpoint was saved as."""
    import torch

    if dtype == "auto":
        dtype = "float32" if device == "cpu" else on_gpu
    return getattr(torch, dtype)


def model_source(model: str, key: str) -> str:
    """Check that ``model`` is a directory with a model, or can be a hub name (``organisation/name``).

    Args:
        model: a hub name or a local directory.
        key: the configuration key that it came from, for the message.

    Raises:
        ConfigError: it is a path, and there is no model.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ConfigError(f"{key}: {model} is a directory without a config.json; name one with a saved model")
        return str(path)
    if path.exists() or model.startswith(("/", ".", "~")) or model.count("/") != 1:
        raise ConfigError(f"{key}: no model directory {model}; name an existing one, or a hub name such as org/name")
    return model


@contextmanager
def loading(model: str, key: str) -> Iterator[None]:
    """Turn the ways in which a model fails to load into one ``ConfigError`` that names it."""
    from safetensors import SafetensorError
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        hint = "check the name and the network, or name a local directory with a model of the right kind"
        raise ConfigError(f"{key}: {model} can't be loaded ({type(error).__name__}: {error}); {hint}") from error


@contextmanager
def memory_guard(what: str) -> Iterator[None]:
    """Turn a card that is full into a ``StepError`` that a later run may overcome."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        message = f"{what} ran out of GPU memory; lower grounding.batch_frames or decode.max_side_px"
        raise StepError("out_of_memory", message, retryable=True) from error
