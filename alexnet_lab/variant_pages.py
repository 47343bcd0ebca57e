"""One page for each variant, written from the code: ``docs/variants/``.

A page states the source of the network, each difference from the paper with its own source, the layers, and what was
measured. ``python -m alexnet_lab.variant_pages`` rewrites the pages; a test fails when they and the code
differ. A variant without an entry in ``ABOUT`` also gets a page. Its source is then that of the table of variants.
"""

from __future__ import annotations

import re
import statistics
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from alexnet.config import Recipe
from alexnet.core.files import write_bytes
from alexnet.models.alexnet import Architecture, ConvLayer
from alexnet.models.capabilities import CAPABILITIES
from alexnet.models.registry import build, get_variant
from alexnet.models.summary import Summary, summarize
from alexnet.models.variants import VARIANTS, Variant
from alexnet.recipes import RECIPES, get_recipe
from alexnet.report.tables import dimensions, markdown_table
from alexnet.runtime.device import hardware_name
from alexnet_lab.experiments.ablations import ABLATIONS, BASE
from alexnet_lab.experiments.registry import EXPERIMENTS
from alexnet_lab.pages import write_in_checkout
from alexnet_lab.results.reader import Results, Runs, main_measures, results_folder

FOLDER = Path("docs/variants")  # in the checkout
PAPER = "paper"
WRITTEN_BY = "<!-- Written by python -m alexnet_lab.variant_pages: change that module, not this page. -->"


@dataclass(frozen=True)
class About:
    """What the code of a variant does not say.

    ``document``: the document that states its settings; ``places``: setting → a more exact place; ``notes``:
    paragraphs.
    """

    document: str
    places: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


CIFAR = "of cuda-convnet, public since 2012"
CONV_FILE = "`layers-145.cfg` of the authors' code"
CAFFE_LRN = "`src/caffe/layers/lrn_layer.cpp` of Caffe: α is divided by the size; k is 1 by default"
CAFFE_POOL = "`src/caffe/layers/pooling_layer.cpp` of Caffe"
CAFFE_DROPOUT = "`src/caffe/layers/dropout_layer.cpp` of Caffe"
TORCH_START = "`reset_parameters` of PyTorch's layers"

