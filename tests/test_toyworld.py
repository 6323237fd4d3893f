"""The toy world: exact truth, real files, and the scores that compare annotations with the truth."""

import json
from dataclasses import replace
from itertools import pairwise

import av
import numpy as np
import pytest

from ravst_ray.core.answers import parse
from ravst_ray.datasets.ravst_json import read_questions
from ravst_ray.records import Event, EventAnnotation, SceneObject, Track
from ravst_ray.toyworld.audio import soundtrack
from ravst_ray.toyworld.captions import caption, label
from ravst_ray.toyworld.evaluate import plain_name, score_names, score_tracks, true_objects
from ravst_ray.toyworld.hard import hard_scene
from ravst_ray.toyworld.scene import FPS, NAMES, Scene, Sprite, make_ground, random_scene, render
from ravst_ray.toyworld.traits import visible_share
from ravst_ray.toyworld.world import write_world


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    out = write_world(tmp_path_factory.mktemp("toy"), videos=2, seed=49)
    return out, json.loads((out / "truth.json").read_text())


def still(name, centre, radius=30.0, **more):
    """A sprite that stays where it is."""
    knots = np.array([centre, centre], float)
    return Sprite(name, radius, np.array([0.0, 20.0]), knots, **more)


def scene_of(*sprites):
    return Scene(10.0, make_ground(np.random.default_rng(0)), sprites)


def test_same_seed_gives_the_same_bytes_of_truth(world, tmp_path):
    out, _ = world
    again = write_world(tmp_path, videos=2, seed=49)
    assert (again / "truth.json").read_bytes() == (out / "truth.json").read_bytes()
    assert (again / "unav100_annotations.json").read_bytes() == (out / "unav100_annotations.json").read_bytes()


def test_questions_are_those_of_the_truth(world):
    """Every audible object is asked for in each of its events, with the true interval and boxes of ``truth.json``."""
    out, truth = world
    pairs, durations = read_questions(out / "questions.json")
    assert durations == {video_id: video["duration"] for video_id, video in truth.items()}
    for video_id, video in truth.items():
        asked = [pair for pair in pairs if pair.video_id == video_id]
        events = sorted((event, thing) for thing in video["objects"] for event in map(tuple, thing["events"]))
        temporal = [parse(pair.answer).objects[0] for pair in asked if pair.task == "AVTR"]
        assert [(one.name, one.when) for one in temporal] == [(thing["name"], event) for event, thing in events]
        whole = [parse(pair.answer).objects[0] for pair in asked if pair.task == "AVSTR"]
        for (_, thing), one in zip(events, whole, strict=True):
            assert one.where
            for time_s, box in one.where:
                assert list(box) == thing["boxes"][f"{time_s:.1f}"]


def test_without_cues_truth_and_questions_stay_and_pictures_change(world, tmp_path):
    out, _ = world
    mute = write_world(tmp_path, videos=2, seed=49, cues=False)
    for name in ("truth.json", "unav100_annotations.json", "questions.json"):
        assert (mute / name).read_bytes() == (out / name).read_bytes()
    video = "videos/toy_49_0000.mp4"
    assert (mute / video).read_bytes() != (out / video).read_bytes()


@pytest.mark.parametrize("draw", [random_scene, lambda rng: hard_scene(rng, 1)], ids=["plain", "hard"])
def test_without_cues_pictures_are_those_of_a_scene_in_which_nothing_sounds(draw):
    checked = 0
    for index in range(5):
        scene = draw(np.random.default_rng([9, index]))
        silent = replace(scene, sprites=tuple(replace(one, events_s=()) for one in scene.sprites))
        for number, sprite in enumerate(scene.sprites):
            for start_s, end_s in sprite.events_s:
                time_s = (start_s + end_s) / 2
                with_cues, without, nothing = (
                    render(one, time_s) for one in (scene, replace(scene, cues=False), replace(silent, cues=False))
                )
                assert np.array_equal(without.image, nothing.image)
                assert without.boxes_N == with_cues.boxes_N and np.array_equal(without.masks_N, with_cues.masks_N)
                if with_cues.boxes_N[number]:
                    assert not np.array_equal(with_cues.image, without.image)
                    checked += 1
    assert checked >= 3


def test_another_seed_gives_another_world():
    one, two = (random_scene(np.random.default_rng([seed, 0])) for seed in (1, 2))
    assert not np.array_equal(render(one, 1.0).image, render(two, 1.0).image)


def test_first_videos_do_not_depend_on_how_many_follow(world, tmp_path):
    _, truth = world
    one = write_world(tmp_path, videos=1, seed=49)
    assert json.loads((one / "truth.json").read_text())["toy_49_0000"] == truth["toy_49_0000"]


