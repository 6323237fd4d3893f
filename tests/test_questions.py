"""Step 4: wording and answers, character by character; what is asked of a whole video; what is left out, and ids."""

from dataclasses import replace

import pytest

from ravst_ray.annotate.questions import MakeQuestions, answer_tokens
from ravst_ray.annotate.unite import unite
from ravst_ray.config.annotate import QuestionsConfig
from ravst_ray.core.answers import parse
from ravst_ray.records import Event, EventAnnotation, SceneObject, Track, Video, VideoItem

BOX = (1.0, 2.0, 3.0, 4.0)


def track(name, audible=True, times_s=(1.4, 2.4), boxes=None, track_id=0):
    boxes = boxes if boxes is not None else (BOX,) * len(times_s)
    return Track(track_id, name, audible, times_s, boxes, (0.9,) * len(times_s))


def annotation(*tracks, start_s=1.39314, end_s=4.31906, event_num=1, objects=()):
    return EventAnnotation(Event(event_num, start_s, end_s, "label"), objects, (1.4, 2.4, 3.4), tracks)


def made(*annotations, video_id="2WTFdWkL9Hs", end_s=100.0, max_instances=13, seed=0, **rules):
    """The item with its questions."""
    item = VideoItem(Video(video_id, "x.mp4", end_s, ()), annotations=annotations)
    (done,) = MakeQuestions(QuestionsConfig(**rules), max_instances, seed)([item])
    assert done.error is None and done.annotations == annotations
    return done


def ask(*annotations, **given):
    return made(*annotations, **given).qa


def left_out(*annotations, **given):
    stats = made(*annotations, **given).stats
    return {key.partition("/")[2]: count for key, count in stats.items() if key.startswith("left_out/")}


def event_at(number, start_s, end_s, *heard, silent=(), step_s=1.0, size=5.0):
    """An event of which every object is seen each second."""
    times = tuple(start_s + step_s * k for k in range(int((end_s - start_s) / step_s) + 1))
    named = [(name, True) for name in heard] + [(name, False) for name in silent]
    boxes = {name: ((float(k), 0.0, k + size, size),) * len(times) for k, (name, _) in enumerate(named)}
    tracks = [track(name, audible, times, boxes[name], k) for k, (name, audible) in enumerate(named)]
    objects = tuple(SceneObject(*one) for one in named)
    return EventAnnotation(Event(number, start_s, end_s, "label"), objects, times, tuple(tracks))


def told(pair):
    """What an answer says: names, when, and the times of each object's boxes."""
    objects = parse(pair.answer).objects
    return [(one.name, one.when, [time_s for time_s, _ in one.where] if one.where else None) for one in objects]


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
    second = annotation(track("cow", times_s=(5.4, 6.4)), event_num=2, start_s=5.4, end_s=8.3)
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


def test_a_name_that_sounds_twice_is_asked_for_by_its_place():
    """Before, both were asked for by the same words, with two different answers."""
    pairs = ask(event_at(1, 0.0, 3.0, "dog"), event_at(2, 8.0, 10.0, "dog"), end_s=20.0)
    temporal = [(p.question, told(p)[0][1]) for p in pairs if p.task == "AVTR"]
    assert temporal == [
        ("When is the first moment dog makes sound and is visible?", (0.0, 3.0)),
        ("When is the second moment dog makes sound and is visible?", (8.0, 10.0)),
    ]
    last = pairs[-1]
    assert last.question == 'When is the second moment dog makes sound and is visible, and where is the "dog"?'
    assert told(last) == [("dog", (8.0, 10.0), [8.0, 9.0, 10.0])]


