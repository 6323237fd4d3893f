"""Step 1: what counts as an event, thresholds at their bounds, which events are asked about, balancing, counts."""

from collections import Counter

import pytest

from ravst_ray.annotate.filter import duration_group, event_share, filter_videos, merge_events
from ravst_ray.config.annotate import FilterConfig
from ravst_ray.records import ErrorRow, Event, SceneObject, Video

CONFIG = FilterConfig()


def event(start_s, end_s, label="dog", caption=None, label_id=None, given=None):
    return Event(99, start_s, end_s, label, label_id, caption, given)


def video(*spans, video_id="v", duration_s=50.0):
    events = tuple(event(s, e, label) for s, e, label in spans)
    return Video(video_id, f"/x/{video_id}.mp4", duration_s, events)


def apart(count, video_id="v", labels=9):
    """Events of 5 s, of as many labels, in a video of 50 s."""
    return video(*((7.0 * i, 7.0 * i + 5, f"sound {i % labels}") for i in range(count)), video_id=video_id)


def spans(events):
    return [(e.event_num, e.start_s, e.end_s, e.label) for e in events]


def test_overlapping_and_touching_events_of_one_label_merge():
    events = [event(8, 9), event(0, 3), event(2, 5), event(5, 6), event(2.5, 2.6)]
    assert spans(merge_events(events)) == [(1, 0, 6, "dog"), (2, 8, 9, "dog")]


def test_events_of_different_labels_stay_apart_and_are_numbered_by_start():
    events = [event(4, 9, "cat"), event(0, 5, "dog"), event(4, 9, "ape"), event(4, 6, "zebra"), event(8, 12, "cat")]
    assert spans(merge_events(events)) == [
        (1, 0, 5, "dog"),
        (2, 4, 6, "zebra"),
        (3, 4, 9, "ape"),
        (4, 4, 12, "cat"),
    ]


@pytest.mark.parametrize(
    ("captions", "joined"),
    [
        ([None, None], None),
        ([None, "a dog barks"], "a dog barks"),
        (["a dog barks", "a dog barks"], "a dog barks"),
        (["a dog barks", None, "a cat meows", "a dog barks"], "a dog barks; a cat meows"),
    ],
)
def test_captions_of_merged_events(captions, joined):
    (merged,) = merge_events([event(i, i + 2, caption=caption) for i, caption in enumerate(captions)])
    assert merged.caption == joined


def test_objects_and_label_ids_of_merged_events():
    dog, bell, loud_bell = SceneObject("dog", True), SceneObject("bell", False), SceneObject("bell", True)
    (merged,) = merge_events([event(0, 2, given=(dog, bell)), event(1, 3, label_id=7), event(2, 4, given=(loud_bell,))])
    assert merged.given_objects == (dog, loud_bell)
    assert merge_events([event(0, 2, given=(bell, loud_bell))])[0].given_objects == (bell, loud_bell)
    assert merged.label_id == 7
    assert merge_events([event(0, 2), event(1, 3)])[0].given_objects is None


@pytest.mark.parametrize(
    ("duration_s", "group"), [(0.1, "short"), (20, "short"), (20.01, "medium"), (40, "medium"), (40.01, "long")]
)
def test_duration_groups(duration_s, group):
    assert duration_group(duration_s, CONFIG) == group


def test_share_is_of_the_union_within_the_video():
    assert event_share(video((0, 10, "dog"), (5, 20, "cat"), (30, 35, "dog"))) == pytest.approx(25 / 50)
    assert event_share(video((40, 90, "dog"))) == pytest.approx(10 / 50)
    assert event_share(video((60, 90, "dog"))) == 0.0


@pytest.mark.parametrize(
    ("rejected", "reason"),
    [
        (video(), "no_events"),
        (video((0, 50, "dog"), duration_s=60.01), "too_long"),
        (apart(4), "too_many_events"),
        (video((0, 3.99, "dog")), "low_event_share"),
        (video((0, 2, "dog"), (1, 3, "cat")), "low_event_share"),
    ],
)
def test_each_reason(rejected, reason):
    result = filter_videos([rejected], CONFIG, seed=0)
    assert result.videos == []
    (row,) = result.rejected
    assert row == ErrorRow("v", "filter", reason, row.message, retryable=False)
    assert row.message.endswith(".")


