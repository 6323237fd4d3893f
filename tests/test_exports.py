"""Exports, each read back by the library that its users have; and what is left when one can't be written."""

import io
import json
import resource
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from pycocotools.coco import COCO
from rich.console import Console

from ravst_ray import cli
from ravst_ray.annotate.run import write_questions
from ravst_ray.core.masks import encode_rle
from ravst_ray.datasets.exports import webdataset as shards
from ravst_ray.datasets.exports.reading import read_videos
from ravst_ray.datasets.exports.run import FORMATS, export
from ravst_ray.datasets.questions import read_questions
from ravst_ray.datasets.scenes import list_scenes, read_scene
from ravst_ray.datasets.schemas import rows_of
from ravst_ray.datasets.splits import unit_key
from ravst_ray.datasets.store import DatasetStore
from ravst_ray.datasets.str_tables import STR_TABLES
from ravst_ray.errors import AbortError, ConfigError
from ravst_ray.records import Event, EventAnnotation, QAPair, SceneObject, Track, Video, VideoItem, VideoMeta
from tests.s3_server import BUCKET
from tests.stub_run import stub_config

EVIL = '../"<script>alert(1)</script>'
QUOTED = 'it\'s "100%" <b>good é'
HALF = np.zeros((12, 16), bool)  # a mask of frames that were half as large as the video
HALF[2:5, 3:9] = True
BOXES = ((6.0, 4.0, 18.0, 10.0), (7.0, 4.5, 19.0, 10.5))


def item(name: str, status: str = "accepted", tracked: bool = True) -> VideoItem:
    """A video of 32 x 24 pixels, 25 fps and 10 s, with one event from 1.4 to 4 s that is asked about once."""
    event = Event(1, 1.4, 4.0, "bell ringing", 7, "a bell rings")
    mask = encode_rle(HALF)
    track = Track(1, "bell", True, (1.4, 2.4), BOXES, (0.9, 0.8), (mask, mask), (True, False))
    annotation = EventAnnotation(
        event, (SceneObject("bell", True, (1,)),), (1.4, 2.4, 3.4), (track,) if tracked else (), status
    )
    answer = "<answer>\n<object>bell</object>\n<when>[1.4, 4.0]</when>\n</answer>"
    pair = QAPair(f"{name}/1/AVTR/0", name, 1, "AVTR", f"When does {name} ring?", answer, status)
    return VideoItem(
        Video(name, "x.mp4", 10.0, (event,)),
        VideoMeta(10.0, 25.0, 32, 24, True, "pyav"),
        annotations=(annotation,),
        qa=(pair,) if tracked else (),
        provenance={"detector": "dino | <i>tiny</i>", "llm": "x"},
    )


ITEMS = (
    item("plain"),
    item("none", tracked=False),
    item(QUOTED),
    item(EVIL),
    item("held"),
    item("doubtful", "suspect"),
    item("wrong", "rejected"),
)
GOOD = {"plain", "none", QUOTED, EVIL, "held"}


def put(store: DatasetStore, one: VideoItem) -> None:
    store.commit(one.video.video_id, rows_of(one, 0, 1.0 if one.video.video_id == "held" else 0.0), {})


def write(root: str, videos: Path | str = "", items=ITEMS) -> DatasetStore:
    store = DatasetStore(root)
    store.prepare()
    for one in items:
        put(store, one)
    store.compact()
    store.write_bytes("config.yaml", yaml.safe_dump({"input": {"videos": str(videos)}}).encode())
    return store


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> str:
    """An output whose videos, of which one is missing, lie in a folder beside it."""
    root = tmp_path_factory.mktemp("out")
    (root / "videos").mkdir()
    for name in ("plain.mp4", f"{QUOTED}.MKV", "held.mp4"):
        (root / "videos" / name).write_bytes(name.encode() * 9)
    (root / "evil").mkdir()
    write(str(root / "run"), root / "videos")
    return str(root / "run")


QUIET = Console(quiet=True)


def told(out: str, to: Path, form: str = "ravst", **more) -> str:
    console = Console(record=True, file=io.StringIO())
    export(out, str(to), form, console, **more)
    return console.export_text()


