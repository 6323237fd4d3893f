"""The Video-STR task: boxes between spaces, hostile texts, and files in which its questions stand with others."""

import json
import random
import re
import time

import pytest

from ravst_ray.config.rewards import EvaluateConfig, GraphConfig, NamesConfig, RewardConfig
from ravst_ray.config.video_llm import FramesConfig, PromptConfig
from ravst_ray.core.graph_replies import render_reply
from ravst_ray.core.graphs import Graph, GraphFrame, Node
from ravst_ray.errors import ConfigError
from ravst_ray.evaluation.evaluate import evaluate
from ravst_ray.policy.families import FAMILIES, fit
from ravst_ray.records import VideoView
from ravst_ray.tasks.rubric import Rubric
from ravst_ray.tasks.spaces import AnswerSpace
from ravst_ray.tasks.video_str import VIDEO_STR
from tests.published import answer, when

VIEW = VideoView(4, 1.0, 140, 112, 4.0, 1280, 720)
GRAPH = Graph((GraphFrame(2.0, (Node("ball.1", "ball", (0.2, 0.4)), Node("drum.1", "drum", (0.7, 0.5)))),))
BOX = (128.0, 72.0, 640.0, 360.0)
THOUGHT = render_reply("B", GRAPH).partition("<answer>")[0]


def space(box_space, integer=True):
    return AnswerSpace.of(VIEW, PromptConfig(box_space=box_space, integer_boxes=integer))


@pytest.mark.parametrize(
    ("box_space", "integer", "said"),
    [
        ("frame", True, "[14, 11, 70, 56]"),
        ("frame", False, "[14.0, 11.2, 70.0, 56.0]"),
        ("video", True, "[128, 72, 640, 360]"),
        ("video", False, "[128.0, 72.0, 640.0, 360.0]"),
        ("thousand", True, "[100, 100, 500, 500]"),
        ("thousand", False, "[100.0, 100.0, 500.0, 500.0]"),
    ],
)
def test_a_box_goes_to_the_models_space_and_back(box_space, integer, said):
    text = VIDEO_STR.to_model(render_reply(BOX, GRAPH), space(box_space, integer))
    assert text == f"{THOUGHT}<answer>{said}</answer>", "the graph stays as it is"
    back = VIDEO_STR.parse(VIDEO_STR.to_video(text, space(box_space, integer)))
    assert back.value == pytest.approx(BOX, abs=720 / 112 / 2) and not back.malformed


@pytest.mark.parametrize(
    "form",
    ["<answer>{}</answer>", "< answer > {} </ answer>", "<answer>{}", "{}", "<answer>{} px.</answer>",
     "<answer>[0, 0, 1, 1]</answer><answer>{}</answer>"],
)  # fmt: skip
def test_whatever_is_read_as_a_box_is_brought_to_the_video(form):
    text = THOUGHT + form.format("[100, 100, 500, 500]")
    read = VIDEO_STR.parse(VIDEO_STR.to_video(text, space("thousand")))
    assert read.value == BOX and read.malformed == VIDEO_STR.parse(text).malformed
    for other in ("B", "3.5", "[1.0, 4.5]", "[100, 100, 500]", "left"):
        text = THOUGHT + form.format(other)
        assert VIDEO_STR.to_video(text, space("thousand")) == text


def test_no_box_is_too_large_to_be_brought_anywhere():
    for box in ("[1e6, -1e6, 1e6, 1e6]", "[-900000, 0, 999999.9, 5]"):
        for box_space in ("frame", "thousand"):
            said = VIDEO_STR.to_video(f"{THOUGHT}<answer>{box}</answer>", space(box_space))
            assert Rubric().score("STR", said, render_reply(BOX, GRAPH)).parts["answer"] < 1e-3
            VIDEO_STR.to_model(f"{THOUGHT}<answer>{box}</answer>", space(box_space))


PIECES = ["<answer>", "</answer>", "<graph>", "</graph>", "<think>", "</think>", "[1, 2, 3, 4]", "[1e6, ", "1e6]", "B",
          '{"frames":[', '{"t":2,"nodes":[', '{"id":"a.1","pos":[', "0.5,", "]}", "]}]}", "1e999", "\\", '"', " ", "<",
          "\ud800", "\x00", THOUGHT]  # fmt: skip


