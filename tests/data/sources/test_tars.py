"""Tars of class folders: layouts, compressions, members not to be trusted, and damage."""

import bz2
import gzip
import io
import lzma
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from alexnet.core.errors import UserError
from alexnet.data.sources import archives, open_source, tars


def write(path: Path, names, mode="w", extra=()) -> Path:
    with tarfile.open(path, mode) as tar:
        for name in names:
            member = tarfile.TarInfo(name.rstrip("/"))
            if name.endswith("/"):
                member.type = tarfile.DIRTYPE
                tar.addfile(member)
            else:
                member.size = len(name)
                tar.addfile(member, io.BytesIO(name.encode()))
        for member in extra:
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    return path


def listed(source):
    return [(record.split, source.classes[record.label], record.payload) for record in source.records()]


def special(name, kind, target="") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize("suffix", ["", ":gz", ":bz2", ":xz"])
@pytest.mark.parametrize("top", ["", "./", "photos/", "./photos/"])
def test_class_folders(tmp_path, suffix, top):
    names = ["", "cat/", "cat/1.jpg", "dog/x/y/2.jpg", "cat/.DS_Store", "__MACOSX/cat/1.jpg", "README"]
    path = write(tmp_path / "set.tar", [top + name for name in names if top + name], f"w{suffix}")
    source = open_source(str(path))
    assert source.classes == ("cat", "dog")
    assert listed(source) == [
        (None, "cat", f"{top}cat/1.jpg".encode()),
        (None, "dog", f"{top}dog/x/y/2.jpg".encode()),
    ]
    assert (source.name, source.count, source.warnings, source.location) == ("set", 2, (), str(path))
    assert listed(source) == listed(source)


@pytest.mark.parametrize("top", ["", "./top/"])
def test_splits_in_archive_order(tmp_path, top):
    names = ["test/b/1", "train/b/2", "train/a/3", "valid/a/4", "train/b/5", "words.txt"]
    source = open_source(str(write(tmp_path / "set.tar.gz", [top + name for name in names], "w:gz")))
    assert [(split, label) for split, label, _ in listed(source)] == [
        ("test", "b"),
        ("train", "b"),
        ("train", "a"),
        ("val", "a"),
        ("train", "b"),
    ]


def test_train_as_the_common_top_is_no_split(tmp_path):
    source = open_source(str(write(tmp_path / "t.tar", ["train/a/1", "train/b/1"])))
    assert (source.classes, {split for split, _, _ in listed(source)}) == (("a", "b"), {None})


def test_members_not_to_be_trusted_are_ignored_with_a_warning(tmp_path):
    extra = [
        special("a/link", tarfile.SYMTYPE, "/etc/passwd"),
        special("a/hard", tarfile.LNKTYPE, "a/1"),
        special("a/device", tarfile.CHRTYPE),
    ]
    path = write(tmp_path / "t.tar", ["a/1", "b/1", "/etc/a/1", "../a/1", "a/../../b/2"], extra=extra)
    source = open_source(str(path))
    assert [payload for _, _, payload in listed(source)] == [b"a/1", b"b/1"]
    assert source.warnings == (
        "ignored, path outside the tar: /etc/a/1 and 2 more",
        "ignored, link or special file in a tar: a/link and 2 more",
    )


def test_large_members_are_ignored_with_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MEMBER_LIMIT", 1 << 20)
    large = tarfile.TarInfo("a/large")
    large.size = (1 << 20) + 1
    source = open_source(str(write(tmp_path / "t.tar", ["a/1", "b/1"], extra=[large])))
    assert source.count == len(listed(source)) == 2
    assert source.warnings == ("ignored, file above 1 MiB: a/large",)


