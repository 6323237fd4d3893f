"""What goes wrong while a run learns: rewards and losses that are no numbers, disks that are full, workers that die."""

import asyncio
import errno
import json
import math
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import ray
import ray.train
import torch
from ray.core.generated.common_pb2 import ActorDiedErrorContext
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError
from rich.console import Console
from safetensors.torch import load_file

from ravst_ray.cli import main
from ravst_ray.cluster.failures import cause_of, ended_with
from ravst_ray.config.base import dump_config, load_config
from ravst_ray.config.train import TrainConfig
from ravst_ray.core.answers import ObjectAnswer, render
from ravst_ray.datasets.ravst_json import dump_questions
from ravst_ray.errors import AbortError, ConfigError, StepError, WorkerDiedError
from ravst_ray.media.clips import Clip
from ravst_ray.records import QAPair, VideoView
from ravst_ray.tasks import avst
from ravst_ray.tasks.rubric import Reward
from ravst_ray.training import loop, rollout
from ravst_ray.training import worker as worker_module
from ravst_ray.training.failures import FailedReward, GuardedRubric, check_rewards, writing
from ravst_ray.training.forward import Row, VideoForward
from ravst_ray.training.pool import Synced
from ravst_ray.training.position import Position
from ravst_ray.training.rollout import RolloutManager, Sampled, StepRollouts
from ravst_ray.training.run_store import Checkpoint, RunStore
from tests.test_rollout import StubActor
from tests.tiny_policies import FAMILY, load_tiny, made_up_group, tiny_policy

LAPTOP = Path(__file__).parents[1] / "jobs" / "configs" / "train_laptop.yaml"
FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return tiny_policy(tmp_path_factory.mktemp("policy"), seed=3)


def settings(output, *more):
    given = [f"output={output}", f"data.annotations={output}", f"data.videos={output}", "rollouts.group_size=4"]
    given += ["rollouts.prompts_per_step=2", "learner.micro_batch=4", "sync.probe_every=0", "rollouts.num_cpus=0.1"]
    return load_config(TrainConfig, LAPTOP, [*given, *more])


class Remote:
    """Calls a function as one calls a method of an actor."""

    def __init__(self, function):
        self.remote = lambda *args: ray.put(function(*args))


def serving(groups, workers=1):
    """A manager in this process that gives the same groups in every step, shared among workers as the real one does."""

    def share(step, rank):
        mine = groups[rank::workers]
        return StepRollouts(mine, [ray.put(None)] * len(mine), {"rollout/skipped_videos": 1.0})

    functions = {
        "groups": share,
        "publish": lambda weights: Synced(drained_s=0.0, load_s=0.1, changed=1.0, busy_share=0.5),
        "stopping": lambda step: False,
        "position": lambda step: Position(7, (9, 12)),
        "tell": lambda record: None,
    }
    return SimpleNamespace(**{name: Remote(function) for name, function in functions.items()})


@pytest.fixture
def worker(policy, tmp_path, monkeypatch, local_ray):
    """Makes a learner worker whose groups are given."""
    monkeypatch.setattr(ray.train, "get_context", lambda: SimpleNamespace(get_world_rank=lambda: 0))

    def make(groups, *more, checkpoint=None):
        config = settings(tmp_path, f"model={policy}", *more)
        return worker_module.Worker(config, serving(groups), checkpoint)

    return make


@pytest.fixture(scope="module")
def forward(policy):
    return VideoForward(load_tiny(policy)[1], FAMILY)


def two_groups(forward, rewards=(1.0, 0.0, 0.5, 0.25)):
    return [made_up_group(forward, f"v/1/AVTR/{i}", None, rewards, seed=i) for i in range(2)]


def weights_of(made):
    return {name: value.clone() for name, value in made.learner.model.state_dict().items()}


def same(one, other):
    return all(torch.equal(value.nan_to_num(7.0), other[name].nan_to_num(7.0)) for name, value in one.items())


