"""Tars in the WebDataset format: an image and its class are members of one base name, one after the other.

Large image sets are often published in this form, because a tar is read from front to back: ``n01440764_10026.jpg`` is
followed by ``n01440764_10026.cls`` (Aizman, Maltby and Breuel, "High Performance I/O For Large Scale Deep Learning",
2019; https://github.com/webdataset/webdataset). A member's name up to the first dot of its file name is the key of a
sample, the rest is a field. Consecutive members with one key are a sample.

A sample here is one image and one class. The class is in the field ``cls`` or ``cls.txt``, or in a field ``json`` under
``cls`` or ``label``. It is a number, which a file ``classes.txt`` or ``classnames.txt`` beside the tars can name, or a
name. Other fields are not read, and nothing is unpickled. The tars are read by the strict reader of ``tars.py``, once
to list the samples and once for each use of the images. Memory grows with the number of samples in one tar, whose keys
must differ, and not with the images.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from alexnet.core.errors import UserError
from alexnet.core.files import open_regular
from alexnet.core.names import printable
from alexnet.data.containers import SUFFIXES
from alexnet.data.identity import image_name
from alexnet.data.sources.archives import FOLDER_LIMIT, Member, Parts, is_dicom_member, members, safe_parts, unusable
from alexnet.data.sources.class_folders import SPLIT_ORDER, ClassFolder, choose_classes
from alexnet.data.sources.folders import read_names, scan, subfolders
from alexnet.data.sources.label_files import NAMES_OF_NUMBERS, whole_number
from alexnet.data.sources.paired_folders import CLASSES_FILE, class_names
from alexnet.data.sources.records import (
    Ignored,
    Record,
    Source,
    describe,
    fingerprint,
    is_ignored_name,
    slug,
    stat,
    unreadable,
)
from alexnet.data.sources.split_names import split_in, split_of
from alexnet.data.sources.tars import TAR, is_tar
from alexnet.data.splits import content_hash

CLASS_FIELDS = ("cls", "cls.txt", "json")
"""The fields that can hold the class; the first that has one counts."""
JSON_KEYS = ("cls", "label")
CLASSES_FILES = (CLASSES_FILE, "classnames.txt")
"""Files beside the tars with the name of each class in a line, in the order of the numbers."""
CLASS_LIMIT = 1 << 20
"""Bytes of the largest member that is read for its class."""
NAME_LIMIT = 200
"""Characters of the longest class name that is read."""
SAMPLE_LIMIT = 2_000_000
"""The most samples in one tar: more than ImageNet's training images. The hashes of their keys need 150 MB of memory."""
FIRST_MEMBERS = 1000
"""Members at the start of a tar by which the format is recognized."""
KEY_SHOWN = 200
EXPECTED = "an image and its class with the same name, such as 0001.jpg and 0001.cls"


class Tar(NamedTuple):
    """A tar: ``name`` is its path in the folder that is the source, "" if the tar itself is the source."""

    path: Path
    name: str
    split: str | None

    def inside(self, member: str) -> str:
        """The path of a member in the source."""
        return f"{self.name}/{member}" if self.name else member


@dataclass
class _Sample:
    """Consecutive members of one key. ``name``: of its image in the tar; ``image``: the bytes, if they were read."""

    key: str
    images: int = 0
    name: str = ""
    image: bytes = b""
    dicom: bool = False
    noted: bool = False  # whether a member of it was ignored, with a note
    classes: dict[str, str] = field(default_factory=dict)  # field → class
    again: bool = False  # whether a field occurs again with another class

    @property
    def label(self) -> str:
        """The class, "" if there is none."""
        return next((self.classes[name] for name in CLASS_FIELDS if name in self.classes), "")

    @property
    def fault(self) -> str:
        """Why the sample cannot be used, or ""."""
        if self.images != 1:
            return "sample with two or more images" if self.images else "sample without an image"
        if self.again or not self.label:
            return "sample with two classes" if self.again else "sample without a class"
        return "sample whose class is a negative number" if (whole_number(self.label) or 0) < 0 else ""


@dataclass
class _Listing:
    """The result of the first pass: the samples of each split and class, counted, and a sample of each class."""

    counts: Counter[tuple[str | None, str]] = field(default_factory=Counter)
    first: dict[str, tuple[Path, str]] = field(default_factory=dict)  # class → a tar and the key of a sample
    medical: bool = False  # whether an image is a DICOM file, so that names are not shown
    ignored: Ignored = field(default_factory=Ignored)


def find_tars(root: Path) -> list[Tar]:
    """The tars in a folder and in its folders ``train``, ``val`` and ``test``; of a file ``root`` that file.

    The split is that of the folder, else the one that the name of the tar means. Raises ``UserError``.
    """
    if not root.is_dir():
        return [Tar(root, "", None)]
    found = [Tar(root / name, name, split_in(TAR.suffix.sub("", name))) for name in _tar_names(root)]
    for folder in subfolders(root, Ignored()):
        if (split := split_of(folder)) in SPLIT_ORDER:
            found += [Tar(root / folder / name, f"{folder}/{name}", split) for name in _tar_names(root / folder)]
    return found


