"""Weights and layers for C: a header, a binary file of weights, and a small program that runs the network.

``NAME.c`` is a reference in plain loops (``reference.c`` of this package): C99, no library but ``libm``. ``NAME.h``
holds the table of layers, every constant of each, and the table of tensors. ``NAME.bin`` holds the tensors one after
another; networks below ``EMBEDDED`` parameters have them as arrays in the header instead. With a golden image,
``NAME.golden.bin`` holds the input and the output of every layer, which ``NAME golden NAME.golden.bin`` compares with
its own.

int8: each filter (each output channel) is stored as int8 with one fp32 scale, symmetric: scale = max(abs(w)) / 127,
q = round(w / scale). Biases and batch normalization stay fp32, and so do all activations: the program computes with
weight = scale · q in fp32. The golden file of such an export is of the network with these weights.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
import shutil
import subprocess
import tempfile
import zlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alexnet.core.errors import UserError
from alexnet.core.files import write_bytes, write_text
from alexnet.core.names import printable
from alexnet.core.schema import to_json
from alexnet.models.classifier import Classifier
from alexnet.weights.export import ExportOptions, NotInstalledError
from alexnet.weights.golden import golden_outputs, raw_bytes
from alexnet.weights.layer_table import WITH_FILTERS, LayerRow, layer_table, unknown_layer

SUFFIX = ".c"
BESIDE = (".h", ".bin", ".golden.bin")  # the suffixes of the other files
RUNTIME = "cc"
EMBEDDED = 1_000_000
"""Networks with fewer parameters have their weights in the header."""
TOLERANCE = 1e-5
"""The largest difference from the golden output that the program accepts, over the layer's largest value."""
ALIGNMENT = 64  # bytes: the line of a cache, and what direct memory access usually asks for
COMPILER = "cc"
COMPILE = ("-O2", "-std=c99")
LIMIT = 2**31  # the program indexes with int

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*", re.ASCII)


@dataclass(frozen=True)
class StoredTensor:
    """One tensor as it is stored: fp32 or int8, C order. ``offset``: in bytes, in the file of weights."""

    name: str
    values: np.ndarray
    offset: int


@dataclass(frozen=True)
class StoredLayer:
    """A row of the table and where its tensors are: role → index; the role ``scales`` too if the weights are int8."""

    row: LayerRow
    tensors: dict[str, int]


def why_not(model: Classifier, options: ExportOptions) -> str | None:
    """Why C cannot hold this network or these options, as the rest of a sentence; None if it can."""
    if options.pixels:
        return "the program takes preprocessed fp32 images, not pixels; leave out --pixels"
    if reason := unknown_layer(model):
        return reason
    if any(not bool(tensor.isfinite().all()) for tensor in model.state_dict().values()):
        return "it has weights that are not finite"
    rows = layer_table(model)
    sizes = [size for row in rows for size in (np.prod(row.inputs, dtype=object), np.prod(row.outputs, dtype=object))]
    if max(sizes) >= LIMIT:
        return f"a layer has {max(sizes):,} values; the program counts to {LIMIT:,}"
    return None


def write(model: Classifier, path: Path, options: ExportOptions) -> list[Path]:
    """Write ``NAME.c``, ``NAME.h``, ``NAME.bin`` for large networks, and ``NAME.golden.bin`` with ``options.golden``.

    Raises ``UserError`` if the name cannot stand in an ``#include``.
    """
    if not _NAME.fullmatch(path.name) or path.suffix != SUFFIX:
        raise UserError(
            f"{path.name}: the C files need a name that ends in {SUFFIX} and has only letters, digits, '.', '_', '+', "
            "'-'; give another with --out"
        )
    header, binary, golden = path.with_suffix(".h"), path.with_suffix(".bin"), path.with_suffix(".golden.bin")
    tensors, layers = _store(layer_table(model), options.int8)
    embedded = sum(parameter.numel() for parameter in model.parameters()) < EMBEDDED
    blob = b"" if embedded else _blob(tensors)
    program = resources.files(__package__).joinpath("reference.c").read_text(encoding="utf-8")
    write_text(path, program.replace("NETWORK", path.stem))
    write_text(header, _header(model, path.stem, tensors, layers, blob, options.int8))
    written = [path, header]
    if blob:
        write_bytes(binary, blob)
        written.append(binary)
    if options.golden is not None:
        reference = dequantized(model) if options.int8 else model
        write_bytes(golden, raw_bytes(golden_outputs(reference, options.golden)))
        written.append(golden)
    return written


