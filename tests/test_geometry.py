"""Boxes, intervals, assignments, names: against arithmetic written here."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ravst_ray.core.geometry import box_iou, centre_distance, diagonal, is_real_box
from ravst_ray.core.intervals import interval_iou, merge, union_length
from ravst_ray.core.matching import best_assignment, matched_iou
from ravst_ray.core.names import NameMatcher, normal_words


def test_box_iou_by_hand():
    assert box_iou((0, 0, 10, 10), (0, 0, 10, 10)) == 1.0
    assert box_iou((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(50 / 150)
    assert box_iou((0, 0, 10, 10), (0, 0, 10, 5)) == pytest.approx(0.5)
    assert box_iou((0, 0, 10, 10), (10, 0, 20, 10)) == 0.0


@pytest.mark.parametrize(
    "box", [(0, 0, 0, 0), (5, 0, 1, 9), (0, 9, 5, 1), (0, 0, math.inf, 1), (math.nan, 0, 1, 1), (0, 0, 5, 0)]
)
def test_what_is_no_box_overlaps_nothing(box):
    assert not is_real_box(box)
    assert box_iou(box, box) == 0.0
    assert box_iou(box, (0, 0, 10, 10)) == 0.0


boxes = st.tuples(*[st.floats(-1e6, 1e6)] * 4)


@settings(deadline=None)
@given(boxes, boxes)
def test_iou_is_symmetric_and_bounded(a, b):
    assert 0.0 <= box_iou(a, b) <= 1.0
    assert box_iou(a, b) == pytest.approx(box_iou(b, a))


def test_centre_and_diagonal():
    assert diagonal((0, 0, 3, 4)) == 5.0
    assert centre_distance((0, 0, 2, 2), (3, 4, 5, 6)) == 5.0


def test_intervals_by_hand():
    assert interval_iou((0, 4), (2, 6)) == pytest.approx(2 / 6)
    assert interval_iou((0, 4), (4, 6)) == 0.0
    assert interval_iou((2, 2), (2, 2)) == 0.0
    assert interval_iou((4, 0), (0, 4)) == 0.0
    assert merge([(3, 4), (0, 1), (1, 2), (9, 8)]) == [(0, 2), (3, 4)]
    assert union_length([(0, 3), (2, 5), (7, 8)]) == 6


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.randoms())
def test_assignment_is_the_best_of_all(rows, columns, random):
    weights = [[random.choice([0.0, random.random()]) for _ in range(columns)] for _ in range(rows)]
    tall = weights if rows >= columns else [list(row) for row in zip(*weights, strict=True)]
    wide = len(tall[0])
    best = max(sum(tall[r][c] for c, r in enumerate(order)) for order in itertools.permutations(range(len(tall)), wide))
    pairs = best_assignment(weights)
    assert sum(weights[i][j] for i, j in pairs) == pytest.approx(best)
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)


def test_assignment_of_nothing():
    assert best_assignment([]) == []
    assert best_assignment([[]]) == []
    assert matched_iou([], [(0, 0, 1, 1)]) == 0.0


def test_matched_iou_takes_each_box_once():
    true = [(0, 0, 10, 10), (20, 0, 30, 10)]
    assert matched_iou(true, [(0, 0, 10, 10), (0, 0, 10, 10)]) == 1.0
    assert matched_iou(true, [(20, 0, 30, 10), (0, 0, 10, 5)]) == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("A man", ("man",)),
        ("The two young Boys", ("two", "young", "boy")),
        ("1. Two cars", ("two", "car")),
        ("Ambulance 2", ("ambulance", "2")),
        ("Buses", ("bus",)),
        ("small, dark, irregularly shaped objects", ("small", "dark", "irregularly", "shaped", "object")),
        ("people", ("person",)),
        ("puppies", ("puppy",)),
        ("glasses", ("glass",)),
        ("tennis", ("tennis",)),
        ("A person's hands", ("person", "hand")),
        ("the", ("the",)),
        ("", ()),
        ("🐕", ("🐕",)),
        ("मोर", ("मोर",)),
    ],
)
def test_normal_form_of_names(name, words):
    assert normal_words(name) == words


class Plane:
    """Three words in the plane: dog and puppy 36.87 degrees apart (cosine 0.8), car across."""

    tau = 0.75

    def vector(self, word):
        return {"dog": np.array([5.0, 0.0]), "puppy": np.array([0.8, 0.6]), "car": np.array([0.0, 2.0])}.get(word)


def test_similarity_is_the_cosine_of_mean_vectors():
    names = NameMatcher(Plane())
    assert names.similarity("A dog", "puppies") == pytest.approx(0.8)
    assert names.same("dog", "puppy") and not names.same("dog", "car")
    # mean of (5, 0) and (0, 2) is (2.5, 1): cosine with (1, 0) is 2.5 / sqrt(7.25)
    assert names.similarity("dog car", "dog") == pytest.approx(2.5 / math.sqrt(7.25))
    assert not NameMatcher(Plane(), tau=0.9).same("dog", "puppy")


def test_words_without_a_vector_are_compared_as_text():
    names = NameMatcher(Plane())
    assert names.same("The zyx", "zyx")
    assert not names.same("zyx", "dog")
    assert NameMatcher().same("Two dogs", "two Dog") and not NameMatcher().same("dog", "puppy")
