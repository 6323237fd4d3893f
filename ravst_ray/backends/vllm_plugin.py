"""What vLLM loads in each of its processes (entry point ``vllm.general_plugins``)."""

from __future__ import annotations

BACKEND = "object_store"


def register() -> None:
    """Make our weight transfer known to vLLM; calling it twice does no harm."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(BACKEND, "ravst_ray.backends.weight_engine", "FileWeightEngine")
