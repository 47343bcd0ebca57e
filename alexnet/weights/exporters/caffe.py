"""A network as Caffe's files: ``NAME.caffemodel`` (weights), ``NAME.prototxt`` (description) and, if the network
subtracts a mean image, ``NAME.binaryproto``.

The input that the files expect is Caffe's: BGR pixels (or grey ones) from 0 to 255 minus a mean. The comment at the top
of the prototxt states it. So RGB becomes BGR in the weights of conv1, and a ``Scale`` layer before it divides by the
standard deviation. The blob ``fc8`` (the last linear layer) has the logits, ``prob`` the probabilities.

The ``.caffemodel`` also has the network's description (``metadata.py``), in a field that Caffe does not know and passes
over. Our reader finds the variant, the preprocessing, the mean image and the classes in it; the weights that it reads
are equal to those that were exported.

Where Caffe computes otherwise, the same function is written with what it has:

* Dropout that halves in evaluation: the factor is in the weights of the next layer.
* α that multiplies the sum of squares: α · size, because Caffe divides by the size.
* k of response normalization: x · (k + a·s)^−β = k^−β · x · (1 + a/k · s)^−β, a ``Power`` layer has the first factor.
  Caffe has k, but OpenCV takes it as 1 without a warning.
* Response normalization in groups: ``Slice``, one layer for each group, ``Concat``.
* Pools that round down where Caffe's, which round up, would have one window more: ``Slice`` cuts off the pixels that no
  window of ours reaches. (Caffe has ``round_mode`` since 2018; OpenCV and older versions refuse it.)
* Padding with more zeros after than before: the larger number on both sides, and a kernel with as many more rows and
  columns of zeros at its beginning.

OpenCV's importer is the other side of the check. Source of fields and numbers: ``caffe.proto`` of BVLC/caffe.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet.core.errors import UserError
from alexnet.core.files import write_bytes, write_text
from alexnet.core.names import printable
from alexnet.models.classifier import Classifier, run_on_meta
from alexnet.models.layers import (
    AdaptiveAvgPool,
    Conv2d,
    Dropout,
    LocalResponseNorm,
    WithinChannelLRN,
    padding_amounts,
    window_count,
)
from alexnet.weights.caffe_blobs import DESCRIPTION, LAYER, blob
from alexnet.weights.export import ExportOptions, NotInstalledError
from alexnet.weights.exporters.common import InexpressibleError, why_inexpressible
from alexnet.weights.metadata import describe
from alexnet.weights.protobuf import Chunks, field, message

SUFFIX = ".caffemodel"
BESIDE = (".prototxt", ".binaryproto")  # the suffixes of the other files
RUNTIME = "OpenCV"
DATA, PROBABILITIES = "data", "prob"
NOT_INSTALLED = "OpenCV below 5 is not installed (pip install 'opencv-python-headless<5')"
SCALED = "data_scaled"
DIVISION = re.compile(rf"^# The layer {SCALED} divides the channels by: (.+)$", re.MULTILINE)
OUTPUT = re.compile(r'^# Outputs: the blob "(\S+)" has the logits', re.MULTILINE)
CHOICES = {"MAX": 0, "AVE": 1, "WITHIN_CHANNEL": 1}
"""The names of choices in the text, and their numbers."""
FIELDS: Mapping[str, tuple[int, Mapping[str, int]]] = {
    "batch_norm_param": (139, {"eps": 3}),
    "convolution_param": (106, {"num_output": 1, "pad": 3, "kernel_size": 4, "group": 5, "stride": 6}),
    "dropout_param": (108, {"dropout_ratio": 1}),
    "inner_product_param": (117, {"num_output": 1}),
    "input_param": (143, {"shape": 1}),
    "lrn_param": (118, {"local_size": 1, "alpha": 2, "beta": 3, "norm_region": 4}),
    "pooling_param": (121, {"pool": 1, "kernel_size": 2, "stride": 3}),
    "power_param": (122, {"scale": 2}),
    "scale_param": (142, {"bias_term": 4}),
    "slice_param": (126, {"slice_point": 2, "axis": 3}),
    "transform_param": (100, {"crop_size": 3, "mean_file": 4, "mean_value": 5}),
}
"""A layer's message → its number in ``LayerParameter``, and the numbers of its fields."""


