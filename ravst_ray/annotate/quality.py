"""Step 5, quality control: automatic checks on every annotated event.

Each check is a small function from an event to a verdict; ``CHECKS`` names them all, and the name is the reason that
is stored. The worst verdict wins, and the questions that rest on an event inherit it. Rejected means that a claim of
the annotation is contradicted or has nothing behind it; suspect, that a person should look.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median, quantiles

from ravst_ray.annotate.seen import (
    NameKey,
    grid_step_s,
    heard_here,
    most_at_once,
    seen_share,
    several_at_once,
    tracks_by_name,
)
from ravst_ray.annotate.step import Step
from ravst_ray.config.annotate import QualityConfig
from ravst_ray.core.geometry import box_area, box_iou
from ravst_ray.core.names import is_plural, normal_words
from ravst_ray.errors import ConfigError
from ravst_ray.records import STATUSES, Box, EventAnnotation, Loudness, Status, Track, VideoItem, VideoMeta

_SAME_STEP = 1.5  # boxes further apart than this many grid steps have a gap between them: no jump can be told
_RIM = 0.015  # share of a side of the picture that counts as its border
_GROWN = 1.4  # how many times as wide or high
_LOUDEST_FLOOR_DB = -45.0  # what never falls below this is no noise floor but a sound that goes on


@dataclass(frozen=True)
class Case:
    """What a check sees: one event with what the file itself says."""

    annotation: EventAnnotation
    meta: VideoMeta
    loudness: Loudness | None
    config: QualityConfig
    max_instances: int = 13
    several: frozenset[NameKey] = frozenset()
    """Names of which several are seen at once in the event or in another one of its video."""

    @property
    def claims_sound(self) -> bool:
        """Whether any object is said to make a sound."""
        return any(found.audible for found in self.annotation.objects)

    @property
    def seen(self) -> list[Track]:
        """The tracks that have boxes."""
        return [track for track in self.annotation.tracks if track.boxes_xyxy_px]

    @property
    def sources(self) -> dict[NameKey, list[Track]]:
        """The tracks that have boxes of each name that is said to sound."""
        return tracks_by_name(self.annotation, audible=True)

    @property
    def single_sources(self) -> list[list[Track]]:
        """Those of names that mean one thing ("man", not "men" or "two boys")."""
        return [tracks for tracks in self.sources.values() if not is_plural(tracks[0].name)]


Check = Callable[[Case], Status]


class CheckQuality(Step):
    """Sets status and reasons of each event that is asked about and was not set aside.

    Args:
        config: thresholds.
        max_instances: more of one name at once are a crowd.
    """

    stage = "quality"

    def __init__(self, config: QualityConfig, max_instances: int = 13):
        check_skip(config)
        self._config = config
        self._max_instances = max_instances

    def process(self, item: VideoItem) -> VideoItem:
        """One video; needs the ``meta`` that decoding left, if there was anything to decode."""
        several = several_at_once(item.annotations)
        judged = tuple(self._judged(item, one, several) if one.live else one for one in item.annotations)
        return replace(item, annotations=judged)

    def _judged(self, item: VideoItem, annotation: EventAnnotation, several: frozenset[NameKey]) -> EventAnnotation:
        if item.meta is None:
            raise ValueError(f"{item.video.video_id}: quality is checked after decoding")
        return judge(Case(annotation, item.meta, item.loudness, self._config, self._max_instances, several))


def check_skip(config: QualityConfig) -> None:
    """Raise ``ConfigError`` when ``quality.skip`` names a check that there isn't."""
    unknown = sorted(set(config.skip) - set(CHECKS))
    if unknown:
        raise ConfigError(f"quality.skip: no check {', '.join(unknown)}; there are {', '.join(CHECKS)}")


def judge(case: Case) -> EventAnnotation:
    """The event with the worst verdict of all checks, and as reasons the names of those that object."""
    verdicts = {name: check(case) for name, check in CHECKS.items() if name not in case.config.skip}
    reasons = tuple(name for name, verdict in verdicts.items() if verdict != "accepted")
    status: Status = max(verdicts.values(), key=STATUSES.index, default="accepted")
    return replace(case.annotation, status=status, reasons=reasons)


def no_box(case: Case) -> Status:
    """No object was found in any frame: nothing to ask about."""
    return "accepted" if case.seen else "rejected"


def outside_video(case: Case) -> Status:
    """The event reaches more than ``overrun_s`` beyond the end that the file really has."""
    return _flag("rejected", case.annotation.event.end_s > case.meta.duration_s + case.config.overrun_s)


