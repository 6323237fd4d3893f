"""What the rollout manager promises, with actors that answer at once in place of engines."""

import asyncio
import os
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray

from ravst_ray.config.base import load_config
from ravst_ray.config.train import TrainConfig
from ravst_ray.core.answers import ObjectAnswer, render
from ravst_ray.datasets.ravst_json import dump_questions
from ravst_ray.datasets.tasks import VideoTask
from ravst_ray.errors import AbortError, StepError
from ravst_ray.media.clips import Clip
from ravst_ray.policy.protocols import Completion, Generation
from ravst_ray.records import QAPair, VideoView
from ravst_ray.training import rollout
from ravst_ray.training.clips import Clips
from ravst_ray.training.rollout import RolloutManager, Weights
from ravst_ray.training.rollout_actor import Loaded
from ravst_ray.training.weight_check import Held

RIGHT = render([ObjectAnswer("red ball", (1.0, 3.0))])
LAPTOP = Path(__file__).parents[1] / "jobs" / "configs" / "train_laptop.yaml"


class StubActor:
    """Answers rightly and wrongly in turn; dies once at a question that holds "deadly", hangs once at "stuck"."""

    def __init__(self, config):
        self._marks = Path(config.output)
        self._version = 0
        self._stuck_at = None

    async def start(self, weights):
        self._version = weights.version if weights else 0

    async def set_weights(self, weights):
        self._version = weights.version
        return Loaded(0.125, await self.weights(), 0.1)

    async def weights(self):
        return Held(self._version, (f"sum of {self._version}",))

    async def quiet_s(self):
        return time.monotonic() - self._stuck_at if self._stuck_at else 0.0

    async def hang(self):
        self._stuck_at = time.monotonic()
        await asyncio.sleep(60)

    async def sample(self, text, clip, sampling):
        for word, harm in (("deadly", lambda: os._exit(1)), ("stuck", None)):
            mark = self._marks / word
            if word in text and not mark.exists():
                mark.touch()
                if harm:
                    harm()
                await self.hang()
        one = [
            Completion((1, 2), (-0.1, -0.2), (self._version,) * 2, RIGHT if n % 2 else "nothing", False)
            for n in range(sampling.n)
        ]
        if "equal" in text:
            one = [replace(c, text=RIGHT) for c in one]
        return Generation((5, 6, sampling.seed), tuple(one))


@pytest.fixture
def manager(tmp_path, monkeypatch, local_ray):
    """Makes a manager over videos of one question each; a video called "bad" can't be shown."""
    monkeypatch.setattr(rollout, "RolloutActor", StubActor)

    async def decode(self, task):
        if task.video_id.startswith("bad"):
            self._bad[task.video_id] = StepError("not_a_video", "no video")
            return None
        view = VideoView(2, 1.0, 28, 28, 2.0, 28, 28)
        return ray.put(Clip(task.video_id, np.zeros((2, 28, 28, 3), np.uint8), 1.0)), view

    monkeypatch.setattr(RolloutManager, "_decode", decode)

    def make(names, *more, start=0, position=None):
        pairs = [QAPair(f"{n}/1/AVTR/0", n, 1, "AVTR", f"When? {n}", RIGHT) for n in names]
        path = tmp_path / "questions.json"
        path.write_text(dump_questions(pairs, dict.fromkeys(names, 2.0)))
        given = [f"data.annotations={path}", f"data.videos={tmp_path}", f"output={tmp_path}", "rollouts.group_size=2"]
        given += ["rollouts.prompts_per_step=2", "learner.micro_batch=2", "rollouts.num_cpus=0.1", "model=m"]
        return RolloutManager(load_config(TrainConfig, LAPTOP, [*given, *more]), start, position)

    return make


def ids(step):
    return [group.question_id.partition("/")[0] for group in step.groups]


def run(work):
    return asyncio.run(asyncio.wait_for(work, 120))


def test_steps_ask_each_question_once_and_every_completion_is_scored(manager):
    async def work():
        one = manager(["a", "b", "c", "d"], "rollouts.max_staleness=1", "max_steps=2")
        await one.start()
        return [await one.groups(step, 0) for step in range(2)]

    first, second = run(work())
    assert sorted(ids(first) + ids(second)) == ["a", "b", "c", "d"]
    for group in first.groups:
        assert group.totals == (0.0, 2.0)  # nothing; the true answer: format 1 + temporal 1
    assert first.numbers["reward/mean"] == 1.0 and first.numbers["rollout/retries"] == 0
    seeds = {group.prompt_ids[2] for step in (first, second) for group in step.groups}
    assert len(seeds) == 4 and min(np.diff(sorted(seeds))) > 2


