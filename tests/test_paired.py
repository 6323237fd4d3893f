"""Two files of predictions compared question by question: values worked out by hand."""

import json

import pytest
from rich.console import Console

from ravst_ray.errors import ConfigError
from ravst_ray.evaluation.baselines import best_trivial
from ravst_ray.evaluation.evaluate import evaluate
from ravst_ray.evaluation.paired import paired_rise, paired_table

QUESTIONS = 6


@pytest.fixture
def files(tmp_path):
    """Six temporal questions, the truth [0, 4]: before always [0, 8] (tIoU 0.5), after right, or one time worse."""
    events = [
        {
            "event_num": number,
            "AV Temporal Reasoning": [
                {"Q": "When is the moment red ball makes sound and is visible?", "A": answer("red ball", 0.0, 4.0)}
            ],
        }
        for number in range(1, QUESTIONS + 1)
    ]
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps([{"video_name": "v", "duration": 10.0, "annotation": events}]))
    ids = [f"v/{number}/AVTR/0" for number in range(1, QUESTIONS + 1)]
    before, after = tmp_path / "before.jsonl", tmp_path / "after.jsonl"
    write(before, {one: answer("red ball", 0.0, 8.0) for one in ids})
    write(after, {one: answer("red ball", 0.0, 4.0) for one in ids[:-1]} | {ids[-1]: "no answer"})
    return before, after, truth


def answer(name, start, end):
    return f"<answer>\n<object>{name}</object>\n<when>[{start}, {end}]</when>\n</answer>"


def write(path, answers):
    path.write_text("".join(json.dumps({"id": key, "prediction": text}) + "\n" for key, text in answers.items()))


def test_the_rise_is_the_mean_of_the_pairs_differences(files):
    rise = paired_rise(*files)
    assert rise.questions == QUESTIONS
    assert rise.before == pytest.approx(0.5)
    assert rise.after == pytest.approx(5 / 6)
    assert rise.share == pytest.approx((5 / 6 - 0.5) / 0.5)
    assert (rise.format_before, rise.format_after) == (1.0, pytest.approx(5 / 6))
    # Differences are +0.5 five times and -0.5 once: a resample with k of the latter has the mean 0.5 - k / 6, and k is
    # binomial(6, 1/6): P(k = 0) = 0.335, P(k <= 2) = 0.938, P(k <= 3) = 0.991.
    assert rise.high == pytest.approx(0.5)
    assert rise.low == pytest.approx(0.0, abs=1e-12)


def test_the_length_counts_where_tokens_are_told(tmp_path):
    """1 for the answer, 0.5 for a graph of one object, and 0.2 for a completion of 320 to 512 tokens."""
    graph = '{"frames":[{"t":0.0,"nodes":[{"id":"ball.1","pos":[0.5,0.5]}]}]}'
    row = {"id": "v/0", "video": "v", "duration_s": 0, "task": "STR", "question": "Which?", "form": "choice"}
    truth = tmp_path / "q.jsonl"
    truth.write_text(json.dumps({**row, "options": ["a", "b"], "answer": "B", "graph": graph}))
    line = {"id": "v/0", "prediction": f"<think><graph>{graph}</graph></think><answer>B</answer>"}
    (tmp_path / "short.jsonl").write_text(json.dumps({**line, "tokens": 30}))
    (tmp_path / "long.jsonl").write_text(json.dumps({**line, "tokens": 400}))
    rise = paired_rise(tmp_path / "short.jsonl", tmp_path / "long.jsonl", truth)
    assert (rise.before, rise.after) == pytest.approx((1.5, 1.7)) and rise.format_after == 1


def test_a_missing_answer_earns_nothing(files, tmp_path):
    before, after, truth = files
    write(after, {"v/1/AVTR/0": answer("red ball", 0.0, 4.0)})
    assert paired_rise(before, after, truth).after == pytest.approx(1 / 6)


def test_equal_files_do_not_rise(files):
    before, _, truth = files
    rise = paired_rise(before, before, truth)
    assert (rise.low, rise.high, rise.share) == (0.0, 0.0, 0.0)


def test_an_unknown_question_is_named(files):
    before, after, truth = files
    write(after, {"w/1/AVTR/0": "x"})
    with pytest.raises(ConfigError, match="w/1/AVTR/0"):
        paired_rise(before, after, truth)


def test_the_table_shows_both_beside_the_best_trivial_answer(files, tmp_path):
    before, after, truth = files
    first, second = (evaluate(path, truth, tmp_path / path.stem) for path in (before, after))
    # The whole video of 10 s has tIoU 0.4, the middle half [2.5, 7.5] 1.5 / 7.5 = 0.2, the previous answer 1.
    value, name = best_trivial(second["baselines"], "AVTR", "m_tIoU")
    assert value == pytest.approx(100.0) and "previous" in name
    console = Console(width=120, record=True)
    console.print(paired_table(first, second, paired_rise(*files)))
    text = console.export_text()
    assert "AVTR m_tIoU" in text and "83.3" in text and "+67%" in text
