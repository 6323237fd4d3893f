"""Hard scenes of the toy world: what truth says of them is what is painted and heard, and annotation stays right."""

import hashlib
import json
from collections import Counter
from dataclasses import replace

import av
import numpy as np
import pytest
import torch
from transformers import AutoProcessor

from ravst_ray.annotate.questions import questions_of
from ravst_ray.core.masks import mask_box
from ravst_ray.datasets.ravst_json import read_questions
from ravst_ray.datasets.unav import read_unav
from ravst_ray.records import Event, EventAnnotation, Track
from ravst_ray.toyworld.accuracy import name_objects
from ravst_ray.toyworld.audio import CLICK_S, SAMPLE_RATE_HZ, soundtrack
from ravst_ray.toyworld.camera import Camera, Shot
from ravst_ray.toyworld.checkpoints import DETECTOR
from ravst_ray.toyworld.hard import FLOOR_DB, TRAITS, hard_scene
from ravst_ray.toyworld.identity import IdentityScore, score_identity
from ravst_ray.toyworld.questions import true_annotations
from ravst_ray.toyworld.scene import FPS, SIZE_PX, Scene, Sprite, make_ground, random_scene, render
from ravst_ray.toyworld.training import train_detector
from ravst_ray.toyworld.training.mask_clips import make_clip
from ravst_ray.toyworld.training.samples import Sample, any_scene
from ravst_ray.toyworld.traits import with_traits
from ravst_ray.toyworld.world import scene_truth, write_world
from ravst_ray.toyworld.wrong import count_wrong
from tests.benchmarks.bench_hard import annotated, hard_config, measure

SEED, VIDEOS = 3, 9  # one video more than once for each trait

# What the slow test holds the tiny checkpoints to, on these videos with the true names.
LEAST_RECALL = 0.88
LEAST_KEPT = 0.3
MOST_WRONG = 0

PLAIN_SHA256 = {
    "truth.json": "a4ef0b023eed5a264ef4d31e3e5604d83d875ceee4c0332da6a157583676957b",
    "unav100_annotations.json": "4135a1ad013a2ad1283d99cd9dc64c36a8c5a0580d5012a4542003eb42535e80",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    out = write_world(tmp_path_factory.mktemp("hard"), VIDEOS, SEED, hard=True)
    return out, json.loads((out / "truth.json").read_text())


def scene_of(index):
    return hard_scene(np.random.default_rng([SEED, index]), index)


def still(name, centre, **more):
    return Sprite(name, 20.0, np.array([0.0, 20.0]), np.array([centre, centre], float), **more)


def filmed(*shots, sprites=()):
    """Shots ``(start_s, end_s, (x, y, zoom) first, (x, y, zoom) last)`` of a ground of 640 px, by default of a ball."""
    sprites = sprites or (still("red ball", (300, 300)),)
    made = (Shot(start, np.array([start, end]), np.array([first, last], float)) for start, end, first, last in shots)
    ground = make_ground(np.random.default_rng(0), 640)
    return Scene(10.0, ground, tuple(sprites), Camera(tuple(made), 640, SIZE_PX))


def frames_of(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def sound_of(path):
    with av.open(str(path)) as container:
        return np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])


def level_db(wave):
    return 10 * np.log10((wave.astype(float) ** 2).mean() + 1e-12)


def test_a_plain_world_is_what_it_was_before_there_were_hard_ones(tmp_path):
    out = write_world(tmp_path, videos=3, seed=7)
    assert {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in PLAIN_SHA256} == PLAIN_SHA256


def test_same_seed_gives_the_same_bytes_of_truth(world, tmp_path):
    again = write_world(tmp_path, 2, SEED, hard=True)
    truth = json.loads((again / "truth.json").read_text())
    assert json.dumps(truth) == json.dumps({name: world[1][name] for name in truth})
    assert len(truth) == 2


