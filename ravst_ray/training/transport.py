"""How the learner's weights reach the engines, behind one method: :meth:`Transport.publish`, called by every rank.

::

    object_store   rank 0 ── arrays on the host ──► object store ──► every actor: a file in shared memory ──► engine
    nccl           rank 0 ── broadcast, card to card ──► every worker of every engine
    ipc            each rank ── handles of its card's memory ──► the engine worker on the same card

By the object store the learner goes on as soon as its weights are copied; engines load them meanwhile. For ``nccl`` and
``ipc`` vLLM's own sender drives the update: it calls a :class:`ManagerClient`, which passes each call
on to the actors through the rollout manager. The object store keeps a version, so an actor that starts anew has it at
once, and of a run with LoRA it takes the adapter alone; the other two send whole models to whoever is there. When an
actor falls out of such a transfer, the pool puts another in its place, and the learner shuts the sender down and sends
anew to those that are there. Two things end its process, and the run begins anew at its last checkpoint: a sender that
doesn't come back (nothing can end a broadcast that waits for an engine that is gone), and an error after other learner
workers have begun to gather, since they can't begin again. ``nccl`` and ``ipc`` have not been run on GPUs yet: their
calls are checked against vLLM's sources and with stubs.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Literal, Protocol

import ray
import torch

from ravst_ray.config.train import TrainConfig
from ravst_ray.errors import BrokenTransferError
from ravst_ray.logs import get_logger
from ravst_ray.training.pool import Synced
from ravst_ray.training.rollout_actor import Weights
from ravst_ray.training.weights import adapter_state, policy_state, wire_weights

log = get_logger(__name__)
MEET_S = 330.0
"""How long a sender may wait for engines that don't come to meet it: vLLM's meeting point closes after 300 s."""
BROADCAST_S = 30.0
"""How long a sender may go on after an engine has failed."""


class Transport(Protocol):
    """Sends a policy's weights to all engines.

    Attributes:
        sent_bytes: of the last version, how much each engine was given; known to rank 0.
    """

    sent_bytes: int

    def publish(self, model: Any, version: int) -> None:
        """Send; every rank calls this, after what was sent before is settled.

        The model may change as soon as this comes back; engines may load the weights meanwhile.
        """
        ...

    def settled(self) -> Synced | None:
        """Wait until the engines have what was sent last; what came of it, once, and only on rank 0.

        Raises:
            RavstError: what stopped them.
        """
        ...

    def check(self, asked: Any) -> None:
        """Wait until something asked of the manager is there, or raise what stopped the update that it waits for."""
        ...


def open_transport(config: TrainConfig, manager: Any, rank: int) -> Transport:
    """The transport that a configuration asks for; nothing is connected yet."""
    if config.transport == "object_store":
        return ObjectStoreTransport(config, manager, rank)
    return CardTransport(config.transport, config, manager, rank)


class ObjectStoreTransport:
    """By way of Ray's object store: works anywhere."""

    def __init__(self, config: TrainConfig, manager: Any, rank: int):
        self._config, self._manager, self._rank = config, manager, rank
        self._sent: Any = None
        self.sent_bytes = 0

    def publish(self, model: Any, version: int) -> None:
        """See :class:`Transport`."""
        keep = self._rank == 0
        if self._config.ships_adapter:
            state = adapter_state(model, keep)
        else:
            state = policy_state(model, _frozen(self._config), keep)
        if keep:
            self.sent_bytes = sum(value.nbytes for value in state.values())
            self._sent = self._manager.publish.remote(Weights(version, [ray.put(state)]))

    def settled(self) -> Synced | None:
        """See :class:`Transport`."""
        sent, self._sent = self._sent, None
        return None if sent is None else ray.get(sent)

    def check(self, asked: Any) -> None:
        """See :class:`Transport`."""
        if self._sent is not None:
            ended, _ = ray.wait([asked, self._sent], num_returns=1)
            ray.get([one for one in ended if one == self._sent])


class CardTransport:
    """From the learner's card, by vLLM's ``nccl`` or ``ipc``; connected anew when other actors are there."""

    def __init__(self, transport: Literal["nccl", "ipc"], config: TrainConfig, manager: Any, rank: int):
        self._transport, self._config, self._manager, self._rank = transport, config, manager, rank
        self._client = ManagerClient(manager, config.engine.tensor_parallel)
        self._party: list[int] | None = None
        self._sender: Any = None
        self._model: Any = None
        self._synced: Synced | None = None
        self.sent_bytes = 0

    def publish(self, model: Any, version: int) -> None:
        """See :class:`Transport`."""
        self._model, self._client.version = model, version
        while not self._sent():
            pass
        if self._rank == 0:
            self._synced = ray.get(self._manager.published.remote(version))

    def settled(self) -> Synced | None:
        """See :class:`Transport`."""
        synced, self._synced = self._synced, None
        return synced

    def check(self, asked: Any) -> None:
        """Nothing waits: what was sent is there."""

    def _sent(self) -> bool:
        """Connect and send; False when an engine fell out, so that it must be done again."""
        try:
            self._connect()
            self._sender.send_weights()
            return True
        except Exception:
            # What reaches this thread may be a meeting that came to nothing; what broke off is known to the client.
            if not isinstance(self._client.broken, BrokenTransferError):
                raise
            if self._client.gathering and self._config.learner.workers > 1:
                give_up()
            log.warning("weights are sent anew: %s", self._client.broken)
            with suppress(Exception):  # what is left of it
                if self._sender is not None:
                    self._sender.shutdown()
            self._sender = self._party = None
            return False
        finally:
            self._client.settled()

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
        self.sent_bytes = source.size_bytes
        address = ray.util.get_node_ip_address()
        self._sender = open_sender(self._transport, self._rank, source, self._client, workers, address)

    def _named(self, merged: bool) -> Iterator[tuple[str, torch.Tensor]]:
        return wire_weights(self._model, _frozen(self._config), merged)


class ManagerClient:
    """vLLM's ``VLLMWeightSyncClient``: passes a sender's calls on to every actor of the party.

    Attributes:
        party: names of the actors that take part.
        version: of the weights that are sent.
        broken: what broke a transfer off, until :meth:`settled`.
        gathering: whether it happened when all learner workers may have begun to gather what is sent.
    """

    def __init__(self, manager: Any, workers_each: int):
        self._manager, self._workers_each = manager, workers_each
        self.party: list[int] = []
        self.version = 0
        self.broken: Exception | None = None
        self.gathering = False
        self._deadline: threading.Timer | None = None

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
        except (ray.exceptions.RayError, BrokenTransferError) as error:
            cause = getattr(error, "cause", error)
            self.broken = cause if isinstance(cause, BrokenTransferError) else error
            self.gathering = method in ("receive_transfer", "end_transfer")
            # This may be a thread beside the sender's own, which waits for engines, perhaps for ever.
            self._deadline = threading.Timer(MEET_S if method == "join_transfer" else BROADCAST_S, give_up)
            self._deadline.daemon = True
            self._deadline.start()
            raise self.broken from None

    def settled(self) -> None:
        """The sender has come back: nothing waits any more."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline, self.broken = None, None


def give_up() -> None:
    """End this process: it waits for an engine that is gone, or others wait for what it can't go on with."""
    log.error("a weight transfer can't be ended or begun again: this learner worker ends")
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
