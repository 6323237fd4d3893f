"""A card that learner and engine share: the order in which the engine sleeps, wakes and takes weights."""

import asyncio
import os
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import ray
import torch
import vllm.distributed.weight_transfer.base
import vllm.v1.engine.exceptions  # here, so that no test's clock runs while they load
from safetensors.numpy import load_file

from ravst_ray.config.base import load_config
from ravst_ray.config.train import TrainConfig
from ravst_ray.config.video_llm import EngineConfig
from ravst_ray.policy.engine import VideoLLM
from ravst_ray.records import VideoView
from ravst_ray.training import pool, rollout, rollout_actor
from ravst_ray.training import worker as worker_module
from ravst_ray.training.rollout import RolloutActor, Weights
from tests.test_rollout import LAPTOP, StubActor, run
from tests.test_rollout import manager as plain_manager

manager = plain_manager
SHARED = ["rollouts.share_gpu=true", "rollouts.max_staleness=0", "learner.num_gpus=0.5", "rollouts.num_gpus=0.5"]
SENT = [
    "start_weight_update",
    "update_weights",
    "finish_weight_update {version}",
    "collective_rpc ravst_weight_checksum",
]
FILE = ["collective_rpc ravst_load_weights", "update_weight_version {version}"]
PAUSE = ["renderer.clear_mm_cache_async", "engine_core.pause_scheduler_async wait True"]


class RecordingEngine:
    """vLLM's engine as far as weights and sleep go: writes down what it is asked."""

    def __init__(self, path, part=""):
        self._path, self._part = path, part

    def __getattr__(self, name):
        if name in ("renderer", "engine_core"):
            return RecordingEngine(self._path, f"{name}.")

        async def call(*given, **named):
            shown = [one for one in (*given, *named.values()) if isinstance(one, str | int | list)]
            with self._path.open("a") as file:
                file.write(" ".join(map(str, [f"{self._part}{name}", *shown])) + "\n")
            if given == ("ravst_load_weights",):
                load_file(*named["args"])
            return ["a checksum"] if name == "collective_rpc" else None

        return call


class SharingActor(RolloutActor):
    """The real actor around an engine that records; it samples as the stub does."""

    def __init__(self, config):
        super().__init__(config)
        self._path = Path(config.output) / "calls.txt"
        self._engine.engine = RecordingEngine(self._path)
        self._stub = StubActor(config)

    async def start(self, weights):
        pass

    async def sample(self, text, clip, sampling):
        with self._path.open("a") as file:
            file.write("sample\n")
        return await self._stub.sample(text, clip, sampling)


class Call:
    """What a call of an actor gives: waited for as it is, or as a future."""

    def __init__(self, task):
        self._task = task

    def __await__(self):
        return self._task.__await__()

    def future(self):
        return self._task


class Local:
    """An actor in this process: it needs no GPU to give a half of, and no minute to start."""

    def __init__(self, actor):
        self._actor = actor

    def options(self, **_):
        return SimpleNamespace(remote=lambda *given: Local(self._actor(*given)))

    def __getattr__(self, name):
        def call(*given):
            return Call(asyncio.ensure_future(getattr(self._actor, name)(*given)))

        return SimpleNamespace(remote=call)


@pytest.fixture
def local_ray():
    """None: everything happens in this process."""


@pytest.fixture
def calls(manager, monkeypatch, tmp_path):
    """What happened so far, from engine and test."""

    async def decode(self, task):
        return None, VideoView(2, 1.0, 28, 28, 2.0, 28, 28)

    monkeypatch.setattr(rollout.RolloutManager, "_decode", decode)
    monkeypatch.setattr(rollout, "RolloutActor", SharingActor)
    monkeypatch.setattr(pool, "ray", SimpleNamespace(remote=Local, exceptions=ray.exceptions))
    path = tmp_path / "calls.txt"
    path.touch()
    return path


def weights(version):
    """A version of a small policy."""

    async def state():
        return {"w": np.ones(2, np.float32)}

    return Weights(version, [state()])


@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("transport", ["object_store", "ipc"])
def test_the_engine_sleeps_while_the_learner_computes_and_wakes_in_two_steps(manager, calls, transport, level):
    async def work():
        given = [*SHARED, f"sync.transport={transport}", f"rollouts.sleep_level={level}"]
        one = manager(["a", "b", "c", "d"], "max_steps=2", *given)
        await one.start()
        for step in range(2):
            await asyncio.gather(one.groups(step, 0), one.groups(step, 0))  # who asks again waits for the same sleep
            with calls.open("a") as file:
                file.write("learn\n")
            if transport == "object_store":
                await one.publish(weights(step + 1))
            else:
                party = await one.party()
                for call, payload in (("begin", None), ("receive", {"names": []}), ("end", step + 1)):
                    await one.transfer(f"{call}_transfer", [payload] * len(party))
                await one.published(step + 1)

    run(work())
    expected, update = [], FILE if transport == "object_store" else SENT
    for version in (1, 2):
        expected += ["sample", "sample", f"sleep {level} wait", "learn", "wake_up ['weights']"]
        expected += [line.format(version=version) for line in update] + ["wake_up ['kv_cache']"]
    assert calls.read_text().splitlines() == expected


def test_an_engine_of_its_own_card_never_sleeps(manager, calls):
    async def work():
        one = manager(["a", "b"], "max_steps=1", "rollouts.max_staleness=0")
        await one.start()
        await one.groups(0, 0)
        await one.publish(weights(1))

    run(work())
    assert calls.read_text().splitlines() == [
        "sample",
        "sample",
        *PAUSE,
        *(line.format(version=1) for line in FILE),
        "resume_generation",
    ]


