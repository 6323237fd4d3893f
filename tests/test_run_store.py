"""A run's results in a directory and in an object store: what counts, what is brought there, what a fresh node gets."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pytest

from ravst_ray.config.base import load_config
from ravst_ray.config.train import TrainConfig
from ravst_ray.config.video_llm import PredictConfig
from ravst_ray.datasets import places
from ravst_ray.datasets.tasks import VideoTask, read_tasks
from ravst_ray.datasets.transfer import check_writable
from ravst_ray.errors import AbortError, ConfigError
from ravst_ray.evaluation.predict import ROW, DecodeClips
from ravst_ray.models.pretrained import check_model, model_source
from ravst_ray.training import loop
from ravst_ray.training.clips import decode_clip
from ravst_ray.training.position import Position
from ravst_ray.training.run_store import COMPLETE, Checkpoint, RunStore
from tests.s3_server import BUCKET

LAPTOP = Path(__file__).parents[1] / "jobs/configs/train_laptop.yaml"
URI = f"s3://{BUCKET}/run a"


@pytest.fixture(params=["path", "s3"])
def output(request, tmp_path):
    """The output of a run and what lies there, by name."""
    if request.param == "path":
        folder = tmp_path / "run"
        return str(folder), lambda: {
            path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
        }
    server = request.getfixturevalue("s3")
    for key in server.keys("run a/"):
        server.client.delete_object(Bucket=BUCKET, Key=key)
    files = lambda: [key for key in server.keys("run a/") if not key.endswith("/")]  # noqa: E731
    return URI, lambda: {key.removeprefix("run a/"): server.get(key) for key in files()}


def write(store, step, text="weights", more=()):
    """What a trainer leaves on this node of a checkpoint."""
    folder = store.local / "checkpoints" / f"checkpoint-{step}"
    for name in ("model.safetensors", "deep/rng_state_0.pth", "deep/.metadata", *more):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{text} {step} {name}")
    return folder.name


def save(store, step, place, keep, text="weights"):
    name = write(store, step, text)
    checkpoint = Checkpoint(name, Position(place), store.upload(name))
    store.mark_whole(checkpoint, keep)
    return checkpoint


def test_a_checkpoint_counts_from_its_manifest_on_and_older_ones_go_after_it(output):
    store = RunStore(output[0])
    assert store.last_checkpoint() is None and not store.begun()
    for step in (2, 9, 10):  # by number, not by name
        save(store, step, place=step * 4, keep=2)
    store.upload(write(store, 11))
    assert [one.name for one in store.whole_checkpoints()] == ["checkpoint-9", "checkpoint-10"]
    last = RunStore(output[0]).last_checkpoint()
    assert last is not None
    assert (last.step, last.position) == (10, Position(40)) and store.begun()
    there = output[1]()
    assert "checkpoints/checkpoint-11/model.safetensors" in there
    assert not any("checkpoint-2/" in name for name in there)
    told = json.loads(there[f"checkpoints/checkpoint-10/{COMPLETE}"])
    assert told["files"]["model.safetensors"]["size"] == len("weights 10 model.safetensors")
    store.discard_torn()
    assert {name.split("/")[1] for name in output[1]() if name.startswith("checkpoints")} == {
        "checkpoint-9",
        "checkpoint-10",
    }


def test_a_checkpoint_with_a_file_that_is_cut_off_or_gone_is_passed_over(output, s3):
    store = RunStore(output[0])
    for step in (1, 2, 3):
        save(store, step, place=0, keep=9)
    store.write("checkpoints/checkpoint-3/model.safetensors", "half")
    store.delete("checkpoints/checkpoint-2/deep/rng_state_0.pth")
    assert [one.name for one in store.whole_checkpoints()] == ["checkpoint-1"]


def test_a_fresh_node_goes_on_from_the_store_with_its_record_as_of_then(s3, tmp_path):
    first, second = (RunStore(f"s3://{BUCKET}/moved", str(tmp_path / node)) for node in "ab")
    first.prepare(None)
    (first.local / "metrics.jsonl").write_text('{"step": 1}\n')
    (first.local / "rollouts").mkdir()
    (first.local / "rollouts" / "step_000001.parquet").write_text("rows")
    first.push()
    saved = save(first, 1, place=4, keep=2)
    (first.local / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')  # the node dies with this line

    folder = second.prepare(second.last_checkpoint())
    assert folder == second.local / "checkpoints" / "checkpoint-1" and second.local != first.local
    assert (folder / "deep" / "rng_state_0.pth").read_text() == "weights 1 deep/rng_state_0.pth"
    assert (second.local / "metrics.jsonl").read_text() == '{"step": 1}\n'
    # A worker that begins anew where it was has it already; one with another content of it hasn't.
    fetched = lambda: sum(m == "GET" and "model.safetensors" in path for m, path in s3.requests)  # noqa: E731
    before = fetched()
    second.prepare(saved)
    assert fetched() == before
    (folder / "model.safetensors").write_text("cut")
    write(second, 5)
    second.prepare(saved)
    assert fetched() == before + 1 and not (second.local / "checkpoints" / "checkpoint-5").exists()
    assert (folder / "model.safetensors").read_text() == "weights 1 model.safetensors"
    # The same size, but not what was written.
    s3.put("moved/checkpoints/checkpoint-1/model.safetensors", b"WEIGHTS 1 model.safetensors")
    shutil.rmtree(folder)
    with pytest.raises(AbortError, match=r"checkpoint-1/model.safetensors: .*others than were written"):
        second.prepare(saved)


def test_only_what_is_new_is_brought_to_the_store_and_a_model_counts_last(s3, tmp_path):
    store = RunStore(f"s3://{BUCKET}/pushed", str(tmp_path))
    store.prepare(None)
    for name in ("model/config.json", "model/model.safetensors", "metrics.jsonl", "model.partial/x", ".hidden"):
        (store.local / name).parent.mkdir(parents=True, exist_ok=True)
        (store.local / name).write_text(name)
    write(store, 3)
    store.push()
    sent = [path.split("/pushed/")[1] for method, path in s3.requests if method == "PUT" and "/pushed/" in path]
    assert sent[-1] == "model/config.json"
    assert sorted(sent) == ["metrics.jsonl", "model/config.json", "model/model.safetensors"]
    s3.requests.clear()
    (store.local / "metrics.jsonl").write_text("one line more")
    store.push()
    assert [path.rpartition("/")[2] for method, path in s3.requests if method == "PUT"] == ["metrics.jsonl"]
    assert s3.get("pushed/metrics.jsonl") == b"one line more"


def test_a_store_that_refuses_ends_an_upload_with_a_sentence(s3, tmp_path):
    store = RunStore(f"s3://{BUCKET}/refused", str(tmp_path))
    name = write(store, 1)
    s3.spoil = lambda method, path: 403 if method in ("PUT", "POST") else None
    with pytest.raises(AbortError, match="can't be read or written"):
        store.upload(name)
    with pytest.raises(ConfigError, match=f"output: can't write to s3://{BUCKET}/refused"):
        check_writable(store.output, "output")


def test_a_node_without_the_videos_says_so_where_it_would_leave_all_of_them_out(tmp_path, world):
    """A video that isn't there is left out; a node that lacks the folder itself has another disk."""
    training = load_config(TrainConfig, LAPTOP, ["data.annotations=a", "data.videos=v", "model=m", "output=o"])
    decode_here, answering = decode_clip._function, DecodeClips(PredictConfig())
    for folder, here in ((world.videos, True), (tmp_path / "elsewhere", False)):
        task = VideoTask("a", str(folder / "a.mp4"), 4.0, (), str(folder))
        row = pa.Table.from_pylist([{"state": json.dumps(asdict(task))}], schema=ROW)
        if here:
            assert decode_here(task, training)[1].reason == "missing_file"
            assert json.loads(answering(row).to_pylist()[0]["state"])["error"][0] == "missing_file"
            continue
        for work in (lambda task=task: decode_here(task, training), lambda row=row: answering(row)):
            with pytest.raises(ConfigError, match=r"elsewhere isn't there on node .*; name a folder that"):
                work()