def box_jump(case: Case) -> Status:
    """A box's centre moves by more than ``max_jump`` of the picture's diagonal from one grid time to the next."""
    limit_px = case.config.max_jump * math.hypot(case.meta.width, case.meta.height)
    moves = (math.dist(_centre(before), _centre(after)) for _, _, before, after in _steps(case))
    return _flag("suspect", any(move > limit_px for move in moves))


def took_in(case: Case) -> Status:
    """A box grows at once over what another one shows: wider or higher by more than 1.4, and with IoU above 0.5."""
    return _flag(
        "suspect",
        any(
            _has_grown(before, after, case.meta)
            and any(
                box_iou(after, box) > 0.5 for other in case.seen if other is not track for box in _boxes_at(other, at)
            )
            for track, at, before, after in _steps(case)
        ),
    )


def tiny_box(case: Case) -> Status:
    """A track's median box covers less than ``min_area_share`` of the picture."""
    return _flag("suspect", any(_area_share(t, case.meta) < case.config.min_area_share for t in case.seen))


def full_frame_box(case: Case) -> Status:
    """A track's median box covers more than ``max_area_share`` of the picture."""
    return _flag("suspect", any(_area_share(t, case.meta) > case.config.max_area_share for t in case.seen))


def low_score(case: Case) -> Status:
    """The detector's mean score of a track is below ``min_score``; what the segmenter added doesn't raise it."""
    means = [sum(scores) / len(scores) for track in case.seen if (scores := _detector_scores(track))]
    return _flag("suspect", any(mean < case.config.min_score for mean in means))


def never_visible(case: Case) -> Status:
    """An object that is said to make this event's sound and to be visible has no box."""
    return _flag("suspect", bool(heard_here(case.annotation).keys() - case.sources.keys()))


def rarely_visible(case: Case) -> Status:
    """A source of this event's sound is seen in too small a share of it: the answer would be the event all the same."""
    own = heard_here(case.annotation)
    shares = [seen_share(case.annotation, tracks) for key, tracks in case.sources.items() if key in own]
    least = min(shares, default=1.0)
    if least < case.config.reject_visible_share:
        return "rejected"
    return _flag("suspect", least < case.config.suspect_visible_share)


def crowd(case: Case) -> Status:
    """More of one name are in view at once than are followed, so no answer that lists them is complete."""
    groups = (group for audible in (True, False) for group in tracks_by_name(case.annotation, audible).values())
    return _flag("suspect", any(most_at_once(group) > case.max_instances for group in groups))


def which_one(case: Case) -> Status:
    """Several of an audible name are in view, here or in another event of the video: nothing tells which one sounds."""
    return _flag(
        "suspect",
        any(
            normal_words(tracks[0].name) in case.several or len({track.shot for track in tracks}) < len(tracks)
            for tracks in case.single_sources
        ),
    )


def comes_and_goes(case: Case) -> Status:
    """Of several of one name one appears or vanishes inside the picture: where it is meanwhile isn't known."""
    spans: dict[int, tuple[float, float]] = {}
    for track in case.seen:
        first_s, last_s = spans.get(track.shot, (math.inf, -math.inf))
        spans[track.shot] = min(first_s, track.times_s[0]), max(last_s, track.times_s[-1])
    groups = [group for audible in (True, False) for group in tracks_by_name(case.annotation, audible).values()]
    return _flag(
        "suspect",
        any(
            box_time_s != spans[track.shot][end] and not any(_at_border(track.boxes_xyxy_px[end], case.meta))
            for group in groups
            if most_at_once(group) > 1
            for track in group
            for end, box_time_s in ((0, track.times_s[0]), (-1, track.times_s[-1]))
        ),
    )


def across_cut(case: Case) -> Status:
    """What sounds is seen before and after a cut, and nothing tells that it is the same one."""
    return _flag("suspect", any(len({track.shot for track in tracks}) > 1 for tracks in case.single_sources))


def nothing_audible(case: Case) -> Status:
    """No object is said to make the event's sound: its source was overlooked or can't be seen."""
    return _flag("suspect", bool(case.annotation.objects) and not heard_here(case.annotation))


def no_audio(case: Case) -> Status:
    """A sound is claimed in a file without an audio track: the claim can't be true of this file."""
    return _flag("rejected", case.claims_sound and not case.meta.has_audio)


def unread_audio(case: Case) -> Status:
    """A sound is claimed, the file has an audio track, but its level couldn't be read."""
    return _flag("suspect", case.claims_sound and case.meta.has_audio and case.loudness is None)


