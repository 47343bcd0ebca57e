"""``python -m alexnet_lab.trunks RUN``: put the weights of a finished run into the package, to start from.

The weights of convolutions and linear layers are rounded to bfloat16, which halves the file, or to integers of 8 bits.
The accuracy on the card is that of the rounded weights, on the test images of the run. Needs a checkout, and a run that
was trained in a clean one.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from alexnet import evaluate
from alexnet.core.errors import UserError
from alexnet.core.files import publish_folder, write_bytes, write_json
from alexnet.metrics.counts import Metrics
from alexnet.models.bundle import FILES, Storage, load_model, save_model
from alexnet.report.model_card import model_card
from alexnet.runtime.run import Run
from alexnet.weights.zoo import CARD, IncludedWeights, included_folder, included_weights
from alexnet_lab.commands import exit_status
from alexnet_lab.results.records import check_clean, code_commit

LIMIT = 8 * 10**6  # bytes of the weights
LICENCE = "BSD-3-Clause, as this project; derived from ImageNet photographs, which may be used for research"
NOTE = """
## Note

These weights derive from photographs of ImageNet. They are made to start a training from, and to compute features with.
Do not quote an accuracy of a network that started from them on any of the classes above: it has seen them.
"""


def include(run: Run, name: str, data: str | None = None, storage: Storage = "bf16") -> IncludedWeights:
    """Write the model of a finished run to the package as the MODEL ``name``, such as ``trunk/tiny-imagenet-a``.

    ``data``: the source whose test images give the accuracy, None for that of the run. ``storage``: see
    :func:`~alexnet.models.bundle.save_model`. Raises ``UserError`` if the run
    has not finished or comes from a changed checkout, and if the file is too large.
    """
    commit = check_clean(run.description.get("commit"), "including weights")
    check_clean(code_commit(), "including weights")
    result, folder = run.result, included_folder(name)
    model = load_model(run.folder)
    with (
        tempfile.TemporaryDirectory() as scratch,
        publish_folder(folder, replaces=(*FILES, CARD, "README.md")) as place,
    ):
        rounded = Path(scratch) / "model"  # not in ``place``: writing a model folder waits for the folder it is in
        save_model(model, rounded, storage=storage)
        (metrics,) = evaluate(rounded, data=data or str(run.description["source"]))
        assert isinstance(metrics, Metrics)  # a trunk is a classifier
        for file in FILES:
            shutil.copyfile(rounded / file, place / file)
        if (size := (place / "model.safetensors").stat().st_size) > LIMIT:
            raise UserError(f"{name}: {size:,} bytes, which is more than {LIMIT:,}")
        weights = IncludedWeights(
            name, model.variant, run.recipe.name, int(result["seed"]), commit, LICENCE, round(100 * metrics.top1, 2),
            f"the centre of each of {metrics.images:,} {metrics.split} images, {model.num_classes} classes",
        )  # fmt: skip
        write_json(place / CARD, dataclasses.asdict(weights))
        card = model_card(run.folder, name=name, license_name="bsd-3-clause")
        write_bytes(place / "README.md", (card + NOTE).encode())
    included_weights.cache_clear()
    return weights


def main(words: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m alexnet_lab.trunks", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="the run folder")
    parser.add_argument("--name", required=True, help="the name of the weights, such as trunk/tiny-imagenet-a")
    parser.add_argument("--data", help="SOURCE whose test images are used (default: that of the run)")
    parser.add_argument(
        "--storage", choices=get_args(Storage), default="bf16", help="of the weights (default: %(default)s)"
    )
    arguments = parser.parse_args(words)
    return exit_status(lambda: print(include(Run(arguments.run), arguments.name, arguments.data, arguments.storage)))


if __name__ == "__main__":
    sys.exit(main())
