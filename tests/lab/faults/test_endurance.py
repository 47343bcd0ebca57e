"""What is promised is survived; and each trial fails where the protection that it is about is taken out."""

import json
import subprocess
import sys

import pytest

TRIALS = {  # in the quick set: at least so many
    "SIGKILL while saving": 40,
    "power cut while saving": 10,
    "SIGKILL at random instants": 1,
    "SIGTERM, SIGUSR1, SIGINT": 4,
    "stopped after one step": 15,
    "a checkpoint is damaged": 120,
    "an image file is damaged": 1000,
    "a file may grow": 20,
    "an input/output error": 5,
    "the disk is full": 20,
    "a read-only file system": 1,
}


def python(*words):
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, timeout=500)


@pytest.fixture(scope="module")
def tallies():
    done = python("-m", "alexnet_lab.faults", "--json")
    assert done.returncode in (0, 1), done.stderr
    return json.loads(done.stdout)["trials"]


@pytest.mark.parametrize("what", TRIALS)
def test_it_survives(tallies, what):
    (tally,) = (tally for tally in tallies if tally["what"].startswith(what))
    if not tally["trials"] and "not tried" in tally["remark"]:
        pytest.skip(tally["remark"])  # this system lets nobody mount a disk of the test's own
    assert tally["failures"] == []
    assert tally["trials"] >= TRIALS[what]


BEGIN = """
import random, sys, tempfile
from pathlib import Path
from unittest import mock
import torch
torch.set_num_threads(1)
from alexnet_lab.faults import damage, disk, power, saving, training
from alexnet_lab.faults.__main__ import digits
from alexnet.runtime import checkpoint
folder, draws = Path(tempfile.mkdtemp(dir=sys.argv[1])), random.Random(0)
"""
END = """
print(tally.remark if tally.remark.startswith("not tried") else len(tally.failures))
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
    tally = saving.kill_while_saving(folder, 30, draws)
""",
    "files that are not synced": """
with mock.patch("os.fsync", lambda handle: None):
    tally = power.cut_power(folder, 10, draws)
""",
    "checkpoints that are not verified": """
with mock.patch.object(checkpoint, "verify", lambda path: None):
    tally = damage.damage_checkpoints(folder, 110, draws)
""",
    "metrics that are not cut": """
from alexnet.runtime.log import RunLog
with mock.patch.object(RunLog, "cut", lambda log, mark: True):
    tally = training.kill_while_training(folder, digits(folder / "home"), 8, 0, draws)
""",
    "velocities that are not restored": """
with mock.patch("alexnet.training.state.restore_optimizer", lambda *given: None):
    tally = training.resume_everywhere(folder, digits(folder / "home"), 15)
""",
    "signals that are not remembered": """
from alexnet.runtime.signals import Interrupts
with mock.patch.object(Interrupts, "_remember", lambda *given: sys.exit(1)):
    tally = training.stop_by_signals(folder, digits(folder / "home"), 2, draws)
""",
    "an error that leaves the folder in place": """
import contextlib
@contextlib.contextmanager
def in_place(path):
    path.mkdir(parents=True, exist_ok=True)
    yield path
with mock.patch.object(checkpoint, "publish_folder", in_place):
    tally = disk.limit_files(folder)
""",
}


@pytest.mark.parametrize("what", UNPROTECTED)
def test_a_trial_notices_what_is_missing(what, tmp_path):
    done = python("-c", BEGIN + UNPROTECTED[what] + END, str(tmp_path))
    assert done.returncode == 0, done.stderr
    answer = done.stdout.splitlines()[-1]
    if answer.startswith("not tried"):
        pytest.skip(answer)  # this system lets nobody mount a disk of the test's own
    assert int(answer) > 0