def outputs(paths: list[Path], images: Tensor) -> Tensor:
    """The logits ``(N, classes)`` that the compiled program computes for fp32 images ``(N, C, S, S)``.

    Raises :class:`NotInstalledError` without a C compiler, and ``UserError`` if the program does not compile or run.
    """
    source = next(path for path in paths if path.suffix == SUFFIX)
    with tempfile.TemporaryDirectory() as folder:
        return run_logits(compile_program(source, Path(folder) / "network"), paths, images)


def compile_program(source: Path, program: Path, *options: str) -> Path:
    """Compile the reference program with ``cc``; returns ``program``.

    Raises :class:`NotInstalledError` without a C compiler, and ``UserError`` with the compiler's first message.
    """
    if shutil.which(COMPILER) is None:
        raise NotInstalledError(f"there is no C compiler {COMPILER!r}: install one, such as gcc or clang")
    _run([COMPILER, *COMPILE, *options, str(source.absolute()), "-lm", "-o", str(program)], source)
    return program


def run_logits(program: Path, paths: list[Path], images: Tensor) -> Tensor:
    """The logits ``(N, classes)`` of a compiled program for fp32 images ``(N, C, S, S)``; ``UserError`` if it fails."""
    source = next(path for path in paths if path.suffix == SUFFIX)
    weights = [str(path.absolute()) for path in paths if path == source.with_suffix(".bin")]
    with tempfile.TemporaryDirectory() as folder:
        given, result = Path(folder) / "images.bin", Path(folder) / "logits.bin"
        given.write_bytes(images.detach().cpu().numpy().astype("<f4").tobytes())
        _run([str(program), "logits", str(given), str(result), *weights], source)
        logits = np.frombuffer(result.read_bytes(), "<f4").reshape(len(images), -1)
    return torch.from_numpy(logits.astype(np.float32))


def dequantized(model: Classifier) -> Classifier:
    """A copy of the network with the weights that the int8 files stand for, scale · q in fp32."""
    copied = copy.deepcopy(model)
    for row in layer_table(copied):
        if row.kind in WITH_FILTERS:
            stored, scales = quantize(_array(row.tensors["weight"]), _filters(row))
            weight = stored.reshape(len(scales), -1).astype(np.float32) * scales[:, None]
            with torch.no_grad():
                row.tensors["weight"].copy_(torch.from_numpy(weight.reshape(stored.shape)))
    return copied