def test_a_still_camera_over_the_corner_paints_the_plain_picture():
    """At zoom 1 over the upper left corner, world and picture are one."""
    sprites = (still("red ball", (100, 120)), still("blue bell", (140, 130), events_s=((0.0, 9.0),)))
    scene = filmed((0.0, 10.0, (128, 128, 1), (128, 128, 1)), sprites=sprites)
    plain = Scene(10.0, scene.ground[:SIZE_PX, :SIZE_PX], sprites)
    assert np.array_equal(render(scene, 1.5).image, render(plain, 1.5).image)
    assert render(scene, 1.5).boxes_N == render(plain, 1.5).boxes_N


def test_pan_and_zoom_move_boxes_as_geometry_says():
    """A ball of radius 20 at (300, 300); the view is 256 / zoom wide about the camera's centre."""
    scene = filmed((0.0, 10.0, (300, 300, 1), (340, 300, 2)))
    assert render(scene, 0.0).boxes_N == ((108.0, 108.0, 148.0, 148.0),)
    # Half way: centre (320, 300), zoom 1.5: the ball is 20 world pixels left of the middle, 30 in the picture.
    assert render(scene, 5.0).boxes_N == ((68.0, 98.0, 128.0, 158.0),)
    assert render(scene, 10.0).boxes_N == ((8.0, 88.0, 88.0, 168.0),)


def test_a_view_stays_within_the_ground():
    view = filmed((0.0, 10.0, (0, 700, 0.5), (0, 700, 0.5))).view(0.0)
    assert (view.left, view.top, view.zoom) == (0.0, 640 - 512, 0.5)


def test_a_cut_shows_the_new_shot_from_its_own_time_on():
    scene = filmed((0.0, 4.0, (300, 300, 1), (300, 300, 1)), (4.0, 10.0, (500, 500, 1), (500, 500, 1)))
    assert render(scene, 3.9).boxes_N[0] is not None and render(scene, 4.0).boxes_N[0] is None
    assert scene.camera.cuts_s == (4.0,)


@pytest.mark.parametrize("index", range(VIDEOS))
def test_boxes_are_the_extents_of_the_visible_pixels_of_each_instance(world, index):
    video = world[1][f"hard_{SEED}_{index:04d}"]
    scene = scene_of(index)
    for time_s in (1.0, scene.duration_s - 1.0):
        moment = render(scene, time_s)
        assert not (moment.masks_N.sum(0) > 1).any()
        for thing, mask, box in zip(video["objects"], moment.masks_N, moment.boxes_N, strict=True):
            assert thing["boxes"].get(f"{time_s:.1f}") == (list(box) if box else None)
            assert box is None or box == mask_box(mask)


def test_the_file_cuts_when_truth_says(world):
    """The frame of a cut's time is one of the new shot; had the camera stayed, it would look like the one before."""
    out, truth = world
    cut_videos = [(i, name) for i, (name, video) in enumerate(truth.items()) if video["cuts"]]
    assert len(cut_videos) >= 2
    for index, name in cut_videos:
        frames, scene = frames_of(out / "videos" / f"{name}.mp4"), scene_of(index)
        for number, cut_s in enumerate(truth[name]["cuts"]):
            at = round(cut_s * FPS)
            stayed = replace(scene, camera=replace(scene.camera, shots=scene.camera.shots[: number + 1]))
            for frame, painted, alike in (
                (frames[at - 1], render(scene, (at - 1) / FPS), True),
                (frames[at], render(scene, cut_s), True),
                (frames[at], render(stayed, cut_s), False),
            ):
                assert (np.abs(frame.astype(int) - painted.image).mean() < 6) == alike, (name, cut_s)


