"""Power cuts: an ext4 file system that is stopped at once while checkpoints are written to it, then mounted again.

``EXT4_IOC_SHUTDOWN`` without a flush of the journal simulates a power cut, as in the tests of file systems (xfstests):
data that was not synced is lost. A drive that reports data as written although it is not is not covered. Needs root
rights and loop devices.
"""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import signal
import struct
import subprocess
import time
from pathlib import Path

from alexnet_lab.faults.numbered import newest_numbered, save_on
from alexnet_lab.faults.trial import Child, FaultResult

SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32), linux/fs/ext4/ext4.h
NO_FLUSH = 2  # EXT4_GOING_FLAGS_NOLOGFLUSH
DISK = 64 * 2**20
FLOATS = 250_000  # 1 MB
LONGEST = 0.25  # seconds from the mount to the cut; a save takes a few hundredths


def cut_power(folder: Path, cuts: int, draws: random.Random) -> FaultResult:
    """``cuts`` power cuts, each followed by a mount: the last finished checkpoint is there and whole."""
    result = FaultResult("power cut while saving: ext4 stopped without a flush, mounted again")
    image, place = folder / "disk", folder / "mounted"
    if reason := _make_disk(image, place):
        result.remark = f"not possible here: {reason}"
        return result
    root, step, lost = place / "checkpoints", 0, 0
    for _ in range(cuts):
        _mount(image, place)
        child = Child(save_on(root, step, FLOATS))
        time.sleep(draws.uniform(0, LONGEST))
        _stop(place)
        _, done = child.signal_after(0, signal.SIGKILL)
        _unmount(place)
        _mount(image, place)
        newest, whole, messages = newest_numbered(root)
        expected = max([step, *done])
        result.count(passed=whole and newest >= expected, failure=f"{expected} was saved, {newest} found: {messages}")
        lost += len(messages)
        step = newest
        _unmount(place)
    result.remark = f"{step} checkpoints in all, {lost} incomplete folders skipped"
    return result


def _make_disk(image: Path, place: Path) -> str:
    """Make an empty file system in a file and try to mount it; returns why that fails, or an empty string."""
    tools = [name for name in ("mkfs.ext4", "mount", "umount") if not shutil.which(name)]
    if tools:
        return f"{tools[0]} is not installed"
    with image.open("wb") as file:
        file.truncate(DISK)
    place.mkdir()
    try:
        subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True, capture_output=True, text=True)
        _mount(image, place)
    except subprocess.CalledProcessError as error:
        return str(error.stderr).strip().splitlines()[-1]
    _unmount(place)
    return ""


def _mount(image: Path, place: Path) -> None:
    command = ["mount", "-t", "ext4", "-o", "loop", str(image), str(place)]
    subprocess.run(command, check=True, capture_output=True, text=True)


def _unmount(place: Path) -> None:
    subprocess.run(["umount", str(place)], check=True, capture_output=True, text=True)


def _stop(place: Path) -> None:
    """From now on nothing is written to the disk, including the journal."""
    handle = os.open(place, os.O_RDONLY)
    try:
        fcntl.ioctl(handle, SHUTDOWN, struct.pack("I", NO_FLUSH))
    finally:
        os.close(handle)