def test_a_node_that_sees_another_directory_is_told(tmp_path):
    """As two nodes do whose disks are their own: the same path, other directories."""
    store = RunStore(str(tmp_path / "run"))
    mark = store.announce()
    RunStore(str(tmp_path / "run")).check_seen(mark, "node-2")
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"on node node-2 isn't the directory that the driver writes to; .*s3://"):
        store.check_seen(mark, "node-2")


def test_questions_and_videos_of_a_store(s3, tmp_path):
    row = {"id": "q", "video": "a b", "duration_s": 2.0, "task": "AVTR", "question": "When?"}
    row["answer"] = "<object>red ball</object><when>1,2</when>"
    s3.put("data/questions.jsonl", json.dumps(row).encode())
    s3.put("data/videos/a b.mp4", b"bytes of a video")
    (task,) = read_tasks(f"s3://{BUCKET}/data/questions.jsonl", f"s3://{BUCKET}/data/videos")
    assert task.path == f"s3://{BUCKET}/data/videos/a%20b.mp4"
    with places.local_copy(task.path) as path:
        assert Path(path).read_bytes() == b"bytes of a video"
    with pytest.raises(ConfigError, match=f"s3://{BUCKET}/data/none.jsonl: no such file"):
        read_tasks(f"s3://{BUCKET}/data/none.jsonl", f"s3://{BUCKET}/data/videos")
    s3.put("data/bad.jsonl", b"{")
    with pytest.raises(ConfigError, match=rf"^s3://{BUCKET}/data/bad.jsonl: line 1: not JSON"):
        read_tasks(f"s3://{BUCKET}/data/bad.jsonl", f"s3://{BUCKET}/data/videos")


