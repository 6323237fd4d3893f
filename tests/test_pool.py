"""A pool of rollout actors that grows, shrinks and takes weights while a run samples; actors are stubs."""

import asyncio
import contextlib
import os
import time
from collections import Counter
from types import SimpleNamespace

import pytest
import ray
from ray.core.generated.common_pb2 import ActorDiedErrorContext
from ray.exceptions import ActorDiedError, ActorUnavailableError

from ravst_ray.errors import AbortError, ConfigError, WorkerDiedError
from ravst_ray.training import pool, rollout
from ravst_ray.training.rollout import Weights
from ravst_ray.training.rollout_actor import Loaded
from ravst_ray.training.weight_check import Held
from tests.test_rollout import StubActor, ids, run
from tests.test_rollout import manager as plain_manager

manager = plain_manager
NAMES = [f"q{n:02}" for n in range(24)]


class SlowActor(StubActor):
    """Takes a while for each group, and writes down what it was asked and with which weights."""

    async def sample(self, text, clip, sampling):
        asked = next(word for word in text.split() if word[0] == "q" and word[1:].isdigit())
        await asyncio.sleep(0.3)
        with (self._marks / "asked.txt").open("a") as file:
            file.write(f"{asked} {os.getpid()} {self._version}\n")
        return await super().sample(text, clip, sampling)

    async def join_transfer(self, info):
        self._joined = info

    async def begin_transfer(self, _):
        return 0.25

    async def receive_transfer(self, info):
        self._version = info

    async def end_transfer(self, version):
        assert self._version == version
        return Loaded(0.0, await self.weights(), 0.5)


@pytest.fixture
def slow(manager, monkeypatch, tmp_path):
    """Makes a manager of slow actors; ``asked()`` gives ``(question, process, version)`` in order."""
    monkeypatch.setattr(rollout, "RolloutActor", SlowActor)
    monkeypatch.setattr(pool, "WATCH_S", 0.1)

    def make(*more):
        return manager(NAMES, "rollouts.prompts_per_step=4", "max_steps=6", *more)

    def asked():
        return [line.split() for line in (tmp_path / "asked.txt").read_text().splitlines()]

    make.asked = asked
    return make


@pytest.mark.parametrize("staleness", [0, 1])
def test_a_pool_that_is_resized_in_mid_run_loses_no_group_and_counts_none_twice(slow, staleness):
    async def work():
        one = slow(f"rollouts.max_staleness={staleness}")
        await one.start()
        steps, sizes = [], {1: 2, 3: 1}
        for step in range(6):
            asking = asyncio.create_task(one.groups(step, 0))
            await asyncio.sleep(0.1)  # its groups are being sampled
            resized = asyncio.create_task(one.resize(sizes[step])) if step in sizes else None
            steps.append(await asking)
            if resized:
                await resized
            await one.publish(Weights(step + 1, [None]))
        return steps

    steps = run(work())
    assert sorted(name for step in steps for name in ids(step)) == NAMES
    assert sorted(name for name, _, _ in slow.asked()) == NAMES  # each was sampled once
    assert all(step.numbers["rollout/retries"] == step.numbers["rollout/restarts"] == 0 for step in steps)
    for number, step in enumerate(steps):
        versions = {version for group in step.groups for one in group.completions for version in one.versions}
        assert versions <= set(range(max(number - staleness, 0), number + 1)), number
        if staleness == 0:
            assert versions == {number}
    by_process = Counter(process for _, process, _ in slow.asked())
    assert len(by_process) == 2 and min(by_process.values()) >= 2
    assert len({process for _, process, _ in slow.asked()[-4:]}) == 1  # one has left
    actors = [step.numbers["rollout/actors"] for step in steps]
    assert actors[0] == 1 and 2 in actors and actors[-1] == 1


def test_a_new_actor_has_the_current_weights_before_it_samples(slow):
    async def work():
        one = slow("rollouts.max_staleness=0")
        await one.start()
        await one.groups(0, 0)
        await one.publish(Weights(1, [None]))
        await one.resize(2)
        await one.groups(1, 0)

    run(work())
    later = slow.asked()[4:]
    assert len({process for _, process, _ in later}) == 2 and {version for _, _, version in later} == {"1"}


def test_actors_join_while_prompts_wait_and_idle_ones_leave(slow, monkeypatch):
    async def work():
        bounds = ["rollouts.min_actors=1", "rollouts.max_actors=3", "rollouts.idle_s=1.5"]
        one = slow(*bounds, "engine.max_num_seqs=2", "rollouts.prompts_per_step=24", "max_steps=1")
        await one.start()
        most, asking = 1, asyncio.create_task(one.groups(0, 0))
        while not asking.done():
            await asyncio.sleep(0.05)
            most = max(most, len(one._pool))
        deadline = time.monotonic() + 30
        while len(one._pool) > 1 and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        return most, len(one._pool), await asking

    # Slow enough for an actor to start meanwhile: 24 groups of 0.3 s, 3 at once on one actor, would take 2.4 s.
    monkeypatch.setattr(SlowActor, "sample", _slower(SlowActor.sample))
    most, left, step = run(work())
    assert most in (2, 3) and left == 1
    assert sorted(ids(step)) == NAMES and sorted(name for name, _, _ in slow.asked()) == NAMES
    assert len({process for _, process, _ in slow.asked()}) >= 2


