"""The run folder: what one training writes, and when an existing folder is resumed.

``run.json`` describes the training, ``checkpoints/`` holds its state, ``metrics.jsonl`` and ``events.jsonl`` are its
logs, ``curves.png`` and ``report.md`` show them, ``model/`` is the trained model and ``result.json`` its evaluation.
``run.json`` is written first and ``result.json`` last: they show whether a training was started and is finished.
"""

from __future__ import annotations

import contextlib
import functools
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet.config import Recipe, first_difference
from alexnet.core.errors import UnreadableError, UserError
from alexnet.core.files import read_json, remove_leftovers, sha256_file, write_json
from alexnet.core.names import printable
from alexnet.core.schema import from_json, to_json
from alexnet.runtime.checkpoint import list_checkpoints
from alexnet.runtime.lock import exclusive_lock
from alexnet.runtime.log import describe_waiting, read_lines
from alexnet.runtime.run_files import SCHEMA, is_event, is_metrics, read_description, read_result

OWN = ("result.json", "model", "checkpoints", "metrics.jsonl", "events.jsonl")  # besides run.json
WRITTEN = re.compile(r"lock|model|init|(run|result)\.json|(events|metrics)\.jsonl|report\.(md|html)|[a-z-]+\.(png|svg)")
CHECKPOINT = re.compile(r"step-\d{8,}", re.ASCII)
LAYER = re.compile(r"[a-z]+\d*", re.ASCII)


@dataclass(frozen=True)
class Run:
    """A run folder. Its files are read at each access.

    Properties that read files raise ``UserError`` if a file is missing, damaged or of another version.
    """

    folder: Path

    @property
    def name(self) -> str:
        """The name of the folder for people, without the folders above it."""
        return printable(self.folder.resolve().name)

    @property
    def model_folder(self) -> Path:
        """The folder of the trained model."""
        return self.folder / "model"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.folder / "checkpoints"

    @property
    def init_folder(self) -> Path:
        """The folder with a copy of the model that the training started from, until the training has finished."""
        return self.folder / "init"

    @property
    def description(self) -> dict[str, Any]:
        """``run.json``: ``recipe``, ``seed``, ``source`` (where the images are) and ``data`` (their hash).

        Also ``labels``, the files with the classes of the images, if there are such; ``init``, the hash of the weights
        that the training started from, if it did not start from new ones.
        """
        return read_description(self.folder / "run.json")

    @property
    def recipe(self) -> Recipe:
        """The recipe that is or was trained."""
        value = self.description["recipe"]
        try:
            return from_json(Recipe, value)
        except UserError as error:
            raise UserError(f"the recipe in {self.folder / 'run.json'}: {error.line}", error.details) from error

    @property
    def finished(self) -> bool:
        """Whether the training has ended, was evaluated, and its model is complete."""
        model = self.model_folder
        files = (self.folder / "result.json", model / "model.json", model / "model.safetensors")
        return all(file.is_file() for file in files)

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
            return read_result(path)
        except UnreadableError:
            raise
        except UserError as error:
            if any(self.checkpoints.glob("*")):
                remedy = "delete it and repeat the command of this run, which evaluates again"
            else:
                remedy = f"'alexnet evaluate {self.folder}' measures the model again; it cannot be written again"
            raise UserError(f"{path} is missing or damaged: {remedy}", [error.line]) from error

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write ``result.json``, with the hash of the model that was evaluated. Raises ``OSError``."""
        model = sha256_file(self.model_folder / "model.safetensors")
        write_json(self.folder / "result.json", {**result, "model_sha256": model})

    @property
    def divergence(self) -> dict[str, Any] | None:
        """The last "diverged" event of an unfinished training (step, finding, source, hardware), or None."""
        events = [] if self.finished else self.events()
        return next((event for event in reversed(events) if event["event"] == "diverged"), None)

    def waiting(self) -> list[str]:
        """A line on how long the training waited for images; none if it was short or the events cannot be read."""
        events: list[dict[str, Any]] = []
        with contextlib.suppress(OSError):
            events = self.events()
        epochs = [event for event in events if event["event"] == "epoch"]
        return describe_waiting(*(sum(epoch[name] for epoch in epochs) for name in ("seconds", "waited")))

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl`` that have their fields. Raises ``OSError``."""
        return [line for line in read_lines(self.folder / "metrics.jsonl") if is_metrics(line)]

    def events(self) -> list[dict[str, Any]]:
        """The lines of ``events.jsonl`` that have their fields; none if there is no such file. Raises ``OSError``."""
        path = self.folder / "events.jsonl"
        return [line for line in read_lines(path) if is_event(line)] if path.is_file() else []


