"""Questions as VSI-Bench's file has them: a benchmark of one's own, for whatever evaluates that one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ravst_ray.questions.draft import LETTERS

VSI_KINDS = {
    "object_counting": "object_counting",
    "absolute_distance": "object_abs_distance",
    "object_size": "object_size_estimation",
    "room_size": "room_size_estimation",
    "relative_distance": "object_rel_distance",
    "relative_direction_easy": "object_rel_direction_easy",
    "relative_direction_medium": "object_rel_direction_medium",
    "relative_direction_hard": "object_rel_direction_hard",
    "appearance_order": "obj_appearance_order",
}
"""Its names of the kinds that it has."""


def vsi_row(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """A question row in VSI-Bench's columns; None for a kind that it doesn't have, or a scene without a video."""
    if row["kind"] not in VSI_KINDS or not row["video"]:
        return None
    choices = [f"{letter}. {text}" for letter, text in zip(LETTERS, row["options"], strict=False)]
    return {
        "id": row["id"],
        "dataset": row["source"],
        "scene_name": row["video"],
        "question_type": VSI_KINDS[row["kind"]],
        "question": row["question"],
        "options": choices or None,
        "ground_truth": row["answer"],
    }
