"""Files that are whole or absent, whatever fails on the way."""

import fcntl
import hashlib
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from alexnet.core import files
from alexnet.core.files import (
    in_work,
    json_text,
    leftovers,
    open_regular,
    publish_folder,
    read_bytes,
    read_json,
    read_text,
    remove_folder,
    scratch_folder,
    sha256_file,
    sha256_json,
    size_in_words,
    sync,
    write_bytes,
    write_json,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def refuse(*_arguments, **_keywords):
    raise OSError(28, "No space left on device")


def test_bytes_are_written_and_replaced(tmp_path):
    path = tmp_path / "new" / "file"
    for data in (b"first", b"", b"second " * 100_000):
        write_bytes(path, data)
        assert path.read_bytes() == data
        assert names(path.parent) == ["file"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, call):
    path = tmp_path / "file"
    write_bytes(path, b"old")
    if call == "fsync":
        monkeypatch.setattr(files.os, "fsync", refuse)
    else:
        monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="No space"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_json_that_is_nested_too_deeply_is_no_value(tmp_path):
    (tmp_path / "deep.json").write_bytes(b"[" * 10**6)
    with pytest.raises(ValueError, match="nested too deeply"):
        read_json(tmp_path / "deep.json")


def special_files(folder: Path) -> dict[str, Path]:
    """Files that are not regular, and links to them and to files that wait for ever."""
    os.mkfifo(folder / "pipe")
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(folder / "socket"))
    sock.close()
    links = {"zero": "/dev/zero", "terminal": "/dev/tty", "null": "/dev/null", "to-pipe": folder / "pipe"}
    for name, target in links.items():
        (folder / name).symlink_to(target)
    return {name: folder / name for name in ("pipe", "socket", *links)}


def test_special_files_are_refused_at_once(tmp_path):
    for path in special_files(tmp_path).values():
        for read in (open_regular, read_bytes, read_text, read_json, sha256_file):
            with pytest.raises(OSError, match="is not a regular file"):
                read(path)
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "absent")


@pytest.mark.skipif(not Path("/proc/kmsg").exists(), reason="there is no /proc/kmsg")
def test_a_regular_file_that_waits_for_data_is_refused(tmp_path):
    """The kernel's log is a regular file for ``stat``; a read of it waits for the next message."""
    (tmp_path / "x.jpg").symlink_to("/proc/kmsg")
    code = "import sys, pathlib, alexnet.core.files as f; f.read_bytes(pathlib.Path(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x.jpg")], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0 or "OSError" in done.stderr or "PermissionError" in done.stderr  # it did not wait


def test_a_file_that_is_replaced_by_a_pipe_while_it_is_opened(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"data")
    status = (tmp_path / "file").stat()
    monkeypatch.setattr(Path, "stat", lambda self, **given: status)
    closed = []
    close = os.close
    monkeypatch.setattr(files.os, "close", lambda handle: (closed.append(handle), close(handle)))
    with pytest.raises(OSError, match="is not a regular file"):
        open_regular(tmp_path / "pipe")
    assert len(closed) == 1


def test_nothing_is_read_of_a_file_above_the_limit(tmp_path):
    with (tmp_path / "large.jpg").open("wb") as file:
        file.truncate(20 << 30)
    tracemalloc.start()
    with pytest.raises(OSError, match="is larger than 256 MiB, the limit for such a file"):
        read_bytes(tmp_path / "large.jpg")
    with pytest.raises(OSError, match="is larger than 16 MiB"):
        read_json(tmp_path / "large.jpg")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    (tmp_path / "file").write_bytes(b"12345")
    assert read_bytes(tmp_path / "file", 5) == b"12345"
    assert read_text(tmp_path / "file", 5) == "12345"
    with pytest.raises(OSError, match="is larger than"):
        read_bytes(tmp_path / "file", 4)


def test_the_limit_holds_for_files_of_unknown_size(tmp_path):
    path = Path("/proc/self/status")
    if not path.exists():
        pytest.skip("there is no /proc")
    assert path.stat().st_size == 0
    assert b"VmHWM" in read_bytes(path)
    with pytest.raises(OSError, match="is larger than"):
        read_bytes(path, 100)


