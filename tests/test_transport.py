"""Which way weights take to the engines, and the calls that vLLM's own transports make, with stubs for cards."""

import asyncio
import inspect
import threading
from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pytest
import ray
import torch
from vllm.distributed.weight_transfer import base, ipc_engine, nccl_engine
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory, WeightTransferTrainerFactory
from vllm.renderers.base import BaseRenderer
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.core_client import AsyncMPClient

from ravst_ray.config.base import load_config
from ravst_ray.config.train import LearnerConfig, LoraConfig, TrainConfig
from ravst_ray.config.video_llm import EngineConfig
from ravst_ray.errors import AbortError, BrokenTransferError, ConfigError
from ravst_ray.policy import weight_sender
from ravst_ray.policy.engine import VideoLLM
from ravst_ray.policy.weight_sender import PolicySource, open_sender
from ravst_ray.training import transport
from ravst_ray.training.policy_loading import load_policy
from ravst_ray.training.pool import Synced
from ravst_ray.training.transport import CardTransport, ManagerClient, ObjectStoreTransport, open_transport, wire_dtype
from ravst_ray.training.weights import named_weights, policy_state
from tests.test_rollout import LAPTOP
from tests.tiny_policies import load_tiny, tiny_policy

WHOLE = ["learner.num_gpus=1", "rollouts.num_gpus=1"]
SHARED = ["learner.num_gpus=0.5", "rollouts.num_gpus=0.5", "rollouts.share_gpu=true", "rollouts.max_staleness=0"]


def settings(*more):
    return load_config(TrainConfig, LAPTOP, ["output=out", "model=m", *more])


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ([], "object_store"),
        (["learner.num_gpus=1"], "object_store"),
        (["rollouts.num_gpus=1"], "object_store"),
        (["learner.num_gpus=0.5", "rollouts.num_gpus=0.5"], "object_store"),  # one card, but nobody said so
        (WHOLE, "nccl"),
        ([*WHOLE, "sync.transport=object_store"], "object_store"),
        (SHARED, "ipc"),
        ([*SHARED, "sync.transport=object_store"], "object_store"),
    ],
)
def test_the_transport_follows_from_where_things_are(given, chosen):
    config = settings(*given)
    assert config.transport == chosen
    kind = ObjectStoreTransport if chosen == "object_store" else CardTransport
    assert type(open_transport(config, None, 0)) is kind


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["sync.transport=nccl"], "nccl needs whole GPUs"),
        ([*SHARED, "sync.transport=nccl"], "nccl needs whole GPUs"),
        ([*WHOLE, "sync.transport=ipc"], "ipc is for a card that learner and engine share"),
        ([*SHARED, "rollouts.max_staleness=1"], "share_gpu needs rollouts.max_staleness = 0"),
        (["rollouts.share_gpu=true", "rollouts.max_staleness=0"], "num_gpus above 0, together at most 1"),
        ([*SHARED, "learner.num_gpus=0.6"], "num_gpus above 0, together at most 1"),
        ([*SHARED, "rollouts.max_actors=2"], "an actor of one GPU for each learner worker"),
        ([*SHARED, "rollouts.actors=2", "learner.workers=2"], "needs rollouts.num_gpus above 0.5"),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(given, message):
    with pytest.raises(ConfigError, match=message):
        settings(*given)


