"""Videos and outputs in object stores, against a server on loopback."""

import json
import os
import threading
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pyarrow import fs
from rich.console import Console

from ravst_ray.annotate.decode import DecodeFrames
from ravst_ray.annotate.run import annotate, retry
from ravst_ray.annotate.status import read_status
from ravst_ray.config.annotate import DecodeConfig
from ravst_ray.datasets import places
from ravst_ray.datasets.lock import LOCK, OutputLock, read_holder
from ravst_ray.datasets.places import join, list_names, local_copy, read_input, resolve
from ravst_ray.datasets.splits import unit_key
from ravst_ray.datasets.store import DatasetStore
from ravst_ray.errors import AbortError, ConfigError, StepError
from ravst_ray.records import Event, Video, VideoItem
from tests.s3_server import BUCKET, KEYS
from tests.stub_run import run_without_ray, stub_config, write_labels
from tests.test_store import content, item, put, run

ROOT = Path(__file__).parents[1]
HERE = f"s3://{BUCKET}"
ODD = "it's 100% good é?#.mp4"


# --- names ---


def test_resolve(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve("out/x")[1] == str(tmp_path / "out" / "x")
    assert resolve(f"file://{tmp_path}/a%20b")[1] == f"{tmp_path}/a b"
    found, base = resolve("s3://bucket/a%20b/c/?region=eu-west-3&endpoint_override=127.0.0.1:9&scheme=http")
    assert (type(found), found.region, base) == (fs.S3FileSystem, "eu-west-3", "bucket/a b/c")
    found, base = resolve("gs://anonymous@bucket/folder")
    assert (type(found), base) == (fs.GcsFileSystem, "bucket/folder")
    found, base = resolve("memory://folder/x")
    assert (type(found), base) == (fs.PyFileSystem, "/folder/x")


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("s3://KEY:sk-1@bucket/x", "a key in the address would be saved"),
        ("s3://bucket/x?secret_key=sk-1", "a key in the address would be saved"),
        ("s3://bucket/x?session_token=sk-1", "a key in the address would be saved"),
        ("abfs://c@account.dfs.core.windows.net/x?sv=2024&sig=sk-1", "a key in the address would be saved"),
        ("https://bucket.example/x?X-Amz-Credential=sk-1", "a key in the address would be saved"),
        ("nosuch://bucket/x", "nosuch"),
        ("s3://bucket/x?no_such_option=1", "can't be opened"),
        ("s3://[bucket/x", "not a URI"),
    ],
)
def test_what_is_no_place(place, said):
    with pytest.raises(ConfigError, match=said) as refused:
        resolve(place)
    assert "sk-1" not in str(refused.value)


def test_join_and_resolve_are_inverse():
    assert join("videos", ODD) == f"videos/{ODD}"
    for folder in ("file:///x/y", "memory://x/y/"):
        assert resolve(join(folder, ODD))[1] == f"/x/y/{ODD}"
    assert join("s3://b/x/?region=r", "a b.mp4") == "s3://b/x/a%20b.mp4?region=r"


# --- files ---


def test_fetch_and_forget(s3, tmp_path):
    s3.put(f"videos/{ODD}", b"picture" * 1000)
    with local_copy(join(f"{HERE}/videos", ODD)) as path:
        assert Path(path).read_bytes() == b"picture" * 1000
        assert Path(path).is_relative_to(tmp_path) and Path(path).name == ODD
    assert not list((tmp_path / "tmp").iterdir()), "nothing is left behind"
    with local_copy("videos/x.mp4") as path:
        assert path == "videos/x.mp4", "a local file is used where it is"


def test_a_missing_and_a_large_file(s3, tmp_path):
    s3.put("videos/large.mp4", b"x" * 2**20)
    for name, reason, retryable in (("none.mp4", "missing_file", True), ("large.mp4", "too_large", False)):
        with pytest.raises(StepError) as error, local_copy(f"{HERE}/videos/{name}", max_bytes=2**19):
            pass
        assert (error.value.reason, error.value.retryable) == (reason, retryable)
    assert "1,048,576 bytes" in str(error.value)
    assert not [key for method, key in s3.requests if method == "GET" and key.endswith("large.mp4")], "not even begun"
    assert not list((tmp_path / "tmp").iterdir())


def test_a_busy_store_is_waited_for(s3):
    s3.put("videos/a.mp4", b"abc")
    left = [4]

    def busy(method, path):
        left[0] -= 1
        return 503 if left[0] >= 0 else None

    s3.spoil = busy
    with local_copy(f"{HERE}/videos/a.mp4") as path:
        assert Path(path).read_bytes() == b"abc"