def test_a_header_extension_that_would_be_read_whole_is_refused(tmp_path):
    """A long name of 3 GB: ``tarfile`` reads such into memory at once, whatever it is."""
    for kind in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
        long = tarfile.TarInfo("x")
        long.type, long.size = kind, 3 << 30
        path = tmp_path / "t.tar"
        path.write_bytes(write(tmp_path / "good.tar", ["a/1", "b/1"]).read_bytes()[:2048] + long.tobuf() + bytes(1024))
        with pytest.raises(UserError) as caught:
            open_source(str(path))
        assert "3,221,225,472 bytes" in str(caught.value)


BOMB = """
import sys
from pathlib import Path
from alexnet.data.sources import open_source
from alexnet.data.writer import decode_all
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1024
source, before = open_source(sys.argv[1]), peak()
print(sum(item.pixels is None for item in decode_all(source.records(), 16, 3, 2)), peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_a_bomb_of_large_members_costs_what_a_few_of_them_do(tmp_path):
    path, size, count = tmp_path / "bomb.tar.gz", 48 << 20, 20
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for number in range(count):
            member = tarfile.TarInfo(f"{'ab'[number % 2]}/{number}.jpg")
            member.size = size
            tar.addfile(member, io.BytesIO(bytes(size)))
    assert path.stat().st_size < size / 5
    done = subprocess.run([sys.executable, "-c", BOMB, str(path)], capture_output=True, text=True, check=True)
    refused, megabytes = map(int, done.stdout.split())
    assert refused == count
    assert megabytes < 8 * (size >> 20)  # all of them would be twenty


def header(name="a/x", kind=b"0", size=b"00000000004\0", **fields) -> bytes:
    """A header block; ``fields``: offset → bytes, written before the checksum."""
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT))
    block[156:157], block[124:136] = kind, size
    for offset, data in fields.items():
        block[int(offset[1:]) : int(offset[1:]) + len(data)] = data
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def block(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def pax(*records: bytes, kind=b"x") -> bytes:
    """A header extension of these records, which have no length yet."""
    data = b"".join(b"%d %s\n" % (len(record) + 3 + len(str(len(record) + 3)) - 1, record) for record in records)
    return raw_pax(data, kind)


def raw_pax(data: bytes, kind=b"x") -> bytes:
    return header("PaxHeaders/x", kind, b"%011o\0" % len(data)) + block(data)


def test_the_headers_of_these_tests_are_headers(tmp_path):
    path = write(tmp_path / "t.tar", ["a/1", "b/2"])
    good = path.read_bytes()[:2048]
    path.write_bytes(good + pax(b"path=b/long", b"mtime=1.5", b"size=4") + header() + block(b"data") + bytes(1024))
    assert [(record.name, record.payload) for record in open_source(str(path)).records()] == [
        ("a/1", b"a/1"), ("b/2", b"b/2"), ("b/long", b"data"),
    ]  # fmt: skip
    with tarfile.open(path) as tar:
        assert tar.getnames() == ["a/1", "b/2", "b/long"]


LONG = header("././@LongLink", b"L", b"00000000007\0") + block(b"b/long\0")
MALFORMED = {  # what comes after two members: a part of the message
    "a negative size": (header(size=b"\xff" * 10 + b"\xfc\x00"), "a size of -1,024 bytes"),
    "a size of 2**88": (header(size=b"\x80" + b"\xff" * 11), "unexpected end"),
    "a size beyond the end": (header(size=b"77777777777\0"), "unexpected end"),
    "a size that is no number": (header(size=b"0000x000004\0"), "the number b'0000x000004'"),
    "a size with an underscore": (header(size=b"0_000000004\0"), "the number"),
    "a size of another base": (header(size=b"\xc0" + bytes(11)), "the number"),
    "a mode that is no number": (header(_100=b"rw-r--r-"), "the number b'rw-r--r-'"),
    "an owner that is no number": (header(_108=b"root\0\0\0\0"), "the number b'root'"),
    "a time that is no number": (header(_136=b"yesterday\0\0\0"), "the number b'yesterday'"),
    "a device that is no number": (header(kind=b"3", _329=b"88888888"), "the number b'88888888'"),
    "a checksum that is no number": (header()[:148] + b"checksum" + header()[156:], "the number b'checksum'"),
    "a wrong checksum": (header()[:148] + b"000001\0 " + header()[156:], "wrong checksum"),
    "a folder with data": (header("a/", b"\0"), "a folder with data"),
    "a pax size that is negative": (pax(b"size=-512") + header(), "a size of b'-512'"),
    "a pax size that is no number": (pax(b"size=many") + header(), "a size of b'many'"),
    "a pax size that is a fraction": (pax(b"size=4.0") + header(), "a size of b'4.0'"),
    "a pax size of 10**30": (pax(b"size=1" + b"0" * 30) + header(), "a size of b'1000"),
    "a pax size beyond the end": (pax(b"size=999999999999") + header(), "unexpected end"),
    "a record of length 0": (raw_pax(b"0 a=b\n") + header(), "a malformed header extension"),
    "a record of a negative length": (raw_pax(b"-9 a=b\n") + header(), "a malformed header extension"),
    "a record without a length": (raw_pax(b"a=b\n") + header(), "a malformed header extension"),
    "a record longer than its header": (raw_pax(b"99 a=b\n") + header(), "a malformed header extension"),
    "a record shorter than its text": (raw_pax(b"5 a=b\n") + header(), "a malformed header extension"),
    "a record of a length of 5,000 digits": (raw_pax(b"9" * 5000 + b" a=b\n") + header(), "a malformed"),
    "a record without =": (raw_pax(b"5 ab\n") + header(), "a malformed header extension"),
    "a record without a key": (raw_pax(b"5 =b\n") + header(), "a malformed header extension"),
    "a global size": (pax(b"size=4", kind=b"g") + header(), "gives all members one name or size"),
    "a global name": (pax(b"path=a/y", kind=b"g") + header(), "gives all members one name or size"),
    "two long names": (LONG + LONG + header() + block(b"data"), "two header extensions of one kind"),
    "a chain of 3,000 long names": (LONG * 3000 + header() + block(b"data"), "two header extensions of one kind"),
    "a chain of extensions": (pax(b"mtime=1") * 3000 + header() + block(b"data"), "two header extensions of one kind"),
    "two names of two kinds": (LONG + pax(b"path=b/z") + header() + block(b"data"), "two long names for one member"),
    "a long name without a member": (LONG, "a header extension without a member"),
    "an extension that is cut off": (LONG[:512], "a header extension without a member|unexpected end"),
    "a sparse map without an end": (header(kind=b"S", _482=b"\1") + b"\1" * 2048, "unexpected end|wrong checksum"),
}


@pytest.mark.parametrize("what", MALFORMED)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_malformed_tar_is_refused_in_one_line_that_names_the_place(tmp_path, what, suffix):
    path = write(tmp_path / "good.tar", ["a/1", "b/2"])
    after, message = MALFORMED[what]
    data = path.read_bytes()[:2048] + after + bytes(1024)
    (tmp_path / f"t.tar{suffix}").write_bytes(gzip.compress(data) if suffix else data)
    with pytest.raises(UserError, match=message) as caught:
        open_source(str(tmp_path / f"t.tar{suffix}"))
    assert "the tar is damaged or cut short" in caught.value.line
    assert "after the header of b/2" in caught.value.line or "after the header of a/x" in caught.value.line
    assert "\n" not in caught.value.line


def test_sparse_files_are_left_out_and_named(tmp_path):
    old = header("a/old", b"S", _386=b"%011o\0%011o\0" % (0, 4), _483=b"%011o\0" % 4096) + block(b"data")
    more = header("a/more", b"S", _482=b"\1") + bytes(512) + block(b"data")
    new = pax(b"GNU.sparse.major=1", b"GNU.sparse.name=b/new", b"GNU.sparse.realsize=x") + header() + block(b"1\n0")
    path = write(tmp_path / "t.tar", ["a/1", "b/2"])
    path.write_bytes(path.read_bytes()[:2048] + old + more + new + header("b/3") + block(b"data") + bytes(1024))
    source = open_source(str(path))
    assert [record.name for record in source.records()] == ["a/1", "b/2", "b/3"]
    assert source.warnings == (
        "ignored, sparse file in a tar (pack it again without --sparse): a/old and 2 more",
    )  # fmt: skip


def test_a_tar_without_its_end_is_cut_short(tmp_path):
    path = write(tmp_path / "t.tar", ["a/1", "b/2", "b/3"])
    path.write_bytes(path.read_bytes()[:2048])
    with pytest.raises(UserError, match=r"cut short \(unexpected end of the file, after the header of b/2\)"):
        open_source(str(path))


def test_members_after_a_page_of_zeros_are_not_lost(tmp_path):
    path = write(tmp_path / "t.tar", ["a/1", "b/2", "b/3"])
    data = path.read_bytes()
    path.write_bytes(data[:1024] + bytes(1024) + data[2048:])  # the header and the data of b/2
    with pytest.raises(UserError, match="data after a block of zeros, which ends a tar, after the header of a/1"):
        open_source(str(path))


def test_a_damaged_byte_of_a_compressed_tar_is_noticed(tmp_path):
    """Also behind the end of the tar, where the checksum of gzip is."""
    path = write(tmp_path / "t.tar.gz", [f"{'ab'[i % 2]}/{i}" for i in range(300)], "w:gz")
    data = bytearray(path.read_bytes())
    data[-6] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="CRC check failed"):
        open_source(str(path))


def test_several_compressed_parts_in_one_file(tmp_path):
    data = write(tmp_path / "t.tar", ["a/1", "b/2"]).read_bytes()
    for compress in (gzip.compress, bz2.compress, lzma.compress):
        path = tmp_path / f"{compress.__module__}.tar"
        path.write_bytes(compress(data[:1500]) + compress(data[1500:]) + bytes(8 if compress != bz2.compress else 0))
        assert [payload for _, _, payload in listed(open_source(str(path)))] == [b"a/1", b"b/2"]


def test_the_memory_of_xz_is_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(tars, "XZ_MEMORY", 8 << 20)
    data = write(tmp_path / "t.tar", ["a/1", "b/2"]).read_bytes()
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 32 << 20}]
    (tmp_path / "t.tar.xz").write_bytes(lzma.compress(data, filters=filters))
    with pytest.raises(UserError, match="is a file but not a tar"):
        open_source(str(tmp_path / "t.tar.xz"))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_pythons_tarfile_writes(tmp_path, form):
    names = ["a/ü.jpg", f"b/{'long/' * 30}{'x' * 80}.jpg", f"b/{'y' * 98}"]
    with tarfile.open(tmp_path / "t.tar", "w", format=form) as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.uid = (
                len(name),
                1e9 + 0.5 if form == tarfile.PAX_FORMAT else -1e9,
                1 << 20,
            )
            member.mtime = 0 if form == tarfile.USTAR_FORMAT else member.mtime
            tar.addfile(member, io.BytesIO(name.encode("latin1", "replace").ljust(len(name))))
    source = open_source(str(tmp_path / "t.tar"))
    assert [record.name for record in source.records()] == names
    assert source.warnings == ()


@pytest.mark.skipif(shutil.which("tar") is None, reason="there is no tar command")
@pytest.mark.parametrize("form", ["v7", "oldgnu", "gnu", "ustar", "posix"])
def test_what_gnu_tar_writes(tmp_path, form):
    version = subprocess.run(["tar", "--version"], capture_output=True, text=True, check=True).stdout
    if "GNU tar" not in version:
        pytest.skip("tar is not GNU tar")
    names = ["a/1.jpg", "b/deep/2.jpg", f"b/{'z' * 90}.jpg"] + (
        [] if form in ("v7", "ustar") else [f"b/{'w' * 150}.jpg"]
    )
    for name in names:
        (tmp_path / "top" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "top" / name).write_text(name)
    (tmp_path / "top/a/hard").hardlink_to(tmp_path / "top/a/1.jpg")
    subprocess.run(["tar", f"--format={form}", "--sort=name", "-czf", "t.tgz", "top"], cwd=tmp_path, check=True)
    source = open_source(str(tmp_path / "t.tgz"))
    assert sorted(payload.decode() for _, _, payload in listed(source)) == sorted(names)
    assert (
        source.warnings == ("ignored, link or special file in a tar: top/a/hard",)
        or "top/a/1.jpg" in source.warnings[0]
    )


def test_readable_class_names(tmp_path):
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for name, data in {"top/n1/1": b"", "top/n2/1": b"", "top/words.txt": b"n1\tfish\nn2\tbird\n"}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    assert open_source(str(tmp_path / "t.tar")).descriptions == ("fish", "bird")


@pytest.mark.parametrize(
    ("names", "line"),
    [
        ([], "has no class folders"),
        (["1.jpg", "2.jpg"], "has no class folders"),
        (["cat/1.jpg"], "has only one class, 'cat'"),
        (["a/", "b/"], "no images in"),
        (["train/a/1", "train/b/1", "test/c/1"], "test class 'c' has no images in train"),
    ],
)
def test_tars_that_are_no_source(tmp_path, names, line):
    with pytest.raises(UserError, match=line):
        open_source(str(write(tmp_path / "t.tar", names)))


@pytest.mark.parametrize("suffix", ["", ":gz", ":bz2", ":xz"])
def test_tar_cut_short(tmp_path, suffix):
    random = io.BytesIO(bytes(i * i % 251 for i in range(20_000))).getvalue()
    path = tmp_path / "t.tar"
    with tarfile.open(path, f"w{suffix}") as tar:
        for name in ("a/1", "b/1", "b/2"):
            member = tarfile.TarInfo(name)
            member.size = len(random)
            tar.addfile(member, io.BytesIO(random))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 5])
    with pytest.raises(UserError, match=r"damaged or cut short|not a tar"):
        open_source(str(path))


def test_damaged_header_is_not_taken_for_the_end(tmp_path):
    path = write(tmp_path / "t.tar", ["a/1", "b/1", "b/2"])
    data = bytearray(path.read_bytes())
    data[2048:2052] = b"\xff\xff\xff\xff"  # the third header: each member is a header and one block
    path.write_bytes(data)
    with pytest.raises(UserError, match="damaged or cut short"):
        open_source(str(path))


def test_tar_that_changes_is_noticed(tmp_path):
    path = write(tmp_path / "t.tar", ["a/1", "b/1"])
    source = open_source(str(path))
    write(path, ["a/1", "b/1"] + [f"a/{i}" for i in range(30)])
    with pytest.raises(UserError, match="changed while it was in use"):
        list(source.records())
    assert open_source(str(path)).fingerprint != source.fingerprint


def test_a_file_that_is_no_tar(tmp_path):
    for data in (b"", b"not a tar" * 100, b"\x1f\x8bnot gzip either"):
        (tmp_path / "t.tar").write_bytes(data)
        with pytest.raises(UserError, match="is a file but not a tar"):
            open_source(str(tmp_path / "t.tar"))


@pytest.mark.parametrize("top", ["", "photos/"])
def test_images_beside_class_folders_are_named(tmp_path, top):
    names = ["a/1.jpg", "b/2.jpg", "9.JPG", "8.png", "notes.txt", ".hidden.jpg"]
    source = open_source(str(write(tmp_path / "set.tar", [top + name for name in names])))
    assert source.warnings == (f"ignored, image beside the class folders: {top}9.JPG and 1 more",)
    assert source.count == 2


def test_images_beside_the_class_folders_of_a_split_are_named(tmp_path):
    names = ["train/a/1.jpg", "train/b/2.jpg", "test/a/3.jpg", "test/4.jpg", "5.jpg"]
    source = open_source(str(write(tmp_path / "set.tar", names)))
    assert source.warnings == ("ignored, image beside the class folders: test/4.jpg",)
