"""Rollouts: the one actor that feeds the rollout actors, scores what they sample, and keeps the order of steps.

::

    learner ── groups(step) ──► RolloutManager ──► RolloutPool: RolloutActor 1 … n (vLLM)
       │                          ▲   │  one prompt a call, G samples     videos ──► decode tasks ──► Clips
       └─ publish(weights, v) ────┘   └─ Rubric: every completion scored              (object store)

Groups of step k are sampled with weights of version k - ``max_staleness`` or newer. Learner and actors meet in the
manager alone; a dead or stuck actor costs the work that it had at hand, which another one does again. On a card that
they share the engines sleep from the moment that a step's groups are handed out until new weights come.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from ravst_ray.config.train import TrainConfig
from ravst_ray.config.video_llm import SamplingConfig
from ravst_ray.datasets.tasks import VideoTask
from ravst_ray.errors import AbortError, StepError
from ravst_ray.logs import get_logger, setup_logging
from ravst_ray.policy.prompts import question_prompt
from ravst_ray.policy.protocols import Completion, Generation
from ravst_ray.records import VideoView
from ravst_ray.rewards.length import overlong_penalty
from ravst_ray.rewards.word_vectors import name_matcher
from ravst_ray.tasks import task_of
from ravst_ray.tasks.rubric import Reward
from ravst_ray.tasks.spaces import AnswerSpace
from ravst_ray.training.clips import Clips, Shown, decode
from ravst_ray.training.failures import GuardedRubric
from ravst_ray.training.groups import Group
from ravst_ray.training.held_out import Examiner, HeldOut
from ravst_ray.training.pool import RolloutPool, Synced
from ravst_ray.training.position import Places, Position
from ravst_ray.training.prompts import Ask, PromptOrder, training_tasks
from ravst_ray.training.records import group_numbers
from ravst_ray.training.rollout_actor import RolloutActor, Weights

__all__ = ["RolloutActor", "RolloutManager", "StepRollouts", "Weights"]

log = get_logger(__name__)
PROBE_PROMPTS, PROBE_GROUP, PROBE_LENGTH = 4, 4, 32
"""A probe's prompts at once, completions of each, and their tokens at most."""
PROBE_TOKENS, PROBE_MOST = 256, 16
"""Prompts are added until there are so many tokens, or so many prompts."""
Asks = tuple[list[int], Counter[str]]
"""The places that a step begins with, and what was seen while they were looked for."""


@dataclass
class StepRollouts:
    """The groups of one step, their clips as references, and what was seen while sampling them."""

    groups: list[Group]
    clips: list[Any]
    numbers: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Sampled:
    """A scored group, its clip as a reference, how often it was asked again, and what was asked beside the video."""

    group: Group
    clip: Any = None
    retries: int = 0
    text: str = ""

    @property
    def equal(self) -> bool:
        """Whether there is nothing to learn from it."""
        return len(set(self.group.totals)) == 1


