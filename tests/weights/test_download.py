"""Downloads from a local HTTP server that is slow, breaks off, lies about lengths, sends other bytes or redirects."""

import hashlib
import os
import subprocess
import sys
import threading
import time

import pytest

from alexnet.weights import download as module
from alexnet.weights.download import download

BYTES = b"".join(hashlib.sha256(number.to_bytes(4)).digest() for number in range(40_000))  # 1.28 MB
EXPECTED = f"sha256:{hashlib.sha256(BYTES).hexdigest()}"


@pytest.fixture
def fetch(server, tmp_path, notes):
    server.data = BYTES

    def run(size=None, expected=EXPECTED):
        return download(server.address, tmp_path / "weights.bin", size or len(BYTES), expected, notes)

    return run


def whole(tmp_path):
    """Whether the file is there, with the right bytes, and nothing else."""
    return [path.name for path in tmp_path.iterdir()] == ["weights.bin"] and (
        tmp_path / "weights.bin"
    ).read_bytes() == BYTES


def test_a_file_with_progress(fetch, server, tmp_path, notes):
    assert fetch() == ""
    assert whole(tmp_path)
    assert server.requests == [("/weights.bin", None)]
    assert notes.calls[0] == ("begin", "downloading weights.bin, in MB", 1, 0)
    assert notes.calls[-2:] == [("advance", 1, {}), ("finish",)]
    assert (tmp_path / "weights.bin").stat().st_mode & 0o777 == 0o644


def test_a_size_that_is_only_about_right(fetch, tmp_path):
    assert fetch(size=round(len(BYTES) / 1.01)) == ""
    assert whole(tmp_path)


def test_connections_that_break_are_continued(fetch, server, tmp_path):
    server.behave = lambda handler, start: handler.send_file(BYTES, start, sent=300_000)
    assert fetch() == ""
    assert whole(tmp_path)
    starts = [int(asked[6:-1]) if asked else 0 for _, asked in server.requests]
    assert starts == [0, 300_000, 600_000, 900_000, 1_200_000]


def test_a_slow_server(fetch, server, tmp_path):
    def trickle(handler, start):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(BYTES)))
        handler.end_headers()
        for place in range(0, len(BYTES), 200_000):
            handler.wfile.write(BYTES[place : place + 200_000])
            time.sleep(0.05)

    server.behave = trickle
    assert fetch() == ""
    assert whole(tmp_path)


def test_a_server_that_falls_silent(fetch, server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", 0.3)
    silent = threading.Event()

    def stall(handler, start):
        if start:
            handler.send_file(BYTES, start)
            return
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(BYTES)))
        handler.end_headers()
        handler.wfile.write(BYTES[:500_000])
        handler.wfile.flush()
        silent.wait(5)

    server.behave = stall
    assert fetch() == ""
    silent.set()
    assert whole(tmp_path)


def test_a_server_that_ignores_ranges(fetch, server, tmp_path):
    attempts = iter([400_000, None])
    server.behave = lambda handler, start: handler.send_file(BYTES, 0, sent=next(attempts))
    assert fetch() == ""
    assert whole(tmp_path)


def test_a_server_that_states_no_length(fetch, server, tmp_path):
    server.behave = lambda handler, start: handler.send_file(BYTES, start, stated="none")
    assert fetch() == ""
    assert whole(tmp_path)


def test_without_a_length_a_short_file_is_not_the_file(fetch, server, tmp_path):
    server.behave = lambda handler, start: handler.send_file(BYTES, start, stated="none", sent=1000)
    assert fetch().startswith("the server sent another file: sha256 ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stated", [len(BYTES) + 5_000_000, 10**15])
def test_lengths_that_are_too_large(fetch, server, tmp_path, stated):
    """The connection ends early each time; once all bytes are there, the server has no more."""
    server.behave = lambda handler, start: handler.send_file(BYTES, start, stated=stated)
    assert fetch() == ""
    assert whole(tmp_path)


def test_a_length_that_is_too_small(fetch, server, tmp_path):
    server.behave = lambda handler, start: handler.send_file(BYTES, start, stated=1000)
    assert fetch().startswith("the server sent another file: sha256 ")
    assert not list(tmp_path.iterdir())


def test_more_bytes_than_the_file_has(fetch, server, tmp_path):
    server.behave = lambda handler, start: handler.send_file(BYTES * 3, start)
    assert fetch() == "the server sent more than 1.28 MB"
    assert not list(tmp_path.iterdir())


def test_other_bytes(fetch, server, tmp_path):
    server.behave = lambda handler, start: handler.send_file(b"<html>log in first</html>", start)
    found = hashlib.sha256(b"<html>log in first</html>").hexdigest()
    assert fetch() == f"the server sent another file: sha256 {found}, expected {EXPECTED.replace(':', ' ')}"
    assert not list(tmp_path.iterdir())


def test_sha1(fetch, tmp_path):
    assert fetch(expected=f"sha1:{hashlib.sha1(BYTES, usedforsecurity=False).hexdigest()}") == ""
    assert whole(tmp_path)


