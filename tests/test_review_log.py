"""The log of verdicts: nothing that was said to be saved is lost, nothing is overwritten."""

import errno
import os

import pytest

from ravst_ray.datasets.store import DatasetStore
from ravst_ray.errors import AbortError
from ravst_ray.review import log as log_module
from ravst_ray.review.log import Stale, VerdictLog
from ravst_ray.review.verdicts import Verdict, history_of


def draft(what="accept", on=None, who="ann", video_id="v", event_num=1, **more) -> Verdict:
    return Verdict("", who, "", what, video_id, event_num, on, **more)


def line(number, when, on, what="accept", **more) -> Verdict:
    return Verdict(f"s:{number}", "ann", f"2026-01-01T00:00:{when:02d}Z", what, "v", 1, on, **more)


def files(root):
    return sorted(path for path in (root / "review").iterdir() if path.suffix == ".jsonl")


def test_verdicts_of_two_processes_are_seen_by_each_other_and_after_a_restart(tmp_path):
    one, other = VerdictLog(DatasetStore(str(tmp_path))), VerdictLog(DatasetStore(str(tmp_path)))
    first = one.append(draft(seconds=1.5, before={"status": "suspect"}, after={"status": "accepted"}))
    with pytest.raises(Stale):
        other.append(draft("reject", who="bob"))
    other.refresh()
    second = other.append(draft("reject", on=first.id, who="bob"))
    one.refresh()
    again = VerdictLog(DatasetStore(str(tmp_path)))
    for log in (one, other, again):
        assert log.history(("v", 1)).chain == (first, second) and log.problems == ()
        assert log.history(("v", 1)).verdict == "rejected" and log.history(("v", 1)).reviewers == ("ann", "bob")
    assert len(files(tmp_path)) == 2, "a file a session"
    assert first.when < second.when and first.when.endswith("Z")


def test_a_line_is_on_the_disk_before_it_counts_as_saved(tmp_path, monkeypatch):
    log = VerdictLog(DatasetStore(str(tmp_path)))
    synced = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(os.fstat(handle).st_size), sync(handle))[1])
    log.append(draft())
    (path,) = files(tmp_path)
    assert synced[0] == path.stat().st_size > 0 and len(synced) == 2, "the line, and the folder that names its file"


def test_what_can_not_be_written_is_not_saved_and_leaves_no_half_line(tmp_path, monkeypatch):
    log = VerdictLog(DatasetStore(str(tmp_path)))
    first = log.append(draft())
    size = files(tmp_path)[0].stat().st_size
    with monkeypatch.context() as patched:

        def full(handle):
            raise OSError(errno.ENOSPC, "No space left on device")

        patched.setattr(os, "fsync", full)
        with pytest.raises(AbortError, match=r"the verdict is not saved .*No space left"):
            log.append(draft(on=first.id))
    assert files(tmp_path)[0].stat().st_size == size and log.history(("v", 1)).chain == (first,)
    second = log.append(draft("reject", on=first.id))
    other = VerdictLog(DatasetStore(str(tmp_path)))
    assert other.history(("v", 1)).chain == (first, second)
    os.truncate(files(tmp_path)[0], size)  # who had read a line before it was taken back forgets it
    other.refresh()
    assert other.history(("v", 1)).chain == (first,) and other.problems == ()


