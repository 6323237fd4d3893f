"""Metrics, baselines and what an evaluation writes, by hand."""

import json

import pytest

from ravst_ray.config.rewards import EvaluateConfig, NamesConfig
from ravst_ray.datasets.ravst_json import read_questions
from ravst_ray.errors import ConfigError
from ravst_ray.evaluation.baselines import PREVIOUS
from ravst_ray.evaluation.evaluate import evaluate
from ravst_ray.evaluation.tables import task_rows
from ravst_ray.tasks.avst_trivial import CENTRE_BOX, MIDDLE_HALF, WHOLE_VIDEO
from tests.published import published, question, when, where

A, HALF, NONE = (0, 0, 10, 10), (0, 0, 10, 5), (0, 0, 0, 0)
CONFIG = EvaluateConfig(names=NamesConfig(vectors=None), bootstrap=200, plots=False)


def entry(video, duration, **questions):
    keys = {"AVTR": "AV Temporal Reasoning", "AVSR": "AV Spatial Reasoning", "AVSTR": "AV ST Reasoning"}
    event = {keys[task]: [{"Q": q, "A": a} for q, a in found] for task, found in questions.items()}
    return {"video_name": video, "duration": duration, "annotation": [{"event_num": 1, **event}]}


TEMPORAL_Q = "When is the moment dog makes sound and is visible?"
SPATIAL_Q = "What visible object(s) make sound between 0.0 and 4.0, and where is/are they?"
ENTRIES = [
    entry(
        "a",
        16.0,
        AVTR=[(TEMPORAL_Q, question("dog", when(0, 4)))],
        AVSR=[
            (SPATIAL_Q, question("dog", where((0, A), (1, A), (2, A), (3, A)))),
            (SPATIAL_Q, question("cat", where())),
        ],
    ),
    entry("b", 30.0, AVTR=[(TEMPORAL_Q, question("dog", when(0, 15)))]),
    entry("c", 50.0, AVSTR=[(TEMPORAL_Q, question("dog", when(0, 10), where((0, A), (1, NONE))))]),
]
PREDICTIONS = {
    "a/1/AVTR/0": question("dog", when(2, 6)),  # tIoU 2/6
    # s: 1, 0.5, then a missed second; second 9 is extra: vIoU 1.5/4, union 1.5/5
    "a/1/AVSR/0": question("dog", where((0, A), (1, HALF), (9, A))),
    "a/1/AVSR/1": question("dog", where()),
    "c/1/AVSTR/0": question("dog", when(0, 10), where((0, A), (1, A))),  # vIoU 1, union 1/2
}


@pytest.fixture
def files(tmp_path):
    (tmp_path / "questions.json").write_text(json.dumps(ENTRIES))
    lines = [json.dumps({"id": key, "prediction": text, "extra": 1}) for key, text in PREDICTIONS.items()]
    (tmp_path / "predictions.jsonl").write_text("\n".join(lines))
    return tmp_path


@pytest.fixture
def metrics(files):
    return evaluate(files / "predictions.jsonl", files / "questions.json", files / "out", CONFIG)


def only(entry, *names):
    return {name: entry[name] for name in names}


def test_temporal_metrics(metrics):
    # 2/6 and a missing prediction
    assert only(metrics["AVTR"], "n", "n_missing", "m_tIoU", "R1@0.3", "R1@0.5", "R1@0.7") == {
        "n": 2,
        "n_missing": 1,
        "m_tIoU": pytest.approx(100 / 6, abs=1e-3),
        "R1@0.3": 50,
        "R1@0.5": 0,
        "R1@0.7": 0,
    }


def test_spatial_metrics(metrics):
    entry = metrics["AVSR"]
    assert only(entry, "n", "n_missing", "n_no_box") == {"n": 2, "n_missing": 0, "n_no_box": 1}
    # objects: right once of two; boxes: the question without any true box is left out
    assert only(entry, "obj_acc", "obj_precision", "obj_recall") == {
        "obj_acc": 50,
        "obj_precision": 50,
        "obj_recall": 50,
    }
    assert entry["m_vIoU"] == pytest.approx(37.5) and entry["m_vIoU_union"] == pytest.approx(30)
    assert entry["AP@0.3"] == 50 and entry["AP@0.5"] == 50  # two of four seconds; exactly 0.5 counts
    assert entry["vIoU@0.3"] == 100 and entry["vIoU@0.5"] == 0


def test_spatio_temporal_metrics(metrics):
    assert only(metrics["AVSTR"], "m_tIoU", "m_vIoU", "m_vIoU_union", "AP@0.5") == {
        "m_tIoU": 100,
        "m_vIoU": 100,
        "m_vIoU_union": 50,
        "AP@0.5": 100,
    }


def test_groups(metrics):
    groups = metrics["groups"]
    assert list(groups["duration"]) == ["long", "medium", "short"]
    assert groups["duration"]["short"]["AVTR"]["m_tIoU"] == pytest.approx(100 / 3, abs=1e-3)
    assert groups["duration"]["medium"]["AVTR"]["m_tIoU"] == 0
    assert groups["objects"]["1"]["AVTR"]["n"] == 2
    assert "category" not in groups


