"""Rollouts: vLLM actors that sample groups, and the one actor that feeds them, scores, and keeps the order.

::

    learner ── groups(step) ──► RolloutManager ──► RolloutActor 1 … n (vLLM)      videos ──► decode tasks
       │                          ▲   │  one prompt a call, G samples                        │
       └─ publish(weights, v) ────┘   └─ Rubric: every completion scored ◄─ clips (object store)

Groups of step k are sampled with weights of version k - ``max_staleness`` or newer. Learner and actors meet in the
manager alone; a dead or stuck actor costs the work that it had at hand, which another one does again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray

from ravst_ray.backends.clips import show_video
from ravst_ray.backends.decoding import ChildDecoder
from ravst_ray.backends.protocols import Clip, Completion, Generation
from ravst_ray.backends.video_llm import VideoLLM
from ravst_ray.backends.video_prompts import AnswerSpace, VideoView, question_prompt
from ravst_ray.backends.word_vectors import name_matcher
from ravst_ray.config.train import TrainConfig
from ravst_ray.config.video_llm import SamplingConfig
from ravst_ray.datasets.tasks import VideoTask, read_tasks
from ravst_ray.errors import AbortError, StepError
from ravst_ray.logs import get_logger, setup_logging
from ravst_ray.training.failures import GuardedRubric
from ravst_ray.training.groups import Group
from ravst_ray.training.prompts import Ask, PromptOrder
from ravst_ray.training.records import group_numbers

log = get_logger(__name__)
KEPT_CLIPS = 256
PROBE_TOKENS = 24


@dataclass(frozen=True)
class Weights:
    """A version of the policy, as references to ``{name: array}`` in the object store."""

    version: int
    state: Any


@dataclass
class StepRollouts:
    """The groups of one step, their clips as references, and what was seen while sampling them."""

    groups: list[Group]
    clips: list[Any]
    numbers: dict[str, float] = field(default_factory=dict)


class RolloutActor:
    """A vLLM engine in a Ray actor; its methods run side by side."""

    def __init__(self, config: TrainConfig):
        setup_logging()
        engine = config.engine.model_copy(update={"model": config.model})
        self._engine = VideoLLM(engine, trainable=True)
        self._busy_s, self._running, self._since = 0.0, 0, 0.0

    async def start(self, weights: Weights | None) -> None:
        """Load the model, bring it to the current weights."""
        await self._engine.start()
        if weights is not None:
            await self.set_weights(weights)

    async def sample(self, text: str, clip: Clip, sampling: SamplingConfig) -> Generation:
        """One group."""
        if not self._running:
            self._since = time.monotonic()
        self._running += 1
        try:
            return await self._engine.generate(text, clip, sampling, logprobs=True)
        except AbortError as error:
            log.error("%s", error)
            os._exit(1)  # the manager starts another actor and gives it the prompt
        finally:
            self._running -= 1
            if not self._running:
                self._busy_s += time.monotonic() - self._since

    async def set_weights(self, weights: Weights) -> None:
        """Load a version of the policy."""
        from safetensors.numpy import save_file

        state = await weights.state[0]
        folder = Path("/dev/shm") if os.path.isdir("/dev/shm") else Path("/tmp")
        path = folder / f"ravst-weights-{os.getpid()}.safetensors"
        try:
            save_file(state, path)
            await self._engine.set_weights(str(path), weights.version)
        finally:
            path.unlink(missing_ok=True)

    async def busy_s(self) -> float:
        """Seconds in which at least one group was being sampled."""
        return self._busy_s + (time.monotonic() - self._since if self._running else 0.0)


@ray.remote(num_cpus=0.1, max_retries=1)
def decode_clip(task: VideoTask, config: TrainConfig) -> tuple[Clip, VideoView] | StepError:
    """The frames of a video, or why there are none."""
    decoder = ChildDecoder(config.decode)
    try:
        return show_video(decoder, task.video_id, task.path, task.duration_s, config.frames)
    except StepError as error:
        return error
    finally:
        decoder.close()


class RolloutManager:
    """Feeds the rollout actors; an async Ray actor. See the top of this file.

    Args:
        config: of the run.
        start: the step to begin with; above 0 its weights must be published before it is sampled.
        place: the place in the order of questions at which that step begins.
    """

    def __init__(self, config: TrainConfig, start: int = 0, place: int = 0):
        setup_logging()
        self._config = config
        self._order = PromptOrder(
            read_tasks(config.data.annotations, config.data.videos, config.data.limit), config.seed
        )
        self._rubric = GuardedRubric(config.reward, name_matcher(config.reward.names))
        self._steps: dict[int, asyncio.Task[StepRollouts]] = {}
        self._places = {start: place}
        self._next = start
        self._version = -1 if start else 0
        self._weights: Weights | None = None
        self._stopping = False
        self._published = asyncio.Condition()
        self._actors: list[Any] = []
        self._busy_s, self._measured_at = 0.0, time.monotonic()
        self._load: Counter[int] = Counter()
        self._restarts = 0
        self._restarting: dict[int, asyncio.Task[None]] = {}
        self._clips: OrderedDict[str, Any] = OrderedDict()
        self._bad: dict[str, StepError] = {}

    async def start(self) -> None:
        """Start the engines."""
        await asyncio.gather(*(self._start_actor(number) for number in range(self._config.rollouts.actors)))

    async def _start_actor(self, number: int) -> None:
        rollouts = self._config.rollouts
        made = (
            ray.remote(RolloutActor)
            .options(num_cpus=rollouts.num_cpus, num_gpus=rollouts.num_gpus, max_concurrency=1000)
            .remote(self._config)
        )
        if number < len(self._actors):
            self._actors[number] = made
        else:
            self._actors.append(made)
        weights = self._weights
        await made.start.remote(weights)
        if self._weights is not weights and self._weights is not None:
            await made.set_weights.remote(self._weights)

    def stop(self) -> None:
        """Ask the learner to save and end after its step."""
        self._stopping = True

    def stopping(self) -> bool:
        """Whether :meth:`stop` was called."""
        return self._stopping

    def place(self, step: int) -> int:
        """The place in the order of questions at which a step begins; for checkpoints."""
        return self._places[step]

    async def groups(self, step: int, rank: int) -> StepRollouts:
        """The share of a learner worker in a step's groups; steps that may be sampled ahead are begun."""
        self._dispatch(step + self._config.rollouts.max_staleness)
        whole = await asyncio.shield(self._steps[step])
        workers = self._config.learner.workers
        if rank == workers - 1:
            self._places.pop(step - 2, None)
            self._steps.pop(step - 2, None)
        return replace(whole, groups=whole.groups[rank::workers], clips=whole.clips[rank::workers])

    def _dispatch(self, last: int) -> None:
        while self._next <= min(last, self._config.max_steps - 1):
            self._steps[self._next] = asyncio.create_task(self._sample_step(self._next))
            self._next += 1

    async def publish(self, weights: Weights) -> float:
        """Bring every engine to a new version; gives the share of time since the last one in which engines sampled."""
        self._weights = weights
        updates = [self._update(number, weights) for number in range(len(self._actors))]
        await asyncio.gather(*updates)
        async with self._published:
            self._version = weights.version
            self._published.notify_all()
        return await self._busy_share()

    async def _busy_share(self) -> float:
        found = await asyncio.gather(*(actor.busy_s.remote() for actor in self._actors), return_exceptions=True)
        now, busy_s = time.monotonic(), sum(one for one in found if isinstance(one, float))
        spent_s = max(now - self._measured_at, 1e-9) * len(self._actors)
        share = min(max(busy_s - self._busy_s, 0.0) / spent_s, 1.0)  # an actor that was restarted counts from 0
        self._busy_s, self._measured_at = busy_s, now
        return share

    async def _update(self, number: int, weights: Weights) -> None:
        try:
            await self._actors[number].set_weights.remote(weights)
        except ray.exceptions.RayActorError as error:
            await self._replace(number, self._actors[number], error)

    async def probe(self) -> tuple[Group, Any]:
        """A few tokens on the first usable question with the current weights, for comparing log-probs."""
        places = range(len(self._order))
        place = next((one for one in places if self._order.at(one).video.video_id not in self._bad), 0)
        (group, clip), _ = await self._group(0, place, SamplingConfig(temperature=1.0, max_tokens=PROBE_TOKENS))
        return group, clip

    async def _sample_step(self, step: int) -> StepRollouts:
        rollouts = self._config.rollouts
        while step not in self._places:  # the step before says where this one begins
            if self._steps[step - 1].done():
                await self._steps[step - 1]  # it failed
            await asyncio.sleep(0.005)
        async with self._published:
            await self._published.wait_for(lambda: self._version >= step - rollouts.max_staleness)
        started = time.monotonic()
        seen: Counter[str] = Counter()
        wanted, place = rollouts.prompts_per_step, self._places[step]
        sampling = SamplingConfig(
            temperature=rollouts.temperature,
            top_p=rollouts.top_p,
            n=rollouts.group_size,
            max_tokens=rollouts.max_tokens,
        )
        asks: list[int] = []
        while len(asks) < wanted:
            if await self._usable(place, seen):
                asks.append(place)
            place += 1
        self._places[step + 1] = place
        made = await asyncio.gather(*(self._group(step, one, sampling) for one in asks))
        for extra in range(rollouts.max_resamples * rollouts.resample_equal):
            equal = [i for i, ((group, _), _) in enumerate(made) if len(set(group.totals)) == 1]
            if not equal:
                break
            log.info("step %d: %d groups of equal rewards are sampled anew (%d)", step, len(equal), extra + 1)
            seen["resampled"] += len(equal)
            more = await asyncio.gather(
                *(self._group(step, self._spare(place, extra, i), sampling, tolerant=True) for i in equal)
            )
            for i, one in zip(equal, more, strict=True):
                made[i] = one if one[0][0].completions else made[i]
        result = StepRollouts([group for (group, _), _ in made], [clip for (_, clip), _ in made])
        result.numbers = group_numbers(result.groups, step) | {
            "rollout/seconds": time.monotonic() - started,
            "rollout/retries": float(sum(retries for _, retries in made)),
            "rollout/restarts": float(self._restarts),
            "rollout/skipped_videos": float(len(self._bad)),
            "rollout/skipped_questions": float(seen["skipped_questions"]),
            "rollout/resampled_groups": float(seen["resampled"]),
        }
        return result

    def _spare(self, place: int, extra: int, index: int) -> int:
        """Places far from those that are asked in order."""
        return place + len(self._order) // 2 + extra * self._config.rollouts.prompts_per_step + index

    async def _usable(self, place: int, seen: Counter[str]) -> bool:
        """Whether the video of a place can be shown; at least one in the data must be."""
        task = self._order.at(place).video
        if task.video_id in self._bad:
            seen["skipped_questions"] += 1
            return False
        shown = await self._shown(task)
        if shown is None:
            seen["skipped_questions"] += 1
            if len(self._bad) == len({self._order.at(i).video.video_id for i in range(len(self._order))}):
                raise AbortError(f"no video can be read; the last: {self._bad[task.video_id]}")
        return shown is not None

    async def _shown(self, task: VideoTask) -> tuple[Any, VideoView] | None:
        """A reference to the clip of a video, decoded once, and its view."""
        if task.video_id in self._bad:
            return None
        if task.video_id not in self._clips:
            self._clips[task.video_id] = asyncio.ensure_future(self._decode(task))
        self._clips.move_to_end(task.video_id)
        found: tuple[Any, VideoView] | None = await self._clips[task.video_id]
        while len(self._clips) > KEPT_CLIPS:
            self._clips.popitem(last=False)
        return found

    async def _decode(self, task: VideoTask) -> tuple[Any, VideoView] | None:
        made = await decode_clip.remote(task, self._config)
        if isinstance(made, StepError):
            log.warning("%s is left out: %s (%s)", task.video_id, made, made.reason)
            self._bad[task.video_id] = made
            return None
        clip, view = made
        return ray.put(clip), view

    async def _group(
        self, step: int, place: int, sampling: SamplingConfig, tolerant: bool = False
    ) -> tuple[tuple[Group, Any], int]:
        ask = self._order.at(place)
        shown = await self._shown(ask.video)
        if shown is None and tolerant:
            return (Group(ask.pair.qa_id, ask.pair.task, (), None, ()), None), 0
        if shown is None:
            raise self._bad[ask.video.video_id]
        clip, view = shown
        text = question_prompt(ask.pair.task, ask.pair.question, view, self._config.prompt)
        # vLLM counts on from it for each of the G samples, so the seeds of groups must be far apart.
        seed = int(np.random.SeedSequence([self._config.seed, step, place]).generate_state(1)[0]) % 2**31
        try:
            generation, retries = await self._sample(text, clip, sampling.model_copy(update={"seed": seed}))
        except StepError as error:
            hint = "raise engine.max_model_len, or show fewer or smaller frames"
            raise AbortError(f"{ask.pair.qa_id} can't be asked: {error}; {hint}") from None
        return (self._scored(ask, view, generation), clip), retries

    def _scored(self, ask: Ask, view: VideoView, generation: Generation) -> Group:
        space = AnswerSpace.of(view, self._config.prompt)
        pair = ask.pair
        rewards = tuple(
            self._rubric.score(pair.task, space.to_video(one.text), pair.answer, one.truncated)
            for one in generation.completions
        )
        return Group(pair.qa_id, pair.task, generation.prompt_ids, None, _versioned(generation.completions), rewards)

    async def _sample(self, text: str, clip: Any, sampling: SamplingConfig) -> tuple[Generation, int]:
        """Sample on the least busy engine; on its death, or when it takes too long, on another."""
        retries = 0
        while True:
            number = min(range(len(self._actors)), key=lambda i: (i in self._restarting, self._load[i], i))
            if number in self._restarting:
                await self._restarting[number]
                continue
            actor = self._actors[number]
            self._load[number] += 1
            try:
                work = actor.sample.remote(text, clip, sampling)
                return await asyncio.wait_for(
                    asyncio.wrap_future(work.future()), self._config.rollouts.timeout_s
                ), retries
            except (ray.exceptions.RayActorError, TimeoutError) as error:
                retries += 1
                await self._replace(number, actor, error)
            except ray.exceptions.RayTaskError as error:
                raise error.cause if isinstance(error.cause, Exception) else error from None
            finally:
                self._load[number] -= 1

    async def _replace(self, number: int, actor: Any, error: Exception) -> None:
        """Start a dead or stuck engine again, once however many notice it."""
        if self._actors[number] is not actor:
            if number in self._restarting:
                await self._restarting[number]
            return
        if number not in self._restarting:
            self._restarts += 1
            if self._restarts > self._config.rollouts.max_restarts:
                raise AbortError(
                    f"rollout actors died {self._restarts} times; the last: {type(error).__name__}: {error}"
                )
            log.warning("rollout actor %d is started again: %s", number, type(error).__name__)
            with contextlib.suppress(ray.exceptions.RayError):  # it may be dead already
                ray.kill(actor)
            self._restarting[number] = asyncio.ensure_future(self._start_actor(number))
        try:
            await self._restarting[number]
        finally:
            self._restarting.pop(number, None)


def _versioned(completions: tuple[Completion, ...]) -> tuple[Completion, ...]:
    """With a version for each token, 0 where the engine tells none."""
    return tuple(one if one.versions else replace(one, versions=(0,) * len(one.token_ids)) for one in completions)
