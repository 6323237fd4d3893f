"""V-STaR: prompts, rules and averages; every number is worked out here, or by the metrics of our own tasks."""

import json
import math
import random

import pytest

from ravst_ray.core.answers import ObjectAnswer, ParsedAnswer
from ravst_ray.core.names import NameMatcher
from ravst_ray.errors import ConfigError
from ravst_ray.evaluation.benchmarks import BENCHMARKS
from ravst_ray.evaluation.benchmarks.judge import judge_messages, normalised, read_verdict
from ravst_ray.evaluation.benchmarks.protocols import Answer
from ravst_ray.evaluation.benchmarks.spoken_boxes import read_boxes
from ravst_ray.evaluation.metrics import score_question
from ravst_ray.records import QAPair
from tests.benchmark_files import star_row, write_rows

STAR = BENCHMARKS["v-star"]
INDENT = "\n" + 20 * " "
TRUE = [10, 10, 50, 50]


@pytest.fixture
def asked(tmp_path):
    def read(*rows):
        return {one.qa_id: one for one in STAR.read(write_rows(tmp_path / "star.json", list(rows) or [star_row("v")]))}

    return read


def test_a_sample_is_asked_five_times_word_for_word(asked):
    questions = asked()
    assert list(questions) == ["v/1/what", "v/1/when", "v/1/where", "v/2/where", "v/2/when"]
    prompts = {name: one.prompt for name, one in questions.items()}
    assert prompts["v/1/what"] == (
        "Answer the question about the video: What does he throw? \n "
        "(If the answer is a person, you don't need to identify the person.)"
    )
    assert prompts["v/1/when"] == (
        "This video is 20.0 seconds long. Answer the question about the video: When does he throw it? \n "
        "Output the start and end moment timestamps."
    )
    lines = prompts["v/1/where"].split(INDENT)
    assert lines[0] == (
        "Please answer the question about the video: Where is the ball from 2.5 to 5.5? with a series of bounding "
        "boxes in [x1, y1, x2, y2] format. \n"
    )
    assert "within the time range [3, 4, 5] provided (inclusive of the boundaries)" in lines[1]
    assert lines[2:] == ['Example output: {"3": [x1, y1, x2, y2],...}', ""]
    lines = prompts["v/2/where"].split(INDENT)
    assert "Where is the ball? with" in lines[0] and "You only need to output 3 bbox(es)." in lines[1]
    assert lines[3] == "\n Example output:"
    assert lines[4].startswith('{"0": [x0,y0,x1,y1], "1":..., ..., "3":...} (if the frames at 0~3 second')
    assert "a resolution of 640x360 (width x height)" in prompts["v/2/when"]
    assert "which are:[[10, 10, 50, 50], [10, 10, 50, 50], [10, 10, 50, 50]]. Output" in prompts["v/2/when"]
    assert {one.duration_s for one in questions.values()} == {20.0}


def test_samples_of_one_video_and_intervals_without_a_whole_second(asked):
    questions = asked(star_row("v"), star_row("v", timestamps=[2.2, 2.8]))
    assert "v~2/1/what" in questions
    assert "time range [2] provided" in questions["v~2/1/where"].prompt


def test_a_frame_that_does_not_fit_is_named(tmp_path):
    old = {"3_75": {"xmin": 1, "ymin": 1, "xmax": 2, "ymax": 2}}  # as an early description of the data has it
    with pytest.raises(ConfigError, match=r"row 1 .*bboxes.0.timestamp"):
        STAR.read(write_rows(tmp_path / "star.json", [star_row("a"), star_row("b", bboxes=[old])]))


@pytest.mark.parametrize(
    ("text", "iou"),
    [
        ("[2.5, 5.5]", 1.0),
        ("From 1.5 to 4.5.", 0.5),  # 2 s of the 4 s from 1.5 to 5.5
        ("<think>2 or 9 or 4</think><answer>[2.5, 8.5]</answer>", 0.5),
        ("In 20 s of video, from 2.5 to 5.5", 0.0),  # three numbers
        ("from 2s to 5s", 0.0),  # none: a letter follows
        ("00:02 - 00:05", 0.0),  # four
        ("[5.5, 2.5]", 0.0),
        ("never", 0.0),
    ],
)
def test_when_counts_two_numbers(asked, text, iou):
    values = STAR.score(asked()["v/1/when"], Answer(text), official=True)
    assert values == {
        "m_tIoU": iou,
        "R1@0.3": float(iou >= 0.3),
        "R1@0.5": float(iou >= 0.5),
        "R1@0.7": float(iou > 0.6),
    }


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        ('```json\n{"3": [1, 2, 3, 4]}\n``` or {"3": [0, 0, 0, 0]}', {"3": [1, 2, 3, 4]}),
        ("{'3': [1, 2, 3, 4]}", {"3": [1, 2, 3, 4]}),
        ('[{"3": [1, 2, 3, 4]}, {"4": [5, 6, 7, 8]}]', {"3": [1, 2, 3, 4], "4": [5, 6, 7, 8]}),
        ("[[3, [1, 2, 3, 4]]]", {"3": [1, 2, 3, 4]}),
        ("at 3: [1, 2, 3, 4]", {}),
        ('{"3": [1, 2, 3, 4], "4": [5,', {}),
        ("[" * 100_000, {}),
        ("[" * 100_000 + "]" * 100_000, {}),
        ('{"3": ' + "9" * 10_000 + "}", {}),
    ],
)
def test_boxes_are_read_from_json_alone(text, boxes):
    assert read_boxes(text) == boxes


