"""How a video is shown, what is asked, and how answers change their space; every number is worked out here."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravst_ray.config.video_llm import FramesConfig, PromptConfig
from ravst_ray.core.answers import parse, rewrite_where
from ravst_ray.media.clips import view_size, view_times
from ravst_ray.policy.families.chat import vl_positions
from ravst_ray.policy.prompts import question_prompt
from ravst_ray.records import VideoView
from ravst_ray.tasks.spaces import AnswerSpace

VIEW = VideoView(8, 1.0, 112, 56, 8.0, 448, 112)  # the frames are 1/4 as wide and 1/2 as high as the video
TRUTH = """<answer>
<object>red, small drum</object>
<where>
1.4: [40.0, 20.0, 80.4, 61.0]
2.4: [44.0, 20.0, 84.0, 61.0]
3.4: [48.0, 22.0, 88.0, 62.0]
4.4: [52.0, 24.0, 92.0, 64.0]
5.4: [56.0, 26.0, 96.0, 66.0]
</where>
</answer>"""


def test_frames_come_every_step_and_end_with_the_video():
    assert view_times(3.5, FramesConfig()) == (1.0, (0.0, 1.0, 2.0, 3.0))
    assert view_times(4.0, FramesConfig(step_s=4.0)) == (4.0, (0.0,))
    assert view_times(0.2, FramesConfig()) == (1.0, (0.0,))


def test_a_long_video_gets_a_multiple_of_the_step():
    # 10 s at 1 s are 10 frames; of at most 4 every third is left: 0, 3, 6, 9.
    assert view_times(10.0, FramesConfig(max_frames=4)) == (3.0, (0.0, 3.0, 6.0, 9.0))


@pytest.mark.parametrize(
    ("width", "height", "frames", "config", "size"),
    [
        (256, 256, 8, FramesConfig(), (252, 252)),  # 256 / 28 = 9.1
        (1280, 720, 8, FramesConfig(), (784, 448)),  # 448 cells a frame: 28.2 x 15.9, rounded
        (640, 360, 1000, FramesConfig(), (168, 84)),  # 3 cells a frame are below the least, 16: 5.3 x 3
        (256, 256, 8, FramesConfig(min_pixels=112 * 112, max_pixels=112 * 112), (112, 112)),
        (28, 2800, 1, FramesConfig(), (28, 2800)),
    ],
)
def test_frames_are_as_large_as_the_bounds_allow(width, height, frames, config, size):
    assert view_size(width, height, frames, config) == size


@given(st.integers(16, 4000), st.integers(16, 4000), st.integers(1, 64))
def test_frame_sizes_keep_the_bounds_and_the_aspect(width, height, frames):
    config = FramesConfig()
    w, h = view_size(width, height, frames, config)
    assert w % 28 == h % 28 == 0
    assert config.min_pixels <= w * h <= config.max_pixels
    cells = (w // 28, h // 28)
    if min(cells) >= 4:
        assert abs(w / h / (width / height) - 1) < 0.35


def test_the_prompt_states_frames_question_grammar_and_space():
    text = question_prompt("AVSTR", "When is it?", VIEW, PromptConfig(box_step_s=2.0))
    assert text.startswith(
        "8 frames of a video of 8 s, one every 1 s from 0 s on, each 112 x 56 pixels.\nWhen is it?\n"
    )
    for part in (
        "<when>[start, end]</when>",
        "second: [x1, y1, x2, y2]",
        "pixels of the frames (112 x 56)",
        "every 2 s",
    ):
        assert part in text
    assert parse(text).objects[0].name == "name"


@pytest.mark.parametrize(
    ("task", "when", "where"), [("AVTR", True, False), ("AVSR", False, True), ("AVSTR", True, True)]
)
def test_a_task_asks_for_its_own_parts(task, when, where):
    text = question_prompt(task, "?", VIEW, PromptConfig())
    assert ("<when>" in text, "<where>" in text) == (when, where)
    assert "<think>" in question_prompt(task, "?", VIEW, PromptConfig(think=True))


def test_true_answers_are_scaled_and_thinned_out_for_the_model():
    space = AnswerSpace.of(VIEW, PromptConfig(box_step_s=2.0))
    assert space.to_model(TRUTH) == (
        "<answer>\n<object>red, small drum</object>\n<where>\n"
        "1.4: [10, 10, 20, 30]\n"  # 40/4, 20/2, 80.4/4 = 20.1, 61/2 = 30.5 (round to even)
        "3.4: [12, 11, 22, 31]\n"
        "5.4: [14, 13, 24, 33]\n"
        "</where>\n</answer>"
    )


def test_what_the_model_says_is_scaled_back_and_filled_in():
    space = AnswerSpace.of(VIEW, PromptConfig(box_step_s=2.0))
    said = "x <answer><object>a</object><where>\n1.4: [10, 10, 20, 30]\n3.4: [12, 11, 22, 31]\n</where></answer> y"
    assert space.to_video(said) == (
        "x <answer><object>a</object><where>\n"
        "1.4: [40.0, 20.0, 80.0, 60.0]\n"
        "2.4: [44.0, 21.0, 84.0, 61.0]\n"  # half way
        "3.4: [48.0, 22.0, 88.0, 62.0]\n"
        "</where></answer> y"
    )


def test_seconds_are_not_filled_in_over_gaps_or_between_several_boxes():
    space = AnswerSpace(1.0, 1.0, True, 2.0)
    gap = "<where>\n1.0: [0, 0, 4, 4]\n7.0: [0, 0, 4, 4]\n</where>"
    two = "<where>\n1.0: [0, 0, 4, 4]\n1.0: [9, 9, 12, 12]\n3.0: [0, 0, 4, 4]\n</where>"
    hidden = "<where>\n1.0: [0, 0, 0, 0]\n3.0: [0, 0, 4, 4]\n</where>"
    for text, lines in ((gap, 2), (two, 3), (hidden, 2)):
        assert space.to_video(text).count(":") == lines


def test_other_spaces():
    assert AnswerSpace.of(VIEW, PromptConfig(box_space="thousand")).scale_x == 1000 / 448
    video = AnswerSpace.of(VIEW, PromptConfig(box_space="video", integer_boxes=False))
    assert video.to_model(TRUTH) == TRUTH == video.to_video(TRUTH)


@given(st.text(alphabet="<>/where0123456789.:,[] \nobjct-eE", max_size=400))
def test_no_text_breaks_the_conversion_and_malformations_stay(text):
    space = AnswerSpace(0.5, 0.25, True, 3.0)
    before, after = parse(text).malformed, parse(space.to_video(text)).malformed
    assert {k: v for k, v in after.items() if k != "inverted_box"} == {
        k: v for k, v in before.items() if k != "inverted_box"
    }


def test_lines_that_cannot_be_read_stay_behind_the_others():
    text = "<where>\nnonsense\n1.0: [1, 2, 3, 4]\n2.0: [1, 2, 3]\n</where>"
    doubled = rewrite_where(text, lambda lines: [(t, tuple(2 * v for v in box)) for t, box in lines])
    assert doubled == "<where>\n1.0: [2.0, 4.0, 6.0, 8.0]\nnonsense\n2.0: [1, 2, 3]\n</where>"


def test_absurd_numbers_stay_finite():
    said = "<answer><object>a</object><where>\n1: [-1e308, 0, 1e308, 5]\n</where></answer>"
    box = parse(AnswerSpace(0.001, 1.0, True, 1.0).to_video(said)).objects[0].where[0][1]
    assert box == (-1e7, 0.0, 1e7, 5.0)


def test_positions_continue_after_the_largest_of_the_video():
    # two tokens, a video of 2 x 2 x 2 merged patches with 4 positions a step in time, two tokens
    ids = [1, 1, *[9] * 8, 1, 1]
    positions = vl_positions(ids, 9, (2, 4, 4), seconds_per_grid=2.0, tokens_per_second=2.0)
    assert positions.tolist() == [
        [0, 1, 2, 2, 2, 2, 6, 6, 6, 6, 7, 8],
        [0, 1, 2, 2, 3, 3, 2, 2, 3, 3, 7, 8],
        [0, 1, 2, 3, 2, 3, 2, 3, 2, 3, 7, 8],
    ]
    with pytest.raises(ValueError, match="8 placeholders of video"):
        vl_positions(ids, 9, (3, 4, 4), 2.0, 2.0)


def test_a_verbatim_question_stands_alone_or_before_how_a_task_answers():
    config = PromptConfig(verbatim=True)
    assert question_prompt("vsi-bench", "How many?", VIEW, config) == "How many?"
    tuned = question_prompt("vsi-bench", "How many?", VIEW, config.model_copy(update={"as_task": "AVTR"}))
    assert tuned.startswith("How many?\nAnswer in exactly this form:\n<answer>")
