"""A system without the POSIX calls: modules are imported all the same, and the work stops with one line."""

import subprocess
import sys

import pytest

from alexnet.core import platform
from alexnet.core.errors import UserError

WITHOUT = """
import os, signal, sys
sys.modules["fcntl"] = None  # importing it raises ImportError
del os.preadv, signal.SIGUSR1
import alexnet.core.files, alexnet.runtime.lock, alexnet.runtime.signals
from pathlib import Path
from alexnet.core.errors import UserError
for call in (
    alexnet.core.platform.check_platform,
    lambda: alexnet.core.files.publish_folder(Path(sys.argv[1]) / "folder").__enter__(),
    lambda: alexnet.runtime.lock.exclusive_lock(Path(sys.argv[1])).__enter__(),
):
    try:
        call()
    except UserError as error:
        print(error)
"""


def test_this_system_is_supported():
    platform.check_platform()


def test_a_system_without_them_gets_one_line(tmp_path):
    done = subprocess.run([sys.executable, "-c", WITHOUT, tmp_path], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert len(set(lines)) == 1
    assert lines[0].startswith("alexnet does not run on ")
    assert lines[0].endswith(", which lacks fcntl.flock, os.preadv, signal.SIGUSR1: use Linux (on Windows: WSL)")


def test_only_what_is_missing_is_named(monkeypatch):
    monkeypatch.delattr(platform.os, "preadv")
    monkeypatch.setattr(platform.platform, "system", lambda: "Someix")
    with pytest.raises(UserError) as caught:
        platform.check_platform()
    assert caught.value.line == ("alexnet does not run on Someix, which lacks os.preadv: use Linux (on Windows: WSL)")
