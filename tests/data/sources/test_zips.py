"""Zips of class folders: layouts, writers, members that cannot be used, and zips that state false lengths or places."""

import io
import stat
import struct
import subprocess
import tarfile
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet.core.errors import UserError
from alexnet.data.prepared import open_or_prepare
from alexnet.data.sources import archives, open_source
from alexnet.data.sources.zips import LIST_LIMIT

LOCAL, CENTRAL, END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"


def write(path: Path, names, method=zipfile.ZIP_DEFLATED, data=None) -> Path:
    """A zip of members whose content is their name, or ``data``."""
    with zipfile.ZipFile(path, "w", method) as packed:
        for name in names:
            packed.writestr(name, b"" if str(name).endswith("/") else data or str(name).encode())
    return path


def change(path: Path, signature: bytes, offset: int, new: bytes, which: int = 0) -> Path:
    """Overwrite bytes of the ``which``-th record that begins with ``signature``."""
    data, place = bytearray(path.read_bytes()), -1
    for _ in range(which + 1):
        place = data.index(signature, place + 1)
    data[place + offset : place + offset + len(new)] = new
    path.write_bytes(data)
    return path


def listed(source):
    return [(record.split, source.classes[record.label], record.payload) for record in source.records()]


def kept(path: Path):
    """The payloads that are used, and the warnings and faults."""
    source = open_source(str(path))
    records = list(source.records())
    assert all(record.payload == b"" for record in records if record.fault)
    used = [record.payload.decode() for record in records if not record.fault]
    return used, [*source.warnings, *(f"{record.name}: {record.fault}" for record in records if record.fault)]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("top", ["", "photos/"])
def test_class_folders(tmp_path, method, top):
    names = ["cat/", "cat/1.jpg", "dog/x/y/2.jpg", "cat/.DS_Store", "__MACOSX/cat/1.jpg", "README", "3.jpg"]
    path = write(tmp_path / "set.zip", [top + name for name in names], method)
    source = open_source(str(path))
    assert source.classes == ("cat", "dog")
    assert listed(source) == [
        (None, "cat", f"{top}cat/1.jpg".encode()),
        (None, "dog", f"{top}dog/x/y/2.jpg".encode()),
    ]
    assert source.warnings == (f"ignored, image beside the class folders: {top}3.jpg",)
    assert (source.name, source.count, source.location) == ("set", 2, str(path))
    assert listed(source) == listed(source)


def test_splits_and_readable_names_are_those_of_the_same_tar(tmp_path):
    names = ["top/test/b/1", "top/train/b/2", "top/train/a/3", "top/valid/a/4"]
    path = write(tmp_path / "set.zip", names)
    with zipfile.ZipFile(path, "a") as packed:
        packed.writestr("top/words.txt", "a\tfish\nb\tbird\n")
    with zipfile.ZipFile(path) as packed, tarfile.open(tmp_path / "set.tar", "w") as tar:
        for info in packed.infolist():
            member = tarfile.TarInfo(info.filename)
            member.size = info.file_size
            tar.addfile(member, io.BytesIO(packed.read(info)))
    one, other = (open_source(str(tmp_path / name)) for name in ("set.zip", "set.tar"))
    assert list(one.records()) == list(other.records())
    assert (one.classes, one.descriptions, one.count) == (other.classes, other.descriptions, other.count)
    assert one.descriptions == ("fish", "bird")


def test_the_content_decides_and_not_the_suffix(tmp_path):
    write(tmp_path / "zip.tar", ["a/1", "b/2"])
    with tarfile.open(tmp_path / "tar.zip", "w:gz") as tar:
        for name in ("a/1", "b/2"):
            tar.addfile(tarfile.TarInfo(name))
    assert open_source(str(tmp_path / "zip.tar")).classes == open_source(str(tmp_path / "tar.zip")).classes
    for start, name in ((b"7z\xbc\xaf\x27\x1c", "7z"), (b"Rar!\x1a\x07", "RAR"), (b"\x28\xb5\x2f\xfd", "Zstandard")):
        (tmp_path / "set.zip").write_bytes(start + bytes(600))
        with pytest.raises(UserError, match=f"is a {name} file, which is not read: unpack it first"):
            open_source(str(tmp_path / "set.zip"))


