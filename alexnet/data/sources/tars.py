"""Tars of class folders, read from front to back and never unpacked to disk.

A first pass lists the names, a second one reads the files in the order of the archive. Both read it as a stream, so a
compressed tar is decompressed once per pass and memory does not grow with the archive. Members that point outside
(absolute paths, ``..``, links, devices) are ignored with a warning: nothing is written, but their names are not safe.
"""

from __future__ import annotations

import lzma
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from alexnet.core.errors import UserError
from alexnet.core.names import printable
from alexnet.data.sources.class_folders import assign_splits, choose_classes
from alexnet.data.sources.folders import BESIDE_CLASSES, is_image_name
from alexnet.data.sources.records import (
    NAME_FILES,
    Ignored,
    Record,
    Source,
    describe,
    fingerprint_paths,
    is_ignored_name,
    parse_names,
    slug,
)

MEMBER_LIMIT = 64 << 20
"""Bytes of the largest member that is read: far more than a photograph, far less than the memory of a computer."""
EXTENSION_LIMIT = 1 << 20
"""Bytes of the largest header extension (e.g. a long name), which ``tarfile`` reads into memory."""

EXTENSIONS = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
)  # fmt: skip
Parts = tuple[str, ...]


class _StrictHeader(tarfile.TarInfo):
    """A header that raises an error if it is damaged: ``tarfile`` itself treats that as the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """The member that 512 bytes describe. Raises ``tarfile.ReadError`` if they are neither a header nor zeros."""
        try:
            member = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if any(buf):
                raise tarfile.ReadError(str(error)) from error
            raise
        if member.type in EXTENSIONS and not 0 <= member.size <= EXTENSION_LIMIT:
            raise tarfile.ReadError(f"a header extension of {member.size:,} bytes")
        return member


@dataclass
class _Listing:
    """The result of the first pass: folders, and the number of files in each; no list of all files."""

    folders: set[Parts] = field(default_factory=set)
    files: Counter[Parts] = field(default_factory=Counter)
    images: dict[Parts, tuple[int, str]] = field(
        default_factory=dict
    )  # the number of image names and the first of them
    names: dict[Parts, str] = field(default_factory=dict)
    ignored: Ignored = field(default_factory=Ignored)


def is_tar(path: Path) -> bool:
    """Whether the file opens as a tar, compressed or not."""
    try:
        with tarfile.open(path, "r:*"):
            return True
    except (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error):
        return False


def open_tar(path: Path) -> Source:
    """The source in a tar of class folders. Raises ``UserError`` if it does not hold class folders or is damaged."""
    before = fingerprint_paths([path])
    listing = _list(path)
    prefix = _common_top(listing)
    below = _tree(listing, prefix)
    if not below:
        raise UserError(f"{path} has no class folders: expected one folder of images per class")
    folders = assign_splits(below, str(path), listing.ignored)
    for parent in sorted({prefix + folder.parts[:-1] for folder in folders} & set(listing.images)):
        count, first = listing.images[parent]
        listing.ignored.add(BESIDE_CLASSES, first, count)
    depth = len(prefix) + len(folders[0].parts)
    sizes: Counter[Parts] = Counter()
    for parts, count in listing.files.items():
        sizes[parts[:depth]] += count
    counts = {folder: sizes[prefix + folder.parts] for folder in folders}
    classes, warnings = choose_classes(counts, str(path))
    label = {name: index for index, name in enumerate(classes)}
    targets = {prefix + folder.parts: (folder.split, label[folder.label]) for folder in folders if counts[folder]}

    def read() -> Iterator[Record]:
        if fingerprint_paths([path]) != before:
            raise UserError(f"{path} changed while it was in use: start again")
        return _read(path, targets, depth)

    return Source(
        name=slug(re.sub(r"\.(tar(\.\w+)?|t[gbx]z2?)$", "", path.name, flags=re.IGNORECASE)),
        location=str(path),
        classes=tuple(printable(name) for name in classes),
        fingerprint=before,
        read=read,
        count=sum(counts.values()),
        descriptions=describe(classes, _readable_names(listing, prefix)),
        warnings=(*listing.ignored.warnings(), *warnings),
    )


def _members(path: Path) -> Generator[tuple[tarfile.TarFile, tarfile.TarInfo], None, None]:
    """Every member in archive order, with the open archive. Raises ``UserError`` if the archive is damaged."""
    try:
        with tarfile.open(path, "r:*", tarinfo=_StrictHeader) as archive:
            while (member := archive.next()) is not None:
                yield archive, member
                archive.members.clear()  # type: ignore[attr-defined]  # else tarfile keeps every header in memory
    except (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise UserError(f"cannot read {path}: the tar is damaged or cut short", str(error).splitlines()) from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def _list(path: Path) -> _Listing:
    listing = _Listing()
    with closing(_members(path)) as members:
        for archive, member in members:
            parts = _safe_parts(member.name)
            if parts is None:
                listing.ignored.add("path outside the tar", member.name)
            elif any(is_ignored_name(part) for part in parts):
                continue
            elif member.isdir():
                listing.folders.add(parts[:3])
            elif not member.isreg():
                listing.ignored.add("link or special file in a tar", member.name)
            elif member.size > MEMBER_LIMIT:
                listing.ignored.add(f"file above {MEMBER_LIMIT >> 20} MiB", member.name)
            else:
                _count_file(listing, archive, member, parts)
    return listing


def _count_file(listing: _Listing, archive: tarfile.TarFile, member: tarfile.TarInfo, parts: Parts) -> None:
    folder = parts[:-1]
    if len(folder) < 2 and parts[-1] in NAME_FILES:
        listing.names[parts] = _bytes(archive, member).decode("utf-8", "replace")
    if len(folder) < 3 and is_image_name(parts[-1]):
        count, first = listing.images.get(folder, (0, "/".join(parts)))
        listing.images[folder] = (count + 1, first)
    if folder:
        listing.files[folder[:3]] += 1  # one common folder, a split and a class: deeper names are not needed


def _safe_parts(name: str) -> Parts | None:
    """The parts of a member's path without ``.``; None if it is absolute or contains ``..``."""
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    return None if name.startswith("/") or ".." in parts else parts