@pytest.mark.parametrize("index", range(8))
def test_boxes_are_the_extents_of_the_visible_pixels(index):
    scene = random_scene(np.random.default_rng([9, index]))
    moment = render(scene, scene.duration_s / 2)
    assert not (moment.masks_N.sum(0) > 1).any()
    for mask, box in zip(moment.masks_N, moment.boxes_N, strict=True):
        if box:
            x1, y1, x2, y2 = map(int, box)
            assert mask[y1:y2, x1:x2].sum() == mask.sum()
            assert mask[y1].any() and mask[y2 - 1].any() and mask[:, x1].any() and mask[:, x2 - 1].any()


def test_box_of_a_ball_is_its_circle():
    assert render(scene_of(still("red ball", (100, 120))), 0.0).boxes_N == ((70.0, 90.0, 130.0, 150.0),)


def test_a_covered_sprite_is_boxed_by_what_is_left_and_absent_below_15_percent():
    behind = still("red ball", (100, 120))
    half = render(scene_of(behind, still("blue ball", (130, 120), radius=30.0)), 0.0)
    assert half.boxes_N[0][0] == 70 and half.boxes_N[0][2] < 118 and half.boxes_N[1] == (100.0, 90.0, 160.0, 150.0)
    covered = render(scene_of(behind, still("blue ball", (100, 122), radius=30.0)), 0.0)
    assert covered.masks_N[0].sum() > 0 and covered.boxes_N[0] is None


def test_a_sprite_over_the_border_is_cut_and_one_outside_is_absent():
    moment = render(scene_of(still("red ball", (0, 120)), still("blue ball", (-28, 60))), 0.0)
    assert moment.boxes_N == ((0.0, 90.0, 30.0, 150.0), None)


def test_a_hidden_sprite_is_absent_and_comes_back():
    scene = scene_of(still("red ball", (100, 120), hidden_s=((2.0, 4.0),)))
    seen = [render(scene, t).boxes_N[0] for t in (1.9, 3.0, 4.1)]
    assert seen == [(70.0, 90.0, 130.0, 150.0), None, (70.0, 90.0, 130.0, 150.0)]


def test_the_cue_brightens_the_sprite_and_leaves_its_box_alone():
    sprite = still("red drum", (100, 120), events_s=((1.0, 2.0),))
    quiet, loud = (render(scene_of(sprite), t) for t in (0.5, 1.5))
    assert quiet.boxes_N == loud.boxes_N
    where = loud.masks_N[0]
    assert loud.image[where].mean() > quiet.image[where].mean() + 15
    changed = (loud.image != quiet.image).any(-1)
    assert changed[where].mean() > 0.5 and not changed[:80].any() and not changed[160:].any()


@pytest.mark.parametrize("index", range(40))
def test_scenes_keep_their_promises(index):
    scene = random_scene(np.random.default_rng([11, index]))
    names = [sprite.name for sprite in scene.sprites]
    events = sorted(event for sprite in scene.sprites for event in sprite.events_s)
    assert 6 <= scene.duration_s <= 20 and 1 <= len(names) <= 4
    assert len(set(names)) == len(names) and set(names) <= set(NAMES)
    assert 1 <= len(events) <= 3 and all(a[1] < b[0] for a, b in pairwise(events))
    assert sum(end - start for start, end in events) / scene.duration_s >= 0.08
    for sprite in scene.sprites:
        if sprite.audible:
            assert 0.1 <= sum(end - start for start, end in sprite.events_s) / scene.duration_s <= 0.5


def test_every_class_has_a_sound_of_its_own():
    spectra = []
    for name in NAMES:
        sprite = still(name, (100, 100), events_s=((0.0, 2.0),))
        power = np.abs(np.fft.rfft(soundtrack(scene_of(sprite), np.random.default_rng(0))[:88_200]))
        spectra.append(power / np.linalg.norm(power))
    likeness = np.array(spectra) @ np.array(spectra).T - np.eye(len(NAMES))
    assert likeness.max() < 0.9


def test_sound_is_heard_only_during_the_events(world):
    out, truth = world
    for video_id, video in truth.items():
        with av.open(str(out / "videos" / f"{video_id}.mp4")) as container:
            rate = container.streams.audio[0].rate
            wave = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
        times = np.arange(len(wave)) / rate
        events = [event for thing in video["objects"] for event in thing["events"]]
        near = np.zeros(len(wave), bool)
        for start, end in events:
            near |= (times > start - 0.1) & (times < end + 0.1)
            inside = wave[(times >= start) & (times < end)]
            assert np.sqrt((inside**2).mean()) > 0.03
        assert np.sqrt((wave[~near] ** 2).mean()) < 1e-4


def test_files_are_what_truth_says(world):
    out, truth = world
    for video_id, video in truth.items():
        with av.open(str(out / "videos" / f"{video_id}.mp4")) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, container.streams.audio[0].codec_context.name) == ("h264", "aac")
            assert (stream.width, stream.height, stream.average_rate) == (video["width"], video["height"], video["fps"])
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert len(frames) == round(video["duration"] * FPS) and 6 <= video["duration"] <= 20
        scene = random_scene(np.random.default_rng([49, int(video_id[-4:])]))
        for t in (0, len(frames) - 1):
            painted = render(scene, t / FPS)
            assert np.abs(frames[t].astype(int) - painted.image).mean() < 6
            expected = {s.name: list(b) for s, b in zip(scene.sprites, painted.boxes_N, strict=True) if b}
            key = f"{t / FPS:.1f}"
            assert {o["name"]: o["boxes"][key] for o in video["objects"] if key in o["boxes"]} == expected


