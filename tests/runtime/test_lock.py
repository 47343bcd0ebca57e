"""One process a folder, named to whoever comes second, and freed however it ends."""

import os
import platform
import signal
import subprocess
import sys

import pytest

from alexnet.core.errors import UserError
from alexnet.runtime.lock import LOCK, exclusive_lock

HOLD = """
import sys, time
from pathlib import Path
from alexnet.runtime.lock import exclusive_lock
with exclusive_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_second_is_told_who_holds_it(tmp_path, holder):
    with pytest.raises(UserError) as caught, exclusive_lock(tmp_path):
        raise AssertionError("two at once")
    who = f"process {holder.pid} on {platform.node()}"
    assert caught.value.line == f"{tmp_path} is in use by {who}: wait for it, or give another --out"
    holder.stdin.close()  # it leaves
    holder.wait()
    with exclusive_lock(tmp_path):
        pass


def test_sigkill_frees_it(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with exclusive_lock(tmp_path):
        assert f'"process": {os.getpid()}' in (tmp_path / LOCK).read_text(encoding="utf-8")


def test_a_holder_without_a_name(tmp_path, holder):
    """Its disk may have been full."""
    (tmp_path / LOCK).write_bytes(b"")
    with pytest.raises(UserError, match="is in use by another process: wait for it"), exclusive_lock(tmp_path):
        raise AssertionError("two at once")
