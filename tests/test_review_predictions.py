"""The page of predictions: scores against arithmetic, order of the list, and what of hostile files is shown."""

import json
import tracemalloc
from contextlib import contextmanager

import pytest
from fastapi.testclient import TestClient

from ravst_ray.cli import main
from ravst_ray.config.review import PredictionsConfig
from ravst_ray.core.answers import ObjectAnswer, render
from ravst_ray.core.graph_replies import render_reply
from ravst_ray.core.graphs import Graph, GraphFrame, Node, render_graph
from ravst_ray.review.predictions import lines
from ravst_ray.review.predictions.scored import names_of
from ravst_ray.review.predictions.server import make_app
from ravst_ray.review.predictions.service import Predictions
from tests.review_output import copy_videos

HOSTILE = "a'\"><script>alert(1)</script> é%2e"
FLAT = Graph((GraphFrame(2.0, (Node("ball.1", "ball", (0.2, 0.4)), Node("drum.1", "drum", (0.7, 0.5)))),))
METRES = Graph((GraphFrame(3.0, (Node("ball.1", "ball", (0.0, 0.0, 1.0)), Node("drum.1", "drum", (2.0, 0.0, 1.0)))),))


def when(start_s, end_s, name="drum"):
    return render([ObjectAnswer(name, (start_s, end_s))])


def where(box, *times_s, name="drum"):
    return render([ObjectAnswer(name, None, tuple((time_s, box) for time_s in times_s))])


def asked(qa_id, task, answer, video="seen", question="Where and when?", **row):
    return {"id": qa_id, "video": video, "duration_s": 10, "task": task, "question": question, "answer": answer, **row}


QUESTIONS = [
    asked("t0", "AVTR", when(0.0, 4.0)),
    asked("t1", "AVTR", when(1.0, 3.0), question="When does the bell ring?"),
    asked("s0", "AVSR", where((0.0, 0.0, 10.0, 10.0), 1.0, 2.0), kind="silent"),
    asked(HOSTILE, "AVTR", when(0.0, 2.0, HOSTILE), video="lost", question=HOSTILE),
    asked("b0", "STR", "B", form="choice", options=["a", "b"], unit="", space="2d", graph=render_graph(FLAT)),
    asked("n0", "STR", "3", form="number", options=[], unit="m", space="3d", graph=render_graph(METRES)),
]
# Totals of two tasks are format + temporal, and format + object / 2 + spatial / 2.
FIRST = {"t0": when(2.0, 4.0), "t1": when(1.0, 3.0), "s0": where((0.0, 0.0, 10.0, 5.0), 1.0, 2.0, name="bell")}
SECOND = {"t0": when(0.0, 4.0), "t1": when(1.0, 2.0), "s0": where((0.0, 0.0, 10.0, 5.0), 1.0, 2.0)}
TOTALS = {"t0": [1.5, 2.0], "t1": [2.0, 1.5], "s0": [1.0, 1.75]}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def files(tmp_path):
    """Writes a file of predictions from ids and texts, or rows."""
    write(tmp_path / "questions.jsonl", QUESTIONS)

    def files(name, given):
        rows = [{"id": key, "prediction": text} for key, text in given.items()] if isinstance(given, dict) else given
        return write(tmp_path / f"{name}.jsonl", rows)

    return files


@contextmanager
def serving(tmp_path, *places, **settings):
    config = PredictionsConfig(**{"names": {"vectors": None}, **settings})
    made = Predictions(places, str(tmp_path / "questions.jsonl"), config)
    with TestClient(make_app(made), base_url="http://127.0.0.1:8765") as client:
        yield client


def listed(client, **wanted):
    answer = client.get("/api/answers", params=wanted)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids(client, **wanted):
    return [one["qa_id"] for one in listed(client, **wanted)["items"]]


