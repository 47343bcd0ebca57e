"""Images whose classes are in a file of labels: a CSV, or a list of paths and labels.

Such files come in many forms: ``file,label[,split]`` with a header; Kaggle's ``train.csv`` with ``id,breed`` and names
without a suffix; one column of 0 and 1 for each class; the lists of Caffe and PaddleClas, ``path label`` without a
header, with spaces in the paths and integer labels; MXNet's ``.lst``. The form is found by comparing the rows with the
files in the folder, so a wrong guess would find no images and is refused.

Only files in the folder are used: a path that leads out of it is refused.
"""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from alexnet.core.errors import UserError
from alexnet.core.files import read_bytes
from alexnet.core.names import printable
from alexnet.data.sources.class_folders import SPLIT_ORDER, ClassFolder, ascii_if_alike, same_name
from alexnet.data.sources.folders import File, folder_source, holds_dicom, is_image_name, list_tree, read_names
from alexnet.data.sources.records import NAME_FILES, Ignored, Source, slug, unreadable
from alexnet.data.sources.split_names import UNLABELLED, split_of

LIMIT = 256 << 20
"""Bytes of the largest file of labels: a list of several million images."""
SAMPLE = 1000  # rows by which the form of a file is found
NAMES_OF_NUMBERS = (*NAME_FILES, "label_list.txt")
"""Files beside the labels with a name for each integer label, "0 tench": also PaddleClas's."""

FILE_COLUMNS = (
    *("file", "filename", "filenames", "filepath", "filepaths", "path", "paths", "imagepath", "imgpath", "image"),
    *(
        "images",
        "imagename",
        "imagefile",
        "imageid",
        "img",
        "imgname",
        "imgid",
        "photo",
        "idcode",
        "fname",
        "name",
        "id",
    ),
)
LABEL_COLUMNS = (
    *("label", "labels", "class", "classname", "category", "target", "breed", "species", "diagnosis", "dx"),
    *("labelname", "categoryname", "classid", "labelid", "categoryid", "y"),
)
SPLIT_COLUMNS = ("split", "set", "subset", "partition", "dataset", "usage", "phase")
"""Names of columns in lower case without spaces, the best first."""
GROUP_COLUMN = "group"

_NEEDS = "a first line file,label names the columns"


class _Row(NamedTuple):
    line: int
    file: str
    label: str
    split: str | None
    group: str = ""


@dataclass(frozen=True)
class _Columns:
    """Which column is what. ``one_hot``: column → class, if there is a column of 0 and 1 for each class."""

    file: int
    label: int | None
    split: int | None
    header: tuple[str, ...] | None
    one_hot: Mapping[int, str]
    group: int | None = None


def open_labelled(root: Path, labels: Sequence[Path]) -> Source:
    """The images in the folder ``root`` with the classes, and splits, that the files ``labels`` state.

    Splits are those of a column ``split``; of several files, those of their names (``train.txt``, ``val.txt``); else
    those of the folders in ``root`` in which the images are. Images with the same name in a column ``group`` stay in
    one split and in one fold. Raises ``UserError``.
    """
    ignored = Ignored()
    finder = _Finder(root, list_tree(root, ignored)[0])
    chosen: dict[str, tuple[str, str | None, str]] = {}  # file → class, split, place of the row
    groups: dict[str, str] = {}
    for path in labels:
        split = _split_of_file(path) if len(labels) > 1 else None
        for row in _rows(path, finder, ignored):
            place = f"{path.name}, line {row.line}"
            found = finder.find(row.file, path.parent, row.split or split or split_of(path.stem), place)
            if found is None:
                ignored.add("label without its image file", f"{row.file} ({place})")
            elif not row.label:
                ignored.add("image without a label", f"{row.file} ({place})")
            elif row.split == UNLABELLED:
                ignored.add("image of an unlabelled split", f"{row.file} ({place})")
            else:
                _add(chosen, found, row.label, row.split or split, place, ignored, finder.shown(found))
                if row.group and groups.setdefault(found, row.group) != row.group:
                    raise UserError(f"{finder.shown(found)} is in two groups ({chosen[found][2]}; {place})")
    shown = " and ".join(str(path) for path in labels)
    if not chosen:
        raise UserError(f"{shown}: no row names an image in {root}", ignored.warnings(named=not finder.medical))
    unlisted = [name for name in finder.files if name not in chosen and is_image_name(name)]
    if unlisted:
        ignored.add("image that the labels do not name", unlisted[0], len(unlisted))
    files = _class_files(chosen, finder.files, ignored)
    names = read_names([root, *(path.parent for path in labels)], ignored, NAMES_OF_NUMBERS)
    numbers = all(whole_number(folder.label) is not None for folder in files)
    source = folder_source(root, slug(root.name), files, names, ignored, int if numbers else None, groups)
    return replace(source, location=f"{root} with the labels of {shown}")