@pytest.mark.parametrize(
    "kept",
    [
        video((0, 50, "dog"), duration_s=60.0),
        apart(3),
        video((0, 4.0, "dog")),
        video((0, 2, "dog"), (2, 3, "cat"), (2.5, 4, "dog")),
        video(*((i, i + 1.5, "dog") for i in range(9))),
        video((0.1, 0.4, "dog"), duration_s=3.75),
    ],
)
def test_at_the_bounds_a_video_is_kept(kept):
    result = filter_videos([kept], CONFIG, seed=0)
    assert [v.video_id for v in result.videos] == ["v"]
    assert result.rejected == [] and result.reasons == {}


def test_segments_are_kept_as_they_are_and_numbered_by_start():
    (kept,) = filter_videos(
        [video((5, 9, "dog"), (20, 30, "cat"), (0, 6, "dog"), (5, 9, "dog"))], CONFIG, seed=0
    ).videos
    assert spans(kept.events) == [(1, 0, 6, "dog"), (2, 5, 9, "dog"), (3, 20, 30, "cat")]
    assert all(one.asked for one in kept.events)


def test_merging_is_a_setting():
    config = FilterConfig(merge_overlapping=True)
    (kept,) = filter_videos([video((5, 9, "dog"), (0, 6, "dog"), (20, 30, "cat"))], config, seed=0).videos
    assert spans(kept.events) == [(1, 0, 9, "dog"), (2, 20, 30, "cat")]


def test_labels_are_counted_or_events():
    many_of_three, four = apart(7, "seven of three labels", labels=3), apart(4, "four")
    by_labels = filter_videos([many_of_three, four], CONFIG, seed=0)
    assert [v.video_id for v in by_labels.videos] == ["seven of three labels"]
    assert by_labels.rejected[0].message == "4 labels, above 3."
    by_events = filter_videos([many_of_three, four], FilterConfig(count="events", max_events=4), seed=0)
    assert [v.video_id for v in by_events.videos] == ["four"]
    assert by_events.rejected[0].message == "7 events, above 4."


@pytest.mark.parametrize(("which", "asked"), [("all", 4), ("first", 1), (1, 1), (3, 3), (9, 4)])
def test_events_that_are_asked_about(which, asked):
    config = FilterConfig(events_per_video=which)
    (kept,) = filter_videos([apart(4, labels=2)], config, seed=0).videos
    assert [one.asked for one in kept.events] == [True] * asked + [False] * (4 - asked)
    assert [one.event_num for one in kept.events] == [1, 2, 3, 4]


def test_thresholds_are_configuration():
    loose = FilterConfig(max_duration_s=100, max_events=4, min_event_share=0.0)
    videos = [video((0, 0.1, "dog"), duration_s=99.0, video_id="a"), apart(4, "b")]
    assert [v.video_id for v in filter_videos(videos, loose, seed=0).videos] == ["a", "b"]


def test_reasons_are_counted_and_nothing_is_lost():
    videos = [apart(count, f"{count}-{i}") for count in range(6) for i in range(count + 1)]
    result = filter_videos(videos, CONFIG, seed=0)
    assert result.reasons == {"too_many_events": 5 + 6, "no_events": 1}
    assert sorted([v.video_id for v in result.videos] + [r.video_id for r in result.rejected]) == sorted(
        v.video_id for v in videos
    )


def balanced(seed, extra=()):
    sizes = {1: 9, 2: 4, 3: 6}
    videos = [apart(count, f"{count}-{i}") for i in range(9) for count, size in sizes.items() if i < size]
    return filter_videos([*videos, *extra], FilterConfig(balance=True), seed)


def test_balancing_keeps_equally_many_of_each_number():
    result = balanced(seed=0)
    assert Counter(len(v.events) for v in result.videos) == {1: 4, 2: 4, 3: 4}
    assert result.reasons == {"balancing": 5 + 2}


def test_balancing_depends_on_seed_and_ids_alone():
    def ids(result):
        return {v.video_id for v in result.videos}

    assert ids(balanced(0)) == ids(balanced(0, extra=[apart(5, "rejected anyway")]))
    assert ids(balanced(0)) != ids(balanced(1))


def test_balancing_of_one_kind_or_none_keeps_all():
    config = FilterConfig(balance=True)
    assert len(filter_videos([apart(2, "a"), apart(2, "b")], config, seed=0).videos) == 2
    assert filter_videos([], config, seed=0).videos == []