ABOUT: Mapping[str, About] = {
    "paper": About(
        "§3.5",
        {
            "input": "§3.5, figure 2; crops of 224 × 224: §4.1",
            "conv1": "§3.5; the padding is not in the text, figure 2 shows maps of 55 × 55",
            "activation": "§3.1",
            "max pools": "§3.4",
            "LRN": "§3.3",
            "dropout": "§4.2",
            "initial weights": "§5",
            "initial biases": "§5; that of fc8 is 0",
        },
        (
            "The text does not state the padding of conv1: 224 pixels, kernels of 11 and a stride of 4 give maps of "
            "54 × 54 without padding, and figure 2 shows 55 × 55. Here zeros at the right and bottom edges complete "
            "the last window, as in the authors' code.",
            "No configuration file of the authors' code describes exactly the network of the text. The published "
            "results come from [cuda-convnet](cuda-convnet.md).",
        ),
    ),
    "cuda-convnet": About(
        CONV_FILE,
        {
            "max pools": "`layer.py` of the authors' code: sizes are rounded up",
            "LRN": "`layer.py` of the authors' code divides `scale` by the size of the "
            "window; each column lies on its own GPU",
            "within-channel LRN": "`layers-145.cfg`: the layer `cnorm2` of type `rnorm`",
        },
        (
            "The row '1 CNN' in table 2 of the paper shows the errors of this network: the log in "
            "`layer-params-145.cfg` ends with errors of 40.664 % (top-1) and 18.210 % (top-5) on ILSVRC-2012's val. "
            "The Computer History Museum released the code in 2025. Paper and code differ in the settings below.",
        ),
    ),
    "paper-half": About(
        "§3.2 and its footnote; `layers-145-half.cfg` of the authors' code",
        {},
        (
            "The paper compares its two-GPU network with a one-GPU network that has half as many kernels in each "
            "convolution. Its footnote says that the last convolution and the fully connected layers keep their size, "
            "so that both networks have about the same number of parameters.",
        ),
    ),
    "bvlc-alexnet": About(
        "`models/bvlc_alexnet/train_val.prototxt` of Caffe",
        {"max pools": CAFFE_POOL, "LRN": CAFFE_LRN, "dropout": CAFFE_DROPOUT},
    ),
    "caffenet": About(
        "`models/bvlc_reference_caffenet/train_val.prototxt` of Caffe",
        {"max pools": CAFFE_POOL, "LRN": CAFFE_LRN, "dropout": CAFFE_DROPOUT},
        (
            "It differs from [bvlc-alexnet](bvlc-alexnet.md) in two things. Pooling comes before normalization. Biases "
            "that start at 0.1 there start at 1 here.",
        ),
    ),
    "one-tower": About(
        "tutorials",
        {"initial weights": TORCH_START, "initial biases": TORCH_START},
        (
            "Many tutorials call this network AlexNet. It has no single author: the 227 pixels come from Stanford's "
            "CS231n notes and Caffe, and the single column without normalization comes from later implementations.",
        ),
    ),
    "torchvision": About(
        "`torchvision/models/alexnet.py`",
        {
            "conv1": "`torchvision/models/alexnet.py`; Krizhevsky 2014, *One weird trick for parallelizing "
            "convolutional neural networks*, arXiv:1404.5997",
            "initial weights": TORCH_START,
            "initial biases": TORCH_START,
        },
        (
            "torchvision cites Krizhevsky's paper of 2014, whose network has one column and 64 kernels in conv1. The "
            "weights that torchvision trained are a MODEL, `torchvision/imagenet`: see [Weights](../weights.md).",
        ),
    ),
    "d2l": About(
        "*Dive into Deep Learning* §8.1",
        {"initial weights": "*Dive into Deep Learning* §8.1, `d2l.init_cnn`", "initial biases": TORCH_START},
        ("The textbook trains it on Fashion-MNIST: images of one channel, enlarged to 224 pixels, and 10 classes.",),
    ),
    "keras": About(
        "a tutorial in Keras",
        {
            "batch norm": "defaults of Keras's `BatchNormalization`; its momentum 0.99 is PyTorch's 0.01",
            "initial weights": "Keras's default `glorot_uniform`",
            "initial biases": "Keras's default",
        },
        (
            "Its batch normalization follows the ReLU. The paper of batch normalization puts it before the "
            "non-linearity.",
        ),
    ),
    "batchnorm": About(
        "this project",
        {
            "batch norm": "Ioffe and Szegedy 2015, arXiv:1502.03167, §3.2: before the non-linearity",
            "initial weights": "He, Zhang, Ren and Sun 2015, arXiv:1502.01852; that of fc8: this project",
        },
        (
            "Use this network for your own photographs. It trains faster and needs less tuning than the networks of "
            "2012.",
        ),
    ),
    "nvidia-batchnorm": About(
        "`models/alexnet_bn/train_val2_fp16.prototxt` of NVIDIA/caffe, commit 87a2554",
        {"max pools": CAFFE_POOL, "dropout": CAFFE_DROPOUT},
        (
            "NVIDIA's solvers for 8,192, 16,384 and 32,768 images a batch use this network. It is "
            "[bvlc-alexnet](bvlc-alexnet.md) without LRN, with batch normalization of the inputs of conv2 to conv5. "
            "`train_val.prototxt` in the same folder is another network: batch normalization with scale and shift "
            "before each of the five ReLUs.",
            "`moving_average_fraction: 0.9` is PyTorch's momentum 0.1. The scales 1 and shifts 0 are in the state dict "
            "and do not train.",
        ),
    ),
    "small": About(
        "this project",
        {
            "batch norm": "Ioffe and Szegedy 2015, arXiv:1502.03167, §3.2: before the non-linearity",
            "initial weights": "He, Zhang, Ren and Sun 2015, arXiv:1502.01852; that of fc8: this project",
        },
        (
            "It is not a published network. It has AlexNet's structure (five convolutions, three pools and three "
            "linear layers) in sizes for images of 28 to 64 pixels. [Decisions](../decisions.md) and the [lab "
            "notebook](../log.md) explain how its sizes were chosen.",
        ),
    ),
    "trunk": About(
        "this project",
        {
            "batch norm": "Ioffe and Szegedy 2015, arXiv:1502.03167, §3.2: before the non-linearity",
            "initial weights": "He, Zhang, Ren and Sun 2015, arXiv:1502.01852; that of fc8: this project",
            "before fc6": "Lin, Chen and Yan 2014, *Network in network*, arXiv:1312.4400, §3.2: an average of each map",
        },
        (
            "It is not a published network. It has AlexNet's structure in sizes for small photographs. Its last maps "
            "are averaged over all positions, so its layers fit images of any size. Its trained weights are included "
            "in this package, to start other trainings from: see [Start from trained weights](../transfer.md).",
        ),
    ),
    "lenet5": About(
        "*Dive into Deep Learning* §7.6, after LeCun, Bottou, Bengio and Haffner 1998",
        {},
        (
            "This baseline is not an AlexNet. It has two convolutions with sigmoid units and average pools, and three "
            "linear layers. The original of 1998 has another output layer and connects only some of the maps in "
            "its second convolution. The textbook leaves this out.",
        ),
    ),
    "cifar-18pct": About(
        f"`layers-18pct.cfg` {CIFAR}",
        {},
        (
            "This baseline is one of the authors' networks for CIFAR-10, named after its test error of 18 %. It has "
            "three convolutions and one linear layer, with normalization within each channel after the first two "
            "pools. α is divided by the size of the window, k is 1 and sizes are rounded up, as everywhere in that "
            "code.",
        ),
    ),
    "cifar-13pct": About(
        f"`layers-conv-local-13pct.cfg` {CIFAR}; paper §3.3",
        {},
        (
            "This baseline is the four-layer network of the paper's §3.3 without normalization: two convolutions, two "
            "locally connected layers (3 × 3 windows with different weights at each position) and one linear "
            "layer. Its test error is 13 %.",
        ),
    ),
    "cifar-11pct": About(
        f"`layers-conv-local-11pct.cfg` {CIFAR}; paper §3.3",
        {},
        (
            "This baseline is the four-layer network of the paper's §3.3 with normalization, and a test error of 11 "
            "%. Its third layer has 64 filters, and that of [cifar-13pct](cifar-13pct.md) has 32. So normalization is "
            "not the only difference between the two.",
        ),
    ),
    "cifar-relu": About(
        f"`layers-18pct.cfg` {CIFAR}, without its normalizations; paper §3.1, figure 1",
        {},
        (
            "This baseline represents the network of the paper's figure 1. The paper only says that the network has "
            "four layers and was trained on CIFAR-10. It is an assumption that it is this one.",
        ),
    ),
    "cifar-tanh": About(
        f"`layers-18pct.cfg` {CIFAR}, without its normalizations and with tanh; paper §3.1, figure 1",
        {},
        (
            "This baseline is [cifar-relu](cifar-relu.md) with tanh instead of ReLU. It represents the other curve of "
            "the paper's figure 1.",
        ),
    ),
}

