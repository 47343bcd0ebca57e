"""``load_model``: a trained network from whatever a user calls a MODEL.

A MODEL is a run folder or model folder of this program, or a weights file in a format of ``formats.py``.
"""

from __future__ import annotations

from pathlib import Path

from alexnet.core.errors import UserError
from alexnet.models import bundle
from alexnet.models.classifier import Classifier
from alexnet.weights.convert import convert_file


def load_model(model: Path | str, *, variant: str | None = None) -> Classifier:
    """The network of a MODEL, in evaluation mode on the CPU.

    It has ``.variant``, ``.classes``, ``.labels``, ``.preprocessing``, ``.mean_image`` and ``.trained_on``.
    ``variant``: the name of the network in a weights file, where the weights alone do not decide it. Raises
    ``UserError`` if there is no model, if its files are damaged or cannot be read, and if a weight is not finite.
    """
    if is_weights_file(model):
        return convert_file(Path(model), variant=variant)[0]
    if variant is not None:
        raise UserError(f"{model} is a model folder and names its own variant: leave out --variant")
    return bundle.load_model(model)


def is_weights_file(model: Path | str) -> bool:
    """Whether a MODEL is a file."""
    return Path(model).is_file()
