"""Batches and the thread that reads them ahead: any stop, any failure, any depth."""

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet.data import loader as module
from alexnet.data.loader import Loader, pixels_of, resident, to_device
from alexnet.data.sampler import Sampler

CPU = torch.device("cpu")


def images(count=60, side=4):
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def loader(start=0, stop=20, depth=3, count=60, batch_size=8, pixels=None):
    sampler = Sampler(np.arange(count), batch_size, 0)
    read = (images(count) if pixels is None else pixels).__getitem__
    return Loader(read, np.arange(count) % 7, sampler, CPU, start, stop, depth)


def summary(batches):
    return [
        (b.step, b.epoch, b.index.tolist(), b.position.tolist(), b.pixels.numpy().tobytes(), b.targets.tolist())
        for b in batches
    ]


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "loader"]


def test_a_batch_is_the_images_that_the_order_says():
    sampler = Sampler(np.arange(5, 60, 5), 4, 9)
    pixels, targets = images(), np.arange(60) * 2
    with Loader(pixels.__getitem__, targets, sampler, CPU, 0, 6) as batches:
        for step, batch in enumerate(batches):
            epoch, index, position = sampler.at(step)
            assert (batch.step, batch.epoch) == (step, epoch)
            assert np.array_equal(batch.index, index)
            assert np.array_equal(batch.position, position)
            assert np.array_equal(batch.pixels, pixels[index])
            assert batch.pixels.dtype == torch.uint8
            assert batch.targets.tolist() == (2 * index).tolist()
            assert batch.targets.dtype == torch.int64


def test_images_that_stay_on_the_device_are_the_same():
    pixels, targets, sampler = images(), np.arange(60), Sampler(np.arange(60), 7, 3)
    with Loader(pixels.__getitem__, targets, sampler, CPU, 0, 12) as batches:
        copied = summary(batches)
    with Loader(resident(pixels, CPU), targets, sampler, CPU, 0, 12) as batches:
        assert summary(batches) == copied


@pytest.mark.parametrize("block", [1, 5 * 48, 2**26])
def test_a_dataset_is_copied_in_blocks(monkeypatch, block):
    monkeypatch.setattr(module, "BLOCK", block)
    index = np.array([59, 0, 7])
    assert np.array_equal(resident(images(), CPU)(index), images()[index])


GPU = torch.device("cuda", 1)


def stored():
    """60 images of 48 bytes, whose ``read`` is the word "read"."""
    return SimpleNamespace(shape=(60, 4, 4, 3), whole=images, read="read")