def _split_of_file(path: Path) -> str:
    split = split_of(path.stem)
    if split not in SPLIT_ORDER:
        raise UserError(
            f"{path}: of several files of labels, each needs a name that means a split: train.txt, val.txt or test.txt"
        )
    return split


def _add(
    chosen: dict[str, tuple[str, str | None, str]],
    file: str,
    label: str,
    split: str | None,
    place: str,
    ignored: Ignored,
    shown: str,
) -> None:
    before = chosen.setdefault(file, (label, split, place))
    if before[2] == place:
        return
    if before[:2] != (label, split):
        what = f"{before[0]!r} and {label!r}" if before[0] != label else f"the splits {before[1]} and {split}"
        raise UserError(f"{shown} has {what} ({before[2]}; {place}): one image needs one class and split")
    ignored.add("image that is named again", f"{file} ({place})")


def _class_files(
    chosen: Mapping[str, tuple[str, str | None, str]], files: Mapping[str, File], ignored: Ignored
) -> dict[ClassFolder, list[File]]:
    """The files of each split and class, in the order of splits, classes and paths."""
    spelling: dict[str, tuple[str, str]] = {}
    for label, _, place in chosen.values():
        before = spelling.setdefault(same_name(label), (label, place))
        if before[0] != label:
            raise UserError(
                f"the labels {ascii_if_alike(before[0], label)} ({before[1]}; {place}) differ only in case or Unicode "
                "form, so they may be one class: write both in the same way"
            )
    splits = {file: split for file, (_, split, _) in chosen.items()}
    if not any(splits.values()):
        splits = _splits_of_folders(chosen) or splits
        if any(splits.values()):
            ignored.note("the splits are those of the folders: train/, val/ and test/, or names that mean them")
    if set(splits.values()) == {"train"}:  # as for folders: no splits
        splits = dict.fromkeys(splits)
    found: dict[ClassFolder, list[File]] = defaultdict(list)
    for file in sorted(chosen):
        found[ClassFolder(splits[file], chosen[file][0], ())].append(files[file])
    order = {split: place for place, split in enumerate(SPLIT_ORDER)}
    return dict(sorted(found.items(), key=lambda item: (order.get(item[0].split or "", 0), item[0].label)))


def _splits_of_folders(files: Iterable[str]) -> dict[str, str | None] | None:
    """File → the split that a folder in its path means; None unless all have one, and these are different."""
    splits: dict[str, str | None] = {}
    for file in files:
        meanings = (split_of(part) for part in PurePosixPath(file).parts[:-1])
        splits[file] = next((split for split in meanings if split in SPLIT_ORDER), None)
    return splits if len(set(splits.values())) > 1 and None not in splits.values() else None


