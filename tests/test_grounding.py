"""The grounding step: records in, records out, memory bounded, and with real (tiny) models."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ravst_ray.annotate.grounding import Ground, build_ground
from ravst_ray.config.annotate import GroundingConfig
from ravst_ray.core.masks import decode_rle, encode_rle, mask_box, mask_iou, without_specks
from ravst_ray.errors import ConfigError, StepError
from ravst_ray.records import Event, EventAnnotation, Track
from tests.stub_scene import Scene, Thing, away, make_item, straight


def ground(scene: Scene, **settings) -> Ground:
    return Ground(scene.detector(), scene.segmenter(), GroundingConfig(**{"detect_every": 1, **settings}))


BUSY = Scene(
    [
        Thing("drum", away(straight(0, 10, 3), 10, 17)),
        Thing("bell", straight(140, 60, -3)),
        Thing("boy", straight(0, 90, 4)),
        Thing("boy", straight(130, 88, -4)),
    ],
    missed={(1, 5), (1, 6), (2, 12), (3, 3), (3, 21)},
)
NAMES = ["drum", "bell", "boy"]


@pytest.mark.parametrize("chunk", [2, 3, 7])
@pytest.mark.parametrize("detect_every", [1, 3])
def test_chunks_make_no_difference(chunk: int, detect_every: int):
    item = make_item(NAMES, 30)
    whole = ground(BUSY, chunk_frames=64, detect_every=detect_every).process(item)
    pieces = ground(BUSY, chunk_frames=chunk, detect_every=detect_every).process(item)
    assert pieces.annotations == whole.annotations
    assert len(whole.annotations[0].tracks) == 4


def test_no_more_frames_than_a_chunk_are_alive():
    scene = Scene([Thing("drum", straight(0, 10, 0))])
    detector, segmenter = scene.detector(), scene.segmenter()
    alive: list[int] = []
    segmenter.on_advance = lambda: alive.append(detector.alive)
    config = GroundingConfig(detect_every=1, chunk_frames=5)
    item = Ground(detector, segmenter, config).process(make_item(["drum"], 200))
    assert len(item.annotations[0].tracks[0].times_s) == 200
    assert 1 <= max(alive) <= 6  # a chunk, and the frame that the caller still holds


def test_boxes_are_in_pixels_of_the_video():
    """Frames of 160 x 120 of a video of 320 x 360: x doubled, y tripled, to 0.1 px."""
    scene = Scene([Thing("drum", straight(10, 20, 0, size=30))])
    item = ground(scene).process(make_item(["drum"], 2, meta_size=(320, 360)))
    (track,) = item.annotations[0].tracks
    assert track.boxes_xyxy_px == ((20.0, 60.0, 80.0, 150.0),) * 2
    assert track.times_s == (0.4, 1.4) and track.scores == (0.8, 0.8)
    assert track.masks_rle is None


def test_events_see_their_own_frames_and_objects_only():
    scene = Scene([Thing("drum", straight(0, 10, 2)), Thing("bell", straight(0, 80, 2))])
    item = make_item(["drum", "bell"], 8)
    (whole,) = item.annotations
    early = replace(whole, objects=whole.objects[:1], frame_times_s=whole.frame_times_s[:3])
    late = replace(whole, objects=whole.objects[1:], frame_times_s=(*whole.frame_times_s[5:], 99.4))
    silent = EventAnnotation(whole.event, (), whole.frame_times_s)
    done = ground(scene).process(replace(item, annotations=(early, late, silent)))
    first, second, third = done.annotations
    assert [(t.track_id, t.name, t.times_s) for t in first.tracks] == [(1, "drum", (0.4, 1.4, 2.4))]
    assert [(t.track_id, t.name, t.times_s) for t in second.tracks] == [(1, "bell", (5.4, 6.4, 7.4))]
    assert third.tracks == ()
    assert done.stats["frames_grounded"] == 6


def frames_of(track: Track) -> list[int]:
    return [round(time_s - 0.4) for time_s in track.times_s]


def test_a_cut_ends_all_tracks_and_the_detector_looks_at_once():
    """Another drum stands where the first one was: no id, no mask, no memory goes on."""
    scene = Scene([Thing("drum", straight(0, 40, 1)), Thing("bell", away(straight(60, 80, 0), 0, 8))])
    detector, segmenter = scene.detector(), scene.segmenter()
    item = make_item(["drum", "bell"], 12, cuts=[5, 8])
    (done,) = Ground(detector, segmenter, GroundingConfig(detect_every=2)).process(item).annotations
    assert detector.looked_at == [0, 2, 4, 5, 7, 8, 10]
    assert segmenter.followed == [0, 1, 1, 1, 1, 0, 1, 1, 0, 1, 1, 2]
    assert [(one.track_id, one.name, one.shot, frames_of(one)) for one in done.tracks] == [
        (1, "drum", 0, [0, 1, 2, 3, 4]),
        (2, "drum", 1, [5, 6, 7]),
        (3, "drum", 2, [8, 9, 10, 11]),
        (4, "bell", 2, [10, 11]),
    ]
    assert done.tracks[2].detected == (True, False, True, False)


def test_where_chunks_end_makes_no_difference_to_cuts():
    scene = Scene([Thing("drum", straight(0, 40, 1))])
    item = make_item(["drum"], 12, cuts=[4, 6])
    for detect_every in (1, 3):
        runs = [ground(scene, chunk_frames=n, detect_every=detect_every).process(item) for n in (2, 3, 4, 64)]
        assert [one.shot for one in runs[0].annotations[0].tracks] == [0, 1, 2]
        assert all(run.annotations == runs[0].annotations for run in runs)


WHOLE = (0, 0, 160, 120)


def test_a_flash_ends_no_track_and_delays_no_detection():
    """White at 3, which the detector was due for, and at 5: nothing is looked at there."""
    scene = Scene([Thing("drum", straight(0, 40, 1))])
    detector = scene.detector()
    white = [(range(t, t + 1), WHOLE, (255, 255, 255)) for t in (3, 5)]
    item = make_item(["drum"], 9, paint=white)
    (done,) = Ground(detector, scene.segmenter(), GroundingConfig(detect_every=3)).process(item).annotations
    assert [(one.shot, frames_of(one)) for one in done.tracks] == [(0, [0, 1, 2, 4, 6, 7, 8])]
    assert detector.looked_at == [0, 4, 8]


@pytest.mark.parametrize("chunk", [2, 3, 64])
def test_black_between_two_shots_is_one_cut_and_black_within_a_shot_none(chunk: int):
    scene = Scene([Thing("drum", straight(0, 40, 1))])
    black = [(range(0, 2), WHOLE, (0, 0, 0)), (range(4, 7), WHOLE, (0, 0, 0)), (range(9, 10), WHOLE, (0, 0, 0))]
    item = make_item(["drum"], 12, cuts=[5], paint=black)
    (done,) = ground(scene, chunk_frames=chunk, detect_every=2).process(item).annotations
    assert [(one.shot, frames_of(one)) for one in done.tracks] == [(0, [2, 3]), (1, [7, 8, 10, 11])]


def test_a_cut_score_that_nothing_reaches_sees_no_cut():
    scene = Scene([Thing("drum", straight(0, 40, 1))])
    (done,) = ground(scene, cut_score=1.0).process(make_item(["drum"], 8, cuts=[4])).annotations
    assert [(one.shot, frames_of(one)) for one in done.tracks] == [(0, list(range(8)))]


def test_objects_are_recognised_across_a_cut_by_their_colours_if_asked_to():
    """A green and a white boy change sides at the cut; a third, grey one is new."""
    boys = [
        Thing("boy", lambda t: (10, 20, 50, 60) if t < 4 else (110, 50, 150, 90)),
        Thing("boy", lambda t: (100, 20, 140, 60) if t < 4 else (5, 60, 45, 100)),
        Thing("boy", away(straight(60, 70, 0, size=40), 0, 3)),
    ]
    colours = [(0, 255, 0), (255, 255, 255), (96, 96, 96)]
    paint = [
        (range(t, t + 1), boy.where(t), colour)
        for t in range(8)
        for boy, colour in zip(boys, colours, strict=True)
        if boy.where(t) is not None
    ]
    item = make_item(["boy"], 8, cuts=[4], paint=paint)
    (apart,) = ground(Scene(boys)).process(item).annotations
    assert [(one.shot, frames_of(one)[0]) for one in apart.tracks] == [(0, 0), (0, 0), (1, 4), (1, 4), (1, 4)]
    (joined,) = ground(Scene(boys), reidentify=0.8).process(item).annotations
    assert [(one.track_id, one.shot) for one in joined.tracks] == [(1, 0), (2, 0), (3, 1)]
    for one, boy in zip(joined.tracks, boys, strict=True):
        assert one.boxes_xyxy_px == tuple(boy.where(t) for t in frames_of(one))
    assert [len(one.times_s) for one in joined.tracks] == [8, 8, 4]


def test_tracking_may_run_denser_than_the_answers():
    """Frames every 0.25 s, answers every second: the same track, and one object too brief for the answers."""
    drum = Thing("drum", straight(0, 40, 2))
    bell = Thing("bell", lambda t: (60, 80, 80, 100) if 5 <= t <= 7 else None)
    scene = Scene([bell, drum])
    item = make_item(["drum", "bell"], 13, step_s=0.25)
    answers = (0.4, 1.4, 2.4, 3.4)
    other = EventAnnotation(Event(2, 0.5, 3.0, "sound"), item.annotations[0].objects, (0.5, 1.5, 2.5))
    event = replace(item.annotations[0], frame_times_s=answers)
    detector = scene.detector()
    step = Ground(detector, scene.segmenter(), GroundingConfig(detect_every=2, track_step_s=0.25))
    done = step.process(replace(item, annotations=(event,)))
    assert detector.looked_at == [0, 2, 4, 6, 8, 10, 12]
    (track,) = done.annotations[0].tracks
    assert (track.track_id, track.name, track.times_s) == (1, "drum", answers)
    assert track.boxes_xyxy_px == tuple(drum.where(t) for t in (0, 4, 8, 12))
    assert done.stats["frames_grounded"] == 13
    assert done.provenance["track_step_s"] == "0.25"
    assert step.process(replace(item, annotations=(other,))).stats["frames_grounded"] == 0  # not one of its grid


def test_events_that_are_set_aside_or_not_asked_are_left_as_they_are():
    scene = Scene([Thing("drum", straight(0, 40, 1))])
    item = make_item(["drum"], 4)
    (live,) = item.annotations
    aside = replace(live, status="rejected", reasons=("nothing_visible",), frame_times_s=())
    context = replace(live, event=replace(live.event, event_num=2, asked=False), frame_times_s=())
    done = ground(scene).process(replace(item, annotations=(aside, live, context)))
    assert (done.annotations[0], done.annotations[2]) == (aside, context)
    assert [len(one.times_s) for one in done.annotations[1].tracks] == [4]
    assert done.stats["frames_grounded"] == 4
    none = replace(item, annotations=(aside, context), frames=None, meta=None)
    assert ground(scene).process(none) == none


def test_provenance_says_with_what():
    done = ground(BUSY, detector="some/dino", segmenter="some/sam").process(make_item(NAMES, 2))
    assert done.provenance["detector"] == "some/dino" and done.provenance["segmenter"] == "some/sam"
    assert done.provenance["box_threshold"] == "0.4" and done.provenance["text_threshold"] == "0.3"
    assert done.provenance["transformers"].startswith("5.")
    assert (done.provenance["cut_score"], done.provenance["max_instances"]) == ("0.3", "13")
    assert done.provenance["track_step_s"] == ""
    dated = replace(make_item(NAMES, 2), provenance={"frame_step_s": "0.5"})
    assert ground(BUSY).process(dated).provenance["track_step_s"] == "0.5"  # as the frames are


def test_frames_that_are_missing_or_broken_become_errors_rows():
    item = make_item(["drum"], 3)
    assert item.frames is not None
    broken = replace(item, frames=replace(item.frames, jpegs=(item.frames.jpegs[0], b"\xff\xd8nonsense", b"")))
    none, bad = ground(BUSY)([replace(item, frames=None), broken])
    assert none.error is not None and bad.error is not None
    assert (none.error.stage, none.error.reason) == ("ground", "no_frames")
    assert bad.error.reason == "bad_frame" and not bad.error.retryable


def test_mask_box_is_half_open_and_none_for_an_empty_mask():
    mask = np.zeros((5, 9), dtype=bool)
    assert mask_box(mask) is None
    mask[3, 5] = True
    assert mask_box(mask) == (5.0, 3.0, 6.0, 4.0)
    mask[1, 2] = True
    assert mask_box(mask) == (2.0, 1.0, 6.0, 4.0)


def test_specks_are_removed_and_large_parts_stay():
    mask = np.zeros((20, 40), dtype=bool)
    mask[2:12, 2:12] = mask[2:8, 20:28] = True
    clean = mask.copy()
    mask[18, 38] = True
    assert (without_specks(mask) == clean).all()
    assert not without_specks(np.zeros((4, 4), dtype=bool)).any()


def test_mask_iou_against_counting():
    rng = np.random.default_rng(0)
    masks = [rng.random((12, 17)) < share for share in (0.2, 0.5, 0.9)] + [np.zeros((12, 17), dtype=bool)]
    expected = [[(a & b).sum() / (a | b).sum() if (a | b).any() else 0.0 for b in masks] for a in masks]
    assert np.allclose(mask_iou(masks, masks), expected)
    assert mask_iou([], masks).shape == (0, 4) and mask_iou(masks, []).shape == (4, 0)


def test_rle_is_an_exact_inverse():
    mask = np.random.default_rng(1).random((13, 7)) < 0.4
    assert (decode_rle(encode_rle(mask)) == mask).all()


def test_tiny_real_models_run_through_the_step(tmp_path):
    """Untrained, so that only the way is tested: boxes inside the picture, on the grid, the same twice."""
    import torch

    from tests.tiny_models import save_detector, save_segmenter

    torch.set_num_threads(1)
    names = {"detector": save_detector(tmp_path / "det"), "segmenter": save_segmenter(tmp_path / "seg")}
    step = build_ground(GroundingConfig(**names, device="cpu", box_threshold=0.2, text_threshold=0.1, masks=True))
    item = make_item(["red drum", "blue bell"], 5)
    done = step.process(item)
    tracks = done.annotations[0].tracks
    assert tracks
    for track in tracks:
        assert set(track.times_s) <= set(item.annotations[0].frame_times_s)
        assert len(track.times_s) == len(track.boxes_xyxy_px) == len(track.scores) == len(track.masks_rle or ())
        assert all(0 <= x1 < x2 <= 160 and 0 <= y1 < y2 <= 120 for x1, y1, x2, y2 in track.boxes_xyxy_px)
        assert all(0 <= score <= 1 for score in track.scores)
    assert step.process(item).annotations == done.annotations


def test_missing_models_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"grounding\.detector: no model directory"):
        build_ground(GroundingConfig(detector=str(tmp_path / "nothing"), device="cpu"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"without a config\.json"):
        build_ground(GroundingConfig(detector=str(tmp_path / "empty"), device="cpu"))


def test_a_full_card_is_a_retryable_error():
    import torch

    from ravst_ray.models.pretrained import memory_guard

    with pytest.raises(StepError) as caught, memory_guard("the segmenter"):
        raise torch.OutOfMemoryError("CUDA out of memory")
    assert caught.value.reason == "out_of_memory" and caught.value.retryable
