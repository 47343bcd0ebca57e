"""The files of extracted features: a folder of ``.npy`` files, which can be memory-mapped, or one file.

Every format holds the same: for each layer an array ``(rows, …)`` float32, for each row the file, the class and the
error of its image, and the description of the extraction. In a folder these are ``LAYER.npy``, ``images.csv`` and
``features.json``; the layers of untrained twins are in folders ``untrained-0``, ``untrained-1``, …

An extraction writes a folder first, with a constant amount of memory. The functions here copy it in blocks into the
other formats, so they need no more memory either.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import secrets
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from alexnet.core.errors import UserError, unknown
from alexnet.core.extras import require
from alexnet.core.files import json_text, open_regular, read_json, size_in_words, sync

DESCRIPTION, TABLE = "features.json", "images.csv"
TABLE_HEADER = ("row", "file", "class", "error")
COLUMNS = TABLE_HEADER[1:]
NPZ_LIMIT = 10**9
BLOCK_BYTES = 32 << 20  # copied at a time
ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # so that equal features give equal files

Description = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Features:
    """Extracted features: ``features["relu5"]`` is an array ``(rows, …)`` float32; a row of NaN has no image.

    In a folder it is memory-mapped, read only. ``description``: what was extracted, as in ``features.json``.
    """

    path: Path
    description: Description

    @property
    def layers(self) -> list[str]:
        """The names of the arrays, those of untrained twins with their folder: ``untrained-0/relu5``."""
        return array_keys(self.description)

    @property
    def rows(self) -> int:
        """The number of images."""
        return int(self.description["rows"])

    def __getitem__(self, layer: str) -> NDArray[np.float32]:
        if layer not in self.layers:
            raise unknown("layer", layer, self.layers)
        array = file_format(self.path).array(self.path, layer)
        if array.shape[:1] != (self.rows,) or array.dtype != np.float32:
            raise UserError(f"{self.path}: the array of {layer} has another shape than its description: it is damaged")
        return array

    def bytes_of(self, layer: str) -> int:
        """The size of an array in bytes."""
        shape: list[int] = self.description["layers"][layer.rpartition("/")[2]]["shape"]
        return 4 * self.rows * math.prod(shape)

    def table(self) -> list[tuple[str, str, str]]:
        """(File, class, error) of each row; error is "" for an image that was read."""
        return list(file_format(self.path).table(self.path))


class Format(Protocol):
    """A format of features. ``copies``: how many times the arrays are on the disk while it is written."""

    copies: int

    def check(self, out: Path, size: int) -> None:
        """Raise ``UserError`` if ``size`` bytes of arrays cannot be written in this format here."""

    def publish(self, folder: Path, out: Path, description: Description) -> None:
        """Turn the complete folder into ``out``, whole or not at all. Raises ``OSError``."""

    def describe(self, out: Path) -> Description:
        """The description in ``out``. Raises ``OSError``, ``ValueError`` or ``LookupError`` if it holds none."""

    def array(self, out: Path, key: str) -> NDArray[np.float32]:
        """One array."""

    def table(self, out: Path) -> Iterator[tuple[str, str, str]]:
        """(File, class, error) of each row."""


class NpyFolder:
    """A folder with a ``.npy`` file for each layer."""

    copies = 1

    def check(self, out: Path, size: int) -> None:
        """A folder takes everything."""

    def publish(self, folder: Path, out: Path, description: Description) -> None:
        """Rename the folder."""
        for path in (*sorted(folder.rglob("*")), folder):
            sync(path)
        folder.rename(out)
        sync(out.parent)

    def describe(self, out: Path) -> Description:
        """Read ``features.json``."""
        return _checked(read_json(out / DESCRIPTION))

    def array(self, out: Path, key: str) -> NDArray[np.float32]:
        """Memory-map a file."""
        path = layer_path(out, key)
        try:
            open_regular(path).close()  # numpy would wait for a pipe
            array: NDArray[np.float32] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{path} cannot be read: {error}") from error
        return array

    def table(self, out: Path) -> Iterator[tuple[str, str, str]]:
        """Read ``images.csv``."""
        yield from read_table(out / TABLE)


class Npz:
    """One ``.npz`` file for ``np.load``; it cannot be memory-mapped, so it is limited to ``NPZ_LIMIT`` bytes."""

    copies = 2

    def check(self, out: Path, size: int) -> None:
        """Refuse large arrays."""
        if size > NPZ_LIMIT:
            raise UserError(
                f"--out {out}: an .npz file cannot be memory-mapped, so it may have at most "
                f"{size_in_words(NPZ_LIMIT)}; these features have {size_in_words(size)}: give a folder, or --pool mean"
            )

    def publish(self, folder: Path, out: Path, description: Description) -> None:
        """Copy the files into a zip, which is what an ``.npz`` file is."""
        texts = {name: np.array(values, dtype=np.str_) for name, values in _columns(folder).items()}
        texts["description"] = np.array(json_text(description))
        with _written_beside(out) as path, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for key in array_keys(description):
                with layer_path(folder, key).open("rb") as file, _member(archive, key) as member:
                    shutil.copyfileobj(file, member, BLOCK_BYTES)
            for name, values in texts.items():
                with _member(archive, name) as member:
                    np.lib.format.write_array(member, values, allow_pickle=False)

    def describe(self, out: Path) -> Description:
        """Read the description."""
        return _checked(json.loads(str(self._read(out, "description"))))

    def array(self, out: Path, key: str) -> NDArray[np.float32]:
        """Read an array into memory."""
        array: NDArray[np.float32] = self._read(out, key)
        return array

    def table(self, out: Path) -> Iterator[tuple[str, str, str]]:
        """Read the columns."""
        yield from zip(*(self._read(out, name).tolist() for name in COLUMNS), strict=True)

    def _read(self, out: Path, name: str) -> NDArray[Any]:
        try:
            with open_regular(out) as file, np.load(file, allow_pickle=False) as arrays:
                array: NDArray[Any] = arrays[name]
                return array
        except zipfile.BadZipFile as error:
            raise ValueError(str(error)) from error


class Hdf5:
    """One HDF5 file: a dataset for each layer, and the datasets ``file``, ``class`` and ``error``."""

    copies = 2

    def check(self, out: Path, size: int) -> None:
        """Refuse if h5py is absent."""
        _import("h5py", out, "h5")

    def publish(self, folder: Path, out: Path, description: Description) -> None:
        """Copy the files in blocks."""
        h5py = _import("h5py", out, "h5")
        with _written_beside(out) as path, h5py.File(path, "w") as file:
            file.attrs["description"] = json_text(description)
            for key in array_keys(description):
                array = np.load(layer_path(folder, key), mmap_mode="r", allow_pickle=False)
                dataset = file.create_dataset(key, array.shape, "<f4")
                for first, stop in _blocks(array):
                    dataset[first:stop] = array[first:stop]
            for name, values in _columns(folder).items():
                file.create_dataset(name, data=values, dtype=h5py.string_dtype())

    def describe(self, out: Path) -> Description:
        """Read the description."""
        with self._opened(out) as file:
            return _checked(json.loads(file.attrs["description"]))

    def array(self, out: Path, key: str) -> NDArray[np.float32]:
        """Read an array into memory."""
        with self._opened(out) as file:
            array: NDArray[np.float32] = file[key][...]
            return array

    def table(self, out: Path) -> Iterator[tuple[str, str, str]]:
        """Read the columns."""
        with self._opened(out) as file:
            yield from zip(*(file[name].asstr()[...].tolist() for name in COLUMNS), strict=True)

    def _opened(self, out: Path) -> Any:
        h5py = _import("h5py", out, "h5")
        open_regular(out).close()
        return h5py.File(out, "r")


class Parquet:
    """One Parquet file: the columns ``row``, ``file``, ``class``, ``error``, and a list of numbers for each layer."""

    copies = 2

    def check(self, out: Path, size: int) -> None:
        """Refuse if pyarrow is absent."""
        _import("pyarrow.parquet", out, "parquet")

    def publish(self, folder: Path, out: Path, description: Description) -> None:
        """Copy the files in blocks of rows, a row group each."""
        parquet, arrow = _import("pyarrow.parquet", out, "parquet"), _import("pyarrow", out, "parquet")
        keys = array_keys(description)
        arrays = {
            key: np.load(layer_path(folder, key), mmap_mode="r", allow_pickle=False).reshape(description["rows"], -1)
            for key in keys
        }
        fields = [("row", arrow.int64()), *((name, arrow.string()) for name in COLUMNS)]
        fields += [(key, arrow.list_(arrow.float32(), arrays[key].shape[1])) for key in keys]
        schema = arrow.schema(fields, metadata={"description": json_text(description)})
        texts = _columns(folder)
        widest = max(arrays.values(), key=lambda array: array.shape[1])
        with _written_beside(out) as path, parquet.ParquetWriter(path, schema) as writer:
            for first, stop in _blocks(widest):
                columns = [arrow.array(range(first, stop), arrow.int64())]
                columns += [arrow.array(texts[name][first:stop], arrow.string()) for name in COLUMNS]
                for key in keys:
                    flat = arrow.array(np.ascontiguousarray(arrays[key][first:stop]).reshape(-1))
                    columns.append(arrow.FixedSizeListArray.from_arrays(flat, arrays[key].shape[1]))
                writer.write_table(arrow.table(columns, schema=schema))

    def describe(self, out: Path) -> Description:
        """Read the description."""
        open_regular(out).close()
        metadata = _import("pyarrow.parquet", out, "parquet").read_schema(out).metadata or {}
        return _checked(json.loads(metadata[b"description"]))

    def array(self, out: Path, key: str) -> NDArray[np.float32]:
        """Read a column into memory, in the shape of the layer."""
        description = self.describe(out)
        shape = description["layers"][key.rpartition("/")[2]]["shape"]
        flat = self._column(out, key).combine_chunks().flatten().to_numpy()
        array: NDArray[np.float32] = flat.reshape(description["rows"], *shape)
        return array

    def table(self, out: Path) -> Iterator[tuple[str, str, str]]:
        """Read the columns."""
        yield from zip(*(self._column(out, name).to_pylist() for name in COLUMNS), strict=True)

    def _column(self, out: Path, name: str) -> Any:
        return _import("pyarrow.parquet", out, "parquet").read_table(out, columns=[name])[name]


FORMATS: Mapping[str, Format] = {".npz": Npz(), ".h5": Hdf5(), ".hdf5": Hdf5(), ".parquet": Parquet()}
"""Suffix of a file → its format; any other name is that of a folder."""
REFUSED = (".npy", ".csv", ".txt", ".mat", ".json", ".zip", ".pt", ".pth", ".safetensors", ".png", ".svg")


def file_format(out: Path) -> Format:
    """The format that the name of ``out`` states. Raises ``UserError`` for the suffix of another kind of file."""
    suffix = out.suffix.lower()
    if suffix in REFUSED:
        raise UserError(
            f"--out {out}: features are written to a folder, which gets an .npy file for each layer, or to a file "
            f"whose name ends in {', '.join(FORMATS)}"
        )
    return FORMATS.get(suffix, NpyFolder())


def open_features(path: Path | str) -> Features:
    """The features in a folder or file. Raises ``UserError`` if it holds none."""
    path = Path(path)
    try:
        return Features(path, file_format(path).describe(path))
    except FileNotFoundError as error:
        raise UserError(f"{path} was not written by alexnet features: give a folder or file of its --out") from error
    except (OSError, ValueError, LookupError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} holds no features that can be read: {error}") from error


def array_keys(description: Mapping[str, Any]) -> list[str]:
    """The names of all arrays: those of the model, then those of each untrained twin."""
    layers = list(description["layers"])
    twins = [twin_folder(seed) for seed in range(description["untrained"])]
    return [*layers, *(f"{twin}/{name}" for twin in twins for name in layers)]


def twin_folder(seed: int) -> str:
    """The folder of the untrained twin of a random seed."""
    return f"untrained-{seed}"


def layer_path(folder: Path, key: str) -> Path:
    """The file of an array in a folder."""
    return folder / f"{key}.npy"


def read_table(path: Path) -> Iterator[tuple[str, str, str]]:
    """(File, class, error) of each row of ``images.csv``. Raises ``UserError`` if it is damaged."""
    with io.TextIOWrapper(open_regular(path), encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        if tuple(next(rows, ())) != TABLE_HEADER:
            raise UserError(f"{path} does not begin with {','.join(TABLE_HEADER)}: it was changed")
        for number, row in enumerate(rows):
            if len(row) != len(TABLE_HEADER) or row[0] != str(number):
                raise UserError(f"{path}, line {rows.line_num}: expected row {number}: it was changed")
            yield row[1], row[2], row[3]


def _columns(folder: Path) -> dict[str, list[str]]:
    files, classes, errors = zip(*read_table(folder / TABLE), strict=True)
    return dict(zip(COLUMNS, ([*files], [*classes], [*errors]), strict=True))


def _blocks(array: NDArray[Any]) -> Iterator[tuple[int, int]]:
    """(First, stop) of blocks of rows, of about ``BLOCK_BYTES`` each."""
    rows = max(1, BLOCK_BYTES // max(1, array[0].nbytes))
    for first in range(0, len(array), rows):
        yield first, min(first + rows, len(array))


def _checked(description: Any) -> Description:
    """The description, if it is one of complete features. Raises ``ValueError``."""
    if not isinstance(description, dict) or "layers" not in description or "sha256" not in description:
        raise ValueError("there is no description of features in it")
    return description


def _member(archive: zipfile.ZipFile, name: str) -> Any:
    return archive.open(zipfile.ZipInfo(f"{name}.npy", ZIP_DATE), "w", force_zip64=True)


@contextlib.contextmanager
def _written_beside(out: Path) -> Iterator[Path]:
    """A path beside ``out`` to write to; it is synced and renamed to ``out`` at the end. Raises ``OSError``."""
    temporary = out.with_name(f".{out.name}.{secrets.token_hex(4)}")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
    sync(out.parent)


def _import(module: str, out: Path, extra: str) -> ModuleType:
    return require(module, extra, f"{out}: this format")
