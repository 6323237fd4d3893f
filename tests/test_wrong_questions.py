"""Which questions the exact truth contradicts: every reason once, on truths made by hand."""

import pytest

from ravst_ray.core.answers import ObjectAnswer, render
from ravst_ray.core.wording import ORDINALS, SPATIAL_AUDIBLE, SPATIAL_SILENT, SPATIO_TEMPORAL, TEMPORAL, nth, within
from ravst_ray.records import QAPair
from ravst_ray.toyworld.asked import Asked, read_question
from ravst_ray.toyworld.wrong import REASONS, Verdict, count_wrong, judge_question

LEFT, RIGHT, TOP = (0.0, 0.0, 10.0, 10.0), (50.0, 0.0, 60.0, 10.0), (0.0, 50.0, 10.0, 60.0)
RIGHT_VERDICT = Verdict((), off_screen=False)


def thing(name, box, *events, seen=(0.0, 12.0)):
    """An object that stays where it is, seen from one time to another; None: never."""
    ticks = range(round(seen[0] * 10), round(seen[1] * 10) + 1) if seen else ()
    return {
        "name": name,
        "events": [list(event) for event in events],
        "boxes": {f"{t / 10:.1f}": list(box) for t in ticks},
    }


def video(*things):
    return {"v": {"objects": list(things)}}


def ask(question, *objects, status="accepted"):
    return QAPair("v/1/AVTR/0", "v", 1, "AVTR", question, render(objects), status)


def lines(box, start, end):
    return tuple((float(second), box) for second in range(start, end + 1))


def verdict(truth, question, *objects, when="event"):
    return judge_question(truth["v"], ask(question, *objects), when)


def temporal(truth, when, wording=TEMPORAL, mode="event"):
    return verdict(truth, wording.format(name="red drum"), ObjectAnswer("red drum", when=when), when=mode).reasons


def both(truth, when, where):
    one = ObjectAnswer("red drum", when=when, where=where)
    return verdict(truth, SPATIO_TEMPORAL.format(name="red drum"), one).reasons


def spatial(truth, wording, *objects, span=(2.0, 6.0)):
    answers = [ObjectAnswer(name, where=where) for name, where in objects]
    return verdict(truth, wording.format(start=span[0], end=span[1]), *answers).reasons


DRUM = thing("red drum", LEFT, (2.0, 6.0))
STILL = thing("red drum", RIGHT)
BELL = thing("blue bell", TOP, (5.0, 9.0))
TWICE = thing("red drum", LEFT, (2.0, 4.0), (8.0, 10.0))


@pytest.mark.parametrize("task", [TEMPORAL, SPATIO_TEMPORAL])
def test_every_wording_is_read_back(task):
    for name in ("old man", "who?", 'the "big" vase {x}', "犬", "first moment"):
        assert read_question(task.format(name=name)) == Asked(name=name)
    for place in range(len(ORDINALS)):
        assert read_question(nth(task, place).format(name="red drum")) == Asked(name="red drum", ordinal=place + 1)
    assert read_question(within(task, 0.0, 12.5).format(name="dog")) == Asked(name="dog", window=(0.0, 12.5))
    assert read_question(SPATIAL_AUDIBLE.format(start=1.393, end=4)) == Asked(span=(1.393, 4.0), audible=True)
    assert read_question(SPATIAL_SILENT.format(start=0.0, end=4.5)) == Asked(span=(0.0, 4.5), audible=False)


@pytest.mark.parametrize(
    "text", ["", "When is the eleventh moment dog makes sound and is visible?", TEMPORAL.format(name="dog") + " Now?"]
)
def test_no_other_wording_is(text):
    assert read_question(text) is None
    assert judge_question(video(DRUM)["v"], ask(text, ObjectAnswer("dog", when=(0, 1)))).reasons == ("unreadable",)


def test_two_names_in_one_question_are_unreadable():
    text = SPATIO_TEMPORAL.replace("{name}", "dog", 1).format(name="cat")
    assert read_question(text) is None


def test_a_moment_is_right_to_a_tenth_and_a_half():
    truth = video(DRUM, STILL)
    assert temporal(truth, (2.1, 5.9)) == ()
    assert temporal(truth, (2.2, 6.0)) == ("wrong_when",)
    assert temporal(truth, (0.0, 6.0)) == ("wrong_when",)


def test_a_name_that_does_not_sound():
    assert temporal(video(DRUM), (7.0, 9.0)) == ("not_sounding",)
    assert temporal(video(DRUM), (6.0, 9.0)) == ("not_sounding",), "touching is not sounding"


def test_what_is_seen_lies_within_a_moment():
    assert temporal(video(DRUM), (3.0, 4.0), mode="visible") == ()
    assert temporal(video(DRUM), (1.0, 4.0), mode="visible") == ("wrong_when",)


