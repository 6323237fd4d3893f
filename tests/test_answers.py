"""Answers: parse and render are inverses, and no text makes the parser raise or run long."""

import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ravst_ray.core.answers import MALFORMATIONS, ObjectAnswer, parse, render
from ravst_ray.datasets.ravst_json import read_questions
from tests.published import published

QUIRKS = [
    "<answer>\n<object>trombone</object>\n<when>[0.0, 44.4]</when>\n</answer>",
    # a comma in a name, several boxes a second, an unsorted line, a "not visible" box, an empty <where>
    "<answer>\n<object>small, dark, irregularly shaped objects</object>\n<where>\n1.4: [0.0, 1.5, 20.0, 30.0]\n"
    "1.4: [5.0, 1.0, 9.0, 8.0]\n3.4: [0.0, 0.0, 0.0, 0.0]\n2.4: [1.0, 1.0, 2.0, 2.0]\n</where>\n"
    "<object>Woman (styling hair)</object>\n<where>\n</where>\n</answer>",
    "<answer>\n<object>Sun's rays</object>\n<when>[0.1, 1e-05]</when>\n<where>\n"
    "0.1: [1.0, 2.0, 3.0, 4.0]\n</where>\n</answer>",
]


@pytest.mark.parametrize("text", QUIRKS)
def test_render_gives_back_what_was_parsed(text):
    assert render(parse(text).objects) == text


def test_every_published_answer_survives_and_is_clean():
    pairs, _ = read_questions(published("ravst_test_annotations.json"))
    assert len(pairs) == 1134
    for pair in pairs:
        read = parse(pair.answer)
        assert not read.malformed, pair.qa_id
        assert render(read.objects) == pair.answer