def test_published_json_is_what_the_run_writes(out, tmp_path):
    assert cli.main(["export", out, "--to", str(tmp_path / "to"), "--format", "ravst", "--videos"]) == 0
    store = DatasetStore(out)
    for split, names in (("train", GOOD - {"none", "held"}), ("test", {"held"})):
        write_questions(store, stub_config(tmp_path, output=out), split)
        pairs, durations = read_questions(tmp_path / "to" / f"ravst_{split}_QA.json")
        of_run, _ = read_questions(Path(out) / f"ravst_{split}_QA.json")
        assert {pair.video_id for pair in pairs} == names and set(durations.values()) == {10.0}
        assert sorted(pairs, key=repr) == sorted(of_run, key=repr)
    copied = {path.name: path.read_bytes() for path in (tmp_path / "to" / "videos").iterdir()}
    assert copied == {name: name.encode() * 9 for name in ("plain.mp4", "held.mp4")} | {
        f"{QUOTED}.mkv": f"{QUOTED}.MKV".encode() * 9
    }
    facts = json.loads((tmp_path / "to" / "export.json").read_text())
    assert facts["left_out"] == {key: {"suspect": 1, "rejected": 1} for key in ("events", "questions")}
    assert facts["files"]["videos/plain.mp4"] == 81


def test_verdicts_come_before_the_status_is_looked_at(out, tmp_path):
    def revise(video_id, annotations, qa):
        swap = {"suspect": "accepted", "accepted": "rejected"}
        return tuple(
            [{**row, "status": swap.get(row["status"], row["status"])} for row in rows] for rows in (annotations, qa)
        )

    said = told(out, tmp_path / "to", revise=revise, review={"error rate": "2% [1%, 4%]"})
    assert [pair.video_id for pair in read_questions(tmp_path / "to" / "ravst_train_QA.json")[0]] == ["doubtful"]
    assert read_questions(tmp_path / "to" / "ravst_test_QA.json") == ([], {})
    assert "1 videos, 1 events, 1 questions" in said and "left out for their status: 5 rejected questions" in said
    assert "| error rate | 2% \\[1%, 4%\\] |" in (tmp_path / "to" / "README.md").read_text()


def test_datasets_loads_questions_and_annotations(out, tmp_path, monkeypatch):
    from datasets import load_dataset

    export(out, str(tmp_path / "to"), "hf", QUIET, ["accepted", "suspect"], videos="")
    store = DatasetStore(out)
    cache = str(tmp_path / "cache")
    for name, arguments in (("qa", ()), ("annotations", ("annotations",))):
        loaded = load_dataset(str(tmp_path / "to"), *arguments, cache_dir=cache)
        found = [row for split in loaded.values() for row in split]
        files = {"plain": "videos/plain.mp4", "held": "videos/held.mp4", QUOTED: f"videos/{QUOTED}.mkv"}
        there = GOOD - {"none"} if name == "qa" else GOOD
        assert {row["video_id"]: row.pop("video_file") for row in found} == {
            one: files.get(one) for one in there | {"doubtful"}
        }
        for row in found:
            if "provenance" in row:
                row["provenance"] = [(pair["key"], pair["value"]) for pair in row["provenance"]]
        kept = [row for row in store.rows(name) if row["status"] != "rejected"]
        assert sorted(found, key=repr) == sorted(kept, key=repr)
        assert [row["video_id"] for row in loaded["test"]] == ["held"]
    text = (tmp_path / "to" / "README.md").read_text()
    assert yaml.safe_load(text.split("---\n")[1])["license"] == "other"
    assert "dino \\| &lt;i&gt;tiny&lt;/i&gt;" in text and "<i>" not in text


def test_pycocotools_reads_boxes_and_masks_at_the_videos_size(out, tmp_path):
    export(out, str(tmp_path / "to"), "coco", QUIET)
    coco = COCO(str(tmp_path / "to" / "coco_train.json"))
    videos = {video["id"]: video for video in coco.dataset["videos"]}
    assert {video["name"] for video in videos.values()} == GOOD - {"held"}
    assert videos[1]["events"] == [
        {"event_num": 1, "label": "bell ringing", "start_s": 1.4, "end_s": 4.0, "status": "accepted"}
    ]
    frames = Counter((videos[image["video_id"]]["name"], image["frame_index"]) for image in coco.imgs.values())
    assert frames == {(name, frame): 1 for name in GOOD - {"held"} for frame in (35, 60, 85)}, (
        "1.4, 2.4, 3.4 s at 25 fps"
    )
    seen = Counter(videos[one["video_id"]]["name"] for one in coco.anns.values())
    assert seen == dict.fromkeys(GOOD - {"held", "none"}, 2)
    first, second = (coco.anns[number] for number in (1, 2))
    assert (first["bbox"], second["bbox"]) == ([6.0, 4.0, 12.0, 6.0], [7.0, 4.5, 12.0, 6.0])
    assert (coco.annToMask(first) == np.kron(HALF, np.ones((2, 2)))).all(), "each pixel of the smaller frame is 2 x 2"
    assert first["area"] == 4 * HALF.sum() and first["track_id"] == second["track_id"]
    assert [one["name"] for one in coco.loadCats(coco.getCatIds())] == ["bell"]
    assert [coco.imgs[one["image_id"]]["time_s"] for one in (first, second)] == [1.4, 2.4]

    refs = {ref.scene_id: ref for ref in list_scenes("tao", str(tmp_path / "to" / "coco_train.json"))}
    (bell,) = read_scene(refs["plain"]).entities
    assert (bell.times_s, bell.boxes_xyxy_px) == ((1.4, 2.4), BOXES)


