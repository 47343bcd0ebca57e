"""What a training step may cost: the paper's network at its own batch of 128 in less than 4 GB."""

import pytest

from alexnet_lab.bench.interleaved import Candidate, time_interleaved
from alexnet_lab.bench.training import our_steps

GIGABYTES = 4e9

pytestmark = pytest.mark.slow


def test_the_paper_s_batch_of_128_takes_less_than_4_gb():
    ours = Candidate(our_steps, ("paper", 128, "auto", "cpu"))
    timed = time_interleaved({"ours": ours}, rounds=1, seconds=0)
    assert 61e6 * 4 * 3 < timed["ours"].peak_memory < GIGABYTES  # more than weights, gradients and velocities
