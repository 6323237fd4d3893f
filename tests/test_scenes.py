"""Scenes and their readers: the formats as they are, and each thing that may be wrong with them."""

import copy
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from ravst_ray.core.scenes import Entity, Scene, check_scene
from ravst_ray.datasets.scenes import READERS, list_scenes, read_scene
from ravst_ray.datasets.schemas import rows_of
from ravst_ray.datasets.store import DatasetStore
from ravst_ray.errors import ConfigError
from ravst_ray.records import Event, EventAnnotation, SceneObject, Track, Video, VideoItem, VideoMeta
from tests.published import published
from tests.scene_files import KITTI_LINES, room, scannet_box, tao_data, thing, video, write_json, write_kitti

NAN = float("nan")
X, Y, Z = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


def read(form, place):
    """All scenes of a place."""
    return [read_scene(ref) for ref in READERS[form].list(str(place))]


def solid(**changes):
    """A scene in metres with one thing, changed."""
    box = Entity("1", "box", (0.0,), centres_m=((0.0, 0.0, 0.0),), size_m=(1.0, 1.0, 1.0), axes=((X, Y, Z),))
    return Scene("s", "scannet", (replace(box, **changes),), (0.0,))


@pytest.mark.parametrize(
    ("scene", "wrong"),
    [
        (video(), "no entity"),
        (video(thing("a", {0: (9, 9)}), thing("a", {0: (9, 9)})), "two entities with the id 'a'"),
        (video(thing("a", {2: (9, 9), 1: (9, 9)})), "not in rising order"),
        (video(thing("a", {})), "has no entry"),
        (video(thing("a", {0.5: (9, 9)})), "at which there is no frame"),
        (video(thing("a", {0: (NAN, 9)})), "box of entity 'a' .* is \\[nan"),
        (video(thing("a", {0: (9, 9)}, size=0)), "box of entity 'a'"),
        (video(thing(" ", {0: (9, 9)})), "has the label ' '"),
        (video(thing("</graph>", {0: (9, 9)})), "has the label"),
        (replace(video(thing("a", {0: (9, 9)})), width=None, height=None), "size of the picture is missing"),
        (replace(video(thing("a", {0: (9, 9)})), height=None), "width without a height"),
        (replace(video(thing("a", {0: (9, 9)})), width=0), "a picture 0 x 100"),
        (replace(video(thing("a", {0: (9, 9)})), duration_s=math.inf), "duration is inf"),
        (replace(video(thing("a", {0: (9, 9)})), counts={"a": -1}), "a count of -1"),
        (replace(solid(), room_size_m2=0.0), "0.0 m2"),
        (solid(centres_m=None), "neither boxes nor centres"),
        (solid(centres_m=((0.0, NAN, 0.0),)), "centre of entity '1'"),
        (solid(centres_m=()), "0 centres for 1 times"),
        (solid(size_m=(1.0, -1.0, 1.0)), "size of entity '1'"),
        (solid(axes=((X, Y, Y),)), "perpendicular"),
    ],
)
def test_a_scene_that_does_not_hold_together_says_why(scene, wrong):
    with pytest.raises(ValueError, match=wrong):
        check_scene(scene)


def test_whole_scenes_pass():
    for scene in (video(thing("a", {0: (9, 9), 3: (9, 9)})), solid()):
        assert check_scene(scene) is scene


# --- toy -------------------------------------------------------------------------------------------------------------


def test_the_toy_world_is_read_as_it_was_painted(world):
    scenes = read("toy", world.root)
    assert [scene.scene_id for scene in scenes] == list(world.truth)
    for scene, truth in zip(scenes, world.truth.values(), strict=True):
        assert (scene.width, scene.height, scene.duration_s) == (256, 256, truth["duration"])
        assert len(scene.frame_times_s) == round(10 * truth["duration"])
        for entity, painted in zip(scene.entities, truth["objects"], strict=True):
            boxes = {
                f"{time_s:.1f}": list(box) for time_s, box in zip(entity.times_s, entity.boxes_xyxy_px, strict=True)
            }
            assert (entity.label, boxes) == (painted["name"], painted["boxes"])


# --- ScanNet ---------------------------------------------------------------------------------------------------------


def test_the_published_rooms():
    scenes = read("scannet", published("scannet_scenes.json"))
    assert (len(scenes), sum(len(scene.entities) for scene in scenes)) == (44, 650)
    first = scenes[0]
    assert (first.scene_id, first.video, first.counts["monitor"]) == ("scene0025_01", "scene0025_01", 4)
    assert first.room_size_m2 == pytest.approx(17.546582317)
    assert all(scene.at_rest and scene.up == (0.0, 0.0, 1.0) for scene in scenes)