def _slower(sample):
    async def slower(self, *given):
        await asyncio.sleep(2.0)
        return await sample(self, *given)

    return slower


def test_no_actor_is_requested_where_there_is_no_room(slow, monkeypatch):
    monkeypatch.setattr(pool, "has_room", lambda rollouts: False)

    async def work():
        one = slow("rollouts.max_actors=3", "engine.max_num_seqs=2", "rollouts.prompts_per_step=24", "max_steps=1")
        await one.start()
        return await one.groups(0, 0)

    assert sorted(ids(run(work()))) == NAMES
    assert len({process for _, process, _ in slow.asked()}) == 1


def test_a_pool_is_never_emptied(slow):
    async def work():
        one = slow()
        await one.start()
        await one.resize(0)

    with pytest.raises(ValueError, match="needs an actor"):
        run(work())


async def kill(member):
    """Kill an actor; it is gone when this gives control back (Ray only asks for the kill, and it may answer on)."""
    ray.kill(member.handle)
    async with asyncio.timeout(60):
        with pytest.raises(ray.exceptions.RayActorError):
            while True:
                await member.handle.weights.remote()


async def transfer(one, version):
    """What a sender does by way of the manager; gives who took part."""
    party = await one.party()
    await one.transfer("begin_transfer", [None] * len(party))
    await one.transfer("receive_transfer", [version] * len(party))
    await one.transfer("end_transfer", [version] * len(party))
    synced = await one.published(version)
    return party, synced


@pytest.mark.parametrize("way", ["publish", "transfer"])
def test_an_engine_that_kept_its_old_weights_is_replaced(slow, monkeypatch, tmp_path, way):
    """It says that it has version 1, and so do its answers; the checksum of its weights is still that of version 0."""

    class Keeping(SlowActor):
        async def weights(self):
            mark = self._marks / "keeps"
            with contextlib.suppress(FileExistsError), mark.open("x") as file:  # all ask at once: one of them is first
                file.write(str(os.getpid()))
            if self._version == 1 and mark.read_text() == str(os.getpid()):
                return Held(1, ("sum of 0",))
            return await super().weights()

    monkeypatch.setattr(rollout, "RolloutActor", Keeping)

    async def work():
        one = slow("rollouts.max_staleness=0", "rollouts.actors=3")
        await one.start()
        await one.groups(0, 0)
        synced = await one.publish(Weights(1, [None])) if way == "publish" else (await transfer(one, 1))[1]
        return synced, await one.groups(1, 0)

    synced, step = run(work())
    assert synced.changed == pytest.approx(2 / 3)
    assert synced.drained_s == (0.125 if way == "publish" else 0.25)
    assert step.numbers["rollout/restarts"] == 1
    assert (tmp_path / "keeps").read_text() not in {process for _, process, _ in slow.asked()[4:]}


def test_weights_that_nobody_keeps_reach_a_new_actor_with_the_next_transfer(slow):
    async def work():
        one = slow("rollouts.max_staleness=0")
        await one.start()
        await one.groups(0, 0)
        parties = [(await transfer(one, 1))[0]]
        await one.resize(2)
        await one.groups(1, 0)
        parties.append((await transfer(one, 2))[0])
        await one.groups(2, 0)
        return parties

    first, second = run(work())
    assert len(first) == 1 and len(second) == 2 and second[0] == first[0]
    asked = slow.asked()
    assert len({process for _, process, _ in asked[4:8]}) == 1  # the new one has no weights yet
    assert len({process for _, process, _ in asked[8:]}) == 2
    assert [version for _, _, version in asked] == ["0"] * 4 + ["1"] * 4 + ["2"] * 4


@pytest.mark.faults
def test_without_any_actor_that_has_the_weights_the_run_begins_anew(slow):
    async def work():
        one = slow("rollouts.max_staleness=0")
        await one.start()
        await one.groups(0, 0)
        await transfer(one, 1)
        await kill(one._pool._members[0])
        await one.groups(1, 0)

    with pytest.raises(WorkerDiedError, match="no rollout actor with the current weights is left"):
        run(work())


@pytest.mark.faults
def test_a_dead_actor_is_replaced_before_a_transfer(slow):
    async def work():
        one = slow("rollouts.max_staleness=0", "rollouts.actors=2")
        await one.start()
        await one.groups(0, 0)
        before, _ = await transfer(one, 1)
        await kill(one._pool._members[0])
        after, _ = await transfer(one, 2)
        return before, after, await one.groups(1, 0)

    before, after, step = run(work())
    assert before[1] in after and before[0] not in after
    assert {version for group in step.groups for c in group.completions for version in c.versions} == {2}