def _common_top(listing: _Listing) -> Parts:
    """The one folder that contains everything, if there are folders in it: it is not a class; else no folder."""
    folders = listing.folders | set(listing.files)
    tops = {folder[:1] for folder in folders if folder}
    return tops.pop() if len(tops) == 1 and any(len(folder) > 1 for folder in folders) else ()


def _tree(listing: _Listing, prefix: Parts) -> dict[str, set[str]]:
    """For each folder at the top (below ``prefix``), the folders in it."""
    below: dict[str, set[str]] = {}
    for folder in listing.folders | set(listing.files):
        inside = folder[len(prefix) :]
        if inside:
            below.setdefault(inside[0], set()).update(inside[1:2])
    return below


def _readable_names(listing: _Listing, prefix: Parts) -> dict[str, str]:
    texts = (listing.names.get((*prefix, name)) for name in NAME_FILES)
    return parse_names(next((text for text in texts if text is not None), ""))


def _read(path: Path, targets: dict[Parts, tuple[str | None, int]], depth: int) -> Iterator[Record]:
    """The records of the second pass. ``targets``: class folder → (split, label); ``depth``: its number of parts."""
    with closing(_members(path)) as members:
        for archive, member in members:
            parts = _safe_parts(member.name)
            if parts is None or not member.isreg() or member.size > MEMBER_LIMIT or any(map(is_ignored_name, parts)):
                continue
            target = targets.get(parts[:-1][:depth])
            if target is not None:
                yield Record(*target, printable("/".join(parts)), _bytes(archive, member))


def _bytes(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None, "the member is no regular file"
    with file:
        return file.read()
