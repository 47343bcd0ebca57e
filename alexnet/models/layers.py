"""The layers of AlexNet that PyTorch does not provide in the form that the authors used.

They are convolutions with asymmetric padding or a rounded-up output size, local response normalization with both
conventions for α, normalization within a channel, dropout whose mask is an input, and the initializations of published
AlexNets. They are ordinary modules: they can be compiled, exported and differentiated twice. They are the reference for
``alexnet.kernels``, which replaces some of them by faster layers.

Branches on dtype or shape are in module-level functions marked ``torch.fx.wrap``. So tools that trace a network
symbolically (torchvision's feature extraction) treat each function as one operation.

Sources: "paper" is Krizhevsky, Sutskever and Hinton, "ImageNet Classification with Deep Convolutional Neural Networks"
(NIPS 2012); "cuda-convnet" is the code that its authors ran, released by the Computer History Museum in 2025.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from typing import Literal

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet.core.randomness import derive_key

Padding = int | Literal["ceil", "same"]
AlphaConvention = Literal["sum", "mean"]
DropoutScaling = Literal["train", "test"]
Initialisation = Literal["gaussian", "xavier", "glorot", "he", "torch"]
Masks = Mapping[str, Tensor]
MASK_BITS = 24


def padding_amounts(size: int, kernel: int, stride: int, padding: Padding) -> tuple[int, int]:
    """The number of zeros before and after one axis of n = ``size`` pixels.

    ``"ceil"``: zeros after the axis only, as many as the last window needs: ceil((n − k)/s)·s + k − n, which is
    −(n − k) mod s (cuda-convnet, ``layer.py``: output sizes are rounded up, pixels outside the image are 0).
    ``"same"``: the rule of TensorFlow and Keras; the output has ceil(n/s) pixels, and an odd number of zeros has the
    extra one after the axis. A number: this many zeros on each side.
    """
    if padding == "ceil":
        return 0, -(size - kernel) % stride if size >= kernel else 0
    if padding == "same":
        total = max(0, (math.ceil(size / stride) - 1) * stride + kernel - size)
        return total // 2, total - total // 2
    return padding, padding


def window_count(size: int, kernel: int, stride: int, *, ceil: bool = False) -> int:
    """How many windows fit along an axis of ``size`` pixels, 0 if none fits.

    ``ceil``: a last, partly empty window counts too.
    """
    if size < kernel:
        return 0
    steps = (size - kernel) / stride
    return (math.ceil(steps) if ceil else math.floor(steps)) + 1


def pad(x: Tensor, kernel: int, stride: int, padding: Padding) -> Tensor:
    """``x`` ``(N, C, H, W)`` with the zeros that ``"ceil"`` or ``"same"`` adds.

    If ``padding`` is a number, ``x`` is returned unchanged, because the convolution adds these zeros itself.
    """
    if not isinstance(padding, str):
        return x
    top, bottom = padding_amounts(x.shape[2], kernel, stride, padding)
    left, right = padding_amounts(x.shape[3], kernel, stride, padding)
    return F.pad(x, (left, right, top, bottom))


def at_least_fp32(x: Tensor) -> Tensor:
    """``x`` in fp32, or unchanged if it is float64."""
    return x if x.dtype == torch.float64 else x.float()


def local_response_norm(
    x: Tensor, size: int, alpha: float, beta: float, k: float, convention: AlphaConvention, groups: int
) -> Tensor:
    """X · (k + a · Σ x²)^−β over ``size`` neighbouring channels (paper §3.3); see :class:`LocalResponseNorm`.

    ``(N, C, H, W)`` → same shape and dtype, computed in at least fp32.
    """
    a = alpha if convention == "sum" else alpha / size
    images, channels, *sides = x.shape
    grouped = at_least_fp32(x).reshape(images, groups, channels // groups, *sides)
    squares = F.pad(grouped.square(), (0, 0, 0, 0, size // 2, (size - 1) // 2))
    total = torch.zeros_like(grouped)
    for shift in range(size):
        total = total + squares.narrow(2, shift, grouped.shape[2])
    return (grouped * (k + a * total) ** -beta).reshape(x.shape).to(x.dtype)


def within_channel_lrn(x: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    """X · (k + α/size² · Σ x²)^−β over ``size`` × ``size`` pixels of the same channel; see
    :class:`WithinChannelLRN`.
    """
    wide = at_least_fp32(x)
    mean = F.avg_pool2d(wide.square(), size, 1, size // 2, count_include_pad=True)
    return (wide * (k + alpha * mean).pow(-beta)).to(x.dtype)


def adaptive_average(x: Tensor, side: int) -> Tensor:
    """``(N, C, H, W)`` → ``(N, C, side, side)``, same dtype; see :class:`AdaptiveAvgPool`."""
    if x.shape[2:] == (side, side):
        return x
    with autocast_off(x.device):
        wide = at_least_fp32(x)
        rows, columns = (_averaging_weights(size, side, wide) for size in x.shape[2:])
        return (rows @ wide @ columns.T).to(x.dtype)


def _averaging_weights(size: int, side: int, like: Tensor) -> Tensor:
    """``(side, size)``: the share of each input pixel in each output pixel."""
    output, pixel = torch.arange(side, device=like.device), torch.arange(size, device=like.device)
    first, end = output * size // side, -(-(output + 1) * size // side)
    inside = ((pixel >= first[:, None]) & (pixel < end[:, None])).to(like.dtype)
    return inside / inside.sum(dim=1, keepdim=True)


def autocast_off(device: torch.device) -> AbstractContextManager[object]:
    """A context without autocast; it also works on devices that do not support autocast, such as "meta"."""
    available = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if available else contextlib.nullcontext()


def apply_dropout(x: Tensor, mask: Tensor | None, p: float, scaling: DropoutScaling, training: bool) -> Tensor:
    """Dropout of ``x`` ``(N, F)`` with a mask ``(N, F)`` bool; None draws one from torch's global generator.

    See :class:`Dropout`.
    """
    keep = 1.0 - p
    if not training:
        return x * keep if scaling == "test" else x
    if mask is None:
        mask = torch.rand(x.shape, device=x.device) >= p
    return x * mask if scaling == "test" else x * mask * (1.0 / keep)


for _name in ("pad", "local_response_norm", "within_channel_lrn", "adaptive_average", "apply_dropout"):
    torch.fx.wrap(_name)


class Conv2d(nn.Conv2d):
    """``nn.Conv2d`` that also takes the paddings ``"ceil"`` and ``"same"`` (see :func:`padding_amounts`).

    ``(N, C, H, W)`` → ``(N, filters, H', W')``, floating point.
    """

    def __init__(
        self, channels: int, filters: int, kernel: int, stride: int = 1, padding: Padding = 0, groups: int = 1
    ) -> None:
        symmetric = padding if isinstance(padding, int) else 0
        super().__init__(channels, filters, kernel, stride, symmetric, groups=groups)
        self.pad_rule: Padding = padding

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(pad(x, self.kernel_size[0], self.stride[0], self.pad_rule))

    def extra_repr(self) -> str:
        text: str = super().extra_repr()  # type: ignore[no-untyped-call]
        return text + (f", pad={self.pad_rule!r}" if isinstance(self.pad_rule, str) else "")


class LocalResponseNorm(nn.Module):
    """x · (k + a · Σ x²)^−β, where the sum is over ``size`` neighbouring channels (paper §3.3).

    A window of even size includes one more channel below the centre than above it, as in torch. ``convention``:
    ``"sum"``, α multiplies the sum of squares, a = α (the paper's text); ``"mean"``, α multiplies their mean,
    a = α/size (cuda-convnet, Caffe and ``torch.nn.LocalResponseNorm``). ``groups``: the channels are divided into this
    many groups, and no window crosses the border of a group.

    ``(N, C, H, W)`` → same shape and dtype, computed in at least fp32.
    """

    def __init__(
        self, size: int, alpha: float, beta: float, k: float, convention: AlphaConvention, groups: int
    ) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k
        self.convention: AlphaConvention = convention
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        return local_response_norm(x, self.size, self.alpha, self.beta, self.k, self.convention, self.groups)

    def extra_repr(self) -> str:
        meaning = f"alpha multiplies the {self.convention} of squares"
        return f"size={self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}, groups={self.groups}, {meaning}"


class WithinChannelLRN(nn.Module):
    """x · (k + α/size² · Σ x²)^−β, where the sum is over ``size`` × ``size`` pixels of the same channel.

    Caffe calls it ``WITHIN_CHANNEL``, cuda-convnet ``rnorm``. The authors' network has one after conv2 that the paper
    does not mention (``layers-145.cfg``, ``cnorm2``).
    ``(N, C, H, W)`` → same shape and dtype, computed in at least fp32.
    """

    def __init__(self, size: int, alpha: float, beta: float, k: float = 1.0) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, x: Tensor) -> Tensor:
        return within_channel_lrn(x, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        return f"size={self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


class AdaptiveAvgPool(nn.Module):
    """``nn.AdaptiveAvgPool2d`` as two small matrix products, whose gradient is deterministic on a GPU too.

    Output row i is the mean of the input rows ⌊i·H/side⌋ … ⌈(i + 1)·H/side⌉ − 1; columns likewise. Feature maps of
    ``side`` × ``side`` pixels are returned unchanged. ``(N, C, H, W)`` → ``(N, C, side, side)``, same dtype.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        return adaptive_average(x, self.side)

    def extra_repr(self) -> str:
        return f"side={self.side}"


class LocallyConnected(nn.Module):
    """A convolution with its own filters and biases for each pixel: 3 × 3 windows, stride 1, padding 1.

    ``(N, channels, side, side)`` → ``(N, filters, side, side)``. ``weight`` ``(side², filters, channels · 9)``,
    ``bias`` ``(side², filters)``.
    """

    KERNEL = 3

    def __init__(self, channels: int, filters: int, side: int) -> None:
        super().__init__()
        self.filters, self.side = filters, side
        self.weight = nn.Parameter(torch.empty(side**2, filters, channels * self.KERNEL**2))
        self.bias = nn.Parameter(torch.empty(side**2, filters))

    def forward(self, x: Tensor) -> Tensor:
        windows = F.unfold(x, self.KERNEL, padding=1).permute(2, 0, 1)  # (side², N, channels · 9)
        y = torch.baddbmm(self.bias[:, None, :], windows, self.weight.transpose(1, 2))  # (side², N, filters)
        return y.permute(1, 2, 0).reshape(-1, self.filters, self.side, self.side)

    def extra_repr(self) -> str:
        return f"filters={self.filters}, side={self.side}, kernel={self.KERNEL}"


class Dropout(nn.Module):
    """Dropout that takes its mask as an input, so that a training step is a function of its inputs.

    ``p``: probability that a unit is set to 0. ``scaling``: ``"train"`` divides the kept units by the keep probability
    in training (as ``nn.Dropout``); ``"test"`` multiplies all units by it in evaluation (paper §4.2, cuda-convnet).
    Without a mask, one is drawn from torch's global generator, as in ``nn.Dropout``. ``site``: the name of its mask in
    the ``masks`` of a network's forward pass.
    """

    def __init__(self, p: float, scaling: DropoutScaling = "train", site: str = "") -> None:
        super().__init__()
        self.p, self.site = p, site
        self.scaling: DropoutScaling = scaling

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``x`` ``(N, F)``; ``mask`` ``(N, F)`` bool, True where a unit is kept, used in training mode only."""
        return apply_dropout(x, mask, self.p, self.scaling, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}, scaling={self.scaling!r}"


def dropout_keys(sites: Collection[str], seed: int, step: int) -> list[int]:
    """The keys of the dropout masks of one training step, one for each layer with dropout, in the order of ``sites``.

    They depend on (seed, step, layer) only, and are below 2⁶³.
    """
    return [derive_key(seed, "dropout", step, site) for site in sites]


def draw_masks(
    sites: Mapping[str, tuple[int, float]], images: int, seed: int, step: int, device: torch.device
) -> dict[str, Tensor]:
    """The dropout masks of one training step for the global batch; they depend on (seed, step, layer) only.

    ``sites``: layer with dropout → (units, dropout probability). Returns layer → ``(images, units)`` bool, True where a
    unit is kept.
    """
    return masks_of_keys(sites, images, torch.tensor(dropout_keys(sites, seed, step), dtype=torch.int64, device=device))


def masks_of_keys(sites: Mapping[str, tuple[int, float]], images: int, keys: Tensor) -> dict[str, Tensor]:
    """The masks of :func:`draw_masks` from the keys of :func:`dropout_keys` ``(sites,)`` int64, on their device.

    On a CPU, torch's generator draws them. On other devices its numbers differ from one kind of GPU to another, so
    :func:`counter_mask` computes the masks there.
    """
    masks = {}
    for (site, (units, p)), key in zip(sites.items(), keys, strict=True):
        if uses_counters(keys.device):
            masks[site] = counter_mask(key, images, units, p, keys.device)
            continue
        generator = torch.Generator(keys.device).manual_seed(int(key))
        masks[site] = torch.rand((images, units), generator=generator, device=keys.device) >= p
    return masks


def uses_counters(device: torch.device) -> bool:
    """Whether dropout masks on a device are hashes of counters."""
    return device.type != "cpu"


def counter_mask(key: int | Tensor, images: int, units: int, p: float, device: torch.device) -> Tensor:
    """A dropout mask ``(images, units)`` bool whose values depend on (``key``, image, unit) only, on every device.

    Each value is the SplitMix64 hash of a counter (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number
    Generators", OOPSLA 2014), in 64-bit integer arithmetic that wraps around. ``p``: the probability of False, in steps
    of 2⁻²⁴. The key may be a 0-d int64 tensor on the device.
    """
    counter = torch.arange(1, images * units + 1, device=device)
    z = counter * _signed(0x9E3779B97F4A7C15) + (key if isinstance(key, Tensor) else _signed(key))
    z = (z ^ _shift_right(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shift_right(z, 27)) * _signed(0x94D049BB133111EB)
    z = z ^ _shift_right(z, 31)
    kept: Tensor = _shift_right(z, 64 - MASK_BITS) >= round(p * 2**MASK_BITS)
    return kept.view(images, units)


def _signed(number: int) -> int:
    """The signed 64-bit integer with the bits of ``number``."""
    number &= 2**64 - 1
    return number - 2**64 if number >= 2**63 else number


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """A logical shift of int64: zeros come in from the left."""
    shifted: Tensor = (x >> bits) & (2 ** (64 - bits) - 1)
    return shifted


def init_layer(
    layer: nn.Conv2d | nn.Linear | LocallyConnected,
    name: str,
    scheme: Initialisation,
    std: float,
    bias: float,
    seed: int,
) -> None:
    """Initialize a layer's weights and biases in place; each tensor depends on (seed, its name) only.

    ``"gaussian"``: weights N(0, ``std``²), biases ``bias`` (paper §5). ``"xavier"``: the uniform rule of Glorot and
    Bengio (2010), biases as ``"torch"``. ``"glorot"``: the same rule, biases 0. ``"he"``: the normal rule of He et al.
    for ReLU (2015, fan-in), biases 0. ``"torch"``: the defaults of ``nn.Conv2d`` and ``nn.Linear``, weights and biases
    uniform between −1/√fan-in and 1/√fan-in.
    """
    draws = torch.Generator().manual_seed(derive_key(seed, "initialise", f"{name}.weight"))
    match scheme:
        case "gaussian":
            nn.init.normal_(layer.weight, 0.0, std, generator=draws)
        case "xavier" | "glorot":
            nn.init.xavier_uniform_(layer.weight, generator=draws)
        case "he":
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=draws)
        case "torch":
            nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=draws)
    if layer.bias is None:
        return
    if scheme in ("xavier", "torch"):
        bound = 1 / math.sqrt(layer.weight[0].numel())
        draws = torch.Generator().manual_seed(derive_key(seed, "initialise", f"{name}.bias"))
        nn.init.uniform_(layer.bias, -bound, bound, generator=draws)
    else:
        nn.init.constant_(layer.bias, bias if scheme == "gaussian" else 0.0)
