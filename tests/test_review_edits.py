"""What becomes of a video's rows when a person says something of them."""

import random

import pyarrow as pa
import pytest

from ravst_ray.annotate.questions import questions_of
from ravst_ray.core.answers import parse
from ravst_ray.datasets.schemas import ANNOTATIONS
from ravst_ray.records import Event, EventAnnotation, SceneObject
from ravst_ray.review.editing import Scope, apply_edit
from ravst_ray.review.edits import BadEdit, edit_of
from ravst_ray.review.revise import BY_HAND, Evidence, difference, edited, revise, revised_rows
from ravst_ray.review.verdicts import Verdict, history_of
from tests.review_output import DURATION_S, config, item, rows, track, two_events

SCOPE = Scope(256, 256, DURATION_S, 1.0)


def line(number, what, event_num=1, **more) -> Verdict:
    on = more.pop("on", f"s:{number - 1}" if number else None)
    return Verdict(f"s:{number}", "ann", f"2026-01-01T00:00:{number:02d}Z", what, "v", event_num, on, **more)


def revised(*lines, one=None, video=True):
    annotations, qa, video_row = rows(one or item("v"))
    numbers = {verdict.event_num for verdict in lines}
    histories = {n: history_of([verdict for verdict in lines if verdict.event_num == n]) for n in numbers}
    found = revise(annotations, qa, video_row if video else None, histories, config())
    return found, revised_rows(annotations, qa, found, histories)


def edit(op, **more):
    return revised(line(0, "edit", on=None, edit={"op": op, **more}, event_num=more.pop("event_num", 1)))[0]


def heard(one):
    return {thing.name: (thing.audible, thing.heard_in) for thing in one.objects}


def test_without_a_verdict_nothing_changes_and_the_stored_rows_are_what_the_steps_would_make_again():
    annotations, qa, video_row = rows(item("v"))
    found, (new_annotations, new_qa) = revised()
    assert [dict(row) for row in annotations] == [{**row, "provenance": row["provenance"]} for row in new_annotations]
    assert new_qa == [{key: row[key] for key in new_qa[0]} for row in qa] and len(qa) == 7
    evidence = Evidence.of(annotations[0], video_row)
    events = (*found.annotations, *evidence.context)
    again = edited(edit_of({"op": "audible", "name": "man", "audible": True}), events, 1, evidence, config())
    assert again == events, "to say what was said already changes nothing"
    assert questions_of("v", again, DURATION_S)[0] == found.qa


def test_accept_and_reject_set_the_status_of_the_event_and_of_what_rests_on_it():
    found, (annotations, qa) = revised(line(0, "reject"))
    assert [one.status for one in found.annotations] == ["rejected", "accepted"]
    assert found.event(1).reasons == (BY_HAND,)
    # The bell alone rests on event 2 alone: of what sounds in event 2, the man is heard in both.
    assert {(row["event_num"], row["task"]): row["status"] for row in qa if row["event_num"] == 2} == {
        (2, "AVTR"): "accepted",
        (2, "AVSR"): "rejected",
        (2, "AVSTR"): "accepted",
    }
    assert {row["status"] for row in qa if row["event_num"] == 1 and "bell" not in row["question"]} == {"rejected"}
    assert dict(annotations[0]["provenance"])["reviewed_by"] == "ann"
    assert "reviewed_by" not in dict(annotations[1]["provenance"])
    weak = item("v", (EventAnnotation(two_events()[0].event, (SceneObject("man", True),), (1.0, 2.0)),))
    assert weak.annotations[0].reasons == ("no_box", "never_visible")
    found, _ = revised(line(0, "accept"), one=weak)
    assert (found.event(1).status, found.event(1).reasons) == ("accepted", ())
    found, _ = revised(line(0, "accept"), line(1, "undo", undoes="s:0"), one=weak)
    assert found.event(1).reasons == ("no_box", "never_visible")
    assert found.states == {"s:0": "undone", "s:1": "applied"}