WORKS_FOR = {"vmap(grad), training mode": "every variant without batch normalization"}
OPERATIONS = {
    "activation": "activation",
    "lrn": "LRN",
    "within-channel-lrn": "within-channel LRN",
    "batch-norm": "batch norm",
    "pool": "max pool",
}
ACTIVATIONS = {"relu": "ReLU", "tanh": "tanh", "sigmoid": "sigmoid"}
STARTS = {
    "torch": "uniform, the default of PyTorch's layers",
    "xavier": "Xavier uniform",
    "glorot": "Glorot uniform",
    "he": "He normal",
}


def settings(architecture: Architecture) -> dict[str, str]:
    """Every setting of a network as text; settings without effect are left out."""
    a, convs = architecture, list(enumerate(architecture.convs, 1))
    operations = {operation for layer in a.convs for operation in layer.ops}
    found = {"input": f"{a.image_size} × {a.image_size}"}
    for number, layer in convs:
        found[f"conv{number}"] = _convolution(layer)
        found[f"after conv{number}"] = " → ".join(
            ACTIVATIONS[a.activation] if operation == "activation" else OPERATIONS[operation] for operation in layer.ops
        )
    if a.adaptive_pool is not None:
        found["before fc6"] = f"average pool to {a.adaptive_pool} × {a.adaptive_pool} if the map has another size"
    found |= {f"fc{number}": f"{layer.units} units" for number, layer in enumerate(a.hidden, 6)}
    found["activation"] = ACTIVATIONS[a.activation]
    rounded = "up" if a.pool_ceil_mode else "down"
    found["max pools"] = f"{a.pool_kernel} × {a.pool_kernel}, stride {a.pool_stride}, sizes rounded {rounded}"
    if "lrn" in operations:
        where = "" if a.lrn_groups == 1 else f", within each of {a.lrn_groups} groups of channels"
        found["LRN"] = (
            f"n = {a.lrn_size}, k = {a.lrn_k:g}, β = {a.lrn_beta:g}, α = {_number(a.lrn_alpha)} times the "
            f"{a.lrn_convention} of squares{where}"
        )
    if "within-channel-lrn" in operations:
        found["within-channel LRN"] = "5 × 5, k = 1, β = 0.75, α = 0.001 times the mean of squares"
    if "batch-norm" in operations:
        found["batch norm"] = f"ε = {_number(a.batch_norm_eps)}, momentum {a.batch_norm_momentum:g}"
        found["batch norm"] += "" if a.batch_norm_affine else ", without scale and shift"
    found["dropout"] = _dropout(a)
    found["initial weights"] = _initial_weights(a)
    if a.initialisation in ("torch", "xavier"):
        found["initial biases"] = "uniform, the default of PyTorch's layers"
    elif a.initialisation in ("glorot", "he"):
        found["initial biases"] = "0"
    else:
        layers = [*((f"conv{number}", layer.bias) for number, layer in convs)]
        layers += [(f"fc{number}", layer.bias) for number, layer in enumerate(a.hidden, 6)]
        layers += [("fc8", a.output_bias)] if a.output_bias else []
        found["initial biases"] = _by_value(layers)
    return found


