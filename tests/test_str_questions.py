"""Questions by rule: each answer is found again from the scene by other means."""

import json
import math
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chisquare

from ravst_ray.config.base import load_config
from ravst_ray.config.make_str import KINDS as KNOWN
from ravst_ray.config.make_str import StrRules
from ravst_ray.core.cuboids import Cuboid
from ravst_ray.core.graphs import parse_graph
from ravst_ray.core.scenes import check_scene
from ravst_ray.datasets.scenes import READERS, read_scene
from ravst_ray.errors import ConfigError
from ravst_ray.questions.kinds import KINDS
from ravst_ray.questions.make import questions_of
from tests.published import published
from tests.scene_files import KITTI_LINES, room, scannet_box, thing, video, write_json, write_kitti
from tests.test_cuboids import solved_gap_m

LETTERS = "ABCDEFGHIJ"


def rules(*kinds, **more):
    """Rules for these kinds; ``per_kind`` and so on as keywords, margins as ``margins``."""
    margins = more.pop("margins", {})
    seed = more.pop("seed", 0)
    return StrRules(seed=seed, questions={"kinds": list(kinds) or None, **more}, margins=margins)


def ask(scene, *kinds, **more):
    """The rows and what was left out of a scene."""
    return questions_of(check_scene(scene), rules(*kinds, **more))


def right(row):
    """The text of the right option."""
    return row["options"][LETTERS.index(row["answer"])]


def nodes(row):
    """``{label: [position]}`` of each frame of the graph."""
    graph, malformed = parse_graph(row["graph"])
    assert not malformed
    frames = []
    for frame in graph.frames:
        found = {}
        for node in frame.nodes:
            found.setdefault(node.label, []).append(node.pos)
        frames.append(found)
    return frames


# --- in the picture --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def toy_rows(world):
    """All questions of the toy world, each with its video's truth."""
    refs = READERS["toy"].list(str(world.root))
    rows = [row for ref in refs for row in questions_of(read_scene(ref), rules(min_count=1, per_kind=30))[0]]
    assert set(world.truth) == {row["scene"] for row in rows}
    return [(row, world.truth[row["scene"]]) for row in rows]


def box_of(truth, name, time_s):
    """The box of a thing in the truth."""
    (found,) = [one["boxes"] for one in truth["objects"] if one["name"] == name]
    return found[f"{float(time_s):.1f}"]


def middle(truth, name, time_s):
    """The middle of its box, pixels."""
    x1, y1, x2, y2 = box_of(truth, name, time_s)
    return np.array([(x1 + x2) / 2, (y1 + y2) / 2])


def check_position(row, truth):
    time_s, one, other = re.fullmatch(
        r"In the picture at (\S+) s, is the (.+) left of, right of, above or below the (.+)\?", row["question"]
    ).groups()
    dx, dy = middle(truth, one, time_s) - middle(truth, other, time_s)
    way = {"left": (-dx, dy), "right": (dx, dy), "above": (-dy, dx), "below": (dy, dx)}[right(row)]
    assert way[0] > 1.5 * abs(way[1])
    assert math.hypot(dx, dy) >= 0.08 * 256 * math.sqrt(2)


def check_closest(row, truth):
    time_s, name = re.fullmatch(
        r"In the picture at (\S+) s, which of these is closest to the (.+)\?", row["question"]
    ).groups()
    far = {
        other: np.linalg.norm(middle(truth, other, time_s) - middle(truth, name, time_s)) for other in row["options"]
    }
    first, second = sorted(far.values())[:2]
    assert far[right(row)] == first <= 0.85 * second


def check_order(row, truth):
    asked = re.fullmatch(r"In which order do these first come into the picture: (.+)\?", row["question"])[1]
    first = {one["name"]: min(map(float, one["boxes"])) for one in truth["objects"]}
    assert right(row) == ", ".join(sorted(asked.split(", "), key=first.get))
    assert all(sorted(option.split(", ")) == sorted(asked.split(", ")) for option in row["options"])


SPAN = r"From (\S+) s to (\S+) s, "