def test_a_store_that_stays_away_or_refuses(s3, monkeypatch, tmp_path):
    monkeypatch.setattr(places, "ATTEMPTS", 2)
    calls, place = [], f"{HERE}/videos/a.mp4"
    fetched = local_copy(place)

    def broken(filesystem, base, path, max_bytes):
        calls.append(path)
        path.write_bytes(b"half")
        raise OSError("AWS Error NETWORK_CONNECTION during GetObject operation")

    monkeypatch.setattr(places, "_copy", broken)
    with pytest.raises(StepError, match=r"fetched in 2 attempts: .*NETWORK_CONNECTION") as error, fetched:
        pass
    assert (error.value.reason, error.value.retryable, len(calls)) == ("place_unreachable", True, 2)
    monkeypatch.undo()
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    s3.spoil = lambda method, path: 403
    with pytest.raises(StepError, match="check the nodes' credentials") as error, local_copy(place):
        pass
    assert (error.value.reason, error.value.retryable) == ("place_forbidden", True)


def test_half_a_file_is_never_taken_for_a_whole_one(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "FIRST_PAUSE_S", 0.0)
    (tmp_path / "a.mp4").write_bytes(b"0123456789")

    class Cut(fs.LocalFileSystem):
        def open_input_stream(self, path):
            stream = super().open_input_stream(path)
            return contextmanager(lambda: (yield iter_once(stream.read(4))))()

    class iter_once:
        def __init__(self, data):
            self.left = [data, b""]

        def read(self, size):
            return self.left.pop(0)

    monkeypatch.setattr(places, "resolve", lambda place: (Cut(), str(tmp_path / "a.mp4")))
    with pytest.raises(StepError, match="4 of 10 bytes came"), local_copy("s3://x/a.mp4"):
        pass


def test_read_input(s3, tmp_path):
    labels = write_labels(tmp_path / "labels.json", "a b", "none", "../escape")
    s3.put("in/labels.json", labels.read_bytes())
    s3.put("in/videos/a b.webm", b"x")
    s3.put("in/videos/deeper/none.mp4", b"x")
    found = read_input(f"{HERE}/in/labels.json", f"{HERE}/in/videos")
    assert [video.path for video in found.videos] == [f"{HERE}/in/videos/a%20b.webm", f"{HERE}/in/videos/none.mp4"]
    assert [(row.video_id, row.reason) for row in found.rejected] == [("../escape", "unsafe_id")]
    mixed = read_input(str(labels), f"{HERE}/in/videos")
    assert mixed.videos == found.videos
    (tmp_path / "a b.mp4").touch()
    other = read_input(f"{HERE}/in/labels.json", str(tmp_path))
    assert other.videos[0].path == str(tmp_path / "a b.mp4")
    assert list_names(f"{HERE}/in/videos") == {"a b.webm"}


def test_input_that_is_not_there(s3, tmp_path):
    s3.put("in/broken.json", b"{")
    for place, said in (("none.json", "annotations file .*none.json: no such file"), ("broken.json", "in/broken.json")):
        with pytest.raises(ConfigError, match=said) as error:
            read_input(f"{HERE}/in/{place}", f"{HERE}/in")
        assert str(tmp_path) not in str(error.value), "the copy's path means nothing to anybody"
    labels = write_labels(tmp_path / "labels.json", "a")
    with pytest.raises(ConfigError, match="not a readable folder of videos"):
        read_input(str(labels), f"{HERE}/no/such/folder")


class Reads:
    """A decoder that takes the file's content for its picture."""

    def decode(self, path, times_s):
        from ravst_ray.media.protocols import DecodedVideo
        from ravst_ray.records import Frames, VideoMeta

        self.path = path
        meta = VideoMeta(10.0, 25.0, 8, 8, False, "stub")
        return DecodedVideo(meta, Frames(tuple(times_s), 8, 8, (Path(path).read_bytes(),) * len(times_s)), None)


def test_decoding_fetches_and_cleans_up(s3):
    s3.put("videos/a.mp4", b"content")
    step = DecodeFrames(DecodeConfig(), Reads())
    video = Video("a", f"{HERE}/videos/a.mp4", 10.0, (Event(1, 1.0, 2.0, "x"),))
    gone = Video("gone", f"{HERE}/videos/gone.mp4", 10.0, (Event(1, 1.0, 2.0, "x"),))
    done, failed = step([VideoItem(video), VideoItem(gone)])
    assert done.frames.jpegs == (b"content", b"content")
    assert not os.path.exists(step.decoder.path)
    assert (failed.error.stage, failed.error.reason, failed.error.retryable) == ("decode", "missing_file", True)


