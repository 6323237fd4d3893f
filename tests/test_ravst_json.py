"""The published format, both ways."""

import json

import pytest

from ravst_ray.datasets.ravst_json import dump_entries, dump_questions, read_entries, read_questions
from ravst_ray.errors import ConfigError
from tests.published import published


def qa(text):
    return {"Q": text, "A": f"<answer>{text}</answer>"}


TWICE = [
    {
        "video_name": "b",
        "duration": 40.5,
        "annotation": [
            {"event_num": 1, "AV Temporal Reasoning": [qa("b0")], "AV Spatial Reasoning": [qa("b1"), qa("b2")]},
            {"event_num": 1, "AV Spatial Reasoning": [qa("b3")]},
            {"event_num": 2, "AV ST Reasoning": [qa("b4 é")]},
        ],
    },
    {"video_name": "a", "duration": 7.0, "annotation": [{"event_num": 3, "AV ST Reasoning": [qa("a0")]}]},
    {"video_name": "b", "duration": 40.5, "annotation": [{"event_num": 1, "AV Temporal Reasoning": [qa("b5")]}]},
]


@pytest.fixture
def twice(tmp_path):
    path = tmp_path / "twice.json"
    path.write_text(json.dumps(TWICE, ensure_ascii=False), encoding="utf-8")
    return path


def test_the_index_runs_on_where_a_video_is_listed_twice(twice):
    pairs, durations = read_questions(twice)
    assert {pair.qa_id: pair.question for pair in pairs} == {
        "b/1/AVTR/0": "b0",
        "b/1/AVSR/0": "b1",
        "b/1/AVSR/1": "b2",
        "b/1/AVSR/2": "b3",
        "b/2/AVSTR/0": "b4 é",
        "a/3/AVSTR/0": "a0",
        "b/1/AVTR/1": "b5",
    }
    assert durations == {"b": 40.5, "a": 7.0}


def test_entries_come_back_byte_for_byte(twice):
    assert dump_entries(read_entries(twice)) == twice.read_text(encoding="utf-8")


def test_questions_come_back_with_their_ids(twice, tmp_path):
    pairs, durations = read_questions(twice)
    again = tmp_path / "again.json"
    again.write_text(dump_questions(pairs, durations), encoding="utf-8")
    found, found_durations = read_questions(again)
    assert sorted(found, key=lambda pair: pair.qa_id) == sorted(pairs, key=lambda pair: pair.qa_id)
    assert found_durations == durations


def test_the_published_file_comes_back_both_ways(tmp_path):
    path = published("ravst_test_annotations.json")
    assert dump_entries(read_entries(path)) == path.read_text(encoding="utf-8")
    pairs, durations = read_questions(path)
    assert len({pair.qa_id for pair in pairs}) == len(pairs) == 1134
    again = tmp_path / "again.json"
    again.write_text(dump_questions(pairs, durations), encoding="utf-8")
    assert {pair.qa_id: pair for pair in read_questions(again)[0]} == {pair.qa_id: pair for pair in pairs}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a readable JSON file"),
        ("{}", "is a list of videos"),
        ('[{"video_name": "a", "duration": "x", "annotation": []}]', "entry 0"),
        ('[{"video_name": "a", "duration": 3}]', "annotation"),
        (
            '[{"video_name": "a", "duration": 3, "annotation": '
            '[{"event_num": 1, "AV ST Reasoning": [{"Q": 1, "A": ""}]}]}]',
            "texts",
        ),
    ],
)
def test_what_is_not_the_format_is_named(tmp_path, text, message):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_questions(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.json"):
        read_questions(tmp_path / "nowhere.json")
