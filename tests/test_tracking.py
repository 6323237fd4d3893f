"""Tracking on scenes whose truth is known: who is who, and when it is seen."""

from __future__ import annotations

import numpy as np
import pytest

from ravst_ray.annotate.grounding import Ground
from ravst_ray.annotate.tracking import DetectedMask, Tracker, TrackingRules
from ravst_ray.config.annotate import GroundingConfig
from ravst_ray.core.masks import decode_rle
from ravst_ray.grounding.protocols import Detection, ObjectMask
from ravst_ray.records import Track
from tests.stub_scene import Scene, Thing, away, make_item, rectangle, straight


def track(scene: Scene, names: list[str], count: int, **settings) -> tuple[Track, ...]:
    config = GroundingConfig(**{"detect_every": 1, **settings})
    item = Ground(scene.detector(), scene.segmenter(), config).process(make_item(names, count))
    return item.annotations[0].tracks


def frames_of(track: Track) -> list[int]:
    return [round(time_s - 0.4) for time_s in track.times_s]


def follows(track: Track, thing: Thing) -> bool:
    """The track is where the thing is, whenever it is to be seen, and nowhere else."""
    return all(box == thing.where(t) for t, box in zip(frames_of(track), track.boxes_xyxy_px, strict=True))


def test_crossing_objects_keep_their_ids():
    drum, bell = Thing("red drum", straight(0, 40, 10)), Thing("blue bell", straight(120, 40, -10))
    tracks = track(Scene([drum, bell]), ["red drum", "blue bell"], 13)
    assert [(one.track_id, one.name, one.audible) for one in tracks] == [(1, "red drum", True), (2, "blue bell", False)]
    assert follows(tracks[0], drum) and follows(tracks[1], bell)
    assert frames_of(tracks[0]) == frames_of(tracks[1]) == list(range(13))


def test_crossing_objects_of_one_name_keep_their_ids_by_their_masks():
    one, other = Thing("boy", straight(0, 40, 8)), Thing("boy", straight(120, 40, -8))
    tracks = track(Scene([one, other]), ["boy"], 16)
    assert len(tracks) == 2 and follows(tracks[0], one) and follows(tracks[1], other)


def test_two_of_one_name_that_jump_are_matched_to_the_nearest():
    one, other = Thing("boy", straight(0, 20, 25)), Thing("boy", straight(130, 90, -25))
    tracks = track(Scene([one, other], stuck={0, 1}, score=0.2), ["boy"], 6)
    assert len(tracks) == 2 and follows(tracks[0], one) and follows(tracks[1], other)


def test_a_single_object_that_jumps_is_the_same_object():
    """The segmenter lost it: its mask stays behind, and isn't sure."""
    drum = Thing("red drum", straight(0, 10, 60, 40))
    tracks = track(Scene([drum], stuck={0}, score=0.4), ["red drum"], 3)
    assert len(tracks) == 1 and follows(tracks[0], drum)


def test_a_weak_detection_elsewhere_takes_no_track_from_its_sure_mask():
    """The detector sees one man at a time: at frame 3 the other one, or what it takes for one."""
    man, other = Thing("man", straight(10, 40, 0)), Thing("man", straight(120, 40, 0))
    scene = Scene([man, other], missed={(0, 3), *((1, t) for t in range(8) if t != 3)}, score=0.97)
    first, second = track(scene, ["man"], 8)
    assert follows(first, man) and frames_of(first) == list(range(8))
    assert first.detected == tuple(t != 3 for t in range(8))
    assert follows(second, other) and frames_of(second)[0] == 3 and second.detected[0]


def test_a_mask_in_doubt_shows_no_object_and_still_holds_its_track():
    """At 0.6 it isn't told where the man is, and the other man is another one."""
    man, other = Thing("man", straight(10, 40, 0)), Thing("man", straight(120, 40, 0))
    scene = Scene([man, other], missed={(0, 3), *((1, t) for t in range(8) if t != 3)}, score=0.6)
    first, second = track(scene, ["man"], 8)
    assert follows(first, man) and frames_of(first) == [0, 1, 2, 4, 5, 6, 7]
    assert follows(second, other) and frames_of(second) == [3]


def detection(box: tuple[float, float, float, float], name: int = 0) -> DetectedMask:
    return DetectedMask(name, box, 0.41, ObjectMask(rectangle(box), 0.9))