numbers = st.floats(allow_nan=False, allow_infinity=False)
names = st.text(min_size=1, max_size=20).map(str.strip).filter(lambda name: name and "<" not in name)
lines = st.tuples(numbers, st.tuples(numbers, numbers, numbers, numbers))
objects = st.lists(
    st.builds(
        ObjectAnswer,
        names,
        st.none() | st.tuples(numbers, numbers),
        st.none() | st.lists(lines, max_size=4).map(tuple),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=200, deadline=None)
@given(objects)
def test_parse_is_the_inverse_of_render(found):
    read = parse(render(found))
    assert list(read.objects) == found
    assert set(read.malformed) <= {"inverted_when", "inverted_box"}


TAGS = ["<answer>", "</answer>", "<object>", "</object>", "<when>", "</when>", "<where>", "</where>"]
CONTENTS = ["dog", "\n", " ", "[", "1.0: [1, 2, 3, 4]", "[1.0, 2.0]", "nan", "inf", "\\x", "é", "<", ">", "1:[4,3,2,1]"]
fragments = st.sampled_from([*TAGS, *CONTENTS, ",", "\x00", "９"])


@settings(max_examples=300, deadline=None)
@given(st.lists(fragments | st.text(max_size=5), max_size=30).map("".join))
def test_any_text_is_read_without_raising(text):
    read = parse(text)
    assert set(read.malformed) <= set(MALFORMATIONS)
    assert all(count > 0 for count in read.malformed.values())
    for one in read.objects:
        assert one.name
        assert all(math.isfinite(x) for time_s, box in one.where or () for x in (time_s, *box))


@pytest.mark.parametrize(
    ("name", "inside", "malformed"),
    [
        ("ints and no spaces", "<object>a</object><where>12:[1,2,3,4]</where>", {}),
        ("spaces anywhere", "< object > a </ object ><where> 12.0 : [ 1 , 2 , 3 , 4 ] </where>", {}),
        ("a windows line end", "<object>a</object>\r\n<where>\r\n12.0: [1,2,3,4]\r\n</where>", {}),
        ("not a number", "<object>a</object><where>12: [1,2,nan,4]</where>", {"bad_where_line": 1}),
        ("infinite", "<object>a</object><where>12: [1,2,1e999,4]\n-inf: [1,2,3,4]</where>", {"bad_where_line": 2}),
        ("10,000 digits", f"<object>a</object><where>12: [1,2,{'9' * 10000},4]</where>", {"bad_where_line": 1}),
        ("five coordinates", "<object>a</object><where>12: [1,2,3,4,5]</where>", {"bad_where_line": 1}),
        ("x2 < x1", "<object>a</object><where>12: [3,2,1,4]</where>", {"inverted_box": 1}),
        ("inverted", "<object>a</object><when>[4, 1]</when>", {"inverted_when": 1}),
        ("one number", "<object>a</object><when>[4]</when>", {"bad_when": 1}),
        ("two intervals", "<object>a</object><when>[1, 2]</when><when>[1, 3]</when>", {"several_when": 1}),
        (
            "no name",
            "<object> </object><when>[1, 2]</when>",
            {"empty_object": 1, "when_without_object": 1, "no_object": 1},
        ),
        ("no end tag", "<object>a<when>[1, 2]", {"unclosed_object": 1, "unclosed_when": 1}),
        ("an end too many", "<object>a</object></when>", {"stray_tag": 1}),
        ("chatter", "<object>a</object> sounds at <when>[1, 2]</when>", {"stray_text": 1}),
    ],
)
def test_each_malformation_is_counted_by_its_kind(name, inside, malformed):
    assert parse(f"<answer>{inside}</answer>").malformed == malformed


def test_what_can_be_read_is_read():
    read = parse("<answer><object>dog, brown<when>[1, 2]<where>\n1: [1,2,3,4]\nrubbish\n2: [1,2,3")
    assert read.objects == (ObjectAnswer("dog, brown", (1.0, 2.0), ((1.0, (1.0, 2.0, 3.0, 4.0)),)),)
    assert read.malformed == {
        "unclosed_answer": 1,
        "unclosed_object": 1,
        "unclosed_when": 1,
        "unclosed_where": 1,
        "bad_where_line": 2,
    }


def test_thinking_before_the_answer_is_no_part_of_it():
    read = parse("<think>an <object>cat</object>?</think>\n<answer><object>dog</object></answer>\n")
    assert [one.name for one in read.objects] == ["dog"]
    assert read.malformed == {}


ANSWER = "<answer><object>dog</object></answer>"


@pytest.mark.parametrize(
    ("text", "names", "malformed"),
    [
        (f"<think>so {ANSWER} or", [], {"endless_thinking", "no_answer", "no_object"}),
        (f"<think>hm</think>{ANSWER}<think>or", ["dog"], {"endless_thinking"}),
        (f"<think>hm</think> wait <think>{ANSWER}", [], {"endless_thinking", "no_answer", "no_object"}),
        (f"<think>so {ANSWER}</think>", [], {"no_answer", "no_object"}),
        (f"so {ANSWER}</think>\n", [], {"no_answer", "no_object"}),
        (f"<think>a <answer><object>cat</object></answer>?</think>{ANSWER}", ["dog"], set()),
    ],
)
def test_a_draft_in_the_thinking_is_no_answer(text, names, malformed):
    read = parse(text)
    assert [one.name for one in read.objects] == names and set(read.malformed) == malformed


def test_the_last_answer_counts_and_text_after_it_is_malformed():
    read = parse("<answer><object>cat</object></answer><answer><object>dog</object></answer> so there")
    assert [one.name for one in read.objects] == ["dog"]
    assert read.malformed == {"several_answers": 1, "text_after_answer": 1}


def test_backslash_x_is_two_characters():
    assert parse("<answer><object>a\\x</object></answer>").objects == (ObjectAnswer("a\\x"),)


@pytest.mark.parametrize("name", ["", " dog", "a<when>b", "a</ answer >", "<think>", "a</think>b"])
def test_names_that_the_grammar_cannot_carry_are_refused(name):
    with pytest.raises(ValueError, match="can't carry"):
        render([ObjectAnswer(name)])


HOSTILE = {
    "objects": "<object>",
    "wheres": "<where>0",
    "answers": "<answer>",
    "ends": "</where>",
    "open tags": "< ",
    "spaces in a tag": "<" + " " * 50,
    "lines": "0: [1,2,3,4]\n",
    "digits": "1",
    "a number and no colon": "1 ",
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("prefix", ["", "<answer><object>a</object><where>", "<answer><object>a</object><when>["])
def test_time_grows_linearly(kind, prefix):
    def seconds(characters: int) -> float:
        text = prefix + HOSTILE[kind] * (characters // len(HOSTILE[kind]))
        started = time.process_time()
        parse(text)
        return time.process_time() - started

    assert seconds(1_000_000) < 2.5