def test_every_trait_is_there_and_truth_counts_instances(world):
    truth = world[1]
    for index, video in enumerate(truth.values()):
        assert list(TRAITS)[index] in video["traits"]
        assert [thing["instance"] for thing in video["objects"]] == list(range(len(video["objects"])))
        names = Counter(thing["name"] for thing in video["objects"])
        heard = {thing["name"] for thing in video["objects"] if thing["audible"]}
        assert ("instances" in video["traits"]) == any(names[name] > 1 for name in heard)
        labelled = {(thing["name"], *event) for thing in video["objects"] for event in thing["events"]}
        assert 1 <= len(labelled) <= 3
    silent = [
        thing
        for video in truth.values()
        for thing in video["objects"]
        if not thing["audible"] and any(o["audible"] and o["name"] == thing["name"] for o in video["objects"])
    ]
    assert silent, "some instance is silent while another of its name sounds"


def test_a_source_off_screen_has_no_box_in_its_event_and_still_sounds(world):
    out, truth = world
    away = [
        (name, event) for name, video in truth.items() for thing in video["objects"] for event in thing["off_screen"]
    ]
    assert away
    for video in truth.values():
        for thing in video["objects"]:
            for start, end in thing["events"]:
                seen = any(start <= float(key) <= end for key in thing["boxes"])
                assert seen == ([start, end] not in thing["off_screen"])
    for name, (start, end) in away:
        wave = sound_of(out / "videos" / f"{name}.mp4")
        assert level_db(wave[round(start * SAMPLE_RATE_HZ) : round(end * SAMPLE_RATE_HZ)]) > -30


def test_a_source_seldom_seen_is_there_for_a_fifth_of_its_event(world):
    for video in world[1].values():
        shares = [
            np.mean([f"{tick / FPS:.1f}" in thing["boxes"] for tick in range(round(s * FPS), round(e * FPS) + 1)])
            for thing in video["objects"]
            for s, e in thing["events"]
        ]
        assert ("rarely_seen" in video["traits"]) == any(0 < share <= 0.3 for share in shares)


def test_the_noise_floor_is_in_the_file_and_clicks_belong_to_nothing(world):
    out, truth = world
    for index, (name, video) in enumerate(truth.items()):
        wave, scene = sound_of(out / "videos" / f"{name}.mp4"), scene_of(index)
        times = np.arange(len(wave)) / SAMPLE_RATE_HZ
        quiet = np.ones(len(wave), bool)
        for start, end in (event for thing in video["objects"] for event in thing["events"]):
            quiet &= (times < start - 0.1) | (times > end + 0.1)
        for at_s in scene.clicks_s:
            near = (times > at_s - 0.1) & (times < at_s + CLICK_S + 0.1)
            assert np.abs(wave[near]).max() > 0.1
            quiet &= ~near
        level = level_db(wave[quiet])
        assert abs(level - FLOOR_DB) < 3 if "noise" in video["traits"] else level < -80, (name, level)


def test_plain_scenes_have_neither_floor_nor_clicks():
    scene = random_scene(np.random.default_rng([7, 0]))
    wave = soundtrack(scene, np.random.default_rng(0))
    assert (scene.camera, scene.floor_db, scene.clicks_s) == (None, None, ()) and (wave == 0).any()


def test_given_names_are_once_an_event_and_sound_where_the_label_says(world):
    out, truth = world
    (labels, videos) = (name_objects(out), out / "videos")
    for video in read_unav(labels, videos).videos:
        names = {thing["name"] for thing in truth[video.video_id]["objects"]}
        for event in video.events:
            given = {one.name: one.audible for one in event.given_objects}
            assert len(given) == len(event.given_objects) and given.keys() <= names
            assert [name for name, audible in given.items() if audible] == [" ".join(event.label.split()[:2])]


def test_perfect_tracks_give_no_wrong_question(world):
    """What questions are made of a video's events is right by truth; the published file holds just those."""
    out, truth = world
    labels = json.loads((out / "unav100_annotations.json").read_text())["database"]
    pairs = [
        pair
        for name, video in truth.items()
        for pair in questions_of(name, true_annotations(video, labels[name]), video["duration"])[0]
    ]
    count = count_wrong(truth, pairs)
    assert (count.in_view["accepted"].wrong, count.kept_share) == (0, 1.0)
    written, durations = read_questions(out / "questions.json")
    assert len(written) == count.in_view["accepted"].right >= 3 * VIDEOS
    assert count_wrong(truth, written).off_screen["accepted"].right == 0
    assert durations.keys() <= truth.keys()