def test_a_question_alone_is_judged_by_its_text_and_lapses_with_it():
    pair = next(pair for pair in item("v").qa if pair.task == "AVTR" and "man" in pair.question)
    asked = {"question": pair.question, "answer": pair.answer}
    found, _ = revised(line(0, "reject", qa_id=pair.qa_id, before=asked))
    assert [one.qa_id for one in found.qa if one.status != "accepted"] == [pair.qa_id]
    assert {one.status for one in found.annotations} == {"accepted"}
    rename = {"op": "rename", "name": "man", "to": "boy", "everywhere": True}
    found, _ = revised(line(0, "reject", qa_id=pair.qa_id, before=asked), line(1, "edit", edit=rename))
    assert found.states["s:0"] == "lapsed" and {one.status for one in found.qa} == {"accepted"}
    found, _ = revised(line(0, "accept", qa_id=pair.qa_id, before=asked), line(1, "reject"))
    assert next(one for one in found.qa if one.qa_id == pair.qa_id).status == "rejected", "its event is"


def test_a_name_changes_in_the_event_or_everywhere_and_the_questions_follow():
    found = edit("rename", name="a man", to="old  boy", everywhere=True)
    assert heard(found.event(1)) == {"old boy": (True, (1,)), "drum": (False, ()), "bell": (True, (2,))}
    assert [t.name for t in found.event(2).tracks] == ["bell", "old boy"]
    assert not any("man" in pair.question + pair.answer for pair in found.qa)
    assert len(found.qa) == 7 and any("old boy" in pair.question for pair in found.qa)
    found = edit("rename", name="man", to="boy")
    # In event 2 nobody knows of a boy: he sounds there, unseen; the man that is seen there is silent.
    assert heard(found.event(2)) == {"bell": (True, (2,)), "man": (False, ()), "boy": (True, (1,))}
    assert [(t.name, t.audible) for t in found.event(2).tracks] == [("bell", True), ("man", False)]
    with pytest.raises(BadEdit, match="is heard in event 1, not in this one"):
        apply_edit(edit_of({"op": "rename", "name": "man", "to": "boy"}), two_events(), 2, SCOPE)


def test_two_objects_of_one_name_become_one_and_one_track_of_two_gets_its_own():
    found = edit("rename", name="drum", to="man")
    assert heard(found.event(1)) == {"man": (True, (1,)), "bell": (True, (2,))}
    assert [(t.track_id, t.name, t.audible) for t in found.event(1).tracks] == [(1, "man", True), (2, "man", True)]
    assert found.event(1).reasons == ("which_one", "comes_and_goes"), "and it is judged anew"
    assert found.event(2).reasons == ("which_one",), "there the other man may sound"
    found, _ = revised(
        line(0, "edit", edit={"op": "rename", "name": "drum", "to": "man"}),
        line(1, "edit", edit={"op": "rename_track", "track_id": 2, "to": "drum"}),
    )
    assert heard(found.event(1)) == {"man": (True, (1,)), "bell": (True, (2,)), "drum": (True, (1,))}


def test_audibility_changes_who_is_asked_for():
    found = edit("audible", name="man", audible=False)
    assert heard(found.event(1)) == {"man": (False, ()), "drum": (False, ()), "bell": (True, (2,))}
    assert heard(found.event(2)) == {"bell": (True, (2,)), "man": (False, ())}
    assert found.event(1).status == "suspect" and found.event(1).reasons == ("nothing_audible",)
    where = [parse(pair.answer).objects[0].name for pair in found.qa if pair.task == "AVSR" and pair.event_num == 1]
    assert where == ["bell", "man"], "what sounds meanwhile, and the silent ones, of whom the man is the first"
    assert not any(pair.task == "AVTR" and "man" in pair.question for pair in found.qa)
    found = edit("audible", name="drum", audible=True)
    asked = [pair for pair in found.qa if pair.task == "AVTR" and "drum" in pair.question]
    assert [parse(pair.answer).objects[0].when for pair in asked] == [(1.0, 5.0)]