def test_a_reward_that_raises_or_is_no_number_is_handed_on_with_its_group(monkeypatch):
    rubric = GuardedRubric()
    truth = render([ObjectAnswer("dog", (0.0, 4.0))])
    assert rubric.score("AVTR", truth, truth).total == 2.0

    def broken(true, predicted):
        raise ZeroDivisionError("division by\n\nzero")

    monkeypatch.setattr(avst, "temporal_score", broken)
    made = [rubric.score("AVTR", truth, truth) for _ in range(2)]
    assert [one.error for one in made] == ["raised ZeroDivisionError: division by zero"] * 2
    assert len({one.total for one in made}) == 2, "they must not look like a group of equal rewards"
    monkeypatch.setattr(avst, "temporal_score", lambda true, predicted: math.inf)
    infinite = rubric.score("AVTR", truth, truth)
    assert math.isnan(infinite.total) and infinite.error == "is inf" and infinite.parts["format"] == 1.0


def test_bad_rewards_are_named_by_question(forward):
    check_rewards(two_groups(forward))
    bad = [made_up_group(forward, f"q{i}", None, (math.nan, 0.0)) for i in range(5)]
    with pytest.raises(AbortError) as stopped:
        check_rewards([*two_groups(forward), *bad])
    named = "of q0 is nan, of q1 is nan, of q2 is nan and 2 more"
    assert str(stopped.value) == f"the reward {named}, not a finite number; nothing was learned from it"


def test_the_manager_finishes_a_step_whose_reward_raises_and_skips_what_cannot_be_read(
    tmp_path, monkeypatch, local_ray
):
    """The groups reach the learner, which stops; videos that can't be read are counted in the step's numbers."""
    names = ["bad1", "a", "b", "c"]

    async def decode(self, task):
        if task.video_id.startswith("bad"):
            self._bad[task.video_id] = StepError("not_a_video", "no video")
            return None
        return ray.put(Clip(task.video_id, np.zeros((2, 28, 28, 3), np.uint8), 1.0)), VideoView(
            2, 1.0, 28, 28, 2.0, 28, 28
        )

    def broken(true, predicted):
        if "nothing" not in str(predicted) and predicted.objects:
            raise KeyError("no such part")
        return 0.0

    monkeypatch.setattr(rollout, "RolloutActor", StubActor)
    monkeypatch.setattr(RolloutManager, "_decode", decode)
    monkeypatch.setattr(avst, "temporal_score", broken)
    right = render([ObjectAnswer("red ball", (1.0, 3.0))])
    path = tmp_path / "questions.json"
    path.write_text(
        dump_questions([QAPair(f"{n}/1/AVTR/0", n, 1, "AVTR", n, right) for n in names], dict.fromkeys(names, 2.0))
    )
    config = settings(tmp_path, f"data.annotations={path}", "rollouts.prompts_per_step=3", "rollouts.group_size=4")

    async def work():
        manager = RolloutManager(config)
        await manager.start()
        return await manager.groups(0, 0)

    step = asyncio.run(asyncio.wait_for(work(), 120))
    assert sorted(group.question_id for group in step.groups) == ["a/1/AVTR/0", "b/1/AVTR/0", "c/1/AVTR/0"]
    for group in step.groups:
        errors = [getattr(reward, "error", None) for reward in group.rewards]
        assert errors == [None, "raised KeyError: 'no such part'"] * 2
    assert step.numbers["rollout/skipped_videos"] == 1
    assert step.numbers["rollout/skipped_questions"] in (0, 1)  # by where the order has it


@pytest.mark.parametrize(("rank", "shard", "proves"), [(0, False, True), (1, False, False), (1, True, True)])
def test_a_sharded_model_is_compared_with_an_engine_on_all_ranks(worker, forward, monkeypatch, rank, shard, proves):
    one = worker(two_groups(forward), "sync.probe_every=2")
    proved = []
    monkeypatch.setattr(one, "prove", proved.append)
    monkeypatch.setattr(one, "rank", rank)
    learner = one.config.learner.model_copy(update={"shard": shard})
    monkeypatch.setattr(one, "config", one.config.model_copy(update={"learner": learner}))
    for version in (1, 2):
        one.publish(version)
    assert proved == ([2] if proves else [])