def check_direction(row, truth):
    start_s, end_s, name = re.fullmatch(
        SPAN + r"has the (.+) moved left, right, up or down in the picture\?", row["question"]
    ).groups()
    dx, dy = middle(truth, name, end_s) - middle(truth, name, start_s)
    assert {"left": -dx, "right": dx, "up": -dy, "down": dy}[right(row)] == max(abs(dx), abs(dy))


def check_amount(row, truth):
    start_s, end_s, name = re.fullmatch(SPAN + r".+ has the (.+) moved in the picture, .+", row["question"]).groups()
    moved = 100 * np.linalg.norm(middle(truth, name, end_s) - middle(truth, name, start_s)) / 256
    per = float(end_s) - float(start_s) if row["kind"] == "speed" else 1
    assert float(row["answer"]) == pytest.approx(moved / per, abs=0.005 + 1e-9)
    assert row["unit"] == ("%/s" if row["kind"] == "speed" else "%")


def check_box(row, truth):
    name, time_s = re.fullmatch(r"Where is the (.+) at (\S+) s\? Give its box .+", row["question"]).groups()
    assert json.loads(row["answer"]) == box_of(truth, name, time_s)


def check_interval(row, truth):
    name = re.match(r"When is the (.+) in the picture\?", row["question"])[1]
    (boxes,) = [one["boxes"] for one in truth["objects"] if one["name"] == name]
    start, end = json.loads(row["answer"])
    seen = {round(10 * float(time)) for time in boxes}
    assert (10 * start, 10 * end) == pytest.approx((min(seen), max(seen) + 1))
    assert 0.9 * truth["duration"] >= end - start >= 1


def check_count(row, truth):
    asked = re.fullmatch(r"How many (.+)\(s\) are in (?:this video|the picture at (\S+) s)\?", row["question"])
    name, time_s = asked.groups()
    things = [one for one in truth["objects"] if time_s is None or f"{float(time_s):.1f}" in one["boxes"]]
    kinds = Counter(kind for one in things for kind in (one["name"], one["name"].split()[1], "object"))
    assert int(row["answer"]) == kinds[name]


CHECKS = {
    "relative_position": check_position,
    "relative_distance": check_closest,
    "appearance_order": check_order,
    "motion_direction": check_direction,
    "displacement": check_amount,
    "speed": check_amount,
    "localization": check_box,
    "temporal_localization": check_interval,
    "object_counting": check_count,
}


@pytest.mark.parametrize("kind", [kind for kind in CHECKS if kind != "temporal_localization"])
def test_answers_of_the_toy_world_are_its_truth(toy_rows, kind):
    rows = [(row, truth) for row, truth in toy_rows if row["kind"] == kind]
    assert rows
    for row, truth in rows:
        CHECKS[kind](row, truth)


def test_the_graph_of_a_toy_question_is_where_things_are(toy_rows):
    for row, truth in toy_rows:
        for time_s, frame in zip(row["times_s"], nodes(row), strict=True):
            seen = {one["name"] for one in truth["objects"] if f"{time_s:.1f}" in one["boxes"]}
            assert set(frame) == seen
            for name, (place,) in frame.items():
                assert np.array(place) == pytest.approx(middle(truth, name, time_s) / 256, abs=0.005 + 1e-9)


def test_when_something_is_in_sight():
    """Frames last a second; the dog is there once, the cat twice, the cow nearly always, the ant for two seconds."""
    scene = video(
        thing("dog", dict.fromkeys(range(3, 8), (50, 50))),
        thing("cat", {0: (20, 20), 1: (20, 20), 2: (20, 20), 6: (20, 20), 7: (20, 20), 8: (20, 20)}),
        thing("cow", dict.fromkeys(range(10), (90, 20))),
        thing("ant", {4: (90, 80), 5: (90, 80)}),
    )
    rows, left_out = ask(scene, "temporal_localization")
    assert [(row["question"], row["answer"], row["times_s"]) for row in rows] == [
        ("When is the dog in the picture? Give [start, end] in seconds.", "[3.0, 8.0]", [3.0, 7.0])
    ]
    assert left_out == {
        "temporal_localization/several_times": 1,
        "temporal_localization/nearly_always": 1,
        "temporal_localization/too_short": 1,
    }


