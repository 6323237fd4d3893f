"""VSI-Bench and STI-Bench: files, prompts and rules; every number is worked out here."""

from functools import partial

import pytest

from ravst_ray.errors import ConfigError
from ravst_ray.evaluation.benchmarks import BENCHMARKS, benchmark_of
from ravst_ray.evaluation.benchmarks.answers import final_answer
from ravst_ray.evaluation.benchmarks.files import VideoFolder, benchmark_tasks
from ravst_ray.evaluation.benchmarks.protocols import Answer, Question
from ravst_ray.evaluation.benchmarks.published import PUBLISHED
from ravst_ray.evaluation.benchmarks.sti_bench import KINDS, said_letter
from ravst_ray.evaluation.benchmarks.vsi_bench import EIGHT
from ravst_ray.rewards.answer import relative_accuracy
from tests.benchmark_files import sti_row, vsi_row, write_rows

VSI, STI = BENCHMARKS["vsi-bench"], BENCHMARKS["sti-bench"]
STI_COUNTS = dict(zip(KINDS, (289, 146, 317, 358, 331, 185, 78, 360), strict=True))  # of the published file


def vsi_score(kind: str, truth: str, text: str) -> float:
    question = Question("0", "v", kind, "", truth)
    return VSI.score(question, Answer(text), official=True)["score"]


@pytest.mark.parametrize("ending", ["parquet", "json", "jsonl"])
def test_questions_are_read_from_any_of_the_formats_and_asked_word_for_word(tmp_path, ending):
    rows = [vsi_row(1, "object_counting", "4"), vsi_row(2, "route_planning", "B")]
    number, choice = VSI.read(write_rows(tmp_path / f"test.{ending}", rows))
    assert number.prompt == (
        "These are frames of a video.\nQuestion 1?\nPlease answer the question using a single word or phrase."
    )
    assert choice.prompt == (
        "These are frames of a video.\nQuestion 2?\nOptions:\nA. left\nB. right\nC. back\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert (choice.qa_id, choice.video, choice.kind, choice.truth) == (
        "2",
        "scannet/scene0002_00",
        "route_planning",
        "B",
    )
    (asked,) = STI.read(write_rows(tmp_path / f"qa.{ending}", [sti_row(7, "Spatial Relation", "C")]))
    assert asked.prompt == (
        "From 0.5 s to 3.0 s. How far?\n(A) 0 m\n(B) 1 m\n(C) 2 m\n(D) 3 m\n(E) 4 m\n"
        "Please output only the option letter!"
    )
    assert (asked.qa_id, asked.video, asked.truth) == ("scene0007.mp4/7", "scene0007.mp4", "C")


def test_candidates_may_be_json_text_and_those_that_are_none_are_not_shown(tmp_path):
    rows = [
        sti_row(1, "Spatial Relation", "A", Candidates='{"A": "x", "B": "y"}'),
        sti_row(1, "Spatial Relation", "A", Candidates={"A": "x", "B": "y", "C": None}, time_start=0),
    ]
    first, second = STI.read(write_rows(tmp_path / "qa.json", rows))
    assert first.prompt.splitlines()[1:] == second.prompt.splitlines()[1:]
    assert first.prompt.splitlines()[1:3] == ["(A) x", "(B) y"] and len(first.prompt.splitlines()) == 4
    assert second.prompt.startswith("From 0 s to 3.0 s.")
    assert (first.qa_id, second.qa_id) == ("scene0001.mp4/1", "scene0001.mp4/1~2")


