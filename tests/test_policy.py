"""What the toy policy is made of: its tokenizer, what it is asked, and what its training tells it to see."""

import math

import numpy as np
import pytest
import torch

from ravst_ray.core.answers import ObjectAnswer, parse, render
from ravst_ray.records import VideoView
from ravst_ray.toyworld.scene import NAMES, random_scene
from ravst_ray.toyworld.scene import render as paint_moment
from ravst_ray.toyworld.training.policy import POLICY, SIDE_PX, build_tokenizer, policy_config
from ravst_ray.toyworld.training.policy_annotators import careless
from ravst_ray.toyworld.training.policy_gaze import WHEN, WHERE, looks
from ravst_ray.toyworld.training.policy_measure import measure
from ravst_ray.toyworld.training.policy_pool import paint
from ravst_ray.toyworld.training.policy_targets import scene_targets
from tests.tiny_policies import FAMILY

UNSEEN_SEED = 4242


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def scenes():
    return [paint(UNSEEN_SEED, index) for index in range(3)]


def test_the_tokenizer_gives_answers_back_exactly(tokenizer, scenes):
    for scene in scenes:
        for question in scene.questions:
            for text in (question.answer, scene.space.to_model(question.answer)):
                assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_a_coordinate_is_one_token(tokenizer):
    for number in range(SIDE_PX + 1):
        assert len(tokenizer(str(number))["input_ids"]) == 1
    assert tokenizer.tokenize("3.2: [7, 112, 113]")[-3:] == ["11", "3", "]"]


def test_no_answer_holds_a_banned_token(tokenizer, scenes):
    banned = set(FAMILY.banned_ids(tokenizer))
    assert {tokenizer.convert_ids_to_tokens(one) for one in banned} == {
        "<|endoftext|>",
        "<|vision_start|>",
        "<|vision_end|>",
        "<|vision_pad|>",
        "<|image_pad|>",
        "<|video_pad|>",
    }
    assert tokenizer.eos_token_id not in banned
    for scene in scenes:
        for question in scene.questions:
            assert not banned & set(tokenizer(question.answer)["input_ids"])


def test_a_column_turns_the_width_axis_enough_to_be_told_from_its_neighbour(tokenizer):
    """With Qwen2.5-VL's own shares of the rotary frequencies, small heads can't see where in the picture they look."""
    text = policy_config(tokenizer).text_config
    share = text.rope_parameters["mrope_section"]
    pairs = text.hidden_size // text.num_attention_heads // 2
    fastest = text.rope_parameters["rope_theta"] ** (-(share[0] + share[1]) / pairs)
    assert sum(share) == pairs
    assert fastest > 0.1


def test_dense_targets_say_what_is_painted():
    """Where an object isn't covered, the targets' box is the painted one to a few pixels, and its name is right."""
    checked = 0
    for index in range(4):
        scene = random_scene(np.random.default_rng([UNSEEN_SEED, index]))
        painted = paint(UNSEEN_SEED, index)
        targets = scene_targets(scene, painted.view)
        for frame in range(0, painted.view.frames, 3):
            boxes_N = paint_moment(scene, frame * painted.view.step_s).boxes_N
            here = targets.times == frame // 2
            for sprite, box in zip(scene.sprites, boxes_N, strict=True):
                found = targets.boxes[here, frame % 2][targets.names[here, frame % 2] == 1 + NAMES.index(sprite.name)]
                if box is None or not len(found) or len(scene.sprites) > 2:
                    continue
                assert torch.allclose(found * 256 / 112, torch.tensor(box, dtype=torch.float32), atol=12)
                sounding = targets.sounding[here, frame % 2]
                named = targets.names[here, frame % 2] == 1 + NAMES.index(sprite.name)
                assert bool((sounding[named] == float(sprite.sounds_at(frame * painted.view.step_s))).all())
                checked += 1
    assert checked >= 6


def test_painted_questions_are_the_datasets(scenes):
    """Their answers are what annotation would write, in the dataset's pixels."""
    for scene in scenes:
        for question in scene.questions:
            assert render(parse(question.answer).objects) == question.answer


def test_the_heads_are_shown_what_is_written_about(tokenizer, scenes):
    """For each number of a true answer: the tokens of its object, in the frame of its time."""
    seen = {WHEN: 0, WHERE: 0}
    for index, scene in enumerate(scenes):
        targets = scene_targets(random_scene(np.random.default_rng([UNSEEN_SEED, index])), scene.view)
        for question in scene.questions:
            answer = scene.space.to_model(question.answer)
            ids = tokenizer(answer)["input_ids"]
            pieces = [tokenizer.decode([one]) for one in ids]
            names = {1 + NAMES.index(one.name) for one in parse(answer).objects}
            times = {time for one in parse(answer).objects for time, _ in one.where or ()}
            for look in looks(pieces, targets, scene.view):
                assert pieces[look.token].isdigit()
                assert set(targets.names[list(look.video)].flatten().tolist()) & names
                (grid,) = set(targets.times[list(look.video)].tolist())
                if look.at == WHERE:
                    assert grid in {min(round(time), scene.view.frames - 1) // 2 for time in times}
                else:
                    ends = {end for one in parse(answer).objects for end in one.when or ()}
                    assert grid in {min(math.ceil(end - 1e-6), scene.view.frames - 1) // 2 for end in ends}
                seen[look.at] += 1
    assert seen[WHEN] >= 4 and seen[WHERE] >= 40


def test_the_careless_annotator_by_hand():
    view = VideoView(10, 1.0, 112, 112, 10.0, 256, 256)
    where = ((2.0, (100.0, 100.0, 150.0, 140.0)), (4.0, (0.0, 200.0, 50.0, 250.0)))
    true = [ObjectAnswer("red drum", (2.0, 4.0), where)]
    (wide,) = parse(careless(render(true), view)).objects
    assert (wide.name, wide.when) == ("red drum", (0.0, 6.0))
    assert wide.where == ((2.0, (70.0, 76.0, 180.0, 164.0)), (4.0, (0.0, 170.0, 80.0, 256.0)))
    late = [ObjectAnswer("red drum", (7.0, 9.0), None)]
    assert parse(careless(render(late), view)).objects[0].when == (5.0, 10.0)
    several = [ObjectAnswer(name, None, where) for name in ("red drum", "blue bell")]
    (vague,) = parse(careless(render(several), view)).objects
    assert vague.name == "drum" and vague.where == wide.where


def test_the_shipped_policy_keeps_the_grammar_and_errs():
    """Greedy answers to unseen scenes: nearly all well-formed, better than trivial ones somewhere, never perfect."""
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(POLICY, dtype=torch.float32).eval()
    found = measure(
        model, AutoProcessor.from_pretrained(POLICY), FAMILY, [paint(UNSEEN_SEED, index) for index in range(8)]
    )
    assert found["questions"] >= 40
    assert found["format"] >= 0.95
    assert found["AVTR/temporal"] > 0.3 and found["AVSTR/temporal"] > 0.3
    assert max(found["AVSR/spatial"], found["AVTR/temporal"], found["AVSTR/spatial"]) < 0.9


def test_the_shipped_checkpoints_are_small():
    files = [path for path in POLICY.parent.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 30e6
    assert (POLICY / "README.md").read_text().startswith("---\nlicense: apache-2.0\n")
