"""`ravst make-str` as a whole: the files that it writes, how it goes on, what it refuses."""

import io
import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console

from ravst_ray import cli
from ravst_ray.config.base import load_config
from ravst_ray.config.make_str import BalanceConfig, MakeStrConfig
from ravst_ray.datasets.scenes import READERS
from ravst_ray.datasets.store import DatasetStore
from ravst_ray.datasets.str_tables import QUESTIONS, STR_TABLES
from ravst_ray.errors import ConfigError
from ravst_ray.evaluation.benchmarks import benchmark_of
from ravst_ray.questions import run
from ravst_ray.questions.balance import kept_rows
from ravst_ray.questions.exclude import read_excluded, split_excluded
from ravst_ray.questions.vsi_format import VSI_KINDS
from ravst_ray.questions.work import commit_scenes
from ravst_ray.reports.str_drawing import draw
from tests.s3_server import BUCKET
from tests.scene_files import room, scannet_box, tao_data, write_json, write_kitti

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


def test_what_cannot_be_written_costs_its_scene_alone(tmp_path):
    """Half a character in a label, which the error quotes."""
    one = a_room()
    one["object_counts"]["\ud800"] = 2
    summary = make(write_json(tmp_path / "r.json", {"bad": one, "good": a_room()}), tmp_path / "out")
    assert summary["scenes"] == {"done": 1, "failed": 1}
    (error,) = DatasetStore(str(tmp_path / "out"), STR_TABLES).rows("errors")
    assert error["message"] == r"it counts things of the label '\ud800'"


def test_a_dataset_without_a_question(tmp_path):
    path = write_json(tmp_path / "r.json", {"bad": {**a_room(), "room_size": -1}})
    summary = make(path, tmp_path / "out")
    assert (summary["questions"], summary["scenes"], lines(tmp_path / "out")) == (0, {"done": 0, "failed": 1}, [])
    assert pq.read_table(tmp_path / "out" / "questions.parquet").schema.names == QUESTIONS.names


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


def test_what_another_node_has_kept_to_itself_is_told(rooms, tmp_path, monkeypatch):
    real = run.commit_scenes
    monkeypatch.setattr(run, "commit_scenes", lambda todo, *rest: real(todo[1:], *rest))
    said = io.StringIO()
    summary = run.make_str(config_of(rooms, tmp_path / "out"), Console(file=said, width=200))
    assert summary["scenes"] == {"done": 3, "failed": 0}
    assert "1 scenes are not in the output" in said.getvalue()


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


def rows_by_answer(**counts):
    """Columns of questions of one kind with so many of each answer."""
    answers = [answer.lstrip("n") for answer, count in counts.items() for _ in range(count)]
    ids = [f"scene{number}/object_counting/0" for number in range(len(answers))]
    return {"id": ids, "kind": ["k"] * len(ids), "answer": answers, "options": [[] for _ in ids]}


@pytest.mark.parametrize(
    ("counts", "rules", "kept"),
    [
        ({"n2": 475, "n3": 78, "n4": 69}, {}, {"2": 147, "3": 78, "4": 69}),  # 147 = 78 + 69
        ({"n2": 475, "n3": 78, "n4": 69}, {"answer_share": 1.0}, {"2": 475, "3": 78, "4": 69}),
        ({"n2": 475, "n3": 300, "n4": 300}, {"answer_share": 0.4}, {"2": 400, "3": 300, "4": 300}),
        ({"n2": 90}, {}, {"2": 25}),
        ({"n2": 20, "n3": 4}, {}, {"2": 20, "3": 4}),
    ],
)
def test_no_answer_is_right_too_often(counts, rules, kept):
    columns = rows_by_answer(**counts)
    places, dropped = kept_rows(columns, BalanceConfig(**rules), seed=0)
    assert Counter(columns["answer"][place] for place in places) == kept
    assert dropped == Counter({"k": sum(counts.values()) - sum(kept.values())}) - Counter()


def test_of_choices_the_text_counts_and_not_the_letter():
    columns = rows_by_answer(A=200, B=200)
    columns["options"] = [["left", "right"]] * 200 + [["right", "left"]] * 100 + [["left", "right"]] * 100
    places, _ = kept_rows(columns, BalanceConfig(), seed=0)
    assert len(places) == 200, "300 are left, so all 100 of right and 100 of left"


def test_more_scenes_change_little():
    columns = rows_by_answer(n2=500, n3=500)
    few = {name: values[::2] for name, values in columns.items()}
    (many, dropped), (some, _) = (kept_rows(one, BalanceConfig(per_kind=200), seed=0) for one in (columns, few))
    assert (len(many), len(some), dropped["k"]) == (200, 200, 800)
    first, then = {few["id"][place] for place in some}, {columns["id"][place] for place in many}
    assert then & set(few["id"]) <= first, "what was left out of the few stays out of the many"