def test_orders_of_four_have_four_different_options():
    scene = video(*(thing(name, {second: (50, 50), 9: (50, 50)}) for second, name in enumerate("abcd")))
    rows, _ = ask(scene, "appearance_order")
    assert rows[0]["times_s"] == [0, 1, 2, 3]
    assert right(rows[0]) == "a, b, c, d"
    assert len(set(rows[0]["options"])) == 4
    assert {tuple(sorted(option.split(", "))) for option in rows[0]["options"]} == {("a", "b", "c", "d")}


@pytest.mark.parametrize(
    ("kind", "centres", "reason"),
    [
        ("relative_position", {"a": {0: (50, 50)}, "b": {0: (55, 50)}}, "too_close"),
        ("relative_position", {"a": {0: (50, 50)}, "b": {0: (80, 78)}}, "between_two_sides"),
        ("relative_distance", {"a": {0: (50, 50)}, "b": {0: (90, 50)}, "c": {0: (11, 50)}}, "as_close"),
        ("appearance_order", {"a": {0: (50, 50)}, "b": {0: (90, 50)}}, "at_once"),
        ("motion_direction", {"a": {0: (50, 50), 5: (60, 50)}}, "hardly_moves"),
        ("motion_direction", {"a": {0: (50, 50), 5: (80, 78)}}, "between_two_sides"),
        ("displacement", {"a": {0: (50, 50), 5: (60, 50)}}, "hardly_moves"),
        ("speed", {"a": {0: (50, 50)}}, "too_short"),
        ("object_counting", {"a": {0: (50, 50)}}, "too_few"),
    ],
)
def test_what_is_not_clear_is_left_out_by_its_reason(kind, centres, reason):
    scene = video(*(thing(name, places) for name, places in centres.items()))
    rows, left_out = ask(scene, kind, margins={"closer_share": 0.6})
    assert rows == []
    assert set(left_out) == {f"{kind}/{reason}"}


def test_things_that_share_a_name_are_told_apart_by_a_box_at_another_second():
    scene = video(
        thing("cat", {0: (20, 20), 5: (60, 20)}, number="1"), thing("cat", {0: (120, 80), 5: (160, 80)}, number="2")
    )
    rows, left_out = ask(scene, "localization")
    assert {(row["question"].partition("?")[0], row["answer"]) for row in rows} == {
        ("Where is the cat (in the box [10.0, 10.0, 30.0, 30.0] at 0.0 s) at 5.0 s", "[50.0, 10.0, 70.0, 30.0]"),
        ("Where is the cat (in the box [50.0, 10.0, 70.0, 30.0] at 5.0 s) at 0.0 s", "[10.0, 10.0, 30.0, 30.0]"),
        ("Where is the cat (in the box [110.0, 70.0, 130.0, 90.0] at 0.0 s) at 5.0 s", "[150.0, 70.0, 170.0, 90.0]"),
        ("Where is the cat (in the box [150.0, 70.0, 170.0, 90.0] at 5.0 s) at 0.0 s", "[110.0, 70.0, 130.0, 90.0]"),
    }
    rows, left_out = ask(scene, "localization", refer_by_box=False)
    assert (rows, left_out) == ([], {"entity/ambiguous_name": 2})


def test_boxes_that_nearly_coincide_tell_nothing_apart():
    """Both cats at one place at 0 s, apart at 5 s: only there a box can mean one of them."""
    one, other = {0: (20, 20), 5: (60, 20)}, {0: (22, 20), 5: (160, 80)}
    scene = video(thing("cat", one, number="1"), thing("cat", other, number="2"), thing("dog", {0: (99, 50)}))
    rows, left_out = ask(scene, "displacement")
    assert (rows, set(left_out)) == ([], {"displacement/ambiguous_name", "displacement/too_short"})
    rows, _ = ask(scene, "localization")
    assert {tuple(re.findall(r"at (\S+) s", row["question"])) for row in rows} == {("0.0",)}, "the dog alone"


