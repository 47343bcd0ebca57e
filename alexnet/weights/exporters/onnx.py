"""Export to ONNX: one file for any batch size, in fp32 or with int8 weights and activations.

The graph is written by PyTorch's exporter, and constants are computed in advance. Weights keep their names and values;
batch normalization stays a node, as runtimes fold it themselves. The weights are inside the file. Variant, classes,
labels and preprocessing are in ``metadata_props`` (:mod:`alexnet.weights.metadata`).

int8: static quantization of ONNX Runtime, with ``QuantizeLinear``/``DequantizeLinear`` nodes, a scale for each output
channel of a weight, and ranges of activations from real images. Weights use 7 bits of the 8: processors without VNNI
add two products in 16 bits, which overflows with 8. On 10,000 images of Fashion-MNIST, 98.7 % of the answers stayed the
same with 8 bits and 99.6 % with 7. Source: Jacob et al. 2018, arXiv:1712.05877;
onnxruntime.ai/docs/performance/model-optimizations/quantization.html.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from alexnet.core.errors import UserError
from alexnet.core.files import write_bytes
from alexnet.models.classifier import Classifier
from alexnet.weights.export import ExportOptions, NotInstalledError, batches
from alexnet.weights.exporters.common import PixelNetwork, for_export
from alexnet.weights.metadata import describe

SUFFIX = ".onnx"
RUNTIME = "ONNX Runtime"
OPSET = 18
INPUT, OUTPUT, BATCH = "images", "logits", "batch"
CALIBRATION_BATCH = 16
QUANTIZED = ["Conv", "Gemm", "MatMul"]
LIMIT = 2**31 - 1  # bytes of a protocol buffer


def why_not(model: Classifier, options: ExportOptions) -> str | None:
    """Every network of less than 2 GiB can be written."""
    size = 4 * sum(parameter.numel() for parameter in model.state_dict().values())
    if size > 0.98 * LIMIT:
        return f"one ONNX file holds at most 2 GiB, and its weights need {size / 2**30:.1f} GiB"
    return None


def write(model: Classifier, path: Path, options: ExportOptions) -> list[Path]:
    """Write one file. Raises ``UserError`` if onnx or onnxscript is not installed."""
    _require(["onnx", "onnxscript"])
    proto = graph_of(model, options)
    if options.int8:
        _require(["onnxruntime"])
        proto = _quantized(proto, options)
    _add_metadata(proto, model, options)
    write_bytes(path, proto.SerializeToString())
    return [path]


def graph_of(model: Classifier, options: ExportOptions) -> Any:
    """The network as an ``onnx.ModelProto`` in fp32, with a dynamic batch size.

    Raises ``RuntimeError`` if the exporter fixed the batch size, which it does silently for code that needs it as a
    number.
    """
    network = for_export(model)
    side, channels = network.image_size, network.in_channels
    module: nn.Module = network
    images = torch.zeros(2, channels, side, side)
    if options.pixels:
        side = model.preprocessing.resize_size
        module, images = PixelNetwork(network), torch.zeros(2, side, side, channels, dtype=torch.uint8)
    with _quiet():
        program = torch.onnx.export(
            module, (images,), dynamo=True, opset_version=OPSET, input_names=[INPUT], output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim(BATCH)},), external_data=False, optimize=False, verbose=False,
        )  # fmt: skip
        assert program is not None
        _simplify(program.model)
        proto = program.model_proto
    shape = proto.graph.input[0].type.tensor_type.shape
    if len(proto.graph.input) != 1 or not shape.dim[0].dim_param:
        raise RuntimeError(f"the exported graph has a fixed batch size: {shape}")
    return proto


def _simplify(graph: Any) -> None:
    """Compute constants in advance. Weights keep their names and values: nothing is fused, and equal ones stay two."""
    from onnx_ir.passes import common
    from onnxscript import optimizer

    common.InlinePass()(graph)
    for _ in range(2):
        optimizer.fold_constants(graph, onnx_shape_inference=True)
        optimizer.remove_unused_nodes(graph)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(graph)
    common.CommonSubexpressionEliminationPass()(graph)
    common.RemoveUnusedNodesPass()(graph)


def _add_metadata(proto: Any, model: Classifier, options: ExportOptions) -> None:
    proto.producer_name = "alexnet"
    del proto.metadata_props[:]
    for key, value in describe(model, pixels=options.pixels).items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value


def _quantized(proto: Any, options: ExportOptions) -> Any:
    """The graph with int8 weights and activations; what comes before the first convolution stays fp32."""
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    if options.calibration is None or not len(options.calibration):
        raise UserError("int8 needs images from which it takes the ranges of activations: give --data SOURCE")
    images = options.calibration.numpy()

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            starts = range(0, len(images), CALIBRATION_BATCH)
            self.parts = iter([{INPUT: images[start : start + CALIBRATION_BATCH]} for start in starts])

        def get_next(self) -> dict[str, Any] | None:
            return next(self.parts, None)

    with tempfile.TemporaryDirectory() as folder, _quiet():
        plain, ready, done = (Path(folder) / f"{name}.onnx" for name in ("fp32", "ready", "int8"))
        plain.write_bytes(proto.SerializeToString())
        quant_pre_process(str(plain), str(ready), skip_symbolic_shape=True)
        nodes = onnx.load(ready).graph.node
        first = next(place for place, node in enumerate(nodes) if node.op_type == "Conv")
        quantization.quantize_static(
            str(ready), str(done), Reader(), quant_format=quantization.QuantFormat.QDQ, per_channel=True,
            op_types_to_quantize=QUANTIZED, activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8, reduce_range=True,
            nodes_to_exclude=[node.name for node in nodes[:first]],
        )  # fmt: skip
        return onnx.load(done)


def outputs(paths: list[Path], images: Tensor) -> Tensor:
    """The logits of ONNX Runtime on the CPU, in batches of several sizes."""
    if not importlib.util.find_spec("onnxruntime"):
        raise NotInstalledError("onnxruntime is not installed (pip install 'alexnet[onnx]')")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(paths[0].read_bytes(), options, providers=["CPUExecutionProvider"])
    found = [session.run([OUTPUT], {INPUT: batch.numpy()})[0] for batch in batches(images)]
    return torch.from_numpy(np.concatenate(found))


def _require(modules: list[str]) -> None:
    if missing := [name for name in modules if not importlib.util.find_spec(name)]:
        raise UserError(
            f"to export to ONNX, run pip install 'alexnet[onnx]': {' and '.join(missing)} cannot be imported"
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress and the warnings that the libraries print."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