def silence(case: Case) -> Status:
    """A sound is claimed, but the audio is above ``silence_db`` for less than ``min_sound_s`` of the event: a click."""
    return _flag("rejected", not _sounds_above(case, case.config.silence_db))


def faint(case: Case) -> Status:
    """A sound is claimed, but it hardly rises above the track's own floor, the level that 90% of it exceed."""
    levels = case.loudness.level_db_T if case.loudness else ()
    lowest = quantiles(levels, n=10)[0] if len(levels) > 1 else -math.inf
    floor_db = min(lowest, _LOUDEST_FLOOR_DB)
    rises = _sounds_above(case, max(floor_db + case.config.sound_margin_db, case.config.silence_db))
    return _flag("suspect", not rises and _sounds_above(case, case.config.silence_db))


CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        no_box,
        outside_video,
        box_jump,
        took_in,
        tiny_box,
        full_frame_box,
        low_score,
        never_visible,
        rarely_visible,
        crowd,
        which_one,
        comes_and_goes,
        across_cut,
        nothing_audible,
        no_audio,
        unread_audio,
        silence,
        faint,
    )
}


def _flag(verdict: Status, found: bool) -> Status:
    return verdict if found else "accepted"


def _steps(case: Case) -> Iterator[tuple[Track, float, Box, Box]]:
    """Track, time, box before and box of neighbouring grid times; where an object is out of sight, nothing is told."""
    longest_s = _SAME_STEP * grid_step_s(case.annotation.frame_times_s)
    for track in case.seen:
        for (earlier_s, before), (later_s, after) in pairwise(zip(track.times_s, track.boxes_xyxy_px, strict=True)):
            if later_s - earlier_s < longest_s:
                yield track, later_s, before, after


def _boxes_at(track: Track, time_s: float) -> Iterator[Box]:
    return (box for at_s, box in zip(track.times_s, track.boxes_xyxy_px, strict=True) if abs(at_s - time_s) < 1e-3)


def _at_border(box: Box, meta: VideoMeta) -> tuple[bool, bool]:
    """Whether a box reaches the left or right, and the upper or lower border: the object may go on beyond."""
    x1, y1, x2, y2 = box
    rim_x, rim_y = _RIM * meta.width, _RIM * meta.height
    return x1 <= rim_x or x2 >= meta.width - rim_x, y1 <= rim_y or y2 >= meta.height - rim_y


def _has_grown(before: Box, after: Box, meta: VideoMeta) -> bool:
    """Whether a box is wider or higher by more than ``_GROWN`` where all of it could be seen before."""
    cut_x, cut_y = _at_border(before, meta)
    wider = after[2] - after[0] > _GROWN * (before[2] - before[0])
    higher = after[3] - after[1] > _GROWN * (before[3] - before[1])
    return (wider and not cut_x) or (higher and not cut_y)


def _centre(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _area_share(track: Track, meta: VideoMeta) -> float:
    return median(map(box_area, track.boxes_xyxy_px)) / (meta.width * meta.height)


def _detector_scores(track: Track) -> list[float]:
    """The scores where it was detected; all where that isn't known."""
    if not track.detected:
        return list(track.scores)
    return [score for score, found in zip(track.scores, track.detected, strict=True) if found]


def _sounds_above(case: Case, level_db: float) -> bool:
    """Whether the event is that loud for long enough; true where no sound is claimed or its level isn't known."""
    if not case.claims_sound or not case.meta.has_audio or case.loudness is None:
        return True
    event = case.annotation.event
    levels = _levels_db(case.loudness, event.start_s, event.end_s)
    wanted_s = min(case.config.min_sound_s, case.loudness.step_s * len(levels) / 2)
    return bool(levels) and case.loudness.step_s * sum(level >= level_db for level in levels) >= wanted_s - 1e-9


def _levels_db(loudness: Loudness, start_s: float, end_s: float) -> Sequence[float]:
    """Levels of the windows whose middle lies in [start, end], so that a neighbour's sound doesn't leak in.

    An event shorter than a window gets the one that it starts in; past the end of the track there is none.
    """
    step_s, levels = loudness.step_s, loudness.level_db_T
    start_s, end_s = start_s - loudness.start_s, end_s - loudness.start_s
    inside = tuple(level for i, level in enumerate(levels) if start_s <= (i + 0.5) * step_s <= end_s)
    first = max(0, int(start_s / step_s))
    return inside or levels[first : first + 1]
