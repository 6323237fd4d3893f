"""GRPO from end to end: real vLLM, real Ray Train, a random policy that is paid for long answers."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import ray

from ravst_ray.cli import main
from ravst_ray.config.base import load_config
from ravst_ray.config.train import TrainConfig
from ravst_ray.core.answers import ObjectAnswer, render
from ravst_ray.datasets.ravst_json import dump_questions
from ravst_ray.datasets.tasks import read_tasks
from ravst_ray.errors import AbortError, ConfigError
from ravst_ray.records import QAPair
from ravst_ray.rewards.rubric import Reward
from ravst_ray.training import loop
from ravst_ray.training.groups import Completion, Group
from ravst_ray.training.prompts import PromptOrder
from ravst_ray.training.records import RunRecord, group_numbers
from ravst_ray.training.weights import check_gap
from tests.tiny_policies import tiny_policy

CONFIGS = Path(__file__).parents[1] / "jobs" / "configs"


def question(video, index):
    answer = render([ObjectAnswer("red ball", (1.0, 3.0))])
    return QAPair(f"{video}/1/AVTR/{index}", video, 1, "AVTR", f"When does the red ball sound? {index}", answer)


@pytest.fixture
def data(world, tmp_path):
    """Five questions each about two toy videos and one that can't be read."""
    videos = tmp_path / "videos"
    videos.mkdir()
    for name, source in zip("ab", sorted((world.root / "videos").glob("*.mp4")), strict=False):
        shutil.copy(source, videos / f"{name}.mp4")
    (videos / "broken.mp4").write_bytes(b"no video")
    pairs = [question(name, index) for name in ("a", "b", "broken") for index in range(5)]
    path = tmp_path / "questions.json"
    path.write_text(dump_questions(pairs, dict.fromkeys(("a", "b", "broken"), 6.0)))
    return path, videos


def arguments(data, model, output, *more):
    return [
        f"data.annotations={data[0]}",
        f"data.videos={data[1]}",
        f"model={model}",
        f"output={output}",
        "max_steps=4",
        "save_every=2",
        "keep_checkpoints=5",
        "rollouts.max_staleness=0",
        "rollouts.prompts_per_step=2",
        "rollouts.group_size=4",
        "rollouts.max_tokens=24",
        "rollouts.num_cpus=0.5",
        "learner.micro_batch=4",
        "learner.rate=0.003",
        "learner.num_cpus=0.5",
        # A random policy earns nothing else: an answer that doesn't end in time is paid.
        "reward.truncated_reward=1.0",
        *more,
    ]


def start(given, log_path, *flags):
    command = [sys.executable, "-m", "ravst_ray.cli", "train", "--config", str(CONFIGS / "train_laptop.yaml"), *flags]
    environment = {**os.environ, "RAY_worker_niceness": "0"}
    return subprocess.Popen([*command, *given], stdout=log_path.open("wb"), stderr=subprocess.STDOUT, env=environment)


def steps(output):
    path = output / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(condition, process, log_path, limit_s=400.0):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert process.poll() is None, log_path.read_text()[-6000:]
        assert time.monotonic() < deadline, log_path.read_text()[-6000:]
        time.sleep(0.2)


def rollouts(output):
    found = {}
    for path in sorted((output / "rollouts").glob("*.parquet")):
        for row in pq.read_table(path).to_pylist():
            found.setdefault(row["step"], []).append((row["id"], row["completion"], row["tokens"], row["reward"]))
    return found


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_a_run_survives_its_actor_and_its_driver_and_goes_on_as_if_nothing_had_been(data, tmp_path):
    model = tiny_policy(tmp_path / "policy", seed=2)
    straight, log_path = tmp_path / "straight", tmp_path / "log.txt"
    given = arguments(data, model, straight)
    run = start(given, log_path)
    try:
        wait_for(lambda: len(steps(straight)) >= 1, run, log_path)
        (actor,) = [
            one
            for one in psutil.Process(run.pid).children(recursive=True)
            if one.cmdline() and one.cmdline()[0].startswith("ray::RolloutActor")
        ]
        actor.kill()
        assert run.wait(timeout=500) == 0, log_path.read_text()[-6000:]
    finally:
        run.kill()
    lines = steps(straight)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert lines[-1]["rollout/restarts"] == 1
    assert lines[-1]["rollout/skipped_videos"] == 1
    assert all(line["sync/logprob_gap_mean"] < 1e-3 and line["staleness/mean"] == 0 for line in lines)
    assert any(line["loss"] != 0 for line in lines)
    assert {"reward/mean", "reward/format", "reward/object", "reward/temporal", "reward/spatial"} <= lines[0].keys()
    whole = rollouts(straight)
    assert {step: len(rows) for step, rows in whole.items()} == {1: 8, 2: 8, 3: 8, 4: 8}
    assert len({row[0] for rows in whole.values() for row in rows}) == 8  # 4 steps of 2 questions, none twice
    from transformers import AutoModelForImageTextToText, AutoProcessor

    AutoModelForImageTextToText.from_pretrained(straight / "model")
    AutoProcessor.from_pretrained(straight / "model")

    # The same run as a driver leaves it that was killed after step 3: a torn checkpoint is passed over.
    again = tmp_path / "again"
    shutil.copytree(straight, again)
    shutil.rmtree(again / "model")
    (again / "checkpoints" / "checkpoint-4" / "complete.json").unlink()
    for path in (again / "rollouts").glob("step_00000[34].parquet"):
        path.unlink()
    run = start(arguments(data, model, again), log_path, "--resume")
    try:
        assert run.wait(timeout=500) == 0, log_path.read_text()[-6000:]
    finally:
        run.kill()
    resumed = steps(again)
    assert [line["step"] for line in resumed] == [1, 2, 3, 4]
    assert rollouts(again) == whole
    for one, other in zip(resumed, lines, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)
        assert one["reward/mean"] == other["reward/mean"]


