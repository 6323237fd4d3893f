"""Prediction with real Ray Data and real vLLM on toy videos; the model is random, so what it says is of no account."""

import io
import json
import shutil
from dataclasses import replace

import pytest
import yaml
from rich.console import Console

from ravst_ray.cli import main
from ravst_ray.config.base import load_config
from ravst_ray.config.video_llm import PredictConfig
from ravst_ray.core.answers import ObjectAnswer, render
from ravst_ray.datasets.ravst_json import dump_questions
from ravst_ray.datasets.tasks import read_tasks
from ravst_ray.errors import ConfigError
from ravst_ray.evaluation.answer_files import answer_files
from ravst_ray.evaluation.answer_lengths import answer_lengths
from ravst_ray.evaluation.predict import AnswerQuestions, Outcome, answer_line, predict
from ravst_ray.policy.families import family_of, fit
from ravst_ray.policy.protocols import Completion, Generation
from ravst_ray.records import QAPair
from ravst_ray.tasks.spaces import AnswerSpace
from ravst_ray.toyworld.training.policy import save_policy
from ravst_ray.toyworld.training.policy_omni import save_omni
from tests.broken_videos import Recipe, write_video
from tests.s3_server import BUCKET

LINES = tuple((float(t), (10.0 * t, 20.0, 60.0 + 10 * t, 90.0)) for t in range(1, 8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_policy(tmp_path_factory.mktemp("policy"), seed=1, hidden=64, layers=2, vision=64)


@pytest.fixture(scope="module")
def hearing(tmp_path_factory):
    return save_omni(tmp_path_factory.mktemp("omni"), seed=1, hidden=64, layers=2, vision=64, audio=64)


def question(video: str, task: str, index: int = 0) -> QAPair:
    when = (1.0, 7.0) if task != "AVSR" else None
    where = LINES if task != "AVTR" else None
    answer = render([ObjectAnswer("red ball", when, where)])
    asked = "When is the moment red ball makes sound and is visible?"
    return QAPair(f"{video}/1/{task}/{index}", video, 1, task, asked, answer)


@pytest.fixture
def annotations(tmp_path):
    def write(*pairs):
        path = tmp_path / "questions.json"
        path.write_text(dump_questions(pairs, {pair.video_id: 8.0 for pair in pairs}))
        return path

    return write


def config(folder, *more):
    small = ["engine.max_model_len=1024", "frames.max_pixels=12544", "sampling.max_tokens=24"]
    return load_config(PredictConfig, None, [f"engine.model={folder}", *small, *more])


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.timeout(600)
def test_questions_are_answered_once_and_the_rest_is_told(hearing, world, annotations, tmp_path, local_ray):
    """By a model that hears."""
    videos = tmp_path / "videos"
    videos.mkdir()
    source = sorted((world.root / "videos").glob("*.mp4"))[0]
    for name in ("a", "b"):
        shutil.copy(source, videos / f"{name}.mp4")
    (videos / "broken.mp4").write_bytes(b"no video")
    write_video(videos / "mute.mp4", Recipe(sound=False))
    pairs = [question(name, task) for name in ("a", "b", "broken", "missing") for task in ("AVTR", "AVSR")]
    pairs.append(question("mute", "AVTR"))
    pairs.append(replace(question("a", "AVTR", 1), question="Where is the <|VIDEO|>?"))
    out = tmp_path / "out" / "answers.jsonl"
    out.parent.mkdir()
    # An earlier run that was cut off in the middle of its second line.
    settings = config(hearing)
    early = annotations(pairs[0])
    from ravst_ray.config.base import dump_config

    frames, prompt = fit(settings.frames, settings.prompt, family_of(str(hearing)))
    assert (frames.sound, frames.max_step_s, prompt.box_space) == ("own", 1.0, "frame")
    begun = settings.model_copy(update={"frames": frames, "prompt": prompt})
    out.write_text('{"id": "a/1/AVTR/0", "prediction": "kept"}\n{"id": "a/1/AV')
    out.with_name("answers.jsonl.config.yaml").write_text(dump_config(begun))
    assert early.exists()

    shown = io.StringIO()
    outcome = predict(annotations(*pairs), videos, out, settings, Console(file=shown, width=200))
    assert (outcome.answered, outcome.new, outcome.failed) == (5, 4, 5)
    answers = {line["id"]: line for line in lines(out)}
    assert sorted(answers) == ["a/1/AVSR/0", "a/1/AVTR/0", "b/1/AVSR/0", "b/1/AVTR/0", "mute/1/AVTR/0"]
    assert [name for name, line in answers.items() if "sound" in line] == ["mute/1/AVTR/0"]
    assert answers["mute/1/AVTR/0"]["sound"] == "missing"
    # 8 s and 3 s of sound, 25 tokens a second, and of silence as many; 4 and 2 pairs of pictures of at most 16 tokens.
    tokens = [answers[f"{name}/1/AVTR/0"]["prompt_tokens"] for name in ("b", "mute")]
    assert 125 < tokens[0] - tokens[1] < 125 + 4 * 16
    assert answers["a/1/AVTR/0"]["prediction"] == "kept"
    assert answers["b/1/AVTR/0"]["tokens"] == 24 and answers["b/1/AVTR/0"]["truncated"]
    reasons = {line["id"]: line["reason"] for line in lines(out.with_name("answers.jsonl.errors.jsonl"))}
    assert reasons == {
        "broken/1/AVTR/0": "not_a_video",
        "broken/1/AVSR/0": "not_a_video",
        "missing/1/AVTR/0": "missing_file",
        "missing/1/AVSR/0": "missing_file",
        "a/1/AVTR/1": "bad_prompt",
    }
    assert "9 questions on 5 videos to answer, 1 answered before" in shown.getvalue()
    assert "AVSR: 100.0% of 4 true answers are longer than sampling.max_tokens = 24" in shown.getvalue()


def test_a_model_that_this_machine_cannot_hold_is_refused_at_once(folder, annotations, tmp_path, local_ray):
    settings, quiet = config(folder, "actors.llm.num_gpus=2"), Console(file=io.StringIO())
    with pytest.raises(ConfigError, match=r"actors.llm: one process takes 1 CPUs and 2 GPUs, this machine has 4 CPUs"):
        predict(annotations(question("a", "AVTR")), tmp_path, tmp_path / "answers.jsonl", settings, quiet)


def test_other_settings_are_refused(folder, annotations, tmp_path):
    out = tmp_path / "answers.jsonl"
    out.write_text('{"id": "a/1/AVTR/0", "prediction": ""}\n')
    out.with_name("answers.jsonl.config.yaml").write_text("sampling: {max_tokens: 99}\n")
    with pytest.raises(ConfigError, match=r"begun with other settings than .*sampling\.max_tokens=24"):
        predict(annotations(question("a", "AVTR")), tmp_path, out, config(folder), Console(file=io.StringIO()))


def test_an_output_of_a_version_with_fewer_settings_is_gone_on_with(folder, hearing, annotations, tmp_path):
    """What it doesn't name was as it is by default, and what the family decides was decided so."""
    pair, out = question("a", "AVTR"), tmp_path / "answers.jsonl"
    out.write_text(json.dumps({"id": pair.qa_id, "prediction": ""}) + "\n")
    known = config(folder).model_dump(mode="json")
    for name in ("multiple", "max_step_s", "sound"):
        del known["frames"][name]
    known["prompt"]["box_space"] = "frame"
    out.with_name("answers.jsonl.config.yaml").write_text(yaml.safe_dump(known))
    done = predict(annotations(pair), tmp_path, out, config(folder), Console(file=io.StringIO()))
    assert (done.answered, done.new) == (1, 0)
    with pytest.raises(ConfigError, match=r"other settings than .*frames\.sound='own'"):
        out.with_name("answers.jsonl.config.yaml").write_text(yaml.safe_dump({"frames": {"sound": "none"}}))
        predict(annotations(pair), tmp_path, out, config(hearing), Console(file=io.StringIO()))


def test_answers_in_an_object_store_are_gone_on_with_and_are_there_however_a_run_ends(
    folder, annotations, tmp_path, s3
):
    answered, pair = question("a", "AVTR"), question("b", "AVTR")
    out, quiet = f"s3://{BUCKET}/told/answers.jsonl", Console(file=io.StringIO())
    begun = json.dumps({"id": answered.qa_id, "prediction": "kept"}) + "\n"
    s3.put("told/answers.jsonl", f'{begun}{{"id": "b/1/AV'.encode())
    s3.put("told/answers.jsonl.config.yaml", yaml.safe_dump(config(folder).model_dump(mode="json")).encode())
    assert predict(annotations(answered), tmp_path, out, config(folder), quiet) == Outcome(1, 0, 0)
    assert s3.get("told/answers.jsonl") == begun.encode()
    with pytest.raises(RuntimeError), answer_files(out) as files:
        with files.path.open("a") as file:
            file.write(json.dumps({"id": pair.qa_id, "prediction": "new"}) + "\n")
        raise RuntimeError
    assert len(s3.get("told/answers.jsonl").splitlines()) == 2
    s3.put("told/answers.jsonl.config.yaml", b"sampling: {max_tokens: 99}\n")
    with pytest.raises(ConfigError, match=f"^{out} was begun with other settings"):
        predict(annotations(pair), tmp_path, out, config(folder), quiet)


def test_the_share_of_answers_out_of_reach_is_counted(folder, annotations, tmp_path):
    tasks = read_tasks(annotations(question("a", "AVTR"), question("a", "AVSR"), question("a", "AVSR", 1)), tmp_path)
    said = answer_lengths(tasks, config(folder, "sampling.max_tokens=40"))
    assert said[0].startswith("AVTR: 0.0% of 1 true answers are longer than sampling.max_tokens = 40")
    assert said[1].startswith("AVSR: 100.0% of 2 true answers")
    # Every fourth second: 2 lines instead of 7.
    assert "AVSR: 0.0%" in answer_lengths(tasks, config(folder, "sampling.max_tokens=80", "prompt.box_step_s=4"))[1]


def test_an_actor_that_ends_ends_its_engine_first(monkeypatch):
    done = []

    class Engine:
        def __init__(self, config):
            done.append("made")

        async def start(self):
            done.append("started")

        async def close(self):
            done.append("closed")

    monkeypatch.setattr("ravst_ray.evaluation.predict.VideoLLM", Engine)
    actor = AnswerQuestions(PredictConfig(engine={"model": "tiny"}))
    assert done == ["made", "started"]
    del actor
    assert done == ["made", "started", "closed"]


def test_a_line_holds_all_samples_in_the_videos_space():
    texts = [f"<answer><object>a</object><where>\n1.0: [{x}, 2, 30, 40]\n</where></answer>" for x in (1, 3)]
    made = Generation((1, 2, 3), tuple(Completion((7, 8), (), (), text, False) for text in texts))
    line = answer_line(question("a", "AVSR"), made, AnswerSpace(0.5, 0.5, True, 1.0))
    assert (line["id"], line["tokens"], line["prompt_tokens"]) == ("a/1/AVSR/0", 2, 3)
    assert "1.0: [2.0, 4.0, 60.0, 80.0]" in line["prediction"]
    assert "1.0: [6.0, 4.0, 60.0, 80.0]" in line["completions"][1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "/no/model"], "engine.model: no model directory /no/model"),
        (["--model", "org/name", "sampling.n=4"], "n > 1 completions would all be the same"),
        (["sampling.typo=4"], "sampling.typo: unknown key"),
    ],
)
def test_bad_settings_end_with_status_2(annotations, tmp_path, capsys, arguments, message):
    given = ["--annotations", str(annotations(question("a", "AVTR"))), "--videos", str(tmp_path)]
    assert main(["predict", *given, "--out", str(tmp_path / "o.jsonl"), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_video_name_that_is_a_path_is_refused(annotations, tmp_path):
    with pytest.raises(ConfigError, match="can't be a file name"):
        read_tasks(annotations(question("../../etc", "AVTR")), tmp_path)


def test_predictions_can_be_scored_as_they_are(annotations, tmp_path):
    pair = question("a", "AVTR")
    (tmp_path / "p.jsonl").write_text(json.dumps({"id": pair.qa_id, "prediction": pair.answer}) + "\n")
    given = ["--completions", str(tmp_path / "p.jsonl"), "--annotations", str(annotations(pair))]
    assert main(["score", *given, "--out", str(tmp_path / "s.jsonl")]) == 0
    (line,) = lines(tmp_path / "s.jsonl")
    assert (line["reward"], line["format"], line["temporal"]) == (2.0, 1.0, 1.0)
