"""Step 5: each check on a case just inside and just outside its threshold; the worst verdict and its inheritance."""

from dataclasses import replace

import pytest

from ravst_ray.annotate.quality import CheckQuality
from ravst_ray.annotate.questions import MakeQuestions
from ravst_ray.config.annotate import QualityConfig
from ravst_ray.errors import ConfigError
from ravst_ray.records import Event, EventAnnotation, Loudness, SceneObject, Track, Video, VideoItem, VideoMeta

META = VideoMeta(duration_s=20.0, fps=25.0, width=300, height=400, has_audio=True, decoder="pyav")  # diagonal 500
LOUD = Loudness(0.5, (-20.0,) * 40)
TIMES = (2.0, 3.0, 4.0, 5.0)
DOG, VASE = SceneObject("dog", True), SceneObject("vase", False)


def square(x, y, side=50.0):
    return (x, y, x + side, y + side)


def track(name="dog", audible=True, boxes=None, times_s=TIMES, score=0.8, detected=(), shot=0):
    boxes = tuple(boxes) if boxes is not None else (square(10, 10),) * len(times_s)
    return Track(0, name, audible, times_s, boxes, (score,) * len(times_s), detected=detected, shot=shot)


def annotation(*tracks, objects=(DOG,), start_s=2.0, end_s=5.2, event_num=1, label="dog barking"):
    return EventAnnotation(Event(event_num, start_s, end_s, label), objects, TIMES, tracks)


def check(*annotations, meta=META, loudness=LOUD, **config):
    item = VideoItem(Video("v", "v.mp4", 20.0, ()), meta=meta, loudness=loudness, annotations=annotations)
    (done,) = MakeQuestions()(CheckQuality(QualityConfig(**config))([item]))
    assert done.error is None
    return done


def verdict(*args, **kwargs):
    (one,) = check(*args, **kwargs).annotations
    return one.status, one.reasons


def test_a_sound_annotation_is_accepted_and_otherwise_unchanged():
    good = annotation(track(), track("vase", audible=False), objects=(DOG, VASE))
    done = check(good)
    assert done.annotations == (good,)
    assert [p.status for p in done.qa] == ["accepted"] * 4


def test_no_box():
    both = ("rejected", ("no_box", "nothing_audible"))
    assert verdict(annotation(objects=(VASE,))) == both
    assert verdict(annotation(track("vase", False, times_s=()), objects=(VASE,))) == both
    assert verdict(annotation(objects=())) == ("rejected", ("no_box",))


def test_an_event_without_a_sounding_object_is_suspect():
    silent_scene = annotation(track("vase", audible=False), objects=(VASE,))
    assert verdict(silent_scene) == ("suspect", ("nothing_audible",))


@pytest.mark.parametrize(("end_s", "rejected"), [(20.0, False), (20.5, False), (20.51, True)])
def test_outside_video(end_s, rejected):
    expected = ("rejected", ("outside_video",)) if rejected else ("accepted", ())
    assert verdict(annotation(track(), start_s=1.0, end_s=end_s)) == expected


@pytest.mark.parametrize(("moved_px", "jump"), [(249.0, False), (251.0, True)])
def test_box_jump_is_half_the_diagonal_in_one_step(moved_px, jump):
    boxes = [square(0, 0), square(0, 0), square(0.6 * moved_px, 0.8 * moved_px), square(0.6 * moved_px, 0.8 * moved_px)]
    expected = ("suspect", ("box_jump",)) if jump else ("accepted", ())
    assert verdict(annotation(track(boxes=boxes))) == expected


def test_coming_back_elsewhere_is_no_jump():
    back = track(times_s=(2.0, 4.0, 5.0), boxes=[square(0, 0), square(240, 340), square(240, 340)])
    assert verdict(annotation(back)) == ("accepted", ())


@pytest.mark.parametrize(("side_px", "tiny"), [(7.7, True), (7.8, False)])  # 0.0005 * 300 * 400 = 60 = 7.746^2
def test_tiny_box(side_px, tiny):
    boxes = [square(5, 5, side_px)] * 3 + [square(5, 5, 100)]
    assert verdict(annotation(track(boxes=boxes))) == (("suspect", ("tiny_box",)) if tiny else ("accepted", ()))


@pytest.mark.parametrize(("height_px", "full"), [(379.0, False), (381.0, True)])  # 0.95 * 400 = 380
def test_full_frame_box(height_px, full):
    boxes = [(0.0, 0.0, 300.0, height_px)] * 4
    expected = ("suspect", ("full_frame_box",)) if full else ("accepted", ())
    assert verdict(annotation(track(boxes=boxes))) == expected


@pytest.mark.parametrize(("score", "low"), [(0.49, True), (0.51, False)])
def test_low_score(score, low):
    tracks = (track(), track("vase", audible=False, score=score))
    assert verdict(annotation(*tracks)) == (("suspect", ("low_score",)) if low else ("accepted", ()))


