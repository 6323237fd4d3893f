"""`ravst make-str` as a whole: the files that it writes, how it goes on, what it refuses."""

import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from ravst_ray import cli
from ravst_ray.config.base import load_config
from ravst_ray.config.make_str import MakeStrConfig
from ravst_ray.datasets.scenes import READERS
from ravst_ray.datasets.store import DatasetStore
from ravst_ray.datasets.str_tables import QUESTIONS, STR_TABLES
from ravst_ray.errors import ConfigError
from ravst_ray.questions import run
from ravst_ray.questions.exclude import read_excluded, split_excluded
from ravst_ray.questions.work import commit_scenes
from tests.scene_files import room, scannet_box, write_json

SHIPPED = Path(__file__).parents[1] / "jobs" / "configs" / "make_str.yaml"
NAMES = ("scene0001_00", "scene0001_01", "scene0002_00", "scene0003_00")


def a_room(shift: float = 0.0) -> dict:
    """Four things, two of them chairs."""
    places = {"sofa": (0, 0, 0), "lamp": (3 + shift, 0, 0), "table": (1, 4, 0)}
    boxes = {label: [scannet_box(centre)] for label, centre in places.items()}
    return room(**boxes, chair=[scannet_box((-3, 2, 0)), scannet_box((5, 5 + shift, 0))])


@pytest.fixture
def rooms(tmp_path):
    """A file of four rooms."""
    return write_json(tmp_path / "rooms.json", {name: a_room(0.1 * i) for i, name in enumerate(NAMES)})


def config_of(scenes, output, *more):
    """The configuration of a run."""
    places = [f"input.scenes={scenes}", "input.format=scannet", f"output={output}"]
    return load_config(MakeStrConfig, SHIPPED, [*places, *more])


def make(scenes, output, *more):
    """Run it quietly; the summary."""
    return run.make_str(config_of(scenes, output, *more), Console(quiet=True))


def lines(output):
    """The rows of questions.jsonl."""
    return [json.loads(line) for line in (output / "questions.jsonl").read_text().splitlines()]


def test_what_is_written(rooms, tmp_path):
    out = tmp_path / "out"
    summary = make(rooms, out)
    rows = lines(out)
    table = pq.read_table(out / "questions.parquet")
    assert table.schema.names == QUESTIONS.names
    assert table.to_pylist() == rows
    assert len(rows) == summary["questions"] == sum(summary["kinds"].values())
    assert summary == json.loads((out / "summary.json").read_text())
    assert summary["sources"] == {"scannet": len(rows)}
    assert summary["kinds"]["object_counting"] == summary["kinds"]["room_size"] == 4
    assert summary["letters"]["relative_direction_easy"].keys() == {"A", "B"}
    first = next(row for row in rows if row["kind"] == "object_counting")
    assert (first["id"], first["task"], first["answer"]) == ("scene0001_00/object_counting/0", "STR", "2")
    assert (first["width"], first["duration_s"], first["video"]) == (None, 0.0, "scene0001_00")
    card = (out / "README.md").read_text()
    assert f"{len(rows)} questions of 8 kinds from 4 scenes" in card
    assert "| `object_counting` | 4 |" in card
    assert "| `apart_m` | 0.3 |" in card


def test_the_report_shows_samples_of_each_kind(rooms, tmp_path):
    out = tmp_path / "out"
    summary = make(rooms, out)
    page = (out / "index.html").read_text()
    assert page.count('<svg class="plan"') == 2 * len(summary["kinds"])
    for row in lines(out):
        if row["kind"] == "room_size" and f"{row['id']} ·" in page:
            assert f">{row['answer']} m2<" in page
    assert page.count("room_size/0 ·") == 2
    assert "<script" not in page


def test_a_label_cannot_write_into_the_report(tmp_path):
    one = a_room()
    one["object_bbox"]["<b>"] = [scannet_box((1, 1, 1))]
    path = write_json(tmp_path / "r.json", {"bad": one, "good": a_room()})
    summary = make(path, tmp_path / "out")
    assert summary["errors"] == {"malformed_scene": 1}
    page = (tmp_path / "out" / "index.html").read_text()
    assert "<b>" not in page
    assert "&lt;b&gt;" in page


def test_a_bad_scene_is_a_row_of_errors_and_is_done_again(rooms, tmp_path):
    data = json.loads(rooms.read_text())
    del data["scene0002_00"]["object_bbox"]["lamp"][0]["centroid"]
    bad, out = write_json(tmp_path / "bad.json", data), tmp_path / "out"
    summary = make(bad, out)
    assert summary["scenes"] == {"done": 3, "failed": 1}
    (error,) = DatasetStore(str(out), STR_TABLES).rows("errors")
    assert (error["video_id"], error["reason"], error["message"]) == (
        "scene0002_00",
        "malformed_scene",
        "'centroid' is missing",
    )
    bad.write_text(rooms.read_text())
    assert make(bad, out)["scenes"] == {"done": 4, "failed": 0}
    make(rooms, tmp_path / "other")
    assert lines(out) == lines(tmp_path / "other")


