"""Distances of boxes held against a solver, turns against headings."""

import math

import numpy as np
import pytest
from scipy.optimize import lsq_linear
from scipy.spatial.transform import Rotation

from ravst_ray.core.cuboids import Cuboid, along_floor_m, gap_m, turn_deg

UPRIGHT = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


def solved_gap_m(one, other):
    """The least distance of points c + u A, |u| <= size / 2: least squares with bounds."""
    a, b = (np.array(cuboid.axes).T for cuboid in (one, other))
    half = np.concatenate([one.size, other.size]) / 2
    found = lsq_linear(np.hstack([a, -b]), np.subtract(other.centre, one.centre), (-half, half), tol=1e-14)
    return math.sqrt(2 * found.cost)


def random_cuboid(rng, spread):
    """Anywhere, turned anyhow."""
    axes = Rotation.random(random_state=rng.integers(2**31)).as_matrix()
    centre, size = rng.normal(0, spread, 3), rng.uniform(0.05, 2, 3)
    return Cuboid(tuple(centre), tuple(map(tuple, axes)), tuple(size))


def test_gaps_are_those_that_a_solver_finds():
    rng = np.random.default_rng(0)
    pairs = [(random_cuboid(rng, 1.0), random_cuboid(rng, 1.0)) for _ in range(300)]
    gaps = [gap_m(one, other) for one, other in pairs]
    assert gaps == pytest.approx([solved_gap_m(one, other) for one, other in pairs], abs=1e-5)
    assert 30 < sum(gap == 0 for gap in gaps) < 270, "both kinds are tried"
    assert gaps == pytest.approx([gap_m(other, one) for one, other in pairs])


@pytest.mark.parametrize(
    ("centre", "gap"),
    [
        ((3.0, 0.0, 0.0), 2.0),  # face to face
        ((3.0, 4.0, 0.0), math.hypot(2, 3)),  # edge to edge
        ((3.0, 4.0, 5.0), math.hypot(2, 3, 4)),  # corner to corner
        ((1.0, 0.0, 0.0), 0.0),  # they touch
        ((0.1, 0.0, 0.0), 0.0),
    ],
)
def test_gaps_of_unit_cubes(centre, gap):
    one, other = Cuboid((0.0, 0.0, 0.0), UPRIGHT, (1.0,) * 3), Cuboid(centre, UPRIGHT, (1.0,) * 3)
    assert gap_m(one, other) == pytest.approx(gap, abs=1e-12)


def test_crossing_edges():
    """Two long bars, crosswise, one above the other: the closest points lie amid edges when both stand on edge."""
    c = math.sqrt(0.5)
    one = Cuboid((0.0, 0.0, 0.0), ((1.0, 0.0, 0.0), (0.0, c, c), (0.0, -c, c)), (10.0, 1.0, 1.0))
    other = Cuboid((0.0, 0.0, 3.0), ((0.0, 1.0, 0.0), (c, 0.0, c), (-c, 0.0, c)), (10.0, 1.0, 1.0))
    assert gap_m(one, other) == pytest.approx(3 - 2 * c)


@pytest.mark.parametrize(("up", "flat"), [((0.0, 0.0, 1.0), (0, 1)), ((0.0, -1.0, 0.0), (0, 2))])
def test_turns_are_differences_of_headings(up, flat):
    """In a room x is east and y north; in a camera's axes x is right and z ahead: both seen from above."""
    rng = np.random.default_rng(1)
    for _ in range(50):
        stand, face, target = rng.normal(0, 3, (3, 3))
        heading = [math.atan2(*(point - stand)[list(flat)]) for point in (face, target)]
        turn = turn_deg(stand, face, target, up)
        assert math.remainder(math.radians(turn) - (heading[0] - heading[1]), 2 * math.pi) == pytest.approx(0, abs=1e-9)
        assert along_floor_m(stand, face, up) == pytest.approx(np.hypot(*(face - stand)[list(flat)]))


def test_left_is_left():
    """Facing north, west is to the left; from a camera that looks ahead, a smaller x is."""
    assert turn_deg((0, 0, 0), (0, 5, 1), (-1, 0, 0), (0, 0, 1)) == pytest.approx(90)
    assert turn_deg((0, 0, 0), (0, 0, 5), (-2, 0, 2), (0, -1, 0)) == pytest.approx(45)
