"""The names of all plots, in the order of the report, each with the line that ``alexnet show --help`` prints.

To add a plot: write ``alexnet/plots/NAME.py`` with a constant ``PLOT`` (see :class:`~alexnet.plots.options.Plot`), and
add a row here. A ``-`` in a name is a ``_`` in the name of its file. This module imports neither torch, numpy nor
matplotlib, so that ``--help`` stays fast; a plot's file is imported when the plot is made.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from alexnet.core.errors import unknown

if TYPE_CHECKING:
    from alexnet.plots.options import Plot

PLOTS = {
    "curves": "loss, accuracy, learning rate and images/s; several runs in one plot",
    "architecture": "the layers as blocks, as in figure 2 of the paper",
    "receptive-field": "the part of the image that one unit of each layer depends on",
    "augmentations": "an image as training augments it, and the views of a test",
    "filters": "first-layer filters by column, with colour and orientation indices",
    "masks": "images with their true and their predicted masks, of a segmentation",
    "boxes": "images with their true boxes and the detected ones",
    "predictions": "images with their five most probable classes; mistakes",
    "confusion": "confusion matrix and accuracy of each class",
    "roc": "ROC curve with its AUC, the operating point, and the calibration",
    "embedding": "t-SNE of a layer's output for many images",
    "rdm": "how unlike a layer's features are for each pair of images",
    "neighbours": "the training images whose features are nearest to an image's",
    "activations": "the output of each layer for one image; active units",
    "attributions": "the pixels that matter for a class: Grad-CAM, saliency, occlusion",
}


def get_plot(name: str) -> Plot:
    """The entry of a plot, from its file. Raises ``UserError`` naming the nearest if there is no such plot."""
    if name not in PLOTS:
        raise unknown("plot", name, PLOTS)
    plot: Plot = importlib.import_module(f"alexnet.plots.{name.replace('-', '_')}").PLOT
    return plot