def test_a_zip_written_to_a_pipe(tmp_path):
    """Its lengths stand behind the data, and a comment follows the end."""

    class Pipe(io.BytesIO):
        def seekable(self):
            return False

        def tell(self):
            raise OSError

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in ("a/1", "b/2"):
            packed.writestr(name, name * 100)
        packed.comment = b"made by a test" * 100 + END
    (tmp_path / "set.zip").write_bytes(pipe.getvalue())
    assert listed(open_source(str(tmp_path / "set.zip"))) == [(None, "a", b"a/1" * 100), (None, "b", b"b/2" * 100)]


def test_zip64(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 8)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    path = write(tmp_path / "set.zip", ["a/1.jpg", "b/2.jpg", "b/3.jpg"], zipfile.ZIP_STORED, b"0123456789")
    assert path.read_bytes().count(b"PK\x06\x06") == 1
    assert kept(path) == (["0123456789"] * 3, [])
    lie = struct.pack("<Q", 4)
    for offset in (24, 32, 40, 48):  # number of members (twice), length and place of the list
        change(path, b"PK\x06\x06", offset, lie)
        with pytest.raises(UserError, match="the zip is damaged or cut short"):
            open_source(str(path))
        path = write(path, ["a/1.jpg", "b/2.jpg", "b/3.jpg"], zipfile.ZIP_STORED, b"0123456789")


def test_a_false_zip64_length_of_one_member(tmp_path):
    """Its length is said to be in a ZIP64 field, which is not there."""
    assert one_bad_member(tmp_path, at=[(CENTRAL, 24, b"\xff" * 4)]) == (
        ["a/1", "b/3", "a/4"], ["ignored, file in a zip that lacks its ZIP64 length: a/2"],
    )  # fmt: skip


@pytest.mark.skipif(not Path("/usr/bin/zip").exists(), reason="Info-ZIP's zip is not installed")
def test_what_info_zip_writes(tmp_path):
    for name in ("top/a/1", "top/b/ü", "top/b/deep/er/2"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "top/a/link").symlink_to("/etc/passwd")
    subprocess.run(["zip", "-qry", "set.zip", "top"], cwd=tmp_path, check=True)
    subprocess.run(["zip", "-qrP", "secret", "secret.zip", "top"], cwd=tmp_path, check=True)
    used, problems = kept(tmp_path / "set.zip")
    assert sorted(used) == ["top/a/1", "top/b/deep/er/2", "top/b/ü"]
    assert problems == ["ignored, link or special file in a zip: top/a/link"]
    with pytest.raises(UserError, match="none of the files in its class folders can be used") as caught:
        open_source(str(tmp_path / "secret.zip"))
    assert any("encrypted file in a zip: top/" in line for line in caught.value.details)


def test_names_of_windows(tmp_path):
    infos = []
    for name in ("a\\1", "b\\2", "C:\\b\\3", "\\b\\4", "b\\..\\..\\5"):
        info = zipfile.ZipInfo("x")
        info.filename, info.create_system = name, 0
        infos.append(info)
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as packed:
        for info in infos:
            packed.writestr(info, info.filename.encode())
    used, problems = kept(tmp_path / "set.zip")
    assert used == ["a\\1", "b\\2"]
    assert problems == ["ignored, path outside the zip: /C:/b/3 and 2 more"]


def test_names_that_are_not_utf_8(tmp_path):
    path = write(tmp_path / "set.zip", ["aXX/1", "b/2"])
    path.write_bytes(path.read_bytes().replace(b"aXX", b"a\x81\xff"))
    assert open_source(str(path)).classes == ("aü\\xa0", "b")
    path.write_bytes(path.read_bytes().replace(b"a\x81\xff", "aü".encode()))  # UTF-8 without its flag, as on macOS
    assert open_source(str(path)).classes == ("aü", "b")


def test_members_not_to_be_trusted_are_left_out_and_named(tmp_path):
    path = tmp_path / "set.zip"
    link, device = zipfile.ZipInfo("a/link"), zipfile.ZipInfo("a/device")
    link.external_attr, device.external_attr = (stat.S_IFLNK | 0o777) << 16, (stat.S_IFBLK | 0o666) << 16
    with zipfile.ZipFile(path, "w") as packed:
        for name in (link, device, "a/1", "/etc/b/1", "../b/1", "b/../../b/2", "b/3"):
            packed.writestr(name, getattr(name, "filename", name))
    assert kept(path) == (
        ["a/1", "b/3"],
        [
            "ignored, link or special file in a zip: a/link and 1 more",
            "ignored, path outside the zip: /etc/b/1 and 2 more",
        ],
    )


def test_large_members_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MEMBER_LIMIT", 1 << 20)
    path = write(tmp_path / "set.zip", ["a/1", "b/2"])
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a/large", bytes((1 << 20) + 1))
    assert kept(path) == (["a/1", "b/2"], ["ignored, file above 1 MiB: a/large"])


