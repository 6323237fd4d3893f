"""The reader of UnAV-100's event labels, on good and on hostile files."""

import json

import pytest

from ravst_ray.datasets.unav import read_unav
from ravst_ray.errors import ConfigError
from ravst_ray.records import Event, SceneObject, Video

GOOD = {
    "subset": "train",
    "duration": 42.5,
    "fps": 29.97,
    "annotations": [
        {"segment": [1.25, 9], "label": "dog barking", "label_id": 17, "caption": "a dog barks at a cat"},
        {"segment": [20.0, 30.5], "label": "man speaking", "label_id": 3},
    ],
}


def entry(**changes):
    return {**GOOD, **changes}


def annotated(**changes):
    return entry(annotations=[{"segment": [1.0, 2.0], "label": "x", **changes}])


@pytest.fixture
def read(tmp_path):
    """Write a database (or raw text) and read it back."""
    videos = tmp_path / "videos"
    videos.mkdir()

    def run(database, files=(), raw=None, **options):
        for name in files:
            (videos / name).touch()
        path = tmp_path / "labels.json"
        path.write_text(raw if raw is not None else json.dumps({"database": database}), encoding="utf-8")
        return read_unav(path, videos, **options)

    run.videos = videos
    return run


def test_a_good_entry_is_read_whole(read):
    result = read({"zLfhRM6G0OU": GOOD}, files=["zLfhRM6G0OU.mp4"])
    events = (
        Event(1, 1.25, 9.0, "dog barking", 17, "a dog barks at a cat"),
        Event(2, 20.0, 30.5, "man speaking", 3, None),
    )
    assert result.videos == [Video("zLfhRM6G0OU", str(read.videos / "zLfhRM6G0OU.mp4"), 42.5, events, "train")]
    assert result.rejected == []


@pytest.mark.parametrize(
    ("given", "read_as"),
    [
        (None, None),
        ([], None),
        (
            [{"name": "red drum", "audible": True}, {"name": " bell ", "audible": False}],
            (SceneObject("red drum", True), SceneObject("bell", False)),
        ),
    ],
)
def test_objects_may_be_given(read, given, read_as):
    assert read({"a": annotated(objects=given)}).videos[0].events[0].given_objects == read_as


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["a.mkv"], "a.mkv"),
        (["a.webm"], "a.webm"),
        (["a.avi"], "a.avi"),
        (["a.mov"], "a.mov"),
        (["a.MP4"], "a.MP4"),
        (["a.MoV"], "a.MoV"),
        (["a.m4v"], "a.m4v"),
        (["a.mpg"], "a.mpg"),
        (["a.flv"], "a.flv"),
        (["a.TS", "A.mp4"], "a.TS"),
        (["a.txt", "ab.mp4"], "a.mp4"),
        ([], "a.mp4"),
    ],
)
def test_the_file_is_found_by_extension(read, files, found):
    assert read({"a": GOOD}, files=files).videos[0].path == str(read.videos / found)


def test_a_file_name_in_another_unicode_form_is_found(read):
    (found,) = read({"caf\u00e9": GOOD}, files=["cafe\u0301.mp4"]).videos
    assert found.path == str(read.videos / "cafe\u0301.mp4")


def test_two_files_of_one_id_are_named(read):
    result = read({"a": GOOD, "b": GOOD}, files=["a.mov", "a.mp4", "b.mp4"])
    assert [v.video_id for v in result.videos] == ["b"]
    (row,) = result.rejected
    assert (row.video_id, row.reason) == ("a", "ambiguous_file")
    assert row.message == "There are 2 files of this id, a.mov and a.mp4; leave one there."


@pytest.mark.parametrize(
    ("fields", "key", "read_as"),
    [
        ({"label_id": 17.0}, "label_id", 17),  # pandas, of a column with gaps
        ({"label_id": float("nan")}, "label_id", None),
        ({"caption": float("nan")}, "caption", None),
        ({"segment": [-0.01, 2.0]}, "start_s", 0.0),
        ({"objects": [{"name": "red\u00a0 drum", "audible": True}]}, "given_objects", (SceneObject("red drum", True),)),
        ({"objects": [{"name": "cafe\u0301", "audible": True}]}, "given_objects", (SceneObject("caf\u00e9", True),)),
    ],
)
def test_what_other_programs_write_is_read_as_meant(read, fields, key, read_as):
    result = read({"a": annotated(**fields)})
    assert result.rejected == []
    assert getattr(result.videos[0].events[0], key) == read_as


@pytest.mark.parametrize("video_id", ["two words", "it's", 'say "hi"', "-dash", "..hidden", "a.b", "ünïcode", "猫"])
def test_odd_but_harmless_ids_are_fine(read, video_id):
    result = read({video_id: GOOD}, files=[f"{video_id}.webm"])
    assert [v.path for v in result.videos] == [str(read.videos / f"{video_id}.webm")]