def answering_probes(made, forward, off):
    """Let a worker's engine be ``off[version, look]`` away from its model in each log-prob; gives what was asked."""
    asked = []

    def probe(version, look):
        asked.append((version, look))
        group = made_up_group(forward, "probe", None, (0.0,) * 4)
        with torch.no_grad():
            scores = forward.score(made.learner.model, [Row(group.prompt_ids, c.token_ids) for c in group.completions])
        shifted = [
            (logps[mask] + off[version, look]).tolist() for logps, mask in zip(scores.logps, scores.mask, strict=True)
        ]
        answers = [
            replace(one, logprobs=tuple(logps), versions=(version,) * len(logps))
            for one, logps in zip(group.completions, shifted, strict=True)
        ]
        return [Sampled(replace(group, completions=tuple(answers)), ray.put(None), text="probe")]

    made.manager.probe = Remote(probe)
    return asked


def test_a_gap_is_looked_at_twice_and_its_limit_outlives_a_restart(worker, forward, tmp_path):
    """Before the first update 0.03: the limit is 0.12, and a resumed run that finds 0.2 at first stops by it."""
    made = worker(two_groups(forward), "max_steps=2", "save_every=2", "sync.probe_every=1")
    asked = answering_probes(made, forward, {(0, 0): 0.03, (1, 0): 0.5, (1, 1): 0.02, (2, 0): 0.04})
    made.run()
    assert asked == [(0, 0), (1, 0), (1, 1), (2, 0)]
    first, second = (json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert first["sync/second_looks"] == 1.0 and "sync/second_looks" not in second
    assert [line["sync/logprob_gap"] for line in (first, second)] == pytest.approx([0.02, 0.04], abs=1e-4)
    assert second["sync/gap_limit"] == pytest.approx(0.12, abs=1e-4)
    again = worker(
        two_groups(forward), "max_steps=3", "sync.probe_every=1", checkpoint=RunStore(str(tmp_path)).last_checkpoint()
    )
    asked = answering_probes(again, forward, {(2, 0): 0.2, (2, 1): 0.2})
    with pytest.raises(AbortError, match=r"differ by 0.2000 \(limit 0.1200\); both have version 2"):
        again.run()
    assert asked == [(2, 0), (2, 1)]


def test_time_in_which_weights_wait_for_rollouts_is_waiting(worker, forward, monkeypatch):
    one = worker(two_groups(forward), "rollouts.max_staleness=0")
    took_s = iter([0.0, 0.5])

    def settled():
        if (spent_s := next(took_s)) == 0:
            return None  # nothing was sent before
        time.sleep(spent_s)
        return Synced(drained_s=0.3, load_s=0.2, changed=1.0, busy_share=0.75)

    monkeypatch.setattr(one.transport, "publish", lambda model, version: time.sleep(0.1))
    monkeypatch.setattr(one.transport, "settled", settled)
    monkeypatch.setattr(one.transport, "sent_bytes", 12_000_000)
    one.numbers["seconds/waiting"] = 2.0
    one.publish(1)
    assert one.numbers["sync/bytes"] == 12_000_000.0
    assert one.numbers["seconds/waiting"] == pytest.approx(2.3)
    assert one.numbers["seconds/sync"] == pytest.approx(0.3, abs=0.1)  # to send, and 0.5 - 0.3 to load
    assert (one.numbers["rollout/busy_share"], one.numbers["seconds/engine_load"]) == (0.75, 0.2)


@pytest.mark.parametrize("fault", ["raised ValueError: no verb", "is inf"])
def test_a_failed_reward_stops_the_run_and_the_whole_batch_is_saved(worker, forward, tmp_path, fault):
    good, bad = two_groups(forward)
    rewards = (*bad.rewards[:3], FailedReward(float("nan"), {}, error=fault))
    bad = type(bad)(bad.question_id, bad.task, bad.prompt_ids, None, bad.completions, rewards)
    made = worker([good, bad], "max_steps=2")
    before = weights_of(made)
    with pytest.raises(AbortError) as stopped:
        made.run()
    path = tmp_path / "failed_batch_step_000001.parquet"
    assert f"the reward of v/1/AVTR/1 {fault}, not a finite number" in str(stopped.value)
    assert str(stopped.value).endswith(f"its batch is saved: {path}")
    rows = pq.read_table(path).to_pylist()
    assert [row["id"] for row in rows] == ["v/1/AVTR/0"] * 4 + ["v/1/AVTR/1"] * 4
    assert [row["error"] for row in rows] == [""] * 7 + [fault]
    assert rows[0]["reward"] == 1.0 and math.isnan(rows[7]["reward"])
    assert "v/1/AVTR/1" in rows[7]["prompt"] and rows[7]["tokens"] == len(bad.completions[3].token_ids)
    assert all(row["step"] == 1 and "v/1/AVTR/1" in row["reason"] for row in rows)
    assert same(before, weights_of(made))
    assert not (tmp_path / "metrics.jsonl").exists() and not (tmp_path / "model").exists()


@pytest.mark.parametrize("what", ["loss", "norm of the gradient"])
def test_what_is_not_finite_stops_the_run_before_the_optimizer(worker, forward, tmp_path, what):
    """In the second step: the first one is kept, the second one changes nothing."""
    groups = two_groups(forward)
    made = worker(groups, "max_steps=3")
    after_first = {}

    def on_step(step, numbers, told=made.learner._on_step):
        told(step, numbers)
        after_first.update(weights_of(made))
        if what == "loss":
            made.learner.forward_pass.temperature = math.nan
        else:
            made.learner.model.lm_head.weight.register_hook(lambda gradient: gradient * math.inf)

    made.learner._on_step = on_step
    with pytest.raises(AbortError) as stopped:
        made.run()
    path = tmp_path / "failed_batch_step_000002.parquet"
    assert f"the {what} is " in str(stopped.value)
    assert f"in step 2; no update was made of it; its batch is saved: {path}" in str(stopped.value)
    rows = pq.read_table(path).to_pylist()
    assert [row["reward"] for row in rows] == [1.0, 0.0, 0.5, 0.25] * 2
    assert {row["id"] for row in rows} == {"v/1/AVTR/0", "v/1/AVTR/1"} and {row["step"] for row in rows} == {2}
    assert same(after_first, weights_of(made))
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1]