@pytest.mark.parametrize(("staleness", "versions"), [(0, [0, 1, 2]), (1, [0, 0, 1])])
def test_a_step_waits_for_weights_that_are_new_enough(manager, staleness, versions):
    async def work():
        one = manager(["a", "b", "c", "d"], f"rollouts.max_staleness={staleness}", "max_steps=3")
        await one.start()
        seen = []
        for step in range(3):
            made = await one.groups(step, 0)
            await asyncio.sleep(0.3)  # what may be sampled ahead is sampled now
            seen.append(min(c.versions[0] for group in made.groups for c in group.completions))
            await one.publish(Weights(step + 1, [None]))
        return seen

    assert run(work()) == versions


def test_workers_share_whole_groups(manager):
    async def work():
        one = manager(["a", "b", "c", "d"], "learner.workers=2", "max_steps=1")
        await one.start()
        return [await one.groups(0, rank) for rank in (0, 1)]

    first, second = run(work())
    assert len(first.groups) == len(second.groups) == 1
    assert ids(first) != ids(second)


def test_what_cannot_be_shown_is_left_out_and_the_place_is_kept_for_a_resume(manager):
    async def work():
        one = manager(["bad1", "a", "b", "c"], "max_steps=4", "rollouts.max_staleness=0")
        await one.start()
        first = await one.groups(0, 0)
        position = one.position(1)
        await one.publish(Weights(1, [None]))
        second = await one.groups(1, 0)
        again = manager(["bad1", "a", "b", "c"], "max_steps=4", "rollouts.max_staleness=0", start=1, position=position)
        await again.start()
        await again.publish(Weights(1, [None]))
        return first, second, await again.groups(1, 0)

    first, second, resumed = run(work())
    assert "bad1" not in ids(first) + ids(second)
    assert ids(resumed) == ids(second)
    assert [g.prompt_ids for g in resumed.groups] == [g.prompt_ids for g in second.groups]  # seeds as well


def test_no_video_at_all_ends_the_run(manager):
    async def work():
        one = manager(["bad1", "bad2"], "max_steps=1")
        await one.start()
        await one.groups(0, 0)

    with pytest.raises(AbortError, match="no video can be read"):
        run(work())


@pytest.mark.faults
@pytest.mark.parametrize("name", ["deadly", "stuck"])
def test_an_actor_that_dies_or_hangs_costs_no_group(manager, name):
    async def work():
        one = manager([name, "b"], "max_steps=1", "rollouts.timeout_s=3")
        await one.start()
        await one.publish(Weights(3, [None]))
        return await one.groups(0, 0)

    step = run(work())
    assert sorted(ids(step)) == sorted([name, "b"])
    assert step.numbers["rollout/restarts"] == 1 and step.numbers["rollout/retries"] >= 1
    # The new actor was brought to the current weights.
    assert {c.versions[0] for group in step.groups for c in group.completions} == {3}


@pytest.mark.faults
def test_an_actor_that_dies_again_and_again_ends_the_run(manager, tmp_path, monkeypatch):
    async def work():
        one = manager(["deadly", "b"], "max_steps=1", "rollouts.max_restarts=0")
        await one.start()
        await one.groups(0, 0)

    with pytest.raises(AbortError, match="rollout actor 0 died 1 times"):
        run(work())


@pytest.mark.faults
@pytest.mark.parametrize("harm", ["dies", "hangs"])
def test_an_actor_that_dies_or_hangs_as_it_loads_is_replaced(manager, monkeypatch, harm):
    class Loading(StubActor):
        async def set_weights(self, weights):
            mark = self._marks / "loading"
            if not mark.exists():
                mark.touch()
                if harm == "dies":
                    os._exit(1)
                await self.hang()
            return await super().set_weights(weights)

    monkeypatch.setattr(rollout, "RolloutActor", Loading)

    async def work():
        one = manager(["a", "b"], "max_steps=1", "rollouts.timeout_s=2")
        await one.start()
        await one.publish(Weights(3, [None]))
        return await one.groups(0, 0)

    step = run(work())
    assert step.numbers["rollout/restarts"] == 1
    assert {c.versions[0] for group in step.groups for c in group.completions} == {3}


def test_a_probe_takes_what_can_be_shown_and_each_version_asks_another_engine(manager, monkeypatch):
    class Named(StubActor):
        async def sample(self, text, clip, sampling):
            return replace(await super().sample(text, clip, sampling), prompt_ids=(os.getpid(), sampling.seed))

    monkeypatch.setattr(rollout, "RolloutActor", Named)

    async def work():
        one = manager(["bad1", "bad2", "a", "b"], "rollouts.actors=2", start=4)  # resumed: nothing was decoded yet
        await one.start()
        early = asyncio.create_task(one.probe(4))  # of a worker that only gathers: it is there first
        await asyncio.sleep(0.3)
        assert not early.done()
        synced = await one.publish(Weights(4, [None]))
        found = [await early, await one.probe(4)]
        assert (synced.drained_s, synced.changed) == (0.125, 1.0)
        assert 0 < synced.busy_share <= 0.1 / 0.3  # 0.1 s of work in at least 0.3 s
        await one.publish(Weights(5, [None]))
        return [*found, await one.probe(5), await one.probe(5, 1)]

    first, same, second, another = run(work())
    assert first is same
    assert all(len(made) == 16 for made in (first, second, another))  # of 4 times 2 tokens: 256 would be enough
    assert {made.group.question_id for made in first + second + another} == {"a/1/AVTR/0", "b/1/AVTR/0"}
    for probe, version in ((first, 4), (second, 5), (another, 5)):
        assert {c.versions[0] for made in probe for c in made.group.completions} == {version}
        assert len({made.group.prompt_ids[0] for made in probe}) == 1
    assert first[0].group.prompt_ids[0] != second[0].group.prompt_ids[0]
    assert {made.group.prompt_ids[1] for made in second}.isdisjoint(made.group.prompt_ids[1] for made in another)


