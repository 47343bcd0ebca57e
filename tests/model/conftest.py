"""What the tests of networks share: few hidden units, and one thread, for their batches are tiny."""

from dataclasses import replace

import pytest

from alexnet.model.variants import get_architecture


@pytest.fixture(scope="module", autouse=True)
def _one_thread(one_thread):
    """All of them."""


@pytest.fixture(scope="session")
def slim():
    """Variant → departures that give it few hidden units: all of its structure for a fraction of its memory."""

    def departures(name, units=64):
        architecture = get_architecture(name)
        return {"hidden": tuple(replace(layer, units=units) for layer in architecture.hidden)} if architecture else {}

    return departures
