"""The review page's server: what it gives, whom it gives it to, and what it does with what it is told."""

import io
import json
import shutil
import socket
import threading
from collections import Counter
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from ravst_ray.cli import main
from ravst_ray.config.review import ReviewConfig
from ravst_ray.datasets.schemas import ANNOTATIONS, QA
from ravst_ray.datasets.store import DatasetStore
from ravst_ray.errors import ConfigError
from ravst_ray.media.protocols import Timeline
from ravst_ray.records import VideoMeta
from ravst_ray.review import run as run_module
from ravst_ray.review.apply import Reviser
from ravst_ray.review.files import byte_range, why_unplayable
from ravst_ray.review.guard import HEADERS, Guard
from ravst_ray.review.server import make_app
from ravst_ray.review.service import Review
from tests.review_output import copy_videos, item, write_output

HOSTILE = "a'\"><script>alert(1)<script> é%2e"
TOKEN = "0123456789abcdef0123"
HERE = "http://127.0.0.1:8765"


@pytest.fixture(scope="module")
def dataset(world, tmp_path_factory):
    """Two videos with their file and hostile names, one without a file; its id would be a path."""
    root = tmp_path_factory.mktemp("review")
    video = sorted(world.videos.iterdir())[0]
    folder = copy_videos(video, root / "videos", "seen", HOSTILE)
    (root / "outside.mp4").write_bytes(video.read_bytes())
    write_output(str(root / "out"), [item("seen"), item(HOSTILE), item("../outside"), item("lost")], folder)
    return root


@pytest.fixture
def served(dataset, tmp_path):
    """A client of a server for a copy of the output."""
    shutil.copytree(dataset / "out", tmp_path / "out")
    with opened(tmp_path / "out") as client:
        yield client


def opened(output, base_url=HERE, **settings) -> TestClient:
    settings = {"reviewer": "ann", "sample_rows": 4, **settings}
    return TestClient(
        make_app(Review(str(output), ReviewConfig(**settings))), base_url=base_url, follow_redirects=False
    )


def post(client, path="/api/verdict", status=200, **body):
    answer = client.post(path, json={"video_id": "seen", "event_num": 1, "on": None, **body})
    assert answer.status_code == status, answer.text
    return answer.json()


def test_a_person_goes_through_the_queue(served, dataset):
    session = served.get("/api/session").json()
    assert (session["rows"], session["videos"], session["reviewer"], session["writable"]) == (8, 4, "ann", True)
    assert session["tasks"] == ["AVTR", "AVSR", "AVSTR"] and session["ranges"]["objects"] == [2, 3]
    assert session["running"] is False and session["problems"] == []
    page = served.get("/api/queue", params={"label": "man speaking", "limit": 3}).json()
    assert (page["total"], len(page["items"])) == (4, 3)
    assert page["sections"]["sample"] == {"rows": 4, "left": 4} and page["sections"]["rest"] == {"rows": 4, "left": 4}
    (row,) = served.get("/api/queue", params={"video": "seen", "label": "man speaking"}).json()["items"]
    assert (row["annotation_id"], row["tasks"]) == ("seen/1", {"AVSR": 2, "AVSTR": 1, "AVTR": 1})
    saved = post(served, what="reject", seconds=2.0, section="sample")
    assert saved["item"]["version"] == saved["id"] and saved["item"]["can_undo"]
    assert saved["item"]["events"][0]["verdict"] == "rejected" == saved["item"]["events"][0]["status"]
    assert saved["item"]["events"][0]["machine_status"] == "accepted"
    (row,) = served.get("/api/queue", params={"reviewed": "yes"}).json()["items"]
    assert (row["annotation_id"], row["verdict"], row["reviewers"]) == ("seen/1", "rejected", ["ann"])
    edit = {"op": "rename", "name": "drum", "to": "dog"}
    changed = post(served, on=saved["id"], what="edit", edit=edit, reviewer="bob", seconds=4.0)
    assert [one["what"] for one in changed["item"]["history"]] == ["reject", "edit"]
    told = changed["item"]["history"][1]
    assert told["before"]["objects"][1]["name"] == "drum" and told["after"]["objects"][1]["name"] == "dog"
    silent = next(q for q in changed["item"]["questions"] if q["task"] == "AVSR" and "silent" in q["question"])
    assert silent["objects"][0]["name"] == "dog"
    assert silent["objects"][0]["where"][0] == [1.0, [94.0, 50.0, 134.0, 70.0]]
    undone = post(served, "/api/undo", on=changed["id"])
    assert undone["item"]["history"][1]["state"] == "undone"
    assert undone["item"]["events"][0]["objects"][1]["name"] == "drum"
    figures = served.get("/api/figures").json()
    assert (figures["reviewed"], figures["rejected"], figures["unreviewed"]["rows"]) == (1, 1, 7)
    assert figures["seconds_per_row"] == 3.0
    assert figures["accepted_questions"] == 4 * 7 - 5, "four of the event, one of the other in which the man is heard"
    again = post(served, "/api/undo", on=undone["id"])
    assert again["item"]["events"][0]["status"] == "accepted" and not again["item"]["can_undo"]
    post(served, "/api/undo", status=422, on=again["id"])


