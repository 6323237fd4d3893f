"""The commit protocol: whatever moment a run dies at, the next one ends with the same dataset."""

import os
from collections import Counter

import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from ravst_ray.datasets import schemas
from ravst_ray.datasets.schemas import annotation_from_row, context_from_row, loudness_from_row, qa_from_row, rows_of
from ravst_ray.datasets.store import DatasetStore
from ravst_ray.errors import ConfigError
from ravst_ray.records import (
    ErrorRow,
    Event,
    EventAnnotation,
    Loudness,
    QAPair,
    SceneObject,
    Track,
    Video,
    VideoItem,
    VideoMeta,
)

TABLES = ("annotations", "qa", "videos", "errors")


class PowerCut(Exception):
    """Raised in the middle of a write."""


def item(name: str, error: str | None = None, retryable: bool = False) -> VideoItem:
    event = Event(1, 0.5, 4.25, "bell ringing", 7, "a bell rings")
    video = Video(name, f"/videos/{name}.mp4", 10.0, (event,))
    if error:
        row = ErrorRow(name, "decode", error, "no luck", retryable)
        return VideoItem(video, error=row, stats={"frames_decoded": 1})
    track = Track(1, "bell", True, (0.5, 1.5), ((1.0, 2.0, 3.0, 4.0), (1.5, 2.0, 3.5, 4.0)), (0.9, 0.8), None)
    annotation = EventAnnotation(event, (SceneObject("bell", True),), (0.5, 1.5), (track,), "suspect", ("jump",))
    context = EventAnnotation(
        Event(2, 3.0, 5.0, "cat meowing", 8, None, None, False), (SceneObject("cat", True, (2,)),)
    )
    level = Loudness(0.1, (-100.0, -20.51), 0.2)
    pair = QAPair(f"{name}/1/AVTR/0", name, 1, "AVTR", "When?", "<answer>\n</answer>", "suspect")
    meta = VideoMeta(10.0, 29.97, 320, 240, True, "decord")
    both = (annotation, context)
    return VideoItem(video, meta, level, annotations=both, qa=(pair,), provenance={"llm": "x"}, stats={"frames": 2})


def put(store: DatasetStore, one: VideoItem) -> None:
    store.commit(one.video.video_id, rows_of(one, seed=0, test_share=0.5), one.stats)


def content(store: DatasetStore) -> dict:
    return {name: sorted(store.rows(name), key=lambda row: str(sorted(row.items(), key=str))) for name in TABLES}


def run(root, items) -> DatasetStore:
    """What the pipeline does: skip what is settled, commit the rest, compact."""
    store = DatasetStore(str(root))
    store.prepare()
    ledger = store.ledger()
    for one in items:
        known = ledger.get(one.video.video_id)
        if known is None or not known.settled:
            put(store, one)
    store.compact()
    return store


def test_records_come_back_as_they_went_in(tmp_path):
    one = item("a")
    store = run(tmp_path, [one])
    (row,) = store.rows("annotations")
    assert annotation_from_row(row) == one.annotations[0]
    assert (row["annotation_id"], row["fps"], row["width"]) == ("a/1", 29.97, 320)
    assert dict(row["provenance"]) == {"llm": "x"}
    (row,) = store.rows("qa")
    assert qa_from_row(row) == one.qa[0]
    (row,) = store.rows("videos")
    assert loudness_from_row(row) == one.loudness and row["has_audio"] is True
    assert context_from_row(row) == one.annotations[1:]
    assert store.ledger()["a"].stats == {"frames": 2}


def test_what_is_committed_can_be_read_before_it_is_in_a_part(tmp_path):
    store = DatasetStore(str(tmp_path))
    store.prepare()
    for one in (item("a"), item("b"), item("c", error="broken")):
        put(store, one)
    pending = dict(store.pending())
    ids = {key: unit.to_pylist()[0]["annotations"][0]["video_id"] for key, unit in pending.items()}
    assert sorted(ids.values()) == ["a", "b"]
    known = next(key for key, video_id in ids.items() if video_id == "a")
    assert store.pending_rows(known)["qa"][0]["qa_id"] == "a/1/AVTR/0"
    assert dict(store.pending((), ["qa.list.element.task"]))[known].to_pylist() == [{"qa": [{"task": "AVTR"}]}]
    again = dict(store.pending({known}))
    assert again.keys() == pending.keys() and again[known] is None
    store.compact()
    assert dict(store.pending()) == {} and store.pending_rows(known) is None


