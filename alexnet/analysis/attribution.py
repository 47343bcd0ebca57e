"""Attribution maps: which pixels of an image matter for a class. Grad-CAM, saliency and occlusion, computed by Captum.

Grad-CAM weights the last feature maps by their mean gradient and keeps the positive part (Selvaraju et al. 2017).
Saliency is the magnitude of the gradient at each pixel, the maximum over channels (Simonyan, Vedaldi and Zisserman
2014). Occlusion is the drop of the logit when a patch is covered with the image's mean colour (Zeiler and Fergus 2014).
Captum is an optional dependency, the extra ``explain``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet.core.errors import UserError
from alexnet.models.classifier import Classifier

PATCHES_ACROSS = 8  # the side of a patch is an eighth of the image; patches overlap by half
SMALLEST_PATCH = 3
PATCHES_AT_ONCE = 32
ROUNDING = 1e-5  # a smaller drop of a logit in fp32 may be rounding


def attribute(network: Classifier, image: Tensor, target: int) -> dict[str, Tensor]:
    """Method → its map ``(S, S)`` fp32, not negative, of an ``image`` ``(C, S, S)`` for the class number ``target``.

    A copy of the network computes in fp32. Raises ``UserError`` where Captum is not installed.
    """
    network = copy.deepcopy(network).float().eval().requires_grad_(True)
    images = image[None].float().contiguous()
    return {name: method(network, images, target).detach() for name, method in METHODS.items()}


def grad_cam(network: Classifier, images: Tensor, target: int) -> Tensor:
    """Grad-CAM ``(S, S)`` of the last feature maps, interpolated to the size of the image. ``images``: ``(1, C, S,
    S)``.
    """
    _check_captum()
    from captum.attr import LayerGradCam

    layer = network.get_submodule(network.last_conv_output())
    coarse = LayerGradCam(network, layer).attribute(images, target=target, relu_attributions=True)
    return F.interpolate(coarse, size=images.shape[2:], mode="bilinear", align_corners=False)[0, 0]


def saliency(network: Classifier, images: Tensor, target: int) -> Tensor:
    """The largest absolute gradient over the channels of each pixel, ``(S, S)``. ``images``: ``(1, C, S, S)``."""
    _check_captum()
    from captum.attr import Saliency

    found: Tensor = Saliency(network).attribute(images.clone().requires_grad_(True), target=target, abs=True)
    return found[0].amax(dim=0)


def occlusion(network: Classifier, images: Tensor, target: int) -> Tensor:
    """The drop of the class's logit, averaged over the patches that cover a pixel, ``(S, S)``. ``images``: ``(1, C, S,
    S)``.
    """
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
    drop = found[0].mean(dim=0)
    return drop.where(drop > ROUNDING, 0.0)


METHODS: dict[str, Callable[[Classifier, Tensor, int], Tensor]] = {
    "Grad-CAM": grad_cam,
    "saliency": saliency,
    "occlusion": occlusion,
}


def _check_captum() -> None:
    try:
        import captum.attr  # noqa: F401
    except ImportError as error:
        raise UserError("attribution maps need Captum, which is not installed: pip install captum") from error
