"""The Ray Data graph as a whole: good rows, failed rows, crashing processes, reruns."""

import json
import os
import signal
import subprocess
import sys
import time
import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from ravst_ray.annotate import pipeline, workers
from ravst_ray.annotate.attempts import Attempts
from ravst_ray.annotate.pipeline import stream
from ravst_ray.annotate.questions import questions_of
from ravst_ray.annotate.run import annotate
from ravst_ray.annotate.step import Step
from ravst_ray.annotate.texts import events_of
from ravst_ray.cluster import failures
from ravst_ray.cluster import pools as cluster_pools
from ravst_ray.config.annotate import AnnotateConfig, PoolConfig
from ravst_ray.config.base import load_config
from ravst_ray.datasets.schemas import annotation_from_row, qa_from_row
from ravst_ray.datasets.store import DatasetStore
from ravst_ray.errors import AbortError, ConfigError, StepError
from ravst_ray.records import Event, Frames, SceneObject, Track, Video, VideoItem, VideoMeta
from ravst_ray.review.edits import edit_of
from ravst_ray.review.revise import Evidence, edited
from ravst_ray.review.rows import Rows

ROOT = Path(__file__).parents[1]
LAPTOP = ROOT / "jobs" / "configs" / "annotate_laptop.yaml"


class StubDecode(Step):
    """Frames out of nothing; what happens depends on the id."""

    stage = "decode"

    def process(self, item):
        name = item.video.video_id
        if name.startswith("bad"):
            raise StepError("no_video_stream", f"{name} has no picture")
        if name.startswith("bug"):
            raise ZeroDivisionError("a fault of ours")
        if name.startswith("crash"):
            os.kill(os.getpid(), signal.SIGKILL)
        event = item.video.events[0]
        times = tuple(round(event.start_s + second, 1) for second in range(int(event.end_s - event.start_s) + 1))
        frames = Frames(times, 8, 8, tuple(b"jpeg" for _ in times))
        meta = VideoMeta(item.video.duration_s, 25.0, 64, 48, True, "stub")
        annotations = tuple(replace(one, frame_times_s=times) for one in events_of(item))
        done = replace(item, meta=meta, frames=frames, annotations=annotations)
        return done.with_stats(frames_decoded=len(times))


class StubCaptions(Step):
    """One audible object per event."""

    stage = "captions"

    def process(self, item):
        named = tuple(replace(one, objects=(SceneObject("dog", True),)) for one in events_of(item))
        return replace(item, annotations=named).with_stats(**{"tokens/prompt": 10, "llm_requests": 1})


class StubGround(Step):
    """The object sits still in every frame."""

    stage = "ground"

    def process(self, item):
        def track(one):
            count = len(one.frame_times_s)
            box = (8.0, 8.0, 40.0, 40.0)
            return Track(1, "dog", True, one.frame_times_s, (box,) * count, (0.9,) * count)

        assert all(item.frames.jpegs), "the frames arrive whole"
        found = tuple(replace(one, tracks=(track(one),)) for one in item.annotations)
        return replace(item, annotations=found).with_stats(frames_grounded=len(item.frames.jpegs))


STUBS = {"captions": StubCaptions, "decode": StubDecode, "ground": StubGround}


def videos(*names: str) -> list[Video]:
    return [Video(name, f"/nowhere/{name}.mp4", 10.0, (Event(1, 1.0, 4.0, "dog barking"),)) for name in names]


def stub_config(output: Path, **more: dict) -> AnnotateConfig:
    pools = {name: {"num_cpus": 0.5} | more.get(name, {}) for name in ("decode", "llm", "ground")}
    return AnnotateConfig(input={"annotations": "x", "videos": "x"}, output=str(output), actors=pools)


def test_every_video_ends_as_rows_or_as_an_error(tmp_path, local_ray):
    store = DatasetStore(str(tmp_path))
    store.prepare()
    names = [f"good{index}" for index in range(6)] + ["bad", "bug"]
    rows = list(stream(stub_config(tmp_path), videos(*names), STUBS))
    assert {row["video_id"]: row["reason"] for row in rows} == {
        **{f"good{index}": None for index in range(6)},
        "bad": "no_video_stream",
        "bug": "internal_error",
    }
    store.compact()
    assert sorted(row["video_id"] for row in store.rows("annotations")) == sorted(names[:6])
    errors = {row["video_id"]: row for row in store.rows("errors")}
    assert errors["bad"] == {
        "video_id": "bad", "stage": "decode", "reason": "no_video_stream", "message": "bad has no picture",
        "retryable": False,
    }  # fmt: skip
    assert errors["bug"]["retryable"] and "a fault of ours" in errors["bug"]["message"]
    row = next(store.rows("annotations"))
    assert row["tracks"][0]["times_s"] == [1.0, 2.0, 3.0, 4.0]
    assert {pair["task"] for pair in store.rows("qa")} == {"AVTR", "AVSR", "AVSTR"}