def test_moved_bounds_give_a_new_grid_between_the_known_boxes():
    found = edit("bounds", start_s=2.5, end_s=6.04)
    one = found.event(1)
    assert (one.event.start_s, one.event.end_s, one.frame_times_s) == (2.5, 6.04, (2.5, 3.5, 4.5, 5.5))
    man, drum = one.tracks
    assert man.times_s == (2.5, 3.5, 4.5), "beyond its last box at 5 s nothing is known"
    assert man.boxes_xyxy_px[0] == (20.0, 50.0, 60.0, 70.0), "half way from 18 to 22"
    assert man.detected == (False,) * 3 and man.scores == pytest.approx((0.9,) * 3)
    assert drum.times_s == (2.5, 3.5)
    when = next(parse(p.answer).objects[0].when for p in found.qa if p.task == "AVTR" and "man" in p.question)
    assert when == (2.5, 6.0)
    found = edit("bounds", start_s=2.0, end_s=4.0)
    assert found.event(1).tracks[0] == track(1, "man", True, (2.0, 3.0, 4.0)), "on the old grid, all is as it was"
    masked = track(1, "man", True, (1.0, 2.0))
    masked = type(masked)(**{**vars(masked), "masks_rle": ("a", "b")})
    event = EventAnnotation(Event(1, 1.0, 2.0, "x"), (SceneObject("man", True),), (1.0, 2.0), (masked,))
    moved = lambda start_s: apply_edit(  # noqa: E731
        edit_of({"op": "bounds", "start_s": start_s, "end_s": 2.0}), (event,), 1, SCOPE
    )[0].tracks[0]
    assert moved(2.0 - 1e-9).masks_rle == ("b",) and moved(1.4).masks_rle is None
    for start_s, end_s in ((4.0, 4.0), (5.0, 3.0), (1.0, 99.0)):
        with pytest.raises(BadEdit, match=r"starts before it ends, within the video.s 12\.0 s"):
            edit_now = edit_of({"op": "bounds", "start_s": start_s, "end_s": end_s})
            apply_edit(edit_now, two_events(), 1, SCOPE)


def test_boxes_between_two_keys_follow_a_straight_line():
    keys = [{"time_s": 2.1, "box_xyxy_px": [0, 0, 20, 20]}, {"time_s": 4.0, "box_xyxy_px": [20, 40, 40, 300]}]
    found = edit("boxes", track_id=1, keys=keys)
    man = found.event(1).tracks[0]
    assert man.boxes_xyxy_px == (
        (14.0, 50.0, 54.0, 70.0),  # 1 s, as it was
        (0.0, 0.0, 20.0, 20.0),
        (10.0, 20.0, 30.0, 138.0),  # half way to a box that was cut off at the picture's edge
        (20.0, 40.0, 40.0, 256.0),
        (30.0, 50.0, 70.0, 70.0),
    )
    assert man.scores == (0.9, 1.0, 1.0, 1.0, 0.9) and man.detected == (True, False, False, False, True)
    answer = next(p.answer for p in found.qa if p.task == "AVSTR" and "man" in p.question)
    assert dict(parse(answer).objects[0].where)[3.0] == (10.0, 20.0, 30.0, 138.0)
    gone = edit("boxes", track_id=1, keys=[{"time_s": 2.0, "box_xyxy_px": None}])
    assert gone.event(1).tracks[0].times_s == (1.0, 3.0, 4.0, 5.0)
    for keys, why in (
        ([{"time_s": 9.0, "box_xyxy_px": None}], "9 s is outside the event's frames"),
        ([{"time_s": 2.0, "box_xyxy_px": [5, 5, 5.5, 50]}], "at least one pixel"),
        ([{"time_s": 2.0, "box_xyxy_px": [300, 5, 400, 50]}], "at least one pixel"),
    ):
        with pytest.raises(BadEdit, match=why):
            apply_edit(edit_of({"op": "boxes", "track_id": 1, "keys": keys}), two_events(), 1, SCOPE)