def _convolution(layer: ConvLayer) -> str:
    padding = {"ceil": "zeros right and bottom to complete the last window", "same": 'padding "same"'}.get(
        str(layer.padding), f"padding {layer.padding}"
    )
    parts = [f"{layer.filters} filters {layer.kernel} × {layer.kernel}", f"stride {layer.stride}", padding]
    return ", ".join([*parts, f"{layer.groups} groups"] if layer.groups > 1 else parts)


def _dropout(a: Architecture) -> str:
    if not a.dropout or not a.dropout_at:
        return "none"
    kept = 1 - a.dropout
    how = (
        f"outputs times {kept:g} in evaluation"
        if a.dropout_scaling == "test"
        else f"outputs times {1 / kept:g} in training"
    )
    return f"{a.dropout:g} on the outputs of {' and '.join(a.dropout_at)}; {how}"


def _initial_weights(a: Architecture) -> str:
    if a.initialisation == "he":
        return f"{STARTS['he']}; fc8 normal with standard deviation {a.output_std:g}"
    if a.initialisation != "gaussian":
        return STARTS[a.initialisation]
    layers = [(f"conv{number}", layer.std) for number, layer in enumerate(a.convs, 1)]
    layers += [(f"fc{number}", layer.std) for number, layer in enumerate(a.hidden, 6)]
    deviations = _by_value([*layers, ("fc8", a.output_std)])
    return f"normal, standard deviation {deviations}"