@dataclass(frozen=True)
class _Layer:
    """A layer of Caffe. ``settings``: message → field → value, values or the name of a choice."""

    name: str
    type: str
    bottom: tuple[str, ...]
    top: tuple[str, ...]
    settings: Mapping[str, Mapping[str, Any]]
    blobs: tuple[Tensor, ...] = ()


def why_not(model: Classifier, options: ExportOptions) -> str | None:
    """Why Caffe cannot express this network or these options, as the rest of a sentence; None if it can."""
    if options.int8:
        return "Caffe has no int8 weights"
    if options.pixels:
        return "Caffe has no layer that crops and normalizes an image; the prototxt states the input"
    return why_inexpressible(_layers(model, ""))


def write(model: Classifier, path: Path, options: ExportOptions) -> list[Path]:
    """Write the ``.caffemodel`` at ``path``, and the other files beside it under the same name. Raises ``OSError``."""
    mean_path = path.with_suffix(".binaryproto")
    layers = list(_layers(model, mean_path.name))
    parts = [field(1, printable(model.variant)), *(field(LAYER, _encoded(layer)) for layer in layers)]
    parts += [field(DESCRIPTION, message([field(1, key), field(2, text)])) for key, text in describe(model).items()]
    write_bytes(path, b"".join(message(parts)))
    description = path.with_suffix(".prototxt")
    text = "".join(map(_text, layers))
    write_text(description, f'{_comment(model, mean_path.name)}name: "{printable(model.variant)}"\n{text}')
    if model.mean_image is None:
        return [path, description]
    mean = model.mean_image.permute(2, 0, 1).flip(0)[None]
    write_bytes(mean_path, b"".join(blob(mean.contiguous().numpy())))
    return [path, description, mean_path]


def outputs(paths: list[Path], images: Tensor) -> Tensor:
    """The logits ``(N, classes)`` that OpenCV computes from the files for our fp32 images ``(N, C, S, S)``.

    Raises :class:`NotInstalledError` without OpenCV below 5, and ``UserError`` if it refuses the files.
    """
    try:
        import cv2
    except ImportError as error:
        raise NotInstalledError(NOT_INSTALLED) from error
    if not hasattr(cv2.dnn, "readNetFromCaffe"):  # OpenCV 5 has none
        raise NotInstalledError(NOT_INSTALLED)
    weights, description = (np.frombuffer(path.read_bytes(), np.uint8) for path in paths[:2])
    text = paths[1].read_text(encoding="utf-8")
    divided = DIVISION.search(text)
    if divided:
        images = images * torch.tensor([float(value) for value in divided[1].split()]).flip(0)[:, None, None]
    output = OUTPUT.search(text)
    try:
        network = cv2.dnn.readNetFromCaffe(description, weights)
        rows = []
        for image in images.float().flip(1):
            network.setInput(image[None].contiguous().numpy())
            rows.append(network.forward(output[1] if output else None)[0].copy())
    except cv2.error as error:
        raise UserError(f"OpenCV cannot read {paths[1]}", str(error).splitlines()[:3]) from error
    return torch.from_numpy(np.stack(rows))