def test_videos_that_kill_their_process_become_errors_and_harm_no_other(tmp_path, local_ray):
    """In a step of one video a call, and in one that gets several at once."""

    class Crashing(StubCaptions):
        def process(self, item):
            if item.video.video_id.startswith("kill"):
                with (tmp_path / "kills").open("a") as file:
                    file.write(item.video.video_id + "\n")
                os.kill(os.getpid(), signal.SIGKILL)
            return super().process(item)

    store = DatasetStore(str(tmp_path / "out"))
    store.prepare()
    names = ["good0", "crash0", "good1", "kill0", "good2", "kill1", "good3"]
    rows = list(stream(stub_config(tmp_path / "out"), videos(*names), {**STUBS, "captions": Crashing}))
    expected = {name: None if name.startswith("good") else "process_died" for name in names}
    assert {row["video_id"]: row["reason"] for row in rows} == expected and len(rows) == len(names)
    store.compact()
    errors = {row["video_id"]: row["stage"] for row in store.rows("errors")}
    assert errors == {"crash0": "decode", "kill0": "captions", "kill1": "captions"}
    kills = (tmp_path / "kills").read_text().split()
    assert all(kills.count(name) <= 2 for name in ("kill0", "kill1")), "at most two attempts each"


def test_attempts_find_the_one_at_fault():
    attempts = Attempts()
    assert attempts.begin("ground", ["a", "b"]) == [0, 0]  # dies
    assert attempts.begin("ground", ["a", "b"]) == [1, 1]  # so: one by one
    assert attempts.begin("ground", ["a"]) == [1]
    attempts.end("ground", ["a"])
    assert attempts.begin("ground", ["b"]) == [1]  # dies again
    assert attempts.begin("ground", ["a", "b"]) == [0, 2]
    assert attempts.begin("ground", ["b"]) == [2] and attempts.begin("ground", ["b"]) == [2]
    assert attempts.begin("decode", ["b"]) == [0]


def counted(monkeypatch) -> SimpleNamespace:
    """Attempts as the actor that counts them, without Ray."""
    attempts = Attempts()
    monkeypatch.setattr(workers.ray, "get", lambda found: found)
    return SimpleNamespace(begin=SimpleNamespace(remote=attempts.begin), end=SimpleNamespace(remote=attempts.end))


def rows_to_finish(name: str) -> pa.Table:
    items = [VideoItem(*videos(name))]
    for build in STUBS.values():
        items = build()(items)
    return workers.table_of(items)


def test_what_kills_the_last_step_is_given_up_after_two_attempts(tmp_path, monkeypatch):
    """Ray itself repeats such a task for ever."""

    class Killing(Step):
        stage = "questions"

        def __call__(self, items):
            if items[0].video.video_id == "kill":
                raise SystemExit("as if the process were killed")
            return list(items)

    store = DatasetStore(str(tmp_path))
    store.prepare()
    finish = pipeline.Finish(stub_config(tmp_path), [Killing()], counted(monkeypatch))
    for _ in range(2):
        with pytest.raises(SystemExit):
            finish(rows_to_finish("kill"))
    assert finish(rows_to_finish("kill")).to_pylist() == [{"video_id": "kill", "reason": "process_died", "frames": 4.0}]
    assert finish(rows_to_finish("good")).to_pylist() == [{"video_id": "good", "reason": None, "frames": 4.0}]
    ledger = store.compact()
    assert (ledger["good"].ok, ledger["kill"].ok, ledger["kill"].retryable) == (True, False, True)
    assert [row["stage"] for row in store.rows("errors")] == ["finish"]


@pytest.mark.parametrize(
    ("message", "reason"),
    [("CUDA error: an illegal memory access was encountered", None), ("CUDA out of memory.", "internal_error")],
)
def test_a_process_whose_card_is_sick_ends(monkeypatch, message, reason):
    """Whatever it were given next would fail, too."""

    class Sick(StubGround):
        def process(self, item):
            raise RuntimeError(message)

    ended = []

    def end(status):
        ended.append(status)
        raise SystemExit(status)

    monkeypatch.setattr(workers.os, "_exit", end)
    actor = workers.StepActor(Sick, counted(monkeypatch))
    table = workers.table_of([VideoItem(*videos("a"))])
    if reason is None:
        with pytest.raises(SystemExit):
            actor(table)
        assert ended == [1]
        return
    assert [VideoItem.from_row(row).error.reason for row in actor(table).to_pylist()] == [reason] and not ended


