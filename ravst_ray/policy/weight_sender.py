"""The learner's side of vLLM's own weight transports: ``nccl`` between cards, ``ipc`` on a card that both share.

vLLM's trainer-side engines drive the whole update through a client with four methods; who gives one decides how the
calls reach the engines. Written against the signatures of vLLM 0.32, which a test checks; not run on a GPU yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import torch
from vllm.distributed.weight_transfer.base import ParamMeta, TrainerWeightTransferEngine, WeightSource
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo
from vllm.distributed.weight_transfer.packed_tensor import DEFAULT_PACKED_BUFFER_SIZE_BYTES
from vllm.utils.network_utils import get_open_port

Named = Iterable[tuple[str, torch.Tensor]]


class PolicySource(WeightSource):
    """The policy's weights as vLLM's senders want them, anew for each update.

    Args:
        named: gives names and tensors, whole or sharded (DTensor), an adapter merged or not; the same names in the same
            order on every rank.
        dtype: in which they travel, whatever the learner computes in; integers stay what they are.
    """

    def __init__(self, named: Callable[[bool], Named], dtype: torch.dtype):
        self._named, self._dtype = named, dtype

    def metadata(self) -> list[ParamMeta]:
        """Names, types and whole shapes, without gathering."""
        return [ParamMeta(name, self._wire(value), tuple(value.shape)) for name, value in self._named(False)]

    @property
    def size_bytes(self) -> int:
        """Of all that travels."""
        return sum(meta.dtype.itemsize * _elements(meta.shape) for meta in self.metadata())

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Whole tensors one by one; sharded ones are gathered, so all ranks must iterate."""
        for name, value in self._named(True):
            full = value.full_tensor() if hasattr(value, "full_tensor") else value
            yield name, full.detach().to(self._wire(value)).contiguous()

    def _wire(self, value: torch.Tensor) -> torch.dtype:
        return self._dtype if value.is_floating_point() else value.dtype


def open_sender(
    transport: Literal["nccl", "ipc"], rank: int, source: PolicySource, client: Any, engine_workers: int, address: str
) -> TrainerWeightTransferEngine[Any]:
    """A sender, met by the engines; every learner rank calls this, rank 0 is heard.

    Args:
        transport: ``nccl`` makes a group of rank 0 and all workers of all engines; ``ipc`` hands each worker memory of
            the learner's rank on its card.
        rank: of this learner worker.
        source: what is sent by ``send_weights()``.
        client: with vLLM's four methods (``VLLMWeightSyncClient``).
        engine_workers: GPUs of all engines together.
        address: under which engines reach this process.
    """
    sizes = [meta.dtype.itemsize * _elements(meta.shape) for meta in source.metadata()]
    buffer = max(DEFAULT_PACKED_BUFFER_SIZE_BYTES, *sizes)  # the largest must fit: a 7B model's embedding is over 1 GiB
    info: Any
    if transport == "nccl":
        info = NCCLTrainerInitInfo(
            master_address=address,
            master_port=get_open_port(),
            world_size=1 + engine_workers,
            packed=True,
            packed_buffer_size_bytes=buffer,
            rank=rank,
        )
    else:
        info = IPCTrainerInitInfo(packed=True, packed_buffer_size_bytes=buffer, rank=rank)
    return WeightTransferTrainerFactory.trainer_init(info, client=client, source=source)


def _elements(shape: tuple[int, ...]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count