@contextlib.contextmanager
def lock_run_folder(folder: Path) -> Iterator[None]:
    """Lock a folder for one training: a context around everything from the first look into it to the final result.

    The folder is created if it does not exist, and what killed processes left in it is removed. Inside the context
    nothing is written if the folder was renamed or removed, see :func:`exclusive_lock`. Raises ``UserError`` if another
    process has locked it, or if it holds files and is not a run folder; the folder is then unchanged.
    """
    _check_folder(folder)
    with contextlib.ExitStack() as locks:
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            locks.enter_context(exclusive_lock(folder))
            _check_folder(folder)  # again: now no other process writes here
            remove_leftovers(folder, WRITTEN)
            remove_leftovers(folder / "checkpoints", CHECKPOINT)
            remove_leftovers(folder / "features", LAYER)
        yield


def _check_folder(folder: Path) -> None:
    """Raise ``UserError`` for a folder that holds visible files and is not a run. Nothing in it is changed."""
    if not (folder / "run.json").exists() and folder.is_dir() and any(not _hidden(path) for path in folder.iterdir()):
        _check_description_is_there(folder)
        raise UserError(f"{folder} is not empty and is not a run: choose another folder with --out")
    _check_files_agree(Run(folder))


def _check_description_is_there(folder: Path) -> None:
    """Raise ``UserError`` for a run without its ``run.json``: nothing else says which training it is."""
    if (folder / "run.json").exists():
        return
    if found := [name for name in OWN if (folder / name).exists()]:
        raise UserError(
            f"{folder} has {found[0]} and no run.json, so it is not known which training it is: restore run.json from "
            "a backup, or choose another folder with --out"
        )


def _check_files_agree(run: Run) -> None:
    """Raise ``UserError`` if this package did not write ``run.json``, or if ``result.json`` is of another training."""
    if not (run.folder / "run.json").exists():
        return
    description, recipe = run.description, run.recipe
    if not (run.folder / "result.json").exists():
        return
    result = run.result
    for name, expected in (("recipe", recipe.name), ("seed", description["seed"]), ("data", description["data"])):
        if result[name] != expected:
            raise UserError(
                f"{run.folder} holds files of two trainings: {name} is {expected!r} in run.json and {result[name]!r} "
                "in result.json; choose another folder with --out"
            )


def start_or_continue(
    folder: Path, recipe: Recipe, seed: int, location: str, digest: str, labels: Sequence[str] = (), init: str = ""
) -> Run:
    """The run at ``folder``: a new one if there is none, else the existing one if it is the same training.

    ``location`` and ``digest``: where the images are, and their hash; ``labels``: the files with their classes;
    ``init``: the hash of the weights that the training starts from, "" for new ones. If several processes may use the
    folder, lock it first, see :func:`lock_run_folder`. Raises ``UserError`` if the existing run differs (the error
    names the field), if its files are those of two trainings, or if its model is damaged.
    """
    run = Run(folder)
    _check_description_is_there(folder)
    if (folder / "run.json").exists() and not (run.description and run.is_empty):
        _check_same(run, recipe, seed, digest, init)
        _check_files_agree(run)
        _check_model(run)
        return run
    description = {"schema": SCHEMA, "recipe": to_json(recipe), "seed": seed, "source": location, "data": digest}
    if labels:
        description["labels"] = list(labels)
    if init:
        description["init"] = init
    with _writing(folder):
        write_json(folder / "run.json", {**description, "commit": source_commit()})
    return run


def _check_model(run: Run) -> None:
    """Raise ``UserError`` if the model of a finished run is damaged or is that of another run."""
    path = run.model_folder / "model.safetensors"
    if not run.finished:
        return
    digest = sha256_file(path)
    wrong = "is damaged" if digest != _model_digest(run) else ""
    if not wrong and run.result.get("model_sha256") not in (None, digest):
        wrong = "is not the model that result.json is about"
    if wrong:
        todo = "remove that file and repeat the command, which writes it again from the last checkpoint"
        backup = "restore it from a backup, or train again in another folder with --out"
        raise UserError(f"{path} {wrong}: {todo if list_checkpoints(run.checkpoints) else backup}")


def _model_digest(run: Run) -> object:
    """The hash of the weights in ``model.json``; None if it cannot be read."""
    try:
        description = read_json(run.model_folder / "model.json")
    except (OSError, ValueError):
        return None
    return description.get("sha256") if isinstance(description, dict) else None


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


def _check_same(run: Run, recipe: Recipe, seed: int, digest: str, init: str) -> None:
    """Raise ``UserError`` if the run trains another recipe, seed or set of images, or starts from other weights."""
    description, trained = run.description, run.recipe
    if trained.name != recipe.name:
        differs = f"recipe ({trained.name!r}, now {recipe.name!r})"
    elif description["seed"] != seed:
        differs = f"seed ({description['seed']}, now {seed})"
    elif field := first_difference(trained, recipe):
        differs = field
    elif description["data"] != digest:
        differs = f"the images ({description['source']} has changed since, or other images were given)"
    elif description.get("init", "") != init:
        differs = f"the weights that it starts from (--from {trained.train.init}, now {recipe.train.init})"
        if trained.train.init == recipe.train.init:
            differs = f"the weights that it starts from ({recipe.train.init} has changed since)"
    else:
        return
    raise UserError(f"{run.folder} holds another training: it differs in {differs}; choose another folder with --out")
