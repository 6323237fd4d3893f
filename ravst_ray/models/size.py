"""How many bytes a model's weights take on a card, without loading them, and how large this machine's cards are."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

MIB = 2**20
PARAMETERS = {
    "grounding-dino-tiny": 172.3e6,
    "grounding-dino-base": 232.3e6,
    "sam2.1-hiera-tiny": 39.0e6,
    "sam2.1-hiera-small": 46.1e6,
    "sam2.1-hiera-base-plus": 80.9e6,
    "sam2.1-hiera-large": 224.4e6,
    "smollm2": 0.135e9,
    "qwen2.5-0.5b": 0.494e9,
    "qwen2.5-1.5b": 1.544e9,
    "qwen2.5-3b": 3.086e9,
    "qwen2.5-7b": 7.616e9,
    "qwen2.5-14b": 14.770e9,
    "qwen2.5-vl-3b": 3.755e9,
    "qwen2.5-vl-7b": 8.292e9,
    "qwen2.5-omni-7b": 8.932e9,
    "qwen3-vl-2b": 2.128e9,
    "qwen3-vl-4b": 4.438e9,
    "qwen3-vl-8b": 8.767e9,
}
"""Of models that are often named, by :func:`short_name`; of Omni the thinker, which alone is loaded."""
_BILLIONS = re.compile(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)b(?![a-z0-9])")
_ROUNDED_DOWN = 1.1  # "7B" has been written on models of 6.7 to 7.6 billion parameters
_PACKED = {8: re.compile(r"int8|w8a|fp8|8bit"), 4: re.compile(r"awq|gptq|int4|w4a|nf4|fp4|4bit")}
_KV_BYTES = 2
_KV_UNKNOWN = 131_072  # bytes a token of Llama 3 8B: 32 layers, 8 heads of 128, keys and values


def weight_bytes(model: str, bytes_each: int) -> int | None:
    """The weights of a model, with floating-point tensors in ``bytes_each`` bytes a number and packed ones as they are.

    A directory is measured by the headers of its safetensors files, and so is a hub name whose files are in the hub's
    cache; else the name tells: known models, or a size such as "7B" in it.

    Returns:
        Bytes; None where nothing tells.

    Example:
        >>> weight_bytes("models/Qwen2.5-7B-Instruct", 2)
        15232000000
    """
    folder = model_folder(model)
    if folder is not None:
        measured = sum(_file_bytes(file, bytes_each) for file in _weight_files(folder))
        if measured:
            return measured
    return _bytes_by_name(model, bytes_each)


def tensor_sizes(model: str) -> dict[str, int]:
    """How many numbers each tensor of a model has, by name, from the headers of its safetensors files; else empty."""
    folder = model_folder(model)
    found: dict[str, int] = {}
    for file in _weight_files(folder) if folder else ():
        found |= {name: prod(one["shape"]) for name, one in _header(file).items()}
    return found


def model_folder(model: str) -> Path | None:
    """Where the model's files are on this machine: its directory, or its place in the hub's cache."""
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if model.startswith(("/", ".", "~")) or model.count("/") != 1:
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model, "config.json")
    return Path(found).parent if isinstance(found, str) else None


def kv_bytes_per_token(model: str) -> int:
    """Keys and values of one token in 16 bits, over all layers, by the model's ``config.json``."""
    config = read_json(model, "config.json")
    text = config.get("text_config") or config.get("thinker_config", {}).get("text_config") or config
    try:
        heads = text["num_attention_heads"]
        width = text.get("head_dim") or text["hidden_size"] // heads
        return 2 * _KV_BYTES * text["num_hidden_layers"] * (text.get("num_key_value_heads") or heads) * width
    except KeyError:
        return _KV_UNKNOWN


def sees(model: str) -> bool:
    """Whether a language model takes pictures, by its ``config.json`` or its name."""
    config = read_json(model, "config.json")
    if config:
        return "vision_config" in config or "thinker_config" in config
    return bool(re.search(r"-vl\b|-omni\b|vision|llava", _last(model)))


def read_json(model: str, file: str) -> dict[str, Any]:
    """A JSON file of a model; empty where it isn't there or can't be read."""
    folder = model_folder(model)
    try:
        found = json.loads((folder / file).read_text(encoding="utf-8")) if folder else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def card_bytes(every: bool = False) -> int | None:
    """Memory of the smallest card that this process may use, or of ``every`` one here; None where there is none."""
    visible = None if every else os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1", "NoDevFiles"):
        return None
    chosen = ["-i", visible] if visible else []
    command = ["nvidia-smi", *chosen, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    sizes = [int(line) for line in told.split() if line.isdigit()]
    return min(sizes) * MIB if sizes else None


def _weight_files(folder: Path) -> Iterator[Path]:
    """The files that are loaded: a folder may hold the same weights twice, in one file and in shards."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        yield folder / "model.safetensors"
    elif index.is_file():
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        yield from (folder / name for name in sorted(names) if (folder / name).is_file())
    else:
        yield from sorted(folder.glob("*.safetensors"))


def _file_bytes(file: Path, bytes_each: int) -> int:
    """What a safetensors file takes on the card."""
    return sum(
        prod(one["shape"]) * bytes_each
        if one["dtype"] in ("F64", "F32", "F16", "BF16")
        else one["data_offsets"][1] - one["data_offsets"][0]
        for one in _header(file).values()
    )


def _header(file: Path) -> dict[str, Any]:
    """What a safetensors file says of its tensors: 8 bytes of length, then JSON."""
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        header: dict[str, Any] = json.loads(opened.read(length))
    header.pop("__metadata__", None)
    return header


def _bytes_by_name(model: str, bytes_each: int) -> int | None:
    name = _last(model)
    bits = next((bits for bits, told in _PACKED.items() if told.search(name)), 8 * bytes_each)
    known = PARAMETERS.get(short_name(model))
    if known is None:
        told = [float(size) for size in _BILLIONS.findall(name)]
        if not told:
            return None
        known = max(told) * 1e9 * _ROUNDED_DOWN  # "30B-A3B": all experts lie on the card
    return round(known * bits / 8)


def short_name(model: str) -> str:
    """The last part of a model's name in lower case, without ``-instruct``."""
    return _last(model).removesuffix("-instruct")


def _last(model: str) -> str:
    return model.rstrip("/").rsplit("/", 1)[-1].lower()