def test_of_two_people_the_slower_one_is_told_and_nothing_is_lost(served):
    first = post(served, what="accept", reviewer="bob")
    late = post(served, what="reject", status=409)
    assert late["error"] == "conflict" and late["item"]["version"] == first["id"]
    assert late["item"]["events"][0]["verdict"] == "accepted" and len(late["item"]["history"]) == 1
    post(served, what="reject", event_num=2)  # another event of the video is another matter
    second = post(served, what="reject", on=first["id"])
    assert [(one["who"], one["what"]) for one in second["item"]["history"]] == [
        ("bob", "accept"), ("ann", "reject"), ("ann", "reject"),
    ]  # fmt: skip
    agreement = served.get("/api/figures").json()["agreement"]
    assert agreement == [{"reviewers": ["ann", "bob"], "rows": 1, "same": 0, "kappa": 0.0}]


def test_a_restarted_server_knows_what_was_said(served, tmp_path):
    saved = post(served, what="accept")
    qa_id = next(q["qa_id"] for q in saved["item"]["questions"] if q["task"] == "AVTR" and "man" in q["question"])
    post(served, what="reject", qa_id=qa_id, on=saved["id"])
    with (tmp_path / "out" / "review" / "other.jsonl").open("w") as file:
        file.write("not a line\n")
    with opened(tmp_path / "out") as again:
        found = again.get("/api/item", params={"video_id": "seen", "event_num": 1}).json()
        assert {q["qa_id"]: q["verdict"] for q in found["questions"] if q["verdict"]} == {qa_id: "rejected"}
        assert found["events"][0]["verdict"] == "accepted", "what is said of a question isn't said of the event"
        (problem,) = again.get("/api/session").json()["problems"]
        assert problem.startswith("review/other.jsonl, line 1: no verdict")


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ({"what": "edit"}, 422, "bad_edit"),
        ({"what": "edit", "edit": {"op": "delete_track", "track_id": 9}}, 422, "bad_edit"),
        ({"what": "edit", "edit": {"op": "rename", "name": "drum", "to": "drum"}}, 422, "bad_edit"),
        ({"what": "dance"}, 422, "bad_request"),
        ({"what": "accept", "colour": 1}, 422, "bad_request"),
        ({"what": "accept", "seconds": -1}, 422, "bad_request"),
        ({"what": "accept", "event_num": 3}, 404, "unknown_item"),
        ({"what": "accept", "video_id": "nobody"}, 404, "unknown_item"),
        ({"what": "reject", "qa_id": "seen/2/AVTR/0"}, 404, "unknown_item"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence_and_not_kept(served, tmp_path, body, status, error):
    answer = post(served, status=status, **body)
    assert answer["error"] == error and answer["message"]
    assert list((tmp_path / "out" / "review").glob("*.jsonl")) == []


def test_a_disk_that_is_full_is_told_and_the_item_stays(served, monkeypatch):
    def full(path, line):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ravst_ray.review.log._append_synced", full)
    answer = post(served, what="accept", status=503)
    assert answer["error"] == "not_saved" and "No space left" in answer["message"]
    assert served.get("/api/item", params={"video_id": "seen", "event_num": 1}).json()["version"] is None


@pytest.mark.parametrize("video_id", ["seen", HOSTILE])
def test_a_video_is_given_in_pieces(served, dataset, video_id):
    content = (dataset / "videos" / f"{video_id}.mp4").read_bytes()
    get = lambda wanted: served.get("/api/video", params={"video_id": video_id}, headers={"Range": wanted})  # noqa: E731
    for wanted, part in (("bytes=0-", content), ("bytes=100-299", content[100:300]), ("bytes=-5", content[-5:])):
        answer = get(wanted)
        assert (answer.status_code, answer.content) == (206, part)
        start = content.index(part) if len(part) > 5 else len(content) - 5
        assert answer.headers["content-range"] == f"bytes {start}-{start + len(part) - 1}/{len(content)}"
        assert answer.headers["content-type"] == "video/mp4"
    answer = get(f"bytes={len(content)}-")
    assert answer.status_code == 416 and answer.headers["content-range"] == f"bytes */{len(content)}"
    head = served.head("/api/video", params={"video_id": video_id})
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(content)))
    assert head.headers["accept-ranges"] == "bytes"


