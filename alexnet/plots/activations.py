"""What each layer makes of one photograph: its maps as pictures, and the share of its units that are active."""

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
from alexnet.plots.canvas import BLUE, PHONE, Picture, bare, grid, new_figure, shortened, show_image, tiles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAPS = 30  # of a layer, those that answer most
ACROSS = 6
HIGHEST = 5  # of the scores
COLUMNS = 4  # of layers in the picture
RESTS_AT: dict[type[nn.Module], float] = {nn.ReLU: 0.0, nn.Tanh: 0.0, nn.Sigmoid: 0.5}  # a unit above it is active


def shown_layers(network: Classifier, names: list[str]) -> list[str]:
    """The layers asked for, or each from where its units are active or not: ``relu1``, ``norm1``, ``pool1`` … ``fc8``.

    What comes before an activation (``conv1``) looks as that does but for its sign, and is shown if asked for.
    Raises ``UserError`` for a layer that the network does not have.
    """
    known = list(network.layer_shapes())
    for name in names:
        if name not in known:
            raise unknown("layer", name, known)
    return names or [name for stage in _stages(network, known) for name in _from_activation(network, stage)]


def _stages(network: Classifier, known: Sequence[str]) -> list[list[str]]:
    """The layers in stages: each starts with a layer that has weights to multiply by."""
    stages: list[list[str]] = []
    for name in known:
        weight = getattr(network.get_submodule(name), "weight", None)
        if not stages or (weight is not None and weight.dim() > 1):
            stages.append([])
        stages[-1].append(name)
    return stages


def _from_activation(network: Classifier, stage: Sequence[str]) -> Sequence[str]:
    """A stage from its activation on; all of it if it has none, like the last."""
    return stage[next((place for place, name in enumerate(stage) if rest_value(network, name) is not None), 0) :]


def rest_value(network: Classifier, layer: str) -> float | None:
    """The value above which a unit of an activation counts as active; None for other layers."""
    return RESTS_AT.get(type(network.get_submodule(layer)))


def show_activations(predictor: Predictor, pixels: NDArray[np.uint8], layers: list[str], title: str) -> Picture:
    """What the layers asked for make of one image ``(S, S, C)``, read by the predictor.

    Raises ``UserError`` for a layer that the network does not have.
    """
    network = predictor.device_config.to_device(copy.deepcopy(predictor.model))
    batch = pixels[None]
    with torch.inference_mode():
        outputs = network.layer_outputs(predictor.view(batch), shown_layers(network, layers))
    logits = network.last_layer
    first = {name: output[0] for name, output in outputs.items()}
    scores = {logits: predictor.model.labels} if logits in first else {}
    rests = {name: rest for name in first if (rest := rest_value(network, name)) is not None}
    return draw_activations(predictor.visible(batch)[0], first, title, scores, rests)


def draw_activations(
    pixels: NDArray[np.uint8],
    outputs: Mapping[str, Tensor],
    title: str,
    scores: Mapping[str, Sequence[str]],
    rests: Mapping[str, float],
) -> Picture:
    """The image and, for each layer, its strongest maps, or all its units for a layer of units.

    ``pixels`` ``(S, S, C)``: what the network saw; ``outputs``: layer → ``(maps, H, W)`` or ``(units,)``; ``scores``:
    the layer whose units stand for classes → their names; ``rests``: activation → the value above which a unit is active.
    """
    layers = {name: output.float().cpu().numpy() for name, output in outputs.items()}
    shares = {name: float((layers[name] > rest).mean()) for name, rest in rests.items()}
    said = {name: f"{share:.0%} of units above {rests[name]:g}" for name, share in shares.items()}
    said |= {name: f"highest for “{classes[int(layers[name].argmax())]}”" for name, classes in scores.items()}
    shown = Shown(title, pixels, layers, said, scores)
    return Picture(
        _sheet(shown, 11, COLUMNS),
        f"{title}: {', '.join(' '.join(filter(None, (name, said.get(name)))) for name in layers)}",
        {"active": shares},
        lambda: _sheet(shown, PHONE, 2),
    )