def test_a_part_is_continued_and_a_part_of_another_file_is_not(fetch, server, tmp_path, notes):
    (tmp_path / ".weights.bin.part").write_bytes(BYTES[:700_000])
    assert fetch() == ""
    assert server.requests == [("/weights.bin", "bytes=700000-")]
    assert whole(tmp_path)
    for part in (b"x" * 700_000, b"x" * len(BYTES), BYTES + b"x"):  # the last two: nothing is left to be sent
        (tmp_path / "weights.bin").unlink()
        (tmp_path / ".weights.bin.part").write_bytes(part)
        assert fetch() == ""
        assert whole(tmp_path)
        assert notes.lines.pop() == "the part from an earlier download does not fit: starting again"


def test_a_complete_part_needs_no_bytes(fetch, server, tmp_path):
    (tmp_path / ".weights.bin.part").write_bytes(BYTES)
    server.behave = lambda handler, start: handler.send_file(BYTES, start)
    assert fetch() == ""
    assert server.requests == [("/weights.bin", f"bytes={len(BYTES)}-")]
    assert whole(tmp_path)


def test_redirects(fetch, server, tmp_path):
    def move(handler, start):
        if handler.path == "/weights.bin":
            handler.send_response(302)
            handler.send_header("Location", "/mirror/file")
            handler.end_headers()
        else:
            handler.send_file(BYTES, start, sent=800_000)

    server.behave = move
    assert fetch() == ""
    assert whole(tmp_path)
    assert ("/mirror/file", "bytes=800000-") in server.requests


def test_a_redirect_that_never_ends(fetch, server, tmp_path):
    def loop(handler, start):
        handler.send_response(302)
        handler.send_header("Location", "/weights.bin")
        handler.end_headers()

    server.behave = loop
    assert fetch().startswith("HTTP status 302")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("code", "attempts"), [(404, 1), (403, 1), (500, 5), (503, 5)])
def test_errors_of_the_server(fetch, server, tmp_path, code, attempts):
    server.behave = lambda handler, start: handler.send_error(code)
    problem = fetch()
    assert f"HTTP status {code}" in problem
    assert "\n" not in problem
    assert len(server.requests) == attempts
    assert not list(tmp_path.iterdir())


def test_a_server_that_recovers(fetch, server, tmp_path):
    errors = iter([500, 503])
    server.behave = lambda handler, start: (
        handler.send_error(code) if (code := next(errors, None)) else handler.send_file(BYTES, start)
    )
    assert fetch() == ""
    assert whole(tmp_path)


def test_a_broken_download_keeps_what_it_has(fetch, server, tmp_path):
    server.behave = lambda handler, start: handler.send_file(BYTES, start, sent=0 if start else 600_000)
    assert fetch().startswith("the connection broke off after 600 kB")
    assert [path.name for path in tmp_path.iterdir()] == [".weights.bin.part"]
    server.behave = lambda handler, start: handler.send_file(BYTES, start)
    assert fetch() == ""
    assert server.requests[-1] == ("/weights.bin", "bytes=600000-")
    assert whole(tmp_path)


def test_no_server(tmp_path, notes):
    problem = download("http://127.0.0.1:9/weights.bin", tmp_path / "weights.bin", 100, EXPECTED, notes)
    assert "Connection refused" in problem
    assert not list(tmp_path.iterdir())
    problem = download("http://no-such-host.invalid/weights.bin", tmp_path / "weights.bin", 100, EXPECTED, notes)
    assert problem
    assert "\n" not in problem


def test_a_disk_that_is_too_small_or_cannot_be_written(fetch, tmp_path, monkeypatch, server, notes):
    with monkeypatch.context() as patch:
        patch.setattr(module.shutil, "disk_usage", lambda path: os.terminal_size((0, 0)) and _Usage)
        assert fetch() == f"it needs 1.28 MB, and {tmp_path} has 1.00 kB free"
    (tmp_path / "file").touch()
    problem = download(server.address, tmp_path / "file" / "weights.bin", 100, EXPECTED, notes)
    assert problem.startswith(f"cannot write {tmp_path / 'file'}")
    (tmp_path / ".weights.bin.part").symlink_to(tmp_path / "elsewhere")
    assert fetch().startswith(f"cannot write {tmp_path / '.weights.bin.part'}")
    assert not (tmp_path / "elsewhere").exists()


class _Usage:
    free = 1000


def test_two_processes_download_once(server, tmp_path):
    def slow(handler, start):
        time.sleep(0.2)
        handler.send_file(BYTES, start)

    server.behave = slow
    code = (
        "import sys; from pathlib import Path; from alexnet.runtime.log import NullReporter\n"
        "from alexnet.weights.download import download\n"
        f"sys.exit(download({server.address!r}, Path({str(tmp_path / 'weights.bin')!r}), {len(BYTES)}, {EXPECTED!r},"
        " NullReporter()) or 0)"
    )
    children = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
    assert [child.wait(60) for child in children] == [0, 0, 0]
    assert whole(tmp_path)
    assert len(server.requests) == 1