def test_events_of_several_instances_are_one_moment_where_they_meet():
    truth = video(thing("red drum", LEFT, (2.0, 4.0)), thing("red drum", RIGHT, (4.0, 6.0)))
    assert temporal(truth, (2.0, 6.0)) == ()
    assert temporal(truth, (2.0, 4.0)) == ("wrong_when",)


def test_several_moments_want_to_be_told_apart():
    truth = video(TWICE)
    assert temporal(truth, (2.0, 4.0)) == ("several_moments",)
    assert temporal(truth, (2.0, 4.0), nth(TEMPORAL, 0)) == ()
    assert temporal(truth, (8.0, 10.0), nth(TEMPORAL, 0)) == ("other_moment",)
    assert temporal(truth, (8.0, 10.0), nth(TEMPORAL, 2)) == ("other_moment",), "there is no third one"
    assert temporal(truth, (8.0, 10.0), within(TEMPORAL, 4.0, 12.0)) == ()
    assert temporal(truth, (8.0, 10.0), within(TEMPORAL, 0.0, 8.0)) == ("other_moment",)
    assert temporal(truth, (8.0, 10.0), within(TEMPORAL, 3.0, 12.0)) == ("several_moments",)


def test_a_source_that_is_seen_in_its_event_but_not_when_it_is_asked_for():
    truth = video(thing("red drum", LEFT, (2.0, 6.0), seen=(5.0, 6.0)))
    assert temporal(truth, (2.0, 4.0), mode="visible") == ("never_visible",)
    assert temporal(truth, (2.0, 6.0)) == ()


def test_sources_off_screen_are_told_apart():
    away = thing("red drum", LEFT, (2.0, 6.0), seen=(7.0, 9.0))
    question = TEMPORAL.format(name="red drum"), ObjectAnswer("red drum", when=(2.0, 6.0))
    assert verdict(video(away, STILL), *question) == Verdict(("never_visible",), off_screen=True)
    silent = SPATIAL_SILENT.format(start=2.0, end=6.0), ObjectAnswer("green ball", where=lines(TOP, 2, 6))
    assert verdict(video(away, thing("green ball", TOP)), *silent) == Verdict((), off_screen=True)
    assert verdict(video(DRUM, thing("green ball", TOP)), *silent) == RIGHT_VERDICT


def test_audible_objects_are_all_that_sound_and_are_seen():
    truth = video(DRUM, STILL, BELL)
    drum, bell = ("red drum", lines(LEFT, 2, 6)), ("blue bell", lines(TOP, 2, 6))
    assert spatial(truth, SPATIAL_AUDIBLE, drum, bell) == ()
    assert spatial(truth, SPATIAL_AUDIBLE, ("A red drum", drum[1]), bell) == ()
    assert spatial(truth, SPATIAL_AUDIBLE, drum) == ("missing_source",)
    assert spatial(truth, SPATIAL_AUDIBLE, drum, span=(2.0, 5.0)) == (), "the bell begins where the question ends"
    late = thing("blue bell", TOP, (5.0, 9.0), seen=(7.0, 9.0))
    assert spatial(video(DRUM, late), SPATIAL_AUDIBLE, drum) == (), "it sounds before it is seen"
    assert "never_visible" in spatial(video(DRUM, late), SPATIAL_AUDIBLE, drum, bell)
    quiet = thing("blue bell", TOP)
    assert "silent_source" in spatial(video(DRUM, quiet), SPATIAL_AUDIBLE, drum, bell)


def test_silent_objects_never_sound_and_are_seen():
    ball = ("green ball", lines(RIGHT, 2, 6))
    truth = video(DRUM, BELL, thing("green ball", RIGHT), thing("yellow ball", LEFT))
    assert spatial(truth, SPATIAL_SILENT, ball) == (), "another silent one may be left out"
    assert spatial(truth, SPATIAL_SILENT, ball, ("blue bell", lines(TOP, 2, 6))) == ("sounding_silent",)
    unseen = video(DRUM, thing("green ball", RIGHT, seen=(7.0, 9.0)))
    assert "never_visible" in spatial(unseen, SPATIAL_SILENT, ball)


def test_a_silent_name_needs_all_its_instances():
    truth = video(DRUM, thing("green ball", RIGHT), thing("green ball", TOP))
    two = tuple(sorted(lines(RIGHT, 2, 6) + lines(TOP, 2, 6)))
    assert spatial(truth, SPATIAL_SILENT, ("green ball", two)) == ()
    assert spatial(truth, SPATIAL_SILENT, ("green ball", lines(RIGHT, 2, 6))) == ("missing_boxes",)