def test_an_open_label_is_neither_counted_nor_unique():
    cats = [thing("cat", {0: (20, 20), 5: (60, 20)}, number=number) for number in "12"]
    scene = video(*cats, thing("dog", {0: (150, 50)}))
    rows, _ = ask(scene, "object_counting")
    assert {row["answer"] for row in rows} == {"2"}
    rows, left_out = ask(replace(scene, open_labels=frozenset({"cat", "dog"})), "object_counting", refer_by_box=False)
    assert rows == []
    assert left_out["object_counting/not_all_labelled"] > 0
    assert left_out["entity/ambiguous_name"] == 3


def test_only_part_of_a_video_says_nothing_of_the_whole():
    """Frames from 3 to 6 s of ten: when something appears, and how many there are in the video, isn't known."""
    scene = video(thing("a", {4: (50, 50), 5: (90, 50)}), thing("b", {5: (20, 20), 6: (20, 80)}))
    part = replace(scene, frame_times_s=(3.0, 4.0, 5.0, 6.0))
    rows, left_out = ask(part, min_count=1)
    assert not {"temporal_localization", "appearance_order"} & {row["kind"] for row in rows}
    assert not any("this video" in row["question"] for row in rows)
    assert left_out["appearance_order/scene_has_no_such"] == 1
    assert {"localization", "relative_position"} <= {row["kind"] for row in rows}


def test_a_graph_has_those_asked_about_first_and_no_more_than_allowed():
    scene = video(*(thing(f"t{number}", {0: (12 * number + 10, 50)}) for number in range(15)))
    rows, _ = ask(scene, "relative_position", max_nodes=3)
    assert len(rows) == 10
    for row in rows:
        (frame,) = nodes(row)
        assert len(frame) == 3
        asked = re.findall(r"the (t\d+)", row["question"])
        assert list(frame)[:2] == asked


def test_seconds_asked_about_lie_on_the_grid_where_there_is_one():
    entity = thing("a", dict.fromkeys(range(10), (50, 50)))
    scene = video(entity, thing("b", dict.fromkeys(range(10), (150, 50))))
    rows, _ = ask(scene, "relative_position", time_step_s=3.0, per_kind=50)
    assert {row["times_s"][0] for row in rows} == {0, 3, 6, 9}
    rows, _ = ask(scene, "relative_position", time_step_s=100.0, per_kind=50)
    assert {row["times_s"][0] for row in rows} == set(range(10)), "no grid, so all"


# --- in metres -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rooms():
    """The 44 published rooms: ``{scene: (row of the file, questions)}``."""
    refs = READERS["scannet"].list(str(published("scannet_scenes.json")))
    return {ref.scene_id: (ref.content, questions_of(read_scene(ref), rules())[0]) for ref in refs}


def of_kind(rooms, prefix):
    """Pairs of a room and a question."""
    found = [(one, row) for one, rows in rooms.values() for row in rows if row["kind"].startswith(prefix)]
    assert found
    return found


def cuboids(one, label):
    """The boxes of a label."""
    boxes = one["object_bbox"][label]
    axes = [np.array(box["normalizedAxes"]).reshape(3, 3) for box in boxes]
    return [Cuboid(box["centroid"], turn, box["axesLengths"]) for box, turn in zip(boxes, axes, strict=True)]


def test_counts_sizes_and_areas_are_those_of_the_file(rooms):
    for one, row in of_kind(rooms, "object_counting"):
        label = re.match(r"How many (.+)\(s\) are in this room\?", row["question"])[1]
        assert int(row["answer"]) == one["object_counts"][label] >= 2
    for one, row in of_kind(rooms, "object_size"):
        (box,) = one["object_bbox"][re.search(r"of the (.+)\?$", row["question"])[1]]
        assert float(row["answer"]) == pytest.approx(100 * max(box["axesLengths"]), abs=0.5)
    assert len(of_kind(rooms, "room_size")) == 44
    for one, row in of_kind(rooms, "room_size"):
        assert float(row["answer"]) == pytest.approx(one["room_size"], abs=0.05)