def test_low_score_is_of_detections_alone():
    """A track that was detected once at 0.41 and then followed by a sure mask: its mean of all is 0.83."""
    scores, found = (0.41, 0.97, 0.97, 0.97), (True, False, False, False)
    followed = replace(track(detected=found), scores=scores)
    assert verdict(annotation(followed)) == ("suspect", ("low_score",))
    assert verdict(annotation(followed), min_score=0.4) == ("accepted", ())
    assert verdict(annotation(replace(followed, scores=(0.51, 0.3, 0.3, 0.3)))) == ("accepted", ())


@pytest.mark.parametrize(("seen", "expected"), [(1, "rejected"), (2, "suspect"), (4, "suspect"), (5, "accepted")])
def test_rarely_visible_is_a_source_that_is_seen_in_little_of_its_event(seen, expected):
    """Of 9 seconds: 0.11 is below 0.2, 0.22 and 0.44 below 0.5, 0.56 above it."""
    times = tuple(float(time_s) for time_s in range(2, 11))
    one = replace(annotation(track(times_s=times[:seen]), end_s=10.0), frame_times_s=times)
    assert verdict(one) == (expected, ("rarely_visible",) if expected != "accepted" else ())
    silent = replace(annotation(track(times_s=times), track("vase", False, times_s=times[:1])), frame_times_s=times)
    assert verdict(silent) == ("accepted", ())


def test_rarely_visible_counts_a_second_once_and_only_own_sources():
    both = annotation(track(times_s=TIMES[:2]), track(times_s=TIMES[:2], boxes=[square(90, 90)] * 2))
    assert verdict(both, skip=["which_one"]) == ("accepted", ())  # 2 of 4 seconds
    other = (replace(DOG, heard_in=(1,)), SceneObject("man", True, heard_in=(2,)))
    later = annotation(track("man"), objects=(other[1],), event_num=2)
    for passing in (
        annotation(track(), track("man", times_s=TIMES[:1]), objects=other),
        annotation(track(), objects=other),
    ):
        assert check(passing, later).annotations[0].reasons == ()


@pytest.mark.parametrize(("count", "crowded"), [(13, False), (14, True)])
def test_crowd_is_more_of_a_name_at_once_than_are_followed(count, crowded):
    people = [track("men", boxes=[square(number, 10)] * 4) for number in range(count)]
    reasons = ("crowd",) if crowded else ()
    assert verdict(annotation(*people, objects=(SceneObject("men", True),)))[1] == reasons
    waiting = [replace(one, name="man", audible=False) for one in people]
    assert verdict(annotation(track(), *waiting))[1] == reasons
    one_by_one = [replace(one, times_s=(2.0 + n / 100,) * 1, boxes_xyxy_px=(square(1, 1),), scores=(0.9,))
                  for n, one in enumerate(waiting)]  # fmt: skip
    assert verdict(annotation(track(), *one_by_one)) == ("accepted", ())


def test_which_one_of_several_instances_sounds():
    two = (track(times_s=TIMES), track(times_s=TIMES[2:], boxes=[square(250, 200)] * 2))
    assert verdict(annotation(*two)) == ("suspect", ("which_one",))
    assert verdict(annotation(*two), skip=["which_one"]) == ("accepted", ())
    silent = [
        replace(one, name="vase", audible=False, times_s=TIMES, boxes_xyxy_px=(square(90, 90),) * 4) for one in two
    ]
    assert verdict(annotation(track(), *silent)) == ("accepted", ())


def test_of_a_name_of_which_several_are_seen_elsewhere_in_the_video_nobody_knows_which_one_sounds():
    """The other dog may be out of sight, or overlooked; whether it is said to sound there makes no difference."""
    elsewhere = annotation(
        track("cat"), *(track("dog", audible=False, boxes=[square(x, 10)] * 4) for x in (100, 200)),
        objects=(SceneObject("cat", True),), start_s=12.0, end_s=15.2, event_num=2, label="cat meowing",
    )  # fmt: skip
    alone, other = check(annotation(track()), elsewhere).annotations
    assert (alone.status, alone.reasons) == ("suspect", ("which_one",))
    assert (other.status, other.reasons) == ("accepted", ())


