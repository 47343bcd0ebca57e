"""What each layer makes of one photograph: its maps as pictures, and the share of its units that are active."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet.core.errors import unknown
from alexnet.inference.predictor import Predictor
from alexnet.inference.taps import layer_outputs, layer_shapes
from alexnet.model.network import Classifier
from alexnet.visualize.canvas import PHONE, Picture, bare, grid, new_figure, shortened, show_image, tiles

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAPS = 32  # of a layer, those that answer most
ACROSS = 8
COLUMNS = 4  # of layers in the picture


def shown_layers(network: Classifier, names: list[str]) -> list[str]:
    """The layers asked for, or, of all, those with units that are active or not: ``relu1``, ``relu2`` … ``fc8`` last.

    Raises ``UserError`` for a layer that the network does not have.
    """
    known = list(layer_shapes(network))
    for name in names:
        if name not in known:
            raise unknown("layer", name, known)
    active = [name for name in known if name.startswith(("relu", "tanh", "sigmoid"))]
    return names or [*active, known[-1]]


def show_activations(predictor: Predictor, pixels: NDArray[np.uint8], layers: list[str], title: str) -> Picture:
    """What the layers asked for make of one image ``(S, S, C)``, read by the predictor.

    Raises ``UserError`` for a layer that the network does not have.
    """
    network = predictor.machine.place(predictor.model.network)
    batch = pixels[None]
    with torch.inference_mode():
        outputs = layer_outputs(network, predictor.view(batch), shown_layers(network, layers))
    return draw_activations(predictor.visible(batch)[0], {name: output[0] for name, output in outputs.items()}, title)


def draw_activations(pixels: NDArray[np.uint8], outputs: Mapping[str, Tensor], title: str) -> Picture:
    """The image and, for each layer, its strongest maps, or all its units for a layer of units.

    ``pixels`` ``(S, S, C)``: what the network saw; ``outputs``: layer → ``(maps, H, W)`` or ``(units,)``.
    """
    layers = {name: output.float().cpu().numpy() for name, output in outputs.items()}
    shares = {name: float((values > 0).mean()) for name, values in layers.items()}
    active = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    return Picture(
        _sheet(pixels, layers, title, 11, COLUMNS),
        f"{title}: units above 0 in each layer: {active}",
        {"active": shares},
        lambda: _sheet(pixels, layers, title, PHONE, 2),
    )


def _sheet(
    pixels: NDArray[np.uint8], layers: Mapping[str, NDArray[np.float32]], title: str, width: float, across: int
) -> Figure:
    """The image and the layers, so many ``across``."""
    rows = math.ceil((1 + len(layers)) / across)
    figure = new_figure(width, 0.6 + 2.6 * rows, f"{title} (each map from its lowest to its highest value)")
    places = grid(figure, 1 + len(layers), across)
    show_image(places[0], pixels, "what the network sees")
    for axes, (name, values) in zip(places[1:], layers.items(), strict=True):
        picture, what = _picture(values)
        bare(axes).imshow(picture, cmap="viridis", aspect="auto" if values.ndim == 1 else "equal", vmin=0, vmax=1)
        size = " × ".join(map(str, values.shape))
        axes.set_title(f"{shortened(name)}: {size}\n{(values > 0).mean():.0%} of units above 0;\n{what}", fontsize=8)
    return figure


def _picture(values: NDArray[np.float32]) -> tuple[NDArray[np.float64], str]:
    """Maps as a sheet, each stretched over its own range; units as a block of squares, stretched together."""
    if values.ndim == 1:
        width = math.ceil(math.sqrt(len(values)))
        block = np.full(width * math.ceil(len(values) / width), np.nan)
        block[: len(values)] = _stretched(values)
        return block.reshape(-1, width), "all of them"
    best = np.sort(np.argsort(-values.max(axis=(1, 2)), kind="stable")[:MAPS])
    maps = np.stack([_stretched(values[number]) for number in best])
    sheet = tiles(maps[..., None], ACROSS, ground=np.nan).squeeze(2)
    return sheet, f"the {len(best)} strongest maps" if len(best) < len(values) else "all maps"


def _stretched(values: NDArray[Any]) -> NDArray[np.float64]:
    """0 … 1 from the lowest to the highest; 0 where all are equal."""
    low, high = float(values.min()), float(values.max())
    return (values.astype(np.float64) - low) / (high - low) if high > low else np.zeros(values.shape)