def test_byte_ranges():
    assert (
        byte_range(None, 10) is None and byte_range("bytes=0-1,4-5", 10) is None and byte_range("lines=1-2", 10) is None
    )
    assert byte_range("bytes=2-", 10) == (2, 9) and byte_range("bytes=-20", 10) == (0, 9)
    assert byte_range("bytes=3-99", 10) == (3, 9)
    for wanted in ("bytes=10-", "bytes=5-4", "bytes=-0"):
        with pytest.raises(ValueError):
            byte_range(wanted, 10)


def test_pictures_sound_and_times_are_those_of_the_file(served, world):
    truth = next(iter(world.truth.values()))
    times = served.get("/api/timeline", params={"video_id": "seen"}).json()
    assert times["playable"] and (times["codec"], times["pixels"]) == ("h264", "yuv420p")
    assert times["starts_s"] == pytest.approx([n / 10 for n in range(round(10 * truth["duration"]))])
    assert times["end_s"] == pytest.approx(truth["duration"]) and times["player_offset_s"] == 0.0
    jpeg = served.get("/api/frame", params={"video_id": "seen", "time_s": 1.0})
    assert jpeg.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(jpeg.content)).size == (times["width"], times["height"])
    assert served.get("/api/frame", params={"video_id": "seen", "time_s": 999}).json()["error"] == "no_picture"
    sound = served.get("/api/waveform", params={"video_id": "seen", "bins": 60}).json()
    assert len(sound["peaks"]) == 60 and max(high for _, high in sound["peaks"]) > 0.05 and sound["duration_s"] == 12.0


def test_what_has_no_file_is_shown_without_it_and_no_id_is_a_path(served):
    for video_id, error in (("lost", "missing_file"), ("../outside", "unsafe_id")):
        found = served.get("/api/item", params={"video_id": video_id, "event_num": 1}).json()
        assert found["video"]["found"] is False and found["video"]["why_not"] and len(found["questions"]) == 7
        for path in ("video", "timeline", "waveform", "frame"):
            answer = served.get(f"/api/{path}", params={"video_id": video_id, "time_s": 1})
            assert (answer.status_code, answer.json()["error"]) == (404, error)
    for name in ("../outside", "/etc/passwd", "seen.mp4", "..%2foutside"):
        assert served.get("/api/video", params={"video_id": name}).status_code == 404
    for path in ("/static/../service.py", "/static/..%2fservice.py", "/static/service.py", "/static//etc/passwd"):
        assert served.get(path).status_code == 404