def test_what_we_call_is_there_in_this_vllm():
    names = {field.name for field in fields(nccl_engine.NCCLTrainerInitInfo)}
    assert {"master_address", "master_port", "world_size", "packed", "packed_buffer_size_bytes", "rank"} <= names
    names = {field.name for field in fields(ipc_engine.IPCTrainerInitInfo)}
    assert {"packed", "packed_buffer_size_bytes", "rank"} <= names
    assert list(inspect.signature(WeightTransferTrainerFactory.trainer_init).parameters) == [
        "init_info",
        "client",
        "source",
    ]
    for backend in ("nccl", "ipc"):
        assert backend in WeightTransferEngineFactory._registry and backend in WeightTransferTrainerFactory._registry
    for engine in (nccl_engine.NCCLTrainerWeightTransferEngine, ipc_engine.IPCTrainerWeightTransferEngine):
        assert list(inspect.signature(engine.send_weights).parameters) == ["self"]
    for method, given in (
        ("init_weight_transfer_engine", ["init_info"]),
        ("start_weight_update", []),
        ("update_weights", ["update_info"]),
        ("finish_weight_update", ["weight_version"]),
    ):
        for client in (base.VLLMWeightSyncClient, ManagerClient):
            assert list(inspect.signature(getattr(client, method)).parameters) == ["self", *given], (client, method)
    assert isinstance(ManagerClient(None, 1), base.VLLMWeightSyncClient)
    for method, given in (
        ("init_weight_transfer_engine", ["request"]),
        ("shutdown_weight_transfer_engine", []),
        ("start_weight_update", []),
        ("update_weights", ["request"]),
        ("finish_weight_update", ["weight_version"]),
        ("resume_generation", []),
        ("add_lora", ["lora_request"]),
        ("update_weight_version", ["new_version"]),
        ("sleep", ["level", "mode"]),
        ("wake_up", ["tags"]),
    ):
        assert list(inspect.signature(getattr(AsyncLLM, method)).parameters) == ["self", *given], method
    for part, method, given in (
        (BaseRenderer, "clear_mm_cache_async", []),
        (AsyncMPClient, "pause_scheduler_async", ["mode", "clear_cache"]),
    ):
        assert list(inspect.signature(getattr(part, method)).parameters) == ["self", *given], method
    # Where an engine's signs of life are seen: its output handler looks this up anew for each step.
    assert "await engine_core.get_output_async()" in inspect.getsource(AsyncLLM._run_output_handler)
    # Where workers of one engine are counted from: each engine must be given a place of its own.
    assert "rank_offset" in {field.name for field in fields(nccl_engine.NCCLWeightTransferInitInfo)}


SYNCED = Synced(drained_s=0.1, load_s=0.2, changed=1.0, busy_share=0.25)


class Recorder:
    """A rollout manager that writes down what it is asked."""

    def __init__(self, parties, failing=None):
        self.calls, self._parties, self._failing = [], parties, failing  # the first call of that name fails

    def __getattr__(self, name):
        return SimpleNamespace(remote=lambda *given: self._answer(name, *given))

    def _answer(self, name, *given):
        if given and given[0] == self._failing:
            self._failing = None
            raise BrokenTransferError("an engine fell out")
        self.calls.append((name, *given))
        return {"party": self._parties.pop(0) if name == "party" else None, "published": SYNCED}.get(name)


@pytest.fixture
def direct(monkeypatch):
    """Ray's references are their values, and no card is needed to broadcast: what would be is collected."""
    sent = []
    monkeypatch.setattr(ray, "get", lambda value: value)
    monkeypatch.setattr(nccl_engine, "open_trainer_endpoint", lambda info: SimpleNamespace(destroy=lambda: None))
    monkeypatch.setattr(
        nccl_engine,
        "packed_nccl_broadcast_producer",
        lambda iterator, post_iter_func, **_: sent.extend((name, value) for name, value in iterator),
    )
    return sent


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return load_tiny(tiny_policy(tmp_path_factory.mktemp("policy"), seed=5))[0]


def test_nccl_sends_the_weights_and_makes_the_calls_in_order(direct, policy):
    manager = Recorder([[7, 9], [7, 9], [9, 12, 13]])
    config = settings(*WHOLE, "engine.tensor_parallel=2", "learner.freeze_vision=true")
    sender = open_transport(config, manager, 0)
    sender.publish(policy, 3)
    assert sender.settled() == SYNCED and sender.settled() is None
    assert sender.sent_bytes == sum(value.numel() * 2 for _, value in direct) > 0
    methods = [call[1] if call[0] == "transfer" else call[0] for call in manager.calls]
    assert methods == [
        "party",
        "join_transfer",
        "begin_transfer",
        "receive_transfer",
        "end_transfer",
        "published",
    ]
    joined, received, ended = (manager.calls[place][2] for place in (1, 3, 4))
    assert [info["rank_offset"] for info in joined] == [1, 3]  # after the learner; two workers each
    assert all(info["world_size"] == 5 and info["packed"] for info in joined)
    assert ended == [3, 3] and manager.calls[-1] == ("published", 3)
    # The same names, in the engine's type, as the other transport sends; told as they are sent.
    state = policy_state(policy, frozen_vision=True)
    assert [name for name, _ in direct] == list(state) == received[0]["names"]
    for (name, value), shape, kind in zip(direct, received[0]["shapes"], received[0]["dtype_names"], strict=True):
        assert value.dtype == torch.bfloat16 and kind == "bfloat16" and list(value.shape) == shape
        assert torch.equal(value, torch.from_numpy(state[name]).to(torch.bfloat16))
    # The same actors need no new group; others do.
    manager.calls.clear()
    sender.publish(policy, 4)
    sender.publish(policy, 5)
    methods = [call[1] for call in manager.calls if call[0] == "transfer"]
    each = ["begin_transfer", "receive_transfer", "end_transfer"]
    assert methods == [*each, "join_transfer", *each]
    joined = next(call[2] for call in manager.calls if call[:2] == ("transfer", "join_transfer"))
    assert [info["rank_offset"] for info in joined] == [1, 3, 5] and joined[0]["world_size"] == 7


