"""The tasks' registry, and a task of its own that goes the whole way: score, evaluate, predict, a training step."""

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import ray
import torch

from ravst_ray.config.base import load_config
from ravst_ray.config.rewards import EvaluateConfig, NamesConfig, RewardConfig
from ravst_ray.config.train import TrainConfig
from ravst_ray.config.video_llm import PredictConfig
from ravst_ray.datasets.questions import read_questions
from ravst_ray.datasets.tasks import read_tasks
from ravst_ray.errors import ConfigError
from ravst_ray.evaluation import predict
from ravst_ray.evaluation.evaluate import evaluate
from ravst_ray.evaluation.scoring import score_file
from ravst_ray.evaluation.tables import task_rows
from ravst_ray.media.clips import Clip
from ravst_ray.policy.prompts import question_prompt
from ravst_ray.policy.protocols import Completion, Generation
from ravst_ray.records import VideoView
from ravst_ray.tasks import TASKS, settled
from ravst_ray.tasks.protocols import Drawing, Task
from ravst_ray.tasks.rubric import Rubric
from ravst_ray.training import rollout
from ravst_ray.training.rollout import RolloutManager
from ravst_ray.training.weight_check import Held
from tests.test_learner import build, settings
from tests.tiny_policies import tiny_policy

LAPTOP = Path(__file__).parents[1] / "jobs" / "configs" / "train_laptop.yaml"
VIEW = VideoView(2, 1.0, 28, 28, 2.0, 28, 28)


@dataclass(frozen=True)
class Count:
    """A whole number, or None."""

    number: int | None
    malformed: dict = field(default_factory=dict)


class Counting(Task[Count]):
    """How many? What stands here is all that has to be written for a task."""

    name, title = "COUNT", "COUNT · how many"
    weights: ClassVar = {"format": 1.0, "near": 2.0}
    metrics = headline = ("exact",)
    trivial = ("always two",)
    published: ClassVar = {"A Model": {"exact": 12.5}}
    json_key = "Counting"

    def form(self, view, config):
        return ["Answer with #number#."]

    def parse(self, text):
        digits = text.partition("#")[2].partition("#")[0]
        return Count(int(digits)) if digits.isdecimal() else Count(None, {"no_number": 1})

    def render(self, answer):
        return f"#{answer.number}#"

    def parts(self, case):
        off = abs(case.true.number - case.predicted.number) if case.predicted.number is not None else 9
        return {"format": float(not case.predicted.malformed), "near": 1 / (1 + off)}

    def measure(self, true, predicted, names, config):
        return {"exact": float(true.number == predicted.number)}

    def trivial_answers(self, exam):
        return {"always two": {pair.qa_id: Count(2) for pair in exam.pairs if pair.task == self.name}}

    def drawing(self, answer):
        return Drawing()


@pytest.fixture
def counting(monkeypatch, tmp_path):
    """The task in the registry, and a file with two of its questions."""
    monkeypatch.setitem(TASKS, "COUNT", Counting())
    row = {"video": "v", "duration_s": 2.0, "task": "COUNT", "kind": "drums", "question": "How many drums?"}
    rows = [{**row, "id": f"v/{place}", "answer": f"#{number}#"} for place, number in enumerate((2, 5))]
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_it_is_asked_scored_and_weighed(counting, tmp_path):
    lines = [{"id": "v/0", "completion": "#4#"}, {"id": "v/1", "completion": "five"}]
    config = RewardConfig(names=NamesConfig(vectors=None), weights={"COUNT": {"near": 3.0}})
    score_file(write(tmp_path / "in.jsonl", lines), counting, tmp_path / "out.jsonl", config)
    first, second = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert (first["reward"], first["near"]) == (1 + 3 / 3, pytest.approx(1 / 3))
    assert second["reward"] == pytest.approx(3 / 10) and second["malformations"] == {"no_number": 1}
    assert question_prompt("COUNT", "How many?", VIEW, PredictConfig().prompt).endswith(
        "How many?\nAnswer with #number#."
    )


