"""The reward, against arithmetic written in the test."""

import json
import pickle

import numpy as np
import pytest

from ravst_ray.config.rewards import NamesConfig, RewardConfig
from ravst_ray.core.answers import parse
from ravst_ray.core.names import NameMatcher
from ravst_ray.datasets.ravst_json import read_questions
from ravst_ray.errors import ConfigError
from ravst_ray.evaluation.scoring import score_file
from ravst_ray.rewards.length import overlong_penalty
from ravst_ray.rewards.spatial import match_boxes, spatial_score
from ravst_ray.rewards.word_vectors import FileVectors, calibrate, labelled_pairs, match_share, name_matcher
from ravst_ray.tasks import TASKS
from ravst_ray.tasks.rubric import Rubric
from ravst_ray.tasks.trl import component_rewards, total_reward
from tests.published import answer, published, question, when, where

A, B, HALF = (0, 0, 10, 10), (20, 0, 30, 10), (0, 0, 10, 5)  # IoU(A, HALF) = 0.5
NONE = (0, 0, 0, 0)


def parts(task, completion, truth, **config):
    return Rubric(RewardConfig(**config)).score(task, completion, truth).parts


def spatial(true, predicted, domain="union", **names):
    match = match_boxes(parse(true).objects, parse(predicted).objects, NameMatcher(**names))
    return spatial_score(match, domain)


@pytest.mark.parametrize(
    ("task", "completion", "score"),
    [
        ("AVTR", question("dog", when(0, 4)), 1),
        ("AVTR", "<think>hm</think>\n" + question("dog", when(0, 4)), 1),
        ("AVTR", question("dog", when(0, 4)) + " done", 0),
        ("AVTR", question("dog", when(0, 4)) * 2, 0),
        ("AVTR", question("dog", when(0, 4), where((0, A))), 0),
        ("AVTR", question("dog"), 0),
        ("AVSR", question("dog", where((0, A))), 1),
        ("AVSR", question("dog", where()), 1),
        ("AVSR", question("dog", where((0, NONE))), 1),
        ("AVSR", question("dog", when(0, 4), where((0, A))), 0),
        ("AVSR", answer(where((0, A)), "<object>dog</object>"), 0),
        ("AVSTR", question("dog", when(0, 4), where((0, A))), 1),
        ("AVSTR", question("dog", where((0, A)), when(0, 4)), 1),
        ("AVSTR", question("dog", when(0, 4)), 0),
        ("AVSTR", "", 0),
    ],
)
def test_format(task, completion, score):
    assert parts(task, completion, question("dog"))["format"] == score


def test_a_true_answer_in_thinking_that_never_ends_earns_nothing():
    truth = question("dog", when(0, 4))
    assert Rubric().score("AVTR", truth, truth).total == 2.0
    for completion in (f"<think>it may be {truth} or", f"<think>{truth}</think>"):
        reward = Rubric().score("AVTR", completion, truth)
        assert reward.total == 0.0 and set(reward.parts.values()) == {0.0}


@pytest.mark.parametrize(
    ("names", "score"),
    [("dog", 1 / 2), ("dog cat", 1), ("dog cat car", 2 / 3), ("dog dog", 1 / 2), ("car", 0), ("", 0)],
)
def test_object_is_matched_over_the_larger_number(names, score):
    truth = answer("<object>A dog</object>", "<object>Cats</object>")
    completion = answer(*(f"<object>{name}</object>" for name in names.split()))
    assert parts("AVSR", completion, truth)["object"] == pytest.approx(score)


@pytest.mark.parametrize(
    ("given", "score"),
    [
        ([when(0, 4)], 1),
        ([when(2, 6)], 2 / 6),
        ([when(4, 0)], 0),
        ([when(2, 2)], 0),
        ([], 0),
        # several objects with an interval each: the best, over their number
        ([when(0, 4), "<object>cat</object>", when(2, 6)], 1 / 2),
    ],
)
def test_temporal(given, score):
    assert parts("AVTR", question("dog", *given), question("dog", when(0, 4)))["temporal"] == pytest.approx(score)