def test_webdataset_reads_shards_with_their_videos(out, tmp_path, monkeypatch):
    import webdataset

    monkeypatch.setattr(shards, "SHARD_BYTES", 5_000)
    export(out, str(tmp_path / "to"), "webdataset", QUIET, videos="")
    names = sorted(path.name for path in (tmp_path / "to").glob("*.tar"))
    assert names[0] == "test-000000.tar" and names[1:] == [
        f"train-{number:06d}.tar" for number in range(len(names) - 1)
    ]
    assert len(names) > 2
    urls = [str(tmp_path / "to" / name) for name in names]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode())
    assert {one["__key__"]: one["json"]["video_id"] for one in samples} == {
        name if name.isalnum() else unit_key(name): name for name in GOOD
    }
    by_name = {one["json"]["video_id"]: one for one in samples}
    assert by_name["plain"]["mp4"] == b"plain.mp4" * 9 and "mp4" not in by_name["none"]
    assert by_name[QUOTED]["mkv"] == f"{QUOTED}.MKV".encode() * 9
    store = DatasetStore(out)
    for table in ("annotations", "qa"):
        rows = [row for one in samples for row in one["json"][table]]
        kept = [row for row in store.rows(table) if row["status"] == "accepted"]
        for row in kept:
            row |= {"provenance": dict(row["provenance"])} if "provenance" in row else {}
        assert sorted(rows, key=repr) == sorted(kept, key=repr)


def test_rows_are_paired_however_the_tables_are_cut(tmp_path, monkeypatch):
    monkeypatch.setattr("ravst_ray.datasets.parts.GROUP_ROWS", 2)
    monkeypatch.setattr("ravst_ray.datasets.parts.PART_BYTES", 14_000)  # questions stay in one part, annotations don't
    names = [f"v{number}" for number in range(12)]
    for start in range(0, 12, 4):
        store = write(
            str(tmp_path / "out"), items=[item(name, tracked=name != "v3") for name in names[start : start + 4]]
        )
    generation = store.generation()
    assert len(generation.tables["annotations"]) > len(generation.tables["qa"])
    found = list(read_videos(store, generation))
    assert sorted(video_id for video_id, _, _ in found) == sorted(names)
    for video_id, events, qa in found:
        assert [row["video_id"] for row in events] == [video_id]
        assert [row["video_id"] for row in qa] == ([] if video_id == "v3" else [video_id])
    monkeypatch.setattr(store, "rows", lambda name, _: iter([{"video_id": "b" if name == "qa" else "a"}]))
    with pytest.raises(AbortError, match="the questions of 'b' belong to no event"):
        list(read_videos(store, generation))


