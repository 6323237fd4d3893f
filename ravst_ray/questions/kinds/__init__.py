"""The kinds of questions, by name; a scene is asked all that it allows, in this order."""

from __future__ import annotations

from ravst_ray.questions.draft import Kind
from ravst_ray.questions.kinds import boxes, counting, moving, order, position

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        counting.COUNTING,
        position.POSITION,
        position.DISTANCE,
        order.APPEARANCE,
        moving.DIRECTION,
        boxes.LOCALIZATION,
        boxes.IN_VIEW,
    )
}