def test_labels_are_unav100_and_captions_name_only_what_is_in_view(world):
    out, truth = world
    database = json.loads((out / "unav100_annotations.json").read_text())["database"]
    assert database.keys() == truth.keys()
    for video_id, entry in database.items():
        things = {thing["name"]: thing for thing in truth[video_id]["objects"]}
        assert entry["duration"] == truth[video_id]["duration"] and entry["subset"] in ("train", "validation", "test")
        events = sorted(event for thing in things.values() for event in thing["events"])
        assert [note["segment"] for note in entry["annotations"]] == events
        for note in entry["annotations"]:
            name = NAMES[note["label_id"]]
            assert note["label"] == label(name) and note["segment"] in things[name]["events"]
            named = [other for other in NAMES if other in note["caption"]]
            assert name in named and set(named) <= things.keys()
            assert all(visible_share(things[other], *note["segment"]) >= 0.5 for other in named)


def test_captions_read_well():
    rng = np.random.default_rng(0)
    alone = {caption("red drum", [], rng) for _ in range(40)}
    assert "a red drum is beating" in alone and all("a red drum" in text for text in alone)
    pair = {caption("red drum", ["blue bell"], rng) for _ in range(40)}
    assert "a red drum is beating next to a blue bell" in pair and all("blue bell" in text for text in pair)
    assert all(" and a green ball" in caption("red drum", ["blue bell", "green ball"], rng) for _ in range(20))


TRUTH = {
    "v": {
        "objects": [
            {"name": "red drum", "audible": True, "events": [[1.0, 2.0]], "boxes": {
                "1.0": [0, 0, 10, 10], "2.0": [0, 0, 10, 10]}},
            {"name": "blue bell", "audible": True, "events": [[5.0, 6.0]], "boxes": {"1.0": [5, 0, 15, 10]}},
            {"name": "green ball", "audible": False, "events": [], "boxes": {"1.0": [50, 50, 60, 60]}},
        ]
    }
}  # fmt: skip
EVENT = Event(1, 1.0, 2.0, "red drum beating", caption="a red drum is beating next to a blue bell")


def annotated(*tracks, objects=()):
    return {"v": [EventAnnotation(EVENT, tuple(objects), (1.0, 2.0), tuple(tracks))]}


def track(name, *entries):
    times, boxes = zip(*entries, strict=True)
    return Track(1, name, True, times, boxes, (1.0,) * len(times))


def test_a_perfect_reader_finds_the_named_objects_and_who_sounds_now():
    assert true_objects(TRUTH["v"], EVENT) == (SceneObject("red drum", True), SceneObject("blue bell", False))


def test_true_tracks_score_one():
    drum = track("A red drum", (1.0, (0, 0, 10, 10)), (2.0, (0, 0, 10, 10)))
    score = score_tracks(TRUTH, annotated(drum, track("blue bell", (1.0, (5, 0, 15, 10)))))
    assert (score.overall.recall, score.overall.precision, score.overall.mean_iou) == (1.0, 1.0, 1.0)
    assert (score.overall.true_boxes, score.overall.predicted_boxes) == (3, 3)
    assert (score.isolated.true_boxes, score.isolated.predicted_boxes, score.isolated.recall) == (1, 1, 1.0)


def test_misses_strangers_and_repeats_cost():
    drum = track("red drum", (1.0, (0, 0, 10, 8)), (1.0, (0, 0, 10, 7)), (2.0, (30, 30, 40, 40)))
    score = score_tracks(TRUTH, annotated(drum))
    assert score.overall.recall == pytest.approx(1 / 3) and score.overall.precision == pytest.approx(1 / 3)
    assert score.overall.mean_iou == pytest.approx(0.8)
    assert (score.isolated.true_boxes, score.isolated.predicted_boxes) == (1, 0)


def test_a_box_under_a_wrong_name_is_wrong_and_an_unnamed_object_is_no_miss():
    swapped = track("red drum", (1.0, (5, 0, 15, 10)))
    ball = track("green ball", (1.0, (50, 50, 60, 60)))
    score = score_tracks(TRUTH, annotated(swapped, ball))
    assert (score.overall.recall, score.overall.precision) == (0.0, 0.5)
    assert (score.isolated.precision, score.isolated.predicted_boxes) == (1.0, 1)


def test_names_and_audibility_are_scored_apart():
    given = (SceneObject("a Red drum", True), SceneObject("blue bell", True), SceneObject("yellow ball", False))
    score = score_names(TRUTH, annotated(objects=given))
    assert (score.recall, score.audibility, score.true_names) == (1.0, 0.5, 2)
    assert score.precision == pytest.approx(2 / 3)
    assert plain_name("The  blue  Bell") == "blue bell"
