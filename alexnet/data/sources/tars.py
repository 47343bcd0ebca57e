"""Tars of class folders, read front to back and never unpacked to disk.

One pass lists the names, a second one hands out the bytes in archive order. Both stream, so a compressed tar is
decompressed once per pass and memory does not grow with the archive. Members that could reach outside (absolute
paths, ``..``, links, devices) are ignored with a warning: nothing is written, but their names are not to be trusted.
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
from alexnet.data.sources.folders import LOOSE, arrange, choose_classes, is_image_name
from alexnet.data.sources.records import (
    NAME_FILES,
    Ignored,
    Record,
    Source,
    describe,
    fingerprint_paths,
    is_litter,
    parse_names,
    slug,
)

MEMBER_LIMIT = 64 << 20
"""Bytes of the largest member that is read: far above any photograph, far below a machine's memory."""
EXTENSION_LIMIT = 1 << 20
"""Bytes of the largest header extension (a long name, say), which ``tarfile`` reads whole."""

EXTENSIONS = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
)  # fmt: skip
Parts = tuple[str, ...]


class _StrictHeader(tarfile.TarInfo):
    """A header that is whole, or an error: ``tarfile`` itself takes a damaged header for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """The member that 512 bytes describe. Raises ``tarfile.ReadError`` for any that are neither that nor zeros."""
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
    """What the first pass learns: folders and how many files each holds, never the files one by one."""

    folders: set[Parts] = field(default_factory=set)
    files: Counter[Parts] = field(default_factory=Counter)
    images: dict[Parts, tuple[int, str]] = field(default_factory=dict)  # so many call themselves one, the first's name
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
    """The source in a tar of class folders. Raises ``UserError`` where that is not what it holds."""
    mark = fingerprint_paths([path])
    listing = _list(path)
    prefix = _common_top(listing)
    below = _tree(listing, prefix)
    if not below:
        raise UserError(f"{path} has no class folders: expected one folder of images per class")
    places = arrange(below, str(path), listing.ignored)
    for parent in sorted({prefix + place.parts[:-1] for place in places} & set(listing.images)):
        count, first = listing.images[parent]
        listing.ignored.add(LOOSE, first, count)
    depth = len(prefix) + len(places[0].parts)
    held: Counter[Parts] = Counter()
    for folder, count in listing.files.items():
        held[folder[:depth]] += count
    counts = {place: held[prefix + place.parts] for place in places}
    classes, warnings = choose_classes(counts, str(path))
    label = {folder: index for index, folder in enumerate(classes)}
    roles = {prefix + place.parts: (place.split, label[place.label]) for place in places if counts[place]}

    def read() -> Iterator[Record]:
        if fingerprint_paths([path]) != mark:
            raise UserError(f"{path} changed while it was in use: start again")
        return _read(path, roles, depth)

    return Source(
        name=slug(re.sub(r"\.(tar(\.\w+)?|t[gbx]z2?)$", "", path.name, flags=re.IGNORECASE)),
        location=str(path),
        classes=tuple(printable(folder) for folder in classes),
        fingerprint=mark,
        read=read,
        count=sum(counts.values()),
        descriptions=describe(classes, _readable_names(listing, prefix)),
        warnings=(*listing.ignored.warnings(), *warnings),
    )


def _members(path: Path) -> Generator[tuple[tarfile.TarFile, tarfile.TarInfo], None, None]:
    """Every member in archive order, with the open archive. Raises ``UserError`` where the archive is damaged."""
    try:
        with tarfile.open(path, "r:*", tarinfo=_StrictHeader) as archive:
            while (member := archive.next()) is not None:
                yield archive, member
                archive.members.clear()  # type: ignore[attr-defined]  # else it keeps every header it has read
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
                listing.ignored.add("path that leads outside the tar", member.name)
            elif any(is_litter(part) for part in parts):
                continue
            elif member.isdir():
                listing.folders.add(parts[:3])
            elif not member.isreg():
                listing.ignored.add("link or special file in a tar", member.name)
            elif member.size > MEMBER_LIMIT:
                listing.ignored.add(f"file above {MEMBER_LIMIT >> 20} MiB", member.name)
            else:
                _note_file(listing, archive, member, parts)
    return listing


def _note_file(listing: _Listing, archive: tarfile.TarFile, member: tarfile.TarInfo, parts: Parts) -> None:
    folder = parts[:-1]
    if len(folder) < 2 and parts[-1] in NAME_FILES:
        listing.names[parts] = _bytes(archive, member).decode("utf-8", "replace")
    if len(folder) < 3 and is_image_name(parts[-1]):
        count, first = listing.images.get(folder, (0, "/".join(parts)))
        listing.images[folder] = (count + 1, first)
    if folder:
        listing.files[folder[:3]] += 1  # one common folder, a split and a class: no deeper name matters


def _safe_parts(name: str) -> Parts | None:
    """The parts of a member's path without ``.``; None for one that is absolute or climbs."""
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    return None if name.startswith("/") or ".." in parts else parts


def _common_top(listing: _Listing) -> Parts:
    """The one folder that everything lies in, if there are folders in it: an archiver's, not a class."""
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


def _read(path: Path, roles: dict[Parts, tuple[str | None, int]], depth: int) -> Iterator[Record]:
    with closing(_members(path)) as members:
        for archive, member in members:
            parts = _safe_parts(member.name)
            if parts is None or not member.isreg() or member.size > MEMBER_LIMIT or any(map(is_litter, parts)):
                continue
            role = roles.get(parts[:-1][:depth])
            if role is not None:
                yield Record(*role, printable("/".join(parts)), _bytes(archive, member))


def _bytes(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None, "only regular files are read"
    with file:
        return file.read()
