"""Fault injection finds no failure."""

import json
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # all kinds, one after another

TRIALS = {  # at least so many in the quick set
    "SIGKILL while saving": 40,
    "power cut while saving": 10,
    "SIGKILL at random times during a training,": 1,
    "SIGKILL at random times during a training for segmentation": 1,
    "SIGKILL at random times during a training for detection": 1,
    "SIGTERM, SIGUSR1, SIGINT": 4,
    "stopped after each step": 15,
    "damaged checkpoint": 120,
    "damaged image file": 1000,
    "file size limit": 20,
    "disk full": 20,
    "read-only file system": 1,
    "a system call fails while a checkpoint": 60,
    "a system call fails while images are prepared": 6,
    "a system call fails during a training": 6,
    "a system call fails while a report is written": 4,
    "changed file": 400,
    "random command line": 120,
}


def python(*words):
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, timeout=1700)


@pytest.fixture(scope="module")
def results():
    done = python("-m", "alexnet_lab.faults", "--json")
    assert done.returncode in (0, 1), done.stderr
    return json.loads(done.stdout)["trials"]


@pytest.mark.parametrize("what", TRIALS)
def test_there_is_no_failure(results, what):
    (result,) = (result for result in results if result["what"].startswith(what))
    if not result["trials"] and "not possible here" in result["remark"]:
        pytest.skip(result["remark"])  # this system lets nobody mount a disk of the test's own
    assert result["failures"] == []
    assert result["trials"] >= TRIALS[what]
