"""An adapter in a running engine: what vLLM is told of it, and its files, which are PEFT's.

vLLM adds an adapter's product to the outputs of the base model's layers; the base model stays as it was loaded. Layers
that vLLM has packed together (queries, keys and values) get their parts by their own names. Over all syncs there is one
adapter, under one number and one name, loaded in place of the one before; the first one changes nothing. By the name
vLLM's cache of prefixes tells adapters apart, so it has to be emptied each time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np

from ravst_ray.config.train import LoraConfig

PREFIX = "base_model.model."
"""Before the names of modules in PEFT's files."""
_NAME, _NUMBER = "policy", 1


def adapter_arguments(lora: LoraConfig) -> dict[str, Any]:
    """Arguments of vLLM's engine for one adapter of the given rank; it has buffers for ranks of a few sizes."""
    from vllm.config.lora import MaxLoRARanks

    return {
        "enable_lora": True,
        "max_loras": 1,
        "max_lora_rank": min(rank for rank in get_args(MaxLoRARanks) if rank >= lora.rank),
        "lora_target_modules": list(lora.targets),
    }


def lora_request(folder: str, load_inplace: bool = False) -> Any:
    """vLLM's ``LoRARequest`` for the adapter; the folder must be there for a request that loads it."""
    from vllm.lora.request import LoRARequest

    return LoRARequest(_NAME, _NUMBER, folder, load_inplace=load_inplace)


def no_change(lora: LoraConfig) -> dict[str, np.ndarray]:
    """An adapter for :func:`write_adapter` that leaves every layer as it is.

    vLLM loads none without a layer: this has one that no model has.
    """
    layer = f"{PREFIX}none.{lora.targets[0]}"
    down, up = np.zeros((lora.rank, 1), np.float32), np.zeros((1, lora.rank), np.float32)
    return {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}


def write_adapter(folder: Path, state: Mapping[str, np.ndarray], lora: LoraConfig) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors`` as PEFT and vLLM read them.

    Args:
        folder: is made.
        state: ``A [rank, in]`` and ``B [out, rank]`` of each layer, under PEFT's names; layers that lack stay as they
            are without an adapter.
        lora: of the adapter.
    """
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    told = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": lora.rank, "lora_alpha": lora.alpha}
    told["target_modules"] = list(lora.targets)
    (folder / "adapter_config.json").write_text(json.dumps(told), encoding="utf-8")
    save_file(dict(state), folder / "adapter_model.safetensors")
