"""The rollout actors of a run: started, chosen, replaced when they die or hang, more or fewer as prompts come.

::

    prompts ──► wait for a place ──► the least busy member ──► group
                     │ too long                  │ dies, hangs
                     └─► one member more         └─► another takes its place; its prompts are asked of others

A member samples only with the pool's current weights. Weights that come through the object store are kept, so a new
member has them before its first prompt; weights that come from the learner's card (``transfer``) aren't, so it waits
for the next ones, and the others go on meanwhile. One that leaves first ends what it has at hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from ravst_ray.cluster.failures import lost_with_node, plain_error
from ravst_ray.config.train import TrainConfig
from ravst_ray.config.video_llm import SamplingConfig
from ravst_ray.errors import AbortError, BrokenTransferError, WorkerDiedError
from ravst_ray.logs import get_logger
from ravst_ray.policy.protocols import Generation
from ravst_ray.training.member import Member, end_of
from ravst_ray.training.placement import has_room
from ravst_ray.training.rollout_actor import Loaded, Weights
from ravst_ray.training.weight_check import Held, behind

log = get_logger(__name__)
WATCH_S = 1.0
CONCURRENCY = 1000
"""Calls that an actor takes at once; samples never fill it up, or it couldn't tell that it is alive."""
AHEAD = 2
"""Groups that an actor of an elastic pool gets beyond those that its engine can run at once: it shall not run dry.

One of a fixed pool gets as many again as it can run: when most answers of the groups at hand have ended, and a few long
ones haven't, those of later groups keep the engine full. What waits here goes to whoever is free first.
"""


@dataclass(frozen=True, slots=True)
class Synced:
    """What came of an update of all engines.

    Attributes:
        drained_s: seconds until groups that were being sampled had ended, of the last engine.
        load_s: seconds until all engines had the weights, without these.
        changed: the share of engines whose weights it changed, by their checksums.
        busy_share: of the time since the update before, the share in which actors sampled.
    """

    drained_s: float
    load_s: float
    changed: float
    busy_share: float


