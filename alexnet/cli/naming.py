"""What runs are called: their folders, as short as tells them apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def run_folder(target: str) -> Path:
    """The run's folder, of it or of its ``model/``."""
    path = Path(target)
    inside = path.name == "model" and (path / "model.json").is_file() and (path.parent / "run.json").is_file()
    return path.parent if inside else path


def short(run: str) -> str:
    """A run's folder, without the way to it."""
    return run_folder(run).resolve().name


def named_apart(runs: Sequence[str]) -> dict[str, str]:
    """Run → a name that no other has: its folder's, with as much of the way to it as tells it from the others."""
    paths = {run: run_folder(run).resolve() for run in dict.fromkeys(runs)}
    parts = 1
    while len({path.parts[-parts:] for path in paths.values()}) < len(set(paths.values())):
        parts += 1
    once = {path: run for run, path in paths.items()}  # a run given twice, or as its model, is one
    return {run: "/".join(path.parts[-parts:]) for path, run in once.items()}
