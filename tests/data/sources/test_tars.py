"""Tars of class folders: layouts, compressions, members not to be trusted, and damage."""

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from alexnet.core.errors import UserError
from alexnet.data.sources import archives, open_source


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
