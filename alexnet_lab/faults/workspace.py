"""The folders of the command fuzzer: images, models and unusual files; and what a command changed there.

``given/`` holds the inputs, ``work/`` is the working folder, ``cache/`` is ``ALEXNET_HOME``, ``user/`` is ``HOME`` and
``tmp/`` the temporary folder. After a command that changed something, the folders are copied anew from ``master/``, so
each command finds the same files, and a command can be repeated by its number alone.
"""

from __future__ import annotations

import os
import random
import shutil
import stat
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from alexnet_lab.faults.images import damage

PLACES = ("given", "work", "cache", "user", "tmp")
WRITABLE = ("cache", "tmp")  # where every command may write
SMALL = ("train.steps=2", "model.width=0.1", "train.batch_size=8")
Snapshot = dict[str, tuple[object, ...]]


@dataclass(frozen=True)
class Workspace:
    """The folders below ``root``."""

    root: Path

    def place(self, name: str) -> Path:
        """One of ``PLACES``."""
        return self.root / name

    @property
    def environment(self) -> dict[str, str]:
        """The variables that point into the folders. Downloads go to a port that nobody answers."""
        nowhere = "http://127.0.0.1:9"
        return {
            "HOME": str(self.place("user")), "ALEXNET_HOME": str(self.place("cache")), "TMPDIR": str(self.place("tmp")),
            "XDG_CACHE_HOME": str(self.place("user") / ".cache"), "http_proxy": nowhere, "https_proxy": nowhere,
            "COLUMNS": "100",
        }  # fmt: skip

    def snapshot(self) -> Snapshot:
        """Path below the root → type, mode, and for files size and time, for links their target."""
        found: Snapshot = {}
        for place in PLACES:
            for parent, folders, files in os.walk(os.fsencode(self.place(place))):
                for name in (*folders, *files):
                    path = os.path.join(parent, name)  # noqa: PTH118 – bytes, because names need not be UTF-8
                    found[os.fsdecode(os.path.relpath(path, os.fsencode(self.root)))] = _describe(path)
        return found

    def keep(self) -> Snapshot:
        """Save the current state of the folders, which :meth:`restore` brings back."""
        master = self.root / "master"
        master.mkdir()
        for place in PLACES:
            subprocess.run(["cp", "-a", str(self.place(place)), str(master)], check=True)
        return self.snapshot()

    def restore(self) -> None:
        """Bring back the folders as they were at :meth:`keep`."""
        for place in PLACES:
            shutil.rmtree(self.place(place), ignore_errors=True)
            subprocess.run(["cp", "-a", str(self.root / "master" / place), str(self.root)], check=True)


def _describe(path: bytes) -> tuple[object, ...]:
    try:
        found = os.lstat(path)
    except FileNotFoundError:  # removed since it was listed
        return ()
    kind = (stat.S_IFMT(found.st_mode), stat.S_IMODE(found.st_mode))
    if stat.S_ISLNK(found.st_mode):
        return (*kind, os.readlink(path))  # noqa: PTH115
    return (*kind, found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else kind


def changed(before: Snapshot, after: Snapshot) -> list[str]:
    """The paths that differ, sorted."""
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))


def make_workspace(root: Path, run: Callable[[Sequence[str]], int], seed: int) -> Workspace:
    """Make the folders below ``root``, which is empty. ``run``: runs a command in ``work/`` and returns its status."""
    space = Workspace(root.resolve())
    for place in PLACES:
        space.place(place).mkdir()
    draws = random.Random(seed)
    given, work = space.place("given"), space.place("work")
    _write_images(given, draws)
    _write_odd_files(given, draws)
    _write_archives(given)
    (work / "digits").mkdir()  # has the name of a built-in source
    _photos(work / "digits", ("one", "two"), 3, 20)
    changes = [word for change in SMALL for word in ("--set", change)]
    for command in (
        ["train", "small-digits", "--out", "runs/small-digits", *changes],
        ["train", "--data", "../given/photos", "--from", "none", "--out", "../given/run", *changes],
    ):
        if status := run(command):
            raise RuntimeError(f"status {status} of alexnet {' '.join(command)}")
    _write_runs(given, draws)
    return space


def _photos(folder: Path, classes: Sequence[str], count: int, side: int, suffix: str = "png") -> None:
    """Small images of noise, ``count`` a class."""
    pixels = np.random.default_rng(count * side)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            image = pixels.integers(0, 256, (side + number % 3, side, 3), dtype=np.uint8)
            Image.fromarray(image).save(folder / name / f"{number}.{suffix}")


