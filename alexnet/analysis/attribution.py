"""Where in an image a network finds a class: Grad-CAM, saliency and occlusion, by Captum.

Grad-CAM weighs the last maps by their mean gradient and keeps what speaks for the class (Selvaraju et al. 2017);
saliency is the gradient's magnitude at each pixel, the largest of its channels (Simonyan, Vedaldi and Zisserman 2014);
occlusion is how much the score falls when a patch is covered with the image's mean colour (Zeiler and Fergus 2014).
Captum is an extra, ``explain``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet.core.errors import UserError
from alexnet.models.classifier import Classifier

PATCHES_ACROSS = 8  # an image is eight patches wide, which overlap by half
SMALLEST_PATCH = 3
PATCHES_AT_ONCE = 32
ROUNDING = 1e-5  # of a score in fp32: what is below says nothing


def attribute(network: Classifier, image: Tensor, target: int) -> dict[str, Tensor]:
    """Method → a map ``(S, S)`` fp32, none below 0, of what in ``image`` ``(C, S, S)`` speaks for class ``target``.

    The network computes in fp32 and is left as it was. Raises ``UserError`` where Captum is not installed.
    """
    network = copy.deepcopy(network).float().eval().requires_grad_(True)
    images = image[None].float().contiguous()
    return {name: method(network, images, target).detach() for name, method in METHODS.items()}


def grad_cam(network: Classifier, images: Tensor, target: int) -> Tensor:
    """Of the last maps, enlarged to the image."""
    _check_captum()
    from captum.attr import LayerGradCam

    layer = network.get_submodule(network.last_conv_output())
    coarse = LayerGradCam(network, layer).attribute(images, target=target, relu_attributions=True)
    return F.interpolate(coarse, size=images.shape[2:], mode="bilinear", align_corners=False)[0, 0]


def saliency(network: Classifier, images: Tensor, target: int) -> Tensor:
    """Of each pixel, its most telling channel."""
    _check_captum()
    from captum.attr import Saliency

    found: Tensor = Saliency(network).attribute(images.clone().requires_grad_(True), target=target, abs=True)
    return found[0].amax(dim=0)


def occlusion(network: Classifier, images: Tensor, target: int) -> Tensor:
    """How much lower the class's score is where a patch lies, on average over the patches that cover a pixel."""
    _check_captum()
    from captum.attr import Occlusion

    side, channels = images.shape[2], images.shape[1]
    patch = max(SMALLEST_PATCH, round(side / PATCHES_ACROSS))
    with torch.no_grad():
        found: Tensor = Occlusion(network).attribute(
            images, target=target, sliding_window_shapes=(channels, patch, patch),
            strides=(channels, max(1, patch // 2), max(1, patch // 2)),
            baselines=images.mean(dim=(2, 3), keepdim=True).expand_as(images), perturbations_per_eval=PATCHES_AT_ONCE,
        )  # fmt: skip
    lower = found[0].mean(dim=0)
    return lower.where(lower > ROUNDING, 0.0)


METHODS: dict[str, Callable[[Classifier, Tensor, int], Tensor]] = {
    "Grad-CAM": grad_cam,
    "saliency": saliency,
    "occlusion": occlusion,
}


def _check_captum() -> None:
    try:
        import captum.attr  # noqa: F401
    except ImportError as error:
        raise UserError("attributions are Captum's, which is not installed: pip install captum") from error
