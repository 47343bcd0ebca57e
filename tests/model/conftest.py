"""What the tests of networks share: few hidden units, and one thread.

One thread because batches are tiny: where a machine is shared, waiting for a second costs far more than it brings.
"""

from dataclasses import replace

import pytest
import torch

from alexnet.model.variants import get_architecture


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def slim():
    """Variant → departures that give it few hidden units: all of its structure for a fraction of its memory."""

    def departures(name, units=64):
        architecture = get_architecture(name)
        return {"hidden": tuple(replace(layer, units=units) for layer in architecture.hidden)} if architecture else {}

    return departures
