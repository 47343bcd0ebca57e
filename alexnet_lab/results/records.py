"""Measured trainings as JSON: what a figure must name to be believed.

``python -m alexnet_lab.results.records RUN…`` puts finished runs of one recipe into one file of ``results/``, named by
recipe, images, hardware and date; ``pages.py`` writes what is shown of them.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from alexnet.config import differences
from alexnet.core.errors import UserError
from alexnet.core.files import write_json
from alexnet.core.schema import to_json
from alexnet.data.sources import BUILTIN_SOURCES
from alexnet.runtime.device import DeviceConfig, describe_hardware, hardware_name
from alexnet.runtime.run import Run, source_commit
from alexnet_lab.claims.claim_result import results_folder

LIBRARIES = ("torchvision", "numpy", "pillow", "safetensors", "scikit-learn")
ENSEMBLE = ("split", "views", "images", "top1", "top5", "loss")
PER_RUN = (
    "seed", "split", "views", "top1", "top5", "loss", "images", "splits", "steps", "seconds", "images_per_second",
    "matrix_gflops", "hardware", "per_class", "calibration_error", "kept_epoch", "active_units", "kernels", "one_view",
)  # fmt: skip


def keep(folders: Sequence[Path], note: str = "", ensemble: Mapping[str, Any] | None = None) -> Path:
    """Write the runs of one training, on one set, to one file of ``results/`` and return its path.

    All have ended: finished, or diverged, which is an outcome as well. ``ensemble``: what the average of the finished
    ones' probabilities comes to, as ``alexnet.evaluate`` says it. Raises ``UserError`` where they are not of one
    training or not from a clean checkout.
    """
    runs = [Run(folder) for folder in folders]
    diverged = {run: divergence for run in runs if (divergence := run.divergence)}
    finished = {run: run.result for run in runs if run not in diverged}
    recipe, data, some = runs[0].recipe, runs[0].description["data"], [*finished.values(), *diverged.values()][0]
    for run in runs:
        if run.recipe.name != recipe.name or differences(recipe, run.recipe) or run.description["data"] != data:
            raise UserError(
                f"{run.folder} is another training than {runs[0].folder}: keep each one's runs by themselves"
            )
    source = some["source"]
    value = {
        "recipe": to_json(replace(recipe, data=replace(recipe.data, source=source))),  # a path is nobody else's matter
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
    path = results_folder() / f"{recipe.name}_{source}_{_slug(some['hardware'])}_{value['date']}.json"
    write_json(path, value)
    return path


def set_of(place: str, source: str) -> str:
    """The built-in set that images at ``place`` are, from wherever they came: ``cifar10`` of ``cifar10:/photos``; the
    name of the ``source`` where they are none.
    """
    name = place.partition(":")[0]
    return name if name in BUILTIN_SOURCES else source


def keep_comparison(value: Mapping[str, Any]) -> Path:
    """Write speeds that were taken by turns to a file of ``results/`` and return its path. Raises ``UserError``."""
    check_clean(value["commit"], "this was not timed")
    path = (
        results_folder()
        / f"bench_{value.get('recipe') or value['what']}_{_slug(value['hardware'])}_{value['date']}.json"
    )
    write_json(path, value)
    return path


def circumstances(device_config: DeviceConfig) -> dict[str, Any]:
    """What stands beside figures that were taken now: date, commit, and what they were taken on and with."""
    hardware = describe_hardware(device_config)
    return {"date": _today(), "commit": source_commit(), "hardware": hardware, "versions": versions()}


def versions() -> dict[str, str]:
    """The libraries that a figure depends on beside torch, which stands with the hardware."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


def _today() -> str:
    return datetime.datetime.now(tz=datetime.UTC).date().isoformat()


def _slug(hardware: Mapping[str, Any]) -> str:
    return re.sub(r"[^a-z0-9]+", "-", hardware_name(hardware).lower()).strip("-")


def _commit(run: Run) -> str:
    """The commit that a run was begun at. Raises ``UserError`` where that cannot be said."""
    return check_clean(run.description.get("commit"), f"{run.folder} was not trained")


def check_clean(commit: object, what: str) -> str:
    """The hash of a commit whose files are as they were committed. Raises ``UserError`` that begins with ``what``."""
    if not isinstance(commit, str) or commit.endswith("-changed"):
        raise UserError(
            f"{what} from a clean checkout of the project, and results name a commit: commit what was changed, and "
            "install with pip install -e ."
        )
    return commit


def main(words: Sequence[str] | None = None) -> int:
    """``RUN…`` [``--note``]."""
    parser = argparse.ArgumentParser(
        prog="python -m alexnet_lab.results.records", description="Keep finished runs of one recipe in results/."
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--note", default="", help="what a reader of the table must know, in a few words")
    arguments = parser.parse_args(words)
    try:
        print(keep(arguments.runs, arguments.note))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