def one_bad_member(tmp_path, **changes) -> tuple[list[str], list[str]]:
    path = write(tmp_path / "set.zip", ["a/1", "a/2", "b/3", "a/4"], changes.pop("method", zipfile.ZIP_DEFLATED))
    for signature, offset, new in changes["at"]:
        change(path, signature, offset, new, which=1)
    return kept(path)


@pytest.mark.parametrize(
    ("at", "reason"),
    [
        ([(CENTRAL, 8, b"\1"), (LOCAL, 6, b"\1")], "ignored, encrypted file in a zip: a/2"),
        ([(CENTRAL, 8, b"\1")], "ignored, encrypted file in a zip: a/2"),
        ([(LOCAL, 6, b"\1")], "ignored, file in a zip whose two headers differ: a/2"),
        ([(LOCAL, 30, b"b/2")], "ignored, file in a zip whose two headers differ: a/2"),  # another name
        ([(LOCAL, 26, b"\4")], "ignored, file in a zip whose two headers differ: a/2"),  # a longer name
        ([(LOCAL, 22, b"\4")], "ignored, file in a zip whose two headers differ: a/2"),  # another length
        ([(LOCAL, 8, b"\0")], "ignored, file in a zip whose two headers differ: a/2"),  # another method
        ([(LOCAL, 0, b"KP")], "ignored, file in a zip whose two headers differ: a/2"),
        ([(CENTRAL, 42, b"\xff\xff\xff\x7f")], "ignored, file in a zip without a header (unexpected end of the file): "
         "a/2"),
        ([(CENTRAL, 10, b"\x0e"), (LOCAL, 8, b"\x0e")], "ignored, file in a zip that is neither stored nor deflated "
         "(pack it again): a/2"),
        ([(CENTRAL, 16, bytes(4)), (LOCAL, 14, bytes(4))], "a/2: is damaged (its CRC-32 differs)"),
        ([(CENTRAL, 24, b"\2"), (LOCAL, 22, b"\2")], "a/2: does not unpack to the length in its header"),
        ([(CENTRAL, 24, b"\4"), (LOCAL, 22, b"\4")], "a/2: does not unpack to the length in its header"),
        ([(CENTRAL, 20, b"\4"), (LOCAL, 18, b"\4")], "a/2: does not unpack to the length in its header"),
        ([(CENTRAL, 20, b"\xff"), (LOCAL, 18, b"\xff")], "ignored, file in a zip that shares bytes with another: a/2"),
        ([(LOCAL, 33, b"\xff")], "a/2: cannot be unpacked (Error -3 while decompressing data: invalid block type)"),
        ([(CENTRAL, 41, b"\x41")], "ignored, folder with data in a zip: a/2"),
        ([(CENTRAL, 48, b"/")], "ignored, folder with data in a zip: a//"),
        ([(CENTRAL, 34, b"\1")], "ignored, file in a zip that is in another part of a zip of several: a/2"),
    ],
)  # fmt: skip
def test_one_bad_member_is_left_out_alone(tmp_path, at, reason):
    used, problems = one_bad_member(tmp_path, at=at)
    assert (used, problems) == (["a/1", "b/3", "a/4"], [reason])


def test_a_second_entry_for_the_place_of_a_member(tmp_path):
    assert one_bad_member(tmp_path, at=[(CENTRAL, 42, bytes(4))]) == (
        ["b/3", "a/4"],
        [
            "ignored, file in a zip that shares bytes with another: a/1",
            "ignored, file in a zip whose two headers differ: a/2",
        ],
    )


def test_a_stored_member_of_two_lengths(tmp_path):
    at = [(CENTRAL, 20, b"\2"), (LOCAL, 18, b"\2")]
    assert one_bad_member(tmp_path, method=zipfile.ZIP_STORED, at=at) == (
        ["a/1", "b/3", "a/4"], ["a/2: does not unpack to the length in its header"],
    )  # fmt: skip


