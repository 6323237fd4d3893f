"""Questions by rule about painted scenes, as the toy policy that writes graphs is asked and should reply.

They are those that ``ravst make-str`` would make of the world on disk, up to the tenths of some seconds: here a scene
is looked at every half second, and every tenth where something comes or goes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from ravst_ray.config.make_str import StrRules
from ravst_ray.core.graph_replies import parse_reply, render_reply
from ravst_ray.core.graphs import Graph
from ravst_ray.core.scenes import Entity
from ravst_ray.core.scenes import Scene as SceneRecord
from ravst_ray.questions.draft import LETTERS
from ravst_ray.questions.make import questions_of
from ravst_ray.records import Box
from ravst_ray.tasks.spaces import AnswerSpace
from ravst_ray.tasks.video_str import VIDEO_STR
from ravst_ray.toyworld.scene import NAMES, SIZE_PX, Scene, random_scene, render
from ravst_ray.toyworld.training.graph_lessons import Asked
from ravst_ray.toyworld.training.policy import SIDE_PX
from ravst_ray.toyworld.training.policy_pool import CHUNK

KINDS = (
    "object_counting",
    "relative_position",
    "relative_distance",
    "appearance_order",
    "motion_direction",
    "localization",
    "temporal_localization",
)
"""The kinds of questions that the policy knows."""
RULES = StrRules.model_validate(
    {
        "questions": {"kinds": list(KINDS), "time_step_s": 1.0, "min_count": 1, "per_kind": 8},
        "margins": {"gap_s": 0.6},
    }
)
_TENTHS = 5
_OF_ONE = ("box", "interval")  # what is asked of one object alone
_SPACE = AnswerSpace(SIDE_PX / SIZE_PX, SIDE_PX / SIZE_PX, integer=True, step_s=1.0)


def scene_record(scene: Scene, scene_id: str) -> SceneRecord:
    """A toy scene as questions are made from it."""
    last = round(scene.duration_s * 10) - 1
    seen = {tick: render(scene, tick / 10).boxes_N for tick in range(0, last + 1, _TENTHS)}
    for tick in sorted(seen):
        after = seen.get(tick + _TENTHS)
        if after is not None and [box is None for box in seen[tick]] != [box is None for box in after]:
            seen |= {between: render(scene, between / 10).boxes_N for between in range(tick + 1, tick + _TENTHS)}
    ticks = sorted(seen)
    entities = []
    for number, sprite in enumerate(scene.sprites):
        boxes: dict[float, Box] = {tick / 10: box for tick in ticks if (box := seen[tick][number])}
        if boxes:
            entities.append(Entity(str(number), sprite.name, tuple(boxes), tuple(boxes.values())))
    shapes = [entity.label.split()[1] for entity in entities]
    return SceneRecord(
        scene_id=scene_id,
        source="toy",
        entities=tuple(entities),
        frame_times_s=tuple(tick / 10 for tick in ticks),
        video=scene_id,
        duration_s=scene.duration_s,
        width=SIZE_PX,
        height=SIZE_PX,
        counts={shape: shapes.count(shape) for shape in shapes},
        complete=True,
    )


def asked_of(scene: SceneRecord, rules: StrRules = RULES) -> Iterator[Asked]:
    """The questions as the policy is asked, with the replies that it should give."""
    for row in questions_of(scene, rules)[0]:
        question, truth = VIDEO_STR.asked(row)
        about = next((name for name in NAMES if name in row["question"]), "") if row["form"] in _OF_ONE else ""
        yield Asked(row["kind"], question, reply_text(truth, row["options"]), about, row["times_s"][0])


def reply_text(truth: str, options: Sequence[str] = ()) -> str:
    """A true reply as the policy should give it: without edges, the box of an answer in pixels of its frames.

    Nodes stand in the order of their names, as one order is easier to learn than many, and no share is 0 or 1. Behind
    the graph the right option is thought in its own words: what the graph says is one step, which letter that has
    another.
    """
    reply = parse_reply(truth)
    assert reply.graph is not None and reply.value is not None
    frames = []
    for frame in reply.graph.frames:
        nodes = [replace(node, pos=tuple(min(max(share, 0.01), 0.99) for share in node.pos)) for node in frame.nodes]
        frames.append(replace(frame, nodes=tuple(sorted(nodes, key=lambda node: NAMES.index(node.label)))))
    text = VIDEO_STR.to_model(render_reply(reply.value, Graph(tuple(frames)), edges=False), _SPACE)
    if isinstance(reply.value, str):
        text = text.replace("\n</think>", f"\n{options[LETTERS.index(reply.value)]}: {reply.value}\n</think>")
    return text


def fill(folder: str | Path, chunks: Sequence[int], seed: int) -> None:
    """Write the questions about the scenes of some chunks of a pool beside it; what is there already is kept."""
    for chunk in chunks:
        path = _path(folder, chunk)
        if path.exists():
            continue
        rows = []
        for index in range(chunk * CHUNK, (chunk + 1) * CHUNK):
            scene = random_scene(np.random.default_rng([seed, index]))
            rows.append([asdict(asked) for asked in asked_of(scene_record(scene, f"toy_{seed}_{index:04d}"))])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".partial").write_text(json.dumps(rows))
        path.with_suffix(".partial").replace(path)


def load(folder: str | Path, chunk: int) -> list[list[Asked]]:
    """The questions about each scene of a chunk."""
    return [[Asked(**row) for row in rows] for rows in json.loads(_path(folder, chunk).read_text())]


def _path(folder: str | Path, chunk: int) -> Path:
    return Path(folder) / f"asked_{chunk:04d}.json"
