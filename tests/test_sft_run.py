"""``ravst train-sft`` with real Ray Train on toy videos."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from ravst_ray.cli import main
from ravst_ray.core.answers import ObjectAnswer, render
from ravst_ray.datasets.ravst_json import dump_questions
from ravst_ray.records import QAPair
from ravst_ray.training.run_store import RunStore
from tests.tiny_policies import load_tiny, tiny_policy

LAPTOP = str(Path(__file__).parents[1] / "jobs" / "configs" / "sft_laptop.yaml")


def question(video, index):
    answer = render([ObjectAnswer("red ball", (1.0, 3.0))])
    return QAPair(f"{video}/1/AVTR/{index}", video, 1, "AVTR", f"When does it sound? {index}", answer)


@pytest.fixture
def given(world, tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    shutil.copy(sorted((world.root / "videos").glob("*.mp4"))[0], videos / "a.mp4")
    (videos / "broken.mp4").write_bytes(b"no video")
    path = tmp_path / "questions.json"
    path.write_text(dump_questions([question(v, i) for v in ("a", "broken") for i in range(4)], {"a": 6, "broken": 6}))
    model = tiny_policy(tmp_path / "policy")
    return [
        f"data.annotations={path}",
        f"data.videos={videos}",
        f"model={model}",
        f"output={tmp_path / 'out'}",
        "sft.batch=4",
        "sft.micro_batch=4",
        "sft.max_steps=6",
        "sft.rate=0.003",
        "save_every=4",
    ]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_true_answers_are_learned_and_the_model_is_saved(given, tmp_path, local_ray):
    assert main(["train-sft", "--config", LAPTOP, *given]) == 0
    out = tmp_path / "out"
    losses = [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 6
    assert losses[0] == pytest.approx(6.2, abs=0.5)  # ln 512: a random model's guess
    assert losses[-1] < losses[0] - 1.0
    before, after = (load_tiny(folder)[0].state_dict() for folder in (tmp_path / "policy", out / "model"))
    assert any((before[name] != after[name]).any() for name in before)
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    # Half of the questions are on a video that can't be shown: others stand in, and it is counted.
    assert sum(record["examples/replaced"] for record in records) > 0
    assert [one.step for one in RunStore(str(out)).whole_checkpoints()] == [4, 6]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_run_that_goes_on_ends_as_one_that_never_stopped(given, tmp_path, capsys, local_ray):
    """As after a kill in step 5: the last checkpoint is that of step 4, the record is ahead of it."""
    assert main(["train-sft", "--config", LAPTOP, *given, "save_every=2"]) == 0
    out = tmp_path / "out"
    whole, losses = load_tiny(out / "model")[0].state_dict(), (out / "metrics.jsonl").read_text().splitlines()
    shutil.rmtree(out / "model")
    shutil.rmtree(out / "checkpoints" / "checkpoint-6")
    assert main(["train-sft", "--config", LAPTOP, *given, "save_every=2"]) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert main(["train-sft", "--config", LAPTOP, "--resume", *given, "save_every=2", "sft.seed=5"]) == 2
    assert "can't go on from checkpoint-4: sft.seed was 0 and is 5" in capsys.readouterr().err
    assert main(["train-sft", "--config", LAPTOP, "--resume", *given, "save_every=2"]) == 0
    resumed = load_tiny(out / "model")[0].state_dict()
    for name, value in whole.items():
        assert torch.allclose(value, resumed[name], atol=1e-6), name
    again = (out / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in again] == [1, 2, 3, 4, 5, 6]
    assert json.loads(again[-1])["loss"] == pytest.approx(json.loads(losses[-1])["loss"], abs=1e-6)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_workers_with_a_sharded_model_learn_as_one(given, tmp_path, local_ray):
    """Each has half of the slots of a step, and those that stand in are of the same slots."""
    given = [*given, "sft.max_steps=2", "save_every=1"]
    two = [*given, f"output={tmp_path / 'two'}", "workers=2", "num_cpus=0.5", "sft.micro_batch=2", "sft.shard=true"]
    told = []
    for overrides, out in ((given, "out"), (two, "two")):
        assert main(["train-sft", "--config", LAPTOP, *overrides]) == 0
        told.append([json.loads(line) for line in (tmp_path / out / "metrics.jsonl").read_text().splitlines()])
    for one, other in zip(*told, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-4)
    assert [one.step for one in RunStore(str(tmp_path / "two")).whole_checkpoints()] == [1, 2]


def test_no_readable_video_ends_the_run(given, tmp_path, capsys, local_ray):
    (tmp_path / "videos" / "a.mp4").write_bytes(b"no video either")
    assert main(["train-sft", "--config", LAPTOP, *given]) == 1
    assert "no video can be read" in capsys.readouterr().err
