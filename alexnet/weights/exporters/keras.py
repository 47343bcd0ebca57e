"""A network as a ``.keras`` file, which Keras 3 loads with any backend and without code of this program.

The file's input is ``(N, S, S, C)`` fp32, preprocessed as for our network; its output is the logits. Keras writes the
file and checks it in a child process with the backend torch (``keras_child.py``), so that neither Keras nor its
settings enter this process. Where Keras computes otherwise, the same function is written with what it has:

* Padding with other zeros than Keras's "same": a ``ZeroPadding2D`` before the layer.
* Pools that round up: padding "same" where it adds pixels at the end only; zeros where no value is negative.
* Local response normalization: the squares, a fixed 1 × 1 convolution that gives k + a · Σ x² over neighbouring
  channels, ``keras.ops.power`` and a product. Within a channel, a padded average pool takes the convolution's place.
* Dropout that halves in evaluation: the factor is in the weights of the next layer.

Kernels become H, W, in, out; fc6's inputs become row, column, channel, because Keras flattens channels-last maps.
"""

from __future__ import annotations

import importlib.util
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alexnet.core.errors import UserError
from alexnet.core.files import sync
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
from alexnet.weights.child import call
from alexnet.weights.export import ExportOptions, NotInstalledError
from alexnet.weights.exporters.common import InexpressibleError, why_inexpressible

SUFFIX = ".keras"
CHILD = "alexnet.weights.exporters.keras_child"
SECONDS = 900
ENVIRONMENT = {"KERAS_BACKEND": "torch", "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
NOT_INSTALLED = "Keras is not installed (pip install 'alexnet[keras]')"
Step = dict[str, Any]


def why_not(model: Classifier, options: ExportOptions) -> str | None:
    """Why Keras cannot express this network or these options, as the rest of a sentence; None if it can."""
    if options.int8:
        return "Keras files with int8 weights are not written; export to onnx with --int8"
    if options.pixels:
        return "the crop and the normalization are not written into Keras files; the input is preprocessed"
    return why_inexpressible(_steps(model))


def write(model: Classifier, path: Path, options: ExportOptions) -> list[Path]:
    """Write the file at ``path``, atomically.

    Raises ``OSError``, and ``UserError`` if Keras is not installed or fails.
    """
    _check_installed()
    steps: list[Step] = []
    tensors: dict[str, Tensor] = {}
    for step, parts in _steps(model):
        steps.append(step)
        tensors |= {f"{step['name']}.{part}": tensor for part, tensor in parts.items()}
    sides = [model.image_size, model.image_size, model.in_channels]
    description = {"name": model.variant.replace("-", "_"), "input": sides, "steps": steps}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.keras")
    try:
        temporary.touch(exist_ok=False)  # an OSError if the folder cannot be written
        _call("write", temporary, description, tensors)
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)
    return [path]


def outputs(paths: list[Path], images: Tensor) -> Tensor:
    """The logits ``(N, classes)`` that Keras computes for fp32 images ``(N, C, S, S)``.

    Raises :class:`~alexnet.weights.export.NotInstalledError` without Keras.
    """
    _check_installed()
    tensors, _ = _call("predict", paths[0], None, {"images": images.float().permute(0, 2, 3, 1).contiguous()})
    return tensors["logits"]


def _check_installed() -> None:
    if importlib.util.find_spec("keras") is None:
        raise NotInstalledError(NOT_INSTALLED)


def _call(function: str, path: Path, arguments: object, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], Any]:
    try:
        return call(f"{CHILD}:{function}", path, arguments, tensors, ENVIRONMENT, memory=None, seconds=SECONDS)
    except UserError as error:
        raise UserError(f"Keras failed to {function} {path.name}", [error.line, *error.details]) from error