def test_or_within_a_stretch_of_time_that_holds_no_other():
    three = (event_at(1, 1.0, 3.0, "dog"), event_at(2, 8.0, 10.0, "dog"), event_at(3, 12.0, 13.0, "dog"))
    pairs = ask(*three, end_s=20.04, repeated="window")
    assert [(p.question, told(p)[0][1]) for p in pairs if p.task == "AVTR"] == [
        ("Between 0.0 and 8.0, when is the moment dog makes sound and is visible?", (1.0, 3.0)),
        ("Between 3.0 and 12.0, when is the moment dog makes sound and is visible?", (8.0, 10.0)),
        ("Between 10.0 and 20.0, when is the moment dog makes sound and is visible?", (12.0, 13.0)),
    ]
    assert pairs[2].question == (
        'Between 0.0 and 8.0, when is the moment dog makes sound and is visible, and where is the "dog"?'
    )


def test_or_not_at_all_and_then_it_is_counted():
    twice = (event_at(1, 0.0, 3.0, "dog"), event_at(2, 8.0, 10.0, "dog", "cat"))
    assert [(p.task, p.event_num) for p in ask(*twice, repeated="skip")] == [
        ("AVSR", 1),
        ("AVTR", 2),
        ("AVSR", 2),
        ("AVSTR", 2),
    ]
    assert left_out(*twice, repeated="skip") == {"repeated": 4}


def test_a_place_is_told_only_where_the_moments_before_are_seen():
    """In the first it sounds but isn't seen, so the other may be called the first or the second: a stretch is told."""
    unseen = replace(event_at(1, 0.0, 3.0, "dog", "cat"), tracks=(track("cat", times_s=(0.0,)),))
    question = next(p.question for p in ask(unseen, event_at(2, 8.0, 10.0, "dog"), end_s=20.0) if "dog" in p.question)
    assert question == "Between 3.0 and 20.0, when is the moment dog makes sound and is visible?"


def test_a_place_rests_on_the_moments_before_it():
    first = replace(event_at(1, 0.0, 3.0, "dog"), status="suspect")
    status = {(p.task, p.event_num): p.status for p in ask(first, event_at(2, 8.0, 10.0, "dog"))}
    assert status["AVTR", 2] == status["AVSTR", 2] == "suspect" and status["AVSR", 2] == "accepted"
    status = {p.qa_id[-8:]: p.status for p in ask(first, event_at(2, 8.0, 10.0, "dog"), repeated="window")}
    assert set(status.values()) == {"suspect", "accepted"} and status["2/AVTR/0"] == "accepted"


def test_events_of_one_name_that_meet_are_one_moment():
    pairs = ask(event_at(1, 0.0, 4.0, "dog"), event_at(2, 3.5, 7.5, "dog"))
    assert [(p.question, told(p)) for p in pairs if p.task == "AVTR"] == [
        ("When is the moment dog makes sound and is visible?", [("dog", (0.0, 7.5), None)])
    ]
    (both,) = [p for p in pairs if p.task == "AVSTR"]
    assert told(both) == [("dog", (0.0, 7.5), [0.0, 1.0, 2.0, 3.0, 4.0, 4.5, 5.5, 6.5, 7.5])]
    assert both.event_num == 1 and [p.event_num for p in pairs if p.task == "AVSR"] == [1, 2]


def test_what_is_heard_meanwhile_is_in_the_answer_and_not_silent():
    """Before, asked about 0 to 10 s, the man was left out of what sounds and listed as silent."""
    named = (
        replace(event_at(1, 0.0, 10.0, "dog", silent=("man", "vase")), tracks=()),
        replace(event_at(2, 2.0, 8.0, "man"), tracks=()),
    )
    first, second = unite(named)
    assert first.objects == (
        SceneObject("dog", True, (1,)),
        SceneObject("man", True, (2,)),
        SceneObject("vase", False),
    )
    assert second.objects == (SceneObject("man", True, (2,)), SceneObject("dog", True, (1,)))
    seen = event_at(1, 0.0, 10.0, "dog", "man", silent=("vase",)).tracks
    also = event_at(2, 2.0, 8.0, "man", "dog").tracks
    pairs = ask(replace(first, tracks=seen), replace(second, tracks=also))
    answers = {(p.event_num, p.question[:11], p.task): [name for name, *_ in told(p)] for p in pairs}
    assert answers == {
        (1, "When is the", "AVTR"): ["dog"],
        (1, "What visibl", "AVSR"): ["dog", "man"],
        (1, "What silent", "AVSR"): ["vase"],
        (1, "When is the", "AVSTR"): ["dog"],
        (2, "When is the", "AVTR"): ["man"],
        (2, "What visibl", "AVSR"): ["man", "dog"],
        (2, "When is the", "AVSTR"): ["man"],
    }
    assert {told(p)[0][1] for p in pairs if p.task == "AVTR"} == {(0.0, 10.0), (2.0, 8.0)}