def _comment(model: Classifier, mean_name: str) -> str:
    """The lines at the top of the prototxt: what the network expects, and what it gives."""
    p, side = model.preprocessing, model.image_size
    channels = "BGR pixels" if model.in_channels == 3 else "Grey pixels"
    if model.mean_image is not None:
        place = "its centre" if p.pixel_normalization == "mean-image-centre" else "cropped like the image"
        mean = f"the mean image in {mean_name} ({place})"
    else:
        mean = "the mean " + " ".join(f"{value:.6g}" for value in p.mean[::-1])
    shape = "the aspect ratio changes" if p.resize == "warp" else "the centre square of the short side"
    lines = [
        f"The network {printable(model.variant)}, written by alexnet.",
        f"Input: {channels} from 0 to 255 minus {mean}, 1 x {model.in_channels} x {side} x {side}.",
        f"Images: resized to {p.resize_size} x {p.resize_size} ({shape}), the centre {p.crop} x {p.crop} cropped"
        + (f" and resized to {p.image_size} x {p.image_size}." if p.crop != p.image_size else "."),
        f'Outputs: the blob "{model.last_layer}" has the logits, "{PROBABILITIES}" the probabilities.',
    ]
    if any(value != 1 for value in p.std):
        values = " ".join(repr(value) for value in p.std[::-1])
        lines.append(f"The layer {SCALED} divides the channels by: {values}")
    return "".join(f"# {line}\n" for line in lines)


def _first_layer(model: Classifier) -> str:
    return next(name for name, module in model.named_children() if isinstance(module, nn.Conv2d | nn.Linear))


def _layers(model: Classifier, mean_name: str) -> Iterator[_Layer]:
    """The layers of Caffe, in forward order. Raises ``InexpressibleError``."""
    if model.in_channels not in (1, 3) or model.preprocessing.channels != model.in_channels:
        raise InexpressibleError(f"Caffe's images are grey or BGR, and this network takes {model.in_channels} channels")
    yield _input(model, mean_name)
    shapes: dict[str, tuple[int, ...]] = {}
    run_on_meta(model, lambda name, module, output: shapes.__setitem__(name, tuple(output.shape[1:])))
    shape: tuple[int, ...] = (model.in_channels, model.image_size, model.image_size)
    bottom, factor = DATA, 1.0
    if any(value != 1 for value in model.preprocessing.std):
        scales = torch.tensor([1 / value for value in model.preprocessing.std[::-1]])
        yield _Layer(SCALED, "Scale", (DATA,), (SCALED,), {"scale_param": {"bias_term": False}}, (scales,))
        bottom = SCALED
    first = _first_layer(model)
    for name, module in model.named_children():
        if isinstance(module, nn.Conv2d | nn.Linear):
            weight = module.weight.detach() * factor if factor != 1 else module.weight.detach()
            factor = 1.0
            if name == first:
                weight = _for_bgr(weight)
            parts = [_parametric(name, module, weight, bottom, shape)]
        elif isinstance(module, Dropout):
            factor = 1 - module.p if module.scaling == "test" else 1.0
            parts = [_Layer(name, "Dropout", (bottom,), (bottom,), {"dropout_param": {"dropout_ratio": module.p}})]
        else:
            parts = list(_without_weights(name, module, bottom, shape))
        yield from parts
        bottom = parts[-1].top[0] if parts else bottom
        shape = shapes[name]
    yield _Layer(PROBABILITIES, "Softmax", (bottom,), (PROBABILITIES,), {})


def _input(model: Classifier, mean_name: str) -> _Layer:
    shape = (1, model.in_channels, model.image_size, model.image_size)
    transform: dict[str, Any] = {"crop_size": model.image_size}
    if model.mean_image is not None:
        transform["mean_file"] = mean_name
    else:
        transform["mean_value"] = tuple(model.preprocessing.mean[::-1])
    settings = {"input_param": {"shape": shape}, "transform_param": transform}
    return _Layer(DATA, "Input", (), (DATA,), settings)


def _for_bgr(weight: Tensor) -> Tensor:
    if weight.ndim != 4:
        raise InexpressibleError("its first layer is no convolution")
    return weight.flip(1)