def _steps(model: Classifier) -> Iterator[tuple[Step, dict[str, Tensor]]]:
    """The layers in forward order: (what Keras needs to know, arrays by their names in ``keras_child.py``)."""
    layers: list[tuple[str, nn.Module, tuple[int, ...]]] = []
    run_on_meta(model, lambda name, module, output: layers.append((name, module, tuple(output.shape[1:]))))
    shape: tuple[int, ...] = (model.in_channels, model.image_size, model.image_size)
    factor, is_positive = 1.0, False  # of dropout in evaluation; whether no value can be negative
    maps: tuple[int, ...] | None = None
    for name, module, output in layers:
        match module:
            case nn.Conv2d():
                yield _conv(name, module, shape[-1])
                is_positive = False
            case nn.Linear():
                yield _linear(name, module, factor, maps)
                factor, maps, is_positive = 1.0, None, False
            case nn.BatchNorm2d():
                yield _batch_norm(name, module)
                is_positive = False
            case nn.ReLU() | nn.Tanh() | nn.Sigmoid():
                yield {"op": "activation", "name": name, "kind": type(module).__name__.lower()}, {}
                is_positive = not isinstance(module, nn.Tanh)
            case LocalResponseNorm():
                a = module.alpha if module.convention == "sum" else module.alpha / module.size
                step = {"op": "lrn", "name": name, "beta": module.beta, "groups": module.groups}
                yield step, {"kernel": _band(shape[0], module, a), "bias": torch.full((shape[0],), float(module.k))}
            case WithinChannelLRN():
                settings = {key: getattr(module, key) for key in ("size", "alpha", "beta", "k")}
                yield {"op": "within-channel-lrn", "name": name, **settings}, {}
            case nn.MaxPool2d() | nn.AvgPool2d():
                yield _pool(name, module, shape[-1], is_positive), {}
            case AdaptiveAvgPool():
                if shape[-1] != module.side and shape[-1] % module.side == 0:
                    yield _pool(name, nn.AvgPool2d(shape[-1] // module.side), shape[-1], is_positive), {}
                elif shape[1:] != (module.side, module.side):
                    raise InexpressibleError(
                        f"Keras has no adaptive pool, and the maps before it have {shape[-1]} pixels"
                    )
            case nn.Flatten():
                maps = shape
                yield {"op": "flatten", "name": name}, {}
            case Dropout():
                factor *= 1 - module.p if module.scaling == "test" else 1.0
                yield {"op": "dropout", "name": name, "p": module.p}, {}
            case _:
                raise InexpressibleError(f"Keras has no layer for {name} ({type(module).__name__})")
        shape = output


def _conv(name: str, module: nn.Conv2d, side: int) -> tuple[Step, dict[str, Tensor]]:
    kernel, stride = module.kernel_size[0], module.stride[0]
    rule = module.pad_rule if isinstance(module, Conv2d) else int(module.padding[0])
    pads = padding_amounts(side, kernel, stride, rule)
    same = rule == "same" or pads == padding_amounts(side, kernel, stride, "same")
    step = {"op": "conv", "name": name, "filters": module.out_channels, "kernel": kernel, "stride": stride,
            "groups": module.groups, "same": same, "pads": list(pads)}  # fmt: skip
    return step, _parts(module.weight.permute(2, 3, 1, 0), module.bias)


def _linear(
    name: str, module: nn.Linear, factor: float, maps: tuple[int, ...] | None
) -> tuple[Step, dict[str, Tensor]]:
    weight = module.weight * factor
    if maps is not None:
        weight = weight.reshape(len(weight), *maps).permute(0, 2, 3, 1).flatten(1)
    return {"op": "dense", "name": name, "units": module.out_features}, _parts(weight.T, module.bias)


def _parts(kernel: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
    return {"kernel": kernel.detach().float().contiguous(), **({} if bias is None else {"bias": bias.detach().float()})}


def _batch_norm(name: str, module: nn.BatchNorm2d) -> tuple[Step, dict[str, Tensor]]:
    assert module.running_mean is not None
    assert module.running_var is not None
    values = (module.weight, module.bias, module.running_mean, module.running_var)
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    parts = {key: value.detach().float() for key, value in zip(names, values, strict=True)}
    return {"op": "batch-norm", "name": name, "epsilon": module.eps}, parts


def _band(channels: int, module: LocalResponseNorm, a: float) -> Tensor:
    """The kernel ``(1, 1, channels / groups, channels)`` that sums a · x over ``size`` neighbours within each group."""
    each = channels // module.groups
    place = torch.arange(each)
    distance = place[:, None] - place[None, :]  # of an input channel from the output channel
    near = (distance >= -(module.size // 2)) & (distance <= (module.size - 1) // 2)
    return (near * a).float().repeat(1, module.groups)[None, None]


def _pool(name: str, module: nn.MaxPool2d | nn.AvgPool2d, side: int, is_positive: bool) -> Step:
    kernel, stride, padding = (_one(value) for value in (module.kernel_size, module.stride, module.padding))
    is_max = isinstance(module, nn.MaxPool2d)
    down, up = (window_count(side + 2 * padding, kernel, stride, ceil=ceil) for ceil in (False, True))
    more = (up - 1) * stride + kernel - side - 2 * padding if module.ceil_mode and up > down else 0
    step = {"op": "max-pool" if is_max else "average-pool", "name": name, "kernel": kernel, "stride": stride}
    pads = (padding, padding + more)
    if pads == (0, 0):
        return {**step, "same": False, "pads": [0, 0]}
    if is_max and pads == padding_amounts(side, kernel, stride, "same"):
        return {**step, "same": True, "pads": [0, 0]}
    if is_max and is_positive:
        return {**step, "same": False, "pads": list(pads)}
    what = "average pool" if not is_max else "max pool of values that can be negative"
    raise InexpressibleError(f"Keras has no {what} with {pads[0]} pixels before and {pads[1]} behind the maps ({name})")


def _one(value: Any) -> int:
    return int(value[0] if isinstance(value, tuple) else value)