@pytest.mark.parametrize(
    ("one", "other"),
    [("man", "men"), ("two men", "three men"), ("two men", "old man"), ("person", "man"), ("人", "老人")],
)
def test_a_moment_of_a_name_that_another_may_mean_is_not_asked_for(one, other):
    """ "man" and "men" were one name: its second moment was that of the men, who sound once."""
    events = event_at(1, 0.0, 3.0, one), event_at(2, 8.0, 10.0, other)
    assert [p.task for p in ask(*events)] == ["AVSR", "AVSR"] and left_out(*events) == {"ambiguous_name": 4}


def test_names_that_may_mean_the_same_are_not_asked_for():
    pairs = (event_at(1, 0.0, 3.0, "man"), event_at(2, 8.0, 10.0, "old man", "dog"))
    assert [(p.task, told(p)[0][0]) for p in ask(*pairs)] == [
        ("AVSR", "man"),
        ("AVTR", "dog"),
        ("AVSR", "old man"),
        ("AVSTR", "dog"),
    ]
    assert left_out(*pairs) == {"ambiguous_name": 4}


def test_but_for_when_they_sound_if_that_is_the_same_for_both():
    both = event_at(1, 0.0, 3.0, "man", "old man")
    temporal = sorted((p.task, *told(p)[0][:2]) for p in ask(both) if p.task != "AVSR")
    assert temporal == [("AVTR", "man", (0.0, 3.0)), ("AVTR", "old man", (0.0, 3.0))]
    assert left_out(both) == {"ambiguous_name": 2}
    assert left_out(both, when="visible") == {"ambiguous_name": 4}
    assert left_out(both, event_at(2, 8.0, 10.0, "old man")) == {"ambiguous_name": 6}


def test_events_that_are_not_asked_about_count_as_moments():
    context = replace(event_at(2, 8.0, 10.0, "dog"), tracks=(), event=Event(2, 8.0, 10.0, "label", asked=False))
    pairs = ask(event_at(1, 0.0, 3.0, "dog"), context)
    assert [p.question for p in pairs if p.task == "AVTR"] == [
        "When is the first moment dog makes sound and is visible?"
    ]
    before = replace(context, event=Event(1, 0.0, 3.0, "label", asked=False))
    pairs = ask(before, event_at(2, 8.0, 10.0, "dog"), end_s=20.0)
    assert pairs[0].question == "Between 3.0 and 20.0, when is the moment dog makes sound and is visible?"
    meets = replace(context, event=Event(2, 2.0, 6.0, "label", asked=False))
    pairs = ask(event_at(1, 0.0, 3.0, "dog"), meets)
    assert [(p.task, told(p)[0][1]) for p in pairs] == [("AVTR", (0.0, 6.0)), ("AVSR", None)]
    assert left_out(event_at(1, 0.0, 3.0, "dog"), meets) == {"half_tracked": 1}


