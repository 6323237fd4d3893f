"""Train/test split and file names by hash."""

import re

import pytest

from ravst_ray.datasets.splits import hash_share, split_of, unit_key

IDS = [f"video{i:05d}" for i in range(4000)]
NASTY_IDS = ["a b", "it's", 'say "hi"', "../../etc/passwd", "a/b", "-dash", "é", "", "x" * 300, "AbC", "aBc", "a_b"]


def test_shares_are_uniform():
    shares = [hash_share(0, video_id) for video_id in IDS]
    assert min(shares) >= 0 and max(shares) < 1
    assert sum(shares) / len(shares) == pytest.approx(0.5, abs=0.02)


def test_about_a_fifth_is_test():
    tests = sum(split_of(video_id, 0, 0.2) == "test" for video_id in IDS)
    assert tests / len(IDS) == pytest.approx(0.2, abs=0.02)


def test_the_split_of_known_ids_never_changes():
    """These values are stored in published datasets: a change of the hash would move videos between parts."""
    assert hash_share(0, "zLfhRM6G0OU", "split") == pytest.approx(0.6558911748711254, abs=1e-12)
    assert [split_of(v, 7, 0.5) for v in "abcdef"] == [
        "test",
        "test",
        "train",
        "test",
        "train",
        "train",
    ]


def test_bounds():
    assert {split_of(video_id, 0, 0.0) for video_id in IDS} == {"train"}
    assert {split_of(video_id, 0, 1.0) for video_id in IDS} == {"test"}


def test_a_larger_share_only_moves_videos_into_test():
    small = {v for v in IDS if split_of(v, 3, 0.1) == "test"}
    assert small < {v for v in IDS if split_of(v, 3, 0.3) == "test"}


def test_seeds_and_purposes_are_independent():
    differ = sum(split_of(v, 0, 0.5) != split_of(v, 1, 0.5) for v in IDS)
    assert differ / len(IDS) == pytest.approx(0.5, abs=0.03)
    assert hash_share(0, "a", "split") != hash_share(0, "a", "balance")


@pytest.mark.parametrize("video_id", NASTY_IDS)
def test_unit_keys_are_safe_file_names(video_id):
    assert re.fullmatch(r"[A-Za-z0-9_]{0,40}-[0-9a-f]{16}", unit_key(video_id))


def test_unit_keys_differ_even_without_case():
    assert len({unit_key(v).lower() for v in NASTY_IDS + IDS}) == len(NASTY_IDS) + len(IDS)


def test_unit_key_is_fixed_and_readable():
    assert unit_key("zLfhRM6G0OU") == "zLfhRM6G0OU-2ba37f73516eb14d"