def quantize(weight: np.ndarray, filters: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights of ``filters`` filters, the first axes → (int8 of the same shape, fp32 scale of each filter)."""
    rows = weight.reshape(filters, -1)
    scales = (np.abs(rows).max(axis=1).astype(np.float64) / 127).astype(np.float32)
    scales[scales == 0] = 1.0  # a filter of zeros, or of numbers too small to divide
    stored = np.clip(np.rint(rows / scales[:, None]), -127, 127).astype(np.int8)
    return stored.reshape(weight.shape), scales


def _filters(row: LayerRow) -> int:
    """How many filters a layer has; a locally connected layer has its own at each pixel."""
    shape = row.tensors["weight"].shape
    return shape[0] * shape[1] if row.kind == "locally connected" else shape[0]


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().float().contiguous().numpy()


def _store(rows: list[LayerRow], int8: bool) -> tuple[list[StoredTensor], list[StoredLayer]]:
    tensors: list[StoredTensor] = []
    layers: list[StoredLayer] = []
    end = 0

    def add(name: str, values: np.ndarray) -> int:
        nonlocal end
        offset = -(-end // ALIGNMENT) * ALIGNMENT
        tensors.append(StoredTensor(name, values, offset))
        end = offset + values.nbytes
        return len(tensors) - 1

    for row in rows:
        placed: dict[str, int] = {}
        for role, tensor in row.tensors.items():
            values = _array(tensor)
            if int8 and role == "weight" and row.kind in WITH_FILTERS:
                values, scales = quantize(values, _filters(row))
                placed["scales"] = add(f"{row.name}_scales", scales)
            placed[role] = add(f"{row.name}_{role}", values)
        layers.append(StoredLayer(row, placed))
    return tensors, layers


def _blob(tensors: list[StoredTensor]) -> bytes:
    blob = bytearray(tensors[-1].offset + tensors[-1].values.nbytes)
    for tensor in tensors:
        data = tensor.values.astype(tensor.values.dtype.newbyteorder("<"), copy=False).tobytes()
        blob[tensor.offset : tensor.offset + len(data)] = data
    return bytes(blob)


HEADER = """\
/* {title}

   Images and feature maps are float32 in the order channel, row, column. The output of each layer is the input of the
   next. A linear layer takes feature maps in this order.

   Convolution: weight (filters, channels / groups, kernel, kernel), cross-correlation as in PyTorch; the image is
   surrounded by pad_before rows and columns of zeros before it and pad_after behind it. The first out[0] / groups
   filters see the first in[0] / groups channels, and so on. Locally connected: weight (rows * columns, filters,
   channels * kernel * kernel), bias (rows * columns, filters). Linear: weight (outputs, inputs).
   Local response norm: x * pow(k + alpha / alpha_divisor * sum, -beta), where sum is over the squares of `kernel`
   neighbouring channels of a group, kernel / 2 of them before this one: alpha multiplies the sum of squares if
   alpha_divisor is 1, and their mean if it is `kernel`. Within-channel norm: the same over kernel * kernel pixels of
   one channel. Batch norm: (x - mean) / sqrt(variance + eps) * weight + bias. Pools: out[1] and out[2] say whether a
   last, partly empty window counts. Scale: x * factor, which is dropout at test time.
{weights}
   Preprocessing: {preprocessing} */

#ifndef {guard}
#define {guard}

#include <stddef.h>

#define MODEL_LAYERS {layers}
#define MODEL_INPUT {input} /* {channels} x {side} x {side} */
#define MODEL_CLASSES {classes}
#define MODEL_LARGEST {largest} /* the values of the largest output of a layer */
#define MODEL_LARGEST_FILTER {largest_filter}
#define MODEL_TOLERANCE {tolerance}
#define MODEL_WEIGHT_BYTES {bytes} /* of the file of weights; 0 if this header holds them */
#define MODEL_WEIGHT_CRC32 {crc}UL
#define MODEL_WEIGHT_FILE "{name}.bin"

enum type {{ FLOAT32, INT8 }};

struct tensor {{
    const char *name;
    enum type type;
    int rank;
    int shape[4];
    size_t offset;    /* in bytes, in the file of weights */
    const void *data; /* the array in this header; NULL if it is in the file */
}};

enum kind {{
    CONVOLUTION,
    LOCALLY_CONNECTED,
    LINEAR,
    LOCAL_RESPONSE_NORM,
    WITHIN_CHANNEL_NORM,
    BATCH_NORM,
    MAX_POOL,
    AVERAGE_POOL,
    ADAPTIVE_AVERAGE_POOL,
    RELU,
    TANH,
    SIGMOID,
    SCALE
}};

struct layer {{
    const char *name;
    enum kind kind;
    int in[3], out[3]; /* channels, rows, columns */
    int kernel, stride, pad_before, pad_after, groups;
    double alpha;
    int alpha_divisor;
    double beta, k; /* of norms */
    double eps;     /* of batch norm */
    double factor;  /* of scale */
    const struct tensor *weight, *bias, *mean, *variance;
    const struct tensor *scales; /* float32, one for each filter, if weight is int8: weight = scale * int8 */
}};

"""


def _header(
    model: Classifier, name: str, tensors: list[StoredTensor], layers: list[StoredLayer], blob: bytes, int8: bool
) -> str:
    largest = max(int(np.prod(layer.row.outputs)) for layer in layers)
    filters = [
        layer.row.tensors["weight"].numel() // _filters(layer.row) for layer in layers if layer.row.kind in WITH_FILTERS
    ]
    preprocessing = json.dumps(to_json(model.preprocessing), sort_keys=True)
    if model.mean_image is not None:
        preprocessing += ", with a mean image that this header does not hold"
    text = HEADER.format(
        title=_comment(f"The network {model.variant}, {model.num_classes} classes, as layers and weights."),
        weights=_comment(_about_weights(blob, int8)),
        preprocessing=_comment(preprocessing),
        guard=re.sub(r"[^A-Z0-9]", "_", f"MODEL_{name.upper()}_H"),
        layers=len(layers),
        input=model.in_channels * model.image_size**2,
        channels=model.in_channels,
        side=model.image_size,
        classes=model.num_classes,
        largest=largest,
        largest_filter=max(filters),
        tolerance=TOLERANCE,
        bytes=len(blob),
        crc=zlib.crc32(blob),
        name=name,
    )
    parts = [text]
    if not blob:
        parts += [_array_source(tensor) for tensor in tensors]
    rows = ",\n".join(_tensor_source(tensor, embedded=not blob) for tensor in tensors)
    parts.append(f"static const struct tensor tensors[{len(tensors)}] = {{\n{rows}}};\n\n")
    rows = ",\n".join(map(_layer_source, layers))
    parts.append(f"static const struct layer layers[MODEL_LAYERS] = {{\n{rows}}};\n\n#endif\n")
    return "".join(parts)


def _about_weights(blob: bytes, int8: bool) -> str:
    stored = "float32"
    if int8:
        stored = "int8 with a float32 scale for each filter, symmetric; biases and batch norm are float32"
    where = f"in a file of its own with sha256 {hashlib.sha256(blob).hexdigest()}" if blob else "in this header"
    return f"   Weights: {stored}, little-endian, {where}."


def _comment(text: str) -> str:
    return printable(text).replace("*/", "* /").replace("??", "? ?")


def _string(text: str) -> str:
    """A C string literal; characters outside letters, digits and a few signs become octal escapes."""
    escaped = re.sub(rb"[^A-Za-z0-9 ._+-]", lambda found: b"\\%03o" % found[0][0], text.encode())
    return f'"{escaped.decode()}"'


def _identifier(name: str) -> str:
    return "model_" + re.sub(r"[^A-Za-z0-9_]", "_", name)


def _array_source(tensor: StoredTensor) -> str:
    values = tensor.values.ravel()
    if values.dtype == np.int8:
        kind, words = "signed char", [str(value) for value in values.tolist()]
    else:
        kind, words = "float", [_float_source(value) for value in values.tolist()]
    lines = [", ".join(words[start : start + 12]) for start in range(0, len(words), 12)]
    body = ",\n    ".join(lines)
    return f"static const {kind} {_identifier(tensor.name)}[{len(words)}] = {{\n    {body}}};\n\n"


def _float_source(value: float) -> str:
    text = f"{value:.9g}"  # nine digits name each fp32 number exactly
    return text + ("f" if re.search(r"[.e]", text) else ".0f")


def _tensor_source(tensor: StoredTensor, *, embedded: bool) -> str:
    shape = (*tensor.values.shape, 1, 1, 1)[:4]
    kind = "INT8" if tensor.values.dtype == np.int8 else "FLOAT32"
    where = f"0, {_identifier(tensor.name)}" if embedded else f"{tensor.offset}, NULL"
    sides = ", ".join(map(str, shape))
    return f"    {{{_string(tensor.name)}, {kind}, {tensor.values.ndim}, {{{sides}}}, {where}}}"


def _layer_source(layer: StoredLayer) -> str:
    row = layer.row
    fields = [
        f".name = {_string(row.name)}",
        f".kind = {row.kind.upper().replace(' ', '_').replace('-', '_')}",
        f".in = {{{', '.join(map(str, row.inputs))}}}",
        f".out = {{{', '.join(map(str, row.outputs))}}}",
    ]
    fields += [f".{name} = {getattr(row, name)}" for name in ("kernel", "stride", "pad_before", "pad_after", "groups")]
    if row.kind in ("local response norm", "within-channel norm"):
        fields += [f".{name} = {getattr(row, name)!r}" for name in ("alpha", "alpha_divisor", "beta", "k")]
    if row.kind == "batch norm":
        fields.append(f".eps = {row.eps!r}")
    if row.kind == "scale":
        fields.append(f".factor = {row.factor!r}")
    fields += [f".{role} = &tensors[{index}]" for role, index in layer.tensors.items()]
    return "    {" + ", ".join(fields) + "}"


def _run(command: list[str], source: Path) -> None:
    """Run a command. Raises ``UserError`` with the first line of its messages if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        message = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[0]
        raise UserError(f"{source}: {Path(command[0]).name} failed: {message}")