def test_a_batch_of_several_workers_is_saved_whole_and_in_order(worker, forward, tmp_path):
    groups = [made_up_group(forward, f"q{i}", None, (float(i), 0.0, 0.0, 0.0), seed=i) for i in range(4)]
    made = worker(groups[:2])
    made.config = settings(tmp_path, "rollouts.prompts_per_step=4", "learner.workers=2")
    made.manager = serving(groups, workers=2)
    assert made.keep_batch("why") == f"its batch is saved: {tmp_path / 'failed_batch_step_000001.parquet'}"
    rows = pq.read_table(tmp_path / "failed_batch_step_000001.parquet").to_pylist()
    assert [row["id"] for row in rows[::4]] == ["q0", "q1", "q2", "q3"]
    made.store = RunStore(str(tmp_path / "gone"))
    made.config = settings(tmp_path / "gone")
    made.manager = serving(groups)
    assert made.keep_batch("why").startswith("its batch can't be saved: ")


@pytest.mark.parametrize("lora", [[], ["learner.lora.rank=4"]], ids=["whole", "adapter"])
def test_a_checkpoint_becomes_a_model(worker, forward, tmp_path, capsys, lora):
    made = worker(two_groups(forward), "max_steps=2", "save_every=1", "learner.rate=0.01", *lora)
    made.run()
    (tmp_path / "config.yaml").write_text(dump_config(made.config))
    (tmp_path / "validation.jsonl").write_text('{"step": 0, "reward": 9}\n{"step": 1, "reward": 3}\n')
    assert main(["export-model", str(tmp_path)]) == 0
    assert f"the model: {tmp_path / 'model-2'}" in capsys.readouterr().out
    at_the_end, last = (load_file(tmp_path / name / "model.safetensors") for name in ("model", "model-2"))
    assert last.keys() == at_the_end.keys()
    for name, value in at_the_end.items():
        torch.testing.assert_close(last[name], value, rtol=0, atol=1e-6)
    assert main(["export-model", str(tmp_path), "--best", "--to", str(tmp_path / "best")]) == 0
    first = load_file(tmp_path / "best" / "model.safetensors")
    assert any(not torch.equal(first[name], value) for name, value in at_the_end.items())
    assert main(["export-model", str(tmp_path), "--step", "7"]) == 2
    assert "no checkpoint of step 7; there are 1, 2" in capsys.readouterr().err