def test_a_track_is_deleted_or_split_and_an_object_removed():
    found = edit("delete_track", track_id=1)
    assert [t.name for t in found.event(1).tracks] == ["drum"]
    assert found.event(1).reasons == ("never_visible",), "the man is still said to be there"
    found = edit("remove_object", name="drum")
    assert "drum" not in heard(found.event(1)) and len(found.event(1).tracks) == 1
    found = edit("split_track", track_id=1, at_s=3.0, to="boy")
    man, boy, _ = found.event(1).tracks
    assert (man.track_id, man.times_s) == (1, (1.0, 2.0))
    assert (boy.track_id, boy.name, boy.times_s, boy.audible) == (3, "boy", (3.0, 4.0, 5.0), True)
    assert boy.boxes_xyxy_px == track(1, "man", True, (3.0, 4.0, 5.0)).boxes_xyxy_px
    for at_s in (1.0, 5.5):
        with pytest.raises(BadEdit, match="no boxes on both sides"):
            apply_edit(edit_of({"op": "split_track", "track_id": 1, "at_s": at_s}), two_events(), 1, SCOPE)


def test_what_was_overlooked_is_drawn():
    keys = [{"time_s": 1.0, "box_xyxy_px": [0, 0, 20, 20]}, {"time_s": 3.0, "box_xyxy_px": [40, 0, 60, 20]}]
    found = edit("add_track", name="cat", keys=keys)
    new = found.event(1).tracks[-1]
    assert (new.track_id, new.name, new.audible, new.times_s) == (3, "cat", False, (1.0, 2.0, 3.0))
    assert new.boxes_xyxy_px[1] == (20.0, 0.0, 40.0, 20.0) and heard(found.event(1))["cat"] == (False, ())
    silent = next(p for p in found.qa if p.event_num == 1 and p.task == "AVSR" and "silent" in p.question)
    assert [thing.name for thing in parse(silent.answer).objects] == ["drum", "cat"]
    bell = edit("add_track", name="the bell", keys=keys).event(1).tracks[-1]
    assert (bell.name, bell.audible) == ("bell", True), "it is heard in the other event"


def test_an_edit_that_is_none_says_why():
    for data, why in (
        ({"op": "paint"}, "op"),
        ({"op": "rename", "name": "man", "to": "<b>"}, "to: a name has 1 to 80 printable characters"),
        ({"op": "rename", "name": "man", "to": " "}, "printable characters"),
        ({"op": "rename", "name": "man", "to": "boy", "colour": 1}, "unknown key"),
        ({"op": "boxes", "track_id": 1, "keys": []}, "keys"),
        ({"op": "bounds", "start_s": float("nan"), "end_s": 2.0}, "start_s"),
    ):
        with pytest.raises(BadEdit, match=why):
            edit_of(data)
    with pytest.raises(BadEdit, match="has no track 7"):
        apply_edit(edit_of({"op": "delete_track", "track_id": 7}), two_events(), 1, SCOPE)
    with pytest.raises(BadEdit, match="has no object 'ghost'"):
        apply_edit(edit_of({"op": "audible", "name": "ghost", "audible": True}), two_events(), 1, SCOPE)


def test_what_differs_is_told_before_and_after():
    one, *_ = two_events()
    (new, *_) = apply_edit(edit_of({"op": "delete_track", "track_id": 2}), two_events(), 1, SCOPE)
    before, after = difference(one, new)
    assert before.keys() == after.keys() == {"tracks"} and after["tracks"] == []
    assert [(found["track_id"], found["times_s"]) for found in before["tracks"]] == [(2, (1.0, 2.0, 3.0, 4.0))]


