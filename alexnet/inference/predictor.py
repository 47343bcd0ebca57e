"""Labels for images: a trained model, its classes and its preprocessing behind one call.

An image goes the way that training's went: decoded by ``data/decode.py``, cut and scaled by ``data/augment.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet.core.errors import UserError
from alexnet.data.augment import views
from alexnet.data.image_file import read_photograph
from alexnet.kernels.accelerate import accelerate
from alexnet.models.bundle import load_model
from alexnet.runtime.device import DeviceConfig, resolve_device


@dataclass(frozen=True)
class Prediction:
    """One class and its probability, 0 … 1. ``label`` is what people call the class, ``name`` its name in the data."""

    label: str
    name: str
    probability: float


class Predictor:
    """``Predictor(run)("cat.jpg", top_k=5)``: the most likely classes of an image, best first."""

    def __init__(self, run: Path | str, device_config: DeviceConfig | None = None) -> None:
        self.model = load_model(run)
        self.device_config = device_config or resolve_device()
        self._network = accelerate(self.model, self.device_config)
        mean_image = self.model.mean_image
        self._mean_image = None if mean_image is None else mean_image.to(self.device_config.device)

    def __call__(self, image: Path | str | bytes, top_k: int = 5) -> list[Prediction]:
        """Predictions for one image file, or its bytes. Raises ``UserError`` for a file that cannot be read."""
        return self.ranked(self.probabilities([self.read(image)])[0], top_k)

    def read(self, image: Path | str | bytes, name: str | None = None) -> NDArray[np.uint8]:
        """The pixels ``(S, S, C)`` uint8 of an image file, or of its bytes, as the store would keep them.

        ``name``: what to call it in the error if it is refused. Raises ``UserError``.
        """
        preprocessing = self.model.preprocessing
        return read_photograph(image, preprocessing.resize_size, preprocessing.channels, name)

    def probabilities(self, pixels: Sequence[NDArray[np.uint8]] | NDArray[np.uint8]) -> NDArray[np.float32]:
        """``(N, classes)`` for N images from :meth:`read`."""
        with torch.inference_mode(), self.device_config.autocast():
            return self._network(self.view(pixels)).float().softmax(dim=1).cpu().numpy()  # type: ignore[no-any-return]

    def features(self, pixels: Sequence[NDArray[np.uint8]] | NDArray[np.uint8], layer: str) -> NDArray[np.float32]:
        """A layer's output ``(N, units)`` for N images from :meth:`read`, maps flattened; ``layer``: see ``taps.py``.

        Raises ``UserError`` for a layer that the network does not have.
        """
        with torch.inference_mode(), self.device_config.autocast():
            outputs = self._network.layer_outputs(self.view(pixels), (layer,))
        return outputs[layer].flatten(1).float().cpu().numpy()

    def view(self, pixels: Sequence[NDArray[np.uint8]] | NDArray[np.uint8]) -> Tensor:
        """What the network sees of N images from :meth:`read`: ``(N, C, S, S)`` fp32 on the device, the centre view."""
        batch = torch.from_numpy(np.stack(tuple(pixels))).to(self.device_config.device)
        (view,) = views(batch, self.model.preprocessing, self._mean_image)
        return self.device_config.to_memory_format(view)

    def visible(self, pixels: Sequence[NDArray[np.uint8]] | NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The same for people, before any scaling: ``(N, S, S, C)`` 0 … 255."""
        channels = self.model.preprocessing.channels
        bare = replace(
            self.model.preprocessing, pixel_normalization="unit", mean=(0.0,) * channels, std=(1.0,) * channels
        )
        (view,) = views(torch.from_numpy(np.stack(tuple(pixels))), bare, None)
        return view.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()

    def ranked(self, probabilities: NDArray[np.float32], top_k: int) -> list[Prediction]:
        """The ``top_k`` classes of one image's probabilities ``(classes,)``, best first; all if there are fewer."""
        if top_k < 1:
            raise UserError(f"top_k = {top_k}: ask for 1 class or more")
        best = np.argsort(-probabilities, kind="stable")[:top_k]
        model = self.model
        return [Prediction(model.labels[i], model.classes[i], float(probabilities[i])) for i in best]