def test_the_published_boxes_have_their_published_extent():
    """``min`` and ``max`` in the file say how the axes are meant: rows."""
    path = published("scannet_scenes.json")
    refs = {ref.scene_id: ref.content for ref in READERS["scannet"].list(str(path))}
    for scene in read("scannet", path):
        for entity in scene.entities:
            label, _, number = entity.entity_id.rpartition(".")
            stated = refs[scene.scene_id]["object_bbox"][label][int(number) - 1]
            half = 0.5 * np.abs(np.array(entity.axes[0]).T) @ np.array(entity.size_m)
            assert np.array(entity.centres_m[0]) - half == pytest.approx(np.array(stated["min"]), abs=1e-4)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            {"object_bbox": {"chair": [{"centroid": [0, 0, 0], "axesLengths": [1, 1, 1]}]}},
            "'normalizedAxes' is missing",
        ),
        ({"object_bbox": {"chair": [scannet_box((0, 0, 0), axes=(1, 0, 0))]}}, "3 numbers, expected 9"),
        ({"object_bbox": {"chair": [scannet_box((0, NAN, 0))]}}, "centre"),
        ({"object_bbox": {"chair": [scannet_box((0, 0))]}}, "not enough values"),
        ({"object_bbox": {}}, "no entity"),
        ({"object_counts": {"chair": "two"}}, "object_counts.chair is 'two'"),
        ({"room_size": -3}, "-3.0 m2"),
        ({"room_size": None}, "not as the format has it"),
    ],
)
def test_a_malformed_room_is_that_scenes_fault(tmp_path, wrong, said):
    good = room(chair=[scannet_box((0, 0, 0))])
    path = write_json(tmp_path / "rooms.json", {"a": good, "b": {**good, **wrong}})
    one, other = READERS["scannet"].list(str(path))
    assert read_scene(one).entities[0].label == "chair"
    with pytest.raises(ValueError, match=said):
        read_scene(other)


@pytest.mark.parametrize("form", ["toy", "scannet", "tao"])
@pytest.mark.parametrize(("text", "said"), [("{", "not a readable JSON"), ("[1]", "expected"), (None, "no such file")])
def test_a_file_that_is_something_else_ends_the_run(tmp_path, form, text, said):
    path = tmp_path / "x.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        READERS[form].list(str(path))


def test_a_scene_that_is_there_twice(tmp_path):
    data = tao_data()
    data["videos"][1]["name"] = data["videos"][0]["name"]
    with pytest.raises(ConfigError, match="1 scene ids are there twice"):
        list_scenes("tao", str(write_json(tmp_path / "tao.json", data)))
    (tmp_path / "x.json").write_text('{"a": {}, "a": {}}')
    with pytest.raises(ConfigError, match="'a' is there twice"):
        READERS["scannet"].list(str(tmp_path / "x.json"))


# --- KITTI -----------------------------------------------------------------------------------------------------------


def test_kitti_as_its_devkit_has_it(tmp_path):
    (scene,) = read("kitti", write_kitti(tmp_path))
    assert (scene.scene_id, scene.duration_s, scene.frame_times_s) == ("0000", 0.3, (0.0, 0.1, 0.2))
    assert (scene.width, scene.height, scene.up) == (1242, 375, (0.0, -1.0, 0.0))
    car, cyclist = scene.entities
    assert (car.label, car.times_s, cyclist.label, cyclist.times_s) == ("car", (0.0, 0.1, 0.2), "cyclist", (0.0,))
    assert car.boxes_xyxy_px[0] == (296.74, 161.75, 455.22, 292.37)
    # The devkit: corners of the bottom at height 0, of the top at -h, turned about y, then moved to x, y, z.
    h, w, length, turn = 2.0, 1.82, 4.43, -2.11
    corners = np.array([[x, y, z] for x in (length / 2, -length / 2) for y in (0, -h) for z in (w / 2, -w / 2)])
    about_y = np.array([[math.cos(turn), 0, math.sin(turn)], [0, 1, 0], [-math.sin(turn), 0, math.cos(turn)]])
    # Camera 2 is K^-1 p4 away from camera 0: about 6 cm to the side.
    k, p4 = np.array([[721.5377, 0, 609.5593], [0, 721.5377, 172.854], [0, 0, 1]]), (44.85728, 0.2163791, 0.002745884)
    expected = corners @ about_y.T + (-4.55, 1.86, 13.41) + np.linalg.solve(k, p4)
    signs = np.array(list(itertools.product((-0.5, 0.5), repeat=3)))
    found = np.array(car.centres_m[0]) + (signs * np.array(car.size_m)) @ np.array(car.axes[0])
    assert np.abs(found[:, None] - expected[None]).sum(-1).min(0) == pytest.approx(np.zeros(8), abs=1e-9)