def test_it_is_evaluated_beside_its_trivial_answers(counting, tmp_path):
    lines = write(tmp_path / "p.jsonl", [{"id": "v/1", "prediction": "#5#"}])
    config = EvaluateConfig(names=NamesConfig(vectors=None), bootstrap=10)
    metrics = evaluate(lines, counting, tmp_path / "out", config)
    assert (metrics["COUNT"]["exact"], metrics["COUNT"]["n_missing"]) == (50.0, 1)
    assert metrics["groups"]["kind"]["drums"]["COUNT"]["n"] == 2
    assert [(kind, name, cells[0].partition(" ")[0]) for kind, name, cells in task_rows(metrics, "COUNT")] == [
        ("run", "this run", "50.00"),
        ("baseline", "always two", "50.00"),
        ("baseline", "the previous question's answer", "0.00"),
        ("paper", "A Model (paper)", "12.50"),
    ]
    assert "COUNT · how many" in (tmp_path / "out" / "table.md").read_text()


def test_it_is_predicted(counting, tmp_path, world, monkeypatch):
    """Frames of a real file; the engine is a stub that says what it was asked."""

    class Engine:
        def __init__(self, config):
            pass

        async def start(self):
            pass

        async def generate(self, text, clip, sampling):
            assert clip.frames.shape[0] == 2
            return Generation((1,), (Completion((7,), (), (), f"#2# {text}", False),))

    monkeypatch.setattr(predict, "VideoLLM", Engine)
    (tmp_path / "v.mp4").symlink_to(sorted((world.root / "videos").glob("*.mp4"))[0])
    config = load_config(PredictConfig, None, ["frames.max_frames=2"])
    rows = [{"state": json.dumps(predict.asdict(task))} for task in read_tasks(counting, tmp_path)]
    shown = predict.DecodeClips(config)(predict.pa.Table.from_pylist(rows, schema=predict.ROW))
    lines = [json.loads(text) for text in predict.AnswerQuestions(config)(shown).column("line").to_pylist()]
    assert [line["id"] for line in lines] == ["v/0", "v/1"]
    assert all(line["prediction"].endswith("How many drums?\nAnswer with #number#.") for line in lines)
    metrics = evaluate(write(tmp_path / "p.jsonl", lines), counting, tmp_path / "out", EvaluateConfig(plots=False))
    assert metrics["COUNT"]["exact"] == 50.0


class StubActor:
    """Says the numbers 0, 1, 2, 3."""

    def __init__(self, config):
        pass

    async def start(self, weights):
        pass

    async def quiet_s(self):
        return 0.0

    async def weights(self):
        return Held(0)

    async def sample(self, text, clip, sampling):
        assert "Answer with #number#." in text
        said = [Completion((30 + n, 31), (-6.4, -6.5), (0, 0), f"#{n}#", False) for n in range(sampling.n)]
        return Generation((5, 6), tuple(said))


def test_a_policy_learns_a_step_of_it(counting, tmp_path, monkeypatch, local_ray):
    async def decode(self, task):
        return ray.put(Clip(task.video_id, np.zeros((2, 28, 28, 3), np.uint8), 1.0)), VIEW

    monkeypatch.setattr(rollout, "RolloutActor", StubActor)
    monkeypatch.setattr(RolloutManager, "_decode", decode)
    given = [f"data.annotations={counting}", f"data.videos={tmp_path}", f"output={tmp_path}", "rollouts.group_size=4"]
    given += ["rollouts.prompts_per_step=2", "learner.micro_batch=4", "rollouts.num_cpus=0.1", "model=m"]

    async def sample():
        manager = RolloutManager(load_config(TrainConfig, LAPTOP, [*given, "prompt.state_grammar=true"]), 0, 0)
        await manager.start()
        return await asyncio.wait_for(manager.groups(0, 0), 120)

    made = asyncio.run(sample())
    # 1 for the form, and twice 1/(1 + how far off): of 2 and of 5
    assert sorted(group.totals for group in made.groups) == [
        pytest.approx((1 + 2 / 6, 1 + 2 / 5, 1 + 2 / 4, 1 + 2 / 3)),
        pytest.approx((1 + 2 / 3, 1 + 2 / 2, 3, 1 + 2 / 2)),
    ]
    assert made.numbers["COUNT/reward/near"] == pytest.approx(
        (1 / 6 + 1 / 5 + 1 / 4 + 1 / 3 + 1 / 3 + 1 / 2 + 1 + 1 / 2) / 8
    )
    learner = build(tiny_policy(tmp_path / "policy"), tmp_path, settings(), lambda step: made.groups)
    before = learner.model.lm_head.weight.detach().clone()
    learner.train()
    assert not torch.equal(before, learner.model.lm_head.weight)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"COUNTS": {"near": 1.0}}, r"^weights\.COUNTS: 'COUNTS' is no task; tasks are .*, COUNT$"),
        (
            {"COUNT": {"nearer": 1.0}},
            r"^weights\.COUNT\.nearer: COUNT has no such part; its parts are ",
        ),
        ({"COUNT": {"near": 0, "format": 0}}, "all weights are 0"),
    ],
)
def test_weights_for_what_there_is_not_are_refused(counting, weights, message):
    with pytest.raises(ConfigError, match=message):
        Rubric(RewardConfig(weights=weights))


