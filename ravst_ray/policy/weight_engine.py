"""The worker's side of a weight update where learner and engine share no GPU link: weights come as a file.

The rollout actor takes the weights from Ray's object store, writes them once to shared memory, and every worker of its
engine maps that file. Runs inside vLLM's worker processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import safe_open
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload


@dataclass
class FileInit(WeightTransferInitInfo):
    """Nothing has to be set up."""


@dataclass
class FileUpdate(WeightTransferUpdateInfo):
    """``path`` of a safetensors file with names and shapes of the Hugging Face checkpoint; parts may be missing."""

    path: str = ""


class FileWeightEngine(WeightTransferEngine[FileInit, FileUpdate]):
    """Loads a safetensors file in place."""

    init_info_cls = FileInit
    update_info_cls = FileUpdate

    def init_transfer_engine(self, init_info: FileInit) -> None:
        """Nothing to set up."""

    def start_weight_update(self) -> None:
        """Get ready to load layer by layer."""
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: FileUpdate) -> None:
        """Load one file."""
        self.model.load_weights(_tensors(update_info.path))

    def finish_weight_update(self) -> None:
        """Process what was loaded; layers that got nothing keep their weights."""
        finalize_layerwise_reload(self.model, self.model_config)
        _repack_head(self.model)

    def shutdown(self) -> None:
        """Nothing to release."""


def _tensors(path: str) -> Iterator[tuple[str, torch.Tensor]]:
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118
            yield name, file.get_tensor(name)


def _repack_head(model: Any) -> None:
    """On a CPU a tied head computes with a packed copy of the embedding, which a reload leaves as it was."""
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    language = getattr(model, "language_model", model)
    head = getattr(language, "lm_head", None)
    if head is not None and getattr(head, "weight", None) is not None and not head.weight.is_meta:
        dispatch_cpu_unquantized_gemm(head, remove_weight=False)
