"""The layers that AlexNet needs and a library does not have as its authors meant them.

Convolutions that round their output up or pad one side more than the other, normalization inside a map, dropout whose
masks are inputs, and the five ways in which published AlexNets start. Normalization across maps: ``response_norm.py``.
Convolutions and linear layers have a second, faster form for CPUs without wide vectors, unless they are ``plain``;
convolutions have a third for predictors.

Sources: "paper" is Krizhevsky, Sutskever and Hinton, "ImageNet Classification with Deep Convolutional Neural Networks"
(NIPS 2012); "cuda-convnet" is the code that its authors ran, released by the Computer History Museum in 2025.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet.core.randomness import derive_key
from alexnet.kernels import prepacked as packing
from alexnet.kernels import winograd

Padding = int | Literal["ceil", "same"]
DropoutScaling = Literal["train", "test"]
Initialisation = Literal["gaussian", "xavier", "glorot", "he", "torch"]
Masks = Mapping[str, Tensor]


def padding_amounts(size: int, kernel: int, stride: int, padding: Padding) -> tuple[int, int]:
    """Zeros before and after one axis of ``size`` pixels.

    ``"ceil"``: as many below and right as the last window needs, ceil((n − k)/s)·s + k − n, which is −(n − k) mod s
    (cuda-convnet, ``layer.py``: output sizes are rounded up and pixels outside read as 0). ``"same"``: TensorFlow's
    and Keras's rule, the output is ceil(n/s) and the odd zero goes below and right.
    """
    if padding == "ceil":
        return 0, -(size - kernel) % stride if size >= kernel else 0
    if padding == "same":
        total = max(0, (math.ceil(size / stride) - 1) * stride + kernel - size)
        return total // 2, total - total // 2
    return padding, padding


def pad(x: Tensor, kernel: int, stride: int, padding: Padding) -> Tensor:
    """``x`` ``(N, C, H, W)`` with the zeros that a ``padding`` with a name asks for; as it is where that is a number,
    which convolutions add themselves.
    """
    if not isinstance(padding, str):
        return x
    top, bottom = padding_amounts(x.shape[2], kernel, stride, padding)
    left, right = padding_amounts(x.shape[3], kernel, stride, padding)
    return F.pad(x, (left, right, top, bottom))


def window_count(size: int, kernel: int, stride: int, *, ceil: bool = False) -> int:
    """How many windows fit along an axis; with ``ceil`` a last, partly empty one counts too. 0 if not even one fits."""
    if size < kernel:
        return 0
    steps = (size - kernel) / stride
    return (math.ceil(steps) if ceil else math.floor(steps)) + 1


def multiplies_narrowly(x: Tensor) -> bool:
    """Whether products with ``x`` are a CPU's, in fp32 or fp64, by vectors of 256 bits: where the faster forms of
    convolutions and linear layers were found to be faster. There a product takes long beside the memory that it moves.
    """
    full = x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")
    return x.device.type == "cpu" and full and torch.backends.cpu.get_cpu_capability() == "AVX2"


class Conv2d(nn.Conv2d):
    """A convolution that also knows the paddings ``"ceil"`` and ``"same"`` (see :func:`padding_amounts`).

    ``(N, C, H, W)`` → ``(N, filters, H', W')``, floating point. The form for CPUs without wide vectors has a gradient
    of first order only: for second ones, or ``torch.func``, set ``plain``.
    """

    plain = False
    fixed = False  # whether its weights stay as they are and may be laid out once
    packed: packing.Packed | None = None  # for the shape that was seen last
    at_points: winograd.TransformedWeights | None = None  # for the filtering that was taken last

    def __init__(self, channels: int, filters: int, kernel: int, stride: int, padding: Padding, groups: int) -> None:
        symmetric = padding if isinstance(padding, int) else 0
        super().__init__(channels, filters, kernel, stride, symmetric, groups=groups)
        self.rule: Padding = padding

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` → ``(N, filters, H', W')``, by Winograd's algorithm where that is faster."""
        x = pad(x, self.kernel_size[0], self.stride[0], self.rule)
        keeps = self.fixed and not torch.is_grad_enabled() and x.device.type == "cpu"
        filtering = self.filtering(x, winograd.KEPT if keeps else winograd.FILTER)
        if filtering is not None:
            return self._filter(x, filtering, keeps)
        if not keeps or not packing.can_pack(self, x):
            return super().forward(x)
        packed = self.packed  # once, for another thread may bring images of another size meanwhile
        if packed is None or packed.shape != x.shape:
            packed = self.packed = packing.pack(self, x.shape)
        return packing.convolve(self, x, packed)

    def _filter(self, x: Tensor, filtering: winograd.Filtering, keeps: bool) -> Tensor:
        """By Winograd's rule, with weights at its points that are made for this batch or kept."""
        assert self.bias is not None and isinstance(self.padding[0], int)
        if not keeps:
            return winograd.convolve(x, self.weight, self.bias, self.padding[0], self.groups, filtering)
        weights = self.at_points
        if weights is None or weights.filtering != filtering:
            weights = self.at_points = winograd.transform_weights(self.weight, self.groups, filtering)
        return winograd.convolve_with(x, weights, self.bias, self.padding[0])

    def fix_weights(self) -> None:
        """Predict with the weights as they are now, until they are loaded, moved or converted: what they are brought
        into, where that pays, is made once.
        """
        self.release_weights()
        self.fixed = True

    def release_weights(self) -> None:
        """Read the weights at each call again."""
        self.fixed, self.packed, self.at_points = False, None, None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.release_weights()
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call, no-any-return]

    def _load_from_state_dict(self, *arguments: Any) -> None:
        self.release_weights()
        super()._load_from_state_dict(*arguments)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy is made of: its weights are its own, and may change."""
        return {**self.__dict__, "fixed": False, "packed": None, "at_points": None}

    def filtering(self, x: Tensor, weight: float = winograd.FILTER) -> winograd.Filtering | None:
        """How ``x``, padded already where the rule is a name, is convolved faster than as it is written; if it can be.
        ``weight``: what one at a point costs (see :func:`winograd.choose`).

        >>> Conv2d(3, 96, 11, stride=4, padding=0, groups=1).filtering(torch.zeros(1, 3, 224, 224)) is None
        True
        """
        if self.plain or self.stride[0] > 1 or not multiplies_narrowly(x):
            return None
        taps = self.kernel_size[0]
        height, width = (side + 2 * int(self.padding[0]) - taps + 1 for side in x.shape[2:])
        channels, filters = self.in_channels // self.groups, self.out_channels // self.groups
        return winograd.choose(len(x), channels, filters, height, width, taps, weight)


class Linear(nn.Linear):
    """A linear layer whose weights are multiplied in blocks of rows, where torch's library (MKL) is slow with all rows
    at once: up to 2.5 times as fast on an AMD CPU (docs/log.md). ``(N, F)`` → ``(N, units)``; other shapes as in torch.
    """

    BLOCKS = 8
    LEAST = 64  # rows in a block: fewer are no matter for a matrix product
    plain = False

    def forward(self, x: Tensor) -> Tensor:
        """``x @ weight.T + bias``, in blocks where they pay."""
        blocks, images = math.gcd(self.BLOCKS, self.out_features), len(x)
        few = self.out_features < blocks * self.LEAST
        if self.plain or few or x.dim() != 2 or not images or not multiplies_narrowly(x):
            return super().forward(x)
        rows = self.weight.view(blocks, -1, self.in_features)
        if images == 1:  # a product with one vector is another routine, and faster with the vector on the left
            return torch.bmm(x.expand(blocks, 1, -1), rows.mT).view(1, -1) + self.bias
        return torch.bmm(rows, x.T.expand(blocks, -1, images)).view(-1, images).T + self.bias


def autocast_off(device: torch.device) -> AbstractContextManager[object]:
    """A context that keeps the precision it is given, on devices without autocast (torch's "meta") too."""
    available = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if available else contextlib.nullcontext()


class WithinChannelLRN(nn.Module):
    """cuda-convnet's ``rnorm``: x · (k + α/size² · Σ x²)^−β over a ``size`` × ``size`` window inside each map.

    The authors' network has one after conv2 that the paper does not mention (``layers-145.cfg``, ``cnorm2``).
    ``(N, C, H, W)`` → same shape and dtype.
    """

    def __init__(self, size: int, alpha: float, beta: float, k: float = 1.0) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, x: Tensor) -> Tensor:
        wide = x if x.dtype == torch.float64 else x.float()
        mean = F.avg_pool2d(wide.square(), self.size, 1, self.size // 2, count_include_pad=True)
        return (wide * (self.k + self.alpha * mean).pow(-self.beta)).to(x.dtype)

    def extra_repr(self) -> str:
        return f"size={self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


class AdaptivePool(nn.Module):
    """``nn.AdaptiveAvgPool2d`` as two small matrix products, whose gradient is deterministic on a GPU too.

    Output pixel i averages the rows ⌊i·H/side⌋ … ⌈(i + 1)·H/side⌉ − 1, and likewise the columns.
    ``(N, C, H, W)`` → ``(N, C, side, side)``, same dtype.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def weights(self, size: int, like: Tensor) -> Tensor:
        """``(side, size)``: the share of each input pixel in each output pixel."""
        output, pixel = torch.arange(self.side, device=like.device), torch.arange(size, device=like.device)
        first, end = output * size // self.side, -(-(output + 1) * size // self.side)
        inside = ((pixel >= first[:, None]) & (pixel < end[:, None])).to(like.dtype)
        return inside / inside.sum(dim=1, keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        with autocast_off(x.device):
            wide = x if x.dtype == torch.float64 else x.float()
            rows, columns = self.weights(x.shape[2], wide), self.weights(x.shape[3], wide)
            return (rows @ wide @ columns.T).to(x.dtype)

    def extra_repr(self) -> str:
        return f"side={self.side}"


class LocallyConnected(nn.Module):
    """A convolution whose filters and biases differ from place to place: 3 × 3 windows, stride 1, one zero around.

    ``(N, channels, side, side)`` → ``(N, filters, side, side)``. ``weight`` ``(side², filters, channels · 9)``,
    ``bias`` ``(side², filters)``.
    """

    KERNEL = 3

    def __init__(self, channels: int, filters: int, side: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(side**2, filters, channels * self.KERNEL**2))
        self.bias = nn.Parameter(torch.empty(side**2, filters))

    def forward(self, x: Tensor) -> Tensor:
        windows = F.unfold(x, self.KERNEL, padding=1).permute(2, 0, 1)  # (side², N, channels · 9)
        y = torch.baddbmm(self.bias[:, None, :], windows, self.weight.transpose(1, 2))  # (side², N, filters)
        return y.permute(1, 2, 0).reshape(len(x), -1, x.shape[2], x.shape[3])


class Dropout(nn.Module):
    """Dropout that takes its mask as an input, so that a training step is a function of what it is given.

    ``scaling``: ``"train"`` divides the kept units by the keep rate while training (what libraries do); ``"test"``
    multiplies by it afterwards (paper §4.2, cuda-convnet). Never both. Without a mask it draws one from torch's global
    generator, as any library layer does.
    """

    def __init__(self, p: float, scaling: DropoutScaling = "train") -> None:
        super().__init__()
        self.p = p
        self.scaling: DropoutScaling = scaling

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``x`` ``(N, F)``; ``mask`` ``(N, F)`` bool, True where a unit is kept, used in training only."""
        keep = 1.0 - self.p
        if not self.training:
            return x * keep if self.scaling == "test" else x
        if mask is None:
            mask = torch.rand(x.shape, device=x.device) >= self.p
        return x * mask if self.scaling == "test" else x * mask * (1.0 / keep)

    def extra_repr(self) -> str:
        return f"p={self.p}, scaling={self.scaling!r}"


def draw_masks(
    sites: Mapping[str, tuple[int, float]], images: int, seed: int, step: int, device: torch.device
) -> dict[str, Tensor]:
    """The dropout masks of one step, for the whole global batch, keyed by (seed, step, site).

    ``sites``: site → (units, drop rate). Returns site → ``(images, units)`` bool, True where kept.
    """
    masks = {}
    for site, (units, rate) in sites.items():
        generator = torch.Generator(device).manual_seed(derive_key(seed, "dropout", step, site))
        masks[site] = torch.rand((images, units), generator=generator, device=device) >= rate
    return masks


def initialise_layer(
    layer: nn.Conv2d | nn.Linear | LocallyConnected,
    name: str,
    scheme: Initialisation,
    std: float,
    bias: float,
    seed: int,
) -> None:
    """Fill a layer's weights and biases in place; each tensor's draws are keyed by (seed, its name).

    ``"gaussian"``: weights N(0, ``std``²), biases ``bias`` (paper §5). ``"xavier"`` and ``"glorot"``: Glorot and
    Bengio's uniform rule (2010), with torch's biases and with zeros. ``"he"``: He et al.'s normal rule for ReLU
    (2015, fan-in). ``"torch"``: what ``nn.Conv2d`` and ``nn.Linear`` do by themselves, uniform within 1/√fan-in,
    biases too.
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