def fill_the_disk(monkeypatch, point, step):
    """Let one kind of write fail with ENOSPC in ``checkpoint-{step}``, after having written a part."""
    owner, name = {
        "model": ("transformers.modeling_utils", "safe_save_file"),
        "optimizer": ("torch", "save"),
        "state": ("transformers.trainer_callback.TrainerState", "save_to_json"),
        "mark": ("pathlib.Path", "write_text"),
    }[point]
    module, _, attribute = owner.rpartition(".") if owner[owner.rfind(".") + 1].isupper() else (owner, "", "")
    holder = __import__(module, fromlist=["_"])
    holder = getattr(holder, attribute) if attribute else holder
    plain = getattr(holder, name)

    def full(*args, **more):
        for one in (*args, *more.values()):
            if isinstance(one, str | Path) and f"checkpoint-{step}/" in f"{one}/":
                if not Path(one).is_dir():
                    Path(one).write_bytes(b"half")
                raise FULL
        return plain(*args, **more)

    monkeypatch.setattr(holder, name, full)


@pytest.mark.parametrize("point", ["model", "optimizer", "state", "mark"])
def test_a_disk_that_fills_at_a_checkpoint_leaves_the_one_before_it(worker, forward, tmp_path, monkeypatch, point):
    groups = two_groups(forward)
    given = ["max_steps=3", "save_every=1", "keep_checkpoints=1"]
    with monkeypatch.context() as patch:
        fill_the_disk(patch, point, step=2)
        made = worker(groups, *given)
        with pytest.raises(AbortError) as stopped:
            made.run()
    folder = tmp_path / "checkpoints"
    assert f"{folder / 'checkpoint-2'} can't be written (" in str(stopped.value)
    assert "No space left on device" in str(stopped.value) and "make room on the disk" in str(stopped.value)
    assert [path.name for path in folder.iterdir()] == ["checkpoint-1"]
    store = RunStore(str(tmp_path))
    kept = store.last_checkpoint()
    assert (kept.step, kept.position) == (1, Position(7, (9, 12)))
    worker(groups, *given, checkpoint=kept).run()
    assert store.last_checkpoint().name == "checkpoint-3"
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3] and lines[0]["rollout/skipped_videos"] == 1
    assert (tmp_path / "model" / "model.safetensors").exists()


def test_a_disk_that_fills_elsewhere_is_told_as_well(worker, forward, tmp_path, monkeypatch):
    def full(*_, **__):
        raise FULL

    made = worker(two_groups(forward), "max_steps=1")
    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", full)
        with pytest.raises(AbortError, match=f"{tmp_path} can't be written .*make room on the disk"):
            made.run()
    made = worker(two_groups(forward), "max_steps=1")
    monkeypatch.setattr(worker_module, "save_policy_model", full)
    with pytest.raises(AbortError, match=r"model can't be written .*--resume goes on"):
        made.run()


def test_other_errors_pass_a_write_unchanged():
    with pytest.raises(RuntimeError, match="size mismatch"), writing("x"):
        raise RuntimeError("size mismatch")
    with pytest.raises(AbortError, match=r"x can't be written .*PytorchStreamWriter failed"), writing("x"):
        raise RuntimeError("PytorchStreamWriter failed writing file data/3")


_LIMITED = """
import sys
from pathlib import Path
import resource
from ravst_ray.config.train import LearnerConfig
from ravst_ray.errors import AbortError
from ravst_ray.training.position import Position
from ravst_ray.training.forward import VideoForward
from ravst_ray.training.arguments import trainer_arguments
from ravst_ray.training.learner import GRPOLearner
from ravst_ray.training.policy_loading import load_policy
from ravst_ray.training.run_store import Checkpoint, RunStore
from tests.tiny_policies import made_up_group

model, out = sys.argv[1], Path(sys.argv[2])
config = LearnerConfig(micro_batch=4, dtype="float32")
store = RunStore(str(out))
for limit in ("model.safetensors", "optimizer.pt", None):
    policy, processor, _, family = load_policy(model, config)
    forward = VideoForward(processor, family)
    groups = [made_up_group(forward, "q", None, (1.0, 0.0, 0.5, 0.25))]

    def after_save(folder, step):
        store.mark_whole(Checkpoint(folder.name, Position(5), store.upload(folder.name)), keep=1)
        if limit:  # the next checkpoint's file is cut off by the kernel in its middle
            size = (folder / limit).stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, resource.RLIM_INFINITY))

    sizes = {"rows": 4, "group_size": 4, "max_tokens": 16, "max_steps": 4}
    args = trainer_arguments(config, out / "checkpoints", **sizes, seed=0, save_every=1)
    learner = GRPOLearner(
        policy, args, processor, family, lambda step: groups, temperature=1.0, frozen_vision=True, after_save=after_save
    )
    start = store.last_checkpoint()
    try:
        learner.train(resume_from_checkpoint=str(store.prepare(start)) if start else None)
        message = "done"
    except AbortError as error:
        message = str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print("TOLD", sorted(one.name for one in (out / "checkpoints").iterdir()), message, flush=True)
"""


