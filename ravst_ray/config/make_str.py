"""Configuration of ``ravst make-str``: which scenes, which questions, and how clear an answer has to be."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ravst_ray.config.base import ClusterConfig, Place, StrictModel

KINDS = (
    "object_counting",
    "relative_position",
    "relative_direction_easy",
    "relative_direction_medium",
    "relative_direction_hard",
    "relative_distance",
    "absolute_distance",
    "object_size",
    "room_size",
    "appearance_order",
    "motion_direction",
    "displacement",
    "speed",
    "localization",
    "temporal_localization",
)


class AskConfig(StrictModel):
    """What is asked, and how often."""

    kinds: list[str] | None = Field(None, description="only these kinds; default: all that a scene allows")
    per_kind: int = Field(10, ge=1, description="at most so many questions of a kind and scene, chosen by hash")
    time_step_s: float = Field(0.5, gt=0, description="seconds asked about are multiples of it, where there are any")
    min_count: int = Field(2, ge=1, description="smaller numbers are not asked for (2 in VSI-Bench)")
    refer_by_box: bool = Field(True, description="things that share a name are told apart by a box at another second")
    max_nodes: int = Field(12, ge=1, le=64, description="of a reference graph's frame; those asked about come first")

    @model_validator(mode="after")
    def _known(self) -> AskConfig:
        if unknown := sorted(set(self.kinds or ()) - set(KINDS)):
            raise ValueError(f"unknown kinds {', '.join(unknown)}; known are {', '.join(KINDS)}")
        return self


class MarginsConfig(StrictModel):
    """How clear an answer has to be; what is less clear is left out and counted."""

    position_share: float = Field(0.08, ge=0, description="2-D: two things are at least so far apart (of the diagonal)")
    direction_ratio: float = Field(1.5, ge=1, description="2-D: the longer of dx and dy over the shorter")
    closer_share: float = Field(0.15, ge=0, lt=1, description="the closest is nearer than the next by this share of it")
    closer_m: float = Field(0.15, ge=0, description="… and, in metres, by this much")
    floor_m: float = Field(0.5, ge=0, description="directions: the three are so far apart along the floor")
    turn_deg: float = Field(10.0, ge=0, lt=45, description="directions: so far from a border between two answers")
    apart_m: float = Field(0.3, ge=0, description="absolute distances are at least so long")
    order_s: float = Field(0.5, ge=0, description="first appearances are at least so far apart, seconds")
    moved_share: float = Field(0.1, ge=0, description="2-D: a motion is at least so long (of the diagonal)")
    moved_m: float = Field(1.0, ge=0, description="in metres: likewise")
    motion_s: float = Field(0.5, gt=0, description="between the two seconds of a motion there is at least this")
    visible_s: float = Field(1.0, ge=0, description="an interval in view is at least so long, seconds")
    visible_share: float = Field(0.9, gt=0, le=1, description="… and at most this share of the video")
    gap_s: float = Field(0.3, ge=0, description="shorter gaps in being seen don't end an interval, seconds")


class StrRules(StrictModel):
    """All that decides the questions of one scene."""

    seed: int = 0
    questions: AskConfig = AskConfig()
    margins: MarginsConfig = MarginsConfig()


class SceneInputConfig(StrictModel):
    """Where the scenes are."""

    scenes: Place = Field(description="a file or a folder, as the format has it")
    format: Literal["ravst", "tao", "kitti", "scannet", "toy"] = Field(description="who wrote them")
    limit: int | None = Field(None, ge=1, description="only the first so many scenes, for a trial run")


class MakeStrConfig(StrRules):
    """Everything that a run needs."""

    input: SceneInputConfig
    output: Place = Field(description="folder for the questions, made if missing; a path or a URI")
    exclude: list[Place] = Field(default_factory=list, description="files with ids of scenes to leave out, one a line")
    cluster: ClusterConfig = ClusterConfig()
