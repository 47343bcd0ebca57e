"""Files from servers that fail in each way: right bytes or one line, after a bounded number of attempts."""

import hashlib
import io
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from alexnet.core.errors import UserError
from alexnet.data import remote
from alexnet.data.remote import check_address, download, join, read, shown, upload

CONTENT = bytes(range(256)) * 12_000  # 3 MB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """A web server with one file; ``answers``: how each request in turn is answered, the last one for all later."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.answers, self.requests = CONTENT, ["right"], []

    def handle_error(self, *given):
        """Say nothing if the other side closes the connection."""

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}/set/file?signature=SECRET"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *given):
        pass

    def do_GET(self):
        server = self.server
        answer = server.answers[min(len(server.requests), len(server.answers) - 1)]
        server.requests.append((self.path, self.headers.get("Range")))
        if isinstance(answer, int):
            self.send_response(answer)
            self.send_header("Retry-After", "0")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = server.content
        if answer == "replaced":
            content = server.content = bytes(len(CONTENT))
        if answer == "longer":
            content = content + b"more"
        start = 0
        wanted = self.headers.get("Range")
        if wanted and answer not in ("ignores Range", "ignores Range and breaks"):
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            self.send_response(206)
            first = start + 1 if answer == "another part" else start
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        body = content[start:]
        if answer != "no length":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if answer in ("breaks", "ignores Range and breaks"):
            body = body[: len(body) // 2]
        if answer == "sends nothing":
            body = b""
        if answer == "one bit":
            body = body[:1000] + bytes([body[1000] ^ 1]) + body[1001:]
        for place in range(0, len(body), 1 << 17):
            self.wfile.write(body[place : place + (1 << 17)])
            if answer == "throttles":
                self.wfile.flush()
                time.sleep(0.005)
        self.close_connection = True


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(remote, "PAUSE", 0.001)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    "answers",
    [
        ["right"],
        ["throttles"],
        ["no length"],
        ["breaks", "right"],
        ["breaks", "breaks", "breaks", "right"],
        ["breaks", "ignores Range"],
        ["breaks", "another part", "right"],
        ["breaks", 503, 429, "right"],
        [503, 500, 429, "right"],
        ["sends nothing", "sends nothing", "right"],
        ["one bit", "right"],
        ["longer", "right"],
    ],
)
def test_the_right_bytes_come_from_a_server_with_faults(server, answers):
    server.answers = answers
    file = io.BytesIO()
    download(server.address, file, len(CONTENT), SHA256)
    assert file.getvalue() == CONTENT
    assert len(server.requests) <= len(answers)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([503], "HTTP status 503, 5 times"),
        ([429], "HTTP status 429, 5 times"),
        (["sends nothing"], "bytes are missing, 5 times"),
        (["ignores Range and breaks"], "bytes are missing, 5 times"),
        (["one bit"], "is not the file that its manifest describes"),
        (["longer"], "is not the file that its manifest describes"),
        (["breaks", "replaced"], "is not the file that its manifest describes"),
        ([404], "there is no file"),
        ([403], "HTTP status 403"),
    ],
)
def test_anything_else_is_one_line_after_few_attempts(server, answers, message):
    server.answers = answers
    with pytest.raises(UserError, match=message) as caught:
        download(server.address, io.BytesIO(), len(CONTENT), SHA256)
    assert len(server.requests) <= 30
    assert "SECRET" not in str(caught.value)
    assert "127.0.0.1" in str(caught.value)


def test_a_broken_download_goes_on_where_it_broke_off(server):
    server.answers = ["breaks", "right"]
    download(server.address, io.BytesIO(), len(CONTENT), SHA256)
    assert [wanted for _, wanted in server.requests] == [None, f"bytes={len(CONTENT) // 2}-"]


def test_a_server_that_hardly_sends_anything_is_given_up(server, monkeypatch):
    monkeypatch.setattr(remote, "ENOUGH_SECONDS", 0.0)
    monkeypatch.setattr(remote, "CHUNK", 1000)
    with pytest.raises(UserError, match="it is too slow, 5 times"):
        download(server.address, io.BytesIO(), len(CONTENT), SHA256)


def test_a_small_file_has_a_limit(server):
    assert read(server.address, len(CONTENT)) == CONTENT
    with pytest.raises(UserError, match="is larger than"):
        read(server.address, len(CONTENT) - 1)


def test_a_server_that_is_not_there_is_one_line(monkeypatch):
    monkeypatch.setattr(remote, "PAUSE", 0.0)
    with pytest.raises(UserError, match=r"cannot read http://127.0.0.1:1/x: Connection refused, 5 times"):
        read("http://127.0.0.1:1/x?signature=SECRET", 10)


def test_addresses_never_show_secrets():
    assert shown("s3://key:word@bucket/a?X-Amz-Signature=SECRET#b") == "s3://bucket/a"
    assert shown("/home/a?b") == "/home/a?b"
    assert join("https://a.b/set/?sig=1", "x.bin") == "https://a.b/set/x.bin?sig=1"
    assert join("s3://bucket/prefix", "x.bin") == "s3://bucket/prefix/x.bin"
    with pytest.raises(UserError, match="has a user name or password") as caught:
        check_address("https://me:SECRET@a.b/set")
    assert "SECRET" not in str(caught.value)


def test_files_are_copied_to_a_folder_and_never_to_a_web_server(tmp_path):
    (tmp_path / "a").write_bytes(CONTENT)
    upload(tmp_path / "a", (tmp_path / "new" / "b").as_uri())
    assert read(str(tmp_path / "new" / "b"), len(CONTENT)) == CONTENT
    with pytest.raises(UserError, match=r"cannot write to http://a.b/c: shards are written to"):
        upload(tmp_path / "a", "http://a.b/c?sig=1")
    with pytest.raises(UserError, match=r"addresses nosuch:// are not known"):
        upload(tmp_path / "a", "nosuch://a.b/c")