def test_a_write_is_synced_before_it_is_renamed(tmp_path, monkeypatch):
    seen = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(
        files.os, "fsync", lambda handle: (seen.append(("sync", os.fstat(handle).st_size)), fsync(handle))
    )
    monkeypatch.setattr(Path, "replace", lambda self, to: (seen.append(("rename", 0)), replace(self, to)))
    write_bytes(tmp_path / "file", b"12345")
    assert seen[:2] == [("sync", 5), ("rename", 0)]
    assert seen[2][0] == "sync"  # the folder: without it the name may be lost


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_files_and_folders_have_the_rights_that_the_user_wants(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_bytes(tmp_path / "file", b"")
        with publish_folder(tmp_path / "folder") as beside:
            (beside / "inside").write_bytes(b"")
    finally:
        os.umask(before)
    rights = [path.stat().st_mode & 0o777 for path in (tmp_path / "file", tmp_path / "folder")]
    assert rights == [0o666 & ~mask, 0o777 & ~mask]


def test_json_goes_there_and_back(tmp_path):
    value = {"name": "grün ×", "numbers": [0.1, 1e-300, 12345678901234567890], "nothing": None, "yes": True}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert (tmp_path / "a.json").read_text(encoding="utf-8").endswith("}\n")
    assert "grün" in (tmp_path / "a.json").read_text(encoding="utf-8")
    (tmp_path / "a.json").write_bytes(b'{"cut')
    with pytest.raises(ValueError, match="Unterminated"):
        read_json(tmp_path / "a.json")


def test_hashes_are_sha256(tmp_path):
    data = os.urandom(3_000_000)
    (tmp_path / "file").write_bytes(data)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(data).hexdigest()
    assert sha256_json({"b": [1, 2.5], "a": "é"}) == hashlib.sha256(b'{"a":"\\u00e9","b":[1,2.5]}').hexdigest()
    assert sha256_json({"b": 1, "a": 2}) == sha256_json(json.loads('{"a": 2, "b": 1}'))


def fill(folder, text):
    (folder / "deep").mkdir()
    (folder / "deep" / "file").write_text(text)


def test_a_folder_appears_whole(tmp_path):
    path = tmp_path / "new" / "folder"
    with publish_folder(path) as beside:
        fill(beside, "first")
        assert not path.exists()
    assert (path / "deep" / "file").read_text() == "first"
    assert names(path.parent) == ["folder"]


def test_a_folder_is_removed_but_not_what_a_link_names(tmp_path):
    (tmp_path / "there").mkdir()
    fill(tmp_path / "there", "kept")
    (tmp_path / "link").symlink_to(tmp_path / "there")
    with pytest.raises(OSError, match="it is a link to another folder"):
        remove_folder(tmp_path / "link")
    assert names(tmp_path) == ["link", "there"]
    remove_folder(tmp_path / "there")
    assert names(tmp_path) == ["link"]


def test_a_scratch_folder_is_gone_at_the_end_and_so_is_that_of_a_killed_process(tmp_path):
    with scratch_folder(tmp_path / "name") as killed:
        (tmp_path / "kept").mkdir()
        shutil.copytree(killed, tmp_path / ".unfinished.name.00000000")
        assert in_work(tmp_path)
        assert leftovers(tmp_path) == [tmp_path / ".unfinished.name.00000000"]
        with scratch_folder(tmp_path / "other"):
            assert leftovers(tmp_path) == []
            assert killed.exists()
    assert names(tmp_path) == ["kept"]
    assert not in_work(tmp_path)


def test_a_folder_replaces_the_one_that_was_there(tmp_path):
    path = tmp_path / "folder"
    for text in ("first", "second"):
        with publish_folder(path) as beside:
            fill(beside, text)
    assert (path / "deep" / "file").read_text() == "second"
    assert names(tmp_path) == ["folder"]


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, SystemExit])
def test_a_folder_whose_body_raises_leaves_nothing_new(tmp_path, there, error):
    path = tmp_path / "folder"
    if there:
        with publish_folder(path) as beside:
            fill(beside, "old")
    with pytest.raises(error), publish_folder(path) as beside:
        fill(beside, "new")
        raise error
    assert names(tmp_path) == (["folder"] if there else [])
    assert not there or (path / "deep" / "file").read_text() == "old"


