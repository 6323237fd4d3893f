"""GRPO from end to end: real vLLM, real Ray Train, a random policy that is paid for long answers."""

import json
import os
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pyarrow.parquet as pq
import pytest

from ravst_ray.cli import main
from ravst_ray.config.base import dump_config, load_config
from ravst_ray.config.train import TrainConfig
from ravst_ray.core.answers import ObjectAnswer, render
from ravst_ray.datasets.ravst_json import dump_questions
from ravst_ray.datasets.tasks import read_tasks
from ravst_ray.errors import AbortError, ConfigError
from ravst_ray.records import QAPair
from ravst_ray.reports.run_folder import read_run
from ravst_ray.tasks.rubric import Reward
from ravst_ray.training import loop
from ravst_ray.training.groups import Completion, Group
from ravst_ray.training.prompts import PromptOrder
from ravst_ray.training.records import RunRecord, group_numbers
from ravst_ray.training.run_store import COMPLETE, RunStore
from ravst_ray.training.weights import check_prompt
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
        "max_steps=5",
        "save_every=2",
        "keep_checkpoints=5",
        "rollouts.max_staleness=0",
        "rollouts.prompts_per_step=2",
        "rollouts.group_size=4",
        "rollouts.max_tokens=160",  # long enough that a fifth of them end in time: a group then has something to learn
        "rollouts.num_cpus=0.5",
        "learner.micro_batch=4",
        "learner.rate=0.003",
        "learner.schedule=constant",
        "learner.warmup_steps=0",
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


def wait_for(condition, process, log_path, limit_s=900.0):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert process.poll() is None, log_path.read_text()[-6000:]
        assert time.monotonic() < deadline, log_path.read_text()[-6000:]
        time.sleep(0.2)


def process_of(run, name):
    """The one Ray worker of a run whose process has this name."""
    children = psutil.Process(run.pid).children(recursive=True)
    (found,) = [one for one in children if (one.cmdline() or [""])[0].startswith(f"ray::{name}")]
    return found


def name_of(process):
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return "Agent"


def rollouts(output):
    found = {}
    for path in sorted((output / "rollouts").glob("*.parquet")):
        for row in pq.read_table(path).to_pylist():
            found.setdefault(row["step"], []).append((row["id"], row["token_ids"], row["completion"], row["reward"]))
    return found


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.timeout(3000)
def test_a_run_survives_its_actor_its_driver_and_its_learner_and_goes_on_as_if_nothing_had_been(data, tmp_path):
    model = tiny_policy(tmp_path / "policy", seed=2)
    output, log_path = tmp_path / "out", tmp_path / "log.txt"
    given = arguments(data, model, output, "eval_every=2", f"validation.annotations={data[0]}", "validation.limit=5")
    third = output / "rollouts" / "step_000003.parquet"

    # An engine dies; another takes its prompts. Then the driver dies, and all that it started with it.
    run = start(given, log_path)
    try:
        wait_for(lambda: len(steps(output)) >= 1, run, log_path)
        process_of(run, "RolloutActor").kill()
        started = set()

        def learned_three_steps():
            started.update(psutil.Process(run.pid).children(recursive=True))
            return third.exists()

        wait_for(learned_three_steps, run, log_path)
    finally:
        run.kill()
    ours = [one for one in started if not name_of(one).endswith("Agent")]  # Ray's agents take over a minute
    assert psutil.wait_procs(ours, timeout=60)[1] == []
    lines, whole = steps(output)[:3], {step: rows for step, rows in rollouts(output).items() if step <= 3}
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert lines[-1]["rollout/restarts"] == 1
    assert lines[-1]["rollout/skipped_videos"] == 1
    assert all(line["sync/logprob_gap"] < 1e-3 and line["staleness/mean"] == 0 for line in lines)
    assert any(line["grad_norm"] > 0 for line in lines)
    assert {"reward/mean", "reward/format", "reward/object", "reward/temporal", "reward/spatial"} <= lines[0].keys()
    assert {step: len(rows) for step, rows in whole.items()} == {1: 8, 2: 8, 3: 8}

    # It was writing a checkpoint: the torn one is passed over. Step 3 comes again as it was; then its learner dies,
    # and the run begins anew at step 2 by itself.
    torn = output / "checkpoints" / "checkpoint-4"
    torn.mkdir(exist_ok=True)
    for folder in (torn, torn.with_name("checkpoint-5")):  # steps are short: it may have come as far as that
        (folder / COMPLETE).unlink(missing_ok=True)
    shutil.rmtree(output / "model", ignore_errors=True)
    third.unlink()
    run = start(given, log_path, "--resume")
    try:
        wait_for(third.exists, run, log_path)
        process_of(run, "RayTrainWorker").kill()
        first_try = rollouts(output)[3]
        third.unlink()
        wait_for(third.exists, run, log_path)
        run.terminate()
        assert run.wait(timeout=900) == 1, log_path.read_text()[-6000:]
    finally:
        run.kill()
    said = log_path.read_text()
    assert "learner worker 0 died; the run begins anew at checkpoint-2" in said
    stopped_after = int(RunStore(str(output)).last_checkpoint().name.removeprefix("checkpoint-"))
    assert f"stopped after step {stopped_after} of 5; the same command with --resume goes on" in said
    assert stopped_after in (3, 4) and not (output / "model").exists()

    # SIGTERM has saved and ended it; the rest is done once more.
    run = start(given, log_path, "--resume")
    try:
        assert run.wait(timeout=900) == 0, log_path.read_text()[-6000:]
    finally:
        run.kill()
    again = steps(output)
    assert [line["step"] for line in again] == [1, 2, 3, 4, 5]
    made = rollouts(output)
    assert {step: made[step] for step in (1, 2, 3)} == whole and first_try == whole[3]
    assert len({row[0] for rows in made.values() for row in rows}) == 10  # 5 steps of 2 questions, none twice
    for one, other in zip(again, lines, strict=False):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)
        assert one["reward/mean"] == other["reward/mean"]
    assert RunStore(str(output)).last_checkpoint().name == "checkpoint-5"
    held_out = [json.loads(line) for line in (output / "validation.jsonl").read_text().splitlines()]
    assert [row["step"] for row in held_out] == [0, 2, 4]
    for row in held_out[1:]:
        told = again[row["step"] - 1]
        assert told["validation/reward"] == pytest.approx(row["reward"]) and told["seconds/validation"] > 0
        assert told["validation/trivial/AVTR/m_tIoU"] > 0
    from transformers import AutoModelForImageTextToText, AutoProcessor

    AutoModelForImageTextToText.from_pretrained(output / "model")
    AutoProcessor.from_pretrained(output / "model")


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