def test_long_completions_lose_reward(manager):
    async def work():
        one = manager(["a"], "rollouts.prompts_per_step=1", "rollouts.max_tokens=3", "rollouts.overlong_tokens=2")
        await one.start()
        return await one.groups(0, 0)

    step = run(work())
    assert step.groups[0].totals == (0.0 - 0.5, 2.0 - 0.5)  # 2 of 3 tokens: 1 of the last 2
    assert step.numbers["reward/overlong"] == -0.5 and step.numbers["reward/mean"] == 0.5


def test_all_workers_stop_after_the_same_step(manager):
    one = manager(["a"])
    assert not one.stopping(3)  # says one worker …
    one.stop()
    assert not one.stopping(3) and one.stopping(4) and one.stopping(4)  # … so it holds for the others
    other = manager(["a"], "learner.iterations=2", "save_every=4")
    other.stop()
    assert not other.stopping(3) and other.stopping(4)


def test_groups_that_give_two_updates_are_sampled_half_as_often(manager):
    async def work():
        one = manager(["a", "b"], "max_steps=3", "learner.iterations=2", "save_every=2", "rollouts.max_staleness=1")
        await one.start()
        await one.groups(0, 0)
        await one.publish(Weights(1, [None]))
        await one.groups(1, 0)
        return sorted(one._steps)

    assert run(work()) == [0, 1]


@pytest.mark.parametrize("staleness", [0, 2])
def test_equal_groups_give_way_to_fresh_questions_and_a_resume_asks_what_is_left(manager, monkeypatch, staleness):
    """In one pass each question is asked once, by the run and by one that goes on from its second step."""
    names = [f"equal{n}" for n in range(4)] + [f"q{n}" for n in range(20)]
    given = ["max_steps=4", f"rollouts.max_staleness={staleness}", "rollouts.resample_equal=true"]
    asked = []
    plain = RolloutManager._group

    async def group(self, step, place, *more):
        asked.append((step, self._order.at(place).video.video_id))
        if step == 0:  # later steps, sampled ahead, take their places meanwhile
            await asyncio.sleep(0.2)
        return await plain(self, step, place, *more)

    monkeypatch.setattr(RolloutManager, "_group", group)

    async def steps(one, numbers):
        await one.start()
        made, positions = [], []
        for step in numbers:
            if step:
                await one.publish(Weights(step, [None]))
            made.append(await one.groups(step, 0))
            positions.append(one.position(step + 1))
        return made, positions

    made, positions = run(steps(manager(names, *given), range(4)))
    assert max(Counter(name for _, name in asked).values()) == 1
    assert all(step.numbers["group/zero_variance"] == 0 for step in made)
    assert sum(step.numbers["rollout/resampled_groups"] for step in made) == len([n for _, n in asked if "equal" in n])
    learned = {name for step, name in asked if step < 2}
    asked.clear()
    run(steps(manager(names, *given, start=2, position=positions[1]), range(2, 4)))
    again = [name for _, name in asked]
    assert len(set(again)) == len(again) and not learned & set(again)
    order = manager(names, *given)._order
    left = [one for one in (order.at(place).video.video_id for place in range(len(names))) if one not in learned]
    assert set(again) == set(left[: len(again)])  # nothing is left out


def test_clips_are_kept_up_to_a_size_and_those_shown_longest_ago_go():
    decoded = []

    async def decode(task):
        decoded.append(task.video_id)
        frames = {"large": 16}.get(task.video_id, 4)
        return task.video_id, VideoView(frames, 1.0, 32, 32, 2.0, 32, 32)

    async def work():
        clips = Clips(decode, gib=12 * 32 * 32 * 3 / 2**30)  # three clips of four frames
        for names in ("abc", "a", "d", "acd", "b"):
            for name in names:
                assert (await clips.shown(VideoTask(name, "", 2.0, ())))[0] == name
        await asyncio.gather(*(clips.shown(VideoTask("large", "", 2.0, ())) for _ in range(3)))
        return await clips.shown(VideoTask("b", "", 2.0, ()))

    assert run(work())[0] == "b"
    assert decoded == ["a", "b", "c", "d", "b", "large", "b"]
