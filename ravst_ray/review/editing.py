"""What becomes of an event's annotation when a person edits it. Pure; status and questions follow in ``revise.py``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from ravst_ray.core.frame_times import event_times
from ravst_ray.core.names import normal_words
from ravst_ray.records import Box, EventAnnotation, SceneObject, Track
from ravst_ray.review.edits import (
    AddTrack,
    Audible,
    BadEdit,
    Bounds,
    Boxes,
    DeleteTrack,
    Edit,
    Key,
    RemoveObject,
    Rename,
    RenameTrack,
    SplitTrack,
)
from ravst_ray.review.moving import between, regridded

_BY_HAND = 1.0  # the score of a box that a person has drawn


@dataclass(frozen=True, slots=True)
class Scope:
    """What an edit must keep to: the picture's size in pixels, the video's length, the step of the answers' times."""

    width: int
    height: int
    duration_s: float
    step_s: float


def apply_edit(
    edit: Edit, annotations: Sequence[EventAnnotation], event_num: int, scope: Scope
) -> tuple[EventAnnotation, ...]:
    """The events of a video with one of them edited (or all, of an edit that is meant ``everywhere``).

    Raises:
        BadEdit: it doesn't fit.
    """
    name = edit.name if isinstance(edit, Rename | Audible) and edit.everywhere else None
    return tuple(
        _applied(edit, one, scope)
        if one.event.event_num == event_num or (name is not None and _has_name(one, normal_words(name)))
        else one
        for one in annotations
    )


def _applied(edit: Edit, one: EventAnnotation, scope: Scope) -> EventAnnotation:
    match edit:
        case Rename():
            _check_own(one, edit.name, edit.everywhere)
            return _renamed(one, edit.to, lambda track: normal_words(track.name) == normal_words(edit.name), edit.name)
        case RenameTrack():
            _track(one, edit.track_id)
            return _renamed(one, edit.to, lambda track: track.track_id == edit.track_id)
        case Audible():
            _check_own(one, edit.name, edit.everywhere)
            return _with_audible(one, normal_words(edit.name), edit.audible)
        case RemoveObject():
            _check_own(one, edit.name, everywhere=False)
            key = normal_words(edit.name)
            objects = tuple(thing for thing in one.objects if normal_words(thing.name) != key)
            tracks = tuple(track for track in one.tracks if normal_words(track.name) != key)
            return replace(one, objects=objects, tracks=tracks)
        case Bounds():
            return _moved(one, edit, scope)
        case Boxes():
            return _with_track(one, edit.track_id, lambda track: _keyed(track, edit.keys, one, scope))
        case AddTrack():
            return _added(one, edit, scope)
        case DeleteTrack():
            return _with_track(one, edit.track_id, lambda track: ())
        case SplitTrack():
            return _with_track(one, edit.track_id, lambda track: _split(track, edit, one))


def _has_name(one: EventAnnotation, key: tuple[str, ...]) -> bool:
    names = [thing.name for thing in one.objects] + [track.name for track in one.tracks]
    return any(normal_words(name) == key for name in names)


def _check_own(one: EventAnnotation, name: str, everywhere: bool) -> None:
    """The name must be one of this event, and not one that is only heard in others that it meets."""
    if not _has_name(one, normal_words(name)):
        raise BadEdit(f"event {one.event.event_num} has no object {name!r}")
    for thing in one.objects:
        heard = thing.heard_in
        same = normal_words(thing.name) == normal_words(name)
        if same and heard and one.event.event_num not in heard and not everywhere:
            others = ", ".join(map(str, heard))
            raise BadEdit(f"{name!r} is heard in event {others}, not in this one: change it there, or everywhere")


def _track(one: EventAnnotation, track_id: int) -> Track:
    for track in one.tracks:
        if track.track_id == track_id:
            return track
    raise BadEdit(f"event {one.event.event_num} has no track {track_id}")


def _with_track(one: EventAnnotation, track_id: int, change: Callable[[Track], Iterable[Track]]) -> EventAnnotation:
    """The event with what one of its tracks becomes; a track without any box is none."""
    _track(one, track_id)
    tracks: list[Track] = []
    for track in one.tracks:
        tracks += change(track) if track.track_id == track_id else (track,)
    kept = tuple(track for track in tracks if track.boxes_xyxy_px)
    known = {normal_words(thing.name) for thing in one.objects}
    new = {normal_words(track.name): SceneObject(track.name, track.audible) for track in kept}
    objects = (*one.objects, *(thing for key, thing in new.items() if key not in known))
    return replace(one, tracks=kept, objects=objects)


def _renamed(one: EventAnnotation, to: str, which: Callable[[Track], bool], name: str | None = None) -> EventAnnotation:
    """The chosen tracks by another name, and the objects to match; two objects of one name become one."""
    chosen = [track for track in one.tracks if which(track)]
    old = {normal_words(name)} if name is not None else {normal_words(track.name) for track in chosen}
    tracks = tuple(replace(track, name=to) if which(track) else track for track in one.tracks)
    left = {normal_words(track.name) for track in tracks}
    own = one.event.event_num
    sounds = any(track.audible for track in chosen)
    kept: dict[tuple[str, ...], SceneObject] = {}
    for thing in one.objects:
        key = normal_words(thing.name)
        if key in old and (name is not None or key not in left):
            sounds |= thing.audible and own in (thing.heard_in or (own,))
            thing, key = SceneObject(to, thing.audible, thing.heard_in), normal_words(to)
        before = kept.get(key, thing)
        heard_in = tuple(sorted({*before.heard_in, *thing.heard_in}))
        kept[key] = SceneObject(thing.name, before.audible or thing.audible, heard_in)
    kept.setdefault(normal_words(to), SceneObject(to, sounds))
    named = tuple(
        replace(track, name=kept[key].name) if (key := normal_words(track.name)) in kept else track for track in tracks
    )
    return replace(one, tracks=named, objects=tuple(kept.values()))


