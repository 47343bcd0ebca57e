"""Writes measured results as JSON: each figure with its commit, hardware, versions and date.

``python -m alexnet_lab.results.records RUN…`` writes finished runs of one recipe to one file. New results can be kept
in a clean checkout of the project only, because they name the commit that they were measured with.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from alexnet.config import differences
from alexnet.core.errors import UserError
from alexnet.core.files import read_json, write_json
from alexnet.core.schema import to_json
from alexnet.data.sources import BUILTIN_SOURCES
from alexnet.runtime.device import DeviceConfig, describe_hardware, hardware_name
from alexnet.runtime.run import Run, source_commit
from alexnet_lab.results import reader

CHANGED = "-changed"
CIRCUMSTANCES = ("date", "commit", "hardware", "versions")  # the keys of :func:`circumstances`
LIBRARIES = ("torchvision", "numpy", "pillow", "safetensors", "scikit-learn")
ENSEMBLE = ("split", "views", "images", "top1", "top5", "loss")
PER_RUN = (
    "seed", "split", "views", "top1", "top5", "loss", "images", "splits", "steps", "seconds", "images_per_second",
    "matrix_gflops", "hardware", "per_class", "calibration_error", "kept_epoch", "active_units", "kernels", "one_view",
    "task", "mean_iou", "pixel_accuracy", "map50", "map", "objects",
)  # fmt: skip


def keep(folders: Sequence[Path], note: str = "", ensemble: Mapping[str, Any] | None = None) -> Path:
    """Write the runs of one training, on one image set, to one results file and return its path.

    All runs must have finished or diverged. ``ensemble``: the metrics of the average of the finished runs, as
    ``alexnet.evaluate`` returns them. Raises ``UserError`` if they are runs of different trainings, or not from a clean
    checkout.
    """
    runs = [Run(folder) for folder in folders]
    diverged = {run: divergence for run in runs if (divergence := run.divergence)}
    finished = {run: run.result for run in runs if run not in diverged}
    recipe, data, some = runs[0].recipe, runs[0].description["data"], [*finished.values(), *diverged.values()][0]
    for run in runs:
        if run.recipe.name != recipe.name or differences(recipe, run.recipe) or run.description["data"] != data:
            raise UserError(
                f"{run.folder} is a run of another training than {runs[0].folder}: keep the runs of each training "
                "separately"
            )
    source = some["source"]
    value = {
        "recipe": to_json(replace(recipe, data=replace(recipe.data, source=source))),  # without a path of this machine
        "source": source,
        "set": set_of(str(runs[0].description["source"]), source),
        "data": data,
        "note": note,
        "date": _today(),
        "versions": versions(),
        "runs": [
            {
                "commit": _commit(run),
                **{name: result[name] for name in PER_RUN if name in result},
                "epochs": [line for line in run.metrics() if "train_loss" in line],
            }
            for run, result in finished.items()
        ],
        "diverged": [
            {
                "commit": _commit(run),
                "seed": run.description["seed"],
                **{name: divergence[name] for name in ("step", "finding", "hardware")},
            }
            for run, divergence in diverged.items()
        ],
        **({"ensemble": {name: ensemble[name] for name in ENSEMBLE}} if ensemble else {}),
    }
    path = reader.results_folder() / f"{recipe.name}_{source}_{_slug(some['hardware'])}_{value['date']}.json"
    write_json(path, value)
    return path


def set_of(place: str, source: str) -> str:
    """The name of a built-in image set for the images at ``place``: ``cifar10`` for ``cifar10:/photos``. For other
    images, the name of the ``source``.
    """
    name = place.partition(":")[0]
    return name if name in BUILTIN_SOURCES else source


def keep_bench(value: Mapping[str, Any]) -> Path:
    """Write speeds, or the outcome of fault injection, to a results file and return its path. Raises ``UserError``."""
    check_clean(value["commit"], "keeping results")
    name = f"bench_{value.get('recipe') or value['what']}_{_slug(value['hardware'])}_{value['date']}.json"
    path = reader.results_folder() / name
    write_json(path, value)
    return path


def keep_figures(what: str, folder: Path, key: str, command: str) -> Path:
    """Write the JSON files in ``folder``, one for each measurement, to one results file; returns its path.

    Each file has ``CIRCUMSTANCES`` beside its figures; the newest are kept. ``key``: the name of the list of figures.
    ``command``: what writes such files, for the error. Raises ``UserError`` if there are none, and if one was not
    measured in a clean checkout.
    """
    rows = [read_json(path) for path in sorted(folder.glob("*.json"))]
    if not rows:
        raise UserError(f"{folder} has no figures: run {command} first")
    for row in rows:
        check_clean(row["commit"], f"keeping {folder}")
    newest = max(rows, key=lambda row: str(row["date"]))
    figures = [{name: value for name, value in row.items() if name not in CIRCUMSTANCES} for row in rows]
    return keep_bench(
        {
            "what": what,
            **{name: newest[name] for name in CIRCUMSTANCES},
            "commits": sorted({row["commit"] for row in rows}),
            key: figures,
        }
    )


def circumstances(device_config: DeviceConfig) -> dict[str, Any]:
    """What is recorded with figures that are measured now: date, commit, hardware and versions."""
    hardware = describe_hardware(device_config)
    return {"date": _today(), "commit": code_commit(), "hardware": hardware, "versions": versions()}


def versions() -> dict[str, str]:
    """The versions of the libraries that figures depend on; torch's is recorded with the hardware."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


def _today() -> str:
    return datetime.datetime.now(tz=datetime.UTC).date().isoformat()


def _slug(hardware: Mapping[str, Any]) -> str:
    return re.sub(r"[^a-z0-9]+", "-", hardware_name(hardware).lower()).strip("-")


def _commit(run: Run) -> str:
    """The commit that a run was started with. Raises ``UserError`` if it is not known."""
    return check_clean(run.description.get("commit"), f"keeping {run.folder}")


def code_commit() -> str | None:
    """The commit of the code that runs; None outside a checkout.

    "-changed" is appended if files of the library or of the laboratory differ from it. New results do not count.
    """
    commit = source_commit()
    return f"{commit}{CHANGED}" if commit and not commit.endswith(CHANGED) and _laboratory_changed() else commit


@functools.cache
def _laboratory_changed() -> bool:
    laboratory = Path(__file__).parents[1]
    git = ["git", "-C", str(laboratory), "status", "--porcelain", "--", ".", ":(exclude)results/*.json"]
    try:
        return bool(subprocess.run(git, check=True, capture_output=True, text=True).stdout)
    except (OSError, subprocess.CalledProcessError):
        return True


def check_clean(commit: object, what: str) -> str:
    """``commit``, if it names a commit whose files are unchanged. Raises ``UserError`` that starts with ``what``."""
    if not isinstance(commit, str):
        raise UserError(
            f"{what} needs a checkout of the project (a folder with .git), because results name a commit: clone the "
            "project and install it with pip install -e ."
        )
    if commit.endswith(CHANGED):
        raise UserError(f"{what} needs a clean checkout, because results name a commit: commit the changed files first")
    return commit


def main(words: Sequence[str] | None = None) -> int:
    """The command: ``RUN…`` and ``--note``. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m alexnet_lab.results.records", description="Keep finished runs of one recipe as a results file."
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--note", default="", help="a remark for the tables, in a few words")
    arguments = parser.parse_args(words)
    try:
        print(keep(arguments.runs, arguments.note))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
