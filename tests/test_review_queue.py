"""In which order rows are looked at, how they are found, and what review tells of them."""

import random
from collections import Counter
from dataclasses import replace

import pytest
from scipy.stats import binomtest

from ravst_ray.config.annotate import QualityConfig
from ravst_ray.config.review import ReviewConfig
from ravst_ray.errors import AbortError
from ravst_ray.records import Event, EventAnnotation, SceneObject
from ravst_ray.review import rows as rows_module
from ravst_ray.review.figures import agreement, effort, figures, kappa, unreviewed, wilson
from ravst_ray.review.log import VerdictLog
from ravst_ray.review.queue import Queue, Wanted, in_order
from ravst_ray.review.rows import Rows
from ravst_ray.review.slim import Entry
from ravst_ray.review.verdicts import EventHistory, Verdict, history_of
from tests.review_output import item, rows, track, two_events, write_output


def entry(name, status="accepted", reasons=(), score=0.8, margin=None, **more) -> Entry:
    told = {"label": "bell", "start_s": 0.0, "end_s": 1.0, "duration_s": 9.0, "objects": 1, "tracks": 1} | more
    return Entry(f"{name}/1", name, 1, status=status, reasons=reasons, score=score, margin=margin, **told)


def said(what, who="ann", number=1, **more) -> Verdict:
    return Verdict(f"s:{number}", who, f"2026-01-01T00:00:{number:02d}Z", what, "v", 1, **more)


def event(number, start_s, end_s, *tracks) -> EventAnnotation:
    times_s = tuple(float(t) for t in range(int(start_s), int(end_s) + 1))
    things = tuple({t.name: SceneObject(t.name, t.audible, (number,) if t.audible else ()) for t in tracks}.values())
    return EventAnnotation(Event(number, start_s, end_s, f"label {number}"), things, times_s, tracks)


def test_suspects_come_first_then_thin_margins_then_a_random_sample():
    shuffled = [
        *(entry(f"a{n:02d}") for n in range(20)),
        entry("few", "suspect", ("tiny_box",), 0.2),
        entry("many", "suspect", ("tiny_box", "box_jump"), 0.9),
        entry("low", "suspect", ("low_score",), 0.1),
        entry("thick", "rejected", ("no_box",), None, 1.0),
        entry("thin", "rejected", ("rarely_visible",), 0.9, 0.05),
    ]
    random.Random(3).shuffle(shuffled)
    order = in_order(shuffled, sample_rows=6, seed=0)
    assert [one.entry.video_id for one in order[:5]] == ["many", "low", "few", "thin", "thick"]
    assert Counter(one.section for one in order) == {"suspect": 3, "rejected": 2, "sample": 6, "rest": 14}
    drawn = {one.entry.video_id for one in order if one.section == "sample"}
    assert drawn != {one.entry.video_id for one in in_order(shuffled, 6, seed=1) if one.section == "sample"}
    more = in_order([*shuffled, *(entry(f"b{n}") for n in range(5))], 6, 0)
    kept = {one.entry.video_id for one in more if one.section == "sample"} & drawn
    assert len(kept) >= 3, "a dataset that grows keeps most of its sample"


def test_entries_tell_what_is_sorted_and_filtered_by(tmp_path):
    seldom = event(1, 0.0, 9.0, track(1, "bell", True, (0.0,), score=0.6), track(2, "cat", False, (1.0, 2.0)))
    partly = track(1, "dog", True, (0.0, 1.0, 2.0))
    partly = replace(partly, scores=(0.9, 0.3, 0.5), detected=(True, False, True))
    unseen = EventAnnotation(Event(3, 3.0, 4.0, "x"), (SceneObject("dog", True, (3,)),), (3.0, 4.0))
    made = item("a", (seldom, event(2, 0.0, 2.0, partly), unseen))
    store = write_output(str(tmp_path), [made, item("b")])
    found = Rows(store, QualityConfig())
    assert found.refresh() and not found.refresh(now=True)
    one, two, three, *_ = found.entries.values()
    assert (one.status, one.reasons, one.objects, one.tracks) == ("rejected", ("rarely_visible",), 2, 2)
    assert one.score == 0.6, "the lower mean of two tracks"
    assert one.margin == pytest.approx(0.5), "seen in a tenth of it, where a fifth is wanted"
    assert (two.score, two.margin, two.end_s, two.duration_s) == (pytest.approx(0.7), None, 2.0, 12.0)
    assert (three.tracks, three.score, three.margin) == (0, None, 1.0)
    _, qa, _ = rows(item("b"))
    back = found.of_video("b")
    assert [row["annotation_id"] for row in back.annotations] == ["b/1", "b/2"] and back.video["has_audio"]
    assert [row["qa_id"] for row in back.qa] == [row["qa_id"] for row in qa]
    assert found.of_video("../etc/passwd") == rows_module.VideoRows()