@dataclass(frozen=True, eq=False)
class Shown:
    """What is drawn: ``pixels`` and ``layers``; ``said``: of some layers; ``scores``: the class names of others."""

    title: str
    pixels: NDArray[np.uint8]
    layers: Mapping[str, NDArray[np.float32]]
    said: Mapping[str, str]
    scores: Mapping[str, Sequence[str]]


def _sheet(shown: Shown, width: float, across: int) -> Figure:
    """The image and the layers, so many ``across``."""
    count = 1 + len(shown.layers)
    title = f"{shown.title} (dark: 0, or the lowest below it; bright: each map at its highest)"
    figure = new_figure(width, 0.6 + 2.6 * math.ceil(count / across), title)
    places = grid(figure, count, across)
    show_image(places[0], shown.pixels, "what the network sees")
    for axes, (name, values) in zip(places[1:], shown.layers.items(), strict=True):
        if name in shown.scores:
            _draw_scores(axes, name, values, shown.scores[name])
        else:
            _draw_maps(axes, name, values, shown.said.get(name, ""))
    return figure


def _draw_maps(axes: Axes, name: str, values: NDArray[np.float32], said: str) -> None:
    """A layer's maps, or its units; ``said``: of it, if anything."""
    picture, what = _picture(values)
    aspect: Literal["auto", "equal"] = "auto" if values.size == len(values) else "equal"
    bare(axes).imshow(picture, cmap="viridis", aspect=aspect, vmin=0, vmax=1)
    axes.set_anchor("N")
    size = " × ".join(map(str, values.shape))
    axes.set_title("\n".join(filter(None, (f"{shortened(name)}: {size}", said, what))), fontsize=8)


def _draw_scores(axes: Axes, name: str, values: NDArray[np.float32], classes: Sequence[str]) -> None:
    """The classes of the highest scores, a named bar each."""
    best = np.argsort(-values, kind="stable")[:HIGHEST]
    axes.barh(range(len(best)), values[best], color=BLUE, alpha=0.45, height=0.86)
    for place, number in enumerate(best):
        label, beside = shortened(classes[number]), axes.get_yaxis_transform()
        axes.text(0.02, place, label, transform=beside, va="center", fontsize=8, clip_on=True)
    axes.set(ylim=(len(best) - 0.5, -0.5), yticks=[])
    axes.tick_params(axis="x", labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"{name}: {len(values)}\nscores before softmax\n{_of_all(len(best), len(values))}", fontsize=8)


def _of_all(shown: int, count: int) -> str:
    return f"the {shown} highest" if shown < count else "all of them"


def _picture(values: NDArray[np.float32]) -> tuple[NDArray[np.float64], str]:
    """Maps as a sheet, each stretched over its own range; units as a block of fields, stretched together."""
    if values.size == len(values):  # units, or maps of one place
        values = values.reshape(-1)
        width = math.ceil(math.sqrt(len(values)))
        block = np.full(width * math.ceil(len(values) / width), np.nan)
        block[: len(values)] = _stretched(values)
        return block.reshape(-1, width), "all of them, stretched together"
    best = np.sort(np.argsort(-values.max(axis=(1, 2)), kind="stable")[:MAPS])
    maps = np.stack([_stretched(values[number]) for number in best])
    sheet = tiles(maps[..., None], ACROSS, ground=np.nan).squeeze(2)
    return sheet, f"the {len(best)} strongest maps" if len(best) < len(values) else "all maps"


def _stretched(values: NDArray[Any]) -> NDArray[np.float64]:
    """0 … 1 from 0, or the lowest if that is below, to the highest; 0 where all are 0."""
    low, high = min(0.0, float(values.min())), float(values.max())
    return (values.astype(np.float64) - low) / (high - low) if high > low else np.zeros(values.shape)