def test_what_nobody_labelled_is_left_out_and_forbids_counting(tmp_path):
    (scene,) = read("kitti", write_kitti(tmp_path / "a"))
    assert scene.open_labels == {"car", "cyclist"}
    lines = [line for line in KITTI_LINES if "DontCare" not in line]
    (scene,) = read("kitti", write_kitti(tmp_path / "b", [*lines, lines[-1].replace(" 0 Car", " 9 Misc")]))
    assert (scene.open_labels, len(scene.entities)) == (frozenset(), 2)


def test_kitti_without_calibration_stays_in_camera_0(tmp_path):
    (scene,) = read("kitti", write_kitti(tmp_path, calib=None))
    assert scene.entities[0].centres_m[0] == pytest.approx((-4.55, 0.86, 13.41))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([KITTI_LINES[0].rpartition(" ")[0]], "line 1: 16 columns, expected 17"),
        ([KITTI_LINES[0], KITTI_LINES[0]], "line 2: track 0 is twice in frame 0"),
        ([KITTI_LINES[3], KITTI_LINES[0]], "line 2: frame 0 comes after frame 1"),
        ([KITTI_LINES[0].replace("Car", "Boat")], "line 1: unknown type 'Boat'"),
        ([KITTI_LINES[0], KITTI_LINES[3].replace("Car", "Van")], "track 0 is a Van, and was a car"),
        ([KITTI_LINES[0].replace("13.41", "far")], "line 1: could not convert string to float: 'far'"),
        ([KITTI_LINES[0].replace("296.74", "nan")], "box of entity '0'"),
        ([KITTI_LINES[0].replace("0 0 Car", "1000000000000 0 Car")], "1e.12 frames; 1,000,000 at most"),
        ([KITTI_LINES[1]], "no entity"),
    ],
)
def test_a_malformed_sequence_is_that_scenes_fault(tmp_path, lines, said):
    write_kitti(tmp_path)
    write_kitti(tmp_path, lines, name="0001")
    good, bad = READERS["kitti"].list(str(tmp_path / "label_02"))
    assert len(read_scene(good).entities) == 2
    with pytest.raises(ValueError, match=said):
        read_scene(bad)


def test_calibration_that_is_missing_or_none(tmp_path):
    with pytest.raises(ValueError, match="no line P2"):
        read("kitti", write_kitti(tmp_path, calib="P2: 1 2 3"))
    (tmp_path / "calib" / "0000.txt").unlink()
    with pytest.raises(ConfigError, match=r"calib/0000.txt: no such file"):
        READERS["kitti"].list(str(tmp_path))
    with pytest.raises(ConfigError, match="no label files"):
        READERS["kitti"].list(str(tmp_path / "calib"))


# --- TAO -------------------------------------------------------------------------------------------------------------


def test_tao_has_its_times_from_the_frames_and_its_boxes_within_the_picture(tmp_path):
    one, other = read("tao", write_json(tmp_path / "tao.json", tao_data()))
    assert (one.scene_id, one.video, one.frame_times_s, one.duration_s) == ("train/HACS/v_1", "v_1", (1, 2, 3), 4)
    dog, car = one.entities
    assert (dog.label, dog.times_s, dog.boxes_xyxy_px) == ("dog", (1, 2), ((10, 10, 40, 50), (20, 10, 50, 50)))
    assert (car.label, car.boxes_xyxy_px) == ("car", ((600, 300, 640, 360),))
    assert (one.open_labels, other.open_labels, other.duration_s) == (frozenset({"car"}), frozenset(), 1.0)


def test_a_stated_rate_is_taken(tmp_path):
    data = tao_data()
    data["videos"][0]["fps"] = 15
    assert read("tao", write_json(tmp_path / "tao.json", data))[0].frame_times_s == (2, 4, 6)


