"""Plots for Python: ``alexnet.plot("confusion", "runs/small-digits")`` returns a matplotlib figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet.plots.canvas import Picture
from alexnet.plots.inputs import PlotInputs
from alexnet.plots.options import check_options, known_names
from alexnet.plots.registry import get_plot
from alexnet.runtime.device import resolve_device
from alexnet.runtime.log import NullReporter, Reporter
from alexnet.runtime.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

File = Path | str


def plot(
    what: str,
    *targets: File | Run,
    image: File | Sequence[File] = (),
    layers: str | Sequence[str] = (),
    class_name: str | None = None,
    data: File | None = None,
    data_root: File | None = None,
    weights_root: File | None = None,
    device: str | None = None,
    precision: str = "auto",
    reporter: Reporter | None = None,
) -> Figure:
    """A plot by its name, as a matplotlib ``Figure``; ``alexnet show --help`` lists the names.

    ``targets``: a run folder (several for ``curves`` and ``filters``); a weights file or the name of published weights,
    for plots that need no training; the name of a variant (``architecture``, ``receptive-field``) or of a recipe
    (``augmentations``). ``weights_root``: the first folder in which published weights are looked for. ``image``: one
    image file or several; without one, plots of an image take a test image. ``layers``: names such as ``"relu5"``.
    ``class_name``: the class of ``attributions``; None for the most probable one. ``data``: a source in place of the
    run's own images. ``device``: ``"cpu"``, ``"cuda"``, …; ``precision``: ``"auto"``, ``"fp32"``, ``"bf16"`` or
    ``"int8"``. Raises ``UserError`` for an unknown name, a target that does not exist, and options that the plot does
    not use.
    """
    return compose(
        what, *targets, image=image, layers=layers, class_name=class_name, data=data, data_root=data_root,
        weights_root=weights_root, device=device, precision=precision, reporter=reporter,
    ).figure  # fmt: skip


def compose(
    what: str,
    *targets: File | Run,
    image: File | Sequence[File] = (),
    layers: str | Sequence[str] = (),
    class_name: str | None = None,
    data: File | None = None,
    data_root: File | None = None,
    weights_root: File | None = None,
    device: str | None = None,
    precision: str = "auto",
    reporter: Reporter | None = None,
) -> Picture:
    """The same with its caption and its numbers; see :func:`plot`."""
    entry = get_plot(what)
    named = tuple(str(target.folder if isinstance(target, Run) else target) for target in targets)
    images = (str(image),) if isinstance(image, File) else tuple(map(str, image))
    layers = (layers,) if isinstance(layers, str) else tuple(layers)
    source = None if data is None else str(data)
    check_options(
        what,
        entry,
        targets=named,
        images=images,
        layers=layers,
        class_name=class_name,
        data=source,
        precision=precision,
    )
    return entry.compose(
        PlotInputs(
            targets=named, names=known_names(entry), images=images, class_name=class_name, layers=layers, data=source,
            data_root=None if data_root is None else Path(data_root),
            weights_root=None if weights_root is None else Path(weights_root),
            device_config=resolve_device(device, precision), reporter=reporter or NullReporter(), what=what,
            tasks=entry.tasks,
        )
    )  # fmt: skip