def test_what_is_seen_of_a_moment_is_not_known_where_it_goes_on_unseen():
    """From 0 to 3 s the dog is seen, to 6 s it is heard in an event whose frames nobody looked at."""
    context = EventAnnotation(Event(2, 2.0, 6.0, "label", asked=False), (SceneObject("dog", True),))
    events = event_at(1, 0.0, 3.0, "dog"), context
    assert [p.task for p in ask(*events, when="visible")] == ["AVSR"]
    assert left_out(*events, when="visible") == {"half_tracked": 2}


def aside(number, start_s, end_s, label, reason="no_objects"):
    event = Event(number, start_s, end_s, label)
    return EventAnnotation(event, status="rejected", reasons=(reason,))


def test_a_label_that_tells_of_a_name_may_be_another_moment_of_it():
    """What sounds from 0 to 3 s wasn't found in its text, but its label says dog."""
    dog, told = event_at(2, 8.0, 10.0, "dog"), "When is the moment dog makes sound and is visible?"
    assert ask(aside(1, 0.0, 3.0, "dog barking"), dog, end_s=20.0)[0].question == (
        "Between 3.0 and 20.0, when is the moment dog makes sound and is visible?"
    )
    assert ask(aside(1, 0.0, 3.0, "cat meowing"), dog)[0].question == told
    assert ask(aside(1, 0.0, 3.0, "dog barking", "nothing_visible"), dog)[0].question == told, "it is out of sight"
    puppy = replace(event_at(1, 0.0, 3.0, "small pet"), event=Event(1, 0.0, 3.0, "dog barking"))
    assert next(p.question for p in ask(puppy, dog) if "dog" in p.question).startswith("Between 3.0 and 100.0, when")
    meets = aside(1, 6.0, 9.0, "dog barking")
    mute = replace(event_at(1, 6.0, 9.0, silent=("rug",)), event=Event(1, 6.0, 9.0, "dog barking"))
    for other in (meets, mute):
        assert {p.task for p in ask(other, dog)} == {"AVSR"} and left_out(other, dog) == {"unnamed_source": 2}
    old = event_at(2, 8.0, 10.0, "old man")
    assert ask(aside(1, 0.0, 3.0, "man speaking"), old)[0].question.startswith("Between 3.0 and 100.0, when")


def test_where_something_sounds_that_nobody_named_the_answer_about_all_is_suspect():
    dog = event_at(1, 0.0, 6.0, "dog", silent=("vase",))
    mute = event_at(2, 4.0, 8.0, silent=("rug",))
    for other in (aside(2, 4.0, 8.0, "music"), mute):
        status = {p.qa_id[2:]: p.status for p in ask(dog, other, video_id="v") if p.event_num == 1}
        assert status == {
            "1/AVTR/0": "accepted",
            "1/AVSR/0": "suspect",
            "1/AVSR/1": "suspect",
            "1/AVSTR/0": "accepted",
        }
    for other in (aside(2, 4.0, 8.0, "thunder", "nothing_visible"), event_at(2, 6.0, 8.0, silent=("rug",))):
        assert {p.status for p in ask(dog, other) if p.event_num == 1} == {"accepted"}


def test_two_events_of_one_interval_are_asked_about_once():
    """The same words had two answers: the silent objects of the one event, and those of the other."""
    events = event_at(1, 1.02, 5.0, "dog", silent=("vase", "man")), event_at(2, 1.0, 5.0, silent=("old man", "rug"))
    events = events[0], replace(events[1], status="suspect")
    pairs = [p for p in ask(*events) if p.task == "AVSR"]
    assert [(p.event_num, p.status, [name for name, *_ in told(p)]) for p in pairs] == [
        (1, "suspect", ["dog"]),
        (1, "suspect", ["vase", "man", "rug"]),
    ]
    assert left_out(*events)["same_interval"] == 1