class _Finder:
    """The files in a folder, found by the ways in which files of labels name them."""

    def __init__(self, root: Path, files: Iterable[File]) -> None:
        self.root = root
        self.files = {file[0]: file for file in files}
        self._by_name: dict[str, list[str]] = defaultdict(list)  # also without the suffix
        for name in self.files:
            path = PurePosixPath(name)
            self._by_name[path.name].append(name)
            if is_image_name(path.name):
                self._by_name[path.stem].append(name)

    @cached_property
    def medical(self) -> bool:
        """Whether one of the files is a DICOM file, so that names are not shown."""
        return holds_dicom(self.root, self.files)

    def shown(self, name: str) -> str:
        """The name of a file in an error, which also has the line that names it."""
        return "a DICOM file" if self.medical else printable(name)

    def has(self, text: str, folder: Path) -> bool:
        """Whether an entry of a file of labels in ``folder`` names one or several images."""
        try:
            return bool(text) and bool(self._matches(text, folder))
        except UserError:
            return False

    def find(self, text: str, folder: Path, split: str | None, place: str) -> str | None:
        """The image file that an entry of a file of labels names; None if there is none.

        ``text``: the entry. ``folder``: the folder of the file of labels. ``split``: preferred if several image files
        are possible. ``place``: of the entry, for errors. Raises ``UserError`` for a path that leads out of the root
        folder and for a name of several files.
        """
        try:
            found = self._matches(text, folder)
        except UserError as error:
            raise UserError(f"{place}: {error}") from error
        if len(found) > 1 and split:
            found = [name for name in found if split in map(split_of, PurePosixPath(name).parts[:-1])] or found
        if len(found) > 1:
            meant = "two files" if self.medical else f"{found[0]} or {found[1]}"
            raise UserError(f"{place}: {self.shown(text)!r} may be {meant}: write the whole path")
        return found[0] if found else None

    def _matches(self, text: str, folder: Path) -> list[str]:
        """The image files that an entry can mean, by the first way to read it that finds any."""
        relative = [inside for base in (self.root, folder, self.root.parent) if (inside := self._inside(base, text))]
        if not relative:
            if text.lstrip("/") in self.files:  # as Caffe, which puts its root folder before each line
                return [text.lstrip("/")]
            if (slashed := text.replace("\\", "/")) != text:
                return self._matches(slashed, folder)
            raise UserError(
                f"{self.shown(text)!r} is outside {self.root}: give --data the folder that holds all images"
            )
        for name in relative:
            if name in self.files:
                return [name]
        for name in relative:
            if found := [each for each in self._by_name.get(_last(name), ()) if _without_suffix(each) == name]:
                return found
        tail = "/".join(part for part in PurePosixPath(text).parts if part != "/")
        found = [name for name in self._by_name.get(_last(tail), ()) if f"/{name}".endswith(f"/{tail}")]
        found = found or [
            name for name in self._by_name.get(_last(tail), ()) if f"/{_without_suffix(name)}".endswith(f"/{tail}")
        ]
        if not found and "\\" in text:
            return self._matches(text.replace("\\", "/"), folder)
        return found

    def _inside(self, base: Path, text: str) -> str | None:
        """The path of an entry, relative to the root; None if it is outside or not a path."""
        if "\0" in text:
            return None
        path = os.path.normpath(base / text)
        root = str(self.root).rstrip("/") + "/"
        return path.removeprefix(root) if path.startswith(root) else None


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _without_suffix(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _rows(path: Path, finder: _Finder, ignored: Ignored) -> Iterator[_Row]:
    """The rows of a file of labels. Raises ``UserError`` if it cannot be read or its form is unknown."""
    table = _table(path, finder)
    columns = _columns(path, table, finder)
    if columns.header and columns.label is not None:
        used = (columns.header[columns.file], columns.header[columns.label])
        if [_plain(name) for name in used] != ["file", "label"]:
            ignored.note(f"{path.name}: the images are in column {used[0]!r}, the classes in column {used[1]!r}")
    rows = [
        _row(path, number, cells, columns) for number, cells in (table[1:] if columns.header is not None else table)
    ]
    whole = [whole_number(row.label) for row in rows if row.label]
    if all(number is not None for number in whole):  # "3", "03" and "3.0" are one class
        rows = [row._replace(label=str(whole_number(row.label))) if row.label else row for row in rows]
    yield from rows


def _row(path: Path, line: int, cells: Sequence[str], columns: _Columns) -> _Row:
    needed = max(columns.file, columns.label or 0, columns.split or 0, columns.group or 0, *columns.one_hot)
    if len(cells) <= needed:
        raise UserError(f"{path}, line {line}: {len(cells)} column(s) instead of {needed + 1} or more")
    if not cells[columns.file]:
        raise UserError(f"{path}, line {line}: the name of the image is empty")
    label = _one_hot(path, line, cells, columns.one_hot) if columns.label is None else cells[columns.label]
    split = None
    if columns.split is not None and (split := split_of(cells[columns.split])) is None:
        raise UserError(
            f"{path}, line {line}: {printable(cells[columns.split])!r} is not a split: write train, val or test"
        )
    group = "" if columns.group is None else cells[columns.group].strip()
    return _Row(line, cells[columns.file], printable(label), split, group)


def _one_hot(path: Path, line: int, cells: Sequence[str], classes: Mapping[int, str]) -> str:
    found = [name for column, name in classes.items() if whole_number(cells[column]) == 1]
    if len(found) != 1:
        raise UserError(f"{path}, line {line}: {len(found)} classes have a 1; one image needs one class")
    return found[0]


def whole_number(text: str) -> int | None:
    """The whole number that a text states, also as "3.0"; None for any other text."""
    return int(text.partition(".")[0]) if re.fullmatch(r"-?\d{1,18}(\.0*)?", text) else None


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.lower())