def test_a_codec_that_browsers_do_not_play_is_told():
    meta = VideoMeta(1.0, 10.0, 8, 8, False, "")
    plain = Timeline(meta, "mov,mp4,m4a", "h264", "yuv420p", (0.0,), 1.0, 0.0, ())
    assert why_unplayable(plain) is None
    assert why_unplayable(replace(plain, codec="mpeg4")) == "Not every browser plays mpeg4."
    assert "yuv422p10le" in (why_unplayable(replace(plain, pixels="yuv422p10le")) or "")
    assert why_unplayable(replace(plain, container="avi")) == "Browsers don't play avi files."


def test_only_the_servers_own_page_and_name_are_answered(served):
    assert served.get("/api/session", headers={"Host": "evil.example:8765"}).status_code == 421
    assert served.get("/api/session", headers={"Host": "localhost:1234"}).status_code == 200
    body = json.dumps({"video_id": "seen", "event_num": 1, "on": None, "what": "accept"})
    plain = {"Content-Type": "application/json"}
    for more in (
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        answer = served.post("/api/verdict", content=body, headers={**plain, **more})
        assert (answer.status_code, answer.json()["error"]) == (403, "foreign_page")
    assert served.post("/api/verdict", content=body, headers={"Content-Type": "text/plain"}).status_code == 422
    assert served.post("/api/verdict", content=body, headers={**plain, "Origin": HERE}).status_code == 200
    elsewhere = {"Sec-Fetch-Site": "cross-site"}
    assert served.get("/api/frame", params={"video_id": "seen", "time_s": 1}, headers=elsewhere).status_code == 403
    assert served.get("/", headers=elsewhere).status_code != 403, "others may link to the page"
    for path in ("/", "/api/session", "/static/none"):
        headers = served.get(path).headers
        assert {name: headers[name] for name in HEADERS} == HEADERS
    assert "'unsafe" not in HEADERS["Content-Security-Policy"]


def test_another_address_than_loopback_wants_a_token(dataset, tmp_path):
    shutil.copytree(dataset / "out", tmp_path / "out")
    with opened(tmp_path / "out", "http://box.lan:8765", host="0.0.0.0", token=TOKEN) as client:
        assert client.get("/api/session").status_code == 401
        assert client.get("/", params={"token": TOKEN[:-1]}).status_code == 401
        assert client.get("/api/session", headers={"Authorization": f"Bearer {TOKEN}x"}).status_code == 401
        assert client.get("/api/session", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
        answer = client.get("/", params={"token": TOKEN})
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie and "samesite=strict" in cookie
        assert client.get("/api/session").status_code == 200, "the cookie is enough from now on"
    with pytest.raises(ConfigError, match="add a token"):
        run_module.serve(str(tmp_path / "out"), ReviewConfig(reviewer="a", host="0.0.0.0"), print)
    assert Guard("::1", None).refusal("GET", "/api/session", {"host": "[::1]:80"}, {}) is None


def test_an_output_in_an_object_store_is_reviewed_there(s3, world, tmp_path):
    video = sorted(world.videos.iterdir())[0].read_bytes()
    s3.put("films/seen.mp4", video)
    write_output("s3://ravst-tests/run", [item("seen")], "s3://ravst-tests/films")
    with opened("s3://ravst-tests/run") as client:
        found = client.get("/api/item", params={"video_id": "seen", "event_num": 1}).json()
        assert found["video"]["bytes"] == len(video) and found["video"]["found"]
        answer = client.get("/api/video", params={"video_id": "seen"}, headers={"Range": "bytes=1000-1099"})
        assert (answer.status_code, answer.content) == (206, video[1000:1100])
        assert client.get("/api/timeline", params={"video_id": "seen"}).json()["playable"]
        assert list((tmp_path / "tmp").glob("ravst-fetch-*")), "a copy is kept for the next question"
        saved = post(client, what="accept")
    assert list((tmp_path / "tmp").glob("ravst-fetch-*")) == []
    (name,) = [key for key in s3.keys("run/review/") if key.endswith(".jsonl")]
    assert json.loads(s3.get(name))["id"] == saved["id"]


def test_the_command_serves_until_it_is_interrupted(dataset, tmp_path, capsys, monkeypatch):
    shutil.copytree(dataset / "out", tmp_path / "out")
    seen = []

    def run(self, sockets):
        seen.append(sockets[0].getsockname())
        raise KeyboardInterrupt

    monkeypatch.setattr("uvicorn.Server.run", run)
    assert main(["review", str(tmp_path / "out"), "--port", "0", "--reviewer", "ann"]) == 0
    said = capsys.readouterr().err
    assert f"http://127.0.0.1:{seen[0][1]}/ (Ctrl-C ends it)" in said
    assert main(["review", str(tmp_path / "nothing")]) == 2
    assert "no config.yaml there" in capsys.readouterr().err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["review", str(tmp_path / "out"), "--port", str(taken.getsockname()[1])]) == 2
    assert "choose another --port" in capsys.readouterr().err


def test_two_people_at_once_through_one_server(served):
    answers = []

    def say(what):
        answers.append(served.post("/api/verdict", json={"video_id": "seen", "event_num": 1, "on": None, "what": what}))

    threads = [threading.Thread(target=say, args=(what,)) for what in ("accept", "reject", "accept", "reject")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409]


def test_the_output_itself_stays_as_it_is_and_is_handed_on_with_its_verdicts(served, tmp_path):
    store = DatasetStore(str(tmp_path / "out"))
    before = {name: list(store.rows(name)) for name in ("annotations", "qa", "videos")}
    saved = post(served, what="edit", edit={"op": "delete_track", "track_id": 2})
    post(served, on=saved["id"], what="reject")
    assert {name: list(store.rows(name)) for name in before} == before
    reviser = Reviser(str(tmp_path / "out"))
    rows = {
        video_id: [[row for row in before[name] if row["video_id"] == video_id] for name in ("annotations", "qa")]
        for video_id in ("seen", "lost")
    }
    assert reviser("lost", *rows["lost"]) == tuple(rows["lost"])
    annotations, qa = reviser("seen", *rows["seen"])
    assert [(row["status"], len(row["tracks"])) for row in annotations] == [("rejected", 1), ("accepted", 2)]
    assert [row.keys() for row in annotations] == [row.keys() for row in rows["seen"][0]]
    assert Counter(row["status"] for row in qa) == {"rejected": 4, "accepted": 2}, "none asks for the drum any more"
    assert pa.Table.from_pylist(annotations, schema=ANNOTATIONS).num_rows == 2
    assert pa.Table.from_pylist(qa, schema=QA).num_rows == 6
    for event_num, people in ((2, ("ann",)), (1, ("bob", "ann"))):
        on = None
        for who in people:
            place = {"video_id": "seen" if event_num == 2 else "lost", "event_num": event_num}
            on = post(served, on=on, what="accept", reviewer=who, **place)["id"]
    assert main(["export", str(tmp_path / "out"), "--to", str(tmp_path / "to"), "--format", "hf"]) == 0
    exported = [row for file in (tmp_path / "to" / "qa").iterdir() for row in pq.read_table(file).to_pylist()]
    assert Counter(row["video_id"] for row in exported)["seen"] == 2, "those that are still accepted"
    text = (tmp_path / "to" / "README.md").read_text()
    assert "| … of which accepted, rejected | 2, 1 |" in text and "| reviewed_by | ann, bob |" in text
