"""The output of each layer for one image: its feature maps as pictures, and the share of active units.

Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks" (ECCV 2014), made such pictures well known.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alexnet.core.errors import unknown
from alexnet.inference.predictor import Predictor
from alexnet.models.classifier import Classifier
from alexnet.plots.canvas import BLUE, NARROW_WIDTH, Picture, grid, hide_axes, new_figure, plot_image, shorten, tiles
from alexnet.plots.inputs import FinishedRun, PlotInputs
from alexnet.plots.options import Plot, ReportFigure
from alexnet.runtime.device import NO_TF32

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAPS = 30  # shown of a layer: those with the highest maximum
ACROSS = 6
HIGHEST = 5  # logits shown
COLUMNS = 4  # of panels
ACTIVATION_THRESHOLDS: dict[type[nn.Module], float] = {
    nn.ReLU: 0.0,
    nn.Tanh: 0.0,
    nn.Sigmoid: 0.5,
}  # a unit above it counts as active


def shown_layers(network: Classifier, names: list[str]) -> list[str]:
    """The layers ``names``, or if empty every layer from its activation on: ``relu1``, ``norm1``, ``pool1`` … ``fc8``.

    The output before an activation (``conv1``) differs from the one after it only where it is negative, so it is left
    out unless it is in ``names``. Raises ``UserError`` for a layer that the network does not have.
    """
    known = list(network.layer_shapes())
    for name in names:
        if name not in known:
            raise unknown("layer", name, known)
    return names or [name for stage in _stages(network, known) for name in _from_activation(network, stage)]


def _stages(network: Classifier, known: Sequence[str]) -> list[list[str]]:
    """The layers in stages: each starts with a convolution or a linear layer."""
    stages: list[list[str]] = []
    for name in known:
        weight = getattr(network.get_submodule(name), "weight", None)
        if not stages or (weight is not None and weight.dim() > 1):
            stages.append([])
        stages[-1].append(name)
    return stages


def _from_activation(network: Classifier, stage: Sequence[str]) -> Sequence[str]:
    """The layers of a stage from its activation on; the whole stage if it has no activation, like the last."""
    return stage[
        next((place for place, name in enumerate(stage) if activation_threshold(network, name) is not None), 0) :
    ]


def activation_threshold(network: Classifier, layer: str) -> float | None:
    """The value above which a unit counts as active; None for a layer that is no activation function."""
    return ACTIVATION_THRESHOLDS.get(type(network.get_submodule(layer)))


def compose_activations(predictor: Predictor, pixels: NDArray[np.uint8], layers: list[str], title: str) -> Picture:
    """The outputs of ``layers`` for one image ``(S, S, C)`` uint8, from ``predictor.read``.

    Raises ``UserError`` for a layer that the network does not have.
    """
    network = predictor.device_config.to_device(copy.deepcopy(predictor.model))
    batch = pixels[None]
    with torch.inference_mode(), NO_TF32:
        outputs = network.layer_outputs(predictor.view(batch), shown_layers(network, layers))
    logits = network.last_layer
    first = {name: output[0] for name, output in outputs.items()}
    scores = {logits: predictor.model.labels} if logits in first else {}
    thresholds = {name: value for name in first if (value := activation_threshold(network, name)) is not None}
    return plot_activations(predictor.visible(batch)[0], first, title, scores, thresholds)


def plot_activations(
    pixels: NDArray[np.uint8],
    outputs: Mapping[str, Tensor],
    title: str,
    scores: Mapping[str, Sequence[str]],
    thresholds: Mapping[str, float],
) -> Picture:
    """The image, then for each layer its maps with the highest maximum, or all units of a linear layer.

    ``pixels`` ``(S, S, C)``: the input image. ``outputs``: layer → ``(maps, H, W)`` or ``(units,)``. ``scores``: the
    layer that gives the logits → the names of the classes. ``thresholds``: activation function → the value above which
    a unit counts as active.
    """
    layers = {name: output.float().cpu().numpy() for name, output in outputs.items()}
    shares = {name: float((layers[name] > value).mean()) for name, value in thresholds.items()}
    notes = {name: f"{share:.0%} of units above {thresholds[name]:g}" for name, share in shares.items()}
    notes |= {name: f"highest for “{classes[int(layers[name].argmax())]}”" for name, classes in scores.items()}
    content = Content(title, pixels, layers, notes, scores)
    return Picture(
        _panels(content, 11, COLUMNS),
        f"{title}: {', '.join(' '.join(filter(None, (name, notes.get(name)))) for name in layers)}",
        {"active": shares},
        lambda: _panels(content, NARROW_WIDTH, 2),
    )


@dataclass(frozen=True, eq=False)
class Content:
    """The content of the figure. ``notes``: layer → a line in its title; ``scores``: layer of logits → class names."""

    title: str
    pixels: NDArray[np.uint8]
    layers: Mapping[str, NDArray[np.float32]]
    notes: Mapping[str, str]
    scores: Mapping[str, Sequence[str]]


def _panels(content: Content, width: float, across: int) -> Figure:
    """A panel for the image and for each layer, ``across`` in a row."""
    count = 1 + len(content.layers)
    title = f"{content.title} (dark: 0, or the minimum if negative; bright: the maximum of each map)"
    figure = new_figure(width, 0.6 + 2.6 * math.ceil(count / across), title)
    places = grid(figure, count, across)
    plot_image(places[0], content.pixels, "input")
    for axes, (name, values) in zip(places[1:], content.layers.items(), strict=True):
        if name in content.scores:
            _plot_scores(axes, name, values, content.scores[name])
        else:
            _plot_maps(axes, name, values, content.notes.get(name, ""))
    return figure


def _plot_maps(axes: Axes, name: str, values: NDArray[np.float32], note: str) -> None:
    """The maps of a layer, or its units; ``note``: a line in the title, or empty."""
    picture, what = _layer_image(values)
    aspect: Literal["auto", "equal"] = "auto" if values.size == len(values) else "equal"
    hide_axes(axes).imshow(picture, cmap="viridis", aspect=aspect, vmin=0, vmax=1)
    axes.set_anchor("N")
    size = " × ".join(map(str, values.shape))
    axes.set_title("\n".join(filter(None, (f"{shorten(name)}: {size}", note, what))), fontsize=8)


def _plot_scores(axes: Axes, name: str, values: NDArray[np.float32], classes: Sequence[str]) -> None:
    """A bar for each of the highest logits, with the name of its class."""
    best = np.argsort(-values, kind="stable")[:HIGHEST]
    axes.barh(range(len(best)), values[best], color=BLUE, alpha=0.45, height=0.86)
    for place, number in enumerate(best):
        label, transform = shorten(classes[number]), axes.get_yaxis_transform()
        axes.text(0.02, place, label, transform=transform, va="center", fontsize=8, clip_on=True)
    axes.set(ylim=(len(best) - 0.5, -0.5), yticks=[])
    axes.tick_params(axis="x", labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"{name}: {len(values)}\nlogits\n{_count(len(best), len(values))}", fontsize=8)


def _count(shown: int, count: int) -> str:
    return f"the {shown} highest" if shown < count else "all"


def _layer_image(values: NDArray[np.float32]) -> tuple[NDArray[np.float64], str]:
    """Maps as tiles, each scaled to its own range; units as a square of cells, scaled together. Also a line that says
    so.
    """
    if values.size == len(values):  # units, or maps of 1 × 1
        values = values.reshape(-1)
        width = math.ceil(math.sqrt(len(values)))
        block = np.full(width * math.ceil(len(values) / width), np.nan)
        block[: len(values)] = _normalized(values)
        return block.reshape(-1, width), "all units"
    best = np.sort(np.argsort(-values.max(axis=(1, 2)), kind="stable")[:MAPS])
    maps = np.stack([_normalized(values[number]) for number in best])
    sheet = tiles(maps[..., None], ACROSS, ground=np.nan).squeeze(2)
    return sheet, f"the {len(best)} strongest maps" if len(best) < len(values) else "all maps"


def _normalized(values: NDArray[Any]) -> NDArray[np.float64]:
    """Values scaled to 0 … 1: from 0, or from the minimum if that is negative, to the maximum; zeros stay zeros."""
    low, high = min(0.0, float(values.min())), float(values.max())
    return (values.astype(np.float64) - low) / (high - low) if high > low else np.zeros(values.shape)


def _compose(inputs: PlotInputs) -> Picture:
    ((name, pixels),) = inputs.named_images()
    return compose_activations(
        inputs.predictor, pixels, list(inputs.layers), f"{inputs.run_name}, layer outputs for {name}"
    )


def _compose_for_report(finished: FinishedRun) -> Picture:
    name, pixels = finished.test_image()
    return compose_activations(finished.predictor, pixels, [], name)


PLOT = Plot(
    compose=_compose, max_images=1, options=("data", "layer"), several_layers=True, int8=False,
    report=ReportFigure("Activations by layer", _compose_for_report),
)  # fmt: skip