def test_distances_are_those_that_a_solver_finds(rooms):
    for one, row in of_kind(rooms, "absolute_distance")[::3]:
        names = re.search(r"points of the (.+) and the (.+)\?$", row["question"]).groups()
        (first,), (second,) = (cuboids(one, name) for name in names)
        assert float(row["answer"]) == pytest.approx(solved_gap_m(first, second), abs=0.005 + 1e-4)
        assert float(row["answer"]) >= 0.3
    for one, row in of_kind(rooms, "relative_distance")[::6]:
        (entity,) = cuboids(one, re.search(r"closest to the (.+?)\?", row["question"])[1])
        far = {name: min(solved_gap_m(entity, other) for other in cuboids(one, name)) for name in row["options"]}
        assert right(row) == min(far, key=far.get)
        first, second = sorted(far.values())[:2]
        assert second - first > max(0.15, 0.15 * second) - 1e-3


def test_directions_are_those_of_headings(rooms):
    seen = Counter()
    for one, row in of_kind(rooms, "relative_direction"):
        names = re.match(r"Standing by the (.+) and facing the (.+), is the (.+?) to the", row["question"]).groups()
        stand, face, target = (np.array(one["object_bbox"][name][0]["centroid"])[:2] for name in names)
        assert all(len(one["object_bbox"][name]) == 1 for name in names)
        ahead, there = face - stand, target - stand
        cross = (ahead[0] * there[1] - ahead[1] * there[0]) / np.linalg.norm(ahead) / np.linalg.norm(there)
        dot = ahead @ there / np.linalg.norm(ahead) / np.linalg.norm(there)
        side, level = right(row), row["kind"].rpartition("_")[2]
        seen[level, side] += 1
        if side == "back":
            assert dot <= math.cos(math.radians(145)) + 1e-9
            continue
        assert ("left" in side) == (cross > 0)
        if level == "hard":
            assert ("front" in side) == (dot > 0)
            assert min(abs(cross), abs(dot)) >= math.sin(math.radians(10)) - 1e-9
        if level == "medium":
            assert dot >= math.cos(math.radians(125)) - 1e-9
    assert len(seen) == 2 + 3 + 4


def test_graphs_of_rooms_are_in_metres(rooms):
    for one, rows in rooms.values():
        for row in rows:
            assert (row["space"], row["times_s"]) == ("3d", [0.0])
            (frame,) = nodes(row)
            for label, places in frame.items():
                stated = [box["centroid"] for box in one["object_bbox"][label]]
                for place in places:
                    assert min(np.abs(np.subtract(place, centre)).max() for centre in stated) <= 0.005 + 1e-9


def test_several_of_one_name_count_by_the_closest(tmp_path):
    boxes = {"sofa": [scannet_box((0, 0, 0))], "lamp": [scannet_box((3, 0, 0))]}
    boxes["chair"] = [scannet_box((9, 0, 0)), scannet_box((0, 2, 0))]
    (ref,) = READERS["scannet"].list(str(write_json(tmp_path / "r.json", {"r": room(**boxes)})))
    rows, _ = questions_of(read_scene(ref), rules("relative_distance"))
    answers = {row["question"]: right(row) for row in rows}
    several = " Of several with one name the closest counts."
    assert answers[f"By the closest points, which of these is closest to the sofa?{several}"] == "chair", "1 m, not 2"


# --- a camera that moves ---------------------------------------------------------------------------------------------


