"""New weights for a vLLM engine where learner and engine share no GPU link: they come as a file.

The rollout actor takes the weights from Ray's object store, writes them once to shared memory, and every worker of its
engine maps that file. This is the worker's side; it runs inside vLLM's worker processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from ravst_ray.policy.weight_checksum import weight_checksum


class WeightExtension:
    """What vLLM's workers get beside their own methods (``worker_extension_cls``)."""

    model_runner: Any
    vllm_config: Any

    def ravst_load_weights(self, path: str) -> str:
        """Load a safetensors file in place; gives the checksum of this worker's share of the model.

        Args:
            path: with names and shapes of the Hugging Face checkpoint; layers that it lacks keep their weights.
        """
        from vllm.config import set_current_vllm_config
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

        model = self.model_runner.get_model()
        with set_current_vllm_config(self.vllm_config), torch.no_grad():
            initialize_layerwise_reload(model)
            try:
                model.load_weights(_tensors(path))
            finally:  # what didn't come stays as it was
                finalize_layerwise_reload(model, self.vllm_config.model_config)
            _repack_head(model)
        return weight_checksum(model)

    def ravst_weight_checksum(self) -> str:
        """:func:`~ravst_ray.policy.weight_checksum.weight_checksum` of this worker's share of the model."""
        return weight_checksum(self.model_runner.get_model())


def _tensors(path: str) -> Iterator[tuple[str, torch.Tensor]]:
    from safetensors import safe_open

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
