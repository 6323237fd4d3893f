"""Benchmarks from the command line: predictions in; metrics, tables and questions out. And how they are asked."""

import dataclasses
import json

import pytest

from ravst_ray.cli import main
from ravst_ray.config.base import load_config
from ravst_ray.config.benchmarks import BenchmarkConfig, JudgeConfig
from ravst_ray.config.video_llm import FramesConfig, PredictConfig, PromptConfig
from ravst_ray.datasets.tasks import VideoTask
from ravst_ray.errors import AbortError, ConfigError, StepError
from ravst_ray.evaluation.benchmarks import BENCHMARKS
from ravst_ray.evaluation.benchmarks.judge import judge_client
from ravst_ray.evaluation.benchmarks.run import evaluate_benchmark
from ravst_ray.evaluation.predict import DecodeClips, answer_line
from ravst_ray.language.protocols import ChatAnswer
from ravst_ray.media.clips import view_times
from ravst_ray.policy.prompts import question_prompt
from ravst_ray.policy.protocols import Completion, Generation
from ravst_ray.records import QAPair, VideoView
from tests.benchmark_files import star_row, sti_row, vsi_row, write_answers, write_rows
from tests.broken_videos import Recipe, write_video
from tests.fake_endpoint import FakeEndpoint, completion

STI_ROWS = [sti_row(n, kind, "B") for n, kind in enumerate(["Spatial Relation"] * 3 + ["Pose Estimation"])]


def test_a_missing_prediction_is_wrong_in_ours_and_left_out_by_the_published_code(tmp_path, capsys):
    rows = write_rows(tmp_path / "qa.parquet", STI_ROWS)
    said = {"scene0000.mp4/0": "B", "scene0001.mp4/1": "(A)", "scene0003.mp4/3": "<think>A</think>B"}
    write_answers(tmp_path / "p.jsonl", said)
    (tmp_path / "p.jsonl.config.yaml").write_text("engine: {model: m}\nframes: {max_frames: 30, multiple: null}\n")
    arguments = ["--predictions", f"{tmp_path}/p.jsonl", "--annotations", str(rows), "--out", f"{tmp_path}/out"]
    assert main(["evaluate", "--benchmark", "sti-bench", *arguments]) == 0
    shown = capsys.readouterr().out
    assert "STI-Bench, this run: micro 50.00, macro 66.67" in shown
    assert "STI-Bench, by the published code: micro 66.67, macro 75.00" in shown
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics["ours"]["Spatial Relation"] == pytest.approx(100 / 3, abs=1e-4)
    assert metrics["official"]["Spatial Relation"] == 50.0
    assert (metrics["n"], metrics["n_missing"], metrics["judge"]) == (4, 1, None)
    assert metrics["trivial"]["the commonest letter of each kind"]["micro"] == 100.0
    assert metrics["groups"]["scene"]["indoor"]["micro"] == 50.0
    questions = [json.loads(line) for line in (tmp_path / "out/questions.jsonl").read_text().splitlines()]
    assert [(one["answered"], one["answer"], one["score"]) for one in questions] == [
        (True, "B", 1.0),
        (True, "(A)", 0.0),
        (False, "", 0.0),
        (True, "B", 1.0),
    ]
    table = (tmp_path / "out/table.md").read_text()
    assert "| **this run** | 50.00 | 66.67 |" in table and "| **this run, by the published code** | 66.67 |" in table
    assert "engine.model=m; frames.max_frames=30." in table
    assert (
        "| Qwen2.5-VL-7B, SpaceR's code [1] | 34.35 | 36.07 | 21.45 |" in table
        and "README of OuyangKun10/Spatial-R1" in table
    )
    page = (tmp_path / "out/index.html").read_text()
    assert '<data value="50">50.00</data></div><div class="note">not above 100.00 (trivial)' in page
    assert (
        '<tr class="run"><th>this run</th><td class="n">50.00</td>' in page
        and '<tr class="paper"><th>SpaceR-7B, 32 frames' in page
    )


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ({"x": "A"}, "unknown id 'x'"),
        ({"1": {"prediction": "4", "box_scale": [0, 1]}}, "box_scale"),
        ({"1": {"prediction": 4}}, "expected"),
    ],
)
def test_predictions_that_do_not_fit(tmp_path, lines, said):
    rows = write_rows(tmp_path / "test.json", [vsi_row(1, "object_counting", "4")])
    with pytest.raises(ConfigError, match=said):
        evaluate_benchmark(BENCHMARKS["vsi-bench"], write_answers(tmp_path / "p.jsonl", lines), rows, tmp_path / "out")