def test_identities_follow_the_instances():
    """A track that goes over from one drum to the other switches once; two tracks on one drum split it once."""
    frames = {"1.0": [0, 0, 10, 10], "2.0": [0, 0, 10, 10], "3.0": [0, 0, 10, 10]}
    other = {key: [50, 0, 60, 10] for key in frames}
    truth = {
        "v": {"cuts": [], "objects": [{"name": "red drum", "boxes": frames}, {"name": "red drum", "boxes": other}]}
    }
    one, two = (0.0, 0.0, 10.0, 10.0), (50.0, 0.0, 60.0, 10.0)
    crossing = Track(1, "red drum", True, (1.0, 2.0, 3.0), (one, two, two), (1.0,) * 3)
    late = Track(2, "red drum", True, (2.0, 3.0), (one, one), (1.0,) * 2)
    event = EventAnnotation(Event(1, 1.0, 3.0, "red drum beating"), tracks=(crossing, late))
    assert score_identity(truth, {"v": [event]}) == IdentityScore(tracks=2, switches=1, split=1)
    truth["v"]["cuts"] = [2.0]
    assert score_identity(truth, {"v": [event]}).split == 0, "after a cut it is a new one"


def test_traits_are_what_the_scene_shows():
    balls = (still("red ball", (300, 300), events_s=((1.0, 3.0),)), still("red ball", (380, 300)))
    away = still("blue bell", (60, 60), events_s=((2.0, 4.0),))
    scene = filmed((0.0, 10.0, (300, 300, 1), (310, 300, 1)), sprites=(*balls, away))
    boxes_T = [render(scene, tick / FPS).boxes_N for tick in range(100)]
    truth = with_traits(scene, scene_truth(scene, boxes_T))
    assert truth["traits"] == ["instances", "pan", "off_screen", "overlap"]
    assert [thing["off_screen"] for thing in truth["objects"]] == [[], [], [[2.0, 4.0]]]


def test_training_data_are_plain_unless_hard_ones_are_asked_for():
    one, other = any_scene(np.random.default_rng(5), 0.0, 0), random_scene(np.random.default_rng(5))
    assert np.array_equal(one.ground, other.ground) and one.camera is None
    assert any_scene(np.random.default_rng(5), 1.0, 0).camera is not None
    clip = make_clip(np.random.default_rng(6), hard_share=1.0)
    assert clip.images.shape == (8, 3, 128, 128) and clip.seen.any()


def test_each_instance_of_a_name_is_an_object_to_detect():
    """A name is asked for once, and every instance of it is to be found."""
    boxes = np.array([[0.1, 0.1, 0.3, 0.3], [0.6, 0.6, 0.8, 0.8], [0.1, 0.6, 0.3, 0.8]], np.float32)
    sample = Sample(np.zeros((3, 128, 128), np.uint8), ("red drum", "red drum", "blue bell"), boxes)
    for seed in range(20):
        prompt = train_detector.make_prompt(sample, np.random.default_rng(seed))
        assert len(set(prompt)) == len(prompt)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    model = train_detector.build_model()
    loss = train_detector.batch_loss(model, AutoProcessor.from_pretrained(DETECTOR), [sample], np.random.default_rng(0))
    torch.set_num_threads(before)
    assert torch.isfinite(loss)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_accepted_questions_hold_against_truth_with_the_tiny_checkpoints(world):
    """All steps on real files, with the true names given; sources off screen are counted apart."""
    out, truth = world
    found = measure(truth, annotated(out), hard_config(out))
    accepted = found.questions.in_view["accepted"]
    assert accepted.wrong <= MOST_WRONG, accepted.reasons
    assert accepted.right > 0 and found.questions.kept_share >= LEAST_KEPT, found.questions
    assert found.boxes.recall >= LEAST_RECALL, found.boxes
