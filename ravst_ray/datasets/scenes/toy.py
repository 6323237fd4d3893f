"""Scenes of the toy world: ``truth.json`` of ``ravst toyworld``, which is exact."""

from __future__ import annotations

import builtins
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ravst_ray.core.scenes import Entity, Scene
from ravst_ray.datasets.scenes.source import SceneRef, box_of, frames_of, listed, load_json
from ravst_ray.errors import ConfigError


class ToyReader:
    """Reads ``truth.json``, or the world's folder that holds it."""

    format = "toy"

    def list(self, place: str) -> builtins.list[SceneRef]:
        """One reference a video.

        Raises:
            ConfigError: there is no such file, or it is no truth.json.
        """
        path, truth = load_json(place, "truth.json")
        if not isinstance(truth, dict) or not all(isinstance(video, dict) for video in truth.values()):
            raise ConfigError(f"{path}: expected {{video id: {{duration, objects, …}}}}, as ravst toyworld writes it")
        return listed(self.format, truth)

    def read(self, ref: SceneRef) -> Scene:
        """One video. Several objects may share a name; balls of all colours are also counted as "ball".

        Raises:
            KeyError, TypeError, ValueError: the entry isn't as ``ravst toyworld`` writes it.
        """
        truth: Mapping[str, Any] = ref.content
        frames = frames_of(truth["duration"] * truth["fps"])
        entities = tuple(
            Entity(
                entity_id=str(number),
                label=thing["name"],
                times_s=tuple(float(time) for time in thing["boxes"]),
                boxes_xyxy_px=tuple(box_of(box) for box in thing["boxes"].values()),
            )
            for number, thing in enumerate(truth["objects"])
            if thing["boxes"]
        )
        shapes = Counter(entity.label.rpartition(" ")[2] for entity in entities)
        return Scene(
            scene_id=ref.scene_id,
            source=self.format,
            entities=entities,
            frame_times_s=tuple(round(index / truth["fps"], 1) for index in frames),
            video=ref.scene_id,
            duration_s=truth["duration"],
            width=truth["width"],
            height=truth["height"],
            counts=shapes,
            complete=True,
        )
