"""The folder that one training leaves, and the rule for a folder that is already there.

``run.json`` says what is being trained, ``checkpoints/`` where it stands, ``metrics.jsonl`` and ``events.jsonl`` how it
went, ``curves.png`` and ``report.md`` show it, ``model/`` is the outcome and ``result.json`` its measure. ``run.json``
is written first and ``result.json`` last, so the two say whether a training was begun and whether it is finished.
"""

from __future__ import annotations

import contextlib
import functools
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet.config import Recipe, first_difference, recipe_from_json
from alexnet.core.errors import UserError, no_run
from alexnet.core.files import read_json, write_json
from alexnet.core.schema import to_json
from alexnet.runtime.lock import exclusive_lock
from alexnet.runtime.log import read_lines

SCHEMA = 1


@dataclass(frozen=True)
class Run:
    """A run folder. What it holds is read when asked for."""

    folder: Path

    @property
    def name(self) -> str:
        """Its folder's, without the way to it."""
        return self.folder.resolve().name

    @property
    def model_folder(self) -> Path:
        """Where the trained model is."""
        return self.folder / "model"

    @property
    def checkpoints(self) -> Path:
        """Where the training's state is kept."""
        return self.folder / "checkpoints"

    @property
    def description(self) -> dict[str, Any]:
        """``run.json``: recipe, seed, and the data's digest and place."""
        return _read(self.folder / "run.json", ("recipe", "seed", "source", "data"))

    @property
    def recipe(self) -> Recipe:
        """The recipe, as it was trained."""
        return recipe_from_json(self.description["recipe"])

    @property
    def finished(self) -> bool:
        """Whether the training has ended, was measured, and its model is there to be used."""
        return (self.folder / "result.json").is_file() and (self.model_folder / "model.json").is_file()

    @property
    def is_empty(self) -> bool:
        """Whether a training was begun here and left nothing: it may be another one now."""
        if not (self.folder / "run.json").exists() or (self.folder / "result.json").exists():
            return False
        return not (any(self.checkpoints.glob("*")) or any(self.model_folder.glob("*")))

    @property
    def result(self) -> dict[str, Any]:
        """``result.json``: what was measured, on what machine. Raises ``UserError`` if it is damaged."""
        path = self.folder / "result.json"
        try:
            return _read(path, ("split", "steps", "seconds", "hardware"))
        except UserError as error:
            raise UserError(
                f"{path} is missing or damaged: delete it and give the run's own command again, which measures anew"
            ) from error

    @property
    def divergence(self) -> dict[str, Any] | None:
        """The event of a training whose loss or weights ceased to be finite: step, finding, source, hardware."""
        events = [] if self.finished else read_lines(self.folder / "events.jsonl")
        return next((event for event in reversed(events) if event["event"] == "diverged"), None)

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``."""
        return read_lines(self.folder / "metrics.jsonl")


def _read(path: Path, names: tuple[str, ...] = ()) -> dict[str, Any]:
    """The JSON object in a file of a run folder, which must hold ``names``."""
    try:
        value = read_json(path)
    except (OSError, ValueError) as error:
        line = f"{path.parent} is no run folder: {path.name} is missing or damaged there"
        raise no_run(path.parent, line) from error
    if not isinstance(value, dict) or value.get("schema", SCHEMA) != SCHEMA or not value.keys() >= set(names):
        raise UserError(f"{path.parent} is no run folder of this version: {path.name} holds something else")
    return value


@contextlib.contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Hold a folder for one training, from before it is looked into until its outcome is there.

    Raises ``UserError`` if another process has it, naming that one, or if it holds something else than a run.
    """
    if not (folder / "run.json").exists() and folder.is_dir() and any(not _hidden(path) for path in folder.iterdir()):
        raise UserError(f"{folder} is not empty and is no run: choose another folder with --out")
    with contextlib.ExitStack() as held:
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(exclusive_lock(folder))
        yield


def start_or_continue(folder: Path, recipe: Recipe, seed: int, location: str, digest: str) -> Run:
    """The run at ``folder``: begun if nothing is there, else the one there if it trains the same.

    ``location`` and ``digest``: where the images are and what they are. Where others may come too the folder is claimed
    first, see :func:`claim`. Raises ``UserError`` naming the field in which the run there differs.
    """
    run = Run(folder)
    if (folder / "run.json").exists() and not run.is_empty:
        _check_same(run, recipe, seed, digest)
        return run
    mine = {"schema": SCHEMA, "recipe": to_json(recipe), "seed": seed, "source": location, "data": digest}
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "run.json", {**mine, "commit": source_commit()})
    return run


def _hidden(path: Path) -> bool:
    return path.name.startswith(".")


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """What the disk refuses becomes a ``UserError``."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write the run folder {folder}: {error.strerror or error}; choose another with --out"
        ) from error


@functools.cache
def source_commit() -> str | None:
    """The commit of the code that runs, "-changed" behind it if files differ; None outside a checkout of it.

    Asked once: what is edited or committed afterwards is not what runs.
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
    theirs, their_recipe = run.description, run.recipe
    if their_recipe.name != recipe.name:
        differs = f"recipe ({their_recipe.name!r}, now {recipe.name!r})"
    elif theirs["seed"] != seed:
        differs = f"seed ({theirs['seed']}, now {seed})"
    elif field := first_difference(their_recipe, recipe):
        differs = field
    elif theirs["data"] != digest:
        differs = f"the images ({theirs['source']} has changed since, or other ones were given)"
    else:
        return
    raise UserError(f"{run.folder} holds another training: it differs in {differs}; choose another folder with --out")