def test_two_runs_side_by_side(files, tmp_path):
    with serving(tmp_path, files("before", FIRST), files("after", SECOND)) as client:
        session = client.get("/api/session").json()
        assert [run["name"] for run in session["runs"]] == ["before", "after"]
        assert (session["rows"], session["both"], session["questions"]) == (3, 3, 6)
        assert session["parts"] == ["total", "format", "object", "temporal", "spatial"]
        page = listed(client, order="file")
        assert {one["qa_id"]: one["totals"] for one in page["items"]} == {
            k: pytest.approx(v) for k, v in TOTALS.items()
        }
        assert {one["maximum"] for one in page["items"]} == {2.0}
        assert page["outcomes"] == {"better": 2, "same": 0, "worse": 1, "one": 0}
        assert page["means"]["total"] == pytest.approx([1.5, 1.75, 0.25])
        # A part is the mean of the tasks in which it counts: object and spatial of the one spatial question alone.
        assert page["means"]["temporal"] == pytest.approx([0.75, 0.75, 0.0])
        assert page["means"]["object"] == [0.0, 1.0, 1.0]
        assert page["means"]["spatial"] == pytest.approx([0.0, 0.5, 0.5])
        assert ids(client, order="lost") == ["t1", "t0", "s0"] and ids(client, order="gained") == ["s0", "t0", "t1"]
        assert ids(client, order="worst", run=0) == ["s0", "t0", "t1"]
        assert ids(client, order="best", run=1) == ["t0", "s0", "t1"]
        assert ids(client, order="worst", by="spatial") == ["s0", "t0", "t1"], "without a score: at the end, as asked"
        assert ids(client, outcome="worse") == ["t1"] and ids(client, outcome="same", by="format") == ["t0", "t1", "s0"]
        assert ids(client, task="AVSR") == ["s0"] and ids(client, text="BELL") == ["t1"]
        second = listed(client, order="gained", offset=1, limit=1)
        assert ([one["qa_id"] for one in second["items"]], second["total"]) == (["t0"], 3)
        assert client.get("/api/answers", params={"by": "taste"}).status_code == 404
        assert client.get("/api/answers", params={"limit": 10_000}).status_code == 422
        assert client.post("/api/verdict", json={}).status_code in (404, 405), "nothing can be said here"


def test_a_question_with_its_answers(files, tmp_path):
    with serving(tmp_path, files("before", FIRST), files("after", SECOND)) as client:
        found = client.get("/api/answer", params={"id": "s0"}).json()
        assert (found["task"], found["kind"], found["samples"], found["asked_s"]) == ("AVSR", "silent", 1, 1.0)
        assert found["truth"]["tracks"] == [
            {"name": "drum", "times_s": [1.0, 2.0], "boxes_xyxy_px": [[0.0, 0.0, 10.0, 10.0]] * 2}
        ]
        wrong, right = found["answers"]
        assert wrong["names"] == [{"name": "bell", "right": False}] and wrong["missed"] == ["drum"]
        assert right["names"] == [{"name": "drum", "right": True}] and right["missed"] == []
        assert right["total"] == 1.75 and right["text"] == SECOND["s0"]
        told = {part["name"]: (part["score"], part["weight"]) for part in right["parts"]}
        assert told == {"format": (1.0, 1.0), "object": (1.0, 0.5), "spatial": (0.5, 0.5), "temporal": (0.0, 0.0)}
        assert right["parts"][-1]["name"] == "temporal", "what doesn't count comes last"
        found = client.get("/api/answer", params={"id": "t0"}).json()
        assert found["span"] == [0.0, 4.0]
        assert found["answers"][0]["intervals"] == [{"name": "drum", "start_s": 2.0, "end_s": 4.0}]


def test_letters_numbers_and_graphs_are_told_by_their_task(files, tmp_path):
    shifted = Graph((GraphFrame(2.0, (Node("ball.1", "ball", (0.25, 0.4)),)),))
    said = {"b0": render_reply("C", shifted), "n0": render_reply(2.0, METRES)}
    with serving(tmp_path, files("run", said)) as client:
        choice, number = (client.get("/api/answer", params={"id": key}).json() for key in ("b0", "n0"))
        assert (choice["truth"]["value"], choice["answers"][0]["value"], choice["asked_s"]) == ("B", "C", 2.0)
        assert choice["answers"][0]["graphs"] == [{"time_s": 2.0, "dots": [{"label": "ball", "x": 0.25, "y": 0.4}]}]
        assert (number["truth"]["value"], number["answers"][0]["value"]) == ("3", "2")
        (plan,) = number["answers"][0]["plans"]
        assert plan["time_s"] == 3.0 and [mark["side"] for mark in plan["marks"]] == ["true", "true", "said", "said"]
        for left, top, right, bottom in plan["links"]:  # the model's graph is that of the truth
            assert (left, top) == pytest.approx((right, bottom), abs=1e-6)
        assert listed(client)["outcomes"] is None and {"answer", "node", "edge"} <= listed(client)["means"].keys()