def test_no_text_raises_or_earns_more_than_there_is():
    random_, rubric = random.Random(0), Rubric()
    truths = [render_reply(value, GRAPH) for value in ("B", 3.0, BOX, (1.0, 4.5))]
    best = 0.0
    for _ in range(3000):
        text = "".join(random_.choices(PIECES, k=random_.randint(0, 12)))
        said = VIDEO_STR.to_video(text, space("frame"))
        reward = rubric.score("STR", said, random_.choice(truths), tokens=400)
        assert all(0 <= score <= 1 for score in reward.parts.values())
        best = max(best, reward.total)
    assert 1 < best <= 2.7 + 1e-9


@pytest.mark.parametrize("piece", ["<answer>[", "<answer>", "<graph>", "</graph>", "[1,2,3,", "< ", "<answer>A, ", "{"])
def test_long_texts_are_read_in_linear_time(piece):
    text = THOUGHT + piece * (1_000_000 // len(piece))
    started = time.process_time()
    Rubric().score("STR", VIDEO_STR.to_video(text, space("frame")), render_reply(BOX, GRAPH), tokens=400)
    assert time.process_time() - started < 3


def test_an_answer_that_its_graph_takes_away_has_no_length():
    rubric = Rubric(RewardConfig(graph=GraphConfig(gating="spacer")))
    truth = render_reply("B", GRAPH)
    without = "<think><graph>{}</graph></think><answer>B</answer>"
    parts = [rubric.score("STR", said, truth, tokens=400).parts for said in (truth, without)]
    assert [(one["answer"], one["length"]) for one in parts] == [(1, 1), (0, 0)]


def test_questions_of_several_tasks_stand_in_one_file(tmp_path):
    """Also of a video whose length isn't stated: each task's numbers are those that it has alone."""
    graph = json.loads(THOUGHT.partition("<graph>")[2].partition("</graph>")[0])
    row = {"video": "v", "duration_s": 0, "question": "Which?", "graph": json.dumps(graph), "unit": "", "options": []}
    truths = [
        ("a", "STR", "choice", "B"),
        ("b", "STR", "box", "[0.0, 0.0, 640.0, 360.0]"),
        ("c", "STR", "interval", "[1.0, 4.5]"),
        ("d", "AVTR", None, answer("<object>dog</object>", when(0, 4))),
    ]
    rows = [{**row, "id": name, "task": task, "form": form, "answer": text} for name, task, form, text in truths]
    lines = [
        {"id": "a", "prediction": f"{THOUGHT}<answer>B</answer>"},
        {"id": "b", "prediction": f"{THOUGHT}<answer>[0, 0, 640, 180]</answer>"},
        {"id": "d", "prediction": answer("<object>dog</object>", when(0, 2))},
    ]

    def metrics(name, kept):
        questions, said = tmp_path / f"{name}.jsonl", tmp_path / f"{name}.said.jsonl"
        questions.write_text("".join(json.dumps(one) + "\n" for one in rows if one["id"] in kept))
        said.write_text("".join(json.dumps(one) + "\n" for one in lines if one["id"] in kept))
        config = EvaluateConfig(names=NamesConfig(vectors=None), bootstrap=50)
        return evaluate(said, questions, tmp_path / name, config)

    mixed = metrics("mixed", "abcd")
    assert mixed["STR"]["score"] == 50.0 and mixed["STR"]["m_tIoU"] == 0.0 and mixed["STR"]["n_missing"] == 1
    assert mixed["AVTR"]["m_tIoU"] == 50.0
    for task, kept in (("STR", "abc"), ("AVTR", "d")):
        alone = metrics(task, kept)
        assert alone[task] == mixed[task]
        assert all(mixed["baselines"][name][task] == values[task] for name, values in alone["baselines"].items())
    assert "Video-STR" in (tmp_path / "mixed" / "table.md").read_text()
    drawn = re.findall(r'class="chart".*aria-label="(.*?)[:"]', (tmp_path / "STR" / "index.html").read_text())
    nothing = "there is nothing to show by length, by objects or along the video"
    assert drawn == ["Intervals (tIoU)", "Boxes (IoU)"], nothing


def test_a_task_that_there_is_not_is_refused_before_anything_is_asked():
    with pytest.raises(ConfigError, match=r"prompt\.as_task is 'ST'; tasks are .*STR"):
        fit(FramesConfig(), PromptConfig(verbatim=True, as_task="ST"), FAMILIES[0])