def test_a_place_that_can_not_be_written_to_is_told_in_a_sentence(tmp_path, monkeypatch):
    log = VerdictLog(DatasetStore(str(tmp_path)))
    assert log.why_not_writable() is None

    def read_only(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(DatasetStore, "write_bytes", read_only)
    monkeypatch.setattr(os, "open", read_only)
    assert "review: verdicts can't be saved there ([Errno 30] Read-only" in (log.why_not_writable() or "")
    with pytest.raises(AbortError, match=r"the verdict is not saved .*Read-only"):
        log.append(draft())


def test_corrupt_lines_are_told_and_the_rest_is_kept(tmp_path):
    log = VerdictLog(DatasetStore(str(tmp_path)))
    saved = [log.append(draft())]
    for _ in range(3):
        saved.append(log.append(draft("reject", on=saved[-1].id)))
    (path,) = files(tmp_path)
    lines = path.read_bytes().split(b"\n")
    lines[1] = lines[1][:-20] + b"\xff\x00"
    path.write_bytes(b"\n".join(lines)[:-1] + b'\n{"id": "s:9", "wh')  # a crash in the middle of the last line
    again = VerdictLog(DatasetStore(str(tmp_path)))
    name = f"review/{path.name}"
    assert again.problems[0].startswith(f"{name}, line 2: no verdict, left out (")
    assert again.problems[1:] == (f"{name} ends in the middle of a line, which is left out",)
    # The third line was made on the damaged one: it goes on all the same.
    assert again.history(("v", 1)).chain == (saved[0], saved[2], saved[3])
    path.write_bytes(path.read_bytes() + b'o": 1}\n' + draft(on="x").to_json() + b"\n")
    again.refresh()
    assert len(again.problems) == 2 and again.problems[1].startswith(f"{name}, line 5: no verdict")


def test_of_two_verdicts_on_one_state_the_earlier_counts_whatever_order_they_are_read_in():
    first, late, early = line(1, 1, None), line(2, 9, "s:1", "reject"), line(3, 5, "s:1")
    on_late, on_early = line(4, 10, "s:2"), line(5, 6, "s:3", "reject")
    lines = [first, late, early, on_late, on_early]
    for given in (lines, lines[::-1]):
        history = history_of(given)
        assert history.chain == (first, early, on_early)
        assert history.conflicts == (late, on_late) and history.verdict == "rejected"
    assert history_of([line(1, 5, None), line(2, 1, "s:1", "reject")]).verdict == "rejected", "clocks may differ"


def test_undoing_takes_back_and_can_be_undone():
    edit = line(1, 1, None, "edit", edit={"op": "x"})
    reject = line(2, 2, "s:1", "reject")
    undo = line(3, 3, "s:2", "undo", undoes="s:2")
    assert history_of([edit, reject]).in_force == (edit, reject)
    history = history_of([edit, reject, undo])
    assert history.in_force == (edit,) and history.verdict is None and history.edited and history.version == "s:3"
    assert history_of([edit, reject, undo, line(4, 4, "s:3", "undo", undoes="s:3")]).in_force == (edit, reject)


def test_an_object_store_keeps_both_of_two_that_came_at_once(s3, monkeypatch):
    monkeypatch.setattr(log_module, "_PUT_BYTES", 700)
    place = "s3://ravst-tests/reviewed"
    one, other = VerdictLog(DatasetStore(place)), VerdictLog(DatasetStore(place))
    saved = [one.append(draft())]
    for _ in range(3):
        saved.append(one.append(draft("reject", on=saved[-1].id)))
    assert len(s3.keys("reviewed/review/2")) > 1, "begun anew as it grows: it is put as a whole"
    other.refresh(now=True)
    winner = one.append(draft(on=saved[-1].id))
    # The other looks before the winner's line is there, writes, and finds it afterwards.
    looked = []
    refresh = other.refresh

    def blind(now=False):
        looked.append(now)
        if len(looked) > 1:
            refresh(now)

    monkeypatch.setattr(other, "refresh", blind)
    with pytest.raises(Stale):
        other.append(draft("reject", on=saved[-1].id, who="bob"))
    history = VerdictLog(DatasetStore(place)).history(("v", 1))
    assert history.chain == (*saved, winner) and [verdict.who for verdict in history.conflicts] == ["bob"]
    s3.spoil = lambda method, path: 403 if method == "PUT" else None
    with pytest.raises(AbortError, match="the verdict is not saved"):
        one.append(draft("reject", on=winner.id))
