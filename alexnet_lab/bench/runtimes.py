"""Other runtimes, if they are installed: ONNX Runtime in fp32, and OpenVINO in bf16 if the CPU multiplies it.

Each is configured as its documentation recommends. Both run the network of torch's own layers (``stock.py``), exported
to ONNX in the timed process, so that the same network is compared.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.runtime.device import DeviceConfig, resolve_device
from alexnet_lab.bench.comparison import Comparison
from alexnet_lab.bench.inference import comparison_with
from alexnet_lab.bench.interleaved import Candidate, Work
from alexnet_lab.bench.stock import network_of, stock_network
from alexnet_lab.bench.training import ready_images

CPU = torch.device("cpu")
Outputs = Callable[[NDArray[np.float32]], object]


def runtime_comparisons(variant: str, batch: int, precision: str) -> Iterator[Comparison]:
    """Inference of a batch on the CPU: our network in ``precision`` against each runtime that is installed."""
    for name, (modules, prepare, their_precision) in RUNTIMES.items():
        if all(importlib.util.find_spec(module) for module in modules):
            other = Candidate(prepare, (variant, batch))
            beside = f"{name}, {resolve_device(CPU.type, their_precision).precision}"
            yield comparison_with(beside, other, variant, batch, precision, CPU.type)


def onnx_runtime_outputs(variant: str, batch: int) -> tuple[DeviceConfig, Work]:
    """Inference with ONNX Runtime on the CPU, with as many threads as torch."""
    runtime: Any = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(exported(variant), options, providers=["CPUExecutionProvider"])
    (name,) = (value.name for value in session.get_inputs())
    return DeviceConfig(CPU, bf16=False), _outputs(lambda images: session.run(None, {name: images}), variant, batch)


def openvino_outputs(variant: str, batch: int) -> tuple[DeviceConfig, Work]:
    """Inference with OpenVINO on the CPU: hint for latency, as many threads as torch, inputs not copied."""
    openvino: Any = importlib.import_module("openvino")
    core = openvino.Core()
    hints = {"INFERENCE_PRECISION_HINT": "bf16", "PERFORMANCE_HINT": "LATENCY"}
    hints["INFERENCE_NUM_THREADS"] = str(torch.get_num_threads())
    model = core.read_model(io.BytesIO(exported(variant)))
    compiled = core.compile_model(model, "CPU", hints)
    device_config = DeviceConfig(CPU, bf16=compiled.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.bf16)
    request = compiled.create_infer_request()
    return device_config, _outputs(lambda images: request.infer({0: images}, True), variant, batch)


RUNTIMES: dict[str, tuple[tuple[str, ...], Callable[[str, int], tuple[DeviceConfig, Work]], str]] = {
    "ONNX Runtime": (("onnx", "onnxruntime"), onnx_runtime_outputs, "fp32"),
    "OpenVINO": (
        ("onnx", "openvino"),
        openvino_outputs,
        "auto",
    ),  # without bf16 in hardware it uses fp32, as this package does
}
"""Name → the modules that it needs, its ``prepare`` function, and its precision, as :func:`resolve_device` takes it."""


def exported(variant: str) -> bytes:
    """The network of torch's layers as an ONNX file, for any batch size."""
    network = network_of(variant)
    images, _ = ready_images(1, network.image_size, network.in_channels, 1, CPU)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the older exporter warns; it needs no package but onnx
        path = Path(folder) / "network.onnx"
        torch.onnx.export(
            stock_network(network.eval()), (images,), path, dynamo=False, dynamic_axes={"images": {0: "n"}},
            input_names=["images"],
        )  # fmt: skip
        return path.read_bytes()


def _outputs(run: Outputs, variant: str, batch: int) -> Iterator[int]:
    network = network_of(variant)
    images = ready_images(batch, network.image_size, network.in_channels, 1, CPU)[0].numpy()
    while True:
        run(images)
        yield batch
