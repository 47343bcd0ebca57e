"""What the tests of networks share: one thread, for their batches are tiny."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def _one_thread(one_thread):
    """All of them."""