def _by_value(layers: list[tuple[str, float]]) -> str:
    """One value if all layers have it, else each value with its layers."""
    values: dict[float, list[str]] = {}
    for name, value in layers:
        values.setdefault(value, []).append(name)
    if len(values) == 1:
        return f"{layers[0][1]:g}"
    return "; ".join(f"{value:g} in {', '.join(names)}" for value, names in values.items())


def _number(value: float) -> str:
    """A small number without an exponent, as the papers write it."""
    return f"{value:.6f}".rstrip("0")


def difference_table(name: str, variant: Variant) -> str:
    """What differs from the paper, or for the paper itself every setting; empty for a baseline."""
    if variant.architecture is None:
        return ""
    about = ABOUT.get(name, About(variant.source))
    mine, original = settings(variant.architecture), settings(_paper())
    if name == PAPER:
        rows = [(label, value, about.places.get(label, about.document)) for label, value in mine.items()]
        return markdown_table(("setting", "value", "from"), rows)
    labels = [*mine, *(label for label in original if label not in mine)]
    rows4 = [
        (label, original.get(label, "none"), mine.get(label, "none"), about.places.get(label, about.document))
        for label in labels
        if mine.get(label) != original.get(label)
    ]
    return markdown_table(("setting", "paper", name, "from"), rows4)


def _paper() -> Architecture:
    architecture = get_variant(PAPER).architecture
    assert architecture is not None
    return architecture


def layer_table(summary: Summary) -> str:
    """Shapes, parameters, multiply-adds and receptive fields, with their totals."""
    rows = [
        (
            layer.name,
            layer.kind,
            dimensions(layer.shape),
            f"{layer.parameters:,}" if layer.parameters else "",
            f"{layer.multiply_adds:,}" if layer.multiply_adds else "",
            "all" if layer.receptive_field is None else str(layer.receptive_field),
        )
        for layer in summary.layers
    ]
    total = ("**total**", "", "", f"{summary.parameters:,}", f"{summary.multiply_adds:,}", "")
    head = ("layer", "kind", "output", "parameters", "multiply-adds", "receptive field, pixels")
    return markdown_table(head, [*rows, total])


def measured_table(name: str, results: Results) -> str:
    """A row for each recipe of the variant and for each shortened training of one; empty without any.

    Ablations are left out: they have tables of their own in ``docs/results.md``.
    """
    trainings: dict[str, Recipe] = {key: recipe for key, recipe in RECIPES.items() if recipe.model.variant == name}
    for key, experiment in EXPERIMENTS.items():
        if experiment.recipe in trainings and key not in ABLATIONS and results.runs(key):
            trainings.setdefault(key, experiment.build())
    rows = []
    for key, recipe in trainings.items():
        runs = results.measured(key)
        if not runs:
            rows.append((f"`{key}`", recipe.data.source or "a folder", "–", "not run to its end", "–", "–"))
            continue
        rows.append(
            (
                f"`{key}`",
                results.images(key).removeprefix("on "),
                f"{statistics.median(run['steps'] for run in runs):,.0f}",
                _accuracy(runs),
                f"{statistics.median(run['seconds'] for run in runs):,.0f}",
                hardware_name(runs[0]["hardware"]),
            )
        )
    return markdown_table(("training", "images", "steps", "test top-1", "seconds", "machine"), rows) if rows else ""


def _accuracy(runs: Runs) -> str:
    """The mean of several seeds with their range."""
    shares, words = main_measures(runs)
    spread = f"{min(shares):.2%} – {max(shares):.2%}, {len(shares)} seeds" if len(shares) > 1 else "1 seed"
    return f"{statistics.mean(shares):.2%}{words} ({spread})"