@pytest.mark.parametrize(
    "video_id", ["../secret", "/etc/passwd", "a/b", "a\\b", "..", ".", "", "a\0b", "a\nb", "x" * 250, "\ud800"]
)
def test_an_id_never_becomes_another_path(read, video_id):
    (read.videos.parent / "secret.mp4").touch()
    result = read({video_id: GOOD, "good": GOOD})
    assert [v.video_id for v in result.videos] == ["good"]
    assert [(r.stage, r.reason, r.retryable) for r in result.rejected] == [("input", "unsafe_id", False)]
    result.rejected[0].video_id.encode("utf-8")  # an errors row can be written


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (None, "no object"),
        ([], "no object"),
        ({k: v for k, v in GOOD.items() if k != "duration"}, "duration"),
        (entry(duration="42.5"), "duration"),
        (entry(duration=0), "duration"),
        (entry(duration=-3.0), "duration"),
        (entry(duration=True), "duration"),
        (entry(duration=float("nan")), "duration"),
        (entry(duration=float("inf")), "duration"),
        (entry(duration=10**400), "duration"),
        (entry(subset=3), "subset"),
        (entry(annotations=None), "annotations"),
        (entry(annotations=["bark"]), "annotation 1"),
        (entry(annotations=[*GOOD["annotations"], {"label": "x"}]), "annotation 3: segment"),
        (annotated(segment=[1.0]), "segment"),
        (annotated(segment=[2.0, 2.0]), "forward"),
        (annotated(segment=[3.0, 2.0]), "forward"),
        (annotated(segment=[-1.0, 2.0]), "forward"),
        (annotated(segment=[0.0, float("nan")]), "segment"),
        (annotated(segment=["0", "1"]), "segment"),
        (annotated(label=None), "no label"),
        (annotated(label="  "), "no label"),
        (annotated(label=5), "label"),
        (annotated(label_id="5"), "label_id"),
        (annotated(label_id=2**40), "label_id"),
        (annotated(caption=["x"]), "caption"),
        (annotated(caption="broken \ud83d"), "caption"),
        (annotated(objects="dog"), "objects"),
        (annotated(objects=["dog"]), "object"),
        (annotated(objects=[{"name": "dog"}]), "audible"),
        (annotated(objects=[{"name": "dog", "audible": 1}]), "audible"),
        (annotated(objects=[{"name": " ", "audible": True}]), "object"),
        (annotated(objects=[{"name": "a</object>", "audible": True}]), "object"),
        (annotated(objects=[{"name": "a\0b", "audible": True}]), "object"),
        (annotated(label_id=17.5), "label_id"),
        (annotated(label_id=True), "label_id"),
    ],
)
def test_a_malformed_entry_costs_only_itself(read, bad, why):
    result = read({"first": GOOD, "bad": bad, "last": GOOD})
    assert [v.video_id for v in result.videos] == ["first", "last"]
    (row,) = result.rejected
    assert (row.video_id, row.stage, row.reason, row.retryable) == ("bad", "input", "bad_entry", False)
    assert why in row.message


def test_the_first_of_duplicate_ids_is_kept(read):
    other = json.dumps(entry(duration=7.0))
    raw = f'{{"database": {{"a": {json.dumps(GOOD)}, "b": {other}, "a": {other}, "a": {other}}}}}'
    result = read(None, raw=raw)
    assert [(v.video_id, v.duration_s) for v in result.videos] == [("a", 42.5), ("b", 7.0)]
    assert [(r.video_id, r.reason) for r in result.rejected] == [("a", "duplicate_id")] * 2


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        ("", "not a readable JSON"),
        ('{"database": {', "not a readable JSON"),
        ("[" * 100_000, "not a readable JSON"),
        ("[]", "database"),
        ("{}", "database"),
        ('{"database": []}', "database"),
        ('{"database": {}, "database": {}}', "twice"),
    ],
)
def test_a_malformed_file_is_a_configuration_error(read, raw, why):
    with pytest.raises(ConfigError, match=why) as caught:
        read(None, raw=raw)
    assert "labels.json" in str(caught.value)


def test_missing_places_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.json: no such"):
        read_unav(tmp_path / "absent.json", tmp_path)
    with pytest.raises(ConfigError, match="not a readable JSON file"):
        read_unav(tmp_path, tmp_path)
    (tmp_path / "x.json").write_text('{"database": {}}')
    with pytest.raises(ConfigError, match=r"absent: not a readable folder"):
        read_unav(tmp_path / "x.json", tmp_path / "absent")


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "x.json").write_bytes(b'{"database": {"\xff\xfe": 1}}')
    with pytest.raises(ConfigError, match="not a readable JSON"):
        read_unav(tmp_path / "x.json", tmp_path)


def test_a_byte_order_mark_is_no_fault(read):
    assert len(read(None, raw="\ufeff" + json.dumps({"database": {"a": GOOD}})).videos) == 1


def test_subsets_and_limit(read):
    database = {f"v{i}": entry(subset=("train", "test", "validation")[i % 3]) for i in range(9)}

    def ids(**options):
        return [v.video_id for v in read(database, **options).videos]

    assert ids(subsets=["test"]) == ["v1", "v4", "v7"]
    assert ids(subsets=["train", "test"], limit=3) == ["v0", "v1", "v3"]
    assert ids(limit=2) == ["v0", "v1"]
    with pytest.raises(ConfigError, match="no video is of subset tset"):
        ids(subsets=["tset"])


def test_no_entries_no_videos(read):
    result = read({}, subsets=["train"])
    assert (result.videos, result.rejected) == ([], [])
