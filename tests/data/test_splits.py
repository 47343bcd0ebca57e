"""Holding out: exact totals, strata, duplicates together, and nothing that depends on the order of the items."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet.data.splits import SPLITS, content_hash, hold_out, join_groups, split_by_hash


def hashes(count: int, seed: int = 0):
    return np.random.default_rng(seed).integers(0, 2**64, count, dtype=np.uint64)


def test_content_hash_is_the_first_eight_bytes_of_sha256():
    assert content_hash(b"") == 0xE3B0C44298FC1C14  # FIPS 180-4's digest of the empty message
    image = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    assert content_hash(image) == content_hash(image.tobytes())
    assert content_hash(image.transpose(2, 0, 1)) == content_hash(image.transpose(2, 0, 1).tobytes())


@pytest.mark.parametrize(("fraction", "total"), [(0.1, 100), (0.2, 200), (1 / 9, 112), (0.0, 0)])
def test_total_is_the_ceiling(fraction, total):
    targets = np.random.default_rng(1).integers(0, 7, 1000)
    assert hold_out(targets, hashes(1000), fraction).sum() == total


def test_no_rounding_error_in_the_ceiling():
    assert hold_out(np.zeros(70, dtype=int), hashes(70), 0.1).sum() == 7  # 0.1 · 70 > 7 in floats


def test_strata_take_their_share():
    targets = np.repeat([0, 1, 2], [100, 55, 14])
    held = hold_out(targets, hashes(len(targets)), 0.1)
    assert np.bincount(targets[held]).tolist() == [10, 6, 1]  # 10, 5.5, 1.4, in all ⌈16.9⌉


def test_small_classes_only_train():
    targets = np.repeat([0, 1, 2], [2, 1, 30])
    assert np.bincount(targets[hold_out(targets, hashes(33), 0.5)], minlength=3).tolist() == [0, 0, 15]
    assert np.bincount(targets[split_by_hash(targets, hashes(33)) > 0], minlength=3).tolist() == [0, 0, 6]


def test_fraction_out_of_range():
    with pytest.raises(ValueError, match="fraction is 1"):
        hold_out([0], hashes(1), 1)


def test_nothing_to_hold_out():
    assert hold_out(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.uint64), 0.1).shape == (0,)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 60)), min_size=1, max_size=120), st.randoms())
def test_properties(items, random):
    targets, marks = (np.array(column) for column in zip(*items, strict=True))
    marks = marks.astype(np.uint64)
    split = split_by_hash(targets, marks)
    for mark in set(marks.tolist()):
        assert len(set(split[marks == mark].tolist())) == 1  # duplicates together, across classes too
    held = hold_out(targets, marks, 0.1)
    for label, count in enumerate(np.bincount(targets)):
        assert held[targets == label].sum() <= (np.ceil(0.1 * count) if count >= 3 else 0)
    order = list(range(len(items)))
    random.shuffle(order)
    assert np.array_equal(split_by_hash(targets[order], marks[order]), split[order])


def test_deal_is_eighty_ten_ten():
    targets = np.random.default_rng(2).integers(0, 10, 5000)
    split = split_by_hash(targets, hashes(5000))
    assert dict(zip(SPLITS, np.bincount(split).tolist(), strict=True)) == {"train": 4000, "val": 500, "test": 500}
    for label in range(10):
        assert np.bincount(split[targets == label])[1:] == pytest.approx((targets == label).sum() / 10, abs=1)


def test_pairs_of_duplicates_still_reach_the_total():
    marks = np.repeat(hashes(500), 2)
    assert hold_out(np.zeros(1000, dtype=int), marks, 0.1).sum() == 100


@given(
    st.lists(st.tuples(st.integers(0, 6), st.sampled_from(["", "a", "b", "c", "d"])), min_size=1, max_size=30),
    st.randoms(use_true_random=False),
)
def test_groups_are_joined_by_content_and_by_name(items, order):
    """Judged by spreading labels until nothing changes; the order of the items has no influence."""
    numbers = np.array([number for number, _ in items], np.uint64)
    names = [name for _, name in items]
    found = join_groups(numbers, names)
    expected = list(numbers)
    for _ in items:
        for i in range(len(items)):
            alike = [j for j in range(len(items)) if numbers[i] == numbers[j] or (names[i] and names[i] == names[j])]
            expected[i] = min(expected[j] for j in alike)
    assert found.tolist() == [int(number) for number in expected]
    place = [*range(len(items))]
    order.shuffle(place)
    assert join_groups(numbers[place], [names[i] for i in place]).tolist() == found[place].tolist()


def test_without_names_each_content_is_its_own_group():
    numbers = hashes(50)
    assert np.array_equal(join_groups(numbers, [""] * 50), numbers)