def _tar_names(folder: Path) -> list[str]:
    entries = [each for each in scan(folder) if TAR.suffix.search(each.name) and not is_ignored_name(each.name)]
    return sorted(each.name for each in entries if each.is_file())


def holds_samples(path: Path) -> bool:
    """Whether a file is a tar that has an image and a class with one key among its first ``FIRST_MEMBERS`` members."""
    images, classes = set[int](), set[int]()
    try:
        _check_tar(path)
        with closing(members(path, TAR)) as found:
            for member in itertools.islice(found, FIRST_MEMBERS):
                if (named := _key_and_field(member)) is None or unusable(member, named[0]):
                    continue
                _, key, name = named
                if _is_image(name):
                    images.add(_number(key))
                elif _class_in(name, member):
                    classes.add(_number(key))
                if images & classes:
                    return True
    except UserError:  # damaged, or no tar
        pass
    return False


def open_webdataset(root: Path, tars: Sequence[Tar]) -> Source:
    """The source of the samples in ``tars``, which :func:`find_tars` found at ``root``.

    The records are in the order of splits, of the names of the tars, and of the samples in each tar. Raises
    ``UserError`` if a tar is damaged, if a key occurs again in it, if a class has no name or no training images, and if
    no sample can be used.
    """
    listing = _Listing()
    tars = _ordered(tars, listing.ignored)
    folder = root if root.is_dir() else root.parent
    named = next((folder / name for name in CLASSES_FILES if (folder / name).is_file()), None)
    before = _fingerprint(tars, named)
    try:
        for tar in tars:
            _list(tar, listing)
        if not listing.counts:
            raise UserError(f"{root}: none of its samples can be used: expected {EXPECTED}")
        names, order = _names(listing, named)
        counts = Counter[ClassFolder]()
        for (split, text), count in listing.counts.items():
            counts[ClassFolder(split, names[text], ())] += count
        classes, warnings = choose_classes(counts, str(root), order)
    except UserError as error:  # samples that were ignored may be the cause
        raise UserError(error.line, [*error.details, *_warnings(listing)]) from error
    place = {name: label for label, name in enumerate(classes)}
    labels = {text: place[name] for text, name in names.items()}

    def read() -> Iterator[Record]:
        if _fingerprint(tars, named) != before:
            raise UserError(f"{root} changed while it was in use: start again")
        return _read(tars, labels, medical=listing.medical)

    return Source(
        name=slug(root.name if root.is_dir() else TAR.suffix.sub("", root.name)),
        location=str(root),
        classes=classes,
        fingerprint=before,
        read=read,
        count=sum(counts.values()),
        descriptions=describe(classes, read_names([folder], listing.ignored, NAMES_OF_NUMBERS)),
        warnings=(*_warnings(listing), *warnings),
        trainable=any(folder.trains for folder in counts),
    )


def _warnings(listing: _Listing) -> list[str]:
    return listing.ignored.warnings(named=not listing.medical)


def _ordered(tars: Sequence[Tar], ignored: Ignored) -> list[Tar]:
    """The tars that are used, in order. As for folders, tars beside splits are ignored, and train alone is no split."""
    splits = {tar.split for tar in tars}.intersection(SPLIT_ORDER)
    if not splits:
        return sorted((tar._replace(split=None) for tar in tars), key=lambda tar: tar.name)
    for tar in tars:
        if tar.split not in SPLIT_ORDER:
            ignored.add("tar whose name means no split, beside others", tar.name)
    used = sorted((SPLIT_ORDER.index(tar.split), tar.name, tar) for tar in tars if tar.split in SPLIT_ORDER)
    return [tar._replace(split=None) if splits == {"train"} else tar for _, _, tar in used]


def _fingerprint(tars: Sequence[Tar], named: Path | None) -> str:
    files = [(f"{tar.split}:{tar.name or tar.path}", stat(tar.path)) for tar in tars]
    files += [(named.name, stat(named))] if named else []
    return fingerprint((name, status.st_size, status.st_mtime_ns) for name, status in files)


def _check_tar(path: Path) -> None:
    """Raise ``UserError`` if a file is not a tar that is read."""
    try:
        with open_regular(path) as file:
            if is_tar(file):
                return
    except OSError as error:
        raise unreadable(path, error) from error
    raise UserError(f"{path} is not a tar, plain or compressed by gzip, bzip2 or xz: pack it again, or move it away")