def _text(path: Path) -> str:
    try:
        data = read_bytes(path, LIMIT)
    except OSError as error:
        raise unreadable(path, error) from error
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: save it as UTF-8, in a spreadsheet as 'CSV UTF-8'") from error
    if "\0" in text:
        raise UserError(f"{path} is not a text file: expected a CSV file,label, or lines 'path label'")
    return text


def _table(path: Path, finder: _Finder) -> list[tuple[int, list[str]]]:
    """Line number and cells of each row, separated in the way in which most rows name an image."""
    text = _text(path)
    best: tuple[int, list[tuple[int, list[str]]]] | None = None
    for rows in (*(_separated(path, text, mark) for mark in "\t;,|"), _spaced(text)):
        sample = [cells for _, cells in rows[:SAMPLE] if len(cells) > 1]
        score = sum(any(finder.has(cell, path.parent) for cell in cells) for cells in sample)
        if sample and (best is None or score > best[0]):
            best = (score, rows)
    if best is None:
        raise UserError(f"{path} has no rows of two columns: expected a CSV file,label, or lines 'path label'")
    if best[0] == 0:
        first = next((cells for _, cells in best[1][1:2]), best[1][0][1])
        raise UserError(
            f"{path}: no row names an image in {finder.root}: give --data the folder that holds the images",
            [
                f"a row: {finder.shown(', '.join(first)[:200])}",
                f"images there: {sum(map(is_image_name, finder.files)):,}",
            ],
        )
    return best[1]


def _separated(path: Path, text: str, mark: str) -> list[tuple[int, list[str]]]:
    if mark not in text:
        return []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, skipinitialspace=True)
    try:
        rows = [
            (reader.line_num, [cell.strip() for cell in cells])
            for cells in reader
            if any(cell.strip() for cell in cells)
        ]
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}") from error
    return rows[1:] if rows and rows[0][1][0].lower().startswith("sep=") else rows  # a line that Excel reads


def _spaced(text: str) -> list[tuple[int, list[str]]]:
    """Lines "path label": the last word is the label, so a path may contain spaces."""
    lines = ((number, line.strip().rsplit(maxsplit=1)) for number, line in enumerate(text.splitlines(), 1))
    return [(number, [cell.strip("\"'") for cell in cells]) for number, cells in lines if cells]