class RolloutPool:
    """See the top of this file.

    Args:
        config: of the run.
        actor: class of the actors (:class:`~ravst_ray.training.rollout_actor.RolloutActor`).
        group: a placement group with a bundle for each of the first seats.

    Attributes:
        restarts: how often an actor took the place of a dead or stuck one.
    """

    def __init__(self, config: TrainConfig, actor: type, group: Any = None):
        self._config, self._actor, self._group = config, actor, group
        self._names = itertools.count()
        self._members: list[Member] = []
        self._party: list[Member] = []
        self._loaded: list[Loaded] = []
        self._begun = self._drained_s = 0.0
        self._weights: Weights | None = None
        self._transferred = self._sending = False
        self._asleep: asyncio.Future[Any] | None = None
        self._waiting = 0
        self._error: BaseException | None = None
        self._changed = asyncio.Condition()
        self._background: set[asyncio.Task[None]] = set()
        self.restarts = 0
        self._deaths: Counter[int] = Counter()
        self._before: dict[int, Held] = {}
        self._alike = True
        fewest, most = config.rollouts.bounds
        room = max(config.engine.max_num_seqs // config.rollouts.group_size, 1)
        self._most_at_once = min(room + AHEAD if most > fewest else 2 * room + AHEAD, CONCURRENCY // 2)

    def __len__(self) -> int:
        """How many members can sample or soon will."""
        return len(self._staying())

    async def start(self) -> None:
        """Start the actors; gives control back when all of them are ready."""
        await asyncio.gather(*(self._bring_up(self._seated(seat)) for seat in range(self._config.rollouts.actors)))
        members = self._up()
        held = await self._each("weights", members=members)
        self._before = {one.name: found for one, found in zip(members, held, strict=True) if found is not None}
        self._alike = len({held.checksums for held in self._before.values()}) == 1
        if not self._alike:  # they have the same weights, and lay them out in other ways
            log.warning("engines aren't all of one kind: their weights can't be compared, only the versions' numbers")
        fewest, most = self._config.rollouts.bounds
        if most > fewest:
            self._do(self._watch())

    async def sample(
        self, text: str, clip: Any, sampling: SamplingConfig, turn: int | None = None
    ) -> tuple[Generation, int]:
        """Sample on the least busy actor, or the one whose ``turn`` it is; on another when it dies or is stuck.

        Returns:
            The group, and how often it was asked again.

        Raises:
            AbortError: actors die again and again.
            StepError: the prompt can't be asked.
        """
        retries = 0
        while True:
            member = await self._pick(turn)
            try:
                return await member.handle.sample.remote(text, clip, sampling), retries
            except ray.exceptions.RayActorError as error:
                retries += 1
                self._lose(member, error)
            except ray.exceptions.RayTaskError as error:
                raise error.cause if isinstance(error.cause, Exception) else error from None
            finally:
                member.load -= 1
                member.idle_since = time.monotonic()
                await self._tell()

    async def publish(self, weights: Weights) -> Synced:
        """Bring every actor to a new version."""
        started = time.monotonic()
        self._weights = weights  # who is being started takes them from here
        self._asleep = None
        members = self._up()
        loaded = await self._each("set_weights", weights, members=members)
        return self._synced(weights.version, members, loaded, started)

    async def party(self) -> list[int]:
        """Who takes part in the transfer that comes now: the names of all that are alive and up, one at least."""
        self._sending = True
        await self._each("weights")  # finds the dead
        async with self._changed:
            await self._changed.wait_for(lambda: self._error is not None or self._up())
        if self._error is not None:
            raise self._error
        self._party = sorted(self._up(), key=lambda one: one.seat)
        return [one.name for one in self._party]

    async def transfer(self, call: str, payloads: Sequence[Any]) -> None:
        """Call a method of all in the party, each with its own payload; gives control back when all are done.

        Raises:
            BrokenTransferError: one of them failed, and is replaced; others, which may wait for it, are left at it.
        """
        given = zip(self._party, payloads, strict=True)
        calls = {asyncio.ensure_future(_answer(getattr(one.handle, call).remote(mine))): one for one, mine in given}
        ended, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_EXCEPTION)
        failed = {calls[one]: error for one in ended if (error := one.exception()) is not None}
        for member, error in failed.items():
            self._lose(member, error)
        if failed:
            raise BrokenTransferError(f"{call}: {plain_error(next(iter(failed.values())))}")
        if call == "begin_transfer":
            self._begun, self._drained_s = time.monotonic(), max(one.result() for one in ended)
        elif call == "end_transfer":
            self._loaded = [replace(one.result(), drained_s=self._drained_s) for one in calls]

    async def transferred(self, version: int) -> Synced:
        """The party has new weights."""
        self._transferred, self._sending, self._asleep = True, False, None
        for one in self._members:
            one.current = one in self._party
        synced = self._synced(version, self._party, self._loaded, self._begun - self._drained_s)
        await self._tell()
        return synced

    def _synced(
        self, version: int, members: Sequence[Member], loaded: Sequence[Loaded | None], started: float
    ) -> Synced:
        """What members tell of an update; those that don't have the version are replaced, as if they were dead."""
        now, told = time.monotonic(), [(one, found) for one, found in zip(members, loaded, strict=True) if found]
        held = {one.name: found.held for one, found in told}
        before, self._before = self._before, held
        busy_s = sum(found.busy_s - one.busy_s for one, found in told)
        spent_s = sum(now - one.measured_at for one, _ in told)
        for one, found in told:
            one.busy_s, one.measured_at = found.busy_s, now
        for name in behind(held, before, version) if self._alike else ():
            member = next(one for one in members if one.name == name)
            self._lose(member, WorkerDiedError(f"it has other weights than version {version}"))
        changed = [held[name].checksums != before[name].checksums for name in held if name in before]
        drained_s = max((found.drained_s for _, found in told), default=0.0)
        return Synced(
            drained_s=drained_s,
            load_s=max(now - started - drained_s, 0.0),
            changed=sum(changed) / max(len(changed), 1),
            busy_share=min(busy_s / max(spent_s, 1e-9), 1.0),
        )

    async def sleep(self) -> None:
        """Let all engines sleep until new weights come; calling it again waits for the same sleep."""
        if self._asleep is None:
            self._asleep = asyncio.ensure_future(self._each("sleep"))
        await asyncio.shield(self._asleep)

    async def resize(self, count: int) -> None:
        """Grow or shrink to ``count`` actors; done when the new ones are ready and those that leave have ended.

        Raises:
            ValueError: ``count`` is below 1.
        """
        if count < 1:
            raise ValueError("a pool needs an actor")
        staying = self._staying()
        if count > len(staying):
            taken = {one.seat for one in self._members}
            free = itertools.islice((seat for seat in itertools.count() if seat not in taken), count - len(staying))
            await asyncio.gather(*(self._bring_up(self._seated(seat)) for seat in list(free)))
            return
        first = sorted(staying, key=lambda one: (one.up, one.load > 0, -one.seat))
        await asyncio.gather(*(self._leave(one) for one in first[: len(staying) - count]))

    def _staying(self) -> list[Member]:
        return [one for one in self._members if not one.leaving]

    def _up(self) -> list[Member]:
        return [one for one in self._staying() if one.up]

    def _seated(self, seat: int) -> Member:
        """A new member whose actor is requested from Ray."""
        rollouts = self._config.rollouts
        place: Any = "DEFAULT"
        if self._group is not None and seat < self._group.bundle_count:
            place = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=seat)
        handle = (
            ray.remote(self._actor)
            .options(
                num_cpus=rollouts.num_cpus,
                num_gpus=rollouts.num_gpus,
                max_concurrency=CONCURRENCY,
                scheduling_strategy=place,
            )
            .remote(self._config)
        )
        self._members.append(Member(next(self._names), seat, handle))
        return self._members[-1]

    async def _bring_up(self, member: Member) -> None:
        """Start a member's engine and bring it to the current weights."""
        weights = self._weights
        try:
            await member.handle.start.remote(weights)
            while self._weights is not weights:  # newer ones came meanwhile
                weights = self._weights
                await member.handle.set_weights.remote(weights)
        except ray.exceptions.RayError as error:
            if member in self._members:
                self._members.remove(member)
            if member.leaving and isinstance(error, ray.exceptions.RayActorError):
                return  # it wasn't wanted any more before it was there
            if not lost_with_node(error):
                raise
            with contextlib.suppress(ray.exceptions.RayError):
                ray.kill(member.handle)  # should the node come back, nobody needs it any more
            self._count_restart(member, str(plain_error(error)))
            return await self._bring_up(self._seated(member.seat))
        member.up, member.current = True, not self._transferred
        member.idle_since = member.measured_at = time.monotonic()
        self._do(self._guard(member))
        await self._tell()

    async def _guard(self, member: Member) -> None:
        """Replace a member that dies or is stuck; its calls end with it, and are made anew by who waits for them."""
        self._lose(member, await end_of(member.handle, self._config.rollouts.timeout_s))

    async def _pick(self, turn: int | None = None) -> Member:
        def free() -> list[Member]:
            return [one for one in self._staying() if one.current and one.load < self._most_at_once]

        def stranded() -> bool:
            lost = self._transferred and not any(one.current for one in self._staying())
            return lost and not self._sending  # else weights are on their way

        self._waiting += 1
        try:
            async with self._changed:
                await self._changed.wait_for(lambda: self._error is not None or free() or stranded())
        finally:
            self._waiting -= 1
        if self._error is not None:
            raise self._error
        if stranded():  # only the learner has the weights, and it may be waiting for this very group
            raise WorkerDiedError("no rollout actor with the current weights is left")
        if turn is None:
            member = min(free(), key=lambda one: (one.load, one.seat))
        else:
            member = sorted(free(), key=lambda one: one.seat)[turn % len(free())]
        member.load += 1
        return member

    async def _each(self, call: str, *arguments: Any, members: Sequence[Member] | None = None) -> list[Any]:
        """Call a method of members, all that are up; one that dies or is stuck is replaced, and gives None."""

        async def one(member: Member) -> Any:
            try:
                return await getattr(member.handle, call).remote(*arguments)
            except ray.exceptions.RayActorError as error:
                self._lose(member, error)
            except ray.exceptions.RayTaskError as error:
                raise error.cause if isinstance(error.cause, Exception) else error from None

        return await asyncio.gather(*(one(member) for member in (self._up() if members is None else members)))

    def _lose(self, member: Member, error: BaseException) -> None:
        """Put another in the place of a dead or stuck member, once however many notice it."""
        if member not in self._members:
            return
        self._members.remove(member)
        with contextlib.suppress(ray.exceptions.RayError):  # it may be dead already
            ray.kill(member.handle)
        if member.leaving:
            return
        why = f"no token came for rollouts.timeout_s = {self._config.rollouts.timeout_s:g} s"
        if not isinstance(error, TimeoutError):
            why = str(plain_error(error))
        self._count_restart(member, why)
        self._do(self._bring_up(self._seated(member.seat)))

    def _count_restart(self, member: Member, why: str) -> None:
        """Another will take the place of a member. Each seat is counted by itself: with a node all of its actors die.

        Raises:
            AbortError: that has been too often.
        """
        self.restarts += 1
        self._deaths[member.seat] += 1
        if (deaths := self._deaths[member.seat]) > self._config.rollouts.max_restarts:
            raise AbortError(f"rollout actor {member.seat} died {deaths} times; the last: {why}")
        log.warning("rollout actor %d is started again: %s", member.seat, why)

    async def _leave(self, member: Member) -> None:
        member.leaving = True
        async with self._changed:
            await self._changed.wait_for(lambda: member.load == 0)
        if member in self._members:
            self._members.remove(member)
            with contextlib.suppress(ray.exceptions.RayError):
                ray.kill(member.handle)

    async def _watch(self) -> None:
        """Grow while prompts wait, one member at a time; shrink when one has had nothing to do for a while."""
        rollouts = self._config.rollouts
        fewest, most = rollouts.bounds
        while True:
            await asyncio.sleep(WATCH_S)
            staying = self._staying()
            idle = [one for one in staying if not one.load and time.monotonic() - one.idle_since > rollouts.idle_s]
            ready = all(one.current for one in staying)
            if self._waiting and ready and len(staying) < most and await asyncio.to_thread(has_room, rollouts):
                log.info("prompts wait: a rollout actor more, %d in all", len(staying) + 1)
                self._do(self.resize(len(staying) + 1))
            elif idle and len(staying) > fewest and not (self._waiting and not ready):
                log.info("a rollout actor was idle for %g s: it leaves, %d stay", rollouts.idle_s, len(staying) - 1)
                await self._leave(max(idle, key=lambda one: one.seat))

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something beside what is at hand; its error ends whatever waits for an actor."""

        async def guarded() -> None:
            try:
                await work
            except Exception as error:  # handed on as it is
                self._error = error
                await self._tell()

        task = asyncio.create_task(guarded())
        self._background.add(task)
        task.add_done_callback(self._background.discard)


async def _answer(call: Any) -> Any:
    return await call