def test_without_a_gpu_sleep_does_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    engine = VideoLLM(EngineConfig(), trainable=True, sleeps=True)
    assert "enable_sleep_mode" not in engine._arguments("m")
    engine.engine = RecordingEngine(tmp_path / "calls.txt")
    asyncio.run(engine.sleep(1))
    assert not (tmp_path / "calls.txt").exists()


@pytest.mark.parametrize("shared", [True, False])
def test_the_learner_clears_its_cache_before_the_engine_wakes(monkeypatch, shared):
    done = []
    config = load_config(TrainConfig, Path(__file__).parents[1] / "jobs/configs/train_laptop.yaml", ["output=o"])
    if shared:
        config = load_config(TrainConfig, Path(__file__).parents[1] / "jobs/configs/train_1gpu.yaml", ["output=o"])
    monkeypatch.setattr(worker_module, "free_card", lambda: done.append("free"))
    worker = worker_module.Worker.__new__(worker_module.Worker)
    worker.config, worker.rank, worker.learner = config, 1, SimpleNamespace(model=None)
    worker.transport = SimpleNamespace(
        publish=lambda model, version: done.append(f"publish {version}"), settled=lambda: None
    )
    worker.numbers = {}
    worker.publish(4)
    assert done == (["free"] if shared else []) + ["publish 4"]
    worker_module.free_card()  # the real one has nothing to do here


def test_an_actor_ends_with_its_engine_also_while_it_loads(tmp_path, monkeypatch):
    """Only then the pool puts another in its place."""

    class Ended(BaseException):
        pass

    class DeadEngine:
        async def clear_mm_cache_async(self):
            raise vllm.v1.engine.exceptions.EngineDeadError()

        @property
        def renderer(self):
            return self

    def end(status):
        raise Ended

    async def state():
        return {"w": np.zeros(1, np.float32)}

    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(rollout_actor, "weights_folder", lambda: tmp_path)
    given = ["model=m", *(f"{key}={tmp_path}" for key in ("output", "data.annotations", "data.videos"))]
    actor = RolloutActor(load_config(TrainConfig, LAPTOP, given))
    actor._engine.engine = DeadEngine()
    for work in (lambda: actor.set_weights(Weights(1, [state()])), lambda: actor.begin_transfer(None)):
        with pytest.raises(Ended):
            run(work())
    assert not list(tmp_path.glob("*.safetensors"))


def test_weights_that_a_killed_actor_left_are_removed(tmp_path):
    with subprocess.Popen(["true"]) as gone:
        pass
    hour_ago = time.time() - 3600
    made = {gone.pid: hour_ago, os.getpid(): hour_ago, gone.pid + 10**7: time.time(), "x": hour_ago}
    for pid, changed in made.items():
        path = tmp_path / f"ravst-weights-{pid}.safetensors"
        path.touch()
        os.utime(path, (changed, changed))
    adapter = tmp_path / f"ravst-weights-{gone.pid}"  # a folder with its files
    adapter.mkdir()
    (adapter / "adapter_config.json").touch()
    os.utime(adapter, (hour_ago, hour_ago))
    rollout_actor.remove_left_weights(tmp_path)
    left = {path.stem.rpartition("-")[2] for path in tmp_path.iterdir()}
    assert left == {str(os.getpid()), str(gone.pid + 10**7), "x"}


def test_an_engine_is_quiet_only_while_it_has_work_and_gives_no_token(tmp_path):
    """However long a group waits in the queue."""

    async def work():
        given = ["model=m", *(f"{key}={tmp_path}" for key in ("output", "data.annotations", "data.videos"))]
        actor = RolloutActor(load_config(TrainConfig, LAPTOP, given))
        outputs, ended = asyncio.Queue(), asyncio.Event()

        async def generate(*_, **__):
            await ended.wait()

        actor._engine.generate = generate
        core = SimpleNamespace(get_output_async=outputs.get)
        actor._engine.engine = SimpleNamespace(engine_core=core)
        actor._engine._listen()
        seen = [await actor.quiet_s()]  # nothing to do
        sampling = [asyncio.ensure_future(actor.sample("", None, None)) for _ in range(3)]
        for _ in range(4):  # tokens of whichever request
            await asyncio.sleep(0.1)
            outputs.put_nowait("tokens")
            assert await core.get_output_async() == "tokens"
            seen.append(await actor.quiet_s())
        await asyncio.sleep(0.3)
        seen.append(await actor.quiet_s())
        ended.set()
        await asyncio.gather(*sampling)
        return [*seen, await actor.quiet_s()]

    idle, *lively, silent, after = run(work())
    assert idle == after == 0 and max(lively) < 0.1 and silent >= 0.3


def test_an_update_that_broke_off_is_left_before_the_next(tmp_path):
    async def work():
        engine = VideoLLM(EngineConfig(), trainable=True)
        engine.engine = RecordingEngine(tmp_path / "calls.txt")
        await engine.join_transfer({})
        await engine.begin_update()  # and the learner's sender is gone
        await engine.join_transfer({})
        await engine.begin_update()
        await engine.end_update(1)

    run(work())
    meet = "init_weight_transfer_engine"
    assert (tmp_path / "calls.txt").read_text().splitlines() == [
        meet,
        *PAUSE,
        "start_weight_update",
        "finish_weight_update",  # without a version
        "shutdown_weight_transfer_engine",
        meet,
        "start_weight_update",
        "finish_weight_update 1",
        "collective_rpc ravst_weight_checksum",
        "resume_generation",
    ]
