"""Step 5, quality control: automatic checks on every annotated event.

Each check is a small function from an event to a verdict; ``CHECKS`` names them all, and the name is the reason that
is stored. The worst verdict wins, and an event's questions inherit it. Rejected means that a claim of the annotation
is contradicted or has nothing behind it; suspect, that a person should look.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median

from ravst_ray.annotate.step import Step
from ravst_ray.config.annotate import QualityConfig
from ravst_ray.records import Box, EventAnnotation, Loudness, Status, Track, VideoItem, VideoMeta

_SEVERITY: dict[Status, int] = {"accepted": 0, "suspect": 1, "rejected": 2}
_SAME_STEP = 1.5  # boxes further apart than this many grid steps have a gap between them: no jump can be told


@dataclass(frozen=True)
class Case:
    """What a check sees: one event with what the file itself says."""

    annotation: EventAnnotation
    meta: VideoMeta
    loudness: Loudness | None
    config: QualityConfig

    @property
    def claims_sound(self) -> bool:
        """Whether any object is said to make a sound."""
        return any(found.audible for found in self.annotation.objects)

    @property
    def seen(self) -> list[Track]:
        """The tracks that have boxes."""
        return [track for track in self.annotation.tracks if track.boxes_xyxy_px]


Check = Callable[[Case], Status]


class CheckQuality(Step):
    """Sets status and reasons of each event, and the status of its questions."""

    stage = "quality"

    def __init__(self, config: QualityConfig):
        self._config = config

    def process(self, item: VideoItem) -> VideoItem:
        """One video; needs the ``meta`` that decoding left."""
        if item.meta is None:
            raise ValueError(f"{item.video.video_id}: quality is checked after decoding")
        cases = [Case(found, item.meta, item.loudness, self._config) for found in item.annotations]
        checked = tuple(judge(case) for case in cases)
        status = {found.event.event_num: found.status for found in checked}
        qa = tuple(replace(pair, status=status[pair.event_num]) for pair in item.qa)
        return replace(item, annotations=checked, qa=qa)


def judge(case: Case) -> EventAnnotation:
    """The event with the worst verdict of all checks, and as reasons the names of those that object."""
    verdicts = {name: check(case) for name, check in CHECKS.items()}
    reasons = tuple(name for name, verdict in verdicts.items() if verdict != "accepted")
    return replace(case.annotation, status=max(verdicts.values(), key=_SEVERITY.__getitem__), reasons=reasons)


def no_box(case: Case) -> Status:
    """No object was found in any frame: nothing to ask about."""
    return "accepted" if case.seen else "rejected"


def outside_video(case: Case) -> Status:
    """The event reaches more than ``overrun_s`` beyond the end that the file really has."""
    return _flag("rejected", case.annotation.event.end_s > case.meta.duration_s + case.config.overrun_s)


def box_jump(case: Case) -> Status:
    """A box's centre moves by more than ``max_jump`` of the picture's diagonal from one grid time to the next."""
    limit_px = case.config.max_jump * math.hypot(case.meta.width, case.meta.height)
    step_s = _grid_step_s(case.annotation.frame_times_s)
    return _flag("suspect", any(move > limit_px for track in case.seen for move in _moves_px(track, step_s)))


def tiny_box(case: Case) -> Status:
    """A track's median box covers less than ``min_area_share`` of the picture."""
    return _flag("suspect", any(_area_share(t, case.meta) < case.config.min_area_share for t in case.seen))


def full_frame_box(case: Case) -> Status:
    """A track's median box covers more than ``max_area_share`` of the picture."""
    return _flag("suspect", any(_area_share(t, case.meta) > case.config.max_area_share for t in case.seen))


def low_score(case: Case) -> Status:
    """A track's mean score is below ``min_score``."""
    means = [sum(track.scores) / len(track.scores) for track in case.seen]
    return _flag("suspect", any(mean < case.config.min_score for mean in means))


def never_visible(case: Case) -> Status:
    """An object that is said to be audible and visible has no box."""
    seen = {(track.name, track.audible) for track in case.seen}
    return _flag("suspect", any(o.audible and (o.name, o.audible) not in seen for o in case.annotation.objects))


def nothing_audible(case: Case) -> Status:
    """No object is said to make the event's sound: its source was overlooked or can't be seen."""
    return _flag("suspect", bool(case.annotation.objects) and not case.claims_sound)


def no_audio(case: Case) -> Status:
    """A sound is claimed in a file without an audio track: the claim can't be true of this file."""
    return _flag("rejected", case.claims_sound and not case.meta.has_audio)


def unread_audio(case: Case) -> Status:
    """A sound is claimed, the file has an audio track, but its level couldn't be read."""
    return _flag("suspect", case.claims_sound and case.meta.has_audio and case.loudness is None)


def silence(case: Case) -> Status:
    """A sound is claimed, but the audio stays below ``silence_db`` from the event's start to its end."""
    if not case.claims_sound or not case.meta.has_audio or case.loudness is None:
        return "accepted"
    event = case.annotation.event
    levels = _levels_db(case.loudness, event.start_s, event.end_s)
    return _flag("rejected", all(level < case.config.silence_db for level in levels))


CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        no_box,
        outside_video,
        box_jump,
        tiny_box,
        full_frame_box,
        low_score,
        never_visible,
        nothing_audible,
        no_audio,
        unread_audio,
        silence,
    )
}


def _flag(verdict: Status, found: bool) -> Status:
    return verdict if found else "accepted"


def _grid_step_s(times_s: tuple[float, ...]) -> float:
    """The usual distance of two grid times; infinite where there is no second one."""
    gaps = [later - earlier for earlier, later in pairwise(times_s)]
    return median(gaps) if gaps else math.inf


def _moves_px(track: Track, step_s: float) -> Iterator[float]:
    """How far the centre moves between neighbouring grid times; where the object is out of sight, nothing is told."""
    seen = list(zip(track.times_s, track.boxes_xyxy_px, strict=True))
    for (earlier_s, before), (later_s, after) in pairwise(seen):
        if later_s - earlier_s < _SAME_STEP * step_s:
            yield math.dist(_centre(before), _centre(after))


def _centre(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _area_share(track: Track, meta: VideoMeta) -> float:
    areas = [max(0.0, x2 - x1) * max(0.0, y2 - y1) for x1, y1, x2, y2 in track.boxes_xyxy_px]
    return median(areas) / (meta.width * meta.height)


def _levels_db(loudness: Loudness, start_s: float, end_s: float) -> tuple[float, ...]:
    """Levels of the windows whose middle lies in [start, end], so that a neighbour's sound doesn't leak in.

    An event shorter than a window gets the one that it starts in; past the end of the track there is none.
    """
    step_s, levels = loudness.step_s, loudness.level_db_T
    inside = tuple(level for i, level in enumerate(levels) if start_s <= (i + 0.5) * step_s <= end_s)
    first = int(start_s / step_s)
    return inside or levels[first : first + 1]
