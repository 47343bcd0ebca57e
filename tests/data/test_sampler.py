"""The images of each step: every image once an epoch, and each step alone."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet.core.randomness import permutation
from alexnet.data.sampler import Sampler

sizes = {"count": st.integers(1, 200), "batch_size": st.integers(1, 70), "seed": st.integers(0, 5)}
some = settings(max_examples=60, deadline=None)


def strided(count, batch_size, seed):
    return Sampler(np.arange(1000, 1000 + 3 * count, 3), batch_size, seed)


@given(**sizes, epoch=st.integers(0, 6))
@some
def test_each_image_comes_once_an_epoch(count, batch_size, seed, epoch):
    sampler = strided(count, batch_size, seed)
    steps = range(epoch * sampler.steps_per_epoch, (epoch + 1) * sampler.steps_per_epoch)
    batches = [sampler.at(step) for step in steps]
    assert {number for number, _, _ in batches} == {epoch}
    index = np.concatenate([index for _, index, _ in batches])
    assert np.array_equal(np.sort(index), np.arange(1000, 1000 + 3 * count, 3))
    assert np.array_equal(np.concatenate([position for _, _, position in batches]), np.arange(count))
    whole, rest = divmod(count, batch_size)
    assert [len(index) for _, index, _ in batches] == [batch_size] * whole + [rest] * (rest > 0)


@given(**sizes, data=st.data())
@some
def test_any_step_can_be_had_alone(count, batch_size, seed, data):
    walked = strided(count, batch_size, seed)
    step = data.draw(st.integers(0, 3 * walked.steps_per_epoch))
    expected = [walked.at(before) for before in range(step + 1)][-1]
    epoch, index, position = strided(count, batch_size, seed).at(step)
    assert epoch == expected[0]
    assert np.array_equal(index, expected[1])
    assert np.array_equal(position, expected[2])


def test_each_epoch_and_seed_has_an_order_of_its_own():
    first = Sampler(np.arange(500), 500, 0)
    other = Sampler(np.arange(500), 500, 1)
    found = [first.at(0)[1], first.at(1)[1], other.at(0)[1]]
    assert len({tuple(index.tolist()) for index in found}) == 3
    assert np.array_equal(first.at(0)[1], Sampler(np.arange(500), 500, 0).at(0)[1])


def test_the_order_does_not_depend_on_the_batch_size():
    whole = Sampler(np.arange(100), 100, 3).at(0)[1]
    parts = Sampler(np.arange(100), 32, 3)
    assert np.array_equal(np.concatenate([parts.at(step)[1] for step in range(4)]), whole)


def test_threads_in_different_epochs_get_their_own_images(monkeypatch):
    """The thread of a loader is ahead of the training, which asks for earlier steps of the same sampler."""
    sampler, alone = Sampler(np.arange(40), 40, 3), [Sampler(np.arange(40), 40, 3).at(epoch)[1] for epoch in (0, 1)]
    real, inside, go_on = permutation, threading.Event(), threading.Event()

    def slow(key, epoch, count):
        if epoch == 1:
            inside.set()
            go_on.wait(10)
        return real(key, epoch, count)

    sampler.at(0)
    monkeypatch.setattr("alexnet.data.sampler.permutation", slow)
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(sampler.at, 1)
        assert inside.wait(10)
        during = [sampler.at(0)[1], sampler.at(0)[1]]
        go_on.set()
        assert np.array_equal(ahead.result()[1], alone[1])
    assert all(np.array_equal(index, alone[0]) for index in [*during, sampler.at(0)[1]])


def test_an_epoch_that_another_thread_computes_is_not_used_before_it_is_there(monkeypatch):
    sampler, expected = Sampler(np.arange(40), 40, 3), Sampler(np.arange(40), 40, 3).at(1)[1]
    real, nested = permutation, []

    def reentrant(key, epoch, count):
        if not nested:
            nested.append(None)
            nested.append(sampler.at(1)[1])  # as another thread would, before the first has its result
        return real(key, epoch, count)

    monkeypatch.setattr("alexnet.data.sampler.permutation", reentrant)
    assert np.array_equal(sampler.at(1)[1], expected)
    assert np.array_equal(nested[1], expected)