def test_room_for_each_step(monkeypatch, caplog):
    pools = {"decode": PoolConfig(num_cpus=1), "ground": PoolConfig(num_cpus=2, num_gpus=1)}
    node = lambda cpus, gpus, alive=True: {"Alive": alive, "Resources": {"CPU": cpus, "GPU": gpus}}  # noqa: E731
    monkeypatch.setattr(
        cluster_pools.ray, "nodes", lambda: [node(8.0, 0.0), node(1.0, 4.0), node(8.0, 1.0, alive=False)]
    )
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(
        ConfigError, match=r"actors.ground: one process takes 2 CPUs and 1 GPUs, this machine has 8 CPUs"
    ):
        cluster_pools.check_room(pools)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    cluster_pools.check_room(pools)
    assert "they wait for one that an autoscaler brings: ground (2 CPUs and 1 GPUs)" in caplog.text
    caplog.clear()
    monkeypatch.setattr(cluster_pools.ray, "nodes", lambda: [node(8.0, 0.0), node(2.0, 1.0)])
    cluster_pools.check_room(pools)
    assert not caplog.text
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setattr(cluster_pools.ray, "nodes", lambda: [node(2.0, 1.0)])
    cluster_pools.check_room({"ground": pools["ground"]})
    with pytest.raises(ConfigError, match=r"actors.decode and actors.ground: together they take 3 CPUs and 1 GPUs, th"):
        cluster_pools.check_room(pools)


def test_a_graph_without_progress_ends_with_a_sentence(tmp_path, local_ray, monkeypatch):
    """A step waits for a node that never comes, as on a cluster whose spot GPUs are away for too long."""
    assert failures.NO_PROGRESS_S == 6 * 3600
    monkeypatch.setattr(failures, "NO_PROGRESS_S", 3.6)
    monkeypatch.setenv("RAY_ADDRESS", "a cluster's, so that the run waits")
    DatasetStore(str(tmp_path)).prepare()
    config = stub_config(tmp_path, ground={"num_gpus": 1})
    with pytest.raises(AbortError, match=r"^nothing was done for 0.001 h: has the cluster room for each step"):
        list(stream(config, videos("a"), STUBS))


def test_a_long_run_is_several_executions_one_after_the_other(tmp_path, monkeypatch):
    """What Ray notes of the blocks of one is let go before the next one begins."""
    executions, alive = [], []

    class Execution:
        def __init__(self, names):
            self.names = names

        def iter_batches(self, **_):
            for name in self.names:
                yield pa.table({"video_id": [name], "reason": pa.array([None], pa.string()), "frames": [1.0]})

    def graph(config, some, builds, attempts):
        executions.append([item.video.video_id for item in some])
        alive.append(sum(one() is not None for one in made))
        execution = Execution(executions[-1])
        made.append(weakref.ref(execution))
        return execution

    made: list[weakref.ref] = []

    def read_captions(config, some, builds, attempts, tell, adapted):
        assert all(one() is None for one in made), "the graph of the last shard is gone"
        return [VideoItem(video) for video in some]

    monkeypatch.setattr(pipeline, "graph", graph)
    monkeypatch.setattr(pipeline, "read_captions", read_captions)
    monkeypatch.setattr(pipeline, "_start_attempts", lambda: None)
    monkeypatch.setattr(pipeline, "check_room", lambda pools: None)
    monkeypatch.setattr(pipeline, "RunMetrics", lambda total: SimpleNamespace(add=lambda reason, frames: None))
    monkeypatch.setattr(pipeline, "SHARD", 3)
    rows = list(stream(stub_config(tmp_path), videos(*"abcdefg"), STUBS))
    assert executions == [["a", "b", "c"], ["d", "e", "f"], ["g"]]
    assert [row["video_id"] for row in rows] == list("abcdefg")
    assert alive == [0, 0, 0]


def test_an_abort_ends_the_stream_with_its_message(tmp_path, local_ray):
    class Refused(StubCaptions):
        def process(self, item):
            raise AbortError("the endpoint refuses the key")

    DatasetStore(str(tmp_path)).prepare()
    with pytest.raises(AbortError, match="the endpoint refuses the key"):
        list(stream(stub_config(tmp_path), videos("a"), {**STUBS, "captions": Refused}))