def variant_page(name: str, variant: Variant, results: Results) -> str:
    """The page of one variant."""
    about = ABOUT.get(name, About(variant.source))
    network = build(name, variant.architecture, variant.num_classes, variant.in_channels, None, device="meta")
    summary = summarize(network)
    size = f"{network.in_channels} × {network.image_size} × {network.image_size}"
    facts = (
        f"* **Input**: {size}, classes: {network.num_classes}\n"
        f"* **Parameters**: {summary.parameters:,}\n"
        f"* **Multiply-adds** for one image: {summary.multiply_adds:,}\n"
        f"* **Source**: {about.document}\n"
        f'* **Here**: `alexnet summary {name}`, `create_model("{name}")`'
    )
    parts = [WRITTEN_BY, f"# {name}", f"{variant.source[0].upper()}{variant.source[1:]}.", facts, *about.notes]
    if table := difference_table(name, variant):
        parts += ["## Settings" if name == PAPER else "## What differs from the paper", table]
    parts += ["## Layers", layer_table(summary)]
    measured = measured_table(name, results)
    parts += ["## Measured", measured or "No training of this network was measured here."]
    if name == get_recipe(BASE).model.variant:
        parts.append("Trainings with one setting changed are in [Results](../results.md).")
    return _joined(parts)


def index_page() -> str:
    """The table of all variants."""
    rows = []
    for name, variant in VARIANTS.items():
        network = build(name, variant.architecture, variant.num_classes, variant.in_channels, None, device="meta")
        summary = summarize(network)
        size = f"{network.in_channels} × {network.image_size} × {network.image_size}"
        rows.append(
            (f"[{name}]({name}.md)", size, f"{summary.parameters:,}", f"{summary.multiply_adds:,}", variant.source)
        )
    table = markdown_table(("variant", "input", "parameters", "multiply-adds", "source"), rows)
    tree = "\n".join(["```{toctree}", ":hidden:", "", *VARIANTS, "```"])
    about = (
        "Each variant is one complete network, with the initialization of its weights. `alexnet summary` prints this "
        "table. `alexnet summary NAME` prints the layers of one variant. Baselines are networks that AlexNet is "
        "compared with."
    )
    choice = (
        "Which one to use: `batchnorm` for your own photographs, `small` for images of 28 to 64 pixels, `paper` to "
        "follow the text of the paper, and `cuda-convnet` to repeat the training behind the published errors."
    )
    checks = markdown_table(
        ("what", "works for"), [(c.name, WORKS_FOR.get(c.name, "every variant")) for c in CAPABILITIES]
    )
    capable = (
        "Networks consist of ordinary PyTorch layers. `tests/models/test_capabilities.py` runs each of these checks on "
        "every variant, with fewer units per layer. In training mode, batch normalization uses statistics of the whole "
        "batch, so the gradient of a single image is not defined."
    )
    return _joined(
        [WRITTEN_BY, "# Variants", about, choice, table, "## What they can do in PyTorch", capable, checks, tree]
    )


def _joined(parts: list[str]) -> str:
    """The parts as paragraphs, prose in lines of at most 120 characters."""
    one_line = re.compile(r"[^|*`<#]")
    wrapped = [textwrap.fill(part, 120, break_long_words=False) if one_line.match(part) else part for part in parts]
    return "\n\n".join(wrapped) + "\n"


def pages(results: Results) -> dict[str, str]:
    """File name → text of every page in the folder."""
    found = {f"{name}.md": variant_page(name, variant, results) for name, variant in VARIANTS.items()}
    return {"index.md": index_page(), **found}


def write_pages(root: Path) -> None:
    """Write the pages of the checkout at ``root``, and remove those of variants that no longer exist."""
    texts = pages(Results(results_folder()))
    for name, text in texts.items():
        write_bytes(root / FOLDER / name, text.encode())
    for path in (root / FOLDER).glob("*.md"):
        if path.name not in texts:
            path.unlink()


if __name__ == "__main__":
    sys.exit(write_in_checkout(write_pages))