def test_a_fault_of_ours_costs_its_scene_alone(rooms, tmp_path, monkeypatch):
    real = run.commit_scenes.__globals__["questions_of"]

    def breaks(scene, rules):
        if scene.scene_id == "scene0001_01":
            raise ZeroDivisionError("by nothing")
        return real(scene, rules)

    monkeypatch.setattr("ravst_ray.questions.work.questions_of", breaks)
    summary = make(rooms, tmp_path / "out")
    assert (summary["scenes"], summary["errors"]) == ({"done": 3, "failed": 1}, {"internal_error": 1})


def test_a_run_goes_on_where_it_was_killed(rooms, tmp_path, monkeypatch):
    """Two scenes are committed, of a third only the part without its manifest is there: as after a kill."""
    make(rooms, tmp_path / "whole")
    out = tmp_path / "out"
    config = config_of(rooms, out)
    store = DatasetStore(str(out), STR_TABLES)
    store.prepare()
    store.replace_bytes("config.yaml", b"")
    refs = READERS["scannet"].list(str(rooms))
    assert list(commit_scenes(refs[:3], config, store)) == [None] * 3
    (manifest,) = (out / "_commit" / "units").glob(f"{NAMES[2]}-*.json")
    manifest.unlink()
    done = []
    real = run.commit_scenes

    def watched(todo, *rest):
        done.extend(ref.scene_id for ref in todo)
        return real(todo, *rest)

    monkeypatch.setattr(run, "commit_scenes", watched)
    run.make_str(config, Console(quiet=True))
    assert done == list(NAMES[2:])
    for name in ("questions.parquet", "questions.jsonl", "summary.json", "index.html"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    run.make_str(config, Console(quiet=True))
    assert done == list(NAMES[2:]), "nothing is left to do"


def test_other_rules_need_another_output(rooms, tmp_path):
    make(rooms, tmp_path / "out", "input.limit=2")
    assert {row["scene"] for row in lines(tmp_path / "out")} == set(NAMES[:2])
    make(rooms, tmp_path / "out")
    assert {row["scene"] for row in lines(tmp_path / "out")} == set(NAMES)
    with pytest.raises(ConfigError, match=r"begun with other settings \(margins"):
        make(rooms, tmp_path / "out", "margins.apart_m=0.5")


def test_scenes_of_a_benchmark_are_not_asked_about(rooms, tmp_path):
    ids = tmp_path / "benchmark.txt"
    ids.write_text("# VSI-Bench\nscene0001_02\nscene0003  # whole rooms too\n\nscene0777_00\n")
    make(rooms, tmp_path / "out")
    said = io.StringIO()
    config = config_of(rooms, tmp_path / "out", f"exclude=[{ids}]")
    summary = run.make_str(config, Console(file=said))
    assert summary["excluded"] == ["scene0001_00", "scene0001_01", "scene0003_00"]
    assert {row["scene"] for row in lines(tmp_path / "out")} == {"scene0002_00"}, "also of what was committed before"
    assert "4 scenes, 3 of them excluded (1 ids of the lists are none of these scenes)" in said.getvalue()
    assert "scene0001_00, scene0001_01, scene0003_00" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("listed", "out"),
    [
        ({"train/HACS/v_1"}, {"train/HACS/v_1"}),
        ({"v_1"}, {"train/HACS/v_1"}),
        ({"clip"}, {"clip/1", "clip/2"}),
        ({"scene0001"}, {"scene0001_00"}),
        ({"scene000"}, set()),
        ({"HACS"}, set()),
    ],
)
def test_names_of_a_scene(listed, out):
    scenes = ["train/HACS/v_1", "clip/1", "clip/2", "scene0001_00", "scene0010_00"]
    assert split_excluded(scenes, frozenset(listed))[0] == out


def test_what_is_refused_before_anything_starts(rooms, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match=r"no such file \(input.scenes\)"):
        make(tmp_path / "none.json", out)
    with pytest.raises(ConfigError, match="no scenes in it"):
        make(write_json(tmp_path / "empty.json", {}), out)
    with pytest.raises(ConfigError, match=r"not a readable list of scenes.*\(exclude\)"):
        make(rooms, out, f"exclude=[{tmp_path / 'none.txt'}]")
    with pytest.raises(ConfigError, match=r"input\.format"):
        make(rooms, out, "input.format=coco")
    assert not out.exists()
    with pytest.raises(ConfigError, match="not a readable list"):
        read_excluded([str(tmp_path)])


def test_the_command(rooms, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [f"input.scenes={rooms}", "input.format=scannet", f"output={out}"]
    assert cli.main(["make-str", "--config", str(SHIPPED), *arguments]) == 0
    assert f"{len(lines(out))} questions of 8 kinds" in capsys.readouterr().err
    assert cli.main(["make-str", *arguments[1:]]) == 2
    assert "ravst make-str: configuration: input.scenes: Field required" in capsys.readouterr().err


def test_many_scenes_go_through_ray_and_come_out_the_same(local_ray, tmp_path, monkeypatch):
    scenes = {f"r{i:03d}": a_room(0.01 * i) for i in range(30)}
    del scenes["r007"]["room_size"]
    path = write_json(tmp_path / "rooms.json", scenes)
    make(path, tmp_path / "here")
    monkeypatch.setattr(run, "RAY_FROM", 1)
    assert make(path, tmp_path / "ray")["scenes"] == {"done": 29, "failed": 1}
    for name in ("questions.parquet", "summary.json"):
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "here" / name).read_bytes(), name