@pytest.mark.parametrize("refused", [0, 1])
def test_a_folder_that_cannot_be_moved_into_place_leaves_the_old_one(tmp_path, monkeypatch, refused):
    path = tmp_path / "folder"
    with publish_folder(path) as beside:
        fill(beside, "old")
    rename, calls = Path.rename, []

    def sometimes(self, to):
        calls.append(to)
        return refuse() if len(calls) == refused + 1 else rename(self, to)

    monkeypatch.setattr(Path, "rename", sometimes)
    with pytest.raises(OSError, match="No space"), publish_folder(path) as beside:
        fill(beside, "new")
    assert (path / "deep" / "file").read_text() == "old"
    assert names(tmp_path) == ["folder"]


def test_every_file_is_synced_before_the_folder_is_renamed(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(files, "sync", lambda path: (seen.append(path.name), sync(path)))
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda self, to: (seen.append("rename"), rename(self, to)))
    with publish_folder(tmp_path / "folder") as beside:
        fill(beside, "text")
        name = beside.name
    assert seen == ["deep", "file", name, "rename", tmp_path.name]


BUILD_AND_WAIT = """
import sys
from pathlib import Path
from alexnet.core.files import publish_folder
with publish_folder(Path(sys.argv[1])) as beside:
    (beside / "half").write_bytes(b"half")
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_left_is_removed_by_the_next_and_a_living_one_is_let_be(tmp_path):
    command = [sys.executable, "-c", BUILD_AND_WAIT]
    with (
        subprocess.Popen([*command, tmp_path / "dead"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as dead,
        subprocess.Popen([*command, tmp_path / "alive"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as alive,
    ):
        for process in (dead, alive):
            assert process.stdout.readline() == b"ready\n"
        dead.send_signal(signal.SIGKILL)
        dead.wait()
        assert [name.split(".")[2] for name in names(tmp_path)] == ["alive", "dead"]  # both hidden
        with publish_folder(tmp_path / "mine") as beside:
            fill(beside, "text")
        assert [name.split(".")[2] for name in names(tmp_path) if name[0] == "."] == ["alive"]
        alive.communicate(b"")
        assert alive.returncode == 0
    assert names(tmp_path) == ["alive", "mine"]
    assert names(tmp_path / "alive") == ["half"]


def test_a_file_system_without_locks_still_has_whole_folders(tmp_path, monkeypatch):
    left = tmp_path / f"{files.UNFINISHED}other.0"
    left.mkdir()
    monkeypatch.setattr(fcntl, "flock", refuse)
    with publish_folder(tmp_path / "folder") as beside:
        fill(beside, "text")
    assert names(tmp_path) == [left.name, "folder"]  # nobody can say whether it is in use


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float64("nan")])
def test_json_is_valid_whatever_the_numbers(tmp_path, value):
    write_json(tmp_path / "a.json", {"a": [1.5, {"b": value}], "c": (value, 2)})
    text = (tmp_path / "a.json").read_text()

    def refuse(word):
        raise AssertionError(word)

    assert json.loads(text, parse_constant=refuse) == {"a": [1.5, {"b": None}], "c": [None, 2]}


def test_json_text_is_utf8_and_gives_the_names_back():
    names = ["猫", "\u202eright", "\x9b", "bytes \udcff", "\U000e0001", "a\nb"]
    text = json_text(names, indent=1)
    assert json.loads(text.encode()) == names
    assert "猫" in text
    assert text.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 bytes"), (1, "1 byte"), (999, "999 bytes"), (1000, "1.00 kB"), (45_300_000, "45.3 MB"),
     (999_600, "1.00 MB"), (1.8e9, "1.80 GB"), (10**19, "10,000 PB")],
)  # fmt: skip
def test_sizes_have_three_figures(count, words):
    assert size_in_words(count) == words


@pytest.mark.parametrize("name", ["\ud800", "a\0b", "folder\0/a"])
def test_a_name_that_no_file_can_have_is_an_os_error(name, tmp_path):
    with pytest.raises(OSError, match="no file can have this name"):
        write_bytes(tmp_path / name, b"")
    with pytest.raises(OSError, match="no file can have this name"), publish_folder(tmp_path / name):
        pass
    assert list(tmp_path.iterdir()) == []