@pytest.mark.parametrize(
    ("first_x", "fires"),
    [(100.0, True), (4.6, True), (4.4, False), (245.4, True), (245.6, False)],  # 1.5% of 300 px are 4.5
)
def test_one_of_several_that_appears_inside_the_picture_was_overlooked_before(first_x, fires):
    """At the border it may have come in; what is there all the time, or alone of its name, is no matter."""
    there = track("vase", audible=False, boxes=[square(120, 200)] * 4)
    late = track("vase", audible=False, times_s=TIMES[1:], boxes=[square(first_x, 300)] + [square(100, 300)] * 2)
    for times, expected in ((late, fires), (replace(late, name="pot"), False), (replace(late, shot=1), False)):
        reasons = verdict(annotation(track(), there, times))[1]
        assert ("comes_and_goes" in reasons) == expected, times
    gone = replace(late, times_s=TIMES[:3], boxes_xyxy_px=late.boxes_xyxy_px[::-1])
    assert ("comes_and_goes" in verdict(annotation(track(), there, gone))[1]) == fires


@pytest.mark.parametrize(
    ("width", "x", "fires"),
    [
        (70.0, 100.0, False),  # 1.4 times as wide
        (71.0, 100.0, True),
        (71.0, 3.0, False),  # it reached the border before: it came in
        (71.0, 170.0, False),  # nothing else is there
    ],
)
def test_a_box_that_grows_over_another_took_it_in(width, x, fires):
    """50 x 50 px, then wider; of the other one's 60 x 50 it shares at least 60 of 71 columns."""
    grown = track(boxes=[square(x, 10)] * 3 + [(x, 10.0, x + width, 60.0)])
    other = track("vase", audible=False, boxes=[(min(x, 100.0), 10.0, min(x, 100.0) + 60, 60.0)] * 4)
    assert verdict(annotation(grown, other))[1] == (("took_in",) if fires else ())


@pytest.mark.parametrize("name", ["dogs", "two dogs", "group of people", "brass band"])
def test_a_name_that_means_several_may_have_several_boxes(name):
    two = (track(name), track(name, boxes=[square(200, 200)] * 4, shot=0))
    assert verdict(annotation(*two, objects=(SceneObject(name, True),))) == ("accepted", ())


def test_across_a_cut_a_source_may_be_another_one():
    before, after = track(times_s=TIMES[:2]), track(times_s=TIMES[2:], shot=1)
    assert verdict(annotation(before, after)) == ("suspect", ("across_cut",))
    vases = [replace(one, name="vase", audible=False) for one in (before, after)]
    assert verdict(annotation(track(), *vases)) == ("accepted", ())


def test_a_check_that_there_is_not_cannot_be_left_out():
    with pytest.raises(ConfigError, match=r"quality.skip: no check whichone; there are no_box, .*faint"):
        CheckQuality(QualityConfig(skip=["whichone"]))


def test_never_visible():
    assert verdict(annotation(track(), objects=(DOG, SceneObject("cat", True)))) == ("suspect", ("never_visible",))
    assert verdict(annotation(track(), objects=(DOG, VASE))) == ("accepted", ())
    same_name = annotation(track("dog", audible=False), objects=(DOG, SceneObject("dog", False)))
    assert verdict(same_name) == ("suspect", ("never_visible",))


def test_a_claimed_sound_needs_an_audio_track():
    mute = replace(META, has_audio=False)
    assert verdict(annotation(track()), meta=mute, loudness=None) == ("rejected", ("no_audio",))
    silent_scene = annotation(track("vase", audible=False), objects=(VASE,))
    assert verdict(silent_scene, meta=mute, loudness=None) == ("suspect", ("nothing_audible",))


def test_audio_that_could_not_be_read():
    assert verdict(annotation(track()), loudness=None) == ("suspect", ("unread_audio",))


def loudness(loud_windows, step_s=0.5, count=40):
    return Loudness(step_s, tuple(-30.0 if i in loud_windows else -90.0 for i in range(count)))


@pytest.mark.parametrize(
    ("loud_windows", "silent"),
    [
        ({4}, False),  # 2.0-2.5 s, the event's first window
        ({9}, False),  # 4.5-5.0 s, its last whole one
        ({3}, True),  # 1.5-2.0 s: before the event
        ({11}, True),  # 5.5-6.0 s: after it
        ({10}, True),  # 5.0-5.5 s: its middle, 5.25, lies after the event's end at 5.2
        (set(), True),
    ],
)
def test_silence_during_a_claimed_sound(loud_windows, silent):
    expected = ("rejected", ("silence",)) if silent else ("accepted", ())
    assert verdict(annotation(track()), loudness=loudness(loud_windows)) == expected


def levels(inside, outside, loud_windows):
    """In steps of 0.1 s, 20 s of them."""
    return Loudness(0.1, tuple(inside if i in loud_windows else outside for i in range(200)))


@pytest.mark.parametrize(("windows", "expected"), [(2, ("rejected", ("silence",))), (3, ("accepted", ()))])
def test_a_click_is_no_sound(windows, expected):
    assert verdict(annotation(track()), loudness=levels(-10.0, -100.0, range(30, 30 + windows))) == expected


