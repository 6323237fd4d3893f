"""Step 4: wording and answers, character by character, and ids."""

import pytest

from ravst_ray.annotate.questions import MakeQuestions
from ravst_ray.core.answers import parse
from ravst_ray.records import Event, EventAnnotation, SceneObject, Track, Video, VideoItem

BOX = (1.0, 2.0, 3.0, 4.0)


def track(name, audible=True, times_s=(1.4, 2.4), boxes=None, track_id=0):
    boxes = boxes if boxes is not None else (BOX,) * len(times_s)
    return Track(track_id, name, audible, times_s, boxes, (0.9,) * len(times_s))


def annotation(*tracks, start_s=1.39314, end_s=4.31906, event_num=1, objects=()):
    return EventAnnotation(Event(event_num, start_s, end_s, "label"), objects, (1.4, 2.4, 3.4), tracks)


def ask(*annotations, video_id="2WTFdWkL9Hs"):
    item = VideoItem(Video(video_id, "x.mp4", 28.0, ()), annotations=annotations)
    (done,) = MakeQuestions()([item])
    assert done.error is None and done.annotations == annotations
    return done.qa


def test_an_audible_object_gets_all_three_tasks_in_the_published_style():
    boxes = ((158.04, 3.0, 561.0, 719.0), (158.0, 69.25, 561.0, 719.0))
    temporal, spatial, both = ask(annotation(track("person", boxes=boxes)))
    where = "<where>\n1.4: [158.0, 3.0, 561.0, 719.0]\n2.4: [158.0, 69.2, 561.0, 719.0]\n</where>"
    assert temporal.question == "When is the moment person makes sound and is visible?"
    assert temporal.answer == "<answer>\n<object>person</object>\n<when>[1.4, 4.3]</when>\n</answer>"
    assert spatial.question == "What visible object(s) make sound between 1.4 and 4.3, and where is/are they?"
    assert spatial.answer == f"<answer>\n<object>person</object>\n{where}\n</answer>"
    assert both.question == 'When is the moment person makes sound and is visible, and where is the "person"?'
    assert both.answer == f"<answer>\n<object>person</object>\n<when>[1.4, 4.3]</when>\n{where}\n</answer>"


def test_a_silent_object_gets_only_the_silent_question():
    (pair,) = ask(annotation(track("vase", audible=False)))
    assert pair.task == "AVSR"
    assert pair.question == "What silent object(s) can be seen between 1.4 and 4.3, and where is/are they?"
    assert [o.name for o in parse(pair.answer).objects] == ["vase"]


def test_ids_count_within_video_event_and_task():
    first = annotation(track("dog"), track("cat"), track("vase", audible=False), event_num=1)
    second = annotation(track("dog"), event_num=2)
    pairs = ask(first, second, video_id="a b")
    assert [p.qa_id for p in pairs] == [
        "a b/1/AVTR/0",
        "a b/1/AVTR/1",
        "a b/1/AVSR/0",
        "a b/1/AVSR/1",
        "a b/1/AVSTR/0",
        "a b/1/AVSTR/1",
        "a b/2/AVTR/0",
        "a b/2/AVSR/0",
        "a b/2/AVSTR/0",
    ]
    assert {(p.qa_id, f"{p.video_id}/{p.event_num}/{p.task}/{p.qa_id[-1]}") for p in pairs} == {
        (p.qa_id, p.qa_id) for p in pairs
    }


def test_the_index_runs_on_where_an_event_comes_twice():
    pairs = ask(annotation(track("dog")), annotation(track("cat")))
    assert [p.qa_id for p in pairs if p.task == "AVTR"] == ["2WTFdWkL9Hs/1/AVTR/0", "2WTFdWkL9Hs/1/AVTR/1"]


def test_several_objects_share_the_spatial_answer():
    pairs = ask(annotation(track("dog"), track("cat"), track("vase", audible=False), track("rug", audible=False)))
    audible, silent = (parse(p.answer).objects for p in pairs if p.task == "AVSR")
    assert [o.name for o in audible] == ["dog", "cat"]
    assert [o.name for o in silent] == ["vase", "rug"]


def test_tracks_of_one_name_are_one_object_with_several_boxes_a_second():
    left, right = (0.0, 0.0, 1.0, 1.0), (5.0, 5.0, 6.0, 6.0)
    tracks = (
        track("man", times_s=(1.4, 2.4), boxes=(left, left), track_id=0),
        track("man", times_s=(1.4, 3.4), boxes=(right, right), track_id=1),
    )
    pairs = ask(annotation(*tracks))
    assert [p.task for p in pairs] == ["AVTR", "AVSR", "AVSTR"]
    (man,) = parse(pairs[1].answer).objects
    assert man.where == ((1.4, left), (1.4, right), (2.4, left), (3.4, right))


@pytest.mark.parametrize("audible", [True, False])
def test_an_object_without_a_box_is_asked_for_nowhere(audible):
    named = (SceneObject("ghost", audible), SceneObject("dog", True))
    assert ask(annotation(objects=named)) == ()
    assert ask(annotation(track("ghost", audible, times_s=()), objects=named)) == ()
    pairs = ask(annotation(track("ghost", audible, times_s=()), track("dog"), objects=named))
    assert [p.task for p in pairs] == ["AVTR", "AVSR", "AVSTR"]
    assert not any("ghost" in p.question + p.answer for p in pairs)


def test_one_name_audible_and_silent_is_kept_apart():
    heard, seen = (0.0, 0.0, 1.0, 1.0), (5.0, 5.0, 6.0, 6.0)
    pairs = ask(annotation(track("man", True, (1.4,), (heard,)), track("man", False, (1.4,), (seen,), track_id=1)))
    assert [parse(p.answer).objects[0].where for p in pairs if p.task == "AVSR"] == [((1.4, heard),), ((1.4, seen),)]


def test_times_round_half_up_and_lines_lie_inside_the_asked_interval():
    (temporal, spatial, _) = ask(annotation(track("dog", times_s=(0.3, 1.3)), start_s=0.25, end_s=1.34999))
    assert "<when>[0.3, 1.3]</when>" in temporal.answer
    assert "between 0.3 and 1.3," in spatial.question
    assert [time for time, _ in parse(spatial.answer).objects[0].where] == [0.3, 1.3]


def test_every_answer_is_clean_for_the_parser():
    pairs = ask(annotation(track("A man"), track("Two young boys"), track("red drum", audible=False)))
    assert [dict(parse(p.answer).malformed) for p in pairs] == [{}] * 6