def _with_audible(one: EventAnnotation, key: tuple[str, ...], audible: bool) -> EventAnnotation:
    objects = [SceneObject(thing.name, audible) if normal_words(thing.name) == key else thing for thing in one.objects]
    if not any(normal_words(thing.name) == key for thing in objects):
        objects.append(SceneObject(next(t.name for t in one.tracks if normal_words(t.name) == key), audible))
    tracks = tuple(replace(t, audible=audible) if normal_words(t.name) == key else t for t in one.tracks)
    return replace(one, objects=tuple(objects), tracks=tracks)


def _moved(one: EventAnnotation, edit: Bounds, scope: Scope) -> EventAnnotation:
    if not edit.start_s < edit.end_s <= scope.duration_s + scope.step_s:
        raise BadEdit(f"an event starts before it ends, within the video's {scope.duration_s:.1f} s")
    try:
        times_s = event_times(edit.start_s, edit.end_s, scope.step_s)
    except ValueError as error:
        raise BadEdit(str(error)) from None
    grid = tuple(time_s for time_s in times_s if time_s < scope.duration_s) if one.frame_times_s else ()
    tracks = (regridded(track, grid, scope.step_s) for track in one.tracks)
    event = replace(one.event, start_s=edit.start_s, end_s=edit.end_s)
    return replace(one, event=event, frame_times_s=grid, tracks=tuple(track for track in tracks if track.times_s))


def _keyed(track: Track, keys: Sequence[Key], one: EventAnnotation, scope: Scope) -> Iterable[Track]:
    """The track with new boxes at the key times and between them; its masks, which would contradict them, are gone."""
    if not one.frame_times_s:
        raise BadEdit(f"event {one.event.event_num} has no frames")
    placed: dict[float, Box | None] = {}
    for key in keys:
        time_s = min(one.frame_times_s, key=lambda grid_s: abs(grid_s - key.time_s))
        if abs(time_s - key.time_s) > scope.step_s / 2 + 1e-6:
            raise BadEdit(f"{key.time_s:g} s is outside the event's frames")
        placed[time_s] = None if key.box_xyxy_px is None else _within(key.box_xyxy_px, scope)
    drawn: dict[float, Box | None] = dict(placed)
    for time_s in one.frame_times_s:
        earlier, later = [t for t in placed if t < time_s], [t for t in placed if t > time_s]
        if time_s not in placed and earlier and later:
            start, end = placed[max(earlier)], placed[min(later)]
            if start is not None and end is not None:
                drawn[time_s] = between(start, end, (time_s - max(earlier)) / (min(later) - max(earlier)))
    rows = {
        time_s: (box, score, found)
        for time_s, box, score, found in zip(
            track.times_s,
            track.boxes_xyxy_px,
            track.scores,
            track.detected or (False,) * len(track.times_s),
            strict=True,
        )
        if not any(abs(time_s - other) < 1e-6 for other in drawn)
    }
    rows |= {time_s: (box, _BY_HAND, False) for time_s, box in drawn.items() if box is not None}
    times_s = tuple(sorted(rows))
    return (
        replace(
            track,
            times_s=times_s,
            boxes_xyxy_px=tuple(rows[time_s][0] for time_s in times_s),
            scores=tuple(rows[time_s][1] for time_s in times_s),
            detected=tuple(rows[time_s][2] for time_s in times_s) if track.detected else (),
            masks_rle=None,
        ),
    )


def _added(one: EventAnnotation, edit: AddTrack, scope: Scope) -> EventAnnotation:
    new_id = max((track.track_id for track in one.tracks), default=0) + 1
    known = {normal_words(thing.name): thing for thing in one.objects}
    thing = known.get(normal_words(edit.name), SceneObject(edit.name, False))
    bare = Track(new_id, thing.name, thing.audible, (), (), ())
    return _with_track(replace(one, tracks=(*one.tracks, bare)), new_id, lambda t: _keyed(t, edit.keys, one, scope))


def _within(box: Box, scope: Scope) -> Box:
    if not all(map(math.isfinite, box)):
        raise BadEdit("a box has four finite numbers")
    x1, y1 = max(0.0, box[0]), max(0.0, box[1])
    x2, y2 = min(float(scope.width), box[2]), min(float(scope.height), box[3])
    if x2 - x1 < 1 or y2 - y1 < 1:
        raise BadEdit("a box covers at least one pixel of the picture")
    return x1, y1, x2, y2


def _split(track: Track, edit: SplitTrack, one: EventAnnotation) -> Iterable[Track]:
    place = sum(time_s < edit.at_s - 1e-6 for time_s in track.times_s)
    if not 0 < place < len(track.times_s):
        raise BadEdit(f"track {track.track_id} has no boxes on both sides of {edit.at_s:g} s")
    new_id = max(other.track_id for other in one.tracks) + 1
    first, second = _part(track, slice(None, place)), _part(track, slice(place, None))
    return first, replace(second, track_id=new_id, name=edit.to or track.name)


def _part(track: Track, which: slice) -> Track:
    return replace(
        track,
        times_s=track.times_s[which],
        boxes_xyxy_px=track.boxes_xyxy_px[which],
        scores=track.scores[which],
        masks_rle=track.masks_rle[which] if track.masks_rle is not None else None,
        detected=track.detected[which],
    )