def test_a_model_of_a_store_is_fetched_once_and_again_when_it_changes(s3, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "hf"))
    files = ("config.json", "model.safetensors", "preprocessor_config.json", "sub/tokenizer.json")
    for name in files:
        s3.put(f"model/{name}", name.encode())
    place = f"s3://{BUCKET}/model"
    folder = Path(model_source(place, "model"))
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == set(files)
    assert (folder / "sub" / "tokenizer.json").read_text() == "sub/tokenizer.json"
    s3.requests.clear()
    check_model(place, "model")
    assert not any(method == "GET" and "safetensors" in path for method, path in s3.requests)
    s3.put("model/model.safetensors", b"other weights")
    assert (Path(model_source(place, "model")) / "model.safetensors").read_text() == "other weights"
    with pytest.raises(ConfigError, match=f"model: s3://{BUCKET}/nothing holds no config.json"):
        model_source(f"s3://{BUCKET}/nothing", "model")


def test_a_job_that_is_submitted_again_goes_on_with_the_model_of_its_working_directory(tmp_path, monkeypatch):
    store = RunStore(str(tmp_path / "run"))

    def begins(package, model, resume):
        job = tmp_path / "session" / "working_dir_files" / f"_ray_pkg_{package}"  # where Ray puts it
        (job / model).mkdir(parents=True)
        monkeypatch.chdir(job)
        given = [f"output={store.output}", "data.annotations=labels.json", "data.videos=videos", f"model={model}"]
        return loop._begin(store, load_config(TrainConfig, LAPTOP, given), resume)

    assert begins("4a5c2d185463e99f", "models/toy", resume=False) is None
    save(store, 2, 5, keep=1)
    assert begins("9816141699c78ed3", "models/toy", resume=True).step == 2
    with pytest.raises(ConfigError, match=r"model was '.*/models/toy' and is '.*/models/other'; name another output"):
        begins("0f0f", "models/other", resume=True)


def test_the_report_of_a_run_in_a_store_is_in_the_store(s3, tmp_path, monkeypatch):
    s3.put("told/metrics.jsonl", b'{"step": 1, "reward/mean": 0.25}\n')
    loop._report(RunStore(f"s3://{BUCKET}/told", str(tmp_path)))
    assert b"told" in s3.get("told/report.html")

    def write(folder, place):
        (folder / "report.completions.jsonl").write_text("{}\n")
        (folder / "report.html").write_text(f"ravst review --predictions {place}/report.completions.jsonl")
        return folder / "report.html"

    monkeypatch.setattr(loop, "write_training_report", write)
    loop._report(RunStore(f"s3://{BUCKET}/told", str(tmp_path)))
    assert s3.get("told/report.html").endswith(f" s3://{BUCKET}/told/report.completions.jsonl".encode())
    assert s3.get("told/report.completions.jsonl") == b"{}\n"


def test_the_best_checkpoint_stays_beside_the_last_ones(tmp_path):
    store = RunStore(str(tmp_path))
    for step in (2, 4, 6, 8):
        (tmp_path / "checkpoints" / f"checkpoint-{step}").mkdir(parents=True)
        store.mark_whole(Checkpoint(f"checkpoint-{step}", Position()), keep=2, best=4 if step > 2 else 2)
    assert [one.step for one in store.whole_checkpoints()] == [4, 6, 8]