@pytest.mark.faults
def test_an_actor_that_dies_as_it_leaves_costs_no_group(slow, monkeypatch):
    monkeypatch.setattr(SlowActor, "sample", _slower(SlowActor.sample))  # it is dead before its groups are done

    async def work():
        one = slow("rollouts.max_staleness=0", "rollouts.actors=2", "rollouts.max_restarts=0")
        await one.start()
        asking = asyncio.create_task(one.groups(0, 0))
        await asyncio.sleep(0.1)
        shrinking = asyncio.create_task(one.resize(1))
        await asyncio.sleep(0.05)
        await kill(next(member for member in one._pool._members if member.leaving))
        step = await asking
        await shrinking
        return step, len(one._pool)

    step, left = run(work())
    assert len(ids(step)) == len(set(ids(step))) == 4 and left == 1
    assert step.numbers["rollout/retries"] >= 1 and step.numbers["rollout/restarts"] == 0


GONE = "The actor died because its node has died. Node Id: 4f0a… the actor's node was terminated unexpectedly"
OF_ITS_NODE = {
    "told late": lambda: ActorUnavailableError("RpcError: Connection refused rpc_code: 14", b"\1" * 16),
    "sent to a node that was gone": lambda: ActorDiedError(
        ActorDiedErrorContext(class_name="Slow", actor_id=b"\1" * 16, error_message=GONE, never_started=True)
    ),
}


@pytest.fixture
def failing(monkeypatch):
    """Has so many actors from the start, by seat, fail with this error when they are started."""

    def make(error, deaths):
        seated = pool.RolloutPool._seated

        async def fails(weights):
            raise error()

        def seat(self, seat):
            member = seated(self, seat)
            if deaths.get(seat, 0):
                deaths[seat] -= 1
                member.handle.start = SimpleNamespace(remote=fails)
            return member

        monkeypatch.setattr(pool.RolloutPool, "_seated", seat)

    return make


@pytest.mark.parametrize("error", OF_ITS_NODE.values(), ids=OF_ITS_NODE)
def test_actors_whose_node_is_lost_before_they_are_ready_are_placed_anew(slow, failing, error):
    """Each may be so as often as ``max_restarts`` says: they are lost together."""

    async def work():
        one = slow("rollouts.actors=3", "rollouts.max_restarts=2")
        await one.start()
        return await one.groups(0, 0), len(one._pool)

    failing(error, {0: 2, 1: 2, 2: 1})
    step, actors = run(work())
    assert sorted(ids(step)) == sorted(set(ids(step))) and len(ids(step)) == 4 and actors == 3
    assert step.numbers["rollout/restarts"] == 5 and step.numbers["rollout/retries"] == 0


def test_an_actor_whose_nodes_are_lost_again_and_again_ends_the_run(slow, failing):
    failing(OF_ITS_NODE["sent to a node that was gone"], {0: 2})
    with pytest.raises(
        AbortError, match=r"rollout actor 0 died 2 times; the last: the process of Slow was lost with its node"
    ):
        run(slow("rollouts.max_restarts=1").start())


def test_bounds_that_exclude_the_start_are_refused(slow):
    with pytest.raises(ConfigError, match="is not within min_actors = 2, max_actors = 1"):
        slow("rollouts.min_actors=2")
    with pytest.raises(ConfigError, match=r"rollouts\.actors = 3 is not within"):
        slow("rollouts.actors=3", "rollouts.max_actors=2")


def test_an_actor_that_cannot_start_tells_who_asked_for_it(slow, monkeypatch, tmp_path):
    class Broken(SlowActor):
        async def start(self, weights):
            if (self._marks / "broken").exists():
                raise ConfigError("engine.model: no memory")
            await super().start(weights)

    monkeypatch.setattr(rollout, "RolloutActor", Broken)

    async def work():
        one = slow("rollouts.max_staleness=0")
        await one.start()
        await one.groups(0, 0)
        (tmp_path / "broken").touch()
        with pytest.raises(ray.exceptions.RayTaskError, match="no memory"):
            await one.resize(2)
        assert len(one._pool) == 1

    run(work())


@pytest.mark.faults
def test_only_an_engine_that_gives_no_token_is_replaced_however_long_its_queue(slow, monkeypatch):
    class Queueing(SlowActor):
        """One group after the other, each longer than nothing and shorter than the limit; starts slowly."""

        async def start(self, weights):
            self._turn = asyncio.Lock()
            await asyncio.sleep(3)
            await super().start(weights)

        async def sample(self, *given):
            async with self._turn:
                return await super().sample(*given)

    monkeypatch.setattr(rollout, "RolloutActor", Queueing)

    async def work():
        one = slow("rollouts.timeout_s=2", "rollouts.prompts_per_step=12", "max_steps=1")
        await one.start()
        started = time.monotonic()
        return await one.groups(0, 0), time.monotonic() - started

    step, spent_s = run(work())
    assert len(ids(step)) == 12 and spent_s > 3.6 > 2
    assert step.numbers["rollout/restarts"] == step.numbers["rollout/retries"] == 0
