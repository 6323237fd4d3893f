"""What the toy policy that writes graphs is made of: its tokens, its first weights, its lessons."""

import numpy as np
import pytest
import torch

from ravst_ray.core.graph_replies import parse_reply, render_reply
from ravst_ray.core.graphs import Graph, GraphFrame, Node
from ravst_ray.policy.families.qwen2_5_vl import Qwen25VL
from ravst_ray.toyworld.scene import NAMES, random_scene, render
from ravst_ray.toyworld.training.graph_lessons import Asked, Lessons, mentions
from ravst_ray.toyworld.training.graph_questions import asked_of, scene_record
from ravst_ray.toyworld.training.policy import POLICY, build_processor, build_tokenizer
from ravst_ray.toyworld.training.policy_gaze import WHEN, WHERE
from ravst_ray.toyworld.training.policy_graph import SHARES, VOCABULARY, Drawer, extended_model, extended_tokenizer
from ravst_ray.toyworld.training.policy_pool import paint
from ravst_ray.training.forward import Row, VideoForward

SEED = 4343


@pytest.fixture(scope="module")
def tokenizer():
    return extended_tokenizer()


@pytest.fixture(scope="module")
def lessons(tokenizer):
    scenes = {index: paint(SEED, index) for index in range(2)}
    asked = {index: list(asked_of(_record(index))) for index in scenes}
    drawer = Drawer(extended_model(tokenizer).eval())
    return Lessons(drawer, build_processor(tokenizer), SEED, scenes, asked, np.random.default_rng(0))


def _record(index):
    return scene_record(random_scene(np.random.default_rng([SEED, index])), f"toy_{SEED}_{index:04d}")


def test_replies_are_short_and_come_back_exactly(tokenizer):
    nodes = (Node("red ball.1", "red ball", (0.31, 0.62)), Node("blue drum.1", "blue drum", (0.7, 0.05)))
    text = render_reply("B", Graph((GraphFrame(2.0, nodes), GraphFrame(12.0, nodes[:1]))), edges=False)
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    pieces = [tokenizer.decode([token]) for token in ids]
    assert pieces[3:14] == [
        '{"frames":[{"t":',
        "2",
        '.0,"nodes":[{"id":"',
        "red",
        " ball",
        '.1","pos":[',
        "0.31",
        ",",
        "0.62",
        ']},{"id":"',
        "blue",
    ]
    assert len(ids) == 6 + 6 + 1 + 6 + 1 + 2 + 6 + 8  # beginning, nodes and what is between, end and answer


def test_a_share_is_one_token_and_begins_as_its_pixel(tokenizer, lessons):
    assert all(len(tokenizer(share)["input_ids"]) == 1 for share in SHARES)
    weight = lessons.drawer.model.get_input_embeddings().weight
    before = build_tokenizer()
    half, pixel = tokenizer.convert_tokens_to_ids("0.5"), before.convert_tokens_to_ids("56")  # 0.5 * 112
    assert torch.equal(weight[half], weight[pixel])
    assert lessons.drawer.model.lm_head.weight is weight


def test_old_tokens_keep_their_numbers(tokenizer):
    old = build_tokenizer().get_vocab()
    new = tokenizer.get_vocab()
    assert all(new[token] == number for token, number in old.items())
    assert len(tokenizer) <= VOCABULARY


def test_questions_are_of_what_can_be_seen(lessons):
    kinds = set()
    for index, those in lessons.asked.items():
        scene = random_scene(np.random.default_rng([SEED, index]))
        for asked in those:
            kinds.add(asked.kind)
            reply = parse_reply(asked.reply)
            assert not reply.malformed
            for frame in reply.graph.frames:
                names = [sprite.name for sprite in scene.sprites]
                boxes = dict(zip(names, render(scene, frame.time_s).boxes_N, strict=True))
                assert {node.label for node in frame.nodes} == {name for name, box in boxes.items() if box}
                for node in frame.nodes:
                    x1, y1, x2, y2 = boxes[node.label]
                    assert node.pos == pytest.approx(((x1 + x2) / 512, (y1 + y2) / 512), abs=0.0101)
    assert {"object_counting", "localization"} <= kinds


def test_a_choice_is_thought_in_words_before_its_letter(lessons):
    choices = [asked for those in lessons.asked.values() for asked in those if "Answer with the letter." in asked.text]
    assert choices
    for asked in choices:
        letter = parse_reply(asked.reply).value
        words = next(line[3:] for line in asked.text.splitlines() if line.startswith(f"{letter}. "))
        assert asked.reply.endswith(f"]}}</graph>\n{words}: {letter}\n</think>\n<answer>{letter}</answer>")


def test_numbers_of_a_reply_are_looked_for_where_they_are_seen(tokenizer):
    reply = (
        '<think>\n<graph>{"frames":[{"t":3.0,"nodes":[{"id":"red ball.1","pos":[0.3,0.62]}]},'
        '{"t":5.0,"nodes":[]}]}</graph>\n</think>\n<answer>[1.0, 4.5]</answer>'
    )
    pieces = [tokenizer.decode([token]) for token in tokenizer(reply)["input_ids"]]
    found = list(mentions(pieces, Asked("temporal_localization", "", reply, "red ball")))
    red = 1 + NAMES.index("red ball")
    assert [(one.at, pieces[one.token], one.name, one.time_s) for one in found] == [
        (WHERE, "0.3", red, 3.0),
        (WHERE, "0.62", red, 3.0),
        (WHEN, "1", red, 1.0),
        (WHEN, "4", red, 4.5),
    ]


def test_questions_in_one_line_lose_what_they_lose_alone(lessons):
    lessons.rng = np.random.default_rng(3)
    with torch.no_grad():
        together = float(lessons.losses(2, 4)[0]["replies"])
    lessons.rng = np.random.default_rng(3)
    middle = int(lessons.rng.integers(2))
    places = [int(one) for one in lessons.rng.choice(lessons.by_length, 2, replace=False)]
    assert middle in (0, 1)
    forward = VideoForward(lessons.forward.processor, Qwen25VL(), banned=False, share_prompts=False)
    lost = weight = 0.0
    for index in places:
        for number in lessons.some(lessons.asked[index], 4):
            told = lessons.told(index, number)
            row = Row(told.prompt, told.reply, lessons.scenes[index].clip)
            with torch.no_grad():
                logps = forward.score(lessons.drawer.model, [row]).logps[0]
            lost -= float(logps @ torch.tensor(told.weights))
            weight += sum(told.weights)
    assert together == pytest.approx(lost / weight, abs=1e-4)


def test_it_begins_as_the_trained_policy(lessons):
    trained = Qwen25VL().learner().load(str(POLICY), torch.float32).state_dict()
    for name, weight in lessons.drawer.model.state_dict().items():
        known = len(build_tokenizer()) if len(weight) == VOCABULARY else len(weight)
        assert torch.equal(weight[:known], trained[name][:known])