def test_a_model_that_loads_at_the_second_try_ends_no_run(tmp_path, local_ray):
    """As on a new node whose network isn't up yet; one that never loads ends it with its own message."""

    def reluctant():
        marker = tmp_path / "tried"
        if not marker.exists():
            marker.touch()
            raise ConfigError("grounding.detector: can't be loaded, try 1")
        return StubGround()

    def never():
        with (tmp_path / "never").open("a") as file:
            file.write("tried\n")
        raise ConfigError("grounding.detector: can't be loaded at all")

    DatasetStore(str(tmp_path / "out")).prepare()
    rows = list(stream(stub_config(tmp_path / "out"), videos("a"), {**STUBS, "ground": reluctant}))
    assert [(row["video_id"], row["reason"]) for row in rows] == [("a", None)]
    with pytest.raises(ConfigError, match=r"^grounding.detector: can't be loaded at all$"):
        list(stream(stub_config(tmp_path / "out"), videos("b"), {**STUBS, "ground": never}))
    assert (tmp_path / "never").read_text().split() == ["tried"] * 3


@pytest.fixture(scope="session")
def named_world(world):
    """The toy world with the true object names beside the labels: no language model is needed."""
    from ravst_ray.toyworld.accuracy import name_objects

    return name_objects(world.root)


def laptop(annotations: Path, folder: Path, output: Path, *more: str) -> AnnotateConfig:
    places = [f"input.annotations={annotations}", f"input.videos={folder}", f"output={output}"]
    return load_config(AnnotateConfig, LAPTOP, [*places, *more])


def content(output: Path) -> dict:
    """Everything that a rerun must reproduce."""
    store = DatasetStore(str(output))
    tables = {name: sorted(store.rows(name), key=str) for name in ("annotations", "qa", "videos", "errors")}
    exported = {split: json.loads((output / f"ravst_{split}_QA.json").read_text()) for split in ("train", "test")}
    return {**tables, **exported}


def check_that_review_makes_the_same_questions(config: AnnotateConfig) -> None:
    """From what the output keeps follow the objects and the questions that are in it."""
    rows = Rows(DatasetStore(config.output), config.quality)
    assert rows.refresh() and rows.tasks
    for video_id in rows.tasks:
        found = rows.of_video(video_id)
        evidence = Evidence.of(found.annotations[0], found.video)
        events = (*map(annotation_from_row, found.annotations), *evidence.context)
        first = events[0]
        own = next(one for one in first.objects if not one.audible or first.event.event_num in one.heard_in)
        same = edit_of({"op": "audible", "name": own.name, "audible": own.audible})
        assert edited(same, events, first.event.event_num, evidence, config) == events
        asked, _ = questions_of(video_id, events, evidence.meta.duration_s, config.questions, seed=config.seed)
        assert asked == tuple(map(qa_from_row, found.qa))


def test_toy_world_through_the_real_steps(world, named_world, tmp_path, local_ray, monkeypatch):
    from ravst_ray.toyworld.accuracy import accuracy_of

    monkeypatch.chdir(ROOT)
    config = laptop(named_world, world.videos, tmp_path / "out")
    summary = annotate(config, Console(quiet=True))
    assert summary["videos"]["done"] == summary["videos"]["kept"] > 0
    assert summary["errors"] == {}
    assert summary["tokens"]["requests"] == 0, "all objects are given"
    found = accuracy_of(world.truth, DatasetStore(config.output))["True names given"]["all objects"]
    assert all(one["value"] >= one["target"] for one in found.values()), found
    report = (tmp_path / "out" / "report" / "index.html").read_text()
    assert "toy_11_" in report
    table = pq.read_table(tmp_path / "out" / "annotations")
    assert table.num_rows == summary["events"]

    check_that_review_makes_the_same_questions(config)
    before = content(tmp_path / "out")
    again = annotate(config, Console(quiet=True))
    assert content(tmp_path / "out") == before
    assert again["events"] == summary["events"]
    with pytest.raises(ConfigError, match=r"grounding.box_threshold: 0.4 -> 0.5"):
        other = laptop(named_world, world.videos, tmp_path / "out", "grounding.box_threshold=0.5")
        annotate(other, Console(quiet=True))