def test_every_weight_stands_in_a_settled_configuration(counting):
    config = load_config(EvaluateConfig, None, ["weights.COUNT.near=0.5"])
    weights = settled(config).weights
    assert weights["COUNT"] == {"format": 1.0, "near": 0.5} and list(weights) == list(TASKS)
    assert all(weights[name] == dict(task.weights) for name, task in TASKS.items() if name != "COUNT")


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_a_task_says_all_that_is_asked_of_it(task):
    nothing = task.nothing()
    rubric = Rubric()
    nodes = '{"frames":[{"t":0,"nodes":[{"id":"a.1","pos":[0.5,0.5]},{"id":"b.1","pos":[0,0]}]}]}'
    truths = {"STR": f"<think><graph>{nodes}</graph></think><answer>B</answer>"}
    usual = "<answer><object>dog</object><when>[0, 4]</when><where>\n0: [0, 0, 9, 9]\n</where></answer>"
    truth = truths.get(task.name, usual)
    parts, _ = rubric.parts(task.name, truth, truth)
    assert set(parts) == set(task.weights) and all(0 <= score <= 1 for score in parts.values())
    assert set(task.headline) <= set(task.metrics)
    true = task.parse(truth)
    assert task.parse(task.render(true)) == true and not true.malformed
    assert all(v == pytest.approx(1) for v in task.measure(true, true, rubric.names, RewardConfig()).values())
    assert set(task.measure(true, nothing, rubric.names, RewardConfig()).values()) == {0.0}
    assert task.form(VIEW, PredictConfig().prompt) and set(true.malformed) <= set(task.malformations)


def test_rows_that_are_no_questions_are_named(counting, tmp_path):
    row = json.loads(counting.read_text().splitlines()[0])
    nodes = [{"id": f"car.{number}", "pos": [0, 0]} for number in range(1, 61)]
    crowd = json.dumps({"frames": [{"t": second, "nodes": nodes} for second in range(5)]})
    for change, message in (
        ({"task": "NONE"}, r"line 1: 'NONE' is no task; tasks are"),
        ({"answer": 3}, "line 1: answer is not there, or no text"),
        ({"duration_s": float("nan")}, "line 1: not a question of its task"),
        ({"task": "STR", "answer": "B", "form": "number", "graph": '{"frames":[]}'}, "the answer 'B' is no number"),
        ({"task": "STR", "answer": "B", "form": "choice", "graph": "{"}, "the graph has bad_json"),
        ({"task": "STR", "answer": "B"}, "KeyError"),
        ({"task": "STR", "answer": "B", "form": "choice", "graph": crowd}, "the graph has 300 nodes, 256 at most"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_questions(write(tmp_path / "bad.jsonl", [{**row, **change}]))
    with pytest.raises(ConfigError, match="line 2: the id 'v/0' is there twice"):
        read_questions(write(tmp_path / "twice.jsonl", [row, row]))
    (tmp_path / "cut.jsonl").write_text(json.dumps(row) + '\n{"id": "v/1", "vid')
    with pytest.raises(ConfigError, match=r"cut\.jsonl: line 2: not JSON: "):
        read_questions(tmp_path / "cut.jsonl")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    with pytest.raises(ConfigError, match="not a readable file of questions"):
        read_questions(tmp_path / "cut.parquet")