def test_a_sound_as_short_as_its_event_is_one():
    short = annotation(track(), start_s=2.0, end_s=2.3)  # three windows; half of them are enough
    assert verdict(short, loudness=levels(-10.0, -100.0, range(20, 22)))[0] == "accepted"


@pytest.mark.parametrize(
    ("inside", "outside", "status"),
    [
        (-58.0, -58.0, "suspect"),  # nothing but a noise floor
        (-53.0, -58.0, "suspect"),  # 5 dB above it
        (-52.0, -58.0, "accepted"),  # 6 dB above it
        (-20.0, -20.0, "accepted"),  # a sound that goes on all the time is no floor: that ends at -45 dB
        (-40.0, -40.0, "suspect"),  # ... a faint one may be
        (-59.0, -100.0, "accepted"),
        (-61.0, -100.0, "rejected"),
    ],
)
def test_a_sound_rises_above_the_floor_of_its_own_track(inside, outside, status):
    heard = levels(inside, outside, range(20, 52))
    reasons = {"accepted": (), "suspect": ("faint",), "rejected": ("silence",)}[status]
    assert verdict(annotation(track()), loudness=heard) == (status, reasons)


def test_sound_thresholds_are_configuration():
    quiet = levels(-55.0, -58.0, range(20, 52))
    assert verdict(annotation(track()), loudness=quiet, sound_margin_db=3.0) == ("accepted", ())
    assert verdict(annotation(track()), loudness=quiet, silence_db=-50.0) == ("rejected", ("silence",))
    click = levels(-10.0, -100.0, range(30, 31))
    assert verdict(annotation(track()), loudness=click, min_sound_s=0.1) == ("accepted", ())


def test_silence_needs_a_claim():
    silent_scene = annotation(track("vase", audible=False), objects=(VASE,))
    assert verdict(silent_scene, loudness=loudness(set())) == ("suspect", ("nothing_audible",))


@pytest.mark.parametrize(("loud_windows", "silent"), [({4}, False), ({5}, True)])
def test_an_event_shorter_than_a_window_is_judged_by_the_window_it_starts_in(loud_windows, silent):
    short = annotation(track(), start_s=2.3, end_s=2.4)
    assert verdict(short, loudness=loudness(loud_windows))[0] == ("rejected" if silent else "accepted")


def test_an_audio_track_that_ends_before_the_event_is_silence():
    assert verdict(annotation(track()), loudness=Loudness(0.5, (-20.0,) * 3)) == ("rejected", ("silence",))


def test_the_worst_verdict_wins_and_all_reasons_stand_in_the_order_of_the_registry():
    bad = annotation(track(score=0.1, boxes=[(0.0, 0.0, 300.0, 400.0)] * 4), end_s=30.0)
    assert verdict(bad, loudness=loudness(set())) == (
        "rejected",
        ("outside_video", "full_frame_box", "low_score", "silence"),
    )


def test_questions_inherit_the_verdicts_of_the_events_that_they_rest_on():
    cat, cow = (SceneObject(name, True) for name in ("cat", "cow"))
    done = check(
        annotation(track()),
        annotation(track("cat", score=0.1), objects=(cat,), event_num=2, end_s=5.3, label="cat meowing"),
        annotation(track("cow"), objects=(cow,), event_num=3, end_s=40.0, label="cow mooing"),
    )
    assert [a.status for a in done.annotations] == ["accepted", "suspect", "rejected"]
    assert {(p.event_num, p.status) for p in done.qa} == {(1, "accepted"), (2, "suspect"), (3, "rejected")}
    assert len(done.qa) == 9


def test_an_answer_that_needs_another_event_is_as_good_as_that():
    """A cow moos meanwhile, in an event whose track is weak: the answer about both is suspect, the dog's is not."""
    both = (SceneObject("dog", True, (1,)), SceneObject("cow", True, (2,)))
    cow = SceneObject("cow", True, (2,))
    weak = annotation(track("cow", score=0.1), objects=(cow,), start_s=3.0, event_num=2, label="cow mooing")
    done = check(annotation(track(), track("cow"), objects=both), weak)
    assert [(p.qa_id[2:], p.status) for p in done.qa if p.event_num == 1] == [
        ("1/AVTR/0", "accepted"),
        ("1/AVSR/0", "suspect"),
        ("1/AVSTR/0", "accepted"),
    ]


def test_events_that_are_not_asked_about_or_were_set_aside_are_not_judged():
    aside = replace(annotation(objects=()), status="rejected", reasons=("nothing_visible",))
    context = replace(annotation(), event=replace(annotation().event, asked=False))
    assert check(aside, context, meta=None).annotations == (aside, context)


def test_undecoded_items_are_a_fault_of_the_pipeline():
    with pytest.raises(ValueError, match="after decoding"):
        CheckQuality(QualityConfig())([VideoItem(Video("v", "v.mp4", 20.0, ()), annotations=(annotation(track()),))])
