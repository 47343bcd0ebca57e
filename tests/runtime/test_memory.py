"""Whether freed memory is there for the next step: counted in pages that the kernel had to clear."""

import subprocess
import sys

import pytest

from alexnet.runtime.memory import keep_freed_memory

STEPS = """
import resource, sys, threading
import torch
from alexnet.runtime.memory import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()

def steps():
    for _ in range(5):
        torch.ones(2**24)  # 64 MiB, 2**14 pages

for _ in range(2):
    steps()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    if sys.argv[2] == "thread":
        thread = threading.Thread(target=steps)
        thread.start()
        thread.join()
    steps()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages_cleared(setting, where):
    child = subprocess.run(
        [sys.executable, "-c", STEPS, setting, where], capture_output=True, text=True, timeout=120, check=True
    )
    return int(child.stdout)


@pytest.mark.skipif(not keep_freed_memory(), reason="this C library has no mallopt: only glibc has")
def test_the_next_step_finds_its_memory_cleared():
    assert pages_cleared("leave", "main") > 5 * 2**13
    assert pages_cleared("keep", "main") < 2**12


@pytest.mark.skipif(not keep_freed_memory(), reason="this C library has no mallopt: only glibc has")
def test_a_thread_can_still_ask_for_blocks_larger_than_its_own_heap():
    assert 0 < pages_cleared("keep", "thread") < pages_cleared("leave", "thread")
