"""``load_model``: a trained network from whatever a user calls a MODEL.

A MODEL is a run folder or model folder of this program, a weights file (of PyTorch, safetensors, Keras, NumPy,
MatConvNet, ONNX or Caffe; ``formats.py`` has the table), the name of trained weights (``zoo.py``), or a repository
``hub:OWNER/NAME`` (``hub.py``).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from alexnet.core.errors import RUNS, UserError, is_absent, no_run
from alexnet.core.names import either, is_url, nearest
from alexnet.models import bundle
from alexnet.models.classifier import Classifier
from alexnet.models.registry import MEANT
from alexnet.runtime.log import Reporter
from alexnet.runtime.progress import make_reporter
from alexnet.weights import cuda_convnet
from alexnet.weights.convert import convert_file
from alexnet.weights.foreign import NoAlexNetError
from alexnet.weights.hub import fetch_from_hub, is_hub_name, parse_hub_name
from alexnet.weights.zoo import WEIGHTS, fetch, full_name, is_included, is_weights_name, list_weights

SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]*$")  # of a file, not a version number
SIMILAR = 0.75  # of a name to that of published weights, which are then suggested


def load_model(
    model: Path | str,
    *,
    variant: str | None = None,
    weights_root: Path | str | None = None,
    progress: bool | None = None,
    reporter: Reporter | None = None,
) -> Classifier:
    """The network of a MODEL, in evaluation mode on the CPU.

    It has ``.variant``, ``.classes``, ``.labels``, ``.preprocessing``, ``.mean_image`` and ``.trained_on``.
    ``variant``: the name of the network in a weights file, where the weights alone do not decide it.
    ``weights_root``: the first folder in which published weights are looked for. What a file does not state, and what
    is assumed instead, is shown on stderr, as is the progress of a download; ``progress=False`` shows nothing,
    ``reporter`` receives it instead. Raises ``UserError`` if there is no model, if its files are damaged or cannot be
    read, if they cannot be downloaded, and if a weight is not finite.
    """
    reporter = reporter or make_reporter(progress)
    path = local_path(model, weights_root, reporter)
    published = WEIGHTS.get(str(model)) if str(path) != str(model) else None
    if published and variant not in (None, published.variant):
        raise UserError(f"{model} are weights of the variant {published.variant}: leave out variant={variant!r}")
    if is_foreign_file(path):
        try:
            network, report = convert_file(path, variant=published.variant if published else variant)
        except NoAlexNetError as error:
            raise UserError(error.line + _hint(error, path)) from error
        if not published:
            for line in report.assumptions:
                reporter.log(f"note: {line}")
        return network
    if variant is not None:
        raise UserError(f"{model} is a model folder and names its own variant: leave out variant={variant!r}")
    cuda_convnet.check_folder(path)
    return bundle.load_model(path.parent if path.is_file() else path)


def local_path(model: Path | str, weights_root: Path | str | None = None, reporter: Reporter | None = None) -> Path:
    """The file or folder of a MODEL on this computer; what is absent and has a name is downloaded first.

    The arguments are those of :func:`load_model`. Raises ``UserError`` if there is no such file or folder, and if it
    cannot be downloaded.
    """
    path, reporter = Path(model), reporter or make_reporter()
    if is_hub_name(model):
        return fetch_from_hub(str(model), reporter)
    if not is_weights_name(str(model)):
        check_exists(model)
        return path
    if os.path.exists(path):  # noqa: PTH110 – never raises
        reporter.log(f"note: {model} is a path here and is used; the weights of that name are not")
        return path
    return fetch(str(model), None if weights_root is None else Path(weights_root), reporter)


def check_exists(model: Path | str) -> None:
    """Raise ``UserError`` for a MODEL that is a path at which there is nothing; it suggests what may be meant."""
    name = str(model)
    if is_hub_name(model) or is_weights_name(name) or not is_absent(model):
        return
    if is_url(name):
        raise UserError(f"{name} is an address, and addresses are not fetched: download the file and give its path")
    if meant := _weights_meant(name):
        raise UserError(f"there is no file or folder {name}: did you mean the weights {either(meant)}?")
    raise no_run(Path(model), "")


def is_meant_as_path(target: Path | str) -> bool:
    """Whether a name that is none in a table must be a MODEL: something is at this path, or it is written as a path.

    A run of this name in ``runs/`` counts, so that the error can suggest it.
    """
    name = str(target)
    is_written_as_path = os.sep in name or SUFFIX.search(name) is not None
    return is_written_as_path or is_model(name) or not is_absent(name) or not is_absent(RUNS / name)


def is_model(model: Path | str) -> bool:
    """Whether something is a MODEL: a run folder, a model folder, a file, a name of weights, or one of the hub."""
    return is_weights_name(str(model)) or is_hub_name(model) or is_local_model(model)


def is_local_model(model: Path | str) -> bool:
    """Whether a MODEL is a run folder, a model folder or a file on this computer."""
    files = ("model.json", "model/model.json", "run.json")
    return is_weights_file(model) or any(is_weights_file(Path(model) / name) for name in files)


def is_weights_file(model: Path | str) -> bool:
    """Whether a MODEL is a file."""
    return os.path.isfile(model)  # noqa: PTH113 – never raises


def kind_without_run(model: Path | str) -> str:
    """What a MODEL is that belongs to no run and so has no images of its own; "" for a path of a folder."""
    if is_weights_file(model):
        return "a weights file"
    if is_hub_name(model):
        return "a model on the hub"
    if _is_name(model):
        return f"the name of {'included' if is_included(str(model)) else 'published'} weights"
    return ""


def _is_name(model: Path | str) -> bool:
    """Whether a MODEL is a name of weights and no path on this computer."""
    return is_weights_name(str(model)) and not os.path.exists(model)  # noqa: PTH110 – never raises


def check_is_run(target: Path | str) -> None:
    """Raise ``UserError`` for a MODEL that belongs to no run, where a run folder is needed."""
    if kind := kind_without_run(target):
        raise UserError(f"{target} is not a run folder: it is {kind}; give a folder that alexnet train wrote")


def published_variant(model: Path | str) -> str | None:
    """The variant of published weights, if a MODEL is their name and no path on this computer; else None."""
    row = WEIGHTS.get(str(model))
    return row.variant if row and _is_name(model) else None


def file_stem(model: Path | str) -> str:
    """The first part of names of files about a MODEL: ``torchvision-imagenet``, ``OWNER-NAME``, the run, the file."""
    if is_hub_name(model):
        return "-".join(part for part in parse_hub_name(str(model)) if part).replace("/", "-")
    if _is_name(model):
        return full_name(str(model)).replace("/", "-")
    path = Path(model)
    if is_weights_file(path):
        return path.stem
    folder = path.resolve()
    return folder.parent.name if folder.name == "model" else folder.name


def is_foreign_file(path: Path) -> bool:
    """Whether a path is a file, and not one of the two of a model folder, which has more than the weights."""
    in_model_folder = path.name in bundle.FILES and all(is_weights_file(path.parent / name) for name in bundle.FILES)
    return is_weights_file(path) and not in_model_folder


def _hint(error: NoAlexNetError, path: Path) -> str:
    """Where the details are shown, as the end of a sentence: a command that uses weights prints one line."""
    if len(error.details) > 1:
        return f"; 'alexnet convert {path}' lists them"
    return f" ({error.details[0]})" if error.details else ""


def _weights_meant(name: str) -> list[str]:
    """The weights that a wrong name may mean: by a name like theirs, their variant's or their file's."""
    of_variant = {row.variant: (known,) for known, row in list_weights().items()}
    others = {
        alias: [known for variant in variants for known in of_variant.get(variant, ())]
        for alias, variants in MEANT.items()
    }
    files = {row.file: (known,) for known, row in WEIGHTS.items()}
    return nearest(name, list_weights(), {**others, **of_variant, **files}, cutoff=SIMILAR)