def test_a_sure_mask_that_slid_onto_another_detected_object_holds_no_track_back():
    tracker = Tracker(TrackingRules())
    tracker.update(0, {}, [detection((10, 40, 30, 60)), detection((60, 40, 80, 60), name=1)])
    masks = {0: ObjectMask(rectangle((60, 40, 80, 60)), 0.97), 1: ObjectMask(rectangle((60, 40, 80, 60)), 0.97)}
    found = [detection((120, 40, 140, 60)), detection((60, 40, 80, 60), name=1)]
    assert tracker.update(1, masks, found).adopted == {0: 0, 1: 1}


def test_a_slip_of_the_name_frees_no_sure_mask_for_a_weak_detection_elsewhere():
    """The man is called a woman for once, and something else a man: he stays where his mask is."""
    tracker, place = Tracker(TrackingRules()), (10, 40, 30, 60)
    tracker.update(0, {}, [detection(place)])
    found = [detection(place, name=1), detection((120, 40, 140, 60))]
    update = tracker.update(1, {0: ObjectMask(rectangle(place), 0.97)}, found)
    assert update.adopted == {1: 1} and update.sightings[0].box == place


@pytest.mark.parametrize("detected", [True, False])
def test_of_two_masks_at_one_place_the_surer_one_is_seen(detected: bool):
    """The first man's mask slid onto the second one, whom the detector doesn't see or isn't asked for."""
    tracker, place = Tracker(TrackingRules()), (60, 40, 80, 60)
    tracker.update(0, {}, [detection((10, 40, 30, 60)), detection(place)])
    masks = {0: ObjectMask(rectangle(place), 0.9), 1: ObjectMask(rectangle(place), 0.97)}
    update = tracker.update(1, masks, []) if detected else tracker.follow(1, masks)
    assert {track_id: one.box for track_id, one in update.sightings.items()} == {1: place}


def test_a_sure_mask_that_touches_the_only_detection_shows_the_same_object():
    """It grew over the background, to an IoU of 0.2 with what was detected."""
    tracker = Tracker(TrackingRules())
    tracker.update(0, {}, [detection((10, 40, 30, 60))])
    update = tracker.update(1, {0: ObjectMask(rectangle((0, 20, 50, 60)), 0.97)}, [detection((20, 40, 40, 60))])
    assert update.adopted == {0: 0}


