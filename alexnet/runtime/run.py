"""The run folder: what one training writes, and when an existing folder is resumed.

``run.json`` describes the training, ``checkpoints/`` holds its state, ``metrics.jsonl`` and ``events.jsonl`` are its
logs, ``curves.png`` and ``report.md`` show them, ``model/`` is the trained model and ``result.json`` its evaluation.
``run.json`` is written first and ``result.json`` last: they show whether a training was started and is finished.
"""

from __future__ import annotations

import contextlib
import functools
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet.config import Recipe, first_difference
from alexnet.core.errors import UnreadableError, UserError, cannot_read, no_run
from alexnet.core.files import read_json, write_json
from alexnet.core.schema import from_json, to_json
from alexnet.runtime.lock import exclusive_lock
from alexnet.runtime.log import read_lines

SCHEMA = 1


@dataclass(frozen=True)
class Run:
    """A run folder. Its files are read at each access.

    Properties that read files raise ``UserError`` if a file is missing, damaged or of another version.
    """

    folder: Path

    @property
    def name(self) -> str:
        """The name of the folder, without the folders above it."""
        return self.folder.resolve().name

    @property
    def model_folder(self) -> Path:
        """The folder of the trained model."""
        return self.folder / "model"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.folder / "checkpoints"

    @property
    def description(self) -> dict[str, Any]:
        """``run.json``: ``recipe``, ``seed``, ``source`` (where the images are) and ``data`` (their hash).

        Also ``labels``, the files with the classes of the images, if there are such.
        """
        return _read(self.folder / "run.json", ("recipe", "seed", "source", "data"))

    @property
    def recipe(self) -> Recipe:
        """The recipe that is or was trained."""
        return from_json(Recipe, self.description["recipe"])

    @property
    def finished(self) -> bool:
        """Whether the training has ended, was evaluated, and its model is complete."""
        return (self.folder / "result.json").is_file() and (self.model_folder / "model.json").is_file()

    @property
    def is_empty(self) -> bool:
        """Whether a training was started here but wrote nothing yet: another one may use the folder."""
        if not (self.folder / "run.json").exists() or (self.folder / "result.json").exists():
            return False
        return not (any(self.checkpoints.glob("*")) or any(self.model_folder.glob("*")))

    @property
    def result(self) -> dict[str, Any]:
        """``result.json``: the evaluation and the hardware. Raises ``UserError`` if it is missing or damaged."""
        path = self.folder / "result.json"
        try:
            return _read(path, ("split", "steps", "seconds", "hardware"))
        except UnreadableError:
            raise
        except UserError as error:
            raise UserError(
                f"{path} is missing or damaged: delete it and repeat the command of this run, which evaluates again"
            ) from error

    @property
    def divergence(self) -> dict[str, Any] | None:
        """The last "diverged" event of an unfinished training (step, finding, source, hardware), or None."""
        events = [] if self.finished else read_lines(self.folder / "events.jsonl")
        return next((event for event in reversed(events) if event["event"] == "diverged"), None)

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``."""
        return read_lines(self.folder / "metrics.jsonl")


def _read(path: Path, names: tuple[str, ...] = ()) -> dict[str, Any]:
    """The JSON object in a file of a run folder; it must have the keys ``names``. Raises ``UserError``."""
    try:
        value = read_json(path)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        line = f"{path.parent} is not a run folder: {path.name} is missing or damaged there"
        raise no_run(path.parent, line) from error
    except OSError as error:  # the file may be good
        raise cannot_read(path, error) from error
    if not isinstance(value, dict) or value.get("schema", SCHEMA) != SCHEMA or not value.keys() >= set(names):
        raise UserError(f"{path.parent} is not a run folder of this version: {path.name} has other contents")
    return value


@contextlib.contextmanager
def lock_run_folder(folder: Path) -> Iterator[None]:
    """Lock a folder for one training: a context around everything from the first look into it to the final result.

    The folder is created if it does not exist. Raises ``UserError`` if another process has locked it, or if it holds
    files and is not a run folder.
    """
    if not (folder / "run.json").exists() and folder.is_dir() and any(not _hidden(path) for path in folder.iterdir()):
        raise UserError(f"{folder} is not empty and is not a run: choose another folder with --out")
    with contextlib.ExitStack() as locks:
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            locks.enter_context(exclusive_lock(folder))
        yield


def start_or_continue(
    folder: Path, recipe: Recipe, seed: int, location: str, digest: str, labels: Sequence[str] = ()
) -> Run:
    """The run at ``folder``: a new one if there is none, else the existing one if it is the same training.

    ``location`` and ``digest``: where the images are, and their hash; ``labels``: the files with their classes. If
    several processes may use the folder, lock it first, see :func:`lock_run_folder`. Raises ``UserError`` if the
    existing run differs; the error names the field.
    """
    run = Run(folder)
    if (folder / "run.json").exists() and not run.is_empty:
        _check_same(run, recipe, seed, digest)
        return run
    description = {"schema": SCHEMA, "recipe": to_json(recipe), "seed": seed, "source": location, "data": digest}
    if labels:
        description["labels"] = list(labels)
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "run.json", {**description, "commit": source_commit()})
    return run


def _hidden(path: Path) -> bool:
    return path.name.startswith(".")


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn an ``OSError`` of the work inside into a ``UserError``."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write the run folder {folder}: {error.strerror or error}; choose another with --out"
        ) from error


@functools.cache
def source_commit() -> str | None:
    """The git commit of the running code, with "-changed" appended if files differ from it; None outside a checkout.

    Read once per process: edits and commits after the start are not in the running code.
    """
    package = Path(__file__).parents[1]
    if not (package.parent / ".git").exists():
        return None
    git = ["git", "-C", str(package)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
        status = [*git, "status", "--porcelain", str(package)]
        changed = subprocess.run(status, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head}-changed" if changed else head


def _check_same(run: Run, recipe: Recipe, seed: int, digest: str) -> None:
    """Raise ``UserError`` if the run trains another recipe, seed or set of images."""
    description, trained = run.description, run.recipe
    if trained.name != recipe.name:
        differs = f"recipe ({trained.name!r}, now {recipe.name!r})"
    elif description["seed"] != seed:
        differs = f"seed ({description['seed']}, now {seed})"
    elif field := first_difference(trained, recipe):
        differs = field
    elif description["data"] != digest:
        differs = f"the images ({description['source']} has changed since, or other images were given)"
    else:
        return
    raise UserError(f"{run.folder} holds another training: it differs in {differs}; choose another folder with --out")
