"""Step 5: each check on a case just inside and just outside its threshold; the worst verdict and its inheritance."""

from dataclasses import replace

import pytest

from ravst_ray.annotate.quality import CheckQuality
from ravst_ray.annotate.questions import MakeQuestions
from ravst_ray.config.annotate import QualityConfig
from ravst_ray.records import Event, EventAnnotation, Loudness, SceneObject, Track, Video, VideoItem, VideoMeta

META = VideoMeta(duration_s=20.0, fps=25.0, width=300, height=400, has_audio=True, decoder="pyav")  # diagonal 500
LOUD = Loudness(0.5, (-20.0,) * 40)
TIMES = (2.0, 3.0, 4.0, 5.0)
DOG, VASE = SceneObject("dog", True), SceneObject("vase", False)


def square(x, y, side=50.0):
    return (x, y, x + side, y + side)


def track(name="dog", audible=True, boxes=None, times_s=TIMES, score=0.8):
    boxes = tuple(boxes) if boxes is not None else (square(10, 10),) * len(times_s)
    return Track(0, name, audible, times_s, boxes, (score,) * len(times_s))


def annotation(*tracks, objects=(DOG,), start_s=2.0, end_s=5.2, event_num=1):
    return EventAnnotation(Event(event_num, start_s, end_s, "dog barking"), objects, TIMES, tracks)


def check(*annotations, meta=META, loudness=LOUD, **config):
    item = VideoItem(Video("v", "v.mp4", 20.0, ()), meta=meta, loudness=loudness, annotations=annotations)
    (done,) = CheckQuality(QualityConfig(**config))(MakeQuestions()([item]))
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


def test_silence_threshold_is_configuration():
    quiet = Loudness(0.5, (-55.0,) * 40)
    assert verdict(annotation(track()), loudness=quiet) == ("accepted", ())
    assert verdict(annotation(track()), loudness=quiet, silence_db=-50.0) == ("rejected", ("silence",))


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


def test_questions_inherit_the_verdict_of_their_own_event():
    done = check(
        annotation(track()), annotation(track(score=0.1), event_num=2), annotation(track(), event_num=3, end_s=40.0)
    )
    assert [a.status for a in done.annotations] == ["accepted", "suspect", "rejected"]
    assert {(p.event_num, p.status) for p in done.qa} == {(1, "accepted"), (2, "suspect"), (3, "rejected")}
    assert len(done.qa) == 9


def test_undecoded_items_are_a_fault_of_the_pipeline():
    with pytest.raises(ValueError, match="after decoding"):
        CheckQuality(QualityConfig())([VideoItem(Video("v", "v.mp4", 20.0, ()), annotations=(annotation(track()),))])
