"""Names of runs for people: the name of a run's folder, with as much of its path as tells it from others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def run_folder(target: str) -> Path:
    """The run folder for a path to it or to its ``model/``."""
    path = Path(target)
    inside = path.name == "model" and (path / "model.json").is_file() and (path.parent / "run.json").is_file()
    return path.parent if inside else path


def short_name(run: str) -> str:
    """The name of a run's folder, without its path."""
    return run_folder(run).resolve().name


def distinct_names(runs: Sequence[str]) -> dict[str, str]:
    """Run → a name that no other run has: its folder's name, with as many parent folders as that needs.

    A run that is given twice, or once as its ``model/``, is one run.
    """
    paths = {run: run_folder(run).resolve() for run in dict.fromkeys(runs)}
    parts = 1
    while len({path.parts[-parts:] for path in paths.values()}) < len(set(paths.values())):
        parts += 1
    once = {path: run for run, path in paths.items()}
    return {run: "/".join(path.parts[-parts:]) for path, run in once.items()}