def changed(path, value):
    """TAO's data with one value changed; None removes it."""
    data = copy.deepcopy(tao_data())
    place = data
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return data


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("tracks",), None, "expected an object with the lists"),
        (("videos", 1, "id"), 7, r"videos\[1\]: the id 7 is there twice"),
        (("tracks", 1, "id"), None, r"tracks\[1\] has no id"),
        (("images", 0, "video_id"), 99, r"images\[0\] belongs to no video"),
        (("categories", 0, "name"), None, "category 1 has no name"),
    ],
)
def test_a_tao_file_that_does_not_hold_together_ends_the_run(tmp_path, path, value, said):
    with pytest.raises(ConfigError, match=said):
        READERS["tao"].list(str(write_json(tmp_path / "tao.json", changed(path, value))))


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("videos", 0, "width"), None, "'width' is missing"),
        (("images", 1, "frame_index"), 60, "two images have one frame_index"),
        (("tracks", 0, "category_id"), 9, "two categories"),
        (("annotations", 0, "track_id"), 3, "no such in this video"),
        (("annotations", 0, "image_id"), 70, "track 1 is twice in image 70"),
        (("annotations", 0, "bbox"), [1, 2, 3], "not enough values"),
        (("annotations", 0, "bbox"), [1, 2, -3, 4], "box of entity '1'"),
        (("annotations", 0, "bbox"), [NAN, 2, 3, 4], "box of entity '1'"),
        (("annotations", 0, "bbox"), None, "'bbox' is missing"),
        (("videos", 0, "fps"), -1, "fps is -1"),
    ],
)
def test_a_malformed_tao_video_is_that_scenes_fault(tmp_path, path, value, said):
    bad, good = READERS["tao"].list(str(write_json(tmp_path / "tao.json", changed(path, value))))
    assert len(read_scene(good).entities) == 1
    with pytest.raises(ValueError, match=said):
        read_scene(bad)


@pytest.mark.parametrize("section", ["videos", "images", "tracks", "annotations", "categories"])
@pytest.mark.parametrize("key", ["id", "video_id", "image_id"])
def test_values_of_another_type_break_nothing_but_this(tmp_path, section, key):
    """A list where a number belongs: the whole file is refused, or the scene, or it doesn't matter."""
    data = tao_data()
    data[section][0][key] = [1]
    try:
        refs = list_scenes("tao", str(write_json(tmp_path / "tao.json", data)))
    except ConfigError:
        return
    for ref in refs:
        try:
            read_scene(ref)
        except ValueError:
            continue


def test_an_unknown_category(tmp_path):
    data = changed(("tracks", 2, "category_id"), 9)
    data["annotations"][3]["category_id"] = 9
    with pytest.raises(ValueError, match="unknown category 9"):
        read("tao", write_json(tmp_path / "tao.json", data))


# --- our own annotations ---------------------------------------------------------------------------------------------


def annotated(status="accepted", tracks=None):
    """A video with one annotated event from 2 to 5 s."""
    track = Track(4, "dog", True, (2.0, 3.0), ((1, 2, 30, 40), (5, 2, 34, 40)), (0.9, 0.8), ("x", "y"))
    tracks = (track,) if tracks is None else tracks
    event = Event(1, 2.0, 5.0, "barking")
    annotation = EventAnnotation(event, (SceneObject("dog", True),), (2.0, 3.0, 4.0, 5.0), tracks, status=status)
    meta = VideoMeta(9.0, 25.0, 64, 48, True, "pyav")
    return VideoItem(Video("clip", "clip.mp4", 9.0, (event,)), meta=meta, annotations=(annotation,))


def test_accepted_events_are_scenes(tmp_path):
    store = DatasetStore(str(tmp_path))
    store.prepare()
    for number, item in enumerate((annotated(), annotated("suspect"), annotated(tracks=()))):
        store.commit(f"v{number}", rows_of(item, 0, 0.1), {})
    store.compact()
    (scene,) = read("ravst", tmp_path)
    assert (scene.scene_id, scene.video, scene.duration_s, scene.counted) == ("clip/1", "clip", 9.0, False)
    assert scene.frame_times_s == (2.0, 3.0, 4.0, 5.0)
    (dog,) = scene.entities
    assert (dog.label, dog.times_s, dog.boxes_xyxy_px) == ("dog", (2.0, 3.0), ((1, 2, 30, 40), (5, 2, 34, 40)))


def test_a_folder_without_annotations(tmp_path):
    with pytest.raises(ConfigError, match="no annotations in this folder"):
        READERS["ravst"].list(str(tmp_path))