def test_where_is_the_mean_over_annotated_frames_of_the_best_box(asked):
    question = asked()["v/1/where"]
    half = [10, 10, 50, 30]
    said = {"3": TRUE, "4": [[0, 0, 1, 1], half], "17": [0, 0, 9, 9]}  # second 5 is missing, 17 costs nothing
    values = STAR.score(question, Answer(json.dumps(said)), official=True)
    assert values["m_vIoU"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert [values[f"AP@{k}"] for k in (0.1, 0.5, 0.7)] == pytest.approx([2 / 3, 2 / 3, 1 / 3])
    for broken in ("[50, 50, 10, 10]", '["a", 1, 2, 3]', "[1, 2]", "null", "[NaN, 10, 50, 50]", "1e400"):
        assert STAR.score(question, Answer(f'{{"3": {broken}}}'), official=True)["m_vIoU"] == 0.0


def test_our_row_reads_seconds_as_numbers_and_brings_boxes_to_the_video(asked):
    question = asked()["v/1/where"]
    model = {
        f"{second}.0": [5, 2.5, 25, 12.5] for second in (3, 4, 5)
    }  # frames of half the width, a quarter the height
    answer = Answer(json.dumps(model), box_scale=(0.5, 0.25))
    assert STAR.score(question, answer, official=False)["m_vIoU"] == 1.0
    assert STAR.score(question, answer, official=True)["m_vIoU"] == 0.0
    written = asked(star_row("v", bboxes=[{"timestamp": 3.0, "xmin": 10, "ymin": 10, "xmax": 50, "ymax": 50}]))
    same = Answer(json.dumps({"3": TRUE}))
    assert STAR.score(written["v/1/where"], same, official=True)["m_vIoU"] == 0.0  # "3" isn't "3.0"
    assert STAR.score(written["v/1/where"], same, official=False)["m_vIoU"] == 1.0


def test_what_is_the_judges_mark_and_without_one_a_normalised_match(asked):
    question = asked()["v/1/what"]
    score = lambda text, verdict=None: STAR.score(question, Answer(text, verdict=verdict), official=True)  # noqa: E731
    assert score("<think>hm</think>red ball!") == {"Acc": 1.0, "exact": 0.0, "normalised": 1.0}
    assert score("A red ball.") == {"Acc": 1.0, "exact": 1.0, "normalised": 1.0}
    assert score("He throws a red ball")["Acc"] == 0.0
    assert [score("a scarlet ball", verdict)["Acc"] for verdict in (-1, 0, 1, 2, 3)] == [0, 0, 0, 1, 1]
    assert [read_verdict(text) for text in ("3", " 2\n", "2.", "Rating: 3", "9" * 5000)] == [3, 2, -1, -1, -1]
    assert normalised("The  man's HAT.") == "mans hat"


def test_the_judge_is_asked_word_for_word(asked):
    system, user = judge_messages("Q?", "ball", "hat")
    assert user["content"] == "Question: Q?\nGroundtruth answer: ball\nCandidate answer: hat\nYour response: "
    assert system["content"].startswith(
        "\nAs an AI assistant, your task is to evaluate a candidate answer in comparison"
    )
    assert "range from 0 to 3, based solely on the semantic similarity" in system["content"]
    assert system["content"].endswith("Your response should be a single integer from 0, 1, 2, or 3.\n")
    questions = asked()
    assert STAR.judged(questions["v/1/what"], "<think>x</think>hat")[1]["content"].endswith("hat\nYour response: ")
    assert STAR.judged(questions["v/1/what"], "<think>x") is None and STAR.judged(questions["v/1/when"], "hat") is None


def test_averages_over_both_chains(asked):
    questions = list(asked(star_row("a"), star_row("b")).values())
    values = {"1/what": {"Acc": 1.0}, "1/when": {"m_tIoU": 0.5}, "1/where": {"m_vIoU": 0.2}}
    values |= {"2/where": {"m_vIoU": 0.0}, "2/when": {"m_tIoU": 1.0}}
    scores = {f"a/{step}": one for step, one in values.items()}
    scores |= {f"b/{step}": dict.fromkeys(one, 0.0) for step, one in values.items()}
    found = STAR.summarise(questions, scores, official=False)
    # Means: Acc 0.5; chain 1 tIoU 0.25, vIoU 0.1; chain 2 tIoU 0.5, vIoU 0.
    assert (found["Acc"], found["m_tIoU 1"], found["m_vIoU 1"]) == (50.0, 25.0, 10.0)
    assert found["AM 1"] == pytest.approx(85 / 3, abs=1e-4) and found["AM 2"] == pytest.approx(100 / 3, abs=1e-4)
    assert found["mAM"] == pytest.approx((85 + 100) / 6, abs=1e-3)
    one, other = -(math.log(0.5) + math.log(0.75) + math.log(0.9)) / 3, -(2 * math.log(0.5) + math.log(1.0)) / 3
    assert found["LGM 1"] == pytest.approx(100 * one, abs=1e-3) and found["LGM 2"] == pytest.approx(
        100 * other, abs=1e-3
    )
    assert found["mLGM"] == pytest.approx(50 * (one + other), abs=1e-3)
    assert (found["all three 1"], found["all three 2"]) == (50.0, 0.0)
    # By the published code a sample without "what" leaves the IoU's means, and stays in the accuracy's denominator.
    kept = {name: one for name, one in scores.items() if name != "b/1/what"}
    official = STAR.summarise(questions, kept, official=True)
    assert (official["Acc"], official["m_tIoU 1"], official["m_vIoU 1"]) == (50.0, 50.0, 20.0)
    # A mean of 1 has no logarithm.
    perfect = STAR.summarise(questions[:5], scores, official=False)
    assert (
        perfect["Acc"] == 100.0 and perfect["LGM 1"] is None and perfect["mLGM"] is None and perfect["AM 1"] is not None
    )


def test_our_own_metrics_agree_on_one_box_a_second(asked):
    generator = random.Random(4)
    names = NameMatcher()
    for trial in range(24):
        row = star_row(f"v{trial}", timestamps=[3, 5])
        shift = lambda: generator.uniform(-25, 25)  # noqa: E731
        said = {second: [x + shift() for x in (10, 10, 50, 50)] for second in (3, 4, 5) if generator.random() < 0.8}
        when = (3 + generator.uniform(-2, 1), 5 + generator.uniform(-1, 4))
        questions = asked(row)
        where = STAR.score(questions[f"v{trial}/1/where"], Answer(json.dumps(said)), official=True)
        tiou = STAR.score(questions[f"v{trial}/2/when"], Answer(f"{when[0]} to {when[1]}"), official=True)["m_tIoU"]
        true = ObjectAnswer("ball", (3.0, 5.0), tuple((float(t), (10.0, 10.0, 50.0, 50.0)) for t in (3, 4, 5)))
        given = ObjectAnswer("ball", when, tuple((float(t), tuple(box)) for t, box in said.items()))
        pair = QAPair("q", "v", 1, "AVSTR", "", "")
        ours = score_question(pair, ParsedAnswer((true,)), ParsedAnswer((given,)), names).values
        assert [where["m_vIoU"], where["AP@0.3"], where["AP@0.5"]] == pytest.approx(
            [ours["m_vIoU"], ours["AP@0.3"], ours["AP@0.5"]]
        )
        assert tiou == pytest.approx(ours["m_tIoU"])


def test_trivial_answers(asked):
    rows = [star_row("a"), star_row("b", answer="hat", timestamps=[0, 20.0], frame_count=500), star_row("c")]
    questions = asked(*rows)
    centre, whole = STAR.trivial(list(questions.values())).values()
    score = lambda texts, name: STAR.score(questions[name], Answer(texts[name]), official=True)  # noqa: E731
    assert score(centre, "a/1/what")["Acc"] == 1.0 and score(centre, "b/1/what")["Acc"] == 0.0
    assert score(centre, "a/1/when")["m_tIoU"] == pytest.approx(3 / 20)
    assert score(whole, "a/2/where")["m_vIoU"] == pytest.approx(40 * 40 / (640 * 360))
    assert score(centre, "a/1/where")["m_vIoU"] == 0.0  # [160, 90, 480, 270] doesn't meet [10, 10, 50, 50]