def test_spatial_is_the_mean_over_the_union_of_seconds():
    true = question("dog", where((0, A), (1, A), (2, A), (3, NONE)))
    # s(1) = 0.5, s(2) = 1; second 0 is missed, 3 and 9 are extra: (0.5 + 1) / 5
    predicted = question("dog", where((1, HALF), (2, A), (3, A), (9, A)))
    assert spatial(true, predicted) == pytest.approx(1.5 / 5)
    # the paper's: only the two seconds that both have
    assert spatial(true, predicted, "overlap") == pytest.approx(1.5 / 2)


def test_several_boxes_a_second_are_matched_one_to_one():
    true = question("dogs", where((0, A), (0, B)))
    assert spatial(true, question("dogs", where((0, B), (0, HALF)))) == pytest.approx((1 + 0.5) / 2)
    assert spatial(true, question("dogs", where((0, A)))) == pytest.approx(1 / 2)
    assert spatial(true, question("dogs", where((0, A), (0, A), (0, A), (0, B)))) == pytest.approx(2 / 4)


def test_unpaired_objects_cost_their_seconds():
    true = answer("<object>dog</object>", where((0, A), (1, A)), "<object>cat</object>", where((0, B)))
    only_dog = question("dog", where((0, A), (1, A)))
    assert spatial(true, only_dog) == pytest.approx(2 / 3)
    assert spatial(only_dog, true) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("time_s", "score"),
    [(1.0, 1), (1.5, 1), (0.5, 1), (1.51, 0), (0.49, 0)],
)
def test_times_snap_within_half_a_second(time_s, score):
    assert spatial(question("dog", where((1, A))), question("dog", where((time_s, A)))) == score


def test_of_two_equally_near_times_the_earlier_is_taken():
    # 1.9 lies between 1.4 and 2.4; floats say 0.5 and 0.5000000000000002
    true = question("dog", where((1.4, A), (2.4, B)))
    assert spatial(true, question("dog", where((1.9, A)))) == pytest.approx(1 / 2)
    assert spatial(true, question("dog", where((1.9, B)))) == 0


def test_finer_times_are_boxes_of_one_second():
    # 0.9, 1.0 and 1.1 all become second 1: three boxes there, one right
    true = question("dog", where((1, A)))
    assert spatial(true, question("dog", where((0.9, A), (1.0, A), (1.1, A)))) == pytest.approx(1 / 3)


def test_nothing_to_see_is_right_when_nothing_is_shown():
    nothing = question("dog", where((0, NONE)))
    assert spatial(nothing, question("dog", where())) == 1
    assert spatial(nothing, question("cat", where())) == 0
    assert spatial(nothing, question("dog", where((0, A)))) == 0


@pytest.mark.parametrize("box", [NONE, (10, 10, 0, 0), (0, 0, 0, 10)])
def test_what_is_no_box_neither_gains_nor_costs(box):
    true = question("dog", where((0, A)))
    assert spatial(true, question("dog", where((0, A), (0, box), (7, box)))) == 1


def test_objects_of_one_name_are_paired_by_their_boxes():
    true = answer("<object>dog</object>", where((0, A)), "<object>dog</object>", where((0, B)))
    assert spatial(true, answer("<object>dog</object>", where((0, B)), "<object>dog</object>", where((0, A)))) == 1


def test_totals_and_weights():
    truth = question("dog", when(0, 4), where((0, A), (1, A)))
    completion = question("dog", when(2, 6), where((0, A)))  # tIoU 1/3, spatial 1/2
    assert Rubric().score("AVSTR", completion, truth).total == pytest.approx(1 + (1 / 3 + 1 / 2) / 2)
    heavy = RewardConfig.model_validate({"weights": {"AVSTR": {"temporal": 2}}})
    assert Rubric(heavy).score("AVSTR", completion, truth).total == pytest.approx(1 + 2 / 3 + 1 / 4)
    spatial_truth, named = question("dog", where((0, A), (1, A))), question("dog", where((0, A)))
    assert Rubric().score("AVSR", named, spatial_truth).total == pytest.approx(1 + 0.5 + 0.25)
    assert Rubric().score("AVTR", question("cat", when(2, 6)), question("dog", when(0, 4))).total == pytest.approx(
        4 / 3
    )