# --- the store, the lock and a whole run ---


@pytest.mark.parametrize("root", [f"{HERE}/store/a", "memory://store/a", "file://{tmp}/a"])
def test_the_store_is_the_same_everywhere(s3, tmp_path, root):
    first = [item("a"), item("b", "llm_unreachable", True)]
    second = [item("a"), item("b"), item("c", "truncated")]
    there = root.format(tmp=tmp_path)
    run(there, first)
    assert content(run(there, second)) == content(run(tmp_path / "here", second)) != {}
    assert {entry.ok for entry in DatasetStore(there).ledger().values()} == {True, False}


def test_a_commit_is_three_requests_and_units_are_read_side_by_side(s3):
    """At a million videos each request more is dollars, and each that waits for another is hours."""
    names = [f"v{number}" for number in range(8)]
    store = DatasetStore(f"{HERE}/many")
    store.prepare()
    put(store, item(names[0]))
    s3.requests.clear()
    for name in names[1:]:
        put(store, item(name))
    assert Counter(method for method, _ in s3.requests) == {"HEAD": 7, "PUT": 14}

    together = threading.Barrier(4)

    def meet(method, path):
        if method == "GET" and "/units/" in path:
            together.wait(timeout=60)

    s3.spoil = meet
    assert set(store.ledger()) == set(names), "four are asked for at once, or the barrier breaks"
    assert set(store.compact()) == set(names) and not together.broken
    assert [row["video_id"] for row in store.rows("annotations")] == sorted(names, key=unit_key)


def test_the_lock_in_an_object_store(s3):
    store = DatasetStore(f"{HERE}/locked")
    store.prepare()
    with OutputLock(store) as lock:
        assert read_holder(store) == lock.own
        with pytest.raises(ConfigError, match=lock.own.run_id), OutputLock(store):
            pass
    assert "locked/" + LOCK not in s3.keys("locked/")


def test_a_whole_run_in_an_object_store(s3, tmp_path, monkeypatch):
    """Input, output, status and retry."""
    monkeypatch.chdir(ROOT)
    run_without_ray(monkeypatch, tmp_path / "healed")
    labels = write_labels(tmp_path / "labels.json", "good1", "good2", "ill1", "cut1")
    s3.put("run/labels.json", labels.read_bytes())
    for name in ("good1", "good2", "ill1", "cut1"):
        s3.put(f"run/videos/{name}.mp4", b"x")
    output = f"{HERE}/run/out"
    places = [f"input.annotations={HERE}/run/labels.json", f"input.videos={HERE}/run/videos", "report_videos=1"]
    summary = annotate(stub_config(tmp_path, *places, output=output), Console(quiet=True))
    assert summary["videos"] == {"input": 4, "kept": 4, "done": 2, "failed": 2}
    (tmp_path / "healed").touch()
    retry(output, ["truncated"], [], Console(quiet=True))
    names = s3.keys("run/out/")
    for name in ("config.yaml", "summary.json", "report/index.html", "ravst_train_QA.json", "ravst_test_QA.json"):
        assert f"run/out/{name}" in names
    assert json.loads(s3.get("run/out/summary.json"))["videos"] == {"input": 4, "kept": 4, "done": 3, "failed": 1}
    assert not [name for name in names if "/units/" in name and name.endswith(("json", "parquet"))], "all is compacted"
    assert f"run/out/{LOCK}" not in names
    found, base = resolve(output)
    assert pq.read_table(f"{base}/annotations", filesystem=found).num_rows == 3
    status = read_status(output)
    assert (status.state, status.done, dict(status.failed)) == ("finished", 3, {"decode_deadline": 1})
    assert not any(KEYS["AWS_SECRET_ACCESS_KEY"].encode() in s3.get(name) for name in names)


def test_writing_is_insisted_on(monkeypatch):
    monkeypatch.setattr(places, "FIRST_PAUSE_S", 0.0)
    calls = []

    def flaky():
        calls.append(1)
        if len(calls) < 3:
            raise OSError("503")
        return "done"

    assert places.insist(flaky, "s3://b/out") == "done" and len(calls) == 3
    calls.extend([1] * 10)
    with pytest.raises(AbortError, match="s3://b/out: can't be read or written: no space"):
        places.insist(lambda: (_ for _ in ()).throw(OSError("no space")), "s3://b/out")