@pytest.mark.parametrize("stopped", [False, True])
def test_a_learner_goes_on_while_engines_load_and_is_told_what_stopped_them(policy, local_ray, stopped):
    @ray.remote(num_cpus=0, max_concurrency=2)
    class Manager:
        def __init__(self):
            self._loaded = asyncio.Event()

        async def publish(self, weights):
            if stopped:
                raise AbortError("engines die again and again")
            await self._loaded.wait()
            return SYNCED

        async def groups(self, _):
            if stopped:  # they need the weights
                await asyncio.sleep(600)
            self._loaded.set()
            return "sampled before"

    manager = Manager.remote()
    sender = open_transport(settings("learner.freeze_vision=true"), manager, 0)
    sender.publish(policy, 1)
    asked = manager.groups.remote(0)
    if stopped:
        with pytest.raises(AbortError, match="again and again"):
            sender.check(asked)
    else:
        sender.check(asked)
        assert ray.get(asked) == "sampled before" and sender.settled() == SYNCED
    ray.kill(manager)


def test_other_ranks_only_gather(direct, policy):
    manager = Recorder([])
    sender = open_transport(settings(*WHOLE), manager, 1)
    sender.publish(policy, 1)
    sender.publish(policy, 2)
    assert sender.settled() is None
    assert manager.calls == [] and direct == []


class Ended(BaseException):
    """What ends the learner's process."""


@pytest.mark.parametrize("failing", ["join_transfer", "begin_transfer", "receive_transfer", "end_transfer"])
@pytest.mark.parametrize("workers", [1, 2])
def test_weights_are_sent_anew_when_an_engine_falls_out(direct, policy, monkeypatch, failing, workers):
    def give_up():
        raise Ended

    monkeypatch.setattr(transport, "give_up", give_up)
    manager = Recorder([[1, 2], [2, 3]], failing)
    sender = open_transport(settings(*WHOLE, f"learner.workers={workers}"), manager, 0)
    if workers > 1 and failing in ("receive_transfer", "end_transfer"):  # others have gathered: they can't begin again
        with pytest.raises(Ended):
            sender.publish(policy, 1)
        return
    sender.publish(policy, 1)
    assert sender.settled() == SYNCED
    methods = [call[1] if call[0] == "transfer" else call[0] for call in manager.calls]
    each = ["join_transfer", "begin_transfer", "receive_transfer", "end_transfer"]
    before = each[: each.index(failing)]
    assert methods == ["party", *before, "party", *each, "published"]
    assert sender._client.party == [2, 3] and not [one for one in threading.enumerate() if type(one) is threading.Timer]
    state = policy_state(policy, frozen_vision=True)
    assert [name for name, _ in direct][-len(state) :] == list(state)


def test_a_sender_that_waits_for_an_engine_that_is_gone_ends_with_its_process(direct, policy, monkeypatch):
    given_up = threading.Event()

    def meet(info):
        assert given_up.wait(60)
        raise Ended

    monkeypatch.setattr(transport, "give_up", given_up.set)
    monkeypatch.setattr(transport, "MEET_S", 0.2)
    monkeypatch.setattr(nccl_engine, "open_trainer_endpoint", meet)
    with pytest.raises(Ended):
        open_transport(settings(*WHOLE), Recorder([[1]], failing="join_transfer"), 0).publish(policy, 1)