def test_what_sounds_meanwhile_and_is_seen_in_its_own_event_alone_is_in_the_answer():
    """The man of 2.5 to 4.5 s has no box at the times of the longer event: his own event has some."""
    named = SceneObject("dog", True, (1,)), SceneObject("man", True, (2,))
    longer = replace(event_at(1, 0.0, 4.0, "dog"), objects=named)
    shorter = replace(event_at(2, 2.5, 4.5, "man"), objects=named[1:])
    where = next(p for p in ask(longer, shorter) if p.task == "AVSR")
    assert told(where) == [("dog", None, [0.0, 1.0, 2.0, 3.0, 4.0]), ("man", None, [2.5, 3.5])]


def test_boxes_of_an_event_within_another_fill_what_that_has_none_of():
    longer = replace(event_at(1, 0.0, 8.0, "dog"), tracks=(track("dog", times_s=(0.0, 1.0, 7.0)),))
    both = next(p for p in ask(longer, event_at(2, 2.5, 5.5, "dog")) if p.task == "AVSTR")
    assert told(both) == [("dog", (0.0, 8.0), [0.0, 1.0, 2.5, 3.5, 4.5, 5.5, 7.0])]
    unseen = replace(longer, tracks=(track("vase", False, times_s=(0.0,)),))
    assert told(ask(unseen, event_at(2, 2.5, 5.5, "dog"))[0]) == [("dog", (0.0, 8.0), None)]


def test_what_may_sound_meanwhile_is_not_silent_whoever_says_so():
    """A reviewer may have made the man of the other event audible after objects were named."""
    pair = next(p for p in ask(event_at(1, 0.0, 9.0, silent=("old man", "vase")), event_at(2, 3.0, 5.0, "man")))
    assert [name for name, *_ in told(pair)] == ["vase"]


def test_nobody_hears_a_gap_below_the_precision_of_times():
    """1.449 and 1.451 s are told as 1.4 and 1.5: they were the end of a first moment and the start of a second."""
    pairs = ask(event_at(1, 0.0, 1.449, "dog"), event_at(2, 1.451, 4.0, "dog"))
    assert [(p.question[:18], told(p)[0][1]) for p in pairs if p.task == "AVTR"] == [("When is the moment", (0.0, 4.0))]
    pairs = ask(event_at(1, 0.0, 1.44, "dog"), event_at(2, 1.6, 4.0, "dog"))
    assert sum(p.task == "AVTR" for p in pairs) == 2


def test_a_moment_of_no_length_counts_for_no_place():
    pairs = ask(event_at(1, 3.02, 3.04, "dog"), event_at(2, 8.0, 10.0, "dog"), end_s=20.0)
    assert pairs[0].question == "Between 3.0 and 20.0, when is the moment dog makes sound and is visible?"


def test_the_order_in_which_events_come_changes_nothing():
    events = event_at(1, 0.0, 4.0, "A dog"), event_at(2, 0.0, 4.0, "the dog"), event_at(3, 2.0, 9.0, "dog")
    assert ask(*events) == made(*reversed(events)).qa and len(ask(*events)) == 4


def test_when_is_the_event_or_what_is_seen_of_it():
    """One box in 60 s: the event says "makes sound and is visible" of all of them."""
    once = replace(event_at(1, 0.0, 60.0, "dog"), tracks=(track("dog", times_s=(20.0, 31.0)),))
    assert told(ask(once)[0]) == [("dog", (0.0, 60.0), None)]
    assert told(ask(once, when="visible")[0]) == [("dog", (20.0, 31.0), None)]
    assert told(ask(once, when="visible")[-1]) == [("dog", (20.0, 31.0), [20.0, 31.0])]


@pytest.mark.parametrize(("file_end_s", "told_s"), [(8.27, 8.2), (8.249, 8.2), (8.3, 8.3)])
def test_intervals_end_with_the_file(file_end_s, told_s):
    """They never reach beyond it, not by rounding either."""
    for event_end_s in (file_end_s, 9.0):
        pairs = ask(event_at(1, 2.0, event_end_s, "dog"), end_s=file_end_s)
        assert told(pairs[0])[0][1] == (2.0, told_s)
        assert pairs[1].question.startswith(f"What visible object(s) make sound between 2.0 and {told_s}, ")

    beyond = event_at(2, 8.4, 8.7, "dog")
    assert ask(event_at(1, 2.0, 5.0, "dog"), beyond, end_s=8.27, repeated="window")[0].question == (
        "Between 0.0 and 8.2, when is the moment dog makes sound and is visible?"
    )


