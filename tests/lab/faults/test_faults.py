"""Fault injection finds no failure; and each kind finds failures where its protection is removed."""

import json
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # all kinds, one after another

TRIALS = {  # at least so many in the quick set
    "SIGKILL while saving": 40,
    "power cut while saving": 10,
    "SIGKILL at random times": 1,
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


BEGIN = """
import random, sys, tempfile
from pathlib import Path
from unittest import mock
import torch
torch.set_num_threads(1)
from alexnet_lab.faults import damage, disk, power, resuming, saving
from alexnet_lab.faults.__main__ import digits
from alexnet.runtime import checkpoint
folder, draws = Path(tempfile.mkdtemp(dir=sys.argv[1])), random.Random(0)
"""
END = """
print(result.remark if result.remark.startswith("not possible here") else len(result.failures))
"""
UNPROTECTED = {
    "a checkpoint that is written over the last one": """
import contextlib, shutil
@contextlib.contextmanager
def over_the_last(path):
    for old in path.parent.glob("step-*"):
        shutil.rmtree(old)
    path.mkdir(parents=True)
    yield path
with mock.patch.object(checkpoint, "publish_folder", over_the_last):
    result = saving.kill_while_saving(folder, 30, draws)
""",
    "files that are not synced": """
with mock.patch("os.fsync", lambda handle: None):
    result = power.cut_power(folder, 10, draws)
""",
    "checkpoints that are not verified": """
with mock.patch.object(checkpoint, "verify", lambda path: None):
    result = damage.damage_checkpoints(folder, 110, draws)
""",
    "metrics that are not cut": """
from alexnet.runtime.log import RunLog
with mock.patch.object(RunLog, "cut", lambda log, mark: True):
    result = resuming.kill_while_training(folder, digits(folder / "home"), 8, 0, draws)
""",
    "velocities that are not restored": """
with mock.patch("alexnet.training.state.restore_optimizer", lambda *given: None):
    result = resuming.resume_after_each_step(folder, digits(folder / "home"), 15)
""",
    "signals that are not handled": """
from alexnet.runtime.signals import StopSignals
with mock.patch.object(StopSignals, "_on_signal", lambda *given: sys.exit(1)):
    result = resuming.stop_by_signals(folder, digits(folder / "home"), 2, draws)
""",
    "an error that leaves the folder in place": """
import contextlib
@contextlib.contextmanager
def in_place(path):
    path.mkdir(parents=True, exist_ok=True)
    yield path
with mock.patch.object(checkpoint, "publish_folder", in_place):
    result = disk.limit_files(folder)
""",
}


@pytest.mark.parametrize("what", UNPROTECTED)
def test_failures_are_found_without_the_protection(what, tmp_path):
    done = python("-c", BEGIN + UNPROTECTED[what] + END, str(tmp_path))
    assert done.returncode == 0, done.stderr
    answer = done.stdout.splitlines()[-1]
    if answer.startswith("not possible here"):
        pytest.skip(answer)  # this system lets nobody mount a disk of the test's own
    assert int(answer) > 0
