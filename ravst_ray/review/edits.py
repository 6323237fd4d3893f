"""What a person can change of an event, as the page sends it and the log keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from ravst_ray.config.base import StrictModel, describe
from ravst_ray.core.answers import ObjectAnswer, render
from ravst_ray.core.names import clean_name

_MAX_NAME = 80  # characters


class BadEdit(ValueError):
    """An edit that doesn't fit the event; the message says why."""


def _name(text: str) -> str:
    name = clean_name(text)
    if name is None or len(name) > _MAX_NAME:
        raise ValueError(f"a name has 1 to {_MAX_NAME} printable characters, none of them < or >")
    render([ObjectAnswer(name)])
    return name


Name = Annotated[str, AfterValidator(_name)]


class Rename(StrictModel):
    """An object and its tracks get another name, ``everywhere`` in all events of the video."""

    op: Literal["rename"]
    name: str
    to: Name
    everywhere: bool = False


class RenameTrack(StrictModel):
    """One track gets another name."""

    op: Literal["rename_track"]
    track_id: int
    to: Name


class Audible(StrictModel):
    """An object sounds while the event lasts, or doesn't."""

    op: Literal["audible"]
    name: str
    audible: bool
    everywhere: bool = False


class RemoveObject(StrictModel):
    """There is no such object in this event."""

    op: Literal["remove_object"]
    name: str


class Bounds(StrictModel):
    """The event lasts from here to there, seconds."""

    op: Literal["bounds"]
    start_s: float = Field(ge=0, allow_inf_nan=False)
    end_s: float = Field(allow_inf_nan=False)


class Key(StrictModel):
    """A box at a time; None: the object isn't visible then."""

    time_s: float = Field(allow_inf_nan=False)
    box_xyxy_px: tuple[float, float, float, float] | None


class Boxes(StrictModel):
    """Boxes of a track at key times; between two of them, all boxes follow a straight line."""

    op: Literal["boxes"]
    track_id: int
    keys: tuple[Key, ...] = Field(min_length=1, max_length=10_000)


class AddTrack(StrictModel):
    """An object that was overlooked, seen at key times and between them; a name that is new is a silent one."""

    op: Literal["add_track"]
    name: Name
    keys: tuple[Key, ...] = Field(min_length=1, max_length=10_000)


class DeleteTrack(StrictModel):
    """A track shows nothing of the kind."""

    op: Literal["delete_track"]
    track_id: int


class SplitTrack(StrictModel):
    """What a track shows from ``at_s`` on is another thing, of the same name or named ``to``."""

    op: Literal["split_track"]
    track_id: int
    at_s: float = Field(allow_inf_nan=False)
    to: Name | None = None


Edit = Rename | RenameTrack | Audible | RemoveObject | Bounds | Boxes | AddTrack | DeleteTrack | SplitTrack


@cache
def _adapter() -> TypeAdapter[Edit]:
    return TypeAdapter(Annotated[Edit, Field(discriminator="op")])


def edit_of(data: Mapping[str, Any]) -> Edit:
    """An edit from JSON.

    Raises:
        BadEdit: it is none.
    """
    try:
        return _adapter().validate_python(data)
    except ValidationError as error:
        raise BadEdit(describe(error)) from None