def test_a_bomb_of_members_that_share_their_data(tmp_path):
    """David Fifield's: the local headers of later members lie inside the data of earlier ones."""
    kernel = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = kernel.compress(bytes(1 << 20)) + kernel.flush()
    crc, names = zlib.crc32(bytes(1 << 20)), [f"{'ab'[i % 2]}/{i}" for i in range(200)]
    body, places, central = b"", [], b""
    for name in names:
        places.append(len(body))
        body += LOCAL + struct.pack("<5H3L2H", 20, 0, 8, 0, 0, crc, len(packed), 1 << 20, len(name), 0) + name.encode()
    for name, place in zip(names, places, strict=True):
        central += CENTRAL + struct.pack(
            "<6H3L5H2L", 20, 20, 0, 8, 0, 0, crc, len(packed), 1 << 20, len(name), 0, 0, 0, 0, 0, place
        )
        central += name.encode()
    body += packed
    end = END + struct.pack("<4H2LH", 0, 0, len(names), len(names), len(central), len(body), 0)
    (tmp_path / "set.zip").write_bytes(body + central + end)
    with pytest.raises(UserError, match="only one class"):  # only the last one has its data for itself
        open_source(str(tmp_path / "set.zip"))


@pytest.mark.parametrize(
    ("signature", "offset", "new", "why"),
    [
        (END, 0, b"XX", "its end, with the list of its members, is missing"),
        (END, 4, b"\1", "it is one of several parts"),
        (END, 8, b"\2\0\2\0", "longer than its entries"),
        (END, 8, b"\2\0", "it is one of several parts"),
        (END, 8, b"\4\0\4\0", "not where its end states|malformed entry"),
        (END, 12, b"\1", "not where its end states"),
        (END, 16, b"\1", "not where its end states"),
        (CENTRAL, 0, b"XX", "a malformed entry"),
        (CENTRAL, 28, b"\xff\xff", "a malformed entry"),
        (CENTRAL, 30, b"\1", "a malformed entry"),
    ],
)
def test_a_list_that_cannot_be_followed_refuses_the_zip(tmp_path, signature, offset, new, why):
    path = write(tmp_path / "set.zip", ["a/1", "b/2", "b/3"])
    change(path, signature, offset, new)
    with pytest.raises(UserError, match=why) as caught:
        open_source(str(path))
    assert "the zip is damaged or cut short" in caught.value.line


def test_a_list_of_gigabytes_is_not_read(tmp_path):
    """A sparse file of 5 GB whose end states that nearly all of it is the list."""
    path, size = tmp_path / "set.zip", 5 << 30
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, size, 1)
    with path.open("wb") as file:
        file.write(LOCAL)
        file.truncate(size)
        file.seek(size)
        file.write(struct.pack("<4sQHHLLQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 9, 9, size - 4, 4))
        file.write(locator + END + struct.pack("<4H2LH", 0, 0, 9, 9, 0xFFFFFFFF, 4, 0))
    with pytest.raises(UserError, match=f"list of its members has {size - 4:,} bytes"):
        open_source(str(path))
    assert size > LIST_LIMIT


def test_zip_cut_short(tmp_path):
    path = write(tmp_path / "set.zip", ["a/1", "b/2"])
    whole = path.read_bytes()
    for length in range(4, len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="is damaged or cut short"):
            open_source(str(path))


def test_an_empty_zip_and_one_without_folders(tmp_path):
    for names in ([], ["1.jpg", "2.jpg"]):
        with pytest.raises(UserError, match="has no class folders"):
            open_source(str(write(tmp_path / "set.zip", names)))


def test_a_damaged_photograph_is_refused_alone_with_its_name(tmp_path):
    path = tmp_path / "set.zip"
    draws = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as packed:
        for name in ("a/1", "a/2", "b/3", "b/4"):
            photograph = io.BytesIO()
            Image.fromarray(draws.integers(0, 256, (8, 8, 3), np.uint8)).save(photograph, "BMP")
            packed.writestr(f"{name}.bmp", photograph.getvalue())
    place = path.read_bytes().index(b"BM") + 100  # a pixel of a/1
    with path.open("r+b") as file:
        file.seek(place)
        file.write(b"\0\1\2\3\4\5\6\7")
    dataset = open_or_prepare(open_source(str(path)), 8, 3, home=tmp_path / "home", workers=1)
    assert dataset.meta["refused"] == [{"name": "a/1.bmp", "reason": "is damaged (its CRC-32 differs)"}]
    assert dataset.names(np.arange(3)) == ["a/2.bmp", "b/3.bmp", "b/4.bmp"]


def test_memory_does_not_grow_with_the_number_of_members(tmp_path):
    peaks = []
    for count in (700, 1700):
        path = write(tmp_path / f"{count}.zip", [f"{'ab'[i % 2]}/{i}" for i in range(count)], zipfile.ZIP_STORED)
        tracemalloc.start()
        assert sum(1 for _ in open_source(str(path)).records()) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 50_000  # a list of entries would take ten times as much