def test_a_write_that_the_kernel_cuts_off_leaves_the_checkpoint_before(policy, tmp_path):
    """Real writes that end in the middle of a file: of the weights (safetensors), then of Adam's moments (torch)."""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(policy), str(tmp_path)],
        cwd=LAPTOP.parents[2],
        capture_output=True,
        text=True,
        timeout=280,
    )
    told = [line for line in done.stdout.splitlines() if line.startswith("TOLD")]
    assert len(told) == 3, done.stderr[-4000:]
    assert told[0].startswith("TOLD ['checkpoint-1']") and "checkpoint-2 can't be written (" in told[0]
    assert told[1].startswith("TOLD ['checkpoint-2']") and "checkpoint-3 can't be written (" in told[1]
    assert told[2] == "TOLD ['checkpoint-4'] done"


class WorkerHealthCheckFailedError(Exception):
    """Named as Ray Train names the end of a worker's process."""


def test_why_ray_train_gave_up_is_told():
    lost, died = RuntimeError("gloo: connection closed"), WorkerHealthCheckFailedError("the actor died")
    frames = 'ray::RayTrainWorker.poll() (pid=1)\n  File "a.py", line 1, in f\nValueError: no such layer'
    raised = WorkerHealthCheckFailedError(f"A worker died\n{frames}")
    ours = RuntimeError("Traceback …\nravst_ray.errors.AbortError: the loss is nan in step 3")
    for failures, kind, message in (
        ({0: lost, 1: died}, WorkerDiedError, "learner worker 1 died"),
        ({0: raised}, WorkerDiedError, "learner worker 0 died of ValueError: no such layer (in RayTrainWorker)"),
        ({0: lost, 1: died, 2: ours}, AbortError, "the loss is nan in step 3"),
        ({0: lost}, AbortError, "RuntimeError: gloo: connection closed"),
        ({0: lost, 1: ConfigError("two lines\nof it")}, ConfigError, "two lines\nof it"),
    ):
        error = RuntimeError("failed")
        error.worker_failures = failures
        cause = cause_of(error)
        assert type(cause) is kind and str(cause) == message
    assert str(cause_of(RuntimeError("no controller"))) == "RuntimeError: no controller"


def test_an_actor_that_ended_with_its_node_is_no_end_of_a_run():
    gone = {"error_message": "The actor died because its node has died. Node Id: 4f", "never_started": True}
    died = ActorDiedError(ActorDiedErrorContext(class_name="RolloutManager", actor_id=b"\1" * 16, **gone))
    said = "the process of RolloutManager was lost with its node"
    assert type(ended_with(died)) is WorkerDiedError and str(ended_with(died)) == said
    by_train = RuntimeError("Training failed due to controller error")
    by_train.controller_failure = died
    assert type(cause_of(by_train)) is WorkerDiedError
    lost = ActorUnavailableError("RpcError", b"\1" * 16)
    seen_by_another = RayTaskError("RolloutManager.start", f"ray::RolloutManager.start()\n{lost}", lost)
    assert type(ended_with(seen_by_another.as_instanceof_cause())) is AbortError
    refused = RayTaskError("__init__", 'ray::A.__init__()\n  File "a.py", line 1\nValueError: no', ValueError("no"))
    assert str(ended_with(ActorDiedError(refused))) == "ValueError: no (in A)"