def _columns(path: Path, table: Sequence[tuple[int, list[str]]], finder: _Finder) -> _Columns:
    first = table[0][1]
    header = None if _is_data(first, path, finder) else tuple(first)
    sample = [cells for _, cells in table[header is not None :][:SAMPLE]]
    if not sample:
        raise UserError(f"{path} has a header and no rows")
    scores = Counter(column for cells in sample for column, cell in enumerate(cells) if finder.has(cell, path.parent))
    return _without_header(path, sample, scores) if header is None else _with_header(path, header, sample, scores)


def _is_data(cells: Sequence[str], path: Path, finder: _Finder) -> bool:
    """Whether the first row names an image, so that there is no header."""
    if any(finder.has(cell, path.parent) for cell in cells):
        return True
    names = [_plain(cell) for cell in cells]
    if any(name in (*FILE_COLUMNS, *LABEL_COLUMNS) for name in names):
        return False
    return any(is_image_name(cell) for cell in cells)


def _without_header(path: Path, sample: Sequence[Sequence[str]], scores: Counter[int]) -> _Columns:
    width = Counter(map(len, sample)).most_common(1)[0][0]
    file = max(range(width), key=lambda column: (scores[column], -column))
    if width == 2:
        return _Columns(file, 1 - file, None, None, {})
    if width == 3 and file == 0 and all(split_of(cells[2]) for cells in sample if len(cells) == width):
        return _Columns(0, 1, 2, None, {})
    if width == 3 and file == 2 and all(whole_number(cells[0]) is not None for cells in sample if len(cells) == width):
        return _Columns(2, 1, None, None, {})  # MXNet: a number, the label, the path
    raise UserError(f"{path} has {width} columns and no header: {_NEEDS}")


def _with_header(path: Path, header: Sequence[str], sample: Sequence[Sequence[str]], scores: Counter[int]) -> _Columns:
    names = [_plain(name) for name in header]
    for name in ("file", "label", "split", GROUP_COLUMN):
        if names.count(name) > 1:
            raise UserError(f"{path} has two columns {name!r}: rename one")
    named = [names.index(name) for name in FILE_COLUMNS if name in names and scores[names.index(name)]]
    unnamed = [column for column in range(len(names)) if names[column] not in LABEL_COLUMNS and scores[column]]
    if not (named or unnamed):
        raise UserError(f"{path}: no column holds the names of the images: {_NEEDS}", [f"columns: {', '.join(header)}"])
    file = named[0] if named else max(unnamed, key=lambda column: scores[column])
    split = _split_column(names, sample)
    group = names.index(GROUP_COLUMN) if GROUP_COLUMN in names and names.index(GROUP_COLUMN) != file else None
    if group is not None and len({*range(len(names))} - {file, split, group}) == 0:
        group = None  # the only other column is that of the classes
    others = [column for column in range(len(names)) if column not in (file, split, group)]
    label = next((names.index(name) for name in LABEL_COLUMNS if name in names and names.index(name) in others), None)
    if label is None and len(others) == 1:
        label = others[0]
    if label is not None:
        return _Columns(file, label, split, tuple(header), {}, group)
    filled = [cells for cells in sample if len(cells) == len(names)]
    if len(others) > 1 and all(whole_number(cells[column]) in (0, 1) for cells in filled for column in others):
        return _Columns(file, None, split, tuple(header), {column: header[column] for column in others}, group)
    raise UserError(f"{path}: it is not clear which column is the class: {_NEEDS}", [f"columns: {', '.join(header)}"])


def _split_column(names: Sequence[str], sample: Sequence[Sequence[str]]) -> int | None:
    """The column of splits; one with another name than ``split`` only if all its values are splits."""
    for name in SPLIT_COLUMNS:
        if name in names:
            column = names.index(name)
            if name == "split" or all(split_of(cells[column]) for cells in sample if len(cells) > column):
                return column
    return None