def test_every_epoch_asks_each_question_once_in_its_own_order(data):
    order = PromptOrder(read_tasks(*data), seed=1)
    first, second = ([order.at(place).pair.qa_id for place in range(e * 15, e * 15 + 15)] for e in (0, 1))
    assert len(order) == 15 and sorted(first) == sorted(second) == sorted({*first})
    assert first != second
    assert [PromptOrder(read_tasks(*data), seed=1).at(place).pair.qa_id for place in range(15)] == first


def test_the_numbers_of_a_step_by_hand():
    def completion(length, version, cut):
        return Completion((1,) * length, (0.0,) * length, (version,) * length, "", cut)

    parts = {"format": 1.0, "object": 0.5, "temporal": 0.25, "spatial": 0.0}
    good, bad = Reward(1.5, parts), Reward(0.5, dict.fromkeys(parts, 0.0), {"no_answer": 1})
    groups = [
        Group("q1", "AVTR", (), None, (completion(4, 2, False), completion(8, 3, True)), (good, bad)),
        Group("q2", "AVSR", (), None, (completion(6, 3, False), completion(6, 3, False)), (bad, bad)),
    ]
    numbers = group_numbers(groups, version=3)
    assert numbers["reward/mean"] == (1.5 + 0.5 * 3) / 4
    assert numbers["AVTR/reward/mean"] == 1.0
    assert numbers["reward/object"] == 0.5 / 4
    assert numbers["completion/tokens"] == 6 and numbers["completion/longest"] == 8
    assert numbers["completion/truncated"] == 0.25
    assert numbers["staleness/mean"] == 0.25  # one of four is one version old
    assert numbers["group/zero_variance"] == 0.5 and numbers["group/std"] == 0.25
    assert numbers["malformed/no_answer"] == 0.75


@pytest.mark.parametrize(("engine", "message"), [(2, "the engine is stale: it has version 2"), (3, "did not take")])
def test_a_gap_stops_the_run_and_says_who_is_behind(engine, message):
    check_gap(0.04, 0.05, engine, 3)
    with pytest.raises(AbortError, match=message):
        check_gap(0.06, 0.05, engine, 3)


def test_a_cluster_that_is_too_small_is_told_in_numbers(data, tmp_path, monkeypatch):
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": 1.0, "CPU": 8.0})
    more = ["learner.workers=2", "learner.num_gpus=1", "rollouts.actors=2", "rollouts.num_gpus=1"]
    config = load_config(TrainConfig, None, arguments(data, "m", tmp_path, *more))
    with pytest.raises(ConfigError, match="needs 4 GPUs: 2 learner \\+ 2 rollout; the cluster has 1"):
        loop.needs(config)


def test_what_a_later_step_wrote_is_dropped_on_resume(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 1}\n{"step": 2}\n{"step": 3}\n{"ste')
    record = RunRecord(tmp_path, ["tensorboard"], total=4, resumed=2, settings={})
    record.write(3, {"loss": 0.5})
    assert [line["step"] for line in steps(tmp_path)] == [1, 2, 3]
    assert list((tmp_path / "tensorboard").iterdir())


def test_only_whole_checkpoints_count(tmp_path):
    assert loop.last_checkpoint(tmp_path) is None
    for step, whole in ((9, True), (10, True), (11, False)):
        folder = tmp_path / "checkpoints" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        if whole:
            (folder / loop.COMPLETE).write_text("{}")
    assert loop.last_checkpoint(tmp_path).name == "checkpoint-10"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["rollouts.prompts_per_step=3", "learner.workers=2"], "no multiple of learner.workers"),
        (["learner.micro_batch=3"], "no multiple of learner.micro_batch"),
        (["rollouts.typo=1"], "rollouts.typo: unknown key"),
        (["model=/no/model"], "model: no model directory /no/model"),
    ],
)
def test_bad_settings_end_with_status_2(data, tmp_path, capsys, more, message):
    given = arguments(data, tiny_policy(tmp_path / "p"), tmp_path / "out", *more)
    assert main(["train", "--config", str(CONFIGS / "train_laptop.yaml"), *given]) == 2
    assert message in capsys.readouterr().err


def test_an_output_that_is_taken_is_refused(data, tmp_path, capsys):
    (tmp_path / "metrics.jsonl").write_text("")
    given = arguments(data, tiny_policy(tmp_path / "p"), tmp_path)
    assert main(["train", "--config", str(CONFIGS / "train_laptop.yaml"), *given]) == 2
    assert "holds a run already" in capsys.readouterr().err