def test_files_that_do_not_fit_are_counted_and_the_rest_is_shown(files, tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "LONGEST", 600)
    text = f"</pre>{HOSTILE}\ud800\x00 <answer>"
    rows = [
        {"id": HOSTILE, "prediction": text, "tokens": "many", "truncated": True, "completions": [text, "", ""]},
        {"id": "t0", "completion": when(2.0, 4.0), "tokens": 7},
        {"id": "elsewhere", "prediction": ""},
        {"id": "t0", "prediction": when(0.0, 4.0), "sound": "missing"},
    ]
    place = files("run", rows)
    with open(place, "ab") as file:
        for line in (
            b"{torn",
            b'"text"',
            b'{"id": "t1", "prediction": 3}',
            b'{"id": "t1"}',
            b"\xff\xfe",
            b"",
            b"x" * 5000,
        ):
            file.write(line + b"\n")
        file.write(json.dumps({"id": "t1", "prediction": when(1.0, 3.0)}).encode())  # without an end of line
    other = files("other", {"s0": SECOND["s0"], "t0": ""})
    with serving(tmp_path, place, other) as client:
        run, second = client.get("/api/session").json()["runs"]
        assert {key: run[key] for key in ("answers", "missing", "repeated", "broken", "foreign", "truncated")} == {
            "answers": 4, "missing": 3, "repeated": 1, "broken": 6, "foreign": 1, "truncated": 1,
        }  # fmt: skip
        assert run["examples"] == {"foreign": ["elsewhere"], "broken": ["line 5", "line 6", "line 7"]}
        assert (second["answers"], second["missing"]) == (2, 4)
        page = listed(client, order="file")
        assert [(one["qa_id"], one["sample"], one["answered"]) for one in page["items"]] == [
            ("t0", 0, [True, True]), ("t0", 1, [True, False]), ("t1", 0, [True, False]),
            ("s0", 0, [False, True]), (HOSTILE, 0, [True, False]),
        ]  # fmt: skip
        assert page["outcomes"] == {"better": 0, "same": 0, "worse": 1, "one": 4}
        again = client.get("/api/answer", params={"id": "t0", "sample": 1}).json()
        assert (again["samples"], again["answers"][0]["total"], again["answers"][1]) == (2, 2.0, None)
        assert again["answers"][0]["silent"] is True
        hostile = client.get("/api/answer", params={"id": HOSTILE}).json()
        assert hostile["answers"][0]["text"] == text and hostile["question"] == HOSTILE
        assert (hostile["answers"][0]["tokens"], hostile["answers"][0]["others"]) == (None, 2)
        assert hostile["answers"][0]["malformed"], "an answer that never ends"
        for wrong in ({"id": "elsewhere"}, {"id": "t1", "sample": 1}, {"id": "n0"}):
            assert client.get("/api/answer", params=wrong).status_code == 404
        files("run", FIRST)  # written anew while it is shown: other lines stand at the old places
        changed = client.get("/api/answer", params={"id": HOSTILE}).json()
        assert changed["error"] == "unreachable" and "start ravst review again" in changed["message"]


def test_an_endless_answer_is_shown_in_part(files, tmp_path):
    crowd = render([ObjectAnswer(f"thing {n}", None, ((1.0, (0.0, 0.0, 9.0, 9.0)),)) for n in range(500)])
    with serving(tmp_path, files("run", {"s0": crowd})) as client:
        (answer,) = client.get("/api/answer", params={"id": "s0"}).json()["answers"]
        assert len(answer["names"]) == len(answer["tracks"]) == 40 and answer["more"] == 460
        assert answer["missed"] == ["drum"] and answer["text"] == crowd