def test_real_footage(big_buck_bunny, tmp_path, local_ray, monkeypatch):
    """The tiny models' boxes mean little on real footage; the path must hold."""
    monkeypatch.chdir(ROOT)
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "bunny.mp4").symlink_to(big_buck_bunny)
    label = {"segment": [0.5, 4.5], "label": "rabbit yawning", "objects": [{"name": "red ball", "audible": True}]}
    labels = {"database": {"bunny": {"duration": 5.28, "annotations": [label]}}}
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    summary = annotate(laptop(tmp_path / "labels.json", folder, tmp_path / "out"), Console(quiet=True))
    assert summary["videos"]["done"] == 1
    (row,) = DatasetStore(str(tmp_path / "out")).rows("annotations")
    assert (row["width"], row["height"], row["fps"]) == (1280, 720, 25.0)
    assert row["frame_times_s"] == [0.5, 1.5, 2.5, 3.5, 4.5]
    for track in row["tracks"]:
        assert all(0 <= x1 < x2 <= 1280 and 0 <= y1 < y2 <= 720 for x1, y1, x2, y2 in track["boxes_xyxy_px"])


def test_broken_input_costs_only_itself(world, named_world, tmp_path, local_ray, monkeypatch):
    monkeypatch.chdir(ROOT)
    labels = json.loads(named_world.read_text())["database"]
    good = next(name for name, entry in sorted(labels.items()) if filter_accepts(entry))
    source = world.videos / f"{good}.mp4"
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "it's good.mp4").symlink_to(source)
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("not a video")
    (folder / "cut.mp4").write_bytes(source.read_bytes()[: source.stat().st_size // 3])
    names = ["it's good", "empty", "text", "cut", "missing", "../escape"]
    (tmp_path / "labels.json").write_text(json.dumps({"database": dict.fromkeys(names, labels[good])}))
    output = tmp_path / "out"
    summary = annotate(laptop(tmp_path / "labels.json", folder, output), Console(quiet=True))
    assert summary["videos"] == {"input": 6, "kept": 5, "done": 1, "failed": 4}
    store = DatasetStore(str(output))
    reasons = {row["video_id"]: (row["stage"], row["reason"]) for row in store.rows("errors")}
    assert reasons == {
        "empty": ("decode", "empty_file"),
        "text": ("decode", "not_a_video"),
        "cut": ("decode", "truncated"),
        "missing": ("decode", "missing_file"),
        "../escape": ("input", "unsafe_id"),
    }
    assert {row["video_id"] for row in store.rows("annotations")} == {"it's good"}
    (folder / "missing.mp4").symlink_to(source)  # the user repairs one: the same command does it, and it alone
    again = annotate(laptop(tmp_path / "labels.json", folder, output), Console(quiet=True))
    assert again["videos"]["done"] == 2 and "missing_file" not in again["errors"]


def filter_accepts(entry: dict) -> bool:
    """Whether a toy video passes the filter of the laptop configuration."""
    share = sum(end - start for start, end in (one["segment"] for one in entry["annotations"])) / entry["duration"]
    return share > 0.1 and 0 < len(entry["annotations"]) <= 3


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_run_goes_on_and_ends_the_same(world, named_world, tmp_path):
    def command(output):
        places = [f"input.annotations={named_world}", f"input.videos={world.videos}", f"output={output}"]
        return [sys.executable, "jobs/annotate.py", "--config", str(LAPTOP), *places]

    run = partial(subprocess.run, cwd=ROOT, capture_output=True, text=True, timeout=280)
    whole = run(command(tmp_path / "whole"))
    assert whole.returncode == 0, whole.stderr

    units = tmp_path / "cut" / "_commit" / "units"
    process = subprocess.Popen(
        command(tmp_path / "cut"),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while process.poll() is None and not list(units.glob("*.json")):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    again = run(command(tmp_path / "cut"))
    assert again.returncode == 0, again.stderr
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


def test_exit_status(tmp_path):
    run = partial(subprocess.run, cwd=ROOT, capture_output=True, text=True, timeout=120)
    missing = run([sys.executable, "-m", "ravst_ray.cli", "annotate", "--config", str(tmp_path / "no.yaml")])
    assert missing.returncode == 2 and "no such configuration file" in missing.stderr
    unknown = run([sys.executable, "jobs/annotate.py", "--config", str(LAPTOP), "filter.max_event=2"])
    assert unknown.returncode == 2 and "filter.max_event: unknown key" in unknown.stderr
    model = [f"output={tmp_path}/out", "llm.model_dir=/no/such/model"]
    (tmp_path / "labels.json").write_text('{"database": {}}')
    places = [f"input.annotations={tmp_path}/labels.json", f"input.videos={tmp_path}"]
    lost = run([sys.executable, "jobs/annotate.py", "--config", str(LAPTOP), *places, *model])
    assert lost.returncode == 2 and "/no/such/model" in lost.stderr