def test_what_a_truncated_completion_earns_is_a_setting():
    text = question("dog", when(0, 4))
    assert Rubric().score("AVTR", text, text, truncated=True).total == 2
    assert Rubric(RewardConfig(truncated_reward=0.25)).score("AVTR", text, text, truncated=True).total == 0.25
    assert Rubric(RewardConfig(truncated_reward=0.25)).score("AVTR", text, text).total == 2


def test_unknown_tasks_are_refused():
    with pytest.raises(ConfigError, match="AVTR, AVSR, AVSTR"):
        Rubric().score("AV", "", "")


def test_every_published_answer_earns_the_maximum():
    rubric = Rubric()
    for pair in read_questions(published("ravst_test_annotations.json"))[0]:
        reward = rubric.score(pair.task, pair.answer, pair.answer)
        assert reward.total == reward.maximum == 2.0, pair.qa_id
        assert set(reward.parts.values()) == {1.0} or pair.task != "AVSTR"


def test_paper_compat_gives_the_published_scores():
    cases = [json.loads(line) for line in published("paper_compat_cases.jsonl").read_text().splitlines()]
    assert len(cases) == 114
    for case in cases:
        parts, failed = TASKS[case["task"]].published_parts(case["completion"], case["truth"], NameMatcher())
        assert parts["format"] == case["format"]
        if isinstance(case["spatial_temporal"], str):
            assert case["spatial_temporal"] == "raises UnicodeDecodeError" and failed == {"bad_escape": 1}
        else:
            score = parts["spatial_temporal"]
            assert score == pytest.approx(case["spatial_temporal"], abs=1e-12) and not failed, case["id"]


def test_paper_compat_profile_keeps_the_faults():
    truth = question("dog", where((0, A), (1, A)))
    reward = Rubric(RewardConfig(profile="paper_compat")).score("AVSR", question("dog", where((0, A))), truth)
    assert reward.parts == {"format": 0.0, "spatial_temporal": 1.0}
    assert Rubric(RewardConfig(profile="paper_compat")).score("AVSR", "\\x", truth).total == 0


def test_trl_functions():
    truth = question("dog", when(0, 4))
    message = [{"role": "assistant", "content": question("dog", when(2, 6))}]
    columns = {"task": ["AVTR", "AVTR"], "answer": [truth, truth], "completion_ids": [[1], [2]]}
    assert total_reward(Rubric())(["", ""], [truth, message], **columns) == pytest.approx([2, 4 / 3])
    functions = component_rewards(Rubric())
    assert functions["temporal"].__name__ == "temporal_reward"
    assert functions["temporal"](["", ""], [truth, message], **columns) == pytest.approx([1, 1 / 3])


def test_rubrics_and_matchers_travel_between_processes():
    truth = question("dog", when(0, 4))
    again = pickle.loads(pickle.dumps(Rubric(RewardConfig(snap_s=0.25))))
    assert again.config.snap_s == 0.25 and again.score("AVTR", truth, truth).total == 2


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "questions.json"
    one = {"Q": "When is the moment dog makes sound and is visible?", "A": question("dog", when(0, 4))}
    path.write_text(
        json.dumps(
            [{"video_name": "v", "duration": 8.0, "annotation": [{"event_num": 1, "AV Temporal Reasoning": [one]}]}]
        )
    )
    return path