def test_filters_and_pages(tmp_path, monkeypatch):
    store = write_output(str(tmp_path), [item("a"), item("b <i>"), item("c", two_events()[:1])])
    found, log = Rows(store, QualityConfig()), VerdictLog(store)
    found.refresh()
    queue = Queue(found, log, ReviewConfig(reviewer="ann", sample_rows=2))
    ids = lambda **wanted: {p.entry.annotation_id for p in queue.page(Wanted(**wanted)).rows}  # noqa: E731
    everything = {"a/1", "a/2", "b <i>/1", "b <i>/2", "c/1"}
    assert ids() == everything and len(ids(section=["sample"])) == 2
    assert ids(label=["bell ringing"]) == {"a/2", "b <i>/2"} and ids(video="<i>") == {"b <i>/1", "b <i>/2"}
    assert ids(objects_min=3) == {"a/1", "b <i>/1", "c/1"} and ids(objects_max=2) == everything - ids(objects_min=3)
    assert ids(duration_min_s=13.0) == set() and ids(score_max=0.95) == everything and ids(score_max=0.5) == set()
    assert ids(task=["AVTR"]) == everything and ids(task=["STR"]) == set() and ids(status=["suspect"]) == set()
    assert queue.tasks(found.entries["a/1"]) == {"AVSR": 2, "AVSTR": 1, "AVTR": 1}
    whole = queue.page(Wanted(), limit=200).rows
    second = queue.page(Wanted(), offset=2, limit=2)
    assert second.rows == whole[2:4] and (second.offset, second.total) == (2, 5)
    assert queue.page(Wanted(), after=whole[2].entry.annotation_id).rows == whole[3:]
    first = whole[0].entry
    log.append(Verdict("", "bob", "", "accept", first.video_id, first.event_num))
    assert ids(reviewed="yes") == {first.annotation_id} == ids(reviewed="second", reviewer="ann")
    assert ids(reviewed="second", reviewer="bob") == set() and len(ids(reviewed="no")) == 4
    assert queue.page(Wanted(reviewed="no"), after=first.annotation_id).rows == whole[1:], "behind one that is done"
    assert queue.left()["sample"] == {"rows": 2, "left": 1}


def test_a_dataset_that_is_being_written_grows_and_is_folded_under_the_reader(tmp_path):
    store = write_output(str(tmp_path), [item("a")], compact=False)
    found = Rows(store, QualityConfig())
    found.refresh(now=True)
    assert list(found.entries) == ["a/1", "a/2"] and found.pending == 1
    assert found.of_video("a").qa and found.of_video("a").video
    write_output(str(tmp_path), [item("b")], compact=False)
    assert found.refresh(now=True) and sorted(found.entries) == ["a/1", "a/2", "b/1", "b/2"]
    store.compact()
    assert [row["event_num"] for row in found.of_video("b").annotations] == [1, 2], "its unit is gone, a part has it"
    assert found.pending == 0 and len(found.entries) == 4
    write_output(str(tmp_path), [item("c")])
    found.refresh(now=True)
    assert sorted({one.video_id for one in found.entries.values()}) == ["a", "b", "c"]
    assert found.tasks["a"][1, "AVTR", "accepted"] == 1, "nothing is counted twice"


def test_many_videos_of_a_run_that_goes_on_come_a_while_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(rows_module, "_WHILE_S", 0.0)
    monkeypatch.setattr(rows_module, "_AT_ONCE", 2)
    store = write_output(str(tmp_path), [item(f"v{n}") for n in range(5)], compact=False)
    found = Rows(store, QualityConfig())
    counts = []
    while found.refresh():  # each without waiting: it is behind
        counts.append(found.pending)
    assert counts == [2, 4, 5] and len(found.entries) == 10
    assert found.tasks["v3"] == found.tasks["v0"] and found.entries["v4/2"].video_id == "v4"