def _write_images(given: Path, draws: random.Random) -> None:
    _photos(given / "photos", ("cat", "dog", "owl"), 6, 32)
    _photos(given / "large", ("cat", "dog"), 4, 140, "jpg")
    for split in ("train", "val", "test"):
        _photos(given / "split" / split, ("cat", "dog"), 3, 24)
    _photos(given / "odd names", ("é ü", "<b>&", "\u202etac", "two\nlines", "\x1b[31mred", "-v"), 3, 20)
    os.rename(given / "odd names/é ü/0.png", os.fsencode(given / "odd names/é ü") + b"/\xff\xfe.png")  # noqa: PTH104
    _photos(given / "one-class", ("cat",), 3, 20)
    (given / "flat").mkdir()
    for number in range(3):
        shutil.copy(given / f"photos/cat/{number}.png", given / "flat")
    (given / "empty").mkdir()
    litter = given / "litter"
    _photos(litter, ("cat", "dog", "@eaDir", "__MACOSX", ".hidden", "__pycache__"), 2, 20)
    (litter / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    damaged = given / "damaged"
    _photos(damaged, ("cat", "dog"), 5, 30, "jpg")
    for file in sorted(damaged.rglob("[1-9].jpg")):
        file.write_bytes(damage(file.read_bytes(), draws))
    (damaged / "cat/text.jpg").write_text("this is no image")
    (damaged / "cat/empty.png").touch()
    (damaged / "dog/nowhere.png").symlink_to("gone.png")
    (damaged / "dog/loop.png").symlink_to("loop.png")
    os.mkfifo(damaged / "dog/pipe.png")


def _write_odd_files(given: Path, draws: random.Random) -> None:
    shutil.copy(given / "photos/cat/0.png", given / "image.png")
    shutil.copy(given / "large/cat/0.jpg", given / "image.jpg")
    (given / "image.gif").write_bytes(b"GIF89a" + draws.randbytes(50))
    (given / "text.txt").write_text("cat 1\ndog 2\n")
    (given / "labels.csv").write_text("file,label\nphotos/cat/0.png,cat\nphotos/dog/0.png,dog\n")
    (given / "nothing").touch()
    (given / "noise").write_bytes(draws.randbytes(300))
    (given / "nested.json").write_text("[" * 100_000)
    (given / "recipe.json").write_text('{"name": "mine", "model": {"variant": "small"}, "data": {"image_size": 16}}')
    (given / "odd-recipe.json").write_text('{"name": 3, "model": [], "data": {"image_size": NaN}}')
    with (given / "sparse.jpg").open("wb") as file:
        file.write(b"\xff\xd8")
        file.truncate(1 << 36)
    os.mkfifo(given / "pipe")
    (given / "link").symlink_to("photos")
    (given / "loop").symlink_to("loop")


def _write_archives(given: Path) -> None:
    for name, mode in (("photos.tar", "w"), ("photos.tgz", "w:gz")):
        with tarfile.open(given / name, mode) as archive:  # type: ignore[call-overload]
            archive.add(given / "photos", "photos")
    whole = (given / "photos.tar").read_bytes()
    (given / "damaged.tar").write_bytes(whole[:700] + b"\xff" * 40 + whole[740:])
    (given / "short.tgz").write_bytes((given / "photos.tgz").read_bytes()[:2000])
    with zipfile.ZipFile(given / "photos.zip", "w") as archive:
        for file in sorted((given / "photos").rglob("*.png")):
            archive.write(file, file.relative_to(given))


def _write_runs(given: Path, draws: random.Random) -> None:
    """Incomplete runs: interrupted, damaged, or with invalid values."""
    whole = given / "run"

    def another(name: str) -> Path:
        shutil.copytree(whole, given / name)
        return given / name

    interrupted = another("interrupted")
    (interrupted / "result.json").unlink()
    shutil.rmtree(interrupted / "model")
    shutil.copytree(whole / "model", given / "model")
    weights = another("damaged-run") / "model/model.safetensors"
    weights.write_bytes(damage(weights.read_bytes(), draws))
    for number, name in enumerate(("run.json", "result.json", "events.jsonl", "metrics.jsonl", "model/model.json")):
        file = another(f"odd-run-{number}") / name
        file.write_bytes(damage(file.read_bytes(), draws) if file.exists() else b"{}")
    for number, text in enumerate(("[]", "null", '{"schema": 1}', "[" * 100_000), 5):
        folder = another(f"odd-run-{number}")
        (folder / ("run.json" if number % 2 else "result.json")).write_text(text)
