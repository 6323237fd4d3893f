"""The recipe held against the published files: the real event labels, and the test questions made from them."""

import json
import re

import pytest

from ravst_ray.annotate.filter import filter_videos
from ravst_ray.annotate.questions import answer_tokens
from ravst_ray.config.annotate import FilterConfig, QuestionsConfig
from ravst_ray.core.frame_times import rounded_interval
from ravst_ray.datasets.ravst_json import read_questions
from ravst_ray.datasets.unav import read_unav
from tests.published import published


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """The 10,790 labelled videos of UnAV-100."""
    return read_unav(published("unav100_annotations.json"), tmp_path_factory.mktemp("none")).videos


@pytest.fixture(scope="module")
def asked():
    """The published test questions, and the names of their videos."""
    pairs, _ = read_questions(published("ravst_test_annotations.json"))
    return pairs, {pair.video_id for pair in pairs}


def test_the_filter_keeps_the_published_test_videos(videos, asked):
    kept = {video.video_id for video in filter_videos(videos, FilterConfig(), seed=0).videos}
    assert len(videos) == 10_790
    assert len(kept) == 10_217
    assert len(asked[1] & kept) / len(asked[1]) >= 0.995  # 743 of 745: two have four labels


def test_what_the_filter_leaves_out_and_why(videos):
    result = filter_videos(videos, FilterConfig(), seed=0)
    assert sum(result.reasons.values()) == 10_790 - 10_217
    assert set(result.reasons) == {"too_many_events", "low_event_share"}


def test_counting_events_instead_of_labels_is_not_what_was_published(videos, asked):
    by_events = FilterConfig(count="events", merge_overlapping=True)
    kept = {video.video_id for video in filter_videos(videos, by_events, seed=0).videos}
    assert len(asked[1] & kept) / len(asked[1]) < 0.8


def told(pairs):
    """(video, interval) of each published ``<when>``."""
    found = ((pair.video_id, re.search(r"<when>\[([\d.]+), ([\d.]+)\]", pair.answer)) for pair in pairs)
    return [(video_id, tuple(float(number) for number in one.groups())) for video_id, one in found if one]


def segments_of(video):
    return [rounded_interval(event.start_s, event.end_s) for event in video.events]


def test_published_intervals_are_single_segments(videos, asked):
    """Of those we have, all but a few are a segment of the labels to 0.1 s; merging segments would lose some."""
    segments = {video.video_id: segments_of(video) for video in videos}
    intervals = told(asked[0])
    assert len(intervals) > 500
    assert sum(interval in segments[video_id] for video_id, interval in intervals) / len(intervals) >= 0.99


def test_videos_that_have_two_segments_of_one_interval(videos):
    kept = map(segments_of, filter_videos(videos, FilterConfig(), seed=0).videos)
    assert sum(len(set(segments)) < len(segments) for segments in kept) == 231


def test_the_first_segment_is_what_most_questions_ask_about(videos, asked):
    first = {video.video_id: segments_of(video)[0] for video in videos}
    events = set(told(asked[0]))
    assert 0.8 < sum(interval == first[video_id] for video_id, interval in events) / len(events) < 0.95
    chosen = filter_videos(videos, FilterConfig(events_per_video="first"), seed=0).videos
    assert sum(event.asked for video in chosen for event in video.events) == len(chosen) == 10_217


def test_answers_above_the_token_limit_are_rare_in_the_published_data(asked):
    """8,331 and 17,415 tokens by our count; a crowd of 60 over 25 s would have some 46,000."""
    limit = QuestionsConfig().max_answer_tokens
    long = sorted(count for pair in asked[0] if (count := answer_tokens(pair.answer)) > limit)
    assert long == [8331, 17415]


def test_published_shares_of_the_tasks(asked):
    """What ``per_event`` in annotate_paper.yaml is made from: 1.49 questions an event, the tasks as in training."""
    entries = json.loads(published("ravst_test_annotations.json").read_text())
    events = sum(len(entry["annotation"]) for entry in entries)
    assert 1.4 < len(asked[0]) / events < 1.6
    total = 2663 + 2666 + 1204
    assert [round(1.49 * count / total, 2) for count in (2663, 2666, 1204)] == [0.61, 0.61, 0.27]