def test_a_part_that_is_no_parquet_is_told_in_a_sentence(tmp_path):
    store = write_output(str(tmp_path), [item("a")])
    (tmp_path / "annotations" / "part-000001-00000.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(AbortError, match=r"annotations/part-000001-00000.parquet can't be read"):
        Rows(store, QualityConfig()).refresh()


def test_kappa_is_agreement_beyond_chance():
    # 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: 0.7 agree, by chance 0.5 * 0.6 + 0.5 * 0.4 = 0.5 would.
    pairs = [("y", "y")] * 20 + [("y", "n")] * 5 + [("n", "y")] * 10 + [("n", "n")] * 15
    assert kappa(pairs) == pytest.approx(0.4)
    assert kappa([]) is None and kappa([("y", "y")] * 3) is None and kappa([("y", "n"), ("n", "y")]) == -1


@pytest.mark.parametrize(("wrong", "looked_at"), [(0, 10), (1, 50), (7, 20), (20, 20)])
def test_the_interval_is_wilsons(wrong, looked_at):
    other = binomtest(wrong, looked_at).proportion_ci(0.9, method="wilson")
    assert wilson(wrong, looked_at, 0.9) == pytest.approx((other.low, other.high), abs=1e-12)
    assert wilson(0, 0, 0.9) == (0.0, 1.0)


def test_what_two_people_say_is_compared_by_what_each_said_last():
    chained = lambda *lines: history_of([replace(v, on=lines[i - 1].id if i else None) for i, v in enumerate(lines)])  # noqa: E731
    changed_mind = chained(said("reject"), said("accept", number=2), said("accept", "bob", 3))
    repaired = chained(said("edit", edit={}), said("accept", number=2), said("accept", "bob", 3))
    undone = chained(said("accept", "bob"), said("reject", number=2), said("undo", number=3, undoes="s:2"))
    alone = chained(said("accept", "cy"))
    (found,) = agreement([changed_mind, repaired, undone, alone])
    assert found == {"reviewers": ["ann", "bob"], "rows": 2, "same": 1, "kappa": 0.0}
    counts = figures({("v", n): one for n, one in enumerate([changed_mind, repaired, undone, alone])})
    assert (counts["reviewed"], counts["accepted"], counts["edited"]) == (4, 4, 1)
    assert counts["reviewers"] == {"bob": 3, "ann": 2, "cy": 1}


def test_the_error_rate_comes_from_rows_that_were_drawn():
    drawn = {("v", n): history_of([replace(said("accept", section="sample"), event_num=n)]) for n in range(8)}
    drawn["v", 0] = history_of([said("reject", section="sample")])
    drawn["v", 1] = history_of([said("edit", section="sample", edit={}), said("accept", number=2, on="s:1")])
    drawn["v", 2] = history_of([said("reject", section="rest")])  # picked by a filter
    found = unreviewed([("v", n) for n in range(20)], 900, drawn, 0.95)
    assert (found["looked_at"], found["wrong"], found["rate"]) == (7, 2, pytest.approx(2 / 7))
    assert (found["low"], found["high"]) == wilson(2, 7, 0.95) and (found["rows"], found["sample"]) == (900, 20)
    nobody = unreviewed([("v", 1)], 5, {("v", 1): EventHistory()}, 0.95)
    assert (nobody["rate"], nobody["low"], nobody["high"]) == (None, 0.0, 1.0)


def test_seconds_of_a_row_are_those_of_all_that_one_person_did_on_it():
    verdicts = [
        said("edit", seconds=4.0),
        said("accept", seconds=2.0),
        said("accept", "bob", seconds=3.0),
        replace(said("reject", seconds=900.0), event_num=2),  # a page left open
        said("undo", seconds=50.0),
        replace(said("accept"), event_num=3),
    ]
    assert effort(verdicts) == (6.0, pytest.approx(3 * 6.0 / 3600))
    assert effort([said("accept")]) == (None, 0.0)
