"""Find the run folder for a path that a user gives, and make short names of runs for tables and plots."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from alexnet.core.names import printable


def run_folder(target: str) -> Path:
    """The run folder that ``target`` names: the path itself, or the parent folder if it is the ``model/`` of a run."""
    path = Path(target)
    is_model = path.name == "model" and (path / "model.json").is_file() and (path.parent / "run.json").is_file()
    return path.parent if is_model else path


def short_name(target: str) -> str:
    """The name of the run folder or weights file, without the folders above it; what is no path stays as it is."""
    return printable(run_folder(target).resolve().name if os.path.exists(target) else target)  # noqa: PTH110


def distinct_names(targets: Sequence[str]) -> dict[str, str]:
    """Target → a name that no other run has: the folder's name, with as many folders above it as this needs.

    A run that is given twice, or once as its model, is one entry: the last target given. What is no path stays as it
    is.
    """
    if not any(os.path.exists(target) or os.path.isabs(target) for target in targets):  # noqa: PTH110, PTH117
        return {target: printable(target) for target in targets}
    paths = {target: run_folder(target).resolve() for target in dict.fromkeys(targets)}
    parts = 1
    while len({path.parts[-parts:] for path in paths.values()}) < len(set(paths.values())):
        parts += 1
    target_of = {path: target for target, path in paths.items()}
    return {target: printable("/".join(path.parts[-parts:])) for path, target in target_of.items()}
