"""Power cuts: an ext4 file system that is stopped at once while checkpoints are written to it, then mounted again.

``EXT4_IOC_SHUTDOWN`` without a flush of the journal is what file systems' own tests (xfstests) take for a power cut:
what was not synced is gone. It says nothing of a drive that claims to have written what it has not. Needs root and
loop devices.
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
from alexnet_lab.faults.trial import Child, Tally

SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32), linux/fs/ext4/ext4.h
NO_FLUSH = 2  # EXT4_GOING_FLAGS_NOLOGFLUSH
DISK = 64 * 2**20
FLOATS = 250_000  # 1 MB
LONGEST = 0.25  # seconds from the mount to the cut; a save takes a few hundredths


def cut_power(folder: Path, cuts: int, draws: random.Random) -> Tally:
    """So many power cuts, the disk mounted again after each: the last checkpoint that was done is there, and whole."""
    tally = Tally("power cut while saving: ext4 stopped without a flush, mounted again")
    image, place = folder / "disk", folder / "mounted"
    if reason := _make_disk(image, place):
        tally.remark = f"not tried: {reason}"
        return tally
    root, step, lost = place / "checkpoints", 0, 0
    for _ in range(cuts):
        _mount(image, place)
        child = Child(save_on(root, step, FLOATS))
        time.sleep(draws.uniform(0, LONGEST))
        _stop(place)
        _, done = child.signal_after(0, signal.SIGKILL)
        _unmount(place)
        _mount(image, place)
        newest, whole, complaints = newest_numbered(root)
        expected = max([step, *done])
        tally.count(
            survived=whole and newest >= expected, otherwise=f"{expected} was done, {newest} found: {complaints}"
        )
        lost += len(complaints)
        step = newest
        _unmount(place)
    tally.remark = f"{step} checkpoints in all, {lost} folders passed over"
    return tally


def _make_disk(image: Path, place: Path) -> str:
    """Make an empty file system in a file and try to mount it; why that cannot be done here, or nothing."""
    tools = [name for name in ("mkfs.ext4", "mount", "umount") if not shutil.which(name)]
    if tools:
        return f"there is no {tools[0]}"
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
    """From now on nothing reaches the disk, the journal neither."""
    handle = os.open(place, os.O_RDONLY)
    try:
        fcntl.ioctl(handle, SHUTDOWN, struct.pack("I", NO_FLUSH))
    finally:
        os.close(handle)