def test_a_learner_that_sees_another_prompt_stops_the_run():
    group = Group("q1", "AVTR", (1, 2, 3), None, ())
    check_prompt(group, [1, 2, 3])
    with pytest.raises(AbortError, match=r"q1: .* \(3 and 3 tokens, from token 1 on\)"):
        check_prompt(group, [1, 9, 3])
    with pytest.raises(AbortError, match=r"\(3 and 2 tokens, from token 2 on\)"):
        check_prompt(group, [1, 2])


@pytest.mark.parametrize("resumed", [0, 2])
def test_what_a_later_step_wrote_is_dropped_on_resume(tmp_path, resumed):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 1}\n{"step": 2}\n{"step": 3}\n{"ste')
    record = RunRecord(tmp_path, ["tensorboard"], resumed=resumed, settings={})
    assert record.write(resumed + 1, {"loss": 0.5}) == {"step": resumed + 1, "loss": 0.5}
    assert [line["step"] for line in steps(tmp_path)] == list(range(1, resumed + 2))
    record.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    # TensorBoard forgets what an earlier try wrote from the step on at which a session starts.
    assert [event.step for event in tensorboard_events(events) if event.session_log.status == 1] == [resumed + 1]
    assert [event.summary.value[0].tag for event in tensorboard_events(events) if event.summary.value] == ["loss"]


def test_wandb_and_mlflow_go_on_with_the_same_run_after_a_restart(tmp_path, monkeypatch):
    """Stand-ins with the signatures of the two packages' functions: neither is a dependency."""
    begun, told = [], []

    def init(*, project, dir, config, id, resume):
        begun.append(("wandb", id, resume))
        log = lambda numbers, step: told.append(("wandb", step, numbers))  # noqa: E731
        return SimpleNamespace(id=id or "w1", log=log, finish=lambda: None)

    def start_run(run_id=None, run_name=None):
        begun.append(("mlflow", run_id))
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id or "m1"))

    def log_metrics(metrics, step):
        told.append(("mlflow", step, metrics))

    mlflow = SimpleNamespace(start_run=start_run, log_metrics=log_metrics, end_run=lambda: None)
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    for resumed in (0, 2):
        record = RunRecord(tmp_path, ["wandb", "mlflow"], resumed=resumed, settings={})
        record.write(resumed + 1, {"loss": 0.5})
        record.close()
    assert begun == [("wandb", None, "allow"), ("mlflow", None), ("wandb", "w1", "allow"), ("mlflow", "m1")]
    assert told == [(name, step, {"loss": 0.5}) for step in (1, 3) for name in ("wandb", "mlflow")]