def test_kitti_questions_in_metres(tmp_path):
    """A car 13.4 m ahead comes closer; lines 0.1 s apart, so the grid of asked seconds is all frames."""
    lines = [line for line in KITTI_LINES if "DontCare" not in line]
    (ref,) = READERS["kitti"].list(str(write_kitti(tmp_path, lines, calib=None)))
    rows, _ = questions_of(read_scene(ref), rules(margins={"motion_s": 0.1}))
    kinds = {row["kind"]: row for row in rows}
    moved = math.dist((-4.65, 1.86, 13.40), (-4.75, 1.86, 15.40))
    found = [row for row in rows if row["kind"] == "displacement" and row["times_s"] == [0.1, 0.2]]
    assert [row["question"] for row in found] == [
        "From 0.1 s to 0.2 s, how many metres has the car moved relative to the camera, along a straight line?"
    ]
    assert float(found[0]["answer"]) == pytest.approx(moved, abs=0.005)
    speeds = [row for row in rows if row["kind"] == "speed" and row["times_s"] == [0.1, 0.2]]
    assert float(speeds[0]["answer"]) == pytest.approx(10 * moved, abs=0.005)
    farther = [row for row in rows if row["kind"] == "motion_direction" and row["space"] == "3d"]
    assert {right(row) for row in farther} == {"farther from the camera"}
    assert kinds["object_size"]["answer"] in ("443", "178")
    assert kinds["absolute_distance"]["question"].startswith("At 0.0 s: How many metres are between")
    assert "room_size" not in kinds


def test_questions_in_metres_are_not_asked_of_a_picture():
    rows, left_out = ask(video(thing("a", {0: (50, 50)}), thing("b", {0: (150, 50)}), thing("c", {0: (50, 90)})))
    metric = ("relative_direction", "absolute_distance", "object_size", "room_size")
    assert not any(row["kind"].startswith(metric) for row in rows)
    for kind in ("relative_direction_hard", "absolute_distance", "object_size", "room_size"):
        assert left_out[f"{kind}/scene_has_no_such"] == 1


# --- all kinds -------------------------------------------------------------------------------------------------------


def test_the_same_seed_asks_the_same_and_another_one_does_not(world):
    scenes = [read_scene(ref) for ref in READERS["toy"].list(str(world.root))]
    once, again, other = (
        [questions_of(scene, rules(seed=seed, per_kind=3))[0] for scene in order]
        for seed, order in ((0, scenes), (0, scenes[::-1]), (1, scenes))
    )
    assert once == again[::-1]
    assert once != other


def test_few_of_a_kind_are_the_first_of_many(world):
    ref = READERS["toy"].list(str(world.root))[0]
    few, many = (questions_of(read_scene(ref), rules("localization", per_kind=count))[0] for count in (3, 30))
    assert few == many[:3]


def test_no_more_than_allowed_of_each_kind_and_no_question_twice(rooms):
    for _, rows in rooms.values():
        assert max(Counter(row["kind"] for row in rows).values()) <= 10
        texts = Counter((row["question"], *sorted(row["options"])) for row in rows)
        assert set(texts.values()) == {1}
        assert len({row["id"] for row in rows}) == len(rows)


def test_options_differ_and_the_right_one_is_anywhere(rooms):
    letters = {count: Counter() for count in (2, 3, 4)}
    for _, rows in rooms.values():
        for row in rows:
            assert len(set(row["options"])) == len(row["options"])
            if row["form"] == "choice":
                letters[len(row["options"])][row["answer"]] += 1
    for count, found in letters.items():
        assert set(found) == set(LETTERS[:count])
        assert chisquare(list(found.values())).pvalue > 0.01


def test_one_thing_or_a_crowd_breaks_nothing():
    lonely, _ = ask(video(thing("a", {0: (50, 50)})), min_count=1)
    assert {row["kind"] for row in lonely} == {"object_counting", "localization"}
    crowd = video(
        *(thing(f"t{n % 7}", dict.fromkeys(range(10), (n % 150 + 20, 50)), number=str(n)) for n in range(300))
    )
    rows, _ = ask(crowd)
    assert max(Counter(row["kind"] for row in rows).values()) == 10


def test_kinds_are_known_to_the_configuration():
    assert tuple(KINDS) == KNOWN
    with pytest.raises(ConfigError, match="unknown kinds weather; known are object_counting"):
        load_config(StrRules, None, ["questions.kinds=[weather]"])
