"""Scenes of our own annotations: the output directory of ``ravst annotate``.

A scene is an accepted event of a video, ``{video}/{event}``: its tracks are complete within it and say nothing of the
rest of the video. Objects that no caption names are no tracks, so nothing is counted.
"""

from __future__ import annotations

import builtins
from typing import Any

from ravst_ray.core.scenes import Entity, Scene
from ravst_ray.datasets.places import is_remote
from ravst_ray.datasets.scenes.source import SceneRef, box_of
from ravst_ray.datasets.store import DatasetStore
from ravst_ray.errors import ConfigError

_COLUMNS = ("video_id", "duration_s", "width", "height", "frame_times_s")
_TRACK = ("track_id", "name", "times_s", "boxes_xyxy_px")


class RavstReader:
    """Reads the table ``annotations`` of an output directory."""

    format = "ravst"

    def list(self, place: str) -> builtins.list[SceneRef]:
        """One reference an accepted event that has tracks.

        Raises:
            ConfigError: no annotations are there.
        """
        store = DatasetStore(place)
        try:
            rows = store.rows("annotations") if store.generation().number else None
        except OSError as error:
            raise ConfigError(f"{place}: can't be read: {error} (input.scenes)") from None
        if rows is None:
            where = "there" if is_remote(place) else "in this folder"
            raise ConfigError(f"{place}: no annotations {where}; input.scenes is the output of ravst annotate")
        return [
            SceneRef(self.format, row["annotation_id"], _content(row))
            for row in rows
            if row["status"] == "accepted" and row["tracks"]
        ]

    def read(self, ref: SceneRef) -> Scene:
        """One event.

        Raises:
            KeyError, TypeError, ValueError: the row isn't as ``ravst annotate`` writes it.
        """
        row = ref.content
        entities = tuple(
            Entity(
                entity_id=str(track["track_id"]),
                label=track["name"],
                times_s=tuple(track["times_s"]),
                boxes_xyxy_px=tuple(box_of(box) for box in track["boxes_xyxy_px"]),
            )
            for track in row["tracks"]
        )
        seen = {time_s for entity in entities for time_s in entity.times_s}
        return Scene(
            scene_id=ref.scene_id,
            source=self.format,
            entities=entities,
            frame_times_s=tuple(sorted({*row["frame_times_s"], *seen})),
            video=row["video_id"],
            duration_s=row["duration_s"],
            width=row["width"],
            height=row["height"],
            counted=False,
        )


def _content(row: dict[str, Any]) -> dict[str, Any]:
    """What of a row makes the scene; masks stay behind."""
    tracks = [{name: track[name] for name in _TRACK} for track in row["tracks"]]
    return {name: row[name] for name in _COLUMNS} | {"tracks": tracks}