def tensorboard_events(path):
    """The events of a file: each after its length and a checksum, and before another."""
    from tensorboardX.proto.event_pb2 import Event

    data, at = path.read_bytes(), 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        yield Event.FromString(data[at + 12 : at + 12 + length])
        at += 16 + length


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["rollouts.prompts_per_step=3", "learner.workers=2"], "no multiple of learner.workers"),
        (["learner.micro_batch=3"], "no multiple of learner.micro_batch"),
        (["learner.iterations=2", "save_every=3"], "save_every is no multiple of learner.iterations"),
        (["rollouts.max_staleness=1", "learner.correct_importance=false"], "needs learner.correct_importance"),
        (["rollouts.top_p=0.9"], "rollouts.top_p below 1 needs learner.correct_importance=false"),
        (["rollouts.overlong_tokens=161"], "rollouts.overlong_tokens = 161 is above max_tokens"),
        (["rollouts.typo=1"], "rollouts.typo: unknown key"),
        (["sinks=[mlflow]"], "sinks: mlflow is not installed; pip install mlflow"),
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


def test_a_run_goes_on_only_as_it_began(data, tmp_path, capsys):
    output = tmp_path / "out"
    folder = output / "checkpoints" / "checkpoint-2"
    folder.mkdir(parents=True)
    (folder / COMPLETE).write_text('{"step": 2, "place": 4}')
    given = arguments(data, tiny_policy(tmp_path / "p"), output)
    file = str(CONFIGS / "train_laptop.yaml")
    (output / "config.yaml").write_text(dump_config(loop._absolute(load_config(TrainConfig, file, given))))
    assert main(["train", "--config", file, "--resume", *given, "seed=5", "rollouts.prompts_per_step=4"]) == 2
    said = capsys.readouterr().err
    assert "can't go on from checkpoint-2: seed was 0 and is 5; rollouts.prompts_per_step was 2 and is 4" in said
    # More steps, and another place to write down what happens, change nothing of what it has learned.
    more = load_config(TrainConfig, file, [*given, "max_steps=9", "sinks=[]"])
    assert loop._begin(RunStore(str(output)), more, resume=True).position.place == 4
    # A checkpoint has no frozen towers, and the optimizer's state is of the weights that learned.
    learning = load_config(TrainConfig, file, [*given, "learner.freeze_vision=false", "learner.lora={}"])
    with pytest.raises(
        ConfigError, match=r"learner\.lora was None and .*; learner\.freeze_vision was True and is False"
    ):
        loop._begin(RunStore(str(output)), learning, resume=True)


def test_a_run_whose_micro_batches_cut_groups_goes_on_with_others(data, tmp_path):
    """As long as that was allowed it may have begun so."""
    output = tmp_path / "out"
    folder = output / "checkpoints" / "checkpoint-2"
    folder.mkdir(parents=True)
    (folder / COMPLETE).write_text('{"step": 2, "place": 4}')
    config = load_config(
        TrainConfig,
        CONFIGS / "train_laptop.yaml",
        [*arguments(data, "m", output), "rollouts.group_size=6", "learner.micro_batch=6"],
    )
    config = config.model_copy(update={"learner": config.learner.model_copy(update={"micro_batch": 4})})
    (output / "config.yaml").write_text(dump_config(loop._absolute(config)))
    config = config.model_copy(update={"learner": config.learner.model_copy(update={"micro_batch": 6})})
    assert read_run(output).config is not None
    assert loop._begin(RunStore(str(output)), config, resume=True).position.place == 4


def test_a_run_without_a_checkpoint_begins_anew_and_says_so(data, tmp_path, caplog):
    config = load_config(TrainConfig, CONFIGS / "train_laptop.yaml", arguments(data, "m", tmp_path / "out"))
    with caplog.at_level("WARNING"):
        assert loop._begin(RunStore(str(tmp_path / "out")), config, resume=True) is None
    assert "the run begins with step 1" in caplog.text