def test_score_file_writes_rewards_beside_the_lines(tmp_path, questions):
    lines = [
        {"id": "v/1/AVTR/0", "completion": question("dog", when(2, 6)), "step": 7},
        {"id": "v/1/AVTR/0", "completion": "<answer>"},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    score_file(tmp_path / "in.jsonl", questions, tmp_path / "out.jsonl", RewardConfig(names=NamesConfig(vectors=None)))
    first, second = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert first == {
        **lines[0],
        "reward": pytest.approx(4 / 3),
        "format": 1,
        "object": 1,
        "temporal": pytest.approx(1 / 3),
        "spatial": 1,
        "malformations": {},
    }
    assert second["reward"] == 0 and second["malformations"] == {"unclosed_answer": 1, "no_object": 1}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "w/1/AVTR/0", "completion": ""}', "unknown id 'w/1/AVTR/0'"),
        ("{", "not JSON"),
        ('{"id": 3}', "expected"),
    ],
)
def test_bad_lines_are_named(tmp_path, questions, line, message):
    (tmp_path / "in.jsonl").write_text(line)
    with pytest.raises(ConfigError, match=message):
        score_file(tmp_path / "in.jsonl", questions, tmp_path / "out.jsonl", RewardConfig())
    assert not (tmp_path / "out.jsonl").exists()


def test_word_vectors_are_read_from_text_and_npy(tmp_path):
    (tmp_path / "toy.vec").write_text("2 2\ndog 1 0\ncar 0 1\n")
    np.save(tmp_path / "toy.npy", np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32))
    (tmp_path / "toy.txt").write_text("dog\ncar")
    for name in ("toy.vec", "toy.npy"):
        vectors = FileVectors(tmp_path / name, tau=0.5)
        assert vectors.vector("car") == pytest.approx([0, 1]) and vectors.vector("bird") is None
    matcher = name_matcher(NamesConfig(vectors=str(tmp_path / "toy.vec"), tau=0.5))
    assert matcher.same("dog", "Dogs") and not matcher.same("dog", "car")


def test_unusable_vectors_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"names\.tau"):
        FileVectors(tmp_path / "own.vec")
    (tmp_path / "own.pkl").write_bytes(b"")
    with pytest.raises(ConfigError, match="pickles"):
        FileVectors(tmp_path / "own.pkl", tau=0.5)
    with pytest.raises(ConfigError, match="not readable"):
        FileVectors(tmp_path / "own.vec", tau=0.5)


def test_calibration_takes_the_lowest_threshold_that_keeps_different_names_apart(tmp_path):
    (tmp_path / "toy.vec").write_text("4 2\ndog 1 0\npuppy 0.8 0.6\ncar 0 1\ncat 0.6 0.8\n")
    matcher = NameMatcher(FileVectors(tmp_path / "toy.vec", tau=0.5))
    pairs = [(True, "dog", "puppy"), (False, "dog", "cat"), (False, "dog", "car")]
    found = calibrate(matcher, pairs)  # cosines 0.8, 0.6 and 0: the first step above 0.6
    assert (found.tau, found.recall, found.false_share) == (0.61, 1.0, 0.0)


def test_labelled_pairs_hold_both_kinds_once_each():
    pairs = labelled_pairs()
    assert len({(a, b) for _, a, b in pairs}) == len(pairs) == 173
    assert sum(same for same, _, _ in pairs) == 83


def test_no_name_matches_more_than_a_tenth_of_the_others():
    try:
        matcher = name_matcher(NamesConfig(vectors="glove"))
    except ConfigError as error:
        pytest.skip(str(error))
    assert calibrate(matcher).tau == matcher.tau
    names = {name for _, a, b in labelled_pairs() for name in (a, b)}
    assert match_share(sorted(names), matcher) <= 0.1
    pairs, _ = read_questions(published("ravst_test_annotations.json"))
    assert match_share(sorted({one.name for pair in pairs for one in parse(pair.answer).objects}), matcher) <= 0.1


def test_the_overlong_penalty_is_dapos():
    """Eq. 13 of 2503.14476: 0, then (L_max - L_cache - length) / L_cache, then -1."""
    assert [overlong_penalty(tokens, 100, 20) for tokens in (0, 80, 85, 100, 120)] == [0, 0, -0.25, -1, -1]
    assert overlong_penalty(100, 100, 0) == 0