def test_a_box_of_iou_one_half_is_right_whatever_else_is_there():
    """12 x 10 px around a drum of 10 x 10 has IoU 0.83 with it, and 0.9 with a ball that covers 12 x 9 of it."""
    ball, loose = thing("green ball", (0.0, 0.0, 12.0, 9.0)), (0.0, 0.0, 12.0, 10.0)
    assert both(video(DRUM, ball), (2.0, 6.0), lines(loose, 2, 6)) == ()
    off = (0.0, 0.0, 12.0, 22.0)  # 100 / 264 = 0.38 and 108 / 264 = 0.41: the ball has more of it
    assert "wrong_boxes" in both(video(DRUM, ball), (2.0, 6.0), lines(off, 2, 6))


def test_one_wrong_box_in_four_is_borne():
    good, nowhere = lines(LEFT, 2, 6), (80.0, 80.0, 90.0, 90.0)
    assert both(video(DRUM), (2.0, 6.0), good) == ()
    four, three = (video(thing("red drum", LEFT, (2.0, end_s))) for end_s in (5.0, 4.0))
    assert both(four, (2.0, 5.0), (*good[:3], (5.0, nowhere))) == ()
    assert both(three, (2.0, 4.0), (*good[:2], (4.0, nowhere))) == ("wrong_boxes",)
    assert both(video(DRUM), (2.0, 6.0), (*good[:3], (5.0, nowhere), (6.0, nowhere))) == ("wrong_boxes",)


def test_a_box_of_little_overlap_is_wrong():
    """A box shifted by 5 of 10 px has IoU 5/15; by 6 px it has 4/16, below 0.3."""
    for shift, reasons in ((5.0, ()), (6.0, ("wrong_boxes", "missing_boxes"))):
        assert both(video(DRUM), (2.0, 6.0), lines((shift, 0.0, 10.0 + shift, 10.0), 2, 6)) == reasons


def test_two_seconds_on_the_silent_instance_are_too_many():
    truth = video(thing("red drum", LEFT, (2.0, 12.0)), STILL)
    good = lines(LEFT, 2, 12)
    assert both(truth, (2.0, 12.0), (*good[:10], (12.0, RIGHT))) == ()
    assert both(truth, (2.0, 12.0), (*good[:9], (11.0, RIGHT), (12.0, RIGHT))) == ("wrong_instance",)
    apart = (*good[:5], (7.0, RIGHT), *good[6:10], (12.0, RIGHT))
    assert both(truth, (2.0, 12.0), apart) == (), "a second each, far apart"
    further = tuple(sorted((*good, *lines(RIGHT, 2, 12))))
    assert both(truth, (2.0, 12.0), further) == ("wrong_boxes", "wrong_instance")


def test_an_instance_seen_most_of_the_time_has_boxes():
    """Five seconds are asked about; with boxes in three nothing is missing, with two it is."""
    assert both(video(DRUM), (2.0, 6.0), lines(LEFT, 2, 4)) == ()
    assert both(video(DRUM), (2.0, 6.0), lines(LEFT, 2, 3)) == ("missing_boxes",)
    brief = thing("red drum", LEFT, (2.0, 6.0), seen=(5.0, 6.0))
    assert both(video(brief), (2.0, 6.0), lines(LEFT, 5, 5)) == (), "it is seen in two seconds of five"


def test_an_answer_about_another_name_or_none_is_unreadable():
    question = TEMPORAL.format(name="red drum")
    assert verdict(video(DRUM), question, ObjectAnswer("blue bell", when=(2.0, 6.0))).reasons == ("unreadable",)
    assert verdict(video(DRUM), question, ObjectAnswer("red drum")).reasons == ("unreadable",)
    assert judge_question(video(DRUM)["v"], QAPair("v/1/AVTR/0", "v", 1, "AVTR", question, "")).reasons == (
        "unreadable",
    )


def test_questions_are_counted_by_status_and_reason():
    truth = video(DRUM, STILL)
    question = TEMPORAL.format(name="red drum")
    right, wrong = (ObjectAnswer("red drum", when=when) for when in ((2.0, 6.0), (2.0, 8.0)))
    away = video(thing("red drum", LEFT, (2.0, 6.0), seen=None))["v"]
    pairs = [ask(question, right), ask(question, right), ask(question, wrong), ask(question, right, status="suspect")]
    pairs += [ask(question, wrong, status="rejected")]
    elsewhere = [QAPair(f"{name}/1/AVTR/0", name, 1, "AVTR", question, render([right])) for name in ("away", "unknown")]
    count = count_wrong({**truth, "away": away}, [*pairs, *elsewhere])
    assert {status: (one.right, one.wrong) for status, one in count.in_view.items()} == {
        "accepted": (2, 1),
        "suspect": (1, 0),
        "rejected": (0, 1),
    }
    assert count.in_view["accepted"].reasons == {"wrong_when": 1} and set(REASONS) >= {"wrong_when"}
    assert count.off_screen["accepted"].wrong == 1 and count.off_screen["accepted"].reasons == {"never_visible": 1}
    assert count.kept_share == pytest.approx(2 / 3)