def test_ipc_sends_handles_in_parts_and_tells_the_engines_so(direct, policy, monkeypatch):
    """Up to the handles themselves, which only a card gives."""
    chunk = SimpleNamespace(names=["w"], shapes=[[4]], dtype_names=["bfloat16"], ipc_handle={"GPU-1": (1,)})
    chunk.tensor_sizes = [8]
    sizes = []

    def produce(iterator, buffer_size_bytes, **_):
        direct.extend(iterator)
        sizes.append(buffer_size_bytes)
        yield chunk
        yield chunk

    monkeypatch.setattr(ipc_engine, "packed_ipc_producer", produce)
    monkeypatch.setattr(torch.cuda, "ipc_collect", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid="GPU-1"))
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 0)
    monkeypatch.setattr(weight_sender, "DEFAULT_PACKED_BUFFER_SIZE_BYTES", 10)
    manager = Recorder([[4]])
    open_transport(settings(*SHARED), manager, 0).publish(policy, 2)
    methods = [call[1] if call[0] == "transfer" else call[0] for call in manager.calls]
    receive = ["receive_transfer"] * 2
    assert methods == ["party", "join_transfer", "begin_transfer", *receive, "end_transfer", "published"]
    assert manager.calls[1][2] == [{"packed": True}]
    assert manager.calls[3][2][0]["ipc_handles"] == {"GPU-1": (1,)}
    # The largest tensor fits into the buffer.
    assert sizes == [max(value.numel() * 2 for _, value in direct)]


def test_an_engine_that_sleeps_without_weights_gets_the_frozen_tower_too(policy):
    shown = {}
    for level in (1, 2):
        sender = CardTransport("ipc", settings(*SHARED, f"rollouts.sleep_level={level}"), None, 0)
        sender._model = policy
        shown[level] = [name for name, _ in sender._named(True)]
    assert not any(".visual." in name for name in shown[1])
    assert set(shown[2]) == set(policy_state(policy, frozen_vision=False)) > set(shown[1])


def test_an_adapter_is_sent_as_part_of_the_weights(direct, tmp_path):
    import peft

    folder = tiny_policy(tmp_path / "p", seed=5)
    config = LearnerConfig(lora={"rank": 2})
    model, _, adapter, _ = load_policy(str(folder), config)
    adapted = peft.get_peft_model(model, adapter)
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if "lora_B" in name:
                value.normal_()
    manager = Recorder([[1]])
    open_transport(settings(*WHOLE), manager, 0).publish(adapted, 1)
    merged, plain = policy_state(adapted, frozen_vision=True), dict(direct)
    assert set(merged) == set(plain) and not any("lora" in name for name in plain)
    name = next(name for name in plain if "q_proj.weight" in name)
    before = dict(named_weights(load_tiny(folder)[0], True))[name]
    assert torch.equal(plain[name], torch.from_numpy(merged[name]).bfloat16())
    assert (plain[name].float() - before).abs().max() > 0.01
    # The model is as it was, to the last bit; PEFT's own merge, which isn't undone so exactly, gives the same.
    assert torch.equal(dict(named_weights(adapted, True, merged=False))[name], before)
    by_peft = dict(adapted.merge_and_unload().state_dict())
    assert all(np.allclose(value, by_peft[key].numpy(), atol=1e-6) for key, value in merged.items())


def test_types_on_the_wire():
    assert wire_dtype(settings(*WHOLE)) == torch.bfloat16
    assert wire_dtype(settings(*WHOLE, "engine.dtype=float32")) == torch.float32
    source = PolicySource(lambda merged: [("a", torch.ones(2, 3).T), ("n", torch.tensor([1, 2]))], torch.bfloat16)
    assert [(m.name, m.dtype, m.shape) for m in source.metadata()] == [
        ("a", torch.bfloat16, (3, 2)),
        ("n", torch.int64, (2,)),
    ]
    assert [(name, value.dtype, value.is_contiguous()) for name, value in source] == [
        ("a", torch.bfloat16, True),
        ("n", torch.int64, True),
    ]
    assert open_sender.__module__ == "ravst_ray.policy.weight_sender"


def test_engine_arguments(monkeypatch):
    def arguments(cuda, **more):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        return VideoLLM(EngineConfig(tensor_parallel=2), **more)._arguments("m")

    found = arguments(True, transport="ipc", sleeps=True)
    assert found["weight_transfer_config"].backend == "ipc" and found["enable_sleep_mode"] is True
    assert found["distributed_executor_backend"] == "mp"
    assert "enable_sleep_mode" not in arguments(False, transport="ipc", sleeps=True)
    plain, trained = arguments(True), arguments(True, trainable=True)
    assert "worker_extension_cls" not in plain and "worker_extension_cls" in trained
    assert not {"weight_transfer_config"} & (plain.keys() | trained.keys())  # files need none
    adapting = arguments(True, trainable=True, adapter=LoraConfig(rank=33, targets=("q_proj",)))
    assert adapting["enable_lora"] and adapting["max_loras"] == 1 and adapting["lora_target_modules"] == ["q_proj"]
    assert adapting["max_lora_rank"] == 64  # the next that vLLM has room for
    assert "weight_transfer_config" not in adapting and "worker_extension_cls" in adapting