def random_edit(r: random.Random) -> dict:
    name = lambda: r.choice(["man", "drum", "bell", "cat", "red men"])  # noqa: E731
    time_s = lambda: r.choice([round(r.uniform(-1, 13), 1), float(r.randint(1, 8))])  # noqa: E731
    box = lambda: r.choice([None, [10, 10, 50, 60], [r.uniform(-50, 300) for _ in range(4)]])  # noqa: E731
    keys = [{"time_s": time_s(), "box_xyxy_px": box()} for _ in range(r.randint(1, 3))]
    track_id = r.randint(1, 4)
    return r.choice(
        [
            {"op": "rename", "name": name(), "to": name(), "everywhere": r.random() < 0.5},
            {"op": "rename_track", "track_id": track_id, "to": name()},
            {"op": "audible", "name": name(), "audible": r.random() < 0.5, "everywhere": r.random() < 0.5},
            {"op": "remove_object", "name": name()},
            {"op": "bounds", "start_s": time_s(), "end_s": time_s()},
            {"op": "boxes", "track_id": track_id, "keys": keys},
            {"op": "add_track", "name": name(), "keys": keys},
            {"op": "delete_track", "track_id": track_id},
            {"op": "split_track", "track_id": track_id, "at_s": time_s(), "to": r.choice([None, name()])},
        ]
    )


@pytest.mark.parametrize("seed", range(6))
def test_whatever_is_edited_rows_stay_whole_and_undoing_all_gives_them_back(seed):
    r = random.Random(seed)
    stored = rows(item("v"))
    events = (*revised()[0].annotations, *Evidence.of(stored[0][0], stored[2]).context)
    lines: dict[int, list[Verdict]] = {1: [], 2: []}
    for _ in range(60):
        event_num, data = r.randint(1, 2), random_edit(r)
        try:
            edited(edit_of(data), events, event_num, Evidence.of(stored[0][0], stored[2]), config())
        except BadEdit:
            continue
        number = sum(map(len, lines.values()))
        on = lines[event_num][-1].id if lines[event_num] else None
        lines[event_num].append(line(number, "edit", event_num, on=on, edit=data))
        found, (annotations, qa) = revised(*lines[1], *lines[2])
        events = (*found.annotations, *events[2:])
        assert found.states[f"s:{number}"] == "applied"
        for one in found.annotations:
            assert len({t.track_id for t in one.tracks}) == len(one.tracks)
            for t in one.tracks:
                assert list(t.times_s) == sorted({*t.times_s} & {*one.frame_times_s})
                assert len(t.times_s) == len(t.boxes_xyxy_px) == len(t.scores) > 0
                assert all(0 <= x1 < x2 <= 256 and 0 <= y1 < y2 <= 256 for x1, y1, x2, y2 in t.boxes_xyxy_px)
        assert pa.Table.from_pylist(annotations, schema=ANNOTATIONS).num_rows == 2
        assert not any(parse(row["answer"]).malformed for row in qa) and len({row["qa_id"] for row in qa}) == len(qa)
    assert sum(map(len, lines.values())) > 5
    for event_num, made in lines.items():
        for one in made[::-1]:
            number = sum(map(len, lines.values()))
            made.append(line(number, "undo", event_num, on=made[-1].id, undoes=one.id))
    found, _ = revised(*lines[1], *lines[2])
    assert (found.annotations, found.qa) == (revised()[0].annotations, revised()[0].qa)


def test_a_changed_event_keeps_what_its_sound_was_judged_by():
    late = two_events()[0]
    late = EventAnnotation(Event(1, 9.0, 11.0, "man speaking"), late.objects[:2], (9.0, 10.0, 11.0), ())
    late = EventAnnotation(late.event, late.objects, late.frame_times_s, (track(1, "man", True, (9.0, 10.0, 11.0)),))
    silent = item("v", (late,))
    assert silent.annotations[0].reasons == ("silence",)
    rename = line(0, "edit", edit={"op": "rename", "name": "man", "to": "boy"})
    for video in (True, False):  # by the stored level; where an older output has none, by what was found then
        found, _ = revised(rename, one=silent, video=video)
        assert (found.event(1).status, sorted(found.event(1).reasons)) == ("rejected", ["silence"])
    bounds = line(0, "edit", edit={"op": "bounds", "start_s": 7.0, "end_s": 10.0})
    assert "silence" not in revised(bounds, one=silent)[0].event(1).reasons, "it is loud until 8 s"