def test_the_command_line_names_the_benchmarks(tmp_path, capsys):
    arguments = ["--predictions", "p", "--annotations", "a", "--out", str(tmp_path)]
    assert main(["evaluate", "--benchmark", "mmlu", *arguments]) == 2
    assert "known are vsi-bench, sti-bench, v-star" in capsys.readouterr().err


class StubJudge:
    """Marks by the candidate; counts what it is asked."""

    def __init__(self):
        self.asked = []

    async def complete(self, messages, schema=None, *, max_tokens=256, temperature=0.0, seed=0):
        candidate = messages[1]["content"].split("Candidate answer: ")[1].split("\n")[0]
        self.asked.append(candidate)
        if candidate == "away":
            raise StepError("llm_unreachable", "away", retryable=True)
        return ChatAnswer({"a crimson ball": "2", "a hat": "1"}.get(candidate, "3"))


def test_a_judge_marks_free_answers_once(tmp_path):
    rows = write_rows(tmp_path / "star.json", [star_row("a"), star_row("b"), star_row("c")])
    said = {"a/1/what": "a crimson ball", "b/1/what": "a hat", "c/1/what": "away", "a/1/when": "[2.5, 5.5]"}
    answers = write_answers(tmp_path / "p.jsonl", said)
    judge = StubJudge()
    run = lambda: evaluate_benchmark(  # noqa: E731
        BENCHMARKS["v-star"], answers, rows, tmp_path / "out", BenchmarkConfig(judge=JudgeConfig()), judge
    )
    metrics = run()
    assert metrics["judge"] == "Qwen/Qwen2.5-72B-Instruct"
    assert metrics["ours"]["Acc"] == pytest.approx(100 / 3, abs=1e-4) and metrics["ours"]["normalised"] == 0.0
    assert metrics["ours"]["m_tIoU 1"] == pytest.approx(100 / 3, abs=1e-4)
    assert metrics["groups"]["length"]["short (< 60 s)"]["n"] == 15
    marks = [json.loads(line).get("verdict") for line in (tmp_path / "out/questions.jsonl").read_text().splitlines()]
    assert [mark for mark in marks if mark is not None] == [2, 1, -1]
    first = len(judge.asked)
    assert run() == metrics
    assert judge.asked[first:] == ["away"]  # what was marked is kept; what failed is asked again