@pytest.mark.parametrize(
    ("name", "rows", "said"),
    [
        ("vsi-bench", [{"id": 1, "question": "Q"}], "no column 'dataset' and 'scene_name'"),
        ("vsi-bench", [vsi_row(1, "object_counting", "4"), vsi_row(2, "object_counting", "many")], "row 1 .*no number"),
        ("vsi-bench", [vsi_row(1, "colour", "4")], "row 0 .*question_type"),
        ("vsi-bench", [vsi_row(1, "route_planning", "A", options=[])], "without options"),
        ("sti-bench", [sti_row(1, "Spatial Relation", "F")], "row 0 .*Answer is 'F'"),
        ("sti-bench", [sti_row(1, "Colour", "A")], "Task is 'Colour', not one of Dimensional Measurement"),
        ("sti-bench", [sti_row(1, "Spatial Relation", "A", Candidates="{A: x")], "row 0 .*Candidates"),
        ("sti-bench", [sti_row(1, "Spatial Relation", "A"), 5], "row 1"),
        ("v-star", [vsi_row(1, "object_counting", "4")], "no column 'vid' and .*: is it the right one"),
        ("v-star", [], "no question"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_place(tmp_path, name, rows, said):
    path = write_rows(tmp_path / "rows.json", rows)
    with pytest.raises(ConfigError, match=said) as failed:
        BENCHMARKS[name].read(path)
    assert str(path) in str(failed.value)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "text.json").write_text("id,question\n1,Q\n")
    for name in ("cut.parquet", "text.json", "missing.json"):
        with pytest.raises(ConfigError, match=name):
            VSI.read(tmp_path / name)
    with pytest.raises(ConfigError, match="known are vsi-bench, sti-bench, v-star"):
        benchmark_of("mmlu")


def test_what_a_rule_is_applied_to():
    assert final_answer("<think>(A)? <answer>A</answer></think>\n<answer> B. </answer> done") == "B."
    assert final_answer("<answer>A</answer> no, <answer>C") == "C"
    assert final_answer("hm</think> 3.5 m") == "3.5 m"
    assert final_answer("<think>so it is A") == ""


def test_relative_accuracy_as_its_code_has_it():
    # A tenth off meets 0.50, 0.55, …, 0.90: 9 of 10. A naive grid of thresholds has 0.9000000000000004 and says 8.
    code = partial(relative_accuracy, 2.0, rounding=0.0)
    assert [code(given) for given in (2.0, 2.2, 1.8, 2.5, 3.0)] == [1.0, 0.9, 0.9, 0.6, 0.1]
    assert [code(given) for given in (0.0, 4.0, -2.0, float("inf"), float("nan"))] == [0.0] * 5


@pytest.mark.parametrize(
    ("text", "score"),
    [("B", 1), ("b.", 1), ("B right", 1), ("B..", 1), ("(B)", 0), ("B,", 0), ("B\nright", 0), ("It is B", 0), ("", 0)],
)
def test_vsi_takes_the_first_word_of_a_choice(text, score):
    assert vsi_score("object_rel_distance", "B", text) == score


def test_vsi_takes_the_first_word_for_a_number():
    assert vsi_score("object_abs_distance", "2.0", "2.2 metres") == 0.9
    assert vsi_score("object_abs_distance", "2.0", "<think>about 5</think>2.0.") == 1.0
    for text in ("2.0m", "about 2.0", "two", "nan", "inf", ""):
        assert vsi_score("object_abs_distance", "2.0", text) == 0.0


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("D", "D"),
        ("(a) or (B)", "A"),
        ("Ans='C', not (E)", "E"),  # the order of the patterns, not that of the text
        ("The answer: definitely B", "D"),
        ("Option b it is", "B"),
        ("C was correct", "C"),
        ("far\nb.\nso", "B"),
        ("It is a bad DEAL", ""),
        ("I say E", "E"),
        ("e", ""),
        ("", ""),
    ],
)
def test_sti_reads_the_letter_by_six_patterns_and_else_the_last_character(text, letter):
    assert said_letter(text) == letter


def test_vsi_averages_the_levels_of_direction_first():
    kinds = [f"object_rel_direction_{level}" for level in ("easy", "easy", "easy", "medium", "hard")]
    questions = [Question(str(i), "v", kind, "", "A") for i, kind in enumerate([*kinds, "route_planning"])]
    scores = {str(i): {"score": float(i < 3)} for i in range(5)} | {"5": {"score": 1.0}}
    found = VSI.summarise(questions, scores, official=False)
    assert found["object_rel_direction"] == pytest.approx(100 / 3, abs=1e-4)
    assert found["overall"] == pytest.approx((100 / 3 + 100) / 2, abs=1e-4)  # of the two tasks that are there
    assert found["micro"] == pytest.approx(100 * 4 / 6, abs=1e-4)
    # Without predictions of two levels the published code counts them 0, ours averages what was asked.
    del scores["3"], scores["4"]
    assert VSI.summarise(questions, scores, official=True)["object_rel_direction"] == pytest.approx(100 / 3, abs=1e-4)
    assert VSI.summarise(questions[:3], scores, official=False)["object_rel_direction"] == 100.0