def test_what_can_not_be_exported_is_told_before_anything_is_written(out, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    begun = DatasetStore(str(tmp_path / "begun"))
    begun.prepare()
    put(begun, item("a"))
    other = DatasetStore(str(tmp_path / "questions"), STR_TABLES)
    other.prepare()
    other.compact()
    write(str(tmp_path / "nothing"), items=[item("a", "suspect")])
    to = str(tmp_path / "to")
    for arguments, said in (
        ((out, str(tmp_path / "full"), "hf"), r"full: isn't empty \(mine.txt\); choose another folder"),
        ((out, str(tmp_path / "file"), "hf"), "file: is a file; choose a folder"),
        ((out, str(tmp_path / "file" / "to"), "hf"), "can't be written to"),
        ((out, to, "csv"), "csv: no such format; there are ravst, hf, coco, webdataset"),
        ((out, to, "hf", QUIET, ["good"]), "good: no such status; there are accepted, suspect, rejected"),
        ((str(tmp_path / "no"), to, "hf"), "no annotations there; name the output of ravst annotate"),
        ((str(tmp_path / "questions"), to, "hf"), "no annotations there"),
        ((str(tmp_path / "begun"), to, "hf"), "its first run has not ended"),
        ((str(tmp_path / "nothing"), to, "coco"), r"no row is accepted \(1 suspect\); --statuses names others"),
        ((str(tmp_path / "nothing"), to, "hf", QUIET, ["suspect"], ""), "names no folder of videos; name it: --videos"),
        ((out, to, "hf", QUIET, ["accepted"], str(tmp_path / "nowhere")), "nowhere: not a readable folder of videos"),
    ):
        with pytest.raises(ConfigError, match=said):
            export(*arguments, *([QUIET] if len(arguments) == 3 else []))
    assert not (tmp_path / "to").exists() and [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]


@contextmanager
def small_disk(most_bytes: int):
    """No file may grow beyond this: writes fail as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("form", FORMATS)
def test_a_full_disk_leaves_nothing(out, tmp_path, form):
    (tmp_path / "mine").mkdir()
    for to in ("mine", "new"):
        with small_disk(300), pytest.raises(AbortError, match=r"can't be written: .*nothing is left"):
            export(out, str(tmp_path / to), form, QUIET, videos="")
    assert [path.name for path in tmp_path.rglob("*")] == ["mine"]


def test_rows_that_do_not_fit_together_end_it(tmp_path):
    broken = item("a")
    (event,) = broken.annotations
    broken = replace(broken, annotations=(replace(event, tracks=(replace(event.tracks[0], scores=(0.9,)),)),))
    store = write(str(tmp_path / "out"), items=[broken])
    with pytest.raises(AbortError, match=r"the rows of 'a', .* aren't as ravst annotate writes them: ValueError"):
        export(store.root, str(tmp_path / "to"), "coco", QUIET)
    rows = rows_of(item("b"), 0, 0.0)
    rows["annotations"][0]["split"] = "../../x"
    store.commit("b", rows, {})
    store.compact()
    with pytest.raises(AbortError, match=r"the split of 'b' is '../../x'"):
        export(store.root, str(tmp_path / "to"), "hf", QUIET)
    assert not (tmp_path / "to").exists()


def test_a_run_that_goes_on(tmp_path, monkeypatch):
    """What is in no table yet is counted; tables that are replaced meanwhile end it."""
    store = write(str(tmp_path / "out"), items=[item("a")])
    put(store, item("b"))
    said = told(store.root, tmp_path / "to")
    assert "1 videos, 1 events, 1 questions" in said and "1 videos that are committed, but in no table" in said
    before = store.generation()
    store.compact()
    monkeypatch.setattr(DatasetStore, "generation", lambda self: before)
    with pytest.raises(AbortError, match="its tables were replaced while they were read; run the command again"):
        export(store.root, str(tmp_path / "late"), "hf", QUIET)
    assert not (tmp_path / "late").exists()


def test_from_and_to_an_object_store(s3, tmp_path):
    here = f"s3://{BUCKET}/exports"
    for name in ("plain", "held"):
        s3.put(f"exports/videos/{name}.mp4", name.encode() * 9)
    write(f"{here}/out", f"{here}/videos")
    s3.requests.clear()
    export(f"{here}/out", f"{here}/to", "hf", QUIET, videos="")
    written = [
        path.partition("exports/to/")[2] for method, path in s3.requests if method == "PUT" and "exports/to/" in path
    ]
    assert written[-1] == "export.json"
    assert {"videos/plain.mp4", "videos/held.mp4", "qa/train-00000.parquet", "README.md"} <= set(written)
    assert s3.get("exports/to/videos/held.mp4") == b"held" * 9
    with pytest.raises(ConfigError, match="isn't empty"):
        export(f"{here}/out", f"{here}/to", "hf", QUIET)
    assert not list((tmp_path / "tmp").iterdir()), "copies are removed"

    s3.spoil = lambda method, path: 403 if path.endswith("annotations/test-00000.parquet") else None
    with pytest.raises(AbortError, match="nothing is left of the export"):
        export(f"{here}/out", f"{here}/broken", "hf", QUIET)
    assert set(s3.keys("exports/broken/")) <= {"exports/broken/"}
    s3.spoil = lambda method, path: None
    export(f"{here}/out", f"{here}/broken", "ravst", QUIET)
    s3.spoil = lambda method, path: 403 if path.endswith("exports/videos/plain.mp4") else None
    with pytest.raises(AbortError, match="check the nodes' credentials"):
        export(f"{here}/out", f"{here}/forbidden", "hf", QUIET, videos="")