def test_lines_of_a_step_below_a_tenth_of_a_second():
    """A track is at one place at a time, and 8.25 s, told as 8.3, is past the end that is told."""
    (where,) = (told(p)[0][2] for p in ask(event_at(1, 8.0, 8.27, "dog", step_s=0.05), end_s=8.27) if p.task == "AVSR")
    assert where == [8.0, 8.1, 8.2]


def test_an_interval_that_rounds_to_nothing_is_not_asked_about():
    """3.02 to 3.04 s: the truth would be [3.0, 3.0], of which no answer earns the temporal reward."""
    blink = replace(event_at(1, 3.02, 3.04, "dog"), tracks=(track("dog", times_s=(3.0,)),))
    assert ask(blink) == () and left_out(blink) == {"no_length": 1}
    glimpse = replace(event_at(1, 0.0, 9.0, "dog"), tracks=(track("dog", times_s=(3.0,)),))
    assert [p.task for p in ask(glimpse, when="visible")] == ["AVSR"]
    assert left_out(glimpse, when="visible") == {"no_length": 2}


def test_of_a_crowd_no_boxes_are_asked_for():
    crowd = [track("people", times_s=(1.4, 2.4), track_id=number) for number in range(14)]
    assert [p.task for p in ask(annotation(*crowd, track("vase", audible=False)))] == ["AVTR", "AVSR"]
    assert left_out(annotation(*crowd)) == {"crowd": 2}
    assert [p.task for p in ask(annotation(*crowd), max_instances=14)] == ["AVTR", "AVSR", "AVSTR"]


def test_answers_above_the_token_limit_are_left_out_and_counted():
    """By hand: <answer> is 3 tokens and a line break, …; of a line "1.4: [1.0, 2.0, 3.0, 4.0]" 22 with its break."""
    assert answer_tokens("1.4: [1.0, 2.0, 3.0, 4.0]\n") == 3 + 1 + 2 + 4 * 3 + 3 + 1
    long = event_at(1, 0.0, 59.0, "dog")
    assert [answer_tokens(p.answer) > 1300 for p in ask(long)] == [False, True, True]
    assert [p.task for p in ask(long, max_answer_tokens=1300)] == ["AVTR"]
    assert left_out(long, max_answer_tokens=1300) == {"too_long": 2}


def test_questions_are_balanced_by_hash():
    """Of 400 events with two sources: 0.61 questions an event of each of two tasks, 0.275 of the third."""
    shares = {"AVTR": 0.61, "AVSR": 0.61, "AVSTR": 0.275}

    def chosen(names):
        return {p.question + p.qa_id for name in names for p in ask(event_at(1, 0.0, 3.0, "dog", "cat"), video_id=name,
                                                                     per_event=shares)}  # fmt: skip

    names = [f"v{number}" for number in range(400)]
    found = chosen(names)
    for task, share in shares.items():
        assert abs(sum(f"/{task}/" in one for one in found) / 400 - share) < 0.06  # 2.5 standard deviations
    assert chosen(names[:100]) <= found  # other videos don't matter
    assert left_out(event_at(1, 0.0, 3.0, "dog"), per_event={"AVTR": 0.0, "AVSTR": 0.0}) == {"balance": 2}
    assert len(ask(event_at(1, 0.0, 3.0, "dog", "cat"), per_event={"AVTR": 2.0})) == 2 + 1 + 2


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
    assert left_out(annotation(track("dog"), objects=named)) == ({"never_visible": 2} if audible else {})


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
