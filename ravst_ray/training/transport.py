"""How the learner's weights reach the engines, behind one method: :meth:`Transport.publish`, called by every rank.

::

    object_store   rank 0 ── arrays on the host ──► object store ──► every actor: a file in shared memory ──► engine
    nccl           rank 0 ── broadcast, card to card ──► every worker of every engine
    ipc            each rank ── handles of its card's memory ──► the engine worker on the same card

For ``nccl`` and ``ipc`` vLLM's own sender drives the update: it calls a :class:`ManagerClient`, which passes each call
on to the actors through the rollout manager. The object store keeps a version, so an actor that starts anew has it at
once; the other two send to whoever is there. When an actor falls out in mid-transfer, nothing can end a broadcast that
waits for it, so the learner's process ends, and the run begins anew at its last checkpoint. ``nccl`` and ``ipc`` have
not been run on GPUs yet: their calls are checked against vLLM's sources and with stubs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Literal, Protocol

import ray
import torch

from ravst_ray.config.train import TrainConfig
from ravst_ray.logs import get_logger
from ravst_ray.training.rollout_actor import Weights
from ravst_ray.training.weights import policy_state, wire_weights

log = get_logger(__name__)


class Transport(Protocol):
    """Sends a policy's weights to all engines."""

    def publish(self, model: Any, version: int) -> float:
        """Send; every rank calls this. Gives rank 0 the share of time in which engines sampled, others 0."""
        ...


def open_transport(config: TrainConfig, manager: Any, rank: int) -> Transport:
    """The transport that a configuration asks for; nothing is connected yet."""
    if config.transport == "object_store":
        return ObjectStoreTransport(config, manager, rank)
    return CardTransport(config.transport, config, manager, rank)


class ObjectStoreTransport:
    """By way of Ray's object store: works anywhere."""

    def __init__(self, config: TrainConfig, manager: Any, rank: int):
        self._frozen, self._manager, self._rank = _frozen(config), manager, rank

    def publish(self, model: Any, version: int) -> float:
        """See :class:`Transport`."""
        state = policy_state(model, self._frozen, keep=self._rank == 0)
        if self._rank != 0:
            return 0.0
        share: float = ray.get(self._manager.publish.remote(Weights(version, [ray.put(state)])))
        return share


class CardTransport:
    """From the learner's card, by vLLM's ``nccl`` or ``ipc``; connected anew when other actors are there."""

    def __init__(self, transport: Literal["nccl", "ipc"], config: TrainConfig, manager: Any, rank: int):
        self._transport, self._config, self._manager, self._rank = transport, config, manager, rank
        self._client = ManagerClient(manager, config.engine.tensor_parallel)
        self._party: list[int] | None = None
        self._sender: Any = None
        self._model: Any = None

    def publish(self, model: Any, version: int) -> float:
        """See :class:`Transport`."""
        self._model = model
        self._connect()
        self._client.version = version
        self._sender.send_weights()
        if self._rank != 0:
            return 0.0
        share: float = ray.get(self._manager.published.remote(version))
        return share

    def _connect(self) -> None:
        """Open a sender: on rank 0 for every change among the actors, on others once, since they only gather."""
        party = ray.get(self._manager.party.remote()) if self._rank == 0 else []
        if party == self._party:
            return
        from ravst_ray.policy.weight_sender import PolicySource, open_sender

        if self._sender is not None:
            self._sender.shutdown()
        self._party, self._client.party = party, party
        workers = len(party) * self._config.engine.tensor_parallel
        source = PolicySource(self._named, wire_dtype(self._config))
        address = ray.util.get_node_ip_address()
        self._sender = open_sender(self._transport, self._rank, source, self._client, workers, address)

    def _named(self, merged: bool) -> Iterator[tuple[str, torch.Tensor]]:
        return wire_weights(self._model, _frozen(self._config), merged)


class ManagerClient:
    """vLLM's ``VLLMWeightSyncClient``: passes a sender's calls on to every actor of the party.

    Attributes:
        party: names of the actors that take part.
        version: of the weights that are sent.
    """

    def __init__(self, manager: Any, workers_each: int):
        self._manager, self._workers_each = manager, workers_each
        self.party: list[int] = []
        self.version = 0

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Let every engine join; vLLM counts one engine's workers from ``rank_offset``, so each gets its own."""
        infos = [dict(init_info) for _ in self.party]
        for place, info in enumerate(infos):
            if "rank_offset" in info:
                info["rank_offset"] += place * self._workers_each
        self._call("join_transfer", infos)

    def start_weight_update(self) -> None:
        """Let every engine end what it samples and get ready."""
        self._call("begin_transfer", [None] * len(self.party))

    def update_weights(self, update_info: Any) -> None:
        """Let every engine receive."""
        self._call("receive_transfer", [update_info] * len(self.party))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Let every engine go on with the new version (ours: vLLM's senders name none)."""
        self._call("end_transfer", [self.version] * len(self.party))

    def _call(self, method: str, payloads: list[Any]) -> None:
        try:
            ray.get(self._manager.transfer.remote(method, payloads))
        except ray.exceptions.RayError as error:
            log.error("a weight transfer broke off (%s): %s", method, str(error).strip().splitlines()[-1])
            give_up()


def give_up() -> None:
    """End this process: the sender's main thread may wait for ever for an engine that is gone."""
    os._exit(1)


def wire_dtype(config: TrainConfig) -> torch.dtype:
    """The engines' type: more digits than they keep need not travel."""
    name = config.engine.dtype
    dtype: torch.dtype = getattr(torch, "bfloat16" if name == "auto" else name)
    return dtype


def _frozen(config: TrainConfig) -> bool:
    """Whether the vision tower stays away: it is frozen, and engines have it. One that slept at level 2 hasn't."""
    asleep = config.rollouts.share_gpu and config.rollouts.sleep_level == 2
    return config.learner.freeze_vision and not asleep