def test_a_dataset_is_balanced_and_balanced_anew(rooms, tmp_path):
    out = tmp_path / "out"
    whole = make(rooms, out)
    summary = make(rooms, out, "balance.per_kind=3")
    assert summary["kinds"] == {kind: min(count, 3) for kind, count in whole["kinds"].items()}
    assert summary["left_out"]["room_size/balance"] == 1
    assert len(lines(out)) == pq.read_table(out / "questions.parquet").num_rows == summary["questions"]
    assert "of each kind it has at most 3, and no answer" in (out / "README.md").read_text()
    assert make(rooms, out) == whole


def test_seen_from_above_is_the_floor_of_a_camera_too(tmp_path):
    """Of two cars, one 10 m behind the other, the far one is on top."""
    nodes = [{"id": "car.1", "pos": [1.0, 5.0, -1.6]}, {"id": "car.2", "pos": [1.0, 15.0, -1.6]}]
    graph = {"frames": [{"t": 0.0, "nodes": nodes}]}
    row = {
        "graph": json.dumps(graph),
        "space": "3d",
        "source": "kitti",
        "form": "number",
        "question": "car",
        "options": [],
    }
    drawing = draw(row)
    near, far = drawing.dots
    assert near.y - far.y == pytest.approx(10 * drawing.metre)
    assert near.y - far.y > 200


@pytest.mark.parametrize("form", ["toy", "scannet", "tao", "kitti"])
def test_scenes_and_questions_in_an_object_store(s3, tmp_path, form):
    """The same bytes as here, from whatever format."""
    here, there = tmp_path / form, f"s3://{BUCKET}/in/{form}"
    here.mkdir()
    if form == "kitti":
        write_kitti(here)
        (here / "image_02" / "0000").mkdir(parents=True)
        Image.new("RGB", (1224, 370)).save(here / "image_02" / "0000" / "000000.png")
        place, remote = here, there
    else:
        boxes = {f"{tenth / 10:.1f}": [5 * tenth, 9, 5 * tenth + 20, 40] for tenth in range(20)}
        toy = {
            "duration": 2.0,
            "fps": 10,
            "width": 256,
            "height": 256,
            "objects": [{"name": "red ball", "boxes": boxes}],
        }
        data = {"toy": {"v": toy}, "scannet": {"r": a_room()}, "tao": tao_data()}[form]
        write_json(here / "truth.json", data)
        place, remote = (here, there) if form == "toy" else (here / "truth.json", f"{there}/truth.json")
    for file in here.rglob("*.*"):
        if file.is_file():
            s3.put(f"in/{form}/{file.relative_to(here)}", file.read_bytes())
    (tmp_path / "not.txt").write_text("nothing\n")
    s3.put("in/not.txt", b"nothing\n")
    out = f"s3://{BUCKET}/out/{form}"
    summary = make(place, tmp_path / "out", f"input.format={form}", f"exclude=[{tmp_path / 'not.txt'}]")
    found = make(remote, out, f"input.format={form}", f"exclude=[s3://{BUCKET}/in/not.txt]")
    assert found == summary
    assert summary["questions"] > 2
    for name in ("questions.jsonl", "questions.parquet", "index.html"):
        assert s3.get(f"out/{form}/{name}") == (tmp_path / "out" / name).read_bytes()


def test_scenes_that_are_not_in_the_store(s3, tmp_path):
    with pytest.raises(ConfigError, match=r"none.json: no such file.*\(input.scenes\)"):
        make(f"s3://{BUCKET}/none.json", tmp_path / "out")
    with pytest.raises(ConfigError, match="no label files"):
        make(f"s3://{BUCKET}/none", tmp_path / "out", "input.format=kitti")
    with pytest.raises(ConfigError, match="no annotations there"):
        make(f"s3://{BUCKET}/none", tmp_path / "out", "input.format=ravst")


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


def test_questions_of_vsi_benchs_kinds_are_written_in_its_format(tmp_path, world):
    """Read back by what evaluates the benchmark."""
    out = tmp_path / "out"
    places = [f"input.scenes={world.root / 'truth.json'}", "input.format=toy", f"output={out}"]
    run.make_str(load_config(MakeStrConfig, SHIPPED, places), Console(quiet=True))
    wanted = {row["id"]: row for row in lines(out) if row["kind"] in VSI_KINDS}
    asked = benchmark_of("vsi-bench").read(out / "vsi_bench.jsonl")
    assert {one.qa_id for one in asked} == set(wanted) and len({one.kind for one in asked}) > 1
    for one in asked:
        row = wanted[one.qa_id]
        assert (one.kind, one.truth, one.video) == (VSI_KINDS[row["kind"]], row["answer"], f"toy/{row['video']}")
        assert row["question"] in one.prompt and all(f". {option}" in one.prompt for option in row["options"])