def _parametric(name: str, module: nn.Conv2d | nn.Linear, weight: Tensor, bottom: str, shape: Sequence[int]) -> _Layer:
    blobs = (weight,) if module.bias is None else (weight, module.bias.detach())
    if isinstance(module, nn.Linear):
        return _Layer(
            name, "InnerProduct", (bottom,), (name,), {"inner_product_param": {"num_output": len(weight)}}, blobs
        )
    kernel, stride, padding = module.kernel_size[0], module.stride[0], module.padding[0]
    if isinstance(module, Conv2d) and isinstance(module.pad_rule, str):
        before, after = padding_amounts(shape[1], kernel, stride, module.pad_rule)
        more = after - before
        weight, kernel, padding = F.pad(weight, (more, 0, more, 0)), kernel + more, after
        blobs = (weight, *blobs[1:])
    settings = {
        "num_output": len(weight), "pad": padding, "kernel_size": kernel, "group": module.groups, "stride": stride,
    }  # fmt: skip
    return _Layer(name, "Convolution", (bottom,), (name,), {"convolution_param": settings}, blobs)


def _without_weights(name: str, module: nn.Module, bottom: str, shape: Sequence[int]) -> Iterator[_Layer]:
    """The layers for a module of ours that is no convolution, linear layer or dropout."""
    match module:
        case nn.ReLU():
            yield _Layer(name, "ReLU", (bottom,), (bottom,), {})
        case nn.Sigmoid():
            yield _Layer(name, "Sigmoid", (bottom,), (bottom,), {})
        case nn.Tanh():
            yield _Layer(name, "TanH", (bottom,), (bottom,), {})
        case nn.MaxPool2d() | nn.AvgPool2d():
            yield from _pool(name, module, bottom, shape)
        case LocalResponseNorm():
            yield from _lrn(name, module, bottom, shape)
        case WithinChannelLRN():
            if module.k != 1:
                raise InexpressibleError("Caffe's normalization within a channel has k = 1")
            settings = {"local_size": module.size, "alpha": module.alpha, "beta": module.beta}
            settings["norm_region"] = "WITHIN_CHANNEL"  # type: ignore[assignment]
            yield _Layer(name, "LRN", (bottom,), (name,), {"lrn_param": settings})
        case nn.BatchNorm2d():
            yield from _batch_norm(name, module, bottom)
        case AdaptiveAvgPool() if tuple(shape[1:]) == (module.side, module.side):
            return
        case AdaptiveAvgPool() if shape[1] % module.side == 0:
            yield from _pool(name, nn.AvgPool2d(shape[1] // module.side), bottom, shape)
        case AdaptiveAvgPool():
            raise InexpressibleError(
                f"Caffe has no adaptive pool, and {name} makes {module.side} × {module.side} of {shape[1]} × {shape[2]}"
            )
        case nn.Flatten():
            return  # Caffe's linear layers flatten their input, channel, row, column
        case _:
            raise InexpressibleError(f"Caffe has no layer like {name}, a {type(module).__name__}")


def _pool(name: str, module: nn.MaxPool2d | nn.AvgPool2d, bottom: str, shape: Sequence[int]) -> Iterator[_Layer]:
    kernel, stride = int(module.kernel_size), int(module.stride)  # type: ignore[arg-type]
    size = shape[1]
    ours, theirs = (window_count(size, kernel, stride, ceil=ceil) for ceil in (module.ceil_mode, True))
    if ours != theirs:
        used = (ours - 1) * stride + kernel
        for axis, what in ((2, "rows"), (3, "columns")):
            parts = f"{name}_{what}", f"{name}_unused_{what}"
            yield _Layer(parts[0], "Slice", (bottom,), parts, {"slice_param": {"axis": axis, "slice_point": used}})
            yield _Layer(parts[1], "Silence", parts[1:], (), {})
            bottom = parts[0]
    kind = "MAX" if isinstance(module, nn.MaxPool2d) else "AVE"
    settings = {"pool": kind, "kernel_size": kernel, "stride": stride}
    yield _Layer(name, "Pooling", (bottom,), (name,), {"pooling_param": settings})


def _lrn(name: str, module: LocalResponseNorm, bottom: str, shape: Sequence[int]) -> Iterator[_Layer]:
    if module.size % 2 == 0:
        raise InexpressibleError(f"Caffe's response normalization needs an odd size, and {name} has {module.size}")
    alpha = module.alpha * (module.size if module.convention == "sum" else 1) / module.k
    settings = {"lrn_param": {"local_size": module.size, "alpha": alpha, "beta": module.beta}}
    parts = [f"{name}_part{number}" for number in range(1, module.groups + 1)]
    result = name if module.k == 1 else f"{name}_k1"
    if module.groups == 1:
        yield _Layer(result, "LRN", (bottom,), (result,), settings)
    else:
        yield _Layer(f"{name}_slice", "Slice", (bottom,), tuple(parts), {})  # the parts are equal
        for part in parts:
            yield _Layer(f"{part}_norm", "LRN", (part,), (f"{part}_norm",), settings)
        yield _Layer(result, "Concat", tuple(f"{part}_norm" for part in parts), (result,), {})
    if module.k != 1:
        yield _Layer(name, "Power", (result,), (name,), {"power_param": {"scale": module.k**-module.beta}})


def _batch_norm(name: str, module: nn.BatchNorm2d, bottom: str) -> Iterator[_Layer]:
    mean, variance = module.running_mean, module.running_var
    if mean is None or variance is None:
        raise InexpressibleError(f"{name} has no running mean and variance")
    statistics = mean.detach(), variance.detach(), torch.ones(1)
    yield _Layer(name, "BatchNorm", (bottom,), (name,), {"batch_norm_param": {"eps": module.eps}}, statistics)
    scales = module.weight.detach(), module.bias.detach()
    yield _Layer(f"{name}_scale", "Scale", (name,), (name,), {"scale_param": {"bias_term": True}}, scales)


def _encoded(layer: _Layer) -> Chunks:
    """The layer as a ``LayerParameter``."""
    parts = [field(1, layer.name), field(2, layer.type)]
    parts += [field(3, name) for name in layer.bottom] + [field(4, name) for name in layer.top]
    parts += [field(7, blob(array.float().contiguous().cpu().numpy())) for array in layer.blobs]
    for name, values in layer.settings.items():
        number, numbers = FIELDS[name]
        inside = [
            field(numbers[key], part)
            for key, value in values.items()
            for part in _parts(key, value, lambda dim: field(1, dim))
        ]
        parts.append(field(number, message(inside)))
    return message(parts)


def _parts(key: str, value: Any, dim: Callable[[int], Chunks]) -> list[Any]:
    """The values of a field: a shape is one message, a tuple several values, the name of a choice a number."""
    if key == "shape":
        return [message(map(dim, value))]
    values = value if isinstance(value, tuple) else (value,)
    return [
        CHOICES.get(part, part) if isinstance(part, str) else int(part) if part is True else part for part in values
    ]


def _text(layer: _Layer) -> str:
    """The layer as text of a prototxt."""
    lines = [f'name: "{layer.name}"', f'type: "{layer.type}"']
    lines += [f'bottom: "{name}"' for name in layer.bottom] + [f'top: "{name}"' for name in layer.top]
    for name, values in layer.settings.items():
        inside = [line for key, value in values.items() for line in _lines(key, value)]
        lines += [f"{name} {{", *(f"  {line}" for line in inside), "}"]
    return "layer {\n" + "".join(f"  {line}\n" for line in lines) + "}\n"


def _lines(key: str, value: Any) -> list[str]:
    if key == "shape":
        return [f"shape {{ {' '.join(f'dim: {size}' for size in value)} }}"]
    if isinstance(value, bool):
        return [f"{key}: {str(value).lower()}"]
    if isinstance(value, str):
        return [f"{key}: {value}" if value in CHOICES else f'{key}: "{value}"']
    values = value if isinstance(value, tuple) else (value,)
    return [f"{key}: {part!r}" for part in values]
