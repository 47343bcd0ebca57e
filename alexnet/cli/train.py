"""``alexnet train``: prepare the images if needed, train, evaluate, and write the run folder with its report."""

from __future__ import annotations

import argparse

from alexnet.api import train
from alexnet.cli.console import print_json, print_text
from alexnet.config import assignments
from alexnet.core.files import folder_bytes
from alexnet.recipes import DEFAULT, get_recipe
from alexnet.report.markdown import readings
from alexnet.report.text import describe_measure

SHOWN = ("report.html", "report.md", "curves.png")
LARGE = 100e6  # bytes: checkpoints of a finished run above this size are mentioned


def main(arguments: argparse.Namespace) -> int:
    """Train and print the result; returns the exit status. ``--set help`` prints the fields of the recipe instead."""
    if "help" in arguments.set:
        default = "photos" if arguments.data or arguments.labels else DEFAULT
        print("\n".join(assignments(get_recipe(arguments.recipe or default))))
        return 0
    shorthands = {"train.precision": arguments.precision, "train.freeze": arguments.freeze}
    overrides = [*arguments.set, *(f"{field}={value}" for field, value in shorthands.items() if value)]
    run = train(
        arguments.recipe, data=arguments.data, labels=arguments.labels, out=arguments.out, init=arguments.init,
        seed=arguments.seed, overrides=overrides, device=arguments.device, reference=arguments.reference,
        data_root=arguments.data_root, weights_root=arguments.weights_root,
        keep_checkpoints=arguments.keep_checkpoints,
    )  # fmt: skip
    result = run.result
    if arguments.json:
        print_json({**result, "run": str(run.folder)})
        return 0
    if result["split"]:
        print_text(describe_measure(result), *readings(run.recipe, result))
    print_text(f"the run is in {run.folder}: {', '.join(n for n in SHOWN if (run.folder / n).exists())}, model/")
    if not arguments.keep_checkpoints and (size := folder_bytes(run.checkpoints)) > LARGE:
        print_text(
            f"{run.checkpoints} has {size / 1e9:.1f} GB that a finished run does not need: you can remove that folder"
        )
    return 0