def test_sti_published_kinds_give_the_published_micro_and_macro():
    """Right answers by kind, from the published percents and the counts of questions, give 34.35 and 36.07."""
    row = next(one for one in PUBLISHED["sti-bench"] if one.name == "Qwen2.5-VL-7B")
    questions, scores = [], {}
    for kind, count in STI_COUNTS.items():
        right = round(row.values[kind] * count / 100)
        for i in range(count):
            questions.append(Question(f"{kind}/{i}", "v", kind, "", "A"))
            scores[f"{kind}/{i}"] = {"score": float(i < right)}
    found = STI.summarise(questions, scores, official=True)
    assert len(questions) == 2064
    assert (round(found["micro"], 2), round(found["macro"], 2)) == (34.35, 36.07)
    assert (row.values["micro"], row.values["macro"]) == (34.35, 36.07)
    assert {kind: found[kind] for kind in KINDS} == pytest.approx({kind: row.values[kind] for kind in KINDS}, abs=0.02)


def test_vsi_published_averages_are_the_mean_of_eight_but_for_those_that_say_so():
    told = [one for one in PUBLISHED["vsi-bench"] if len(one.values) > 1]
    apart = [one for one in told if abs(sum(one.values[k] for k in EIGHT) / 8 - one.values["overall"]) > 0.06]
    assert len(told) == 9 and len(apart) == 2
    assert all("overall isn't the mean" in one.note for one in apart)


def test_trivial_answers_are_the_commonest_letter_and_a_middle_number_of_the_kind():
    truths = [("route_planning", "B"), ("route_planning", "A"), ("route_planning", "B")]
    truths += [("object_counting", number) for number in ("2", "3", "9", "40")]
    questions = [Question(str(i), "v", kind, "", truth) for i, (kind, truth) in enumerate(truths)]
    (row,) = VSI.trivial(questions).values()
    assert list(row.values()) == ["B"] * 3 + ["3"] * 4
    (letters,) = STI.trivial(questions[:3]).values()
    assert set(letters.values()) == {"B"}


def test_videos_are_found_below_the_folder(tmp_path):
    for place in ("scannet/scene0001_00.mp4", "other/clip.MKV", "a/twice.mp4", "b/twice.mp4", "notes.txt"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).touch()
    folder = VideoFolder(tmp_path)
    assert folder.place("scannet/scene0001_00") == str(tmp_path / "scannet/scene0001_00.mp4")
    assert folder.place("elsewhere/scene0001_00") == str(tmp_path / "scannet/scene0001_00.mp4")
    assert folder.place("clip") == str(tmp_path / "other/clip.MKV")
    assert folder.place("b/twice") == str(tmp_path / "b/twice.mp4")
    assert folder.place("scannet/gone") == str(tmp_path / "scannet/gone.mp4")
    assert folder.place("gone.mp4") == str(tmp_path / "gone.mp4")
    with pytest.raises(ConfigError, match="several files"):
        folder.place("twice")
    for name in ("../../etc/passwd", "/etc/passwd", "a//b"):
        with pytest.raises(ConfigError, match="can't be a file"):
            folder.place(name)
    with pytest.raises(ConfigError, match="not a readable folder"):
        VideoFolder(tmp_path / "nowhere")


def test_questions_are_grouped_by_video_for_predict(tmp_path):
    rows = [vsi_row(n, "object_counting", "4", scene_name=f"scene{n % 2}") for n in range(4)]
    path = write_rows(tmp_path / "test.jsonl", rows)
    one, other = benchmark_tasks(VSI, path, tmp_path, limit=3)
    assert (one.video_id, one.path, one.duration_s) == ("scannet/scene0", str(tmp_path / "scannet/scene0.mp4"), 0.0)
    assert [pair.qa_id for pair in one.questions] == ["0", "2"] and [pair.qa_id for pair in other.questions] == ["1"]
    pair = one.questions[0]
    assert (pair.task, pair.event_num, pair.answer) == ("vsi-bench", 0, "4") and "Question 0?" in pair.question
