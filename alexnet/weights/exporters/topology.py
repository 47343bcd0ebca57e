"""Layer tables for simulators of accelerators: SCALE-Sim and Timeloop.

``NAME.csv`` is a topology of SCALE-Sim (versions 1 to 3, "conv" format) and ``NAME.LAYER.yaml`` a problem of Timeloop
0.4 for each layer with filters. They hold sizes only, no weights; every number comes from the network.

SCALE-Sim knows neither padding nor groups, and rounds the number of windows up (``topology_utils.py``). So the input
(IFMAP) has the sides (outputs − 1) · stride + kernel, which is exactly the part of the padded input that the windows
touch; a grouped convolution is one row for each group; a fully connected layer is a 1 × 1 convolution of one pixel; a
locally connected layer is one row for each pixel, because no two pixels share a filter. A row of a name with "DP" would
be read as a depthwise convolution.

Timeloop gets the dimensions of its ``problem_base.yaml``: C input channels of a group, M filters of a group, G groups,
R × S window, P × Q outputs, N images, with strides. The weights of a locally connected layer depend on P and Q too.

Sources: github.com/scalesim-project/SCALE-Sim, ``scalesim/topology_utils.py``;
github.com/Accelergy-Project/timeloop-accelergy-exercises, ``layer_shapes/problem_base.yaml``.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from alexnet.core.errors import UserError
from alexnet.core.files import read_text, write_text
from alexnet.models.classifier import Classifier
from alexnet.models.summary import summarize
from alexnet.weights.export import ExportOptions
from alexnet.weights.layer_table import WITH_FILTERS, LayerRow, layer_table, unknown_layer

SUFFIX = ".csv"
COLUMNS = (
    "Layer name", "IFMAP Height", "IFMAP Width", "Filter Height", "Filter Width", "Channels", "Num Filter", "Strides",
)  # fmt: skip
DIMENSIONS = ("N", "C", "M", "G", "R", "S", "P", "Q")


def why_not(model: Classifier, options: ExportOptions) -> str | None:
    """Why the tables cannot hold this network or these options, as the rest of a sentence; None if they can."""
    if options.int8 or options.pixels:
        return "the tables hold sizes only; leave out --int8 and --pixels"
    return unknown_layer(model)


def write(model: Classifier, path: Path, options: ExportOptions) -> list[Path]:
    """Write ``NAME.csv`` and ``NAME.LAYER.yaml`` for each layer with filters. Returns all files, the table first."""
    rows = [row for row in layer_table(model) if row.kind in WITH_FILTERS]
    lines = [", ".join(COLUMNS) + ","]
    lines += [", ".join(map(str, columns)) + "," for row in rows for columns in scale_sim_rows(row)]
    write_text(path, "\n".join(lines) + "\n")
    problems = [path.with_suffix(f".{_name(row.name)}.yaml") for row in rows]
    for row, problem in zip(rows, problems, strict=True):
        write_text(problem, timeloop_problem(row))
    return [path, *problems]


def check_tables(model: Classifier, paths: list[Path]) -> str:
    """Count the multiply-adds again from the numbers in the files, as the simulators do; the result as a sentence.

    Raises ``UserError`` if a file disagrees with the network's summary.
    """
    expected = {_name(layer.name): layer.multiply_adds for layer in summarize(model).layers if layer.multiply_adds}
    table, *problems = paths
    found = scale_sim_multiply_adds(read_text(table))
    if found != expected:
        raise UserError(f"{table}: SCALE-Sim would count {found} multiply-adds, and the network has {expected}")
    for (name, count), problem in zip(expected.items(), problems, strict=True):
        if (theirs := timeloop_multiply_adds(read_text(problem))) != count:
            raise UserError(f"{problem}: Timeloop would count {theirs} multiply-adds, and {name} has {count}")
    return f"the files' own numbers give {sum(expected.values()):,} multiply-adds, as the network's summary does"


def scale_sim_rows(row: LayerRow) -> list[tuple[str | int, ...]]:
    """The rows of one layer: name, input height and width, window height and width, channels, filters, stride."""
    channels, filters, kernel = row.inputs[0] // row.groups, row.outputs[0] // row.groups, row.kernel
    if row.kind == "linear":
        return [(_name(row.name), 1, 1, 1, 1, math.prod(row.inputs), filters, 1)]
    if row.kind == "locally connected":
        pixels = range(row.outputs[1] * row.outputs[2])
        return [
            (f"{_name(row.name)}-{pixel}", kernel, kernel, kernel, kernel, channels, filters, 1) for pixel in pixels
        ]
    height, width = ((side - 1) * row.stride + kernel for side in row.outputs[1:])
    name = _name(row.name)
    names = [name] if row.groups == 1 else [f"{name}-{group}" for group in range(row.groups)]
    return [(name, height, width, kernel, kernel, channels, filters, row.stride) for name in names]


def _name(name: str) -> str:
    """A layer's name as SCALE-Sim reads it: no comma, and not "DP", which means a depthwise convolution."""
    return re.sub(r"[^A-Za-z0-9_]", "_", name).replace("DP", "Dp")