@pytest.fixture
def attempts(monkeypatch, policy, tmp_path, world, local_ray):
    """Runs ``train`` with the outcomes of its attempts given: None, or what is raised; gives their checkpoints."""
    answer = render([ObjectAnswer("red ball", (1.0, 3.0))])
    name = min(world.videos.glob("*.mp4")).stem
    path = tmp_path / "questions.json"
    path.write_text(dump_questions([QAPair(f"{name}/1/AVTR/0", name, 1, "AVTR", "When?", answer)], {name: 6.0}))

    def run(outcomes, *more):
        began = []

        def attempt(config, checkpoint, asked_to_stop, console):
            began.append(checkpoint.name if checkpoint else None)
            folder = tmp_path / "out" / "checkpoints" / f"checkpoint-{len(began) * 2}"
            folder.mkdir(parents=True, exist_ok=True)
            RunStore(config.output).mark_whole(Checkpoint(folder.name, Position()), keep=9)
            outcome = outcomes[len(began) - 1]
            if outcome in ("stop", "stopped"):
                asked_to_stop.set()
                outcome = WorkerDiedError("learner worker 0 died") if outcome == "stop" else None
            if outcome:
                raise outcome

        monkeypatch.setattr(loop, "_attempt", attempt)
        given = [f"model={policy}", f"data.annotations={path}", f"data.videos={world.videos}", *more]
        try:
            loop.train(settings(tmp_path / "out", *given), Console(quiet=True))
            return began, None
        except AbortError as error:
            return began, str(error)

    return run


def test_a_run_whose_worker_died_begins_anew_at_its_last_checkpoint(attempts):
    died = WorkerDiedError("learner worker 0 died")
    assert attempts([died, None]) == ([None, "checkpoint-2"], None)


def test_a_worker_that_dies_too_often_ends_the_run_and_says_how_it_goes_on(attempts):
    died = WorkerDiedError("learner worker 0 died")
    began, message = attempts([died] * 3, "learner.max_restarts=2")
    assert began == [None, "checkpoint-2", "checkpoint-4"]
    assert message == (
        "learner worker 0 died, restarts used: 2 (learner.max_restarts = 2); the same command with --resume goes on "
        "from checkpoint-6"
    )


@pytest.mark.parametrize(
    ("steps", "message"),
    [(20, "stopped after step 2 of 20; the same command with --resume goes on"), (2, None)],
    ids=["in its middle", "at its end"],
)
def test_a_run_that_was_asked_to_stop_says_how_it_goes_on(attempts, steps, message):
    assert attempts(["stopped"], f"max_steps={steps}") == ([None], message)


@pytest.mark.parametrize("outcome", ["stop", AbortError("the loss is nan")])
def test_neither_a_run_that_is_to_stop_nor_one_with_an_error_of_its_own_begins_anew(attempts, outcome):
    began, message = attempts([outcome])
    assert began == [None]
    assert message.startswith("learner worker 0 died" if outcome == "stop" else "the loss is nan")


def test_a_failed_reward_survives_the_way_to_the_learner(local_ray):
    back = ray.get(ray.put(FailedReward(float("nan"), {"format": 1.0}, {}, 2.0, "raised KeyError: x")))
    assert isinstance(back, Reward) and (back.parts, back.maximum, back.error) == (
        {"format": 1.0},
        2.0,
        "raised KeyError: x",
    )


_CHILD_AND_PARENT = """
import multiprocessing, os, time
from ravst_ray.policy.vllm_plugin import register

def engine(told):
    register()
    told.send(os.getpid())
    time.sleep(600)

if __name__ == "__main__":
    register()  # nobody's child: nothing to do
    here, there = multiprocessing.Pipe()
    multiprocessing.get_context("spawn").Process(target=engine, args=(there,)).start()
    print(here.recv(), flush=True)
    time.sleep(600)
"""


@pytest.mark.faults
def test_a_process_of_an_engine_ends_with_the_one_that_started_it(tmp_path):
    (tmp_path / "parent.py").write_text(_CHILD_AND_PARENT)
    with subprocess.Popen([sys.executable, str(tmp_path / "parent.py")], stdout=subprocess.PIPE, text=True) as parent:
        engine = psutil.Process(int(parent.stdout.readline()))
        assert engine.is_running()
        parent.kill()
        assert psutil.wait_procs([engine], timeout=30)[1] == []