def test_event_categories_come_from_the_labels(files):
    labels = {
        "database": {
            "a": {"annotations": [{"segment": [0, 4], "label": "bark"}, {"segment": [9, 12], "label": "horn"}]}
        }
    }
    (files / "labels.json").write_text(json.dumps(labels))
    config = CONFIG.model_copy(update={"event_labels": str(files / "labels.json")})
    found = evaluate(files / "predictions.jsonl", files / "questions.json", files / "out", config)["groups"]["category"]
    assert list(found) == ["bark"] and found["bark"]["AVTR"]["n"] == 1 and found["bark"]["AVSR"]["n"] == 2


def test_baselines(metrics):
    baselines = metrics["baselines"]
    # 4 of 16 s and 15 of 30 s
    assert baselines[WHOLE_VIDEO]["AVTR"]["m_tIoU"] == pytest.approx(100 * (0.25 + 0.5) / 2)
    # the middle halves are [4, 12] and [7.5, 22.5]: nothing shared with [0, 4]; 7.5 / 22.5 with [0, 15]
    assert baselines[MIDDLE_HALF]["AVTR"]["m_tIoU"] == pytest.approx(100 / 6, abs=1e-3)
    # each gets the other's truth: 4/15 twice
    assert baselines[PREVIOUS]["AVTR"]["m_tIoU"] == pytest.approx(100 * 4 / 15, abs=1e-3)
    # the frame is taken to be 320x180: the middle of it shares nothing with the corner
    assert baselines[CENTRE_BOX]["AVSR"]["m_vIoU"] == 0
    assert baselines[CENTRE_BOX]["AVSR"]["obj_acc"] == 50


def test_intervals_hold_the_average_and_repeat(metrics, files):
    for task in ("AVTR", "AVSR"):
        for name, (low, high) in metrics[task]["ci95"].items():
            assert low <= metrics[task][name] <= high
    again = evaluate(files / "predictions.jsonl", files / "questions.json", files / "again", CONFIG)
    assert again == metrics


def test_what_is_written(metrics, files):
    assert json.loads((files / "out" / "metrics.json").read_text()) == metrics
    table = (files / "out" / "table.md").read_text()
    assert "*the whole video*" in table and "AVST-Zero (paper)" in table and "47.96" in table
    page = (files / "out" / "index.html").read_text()
    assert "the middle half" in page and "16.67" in page
    assert "not above 37.50 (the whole video)" in page and "1 without a prediction" in page
    rows = [json.loads(line) for line in (files / "out" / "questions.jsonl").read_text().splitlines()]
    assert len(rows) == 5 and rows[0]["m_tIoU"] == pytest.approx(1 / 3)
    assert [kind for kind, _, _ in task_rows(metrics, "AVTR")] == ["run"] + ["baseline"] * 3 + ["paper"] * 4


def test_the_page_draws_what_the_questions_scored(metrics, files):
    assert "<svg" not in (files / "out" / "index.html").read_text(), "the settings say no plots"
    config = CONFIG.model_copy(update={"plots": True})
    evaluate(files / "predictions.jsonl", files / "questions.json", files / "out", config)
    page = (files / "out" / "index.html").read_text()
    # tIoU: 2/6, a missing prediction, and 1; vIoU: 1.5/4 and 1
    assert 'aria-label="Intervals (tIoU): m_tIoU, mean 0.44"' in page
    assert 'aria-label="Boxes (vIoU): m_vIoU, mean 0.69"' in page
    assert 'title="0.30–0.35: 1"' in page and 'title="0.35–0.40: 1"' in page
    assert 'title="short: m_tIoU 33.33, m_vIoU 37.50"' in page and 'title="long: m_tIoU 100.00, m_vIoU 100.00"' in page
    told = ["a/1/AVTR/0: true 0–25%, predicted 12–38%", "b/1/AVTR/0: true 0–50%, predicted none"]
    for title in (*told, "c/1/AVSTR/0: true 0–20%, predicted 0–20%"):
        assert f"<title>{title}</title>" in page


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"id": "a/1/AVTR/0", "prediction": ""}] * 2, "'a/1/AVTR/0' is there twice"),
        ([{"id": "z/1/AVTR/0", "prediction": ""}], "unknown id 'z/1/AVTR/0'"),
        ([{"id": "a/1/AVTR/0", "prediction": None}], "expected"),
    ],
)
def test_duplicates_and_unknown_ids_are_named(files, lines, message):
    (files / "bad.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ConfigError, match=message):
        evaluate(files / "bad.jsonl", files / "questions.json", files / "out", CONFIG)


def test_the_whole_video_on_the_published_questions(tmp_path):
    path = published("ravst_test_annotations.json")
    truths = {pair.qa_id: pair.answer for pair in read_questions(path)[0]}
    (tmp_path / "truth.jsonl").write_text(
        "".join(json.dumps({"id": key, "prediction": text}) + "\n" for key, text in truths.items())
    )
    found = evaluate(tmp_path / "truth.jsonl", path, tmp_path / "out", CONFIG)
    for task in ("AVTR", "AVSR", "AVSTR"):
        assert all(value == 100 for name, value in found[task].items() if "@" in name or name.startswith(("m_", "obj")))
    # from the part of the test set that lies here; over all of it: 58.3
    assert found["baselines"][WHOLE_VIDEO]["AVTR"]["m_tIoU"] == pytest.approx(58.9618, abs=1e-3)
