"""``alexnet train``: prepare if needed, train, evaluate, write the run and its report."""

from __future__ import annotations

import argparse

from alexnet.api import train
from alexnet.cli.console import print_json
from alexnet.core.files import folder_bytes
from alexnet.report.markdown import readings
from alexnet.report.text import describe_measure
from alexnet.runtime.progress import make_reporter

LEFT = ("report.html", "report.md", "curves.png")
LARGE = 100e6  # bytes of checkpoints that are worth a word


def main(arguments: argparse.Namespace) -> int:
    """Train and print the outcome."""
    overrides = [*arguments.set, *([f"train.precision={arguments.precision}"] if arguments.precision else [])]
    run = train(
        arguments.recipe, data=arguments.data, out=arguments.out, seed=arguments.seed, overrides=overrides,
        device=arguments.device, reference=arguments.reference, data_root=arguments.data_root, reporter=make_reporter(),
    )  # fmt: skip
    result = run.result
    if arguments.json:
        print_json({**result, "run": str(run.folder)})
    elif result["split"]:
        print("\n".join([describe_measure(result), *readings(run.recipe, result)]))
    if not arguments.json:
        print(f"the run is in {run.folder}: {', '.join(n for n in LEFT if (run.folder / n).exists())}, model/")
        if (size := folder_bytes(run.checkpoints)) > LARGE:
            print(f"{run.checkpoints} holds {size / 1e9:.1f} GB that a finished run no longer needs: it may be removed")
    return 0
