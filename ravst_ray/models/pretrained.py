"""What Hugging Face models share: device, dtype, and plain messages when a model can't be had."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ravst_ray.datasets.places import is_remote
from ravst_ray.errors import ConfigError, StepError
from ravst_ray.logs import get_logger
from ravst_ray.models.fetched import fetched_model
from ravst_ray.models.size import model_folder, read_json

if TYPE_CHECKING:
    import torch


log = get_logger(__name__)
_WEIGHTS = ("*.safetensors", "*.bin")


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

    Of a URI's folder it is this node's copy, which is made here.

    Args:
        model: a hub name, a local directory or a URI (:mod:`ravst_ray.datasets.places`).
        key: the configuration key that it came from, for the message.

    Raises:
        ConfigError: it is a path, and there is no model.
        AbortError: it can't be fetched.
    """
    if is_remote(model):
        return fetched_model(model, key)
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ConfigError(f"{key}: {model} is a directory without a config.json; name one with a saved model")
        return str(path)
    if path.exists() or model.startswith(("/", ".", "~")) or model.count("/") != 1 or not _is_hub_name(model):
        raise ConfigError(f"{key}: no model directory {model}; name an existing one, or a hub name such as org/name")
    return model


def model_type(model: str, key: str) -> str:
    """``model_type`` of a model's ``config.json``, from its directory, the hub's cache, or the hub.

    Args:
        model: a hub name or a local directory.
        key: the configuration key that it came from, for the message.

    Raises:
        ConfigError: there is no such model, or its configuration names no kind.
    """
    source = model_source(model, key)
    kind = read_json(source, "config.json").get("model_type")
    if kind is None and model_folder(source) is None:
        from huggingface_hub import hf_hub_download

        with loading(model, key):
            kind = json.loads(Path(hf_hub_download(source, "config.json")).read_text(encoding="utf-8"))["model_type"]
    if not isinstance(kind, str):
        raise ConfigError(f"{key}: the config.json of {model} has no model_type, or can't be read; is it a model?")
    return kind


def _is_hub_name(model: str) -> bool:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(model)
    except HFValidationError:
        return False
    return True


def check_model(model: str, key: str) -> None:
    """Whether a model can be had, before anything starts: a directory is looked into, a hub name is looked up.

    A name whose files are in this machine's cache isn't asked about. Where the hub can't be asked, and other machines
    do the work (``RAY_ADDRESS``), their caches may have it: that is only warned of.

    Args:
        model: a hub name or a local directory.
        key: the configuration key that it came from, for the message.

    Raises:
        ConfigError: files are missing, the hub has no such model, it wants its licence accepted, or can't be reached.
    """
    source = Path(model_source(model, key))
    folder = model_folder(str(source))
    lacking = _lacking(folder) if folder else ""
    if source.is_dir() and lacking:
        raise ConfigError(f"{key}: {model} lacks {lacking}; name a directory with a whole saved model")
    if folder is None or lacking:
        _look_up(model, key)


def _lacking(folder: Path) -> str:
    """What a model's directory should hold and doesn't."""
    try:
        index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
        missing = [name for name in sorted(set(index["weight_map"].values())) if not (folder / name).is_file()]
    except (OSError, ValueError, KeyError, AttributeError):
        missing = [] if any(any(folder.glob(kind)) for kind in _WEIGHTS) else ["its weights (model.safetensors)"]
    if not any(folder.glob("*processor_config.json")):
        missing.append("preprocessor_config.json")
    return ", ".join(missing)


def _look_up(model: str, key: str) -> None:
    from huggingface_hub import constants, errors, get_hf_file_metadata, hf_hub_url

    there = f"{constants.ENDPOINT}/{model}"
    try:
        get_hf_file_metadata(hf_hub_url(model, "config.json"))
    except errors.GatedRepoError:
        hint = f"accept its licence at {there}, and set HF_TOKEN to a token of that account"
        raise ConfigError(f"{key}: {model} is only for those who accepted its licence; {hint}") from None
    except errors.RepositoryNotFoundError:
        hint = "check the name, or set HF_TOKEN where it is private"
        raise ConfigError(f"{key}: there is no model {there}; {hint}") from None
    except errors.EntryNotFoundError:
        raise ConfigError(f"{key}: {there} has no config.json, so it is no model for transformers") from None
    except Exception as error:  # of whichever HTTP library is underneath
        offline = isinstance(error, errors.OfflineModeIsEnabled)
        why = "HF_HUB_OFFLINE is set" if offline else f"the hub can't be asked ({type(error).__name__}: {error})"
        hint = f"download it first (hf download {model}), or name a directory"
        if not os.environ.get("RAY_ADDRESS"):
            raise ConfigError(f"{key}: {model} is not whole in the cache, and {why}; {hint}") from None
        log.warning("%s: %s is not whole in this machine's cache, and %s; other nodes may have it", key, model, why)


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