@pytest.mark.parametrize(
    ("free", "count", "copied"), [(7_200, 60, True), (7_199, 60, False), (10**6, 59, False), (10**6, 10**6, True)]
)
def test_a_dataset_that_takes_up_to_two_fifths_of_the_free_memory_of_a_gpu_stays_there(
    monkeypatch, free, count, copied
):
    """60 images of 48 bytes. The figure of a GPU's free memory is made up, so no GPU is needed."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free * (device == GPU), 2 * free))
    monkeypatch.setattr(module, "resident", lambda pixels, device: "on the GPU")
    assert pixels_of(stored(), GPU, count) == ("on the GPU" if copied else "read")
    assert pixels_of(stored(), CPU, count) == "read"


def test_where_the_memory_is_gone_meanwhile_batches_are_copied(monkeypatch):
    def full(pixels, device):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**6, 10**6))
    monkeypatch.setattr(module, "resident", full)
    assert pixels_of(stored(), GPU, 60) == "read"


@given(start=st.integers(0, 25), length=st.integers(0, 10), batch_size=st.integers(1, 70), count=st.integers(1, 60))
@settings(max_examples=30, deadline=None)
def test_starting_later_gives_the_same_batches(start, length, batch_size, count):
    with loader(0, start + length, batch_size=batch_size, count=count) as batches:
        whole = summary(batches)
    with loader(start, start + length, batch_size=batch_size, count=count) as batches:
        part = summary(batches)
    assert [step for step, *_ in whole] == list(range(start + length))
    assert part == whole[start:]


@pytest.mark.parametrize("depth", [1, 3, 8])
def test_depth_changes_nothing_but_the_waiting(depth):
    with loader(depth=depth) as batches:
        found = summary(batches)
    with loader(depth=2) as batches:
        assert summary(batches) == found


def test_batches_are_there_before_they_are_needed_and_not_more_than_asked_for():
    with loader(depth=4) as batches:
        iterator = iter(batches)
        next(iterator)
        deadline = time.monotonic() + 10
        while batches._ready.qsize() < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert batches._ready.qsize() == 4


def test_pixels_may_be_memory_mapped_and_batches_written_to(tmp_path):
    np.save(tmp_path / "images.npy", images())
    pixels = np.load(tmp_path / "images.npy", mmap_mode="r")
    with loader(stop=3, pixels=pixels) as batches, loader(stop=3) as plain:
        for mapped, held in zip(batches, plain, strict=True):
            assert torch.equal(mapped.pixels, held.pixels)
            mapped.pixels.zero_()


@pytest.mark.parametrize("taken", [0, 1, 5, 20])
def test_the_thread_ends_with_the_context(taken):
    with loader() as batches:
        for batch, _ in zip(batches, range(taken), strict=False):
            assert batch.step < 20
        assert taken == 20 or threads()
    assert not threads()


def test_the_thread_ends_when_the_consumer_fails():
    with pytest.raises(ZeroDivisionError), loader() as batches:
        for _ in batches:
            raise ZeroDivisionError
    assert not threads()


class Failing:
    """Images of which the batches after the second cannot be had."""

    def __init__(self, error):
        self.error, self.calls = error, 0

    def __getitem__(self, index):
        self.calls += 1
        if self.calls > 2:
            raise self.error
        return images()[index]


@pytest.mark.parametrize("error", [OSError("Input/output error"), MemoryError("no memory"), SystemExit(3)])
@pytest.mark.parametrize("depth", [1, 3])
def test_what_the_thread_meets_reaches_the_consumer_after_the_good_batches(error, depth):
    seen = []
    with loader(depth=depth, pixels=Failing(error)) as batches:
        with pytest.raises(type(error)) as caught:
            seen += batches
        assert caught.value is error
    assert not threads()
    assert [batch.step for batch in seen] == [0, 1]


def test_a_failure_that_nobody_waits_for_does_not_hold_the_thread():
    with loader(depth=1, pixels=Failing(OSError("gone"))):
        time.sleep(0.05)
    assert not threads()


def test_iterating_goes_on_where_it_stopped_and_ends():
    with loader(stop=5) as batches:
        assert [next(iter(batches)).step for _ in range(2)] == [0, 1]
        assert [batch.step for batch in batches] == [2, 3, 4]
        assert [batch.step for batch in batches] == []


class Slow:
    """Images of which each batch takes 20 ms to read."""

    def __getitem__(self, index):
        time.sleep(0.02)
        return images()[index]


@pytest.mark.parametrize("depth", [0, 2])
def test_the_wait_for_a_slow_reader_is_counted(depth):
    with loader(stop=10, depth=depth, pixels=Slow()) as batches:
        list(batches)
        assert 0.15 < batches.waited < 2
    with loader(stop=10, depth=10, pixels=Slow()) as batches:
        time.sleep(0.5)  # longer than it takes to read them all
        list(batches)
        assert batches.waited < 0.05


def test_the_wait_counts_from_when_the_device_has_finished(monkeypatch):
    """The device of this test computes until it has been asked 20 times, 1 ms or more each."""
    answers = iter([True] * 20)
    monkeypatch.setattr(Loader, "_busy", lambda self: next(answers, False))
    with loader(stop=1, depth=1, pixels=Slow()) as batches:
        list(batches)
        assert batches.waited < 0.015


def test_outside_its_context_a_loader_raises_and_does_not_wait():
    idle = loader()
    with pytest.raises(RuntimeError, match="with block"):
        next(iter(idle))
    with idle:
        pass
    with pytest.raises(RuntimeError, match="with block"):
        next(iter(idle))


def test_to_the_cpu_nothing_is_copied():
    array = np.arange(5)
    assert to_device(array, CPU).data_ptr() == array.ctypes.data
