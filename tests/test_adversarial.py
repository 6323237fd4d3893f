"""Ways to game the reward, each below a noisy but honest answer.

A dog is heard from 10 to 20 s of a 60 s video and is seen in each of these ten seconds. The honest answer has tIoU 0.5
and a fifth of the true box in every second (vIoU 0.2). What an attack leaves alone it has from the honest answer.
"""

import pytest

from ravst_ray.tasks.rubric import Rubric
from tests.published import answer, question, when, where

DOG = "<object>dog</object>"
BOX, FIFTH = (100, 100, 200, 200), (100, 100, 120, 200)
SECONDS = range(10, 20)
TRUE_WHEN, HONEST_WHEN = when(10, 20), when(10, 15)
HONEST_WHERE = where(*((t, FIFTH) for t in SECONDS))
ONE_FRAME = where((10, BOX))
NINE = where(*((t, tuple(x + shift for x in BOX)) for t in SECONDS for shift in range(0, 900, 100)))
OTHERS = ["man", "woman", "car", "cat", "tree", "drum", "bell", "bus"]
TRUTH = {
    "AVTR": question("dog", TRUE_WHEN),
    "AVSR": question("dog", where(*((t, BOX) for t in SECONDS))),
    "AVSTR": question("dog", TRUE_WHEN, where(*((t, BOX) for t in SECONDS))),
}
HONEST = {
    "AVTR": (question("dog", HONEST_WHEN), 1 + 0.5),
    "AVSR": (question("dog", HONEST_WHERE), 1 + 0.5 * 1 + 0.5 * 0.2),
    "AVSTR": (question("dog", HONEST_WHEN, HONEST_WHERE), 1 + 0.5 * 0.5 + 0.5 * 0.2),
}
EMPTY = [part for name in OTHERS for part in (f"<object>{name}</object>", where())]
EVERY = [part for name in OTHERS for part in (f"<object>{name}</object>", HONEST_WHERE)]

ATTACKS = [
    # nine boxes a second, the true one among them: s(t) = 1/9
    ("nine boxes", "AVSR", question("dog", NINE), 1 + 0.5 + 0.5 / 9),
    ("nine boxes", "AVSTR", question("dog", HONEST_WHEN, NINE), 1 + 0.25 + 0.5 / 9),
    # one perfect second of ten
    ("one lucky frame", "AVSR", question("dog", ONE_FRAME), 1 + 0.5 + 0.5 * 0.1),
    ("one lucky frame", "AVSTR", question("dog", HONEST_WHEN, ONE_FRAME), 1 + 0.25 + 0.5 * 0.1),
    ("a second around a sure box", "AVSTR", question("dog", when(10, 11), ONE_FRAME), 1 + 0.5 * 0.1 + 0.5 * 0.1),
    # nine names for one: object 1/9, spatial 10 * 0.2 / (10 + 8 * 10)
    ("every object", "AVSR", answer(DOG, HONEST_WHERE, *EVERY), 1 + 0.5 / 9 + 0.5 * 2 / 90),
    ("every object, no boxes", "AVSR", answer(DOG, HONEST_WHERE, *EMPTY), 1 + 0.5 / 9 + 0.5 * 0.2),
    # tIoU 0.5 for one of two intervals; one of two tracks unpaired: 2 / 20
    ("twice the object", "AVTR", answer(DOG, HONEST_WHEN, DOG, HONEST_WHEN), 1 + 0.25),
    ("twice the object", "AVSR", answer(DOG, HONEST_WHERE, DOG, HONEST_WHERE), 1 + 0.25 + 0.5 * 0.1),
    ("twice the object", "AVSTR", answer(*[DOG, HONEST_WHEN, HONEST_WHERE] * 2), 1 + 0.5 * 0.25 + 0.5 * 0.1),
    ("empty tags", "AVTR", answer("<object></object>", "<when></when>"), 0),
    ("empty tags", "AVSR", answer("<object></object>", "<where></where>"), 0),
    ("a name and nothing else", "AVSR", question("dog", where()), 1 + 0.5),
    ("a name and nothing else", "AVSTR", question("dog", HONEST_WHEN, where()), 1 + 0.25),
    ("the whole video", "AVTR", question("dog", when(0, 60)), 1 + 10 / 60),
    ("the whole video", "AVSTR", question("dog", when(0, 60), HONEST_WHERE), 1 + 0.5 * 10 / 60 + 0.1),
    ("several answers", "AVTR", HONEST["AVTR"][0] + TRUTH["AVTR"], 1.0),
]  # fmt: skip


@pytest.mark.parametrize("task", HONEST)
def test_the_honest_answer(task):
    text, reward = HONEST[task]
    assert Rubric().score(task, text, TRUTH[task]).total == pytest.approx(reward)


@pytest.mark.parametrize(("name", "task", "text", "reward"), ATTACKS)
def test_attacks_earn_less_than_honesty(name, task, text, reward):
    assert Rubric().score(task, text, TRUTH[task]).total == pytest.approx(reward)
    assert reward < HONEST[task][1]


def test_the_whole_video_loses_for_any_event_under_half_of_it():
    for end_s in range(1, 30):
        truth = question("dog", when(0, end_s))
        assert Rubric().score("AVTR", question("dog", when(0, 60)), truth).total == pytest.approx(1 + end_s / 60)
        assert 1 + end_s / 60 < HONEST["AVTR"][1]