class RolloutManager:
    """Feeds the rollout actors; an async Ray actor. See the top of this file.

    Args:
        config: of the run.
        start: the step to begin with; above 0 its weights must be published before it is sampled.
        position: where in the order of questions that step begins; None: at the first.
        group: the placement group of the rollout actors.
        examiner: holds the questions of the run's validation.
    """

    def __init__(
        self,
        config: TrainConfig,
        start: int = 0,
        position: Position | None = None,
        group: Any = None,
        examiner: Examiner | None = None,
    ):
        setup_logging()
        self._config = config
        self._order = PromptOrder(training_tasks(config.data, tell=False), config.seed)  # the driver has told
        self._rubric = GuardedRubric(config.reward, name_matcher(config.reward.names))
        self._pool = RolloutPool(config, RolloutActor, group)
        self._clips = Clips(self._decode, config.rollouts.clips_gib)
        self._bad: dict[str, StepError] = {}
        self._steps: dict[int, asyncio.Task[StepRollouts]] = {}
        self._places = Places(position or Position())
        self._asks: dict[int, asyncio.Task[Asks]] = {}
        self._next = start
        self._version = -1 if start else 0
        self._published = asyncio.Condition()
        self._stopping, self._asked, self._stop_at = False, 0, 0
        self._examiner = examiner
        self._held_out = HeldOut(config, examiner.tasks if examiner else (), self._pool, partial(decode, config=config))
        self._validated: tuple[int, asyncio.Task[Any]] | None = None
        self._probe: tuple[tuple[int, int], asyncio.Task[list[Sampled]]] | None = None
        self._probed_to = 0
        self._steps_in_all = -(-config.max_steps // config.learner.iterations)
        self._told: list[dict[str, float]] = []

    async def start(self) -> None:
        """Start the engines."""
        await self._pool.start()

    async def resize(self, actors: int) -> None:
        """Go on with so many rollout actors; done when the new ones are ready and those that leave have ended.

        Within ``rollouts.min_actors`` and ``rollouts.max_actors`` the pool goes on growing and shrinking by itself.
        """
        await self._pool.resize(actors)

    def stop(self) -> None:
        """Ask the learner to save and end after its step."""
        self._stopping = True

    def stopping(self, step: int) -> bool:
        """Whether to save and end after an optimizer step; all workers get the same answer, whenever they ask."""
        if self._stopping and not self._stop_at:
            # What was said of a step holds, and groups are used up first.
            first = max(step, self._asked + 1)
            self._stop_at = first + -first % self._config.learner.iterations
        self._asked = max(self._asked, step)
        return bool(self._stop_at) and step >= self._stop_at

    def tell(self, record: dict[str, float]) -> None:
        """The learner's record of a step, for whoever watches."""
        self._told.append(record)

    def told(self, known: int) -> list[dict[str, float]]:
        """The records after the first ``known``."""
        return self._told[known:]

    async def whole(self, step: int) -> list[Group]:
        """The groups of all workers in a step that they have at hand."""
        return (await asyncio.shield(self._steps[step])).groups

    def position(self, step: int) -> Position:
        """Where in the order of questions a step begins; for checkpoints."""
        return self._places.position(step)

    async def groups(self, step: int, rank: int) -> StepRollouts:
        """The share of a learner worker in a step's groups; steps that may be sampled ahead are begun."""
        self._dispatch(step + self._config.rollouts.max_staleness)
        whole = await asyncio.shield(self._steps[step])
        if self._config.rollouts.share_gpu:  # nothing is sampled ahead then
            await self._pool.sleep()
        workers = self._config.learner.workers
        if rank == workers - 1:
            self._asks.pop(step - 2, None)
            self._steps.pop(step - 2, None)
        return replace(whole, groups=whole.groups[rank::workers], clips=whole.clips[rank::workers])

    def _dispatch(self, last: int) -> None:
        while self._next <= min(last, self._steps_in_all - 1):
            self._asks[self._next] = asyncio.create_task(self._choose(self._next))
            self._steps[self._next] = asyncio.create_task(self._sample_step(self._next))
            self._next += 1

    async def publish(self, weights: Weights) -> Synced:
        """Bring every engine to a new version."""
        synced = await self._pool.publish(weights)
        await self._reached(weights.version)
        return synced

    async def party(self) -> list[int]:
        """Who takes part in a transfer from the learner's card; :meth:`transfer` and :meth:`published` follow."""
        return await self._pool.party()

    async def transfer(self, call: str, payloads: Sequence[Any]) -> None:
        """Call a method of every actor in the party, each with its own payload."""
        await self._pool.transfer(call, payloads)

    async def published(self, version: int) -> Synced:
        """A transfer has ended."""
        synced = await self._pool.transferred(version)
        await self._reached(version)
        return synced

    async def _reached(self, version: int) -> None:
        async with self._published:
            self._version = version
            self._published.notify_all()

    async def probe(self, version: int, look: int = 0) -> list[Sampled]:
        """Short answers to usable questions with these weights, for comparing prompts and log-probs.

        Every worker that asks gets the same; each version asks another engine, each ``look`` other questions.
        """
        if self._probe is None or self._probe[0] != (version, look):
            self._probe = (version, look), asyncio.create_task(self._probed(version, look))
        return await asyncio.shield(self._probe[1])

    async def _probed(self, version: int, look: int) -> list[Sampled]:
        async with self._published:
            await self._published.wait_for(lambda: self._version >= version)
        sampling = SamplingConfig(temperature=1.0, n=PROBE_GROUP, max_tokens=PROBE_LENGTH)
        made: list[Sampled] = []
        place, tokens = self._probed_to if look else 0, 0
        while tokens < PROBE_TOKENS and len(made) < PROBE_MOST:
            asks: list[int] = []
            while len(asks) < PROBE_PROMPTS:
                if await self._usable(place, Counter()):
                    asks.append(place)
                place += 1
            made += await asyncio.gather(*(self._group(version, one, sampling, turn=version) for one in asks))
            tokens = sum(len(one.token_ids) for sampled in made for one in sampled.group.completions)
        self._probed_to = place
        return made

    async def validated(self, step: int, version: int) -> Any:
        """What greedy answers to the held-out questions are worth after an optimizer step, with its weights.

        Every worker that asks gets the same.
        """
        if self._validated is None or self._validated[0] != step:
            self._validated = step, asyncio.create_task(self._validate(step, version))
        return await asyncio.shield(self._validated[1])

    async def _validate(self, step: int, version: int) -> Any:
        assert self._examiner is not None
        async with self._published:
            await self._published.wait_for(lambda: self._version >= version)
        said = await self._held_out.answers()
        return await asyncio.to_thread(self._examiner.mark, step, said)

    async def _choose(self, step: int) -> Asks:
        """The places that a step begins with: those after the ones that the step before began with."""
        if step - 1 in self._asks:
            await asyncio.shield(self._asks[step - 1])
        seen: Counter[str] = Counter()
        return [await self._fresh(step, seen) for _ in range(self._config.rollouts.prompts_per_step)], seen

    async def _fresh(self, step: int, seen: Counter[str]) -> int:
        """The next place whose video can be shown."""
        while not await self._usable(place := self._places.take(step), seen):
            pass
        return place

    async def _sample_step(self, step: int) -> StepRollouts:
        rollouts = self._config.rollouts
        asks, seen = await asyncio.shield(self._asks[step])
        async with self._published:
            await self._published.wait_for(lambda: self._version >= step - rollouts.max_staleness)
        started = time.monotonic()
        sampling = SamplingConfig(
            temperature=rollouts.temperature,
            top_p=rollouts.top_p,
            n=rollouts.group_size,
            max_tokens=rollouts.max_tokens,
        )
        made = await asyncio.gather(*(self._filled(step, one, sampling, seen) for one in asks))
        result = StepRollouts([one.group for one in made], [one.clip for one in made])
        result.numbers = group_numbers(result.groups, step) | {
            "rollout/seconds": time.monotonic() - started,
            "rollout/retries": float(sum(one.retries for one in made)),
            "rollout/restarts": float(self._pool.restarts),
            "rollout/actors": float(len(self._pool)),
            "rollout/skipped_videos": float(len(self._bad)),
            "rollout/skipped_questions": float(seen["skipped_questions"]),
            "rollout/resampled_groups": float(seen["resampled"]),
        }
        return result

    async def _filled(self, step: int, place: int, sampling: SamplingConfig, seen: Counter[str]) -> Sampled:
        """A group of a place, or of a later one: as soon as rewards turn out equal the next place is asked instead."""
        made = await self._group(step, place, sampling)
        for _ in range(self._config.rollouts.max_resamples if self._config.rollouts.resample_equal else 0):
            if not made.equal:
                break
            seen["resampled"] += 1
            made = await self._group(step, await self._fresh(step, seen), sampling)
        return made

    async def _usable(self, place: int, seen: Counter[str]) -> bool:
        """Whether the video of a place can be shown; at least one in the data must be."""
        task = self._order.at(place).video
        known = task.video_id in self._bad
        if await self._shown(task) is not None:
            return True
        seen["skipped_questions"] += 1
        if not known and len(self._bad) == len({self._order.at(i).video.video_id for i in range(len(self._order))}):
            raise AbortError(f"no video can be read; the last: {self._bad[task.video_id]}")
        return False

    async def _shown(self, task: VideoTask) -> Shown | None:
        return None if task.video_id in self._bad else await self._clips.shown(task)

    async def _decode(self, task: VideoTask) -> Shown | None:
        try:
            return await decode(task, self._config)
        except StepError as error:
            log.warning("%s is left out: %s (%s)", task.video_id, error, error.reason)
            self._bad[task.video_id] = error
            return None

    async def _group(self, step: int, place: int, sampling: SamplingConfig, turn: int | None = None) -> Sampled:
        """Sample and score."""
        ask = self._order.at(place)
        shown = await self._shown(ask.video)
        if shown is None:
            raise self._bad[ask.video.video_id]
        clip, view = shown
        text = question_prompt(ask.pair.task, ask.pair.question, view, self._config.prompt)
        # vLLM counts on from it for each of the G samples, so the seeds of groups must be far apart.
        seed = int(np.random.SeedSequence([self._config.seed, step, place]).generate_state(1)[0]) % 2**31
        try:
            drawn = sampling.model_copy(update={"seed": seed})
            generation, retries = await self._pool.sample(text, clip, drawn, turn)
        except StepError as error:
            hint = "; raise engine.max_model_len, or show fewer or smaller frames"
            told = hint if error.reason == "prompt_too_long" else ""
            raise AbortError(f"{ask.pair.qa_id} can't be asked: {error}{told}") from None
        return Sampled(self._scored(ask, view, generation), clip, retries, text)

    def _scored(self, ask: Ask, view: VideoView, generation: Generation) -> Group:
        space = AnswerSpace.of(view, self._config.prompt)
        pair = ask.pair
        task = task_of(pair.task)
        rewards = tuple(
            self._shortened(
                self._rubric.score(
                    pair.task, task.to_video(one.text, space), pair.answer, one.truncated, len(one.token_ids)
                ),
                len(one.token_ids),
            )
            for one in generation.completions
        )
        return Group(pair.qa_id, pair.task, generation.prompt_ids, None, _versioned(generation.completions), rewards)

    def _shortened(self, reward: Reward, tokens: int) -> Reward:
        """A reward after what its completion's length costs; the cost is shown as the part ``overlong``."""
        rollouts = self._config.rollouts
        if not rollouts.overlong_tokens:
            return reward
        penalty = overlong_penalty(tokens, rollouts.max_tokens, rollouts.overlong_tokens)
        return replace(reward, total=reward.total + penalty, parts={**reward.parts, "overlong": penalty})


def _versioned(completions: tuple[Completion, ...]) -> tuple[Completion, ...]:
    """With a version for each token, 0 where the engine tells none."""
    return tuple(one if one.versions else replace(one, versions=(0,) * len(one.token_ids)) for one in completions)
