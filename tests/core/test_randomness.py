"""Draws: the generator's published answers, the shapes of the distributions, and that nothing but the key matters."""

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet.core.randomness import derive_key, integers, normal, permutation, philox4x32, uniform

KEY = derive_key(0, "test")

# kat_vectors of Random123 (Salmon et al.): philox4x32, 10 rounds: counter, key (low word first), answer
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_the_generator_gives_its_published_answers(counter, key, answer):
    assert tuple(philox4x32(counter, key[0] | key[1] << 32).tolist()) == answer


def test_all_published_answers_with_one_key_come_out_of_one_call():
    counters = np.array([KNOWN_ANSWERS[0][0], (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 0, 1)])
    together = philox4x32(tuple(counters.T), 0)
    assert together.shape == (4, 4)
    assert together[:, 0].tolist() == list(KNOWN_ANSWERS[0][2])
    for column, counter in enumerate(counters):
        assert together[:, column].tolist() == philox4x32(tuple(counter), 0).tolist()


@given(
    index=st.lists(st.integers(0, 2**40), min_size=1, max_size=20),
    epoch=st.integers(0, 2**32 - 1),
    draws=st.integers(1, 9),
)
@settings(max_examples=50, deadline=None)
def test_many_indices_at_once_are_each_alone(index, epoch, draws):
    for distribution in (uniform, normal):
        together = distribution(KEY, epoch, np.array(index), draws)
        assert together.shape == (draws, len(index))
        for column, one in enumerate(index):
            assert np.array_equal(together[:, column], distribution(KEY, epoch, one, draws))


def test_a_batch_in_another_order_or_company_changes_nothing():
    index = np.arange(1000)
    whole = uniform(KEY, 3, index, 3)
    order = np.random.default_rng(0).permutation(1000)
    assert np.array_equal(uniform(KEY, 3, order, 3), whole[:, order])
    assert np.array_equal(uniform(KEY, 3, index[700:710], 3), whole[:, 700:710])


def test_more_uniform_draws_begin_with_the_fewer():
    assert np.array_equal(uniform(KEY, 0, np.arange(9), 11)[:5], uniform(KEY, 0, np.arange(9), 5))


def test_every_part_of_the_name_of_a_draw_matters():
    names = [(KEY, 0, 0), (KEY + 1, 0, 0), (KEY, 1, 0), (KEY, 0, 1), (KEY, 0, 2**32)]
    assert len({tuple(uniform(*name, 2).tolist()) for name in names}) == len(names)
    keys = [
        derive_key(*parts) for parts in [(0, "a"), (1, "a"), (0, "b"), ("0", "a"), (0, "a", 0), (0, "ab"), ("a", 0)]
    ]
    assert len(set(keys)) == len(keys)
    assert all(0 <= key < 2**63 for key in keys)
    # fixed for ever, as runs are resumed by it: half the first eight bytes of the sha256 of "int:0", NUL, "str:crop"
    assert derive_key(0, "crop") == 0x2E0E704A5F6186F5
    assert derive_key(0, "crop") == int(hashlib.sha256(b"int:0\0str:crop").hexdigest()[:16], 16) // 2


def test_uniform_draws_are_uniform():
    draws = uniform(KEY, 0, np.arange(200_000), 3)
    assert draws.min() >= 0
    assert draws.max() < 1
    for row in draws:
        counts = np.bincount((row * 100).astype(int), minlength=100)
        chi_squared = ((counts - 2000) ** 2 / 2000).sum()  # 99 degrees of freedom: 99 ± 14
        assert 50 < chi_squared < 160
        for power in (1, 2, 3, 4):
            assert np.mean(row**power) == pytest.approx(1 / (power + 1), abs=4 / math.sqrt(200_000))
    assert np.abs(np.corrcoef(draws) - np.eye(3)).max() < 0.01
    assert abs(np.corrcoef(draws[0][:-1], draws[0][1:])[0, 1]) < 0.01


def test_normal_draws_are_normal():
    draws = normal(KEY, 0, np.arange(200_000), 3)
    for row in draws:
        moments = [np.mean(row**power) for power in (1, 2, 3, 4)]
        assert moments == pytest.approx([0, 1, 0, 3], abs=0.06)
        for limit, share in ((1, 0.6827), (2, 0.9545), (3, 0.9973)):
            assert np.mean(np.abs(row) < limit) == pytest.approx(share, abs=0.005)
    assert np.abs(np.corrcoef(draws) - np.eye(3)).max() < 0.01


@pytest.mark.parametrize("bound", [1, 2, 33, 1000])
def test_integers_reach_both_ends_and_not_beyond(bound):
    draws = np.array([0.0, np.nextafter(1, 0)])
    assert integers(draws, bound).tolist() == [0, bound - 1]
    counts = np.bincount(integers(uniform(KEY, 0, np.arange(100 * bound), 1)[0], bound))
    assert len(counts) == bound
    assert counts.min() > 40


@given(count=st.integers(0, 3000), epoch=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_a_permutation_has_each_index_once(count, epoch):
    assert np.array_equal(np.sort(permutation(KEY, epoch, count)), np.arange(count))


def test_permutations_differ_by_epoch_and_key_and_are_otherwise_the_same():
    first = permutation(KEY, 0, 500)
    assert np.array_equal(first, permutation(KEY, 0, 500))
    assert not np.array_equal(first, permutation(KEY, 1, 500))
    assert not np.array_equal(first, permutation(KEY + 1, 0, 500))


def test_every_order_of_four_is_about_as_frequent():
    orders, counts = np.unique([permutation(KEY, epoch, 4) for epoch in range(4800)], axis=0, return_counts=True)
    assert len(orders) == 24
    assert ((counts - 200) ** 2 / 200).sum() < 55  # 23 degrees of freedom: beyond with probability 2e-4