def test_of_a_crowd_no_more_are_followed_than_show_that_it_is_one():
    people = [Thing("man", straight(2 + 15 * (i % 10), 2 + 19 * (i // 10), 0, size=12)) for i in range(60)]
    scene = Scene(people)
    segmenter = scene.segmenter()
    item = make_item(["man"], 5)
    (done,) = (
        Ground(scene.detector(), segmenter, GroundingConfig(detect_every=1, max_instances=4)).process(item).annotations
    )
    assert [frames_of(one) for one in done.tracks] == [list(range(5))] * 5
    assert all(follows(one, thing) for one, thing in zip(done.tracks, people, strict=False))
    assert max(segmenter.followed) == max(segmenter.segmented) == 5


def test_of_a_crowd_those_are_looked_at_who_are_followed():
    """The two that are followed score least at the next frame; a name that is no crowd keeps all its detections."""
    tracker = Tracker(TrackingRules(max_instances=1))
    places = [(0.0, 0.0, 20.0, 20.0), (30.0, 0.0, 50.0, 20.0)]
    tracker.update(0, {}, [detection(box) for box in places])
    masks = {index: ObjectMask(rectangle(box), 0.9) for index, box in enumerate(places)}
    others = [Detection(0, (60.0 + 25 * i, 50.0, 80.0 + 25 * i, 70.0), 0.9 - 0.1 * i) for i in range(3)]
    bells = [Detection(1, (0.0, 90.0, 20.0, 110.0), 0.5)]
    weak = [Detection(0, box, 0.4) for box in places]
    assert tracker.choose(masks, [*others, *bells, *weak]) == [*bells, *weak]
    assert Tracker(TrackingRules(max_instances=1)).choose({}, others) == others[:2]


def test_those_in_view_are_followed_rather_than_those_that_left():
    """The camera pans from three men to a crowd: as many of it are seen as show that it is one."""
    tracker = Tracker(TrackingRules(max_instances=3))
    tracker.update(0, {}, [detection((0, 30 * i, 15, 30 * i + 15)) for i in range(3)])
    gone = {track_id: ObjectMask(rectangle(None), 0.1) for track_id in range(3)}
    update = tracker.update(1, gone, [detection((140, 30 * i, 155, 30 * i + 15)) for i in range(4)])
    assert len(update.sightings) == 4 and update.forgotten == (0, 1, 2)
    assert set(update.adopted) == {3, 4, 5, 6}


@pytest.mark.parametrize("seed", range(10))
def test_a_detection_is_left_out_only_where_a_crowd_is_seen(seed: int):
    """Men who run about; masks that are lost, slide or are unsure; a detector that overlooks every fifth one."""
    rng, most = np.random.default_rng(seed), 4
    tracker, places = Tracker(TrackingRules(max_instances=most - 1)), rng.uniform(0, 100, (int(rng.integers(3, 9)), 2))
    shown: dict[int, int] = {}  # track -> man
    for frame in range(12):
        places = np.clip(places + rng.normal(0, 12, places.shape), 0, 98).round()
        boxes = [(x, y, x + 20, y + 20) for x, y in places.tolist()]
        masks = {}
        for track_id, man in shown.items():
            where = [boxes[man], boxes[rng.integers(len(boxes))], None][rng.choice(3, p=[0.7, 0.15, 0.15])]
            masks[track_id] = ObjectMask(rectangle(where), float(rng.choice([0.97, 0.3])))
        seen = [man for man in range(len(boxes)) if rng.random() < 0.8]
        offered = [Detection(man, boxes[man], float(rng.uniform(0.4, 0.9))) for man in seen]
        chosen = tracker.choose(masks, [Detection(0, one.box_xyxy_px, one.score) for one in offered])
        update = tracker.update(frame, masks, [detection(one.box_xyxy_px) for one in chosen])
        shown |= {
            track_id: next(one.phrase for one in offered if one.box_xyxy_px == chosen[index].box_xyxy_px)
            for track_id, index in update.adopted.items()
        }
        shown = {track_id: man for track_id, man in shown.items() if track_id not in update.forgotten}
        assert len(update.adopted) == len(chosen) or len(update.sightings) >= most
        assert len(shown) <= most


@pytest.mark.parametrize("absent", [2, 9])
def test_an_object_that_leaves_and_returns_gets_its_old_id(absent: int):
    """Both before and after it was given up (max_missed is 4)."""
    drum = Thing("red drum", away(straight(0, 40, 5), 4, 3 + absent))
    tracks = track(Scene([drum, Thing("bell", straight(0, 90, 0))]), ["red drum", "bell"], 16)
    assert len(tracks) == 2 and follows(tracks[0], drum)
    assert frames_of(tracks[0]) == [t for t in range(16) if not 4 <= t < 4 + absent]


def test_a_missed_detection_is_bridged_by_the_mask():
    drum = Thing("red drum", straight(0, 40, 6))
    scene = Scene([drum], missed={(0, 3), (0, 4)}, score=0.85)
    (only,) = track(scene, ["red drum"], 8)
    assert frames_of(only) == list(range(8)) and follows(only, drum)
    assert only.scores == (0.8, 0.8, 0.8, 0.85, 0.85, 0.8, 0.8, 0.8)
    assert only.detected == (True, True, True, False, False, True, True, True)


def test_an_undetected_object_is_kept_while_its_mask_is_sure_and_not_longer_than_max_missed():
    drum = Thing("red drum", straight(0, 40, 2))
    missed = {(0, t) for t in range(2, 20)}
    (sure,) = track(Scene([drum], missed=missed), ["red drum"], 20, max_missed=3)
    assert frames_of(sure) == [0, 1, 2, 3, 4]
    (unsure,) = track(Scene([drum], missed=missed, score=0.4), ["red drum"], 20, max_missed=3)
    assert frames_of(unsure) == [0, 1]


def test_an_object_detected_once_only_is_given_up_sooner():
    drum = Thing("red drum", straight(0, 40, 2))
    (only,) = track(Scene([drum], missed={(0, t) for t in range(1, 9)}), ["red drum"], 9, max_missed=3)
    assert frames_of(only) == [0, 1]


def test_the_segmenter_forgets_objects_that_are_given_up():
    scene = Scene([Thing("drum", straight(0, 40, 0))], missed={(0, t) for t in range(2, 12)})
    segmenter = scene.segmenter()
    Ground(scene.detector(), segmenter, GroundingConfig(detect_every=1, max_missed=2)).process(make_item(["drum"], 12))
    assert segmenter.followed == [0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0]


def test_new_objects_join():
    drum, bell = Thing("drum", straight(0, 10, 4)), Thing("bell", away(straight(20, 80, 3), 0, 4))
    tracks = track(Scene([drum, bell]), ["bell", "drum"], 9)
    assert [(one.track_id, one.name) for one in tracks] == [(1, "drum"), (2, "bell")]
    assert frames_of(tracks[1]) == [5, 6, 7, 8]


def test_a_slip_of_the_name_starts_no_track():
    drum = Thing("red drum", straight(0, 40, 4))
    tracks = track(Scene([drum], called={(0, 3): "red bell"}), ["red drum", "red bell"], 8)
    assert [one.name for one in tracks] == ["red drum"] and frames_of(tracks[0]) == list(range(8))


def test_a_mask_that_slid_onto_a_detected_object_is_not_seen_there():
    """The drum is gone from frame 4 on; the segmenter takes the bell, which stands still, for it."""
    bell = Thing("bell", straight(60, 40, 0))
    drum = Thing("drum", lambda t: straight(20, 40, 10)(t) if t < 4 else bell.where(t))
    tracks = track(Scene([bell, drum], missed={(1, t) for t in range(4, 9)}), ["bell", "drum"], 9)
    assert {one.name: frames_of(one) for one in tracks} == {"bell": list(range(9)), "drum": [0, 1, 2, 3]}


def test_a_mask_alone_that_ran_into_something_is_not_where_the_object_is():
    """20 x 20 px become 35 x 20 = 1.75 times the area, which may be, or 36 x 20, which may not."""
    for right, there in ((45, True), (46, False)):
        tracker = Tracker(TrackingRules())
        tracker.update(0, {}, [detection((10, 40, 30, 60))])
        seen = tracker.update(1, {0: ObjectMask(rectangle((10, 40, right, 60)), 0.97)}, []).sightings
        assert (0 in seen) == there


def test_overlapping_masks_do_not_overwrite_each_other():
    one, other = Thing("drum", straight(20, 20, 0, size=40)), Thing("bell", straight(30, 30, 0, size=40))
    tracks = track(Scene([one, other]), ["drum", "bell"], 2, masks=True)
    for got, thing in zip(tracks, (one, other), strict=True):
        assert got.masks_rle is not None
        assert all((decode_rle(code) == rectangle(thing.where(0))).all() for code in got.masks_rle)


def test_between_detections_masks_carry_the_tracks():
    drum = Thing("red drum", straight(0, 40, 5))
    scene = Scene([drum])
    detector = scene.detector()
    config = GroundingConfig(detect_every=3)
    item = Ground(detector, scene.segmenter(), config).process(make_item(["red drum"], 8))
    assert detector.looked_at == [0, 3, 6]
    assert follows(item.annotations[0].tracks[0], drum) and len(item.annotations[0].tracks[0].times_s) == 8


def test_the_best_assignment_wins_over_the_first():
    """Greedily, the first track would take the detection that only the second one can have."""
    tracker = Tracker(TrackingRules(match_iou=0.3))
    places = [(0.0, 0.0, 20.0, 20.0), (10.0, 0.0, 30.0, 20.0)]
    start = [DetectedMask(0, box, 0.9, ObjectMask(rectangle(box), 0.9)) for box in places]
    assert tracker.update(0, {}, start).adopted == {0: 0, 1: 1}
    masks = {index: ObjectMask(rectangle(box), 0.9) for index, box in enumerate(places)}
    shifted = [(5.0, 0.0, 25.0, 20.0), (-6.0, 0.0, 14.0, 20.0)]  # IoU .60/.54 of the first, .60/.11 of the second
    found = [DetectedMask(0, box, 0.9, ObjectMask(rectangle(box), 0.9)) for box in shifted]
    assert tracker.update(1, masks, found).adopted == {0: 1, 1: 0}


def test_a_mask_that_disagrees_with_the_detection_gives_way_to_it():
    tracker = Tracker(TrackingRules())
    blob = rectangle((0, 0, 100, 100))
    (seen,) = tracker.update(
        0, {}, [DetectedMask(0, (10.0, 10.0, 30.0, 30.0), 0.7, ObjectMask(blob, 0.9))]
    ).sightings.values()
    assert seen.box == (10.0, 10.0, 30.0, 30.0) and seen.mask.sum() == 400
    assert np.flatnonzero(seen.mask.any(axis=0)).tolist() == list(range(10, 30))
