"""Mutated tars and zips: each ends in the files as they were written, or in a refusal that names what is missing.

A file that is used has the bytes that were written, wherever the format has a checksum: all of a zip and of a
compressed tar have one; in a tar that is not compressed only the headers have one. Seeds are fixed, so a failure can
be repeated.
"""

import bz2
import gzip
import io
import lzma
import random
import signal
import tarfile
import zipfile

import pytest

from alexnet.core.errors import UserError
from alexnet.data.sources import open_source

MUTATIONS = 150  # of each format
SECONDS = 5  # that one may take, where the machine is shared
FILES = {
    **{f"top/train/{label}/{i}.jpg": bytes([i]) * (300 * i) for label in ("cat", "dog") for i in (1, 2, 3)},
    **{f"top/test/{label}/{'long ' * 25}.jpg": b"test" + label.encode() for label in ("cat", "dog")},
    "top/words.txt": b"cat\tCat\ndog\tDog\n",
}


def tar(form: int) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=form) as made:
        for name, content in FILES.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(content), 1.5 if form == tarfile.PAX_FORMAT else 1
            made.addfile(member, io.BytesIO(content))
    return data.getvalue()


def packed(*, streamed: bool) -> bytes:
    data = io.BytesIO()
    if streamed:
        data.seekable = lambda: False  # type: ignore[method-assign]  # lengths then stand behind the data
    with zipfile.ZipFile(data, "w") as made:
        for number, (name, content) in enumerate(FILES.items()):
            made.writestr(name, content, zipfile.ZIP_DEFLATED if number % 2 else zipfile.ZIP_STORED)
    return data.getvalue()


FORMATS = {
    "gnu.tar": lambda: tar(tarfile.GNU_FORMAT),
    "pax.tar": lambda: tar(tarfile.PAX_FORMAT),
    "gnu.tar.gz": lambda: gzip.compress(tar(tarfile.GNU_FORMAT), mtime=0),
    "pax.tar.bz2": lambda: bz2.compress(tar(tarfile.PAX_FORMAT)),
    "gnu.tar.xz": lambda: lzma.compress(tar(tarfile.GNU_FORMAT)),
    "set.zip": lambda: packed(streamed=False),
    "streamed.zip": lambda: packed(streamed=True),
}
NUMBERS = (bytes(4), b"\xff" * 4, b"\xff" * 8, b"\x80" + bytes(11), b"\xff" * 12, b"77777777777\0", b"-0000000001\0")


def mutate(data: bytes, draws: random.Random) -> bytes:
    """One to three changes: a bit, a number, a block; something removed, doubled, moved or cut off."""
    for _ in range(draws.choice((1, 1, 2, 3))):
        place, length = draws.randrange(len(data)), draws.choice((1, 2, 4, 30, 46, 512, 1024))
        unit = 512 if len(data) > 4096 else 16
        block = place - place % unit
        kind = draws.randrange(8)
        if kind == 0:
            data = data[:place] + bytes([data[place] ^ 1 << draws.randrange(8)]) + data[place + 1 :]
        elif kind == 1:
            number = draws.choice(NUMBERS)
            data = data[:place] + number + data[place + len(number) :]
        elif kind == 2:
            data = data[:place] + draws.randbytes(length) + data[place + length :]
        elif kind == 3:
            data = data[:block] + data[block + unit :]
        elif kind == 4:
            data = data[:block] + data[block : block + unit] + data[block:]
        elif kind == 5:
            data = data[:place] + data[place + length :]
        elif kind == 6:
            other = draws.randrange(len(data))
            data = data[:place] + data[other : other + length] + data[place + length :]
        else:
            data = data[:place]
        if not data:
            break
    return data


def used(source) -> tuple[dict[tuple[str, str, str], bytes], list[str]]:
    """(name, split, class) → the bytes of each file that is used; and what is said of all others."""
    records = list(source.records())
    files = {(item.name, item.split, source.classes[item.label]): item.payload for item in records if not item.fault}
    return files, [*source.warnings, *(item.fault for item in records if item.fault)]


@pytest.fixture
def limited():
    """The test ends if one step takes too long: an endless loop is a failure."""

    def expire(*_given):
        raise TimeoutError("an endless loop")

    before = signal.signal(signal.SIGALRM, expire)
    yield lambda: signal.alarm(SECONDS)
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("form", FORMATS)
def test_mutations_give_the_files_or_a_refusal(tmp_path, limited, form):
    whole, path = FORMATS[form](), tmp_path / form
    path.write_bytes(whole)
    good, none = used(open_source(str(path)))
    assert (len(good), none) == (8, [])
    refused = 0
    for seed in range(MUTATIONS):
        path.write_bytes(mutate(whole, random.Random(seed)))
        limited()
        try:
            files, named = used(open_source(str(path)))
        except UserError as error:
            assert error.line.isprintable(), seed
            refused += 1
            continue
        if not form.endswith(".tar"):  # whose data and long names have no checksum
            if any("split without class folders" in note for note in named):  # then there are no splits, as in a folder
                before = {(name, label): split for name, split, label in good}
                files = {(name, before.get((name, label)), label): data for (name, _, label), data in files.items()}
            assert files.items() <= good.items(), seed
            assert len(files) == len(good) or named, seed
    assert refused > MUTATIONS / 4
