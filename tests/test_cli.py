"""The command line: what it says, and its exit status."""

import json
from pathlib import Path

import pytest

from ravst_ray import cli
from ravst_ray.errors import AbortError, ConfigError, StepError

LAPTOP = str(Path(__file__).parents[1] / "jobs" / "configs" / "annotate_laptop.yaml")


@pytest.mark.parametrize(
    ("raised", "status", "said"),
    [
        (None, 0, ""),
        (AbortError("the key is refused"), 1, "ravst annotate: aborted: the key is refused"),
        (StepError("odd", "escaped"), 1, "ravst annotate: aborted: escaped"),
        (ConfigError("no such model"), 2, "ravst annotate: no such model"),
        (KeyboardInterrupt(), 1, "the same command goes on from here"),
    ],
)
def test_exit_status(monkeypatch, capsys, raised, status, said):
    def annotate(config, console):
        assert config.seed == 7
        if raised is not None:
            raise raised

    monkeypatch.setattr("ravst_ray.annotate.run.annotate", annotate)
    assert cli.main(["annotate", "--config", LAPTOP, "seed=7"]) == status
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", ["annotate", "toyworld", "review", "score", "evaluate"])
def test_help_shows_an_example(capsys, command):
    with pytest.raises(SystemExit) as done:
        cli.main([command, "--help"])
    assert done.value.code == 0
    assert f"  ravst {command} --" in capsys.readouterr().out


def test_bad_arguments_end_with_2(capsys):
    strangers = ["review", "out", "--port", "0", "more"], ["review", "out", "--bogus=1"], ["status", "out", "seed=7"]
    for arguments in ([], ["dance"], ["toyworld", "--out", "x", "--videos", "0"], *strangers):
        with pytest.raises(SystemExit) as done:
            cli.main(arguments)
        assert done.value.code == 2


def test_settings_may_stand_behind_options_and_between_them(monkeypatch):
    given = []
    monkeypatch.setattr("ravst_ray.review.run.serve", lambda output, config, say: given.append((output, config)))
    assert cli.main(["review", "out", "seed=7", "--port", "0", "--reviewer", "ann", "usd_per_hour=30"]) == 0
    ((output, config),) = given
    assert (output, config.seed, config.reviewer, config.usd_per_hour) == ("out", 7, "ann", 30.0)


def test_score_and_evaluate_a_true_answer(tmp_path, capsys):
    answer = "<answer>\n<object>dog</object>\n<when>[1.0, 4.0]</when>\n</answer>"
    event = {"event_num": 1, "AV Temporal Reasoning": [{"Q": "When is the moment dog makes sound and is visible?"}]}
    event["AV Temporal Reasoning"][0]["A"] = answer
    questions = [{"video_name": "v", "duration": 10.0, "annotation": [event]}]
    (tmp_path / "truth.json").write_text(json.dumps(questions))
    files = {"completion": "score", "prediction": "evaluate"}
    for key in files:
        half = answer.replace("4.0", "2.5")
        (tmp_path / f"{key}.jsonl").write_text(json.dumps({"id": "v/1/AVTR/0", key: half}) + "\n")
    truth = ["--annotations", str(tmp_path / "truth.json"), "names.vectors=null"]
    completions, scored = str(tmp_path / "completion.jsonl"), tmp_path / "scored.jsonl"
    assert cli.main(["score", "--completions", completions, "--out", str(scored), *truth]) == 0
    assert json.loads(scored.read_text())["temporal"] == 0.5
    assert json.loads(scored.read_text())["reward"] == 1.5, "format 1, tIoU (2.5 - 1) / (4 - 1) = 0.5"
    predictions = str(tmp_path / "prediction.jsonl")
    arguments = ["--predictions", predictions, "--out", str(tmp_path / "eval"), *truth, "plots=false"]
    assert cli.main(["evaluate", *arguments]) == 0
    assert json.loads((tmp_path / "eval" / "metrics.json").read_text())["AVTR"]["m_tIoU"] == 50.0
    assert "AVTR: n 1, m_tIoU 50.00" in capsys.readouterr().out