def _list(tar: Tar, listing: _Listing) -> None:
    """Add the samples of a tar to ``listing``."""
    _check_tar(tar.path)
    seen = set[int]()
    for sample in _samples(tar, listing.ignored):
        listing.medical |= sample.dicom
        key = sample.key[:KEY_SHOWN]
        if (number := _number(sample.key)) in seen:
            which = "a key" if listing.medical else f"the key {printable(key)}"
            raise UserError(
                f"{tar.path}: {which} occurs again after other keys: pack the tar again with the members of each "
                "sample one after the other (tar --sort=name)"
            )
        seen.add(number)
        if len(seen) > SAMPLE_LIMIT:
            raise UserError(f"{tar.path} has more than {SAMPLE_LIMIT:,} samples: divide it into several tars")
        if fault := sample.fault:
            if not sample.noted:
                listing.ignored.add(fault, tar.inside(key))
            continue
        listing.counts[tar.split, sample.label] += 1
        listing.first.setdefault(sample.label, (tar.path, key))
        if len(listing.first) > FOLDER_LIMIT:
            raise UserError(f"{tar.path}: its samples have more than {FOLDER_LIMIT:,} classes, the limit")


def _names(listing: _Listing, named: Path | None) -> tuple[dict[str, str], Callable[[str], int] | None]:
    """Class as the samples state it → its name, and the key for the order of the names; None: the order of text.

    ``named``: the file with the names of the numbers.
    """
    numbers = {text: number for text in listing.first if (number := whole_number(text)) is not None}
    if len(numbers) < len(listing.first):
        return {text: text for text in listing.first}, None
    if named is None:
        return {text: str(number) for text, number in numbers.items()}, int
    known = class_names(named)
    for text, number in numbers.items():
        if number >= len(known):
            path, key = listing.first[text]
            which = "a sample" if listing.medical else f"the sample {printable(key)}"
            raise UserError(
                f"{path}: {which} has class {number}, and {named} names the classes 0 to {len(known) - 1}: add the "
                "missing names, or correct the class"
            )
    order = {name: number for number, name in enumerate(known)}
    return {text: known[number] for text, number in numbers.items()}, order.__getitem__


def _read(tars: Sequence[Tar], labels: Mapping[str, int], *, medical: bool) -> Iterator[Record]:
    """The records of the second pass. ``labels``: class as the samples state it → label. ``medical``: number names."""
    number = itertools.count()
    for tar in tars:
        for sample in _samples(tar, Ignored(), with_images=True):
            if not sample.fault:
                path = tar.inside(sample.name)
                name, file = (image_name(next(number)), path) if medical else (printable(path), "")
                yield Record(tar.split, labels[sample.label], name, sample.image, file=file)


def _samples(tar: Tar, ignored: Ignored, *, with_images: bool = False) -> Iterator[_Sample]:
    """The samples of a tar in order; ``ignored`` receives the members that cannot be used.

    With ``with_images`` a sample has the bytes of its image. At most one image is in memory.
    """
    sample: _Sample | None = None
    with closing(members(tar.path, TAR)) as found:
        for member in found:
            if safe_parts(member.name) is None:
                ignored.add("path outside the tar", tar.inside(member.name))
            if (named := _key_and_field(member)) is None:
                continue
            parts, key, name = named
            if sample is None or sample.key != key:
                if sample is not None:
                    yield sample
                sample = _Sample(key)
            if not (_is_image(name) or name in CLASS_FIELDS):
                continue
            if reason := unusable(member, parts):
                ignored.add(reason, tar.inside("/".join(parts)))
                sample.noted = True
            elif _is_image(name):
                sample.images += 1
                sample.name, sample.dicom = "/".join(parts), sample.dicom or is_dicom_member(member)
                sample.image = member.read() if with_images and sample.images == 1 else b""
            elif label := _class_in(name, member):
                sample.again |= sample.classes.setdefault(name, label) != label
    if sample is not None:
        yield sample


def _key_and_field(member: Member) -> tuple[Parts, str, str] | None:
    """The parts of a member's path, its key and its field in lower case; None if it belongs to no sample."""
    parts = safe_parts(member.name)
    if not parts or member.kind == "folder" or any(map(is_ignored_name, parts)):
        return None
    stem, _, name = parts[-1].partition(".")
    return (parts, "/".join((*parts[:-1], stem)), name.lower()) if stem and name else None


def _is_image(name: str) -> bool:
    """Whether a field holds an image: "jpg" and "left.png" do."""
    return PurePosixPath(f"x.{name}").suffix in SUFFIXES


def _class_in(name: str, member: Member) -> str:
    """The class in a member whose field is ``name``; "" if it holds none."""
    if name not in CLASS_FIELDS or member.size > CLASS_LIMIT:
        return ""
    data = member.read()
    try:
        text = (_class_in_json(json.loads(data)) if name == "json" else data.decode("utf-8-sig")).strip()
    except (ValueError, RecursionError):
        return ""
    return text if len(text) <= NAME_LIMIT and text.isprintable() else ""


def _class_in_json(value: object) -> str:
    found = [value[key] for key in JSON_KEYS if key in value] if isinstance(value, dict) else []
    if not found or isinstance(found[0], bool):
        return ""
    label = int(found[0]) if isinstance(found[0], float) and found[0].is_integer() else found[0]
    return str(label) if isinstance(label, int | str) else ""


def _number(key: str) -> int:
    return content_hash(key.encode("utf-8", "surrogateescape"))