def test_an_output_of_before_a_table_was_added_is_read_and_goes_on(tmp_path):
    older = {name: schema for name, schema in schemas.TABLES.items() if name != "videos"}
    store = DatasetStore(str(tmp_path), older)
    store.prepare()
    put(store, item("a"))
    store.compact()
    put(store, item("b"))  # committed, in no part yet
    assert list(DatasetStore(str(tmp_path)).rows("videos")) == []
    store = run(tmp_path, [item("a"), item("c")])
    assert sorted(row["video_id"] for row in store.rows("annotations")) == ["a", "b", "c"]
    assert [row["video_id"] for row in store.rows("videos")] == ["c"]


def test_uncommitted_part_is_invisible(tmp_path):
    store = DatasetStore(str(tmp_path))
    store.prepare()
    put(store, item("a"))
    put(store, item("b"))
    units = tmp_path / "_commit" / "units"
    manifest = next(path for path in units.glob("*.json") if '\\"video_id\\": \\"b\\"' in path.read_text())
    whole = manifest.read_bytes()
    manifest.write_bytes(whole[: len(whole) // 2])  # died while it wrote the manifest
    assert set(store.ledger()) == {"a"}
    manifest.unlink()  # died before
    assert set(store.ledger()) == {"a"}


def test_damaged_part_is_left_out_and_done_again(tmp_path):
    store = DatasetStore(str(tmp_path))
    store.prepare()
    put(store, item("a"))
    (part,) = (tmp_path / "_commit" / "units").glob("*.parquet")
    part.write_bytes(part.read_bytes()[:-20])
    assert store.compact() == {}
    run(tmp_path, [item("a")])
    assert [row["video_id"] for row in store.rows("annotations")] == ["a"]


def test_only_retryable_errors_are_repeated(tmp_path):
    run(tmp_path, [item("a", "llm_unreachable", True), item("b", "truncated"), item("c")])
    store = run(tmp_path, [item("a"), item("b"), item("c", "never", True)])
    assert [row["video_id"] for row in store.rows("errors")] == ["b"]
    assert sorted(row["video_id"] for row in store.rows("annotations")) == ["a", "c"]
    assert not list((tmp_path / "_commit" / "units").iterdir())
    assert len(list((tmp_path / "annotations").iterdir())) == 1, "small parts are merged"


def test_full_parts_stay_and_new_ones_join(tmp_path, monkeypatch):
    monkeypatch.setattr("ravst_ray.datasets.parts.PART_BYTES", 2)
    run(tmp_path, [item("a")])
    before = {path.name for path in (tmp_path / "annotations").iterdir()}
    store = run(tmp_path, [item("a"), item("b")])
    after = {path.name for path in (tmp_path / "annotations").iterdir()}
    assert before < after and len(after) == 2
    assert [row["video_id"] for row in store.rows("annotations")] == ["a", "b"]


def test_folding_reads_each_unit_once_and_makes_no_folder_twice(tmp_path, monkeypatch):
    store = DatasetStore(str(tmp_path))
    store.prepare()
    reads: Counter[str] = Counter()
    folders: Counter[str] = Counter()
    read, make = DatasetStore.read_bytes, fs.LocalFileSystem.create_dir

    class Counted(fs.LocalFileSystem):
        def create_dir(self, path, **more):
            folders[path] += 1
            make(self, path, **more)

    def counted(self, name):
        reads[name.rpartition(".")[2]] += "/units/" in name
        return read(self, name)

    monkeypatch.setattr(DatasetStore, "read_bytes", counted)
    monkeypatch.setattr(store, "_fs", Counted())
    for name in "abcde":
        put(store, item(name))
    assert len(store.ledger()) == 5 and reads == {"json": 5}
    store.compact()
    assert reads["parquet"] == 5, "for all tables together"
    assert reads["json"] == 10
    assert max(folders.values()) == 1


def test_any_power_cut_is_survived(tmp_path, monkeypatch):
    """Cut at the n-th write or delete, for every n, leaving half a file behind; then run again."""
    first = [item("a"), item("b", "llm_unreachable", True)]
    second = [item("a"), item("b"), item("c", "truncated"), item("d")]
    run(tmp_path / "whole", first)
    wanted = content(run(tmp_path / "whole", second))
    assert len(wanted["annotations"]) == 3 and len(wanted["errors"]) == 1

    write, delete = DatasetStore.write_bytes, DatasetStore._delete
    parts = DatasetStore._write_parts
    for cut in range(1, 200):
        left = [cut]

        def spend(left=left) -> bool:
            left[0] -= 1
            return left[0] == 0

        def cut_write(self, name, data, spend=spend):
            if spend():
                write(self, name, data[: len(data) // 2])
                raise PowerCut
            write(self, name, data)

        def cut_delete(self, name, spend=spend):
            if spend():
                raise PowerCut
            delete(self, name)

        def cut_parts(self, number, names, batches, spend=spend):
            done = parts(self, number, names, batches)
            for name in names:
                if spend():
                    for part in done[name]:
                        write(self, part, b"PAR1 half a file")
                    raise PowerCut
            return done

        root = tmp_path / str(cut)
        run(root, first)
        with monkeypatch.context() as patch:
            patch.setattr(DatasetStore, "write_bytes", cut_write)
            patch.setattr(DatasetStore, "_delete", cut_delete)
            patch.setattr(DatasetStore, "_write_parts", cut_parts)
            try:
                run(root, second)
                died = False
            except PowerCut:
                died = True
        assert content(run(root, second)) == wanted, f"cut at operation {cut}"
        if not died:
            break
    assert not died and cut > 20, "every operation was cut once"


def test_what_is_removed_is_on_the_disk_before(tmp_path, monkeypatch):
    """A power cut may lose what was written last, and keep what was removed last."""
    store = DatasetStore(str(tmp_path))
    store.prepare()
    put(store, item("a"))
    store.compact()
    put(store, item("b"))
    done = []
    sync, delete = os.fsync, DatasetStore._delete
    place = lambda handle: os.path.relpath(os.readlink(f"/proc/self/fd/{handle}"), tmp_path)  # noqa: E731
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append(("sync", place(handle))), sync(handle))[1])
    monkeypatch.setattr(DatasetStore, "_delete", lambda self, name: (done.append(("delete", name)), delete(self, name)))
    store.compact()
    first = next(place for place, (what, _) in enumerate(done) if what == "delete")
    synced = [name for _, name in done[:first]]
    files = {f"{name}/part-000002-00000.parquet" for name in TABLES}
    files.add("_commit/ledger-000002.parquet")
    manifest = synced.index("_commit/manifest-000002.json")
    assert files == set(synced[:manifest]), "a manifest names what is safe already"
    assert set(synced[manifest + 1 :]) == {"_commit", *TABLES}
    assert ("delete", "annotations/part-000001-00000.parquet") in done[first:]
    assert not any(what == "sync" for what, _ in done[first:])


def test_a_dataset_of_nothing_can_be_read(tmp_path):
    """Every video was rejected by the filter: the reason stands in errors/, the other tables have columns, no rows."""
    store = DatasetStore(str(tmp_path))
    store.prepare()
    rejected = {"video_id": "v", "stage": "filter", "reason": "too_long", "message": "61 s.", "retryable": False}
    for _ in range(2):
        assert store.compact([rejected]) == {}
        assert {name: list(store.rows(name)) for name in schemas.TABLES} == {
            "annotations": [],
            "qa": [],
            "videos": [],
            "errors": [rejected],
        }
        for name, schema in schemas.TABLES.items():
            table = pq.read_table(tmp_path / name)
            assert table.schema.names == schema.names and len(table) == (name == "errors")


def test_unwritable_output_is_a_configuration_error(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ConfigError, match="can't be written"):
        DatasetStore(str(tmp_path / "file")).prepare()
