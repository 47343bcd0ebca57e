"""Each kind of fault injection finds failures where its protection is removed."""

import subprocess
import sys

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def python(*words):
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, timeout=1700)


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
