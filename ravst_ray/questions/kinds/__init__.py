"""The kinds of questions, by name; a scene is asked all that it allows, in this order."""

from __future__ import annotations

from ravst_ray.questions.draft import Kind
from ravst_ray.questions.kinds import boxes, counting, direction, distance, moving, order, position, size

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        counting.COUNTING,
        position.POSITION,
        *direction.DIRECTIONS,
        distance.RELATIVE,
        distance.ABSOLUTE,
        size.OBJECT,
        size.ROOM,
        order.APPEARANCE,
        moving.DIRECTION,
        moving.DISPLACEMENT,
        moving.SPEED,
        boxes.LOCALIZATION,
        boxes.IN_VIEW,
    )
}