def test_a_video_is_shown_where_there_is_one(files, tmp_path, world):
    video = sorted(world.videos.iterdir())[0]
    folder = copy_videos(video, tmp_path / "videos", "seen")
    place = files("run", {"t0": "", HOSTILE: ""})
    with serving(tmp_path, place, videos=str(folder)) as client:
        assert client.get("/api/answer", params={"id": "t0"}).json()["video"]["found"] is True
        assert client.get("/api/video", params={"video_id": "seen"}).content == video.read_bytes()
        lost = client.get("/api/answer", params={"id": HOSTILE}).json()["video"]
        assert lost["found"] is False and "lost" in lost["why_not"]
        for name in ("lost", "../questions", "questions.jsonl"):
            assert client.get("/api/video", params={"video_id": name}).status_code == 404
        assert "predictions.js" in client.get("/").text and client.get("/static/predictions.js").status_code == 200
    with serving(tmp_path, place) as client:
        assert "--videos" in client.get("/api/answer", params={"id": "t0"}).json()["video"]["why_not"]


def test_settings_are_those_of_the_reward(files, tmp_path):
    place = files("run", FIRST)
    with serving(tmp_path, place, weights={"AVSR": {"object": 0.0, "spatial": 3.0}}) as client:
        (one,) = listed(client, task="AVSR")["items"]
        assert one["maximum"] == 4.0 and "object" not in listed(client, task="AVSR")["means"]
    with serving(tmp_path, place, profile="paper_compat") as client:
        assert client.get("/api/session").json()["parts"] == ["total", "format", "spatial_temporal"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "name OUT"),
        (["--predictions", "{run}"], "go together"),
        (["out", "--predictions", "{run}", "--annotations", "{questions}"], "there is no OUT"),
        (["names.tau=7", "--predictions", "{run}", "--annotations", "{questions}"], "names.tau"),
        (["--predictions", "{foreign}", "--annotations", "{questions}", "--port", "0"], "name the --annotations that"),
        (["--predictions", "{empty}", "--annotations", "{questions}", "--port", "0"], "holds no prediction"),
        (["--predictions", "{run}.gone", "--annotations", "{questions}", "--port", "0"], "not readable"),
        (["--predictions", "{run}", "--annotations", "{empty}", "--port", "0"], "holds no question"),
        (["--predictions", "{run}"] * 3 + ["--annotations", "{questions}", "--port", "0"], "two are compared"),
    ],
)
def test_what_can_not_be_shown_is_said_with_the_fix(files, tmp_path, capsys, options, says):
    places = {
        "run": files("run", FIRST),
        "foreign": files("foreign", {"x/1": ""}),
        "empty": files("empty", {}),
        "questions": tmp_path / "questions.jsonl",
    }
    assert main(["review", *(one.format(**places) for one in options)]) == 2
    said = capsys.readouterr().err
    assert says in said and "Traceback" not in said


def test_runs_are_called_by_what_tells_them_apart():
    assert names_of(["s3://bucket/run1/answers.jsonl?region=x", "run2/answers.jsonl"]) == [
        "run1/answers",
        "run2/answers",
    ]
    assert names_of(["a.jsonl", "a.jsonl"]) == ["a (1)", "a (2)"] and names_of(["out/a.jsonl"]) == ["a"]


def test_of_many_answers_numbers_are_kept_and_no_texts(tmp_path):
    count, padding = 1000, "x" * 10_000
    write(tmp_path / "questions.jsonl", [asked(f"q{n}", "AVTR", when(0.0, 4.0)) for n in range(count)])
    said = [f"<think>{padding}</think>{when(0.0, 4.0 * (n + 1) / count)}" for n in range(count)]
    place = write(tmp_path / "run.jsonl", [{"id": f"q{n}", "prediction": text} for n, text in enumerate(said)])
    tracemalloc.start()
    with serving(tmp_path, place) as client:
        kept_bytes, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert kept_bytes < len(padding) * count / 2
        assert ids(client, order="worst", limit=3) == ["q0", "q1", "q2"]
        assert ids(client, order="best", limit=2) == [f"q{count - 1}", f"q{count - 2}"]
        assert listed(client, order="best", offset=count - 1)["items"][0]["scores"] == pytest.approx([1 + 1 / count])