def test_the_judge_may_be_any_endpoint(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    rows = write_rows(tmp_path / "star.json", [star_row("a")])
    answers = write_answers(tmp_path / "p.jsonl", {"a/1/what": "<think>a hat?</think>a crimson ball"})
    with FakeEndpoint(lambda request, number: completion("3")) as endpoint:
        settings = [f"judge.base_url={endpoint.base_url}", "judge.model=small"]
        config = load_config(BenchmarkConfig, None, settings)
        metrics = evaluate_benchmark(BENCHMARKS["v-star"], answers, rows, tmp_path / "out", config)
    assert (metrics["ours"]["Acc"], metrics["judge"]) == (100.0, "small")
    # The run's answer, and that of the trivial rows, which is the same for both.
    asked = {request["messages"][1]["content"].split("Candidate answer: ")[1] for request in endpoint.requests}
    assert asked == {"a crimson ball\nYour response: ", "A red ball.\nYour response: "}
    assert {(request["model"], request["temperature"]) for request in endpoint.requests} == {("small", 0.0)}


def test_without_a_judge_the_table_says_what_acc_is(tmp_path):
    rows = write_rows(tmp_path / "star.json", [star_row("a")])
    answers = write_answers(tmp_path / "p.jsonl", {"a/1/what": "red ball"})
    metrics = evaluate_benchmark(BENCHMARKS["v-star"], answers, rows, tmp_path / "out")
    assert (metrics["ours"]["Acc"], metrics["ours"]["exact"]) == (100.0, 0.0)
    table = (tmp_path / "out/table.md").read_text()
    assert "without a judge, 'what' must agree" in table and "The judge was" not in table


def test_a_judge_without_a_key_is_refused_by_its_own_setting(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="the judge needs the environment variable OPENAI_API_KEY"):
        judge_client(JudgeConfig(base_url="http://host.example/v1"))
    with pytest.raises(ConfigError, match=r"judge\.base_url"):
        judge_client(JudgeConfig(base_url="host"))


def test_a_judge_that_refuses_all_ends_the_run(tmp_path):
    class Refuses(StubJudge):
        async def complete(self, messages, schema=None, **more):
            raise AbortError("the key is refused")

    rows = write_rows(tmp_path / "star.json", [star_row("a")])
    answers = write_answers(tmp_path / "p.jsonl", {"a/1/what": "ball"})
    with pytest.raises(AbortError):
        config = BenchmarkConfig(judge=JudgeConfig())
        evaluate_benchmark(BENCHMARKS["v-star"], answers, rows, tmp_path / "out", config, Refuses())


@pytest.mark.parametrize("name", BENCHMARKS)
def test_settings_fit_the_configuration_and_give_way_to_the_command_line(name):
    config = load_config(PredictConfig, None, [*BENCHMARKS[name].settings, "sampling.max_tokens=99"])
    assert config.prompt.verbatim and config.sampling.temperature == 0.0 and config.sampling.max_tokens == 99
    frames = {"vsi-bench": (True, 32), "sti-bench": (True, 30), "v-star": (False, 768)}[name]
    assert (config.frames.uniform, config.frames.max_frames) == frames


def test_uniform_frames_are_so_many_of_any_video():
    config = FramesConfig(uniform=True, max_frames=4)
    assert view_times(10.0, config) == (2.5, (0.0, 2.5, 5.0, 7.5))
    assert view_times(1.0, config) == (0.25, (0.0, 0.25, 0.5, 0.75))
    assert len(view_times(97.31, FramesConfig(uniform=True, max_frames=30))[1]) == 30
    with pytest.raises(StepError, match="max_frames"):
        view_times(100.0, FramesConfig(uniform=True, max_frames=4, max_step_s=2.0))


def test_a_verbatim_question_is_asked_alone_and_its_answer_kept():
    view = VideoView(8, 1.0, 112, 56, 8.0, 448, 112)
    assert question_prompt("AVTR", "Where?", view, PromptConfig(verbatim=True)) == "Where?"
    thinking = question_prompt("AVTR", "Where?", view, PromptConfig(verbatim=True, think=True))
    assert thinking.startswith("Where?\n") and "<think></think>" in thinking and "<answer></answer>" in thinking
    text = "<where>\n1.0: [1, 2, 3, 4]\n</where>"
    generation = Generation((1, 2), (Completion((3,), (), (), text, False),))
    assert answer_line(QAPair("q", "v", 0, "vsi-bench", "", ""), generation, None)["prediction"] == text


def test_a_video_whose_length_nobody_states_is_shown_to_its_end(tmp_path):
    write_video(tmp_path / "v.mp4", Recipe(pictures=50, gaps_ms=(40,)))  # 2 s
    config = load_config(PredictConfig, None, ["frames.uniform=true", "frames.max_frames=4", "frames.max_pixels=12544"])
    decode = DecodeClips(config)
    task = dataclasses.asdict(VideoTask("v", str(tmp_path / "v.mp4"), 0.0, ()))
    view = json.loads(decode._row(task)["state"])["view"]
    assert (view["frames"], view["step_s"], view["duration_s"]) == (
        4,
        pytest.approx(0.5, abs=0.02),
        pytest.approx(2.0, abs=0.08),
    )
    gone = json.loads(decode._row({**task, "path": str(tmp_path / "gone.mp4")})["state"])
    assert gone["error"][0] == "missing_file"
    decode._decoder.close()


def test_answers_from_elsewhere_that_are_odd(tmp_path):
    """Half a character is kept as it came; an unknown id and a line nested too deep are named."""
    rows = write_rows(tmp_path / "qa.parquet", STI_ROWS)
    (tmp_path / "p.jsonl").write_text(json.dumps({"id": "scene0000.mp4/0", "prediction": "\ud800 (B)"}) + "\n")
    found = evaluate_benchmark(BENCHMARKS["sti-bench"], tmp_path / "p.jsonl", rows, tmp_path / "out")
    assert found["ours"]["micro"] == 25.0
    lines = (tmp_path / "out/questions.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["answer"] == "\ud800 (B)"
    for line, said in (
        ('{"id": "zz", "prediction": "B"}', "unknown id 'zz'; .* one of them is 'scene0000.mp4/0'"),
        ("[" * 100_000, "p.jsonl:1: not JSON"),
    ):
        (tmp_path / "p.jsonl").write_text(line + "\n")
        with pytest.raises(ConfigError, match=said):
            evaluate_benchmark(BENCHMARKS["sti-bench"], tmp_path / "p.jsonl", rows, tmp_path / "out")
