"""Candidates in their own processes: their turns, their peak memory, and a candidate that fails."""

import os
import time
from pathlib import Path

import pytest
import torch

from alexnet.core.errors import UserError
from alexnet.runtime.device import DeviceConfig
from alexnet_lab.bench.interleaved import Candidate, Timed, _Process, ratios, time_interleaved

ROOT = Path(__file__).parents[3]
IMAGES = 10
MEBI = 2**20


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    """Processes of their own import this module by its name, so the checkout must be where they look."""
    monkeypatch.syspath_prepend(ROOT)


def sleeps(seconds, memory=0):
    ballast = b"x" * memory

    def work():
        while True:
            time.sleep(seconds)
            yield IMAGES if len(ballast) == memory else 0

    return DeviceConfig(torch.device("cpu"), bf16=False), work()


def fails_at_once():
    raise RuntimeError("no such thing\nand a long story")


def dies_at_work():
    def work():
        os._exit(3)
        yield IMAGES

    return DeviceConfig(torch.device("cpu"), bf16=False), work()


def test_turns_go_round_and_each_process_has_its_own_peak():
    finished = []
    timed = time_interleaved(
        {"quick": Candidate(sleeps, (0.01,)), "slow": Candidate(sleeps, (0.04, 400 * MEBI))},
        rounds=2, seconds=0.2, progress=finished.append,
    )  # fmt: skip
    assert finished == [1, 2, 3, 4]
    assert [len(one.rates) for one in timed.values()] == [2, 2]
    assert 100 < timed["quick"].rate <= IMAGES / 0.01
    assert timed["slow"].rate <= IMAGES / 0.04
    assert min(ratios(timed["quick"], timed["slow"])) > 1.5
    assert 0.04 <= timed["slow"].first_seconds < 1
    assert timed["slow"].peak_memory - timed["quick"].peak_memory > 300 * MEBI


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (fails_at_once, "odd could not be timed: RuntimeError: no such thing"),
        (dies_at_work, "odd could not be timed: its process ended with status 3"),
    ],
)
def test_a_candidate_that_fails_is_named_with_its_error(prepare, reason):
    with pytest.raises(UserError) as caught:
        time_interleaved({"even": Candidate(sleeps, (0.01,)), "odd": Candidate(prepare)}, rounds=1, seconds=0.01)
    assert caught.value.line == reason


def test_the_error_of_a_process_that_ended_before_a_request_is_read():
    process = _Process("odd", Candidate(fails_at_once))
    process._process.join()
    with pytest.raises(UserError, match="odd could not be timed: RuntimeError: no such thing"):
        process.ask("first")
    process.end()


def test_ratios_are_taken_within_a_round():
    ours, stock = Timed((10.0, 30.0, 20.0), 0.0, 0), Timed((5.0, 10.0, 4.0), 0.0, 0)
    assert ratios(ours, stock) == [2.0, 3.0, 5.0]
    assert ours.rate == 20.0