def scale_sim_multiply_adds(table: str) -> dict[str, int]:
    """Layer → multiply-adds of its rows, by the rule of SCALE-Sim's ``topo_calc_hyperparams``."""
    counts: dict[str, int] = {}
    for line in table.splitlines()[1:]:
        name, *numbers = line.split(",")[:-1]
        height, width, kernel_height, kernel_width, channels, filters, stride = map(int, numbers)
        rows = -(-(height - kernel_height + stride) // stride)
        columns = -(-(width - kernel_width + stride) // stride)
        layer = name.partition("-")[0]
        count = rows * columns * kernel_height * kernel_width * channels * filters
        counts[layer] = counts.get(layer, 0) + count
    return counts


def timeloop_problem(row: LayerRow) -> str:
    """One layer as a problem of Timeloop 0.4, in YAML."""
    window, (_, height, width) = row.kernel, row.outputs
    channels = math.prod(row.inputs) if row.kind == "linear" else row.inputs[0] // row.groups
    filters = row.outputs[0] // row.groups
    sizes = {
        "N": 1, "C": channels, "M": filters, "G": row.groups, "R": window, "S": window, "P": height, "Q": width,
    }  # fmt: skip
    own = "        - [[P]]\n        - [[Q]]\n" if row.kind == "locally connected" else ""
    instance = ", ".join(f"{name}: {size}" for name, size in sizes.items())
    return PROBLEM.format(
        layer=_name(row.name), instance=instance, stride=row.stride, own=own, dimensions=", ".join(DIMENSIONS)
    )


PROBLEM = """\
problem:
  version: 0.4
  instance: {{{instance}, Wstride: {stride}, Hstride: {stride}, Wdilation: 1, Hdilation: 1}}
  shape:
    name: {layer}
    dimensions: [{dimensions}]
    coefficients:
    - {{name: Wstride, default: 1}}
    - {{name: Hstride, default: 1}}
    - {{name: Wdilation, default: 1}}
    - {{name: Hdilation, default: 1}}
    data_spaces:
    - name: Weights
      projection:
        - [[G]]
        - [[C]]
        - [[M]]
        - [[R]]
        - [[S]]
{own}    - name: Inputs
      projection:
        - [[N]]
        - [[G]]
        - [[C]]
        - [[R, Wdilation], [P, Wstride]]
        - [[S, Hdilation], [Q, Hstride]]
    - name: Outputs
      projection:
        - [[N]]
        - [[G]]
        - [[M]]
        - [[Q]]
        - [[P]]
      read_write: true
"""


def timeloop_multiply_adds(problem: str) -> int:
    """Multiply-adds of a problem: the product of its dimensions."""
    found = re.search(r"^  instance: \{(.*)\}$", problem, re.MULTILINE)
    sizes: dict[str, Any] = dict(item.split(": ") for item in found[1].split(", ")) if found else {}
    return math.prod(int(sizes[name]) for name in DIMENSIONS) if sizes else 0
