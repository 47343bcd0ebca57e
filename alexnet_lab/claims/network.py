"""Statements about the network itself, each computed on the spot from the network that is meant."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import torch
from sklearn.datasets import load_sample_images

from alexnet.analysis.receptive_field import receptive_field
from alexnet.config import AugmentSpec, OptimSpec
from alexnet.data.augment import draw
from alexnet.data.writer import principal_components, statistics
from alexnet.models.alexnet import LinearLayer
from alexnet.models.layers import Dropout, LocalResponseNorm, padding_amounts, window_count
from alexnet.models.registry import build, create_model, get_variant
from alexnet.models.summary import Summary, summarize
from alexnet.models.variants import VARIANTS
from alexnet.recipes import get_recipe
from alexnet.report.tables import table
from alexnet_lab.claims.claim_result import CONFIRMED, CORRECTED, REFUTED, ClaimResult, Results

ALEXNETS = [name for name, row in VARIANTS.items() if row.architecture is not None and name != "small"]
MILLION, MIB = 1e6, 2**20
BATCH = 128  # paper §5


def outline(name: str) -> Summary:
    """A variant's layer table, with its authors' classes and channels; no memory is taken."""
    row = get_variant(name)
    return summarize(build(name, row.architecture, row.num_classes, row.in_channels, None, device="meta"))


def learned_layers(results: Results) -> ClaimResult:
    """C1: eight learned layers."""
    kinds = {name: Counter(row.kind for row in outline(name).layers) for name in ALEXNETS}
    right = all((count["convolution"], count["fully connected"]) == (5, 3) for count in kinds.values())
    return ClaimResult("5 convolutions, 3 fully connected, in every variant", _verdict(right), "alexnet summary paper")


def parameters(results: Results) -> ClaimResult:
    """C2: about 60 million parameters."""
    counts = {name: outline(name).parameters for name in ("paper", "torchvision", "one-tower")}
    measured = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    right = all(abs(count - 60e6) < 3e6 for count in counts.values())
    return ClaimResult(measured, _verdict(right), "alexnet summary")


def fully_connected_share(results: Results) -> ClaimResult:
    """C3: more than 80 % of the parameters are fully connected, "4096 × 4096 × 2 ≈ 33 M" of them."""
    shares, rows, split = [], [], ""
    for name in ALEXNETS:
        summary = outline(name)
        linear = {row.name: row.parameters for row in summary.layers if row.kind == "fully connected"}
        shares.append(sum(linear.values()) / summary.parameters)
        rows.append((name, f"{summary.parameters:,}", *(f"{n:,}" for n in linear.values()), f"{shares[-1]:.1%}"))
        if name == "d2l":
            split = " + ".join(f"{count / MILLION:.2f} M" for count in linear.values())
    details = table(("variant", "parameters", "fc6", "fc7", "fc8", "fully connected"), rows)
    measured = f"{min(shares):.1%} to {max(shares):.1%} over all variants; in its own network {split}"
    return ClaimResult(measured, CORRECTED if min(shares) > 0.8 else REFUTED, "alexnet summary d2l", details)


def textbook_shapes(results: Results) -> ClaimResult:
    """C4: the textbook's shapes, layer by layer."""
    shapes = [row.shape for row in outline("d2l").layers]
    sizes = [shape[-1] for shape in shapes[:8]] + [math.prod(shapes[7])] + [shape[0] for shape in shapes[8:]]
    right = sizes == [54, 26, 26, 12, 12, 12, 12, 5, 6400, 4096, 4096, 10]
    return ClaimResult(", ".join(map(str, sizes)), _verdict(right), "alexnet summary d2l")


def first_convolution(results: Results) -> ClaimResult:
    """C5: 224 pixels, stride 4, no padding: 55."""
    floor = window_count(224, 11, 4)
    before, after = padding_amounts(224, 11, 4, "ceil")
    padded = window_count(224 + before + after, 11, 4)
    measured = f"{floor} as arithmetic has it; {padded} with {before} zeros above and left, {after} below and right"
    verdict = CORRECTED if floor != 55 and padded == 55 else _verdict(floor == 55)
    return ClaimResult(measured, verdict, "alexnet summary paper; docs/paper.md, §3.5")


def receptive_fields(results: Results) -> ClaimResult:
    """C6: fields of 11, 51, 99, 131, 163 pixels."""
    slim = (LinearLayer(8), LinearLayer(8))
    network = create_model("paper", num_classes=2, image_size=447, hidden=slim, seed=0)
    by_gradient = [receptive_field(network, f"conv{number}") for number in range(1, 6)]
    by_arithmetic = [row.receptive_field for row in outline("paper").layers if row.kind == "convolution"]
    pool5 = receptive_field(network, "pool5")
    measured = f"{', '.join(map(str, by_gradient))} by gradient and by arithmetic; {pool5} after pool5"
    return ClaimResult(
        measured, _verdict(by_gradient == by_arithmetic == [11, 51, 99, 131, 163]), "alexnet summary paper"
    )


def normalization_constants(results: Results) -> ClaimResult:
    """C7: k = 2, n = 5, α = 1e-4, β = 0.75."""
    ones = torch.full((1, 5, 1, 1), 100.0, dtype=torch.float64)
    text, code = (
        float(LocalResponseNorm(5, 1e-4, 0.75, 2.0, convention, 1)(ones)[0, 2]) for convention in ("sum", "mean")
    )
    measured = f"five units of 100 become {text:.2f} by the text and {code:.2f} by the code, which divides α by n"
    verdict = CONFIRMED if math.isclose(text, code, rel_tol=1e-6) else CORRECTED
    return ClaimResult(measured, verdict, "variants paper and cuda-convnet; docs/paper.md, §3.3")


def dropout_twice(results: Results) -> ClaimResult:
    """C8: x/p while training and x · 0.5 when testing."""
    x, keep = torch.ones(1, 10_000), 0.5
    inverted, plain = Dropout(0.5, "train").train(), Dropout(0.5, "test").train()
    mask = torch.arange(10_000)[None] % 2 == 0
    expected = [float(layer.forward(x, mask).mean()) for layer in (inverted, plain)]
    tested = [float(layer.eval().forward(x).mean()) for layer in (inverted, plain)]
    measured = (
        f"mean while training and testing: {expected[0]:g} and {tested[0]:g} scaled in training, {expected[1]:g} and "
        f"{tested[1]:g} scaled in testing; both together {expected[0]:g} and {tested[0] * keep:g}"
    )
    consistent = math.isclose(expected[0], tested[0] * keep, rel_tol=1e-6)
    return ClaimResult(measured, _verdict(consistent), "alexnet/models/layers.py, Dropout")


def crops_and_flips(results: Results) -> ClaimResult:
    """C9: 2048 times the data."""
    index = np.arange(200_000)
    draws = draw(AugmentSpec(crop=224, flip=True), 256, 0, 0, index, index, None)
    places = len(np.unique(np.stack([draws.top, draws.left, draws.flip]), axis=1).T)
    measured = f"{places:,} different views among 200,000 draws: 33 × 33 places, mirrored or not"
    return ClaimResult(measured, CORRECTED if places == 2178 else REFUTED, "alexnet/data/augment.py, draw")


def colour_noise(results: Results) -> ClaimResult:
    """C10: shifts of p·α·λ."""
    images = np.concatenate([image.reshape(-1, 1, 1, 3) for image in load_sample_images().images])
    _, _, covariance = statistics(images, np.arange(len(images)))
    largest = float(principal_components(covariance)[0][0])
    root = math.sqrt(largest)
    measured = (
        f"on two photographs, one deviation of α shifts by {0.1 * largest:.0f} levels with λ on 0 … 255, "
        f"{0.1 * largest / 255:.1f} on 0 … 1, {0.1 * root:.1f} with √λ as the code has it"
    )
    usable = 0.1 * largest < 128  # levels, half of what a pixel can be
    return ClaimResult(
        measured, CONFIRMED if usable else CORRECTED, "augment.color_noise=paper and cuda-convnet; docs/paper.md, §4.1"
    )


def _biases() -> dict[str, float]:
    """Layer → where the paper's network starts its biases."""
    state = create_model("paper", num_classes=10, image_size=64, seed=0).state_dict()
    return {key.removesuffix(".bias"): float(value.mean()) for key, value in state.items() if key.endswith(".bias")}


def biases_of_one(results: Results) -> ClaimResult:
    """C11: biases start at 1 in conv2, 4, 5 and the hidden layers."""
    ones = [name for name, bias in _biases().items() if bias == 1]
    right = ones == ["conv2", "conv4", "conv5", "fc6", "fc7"]
    return ClaimResult(f"1 in {', '.join(ones)}; 0 elsewhere", _verdict(right), "alexnet/models/variants.py, PAPER")


def biases_of_linear_layers(results: Results) -> ClaimResult:
    """C29: biases start at 1 in "the fully connected layers"."""
    last = _biases()["fc8"]
    measured = f"fc6 and fc7 start at 1, fc8 at {last:g}: the paper says the hidden ones"
    return ClaimResult(measured, CONFIRMED if last == 1 else CORRECTED, "paper, §5")


def input_of_fc6(results: Results) -> ClaimResult:
    """C27: the first fully connected layer has 227 × 227 × 3 inputs."""
    inputs = {}
    for name in ("keras", "one-tower"):
        state = build(name, get_variant(name).architecture, 10, 3, None, "meta").state_dict()
        inputs[name] = state["fc6.weight"].shape[1]
    measured = ", ".join(f"{name} {count:,}" for name, count in inputs.items()) + f", not {227 * 227 * 3:,}"
    return ClaimResult(measured, _verdict(227 * 227 * 3 in inputs.values()), "alexnet summary keras")


PROSE = ((96, 11, 4, 0), (256, 5, 1, 2), (384, 3, 1, 1), (384, 3, 1, 1), (256, 3, 1, 1))  # filters, side, stride, zeros


def prose_network(results: Results) -> ClaimResult:
    """C28: the prose of the Keras retelling (two norms and a pool after each convolution) is its code's network."""
    side, rows, sides = 227, [], []
    for number, (filters, kernel, stride, padding) in enumerate(PROSE, 1):
        side = window_count(side + 2 * padding, kernel, stride)
        rows.append((f"conv{number}", "convolution", f"{filters}×{side}×{side}"))
        rows += [(f"norm{2 * number - 1 + more}", "norm", f"{filters}×{side}×{side}") for more in (0, 1)]
        side = window_count(side, 3, 2)
        sides.append(side)
        rows.append((f"pool{number}", "max pool", f"{filters}×{side}×{side}" if side else "nothing is left"))
    rows.append(("norm11", "norm", "before the fully connected layers"))
    rows += [("fc6", "fully connected", f"4096, of {227 * 227 * 3:,} inputs"), ("fc7", "fully connected", "4096")]
    rows.append(("fc8", "fully connected", "1000"))
    code = outline("keras").layers
    kinds = Counter(row.kind for row in code)
    measured = (
        f"with a pool after each convolution the maps are {', '.join(map(str, sides))} pixels: nothing is left; "
        f"its code has {kinds['max pool']} pools and {kinds['batch norm']} norms"
    )
    same = (kinds["max pool"], kinds["batch norm"]) == (len(PROSE), 2 * len(PROSE))
    header = ("layer", "kind", "output")
    cells = [(row.name, row.kind, "×".join(map(str, row.shape))) for row in code]
    details = f"the prose\n{table(header, rows)}\n\nthe code\n{table(header, cells)}"
    return ClaimResult(measured, _verdict(same), "alexnet summary keras", details)


def times_lenet(results: Results) -> ClaimResult:
    """C31: 384 channels are more than ten times LeNet's 16."""
    widest = max(row.shape[0] for row in outline("d2l").layers if row.kind == "convolution")
    lenet = max(row.shape[0] for row in outline("lenet5").layers if row.kind == "convolution")
    return ClaimResult(
        f"{widest} / {lenet} = {widest / lenet:g}", _verdict(widest > 10 * lenet), "alexnet summary lenet5"
    )


def regularization(results: Results) -> ClaimResult:
    """C32: LeNet uses weight decay, AlexNet dropout and augmentation: in the textbook's trainings, in the paper's."""
    lenet, textbook = get_recipe("lenet5-fashion-mnist"), get_recipe("d2l-fashion-mnist")
    plain = textbook.augment == AugmentSpec()
    measured = (
        f"the textbook's trainings: weight decay {lenet.optim.weight_decay:g} for LeNet; for AlexNet dropout 0.5 and "
        f"{'no augmentation' if plain else 'augmentation'}; the paper's AlexNet had all three, weight decay "
        f"{get_recipe('paper-imagenet').optim.weight_decay:g}"
    )
    refuted = lenet.optim.weight_decay == OptimSpec().weight_decay and plain
    return ClaimResult(measured, REFUTED if refuted else CONFIRMED, "alexnet list recipes --json")


def one_card(results: Results) -> ClaimResult:
    """C34: trained on two cards of 3 GB; what would one card have needed, layer by layer?

    The 2012 code kept each ReLU's output beside the output of the layer below it; later ones overwrite that.
    """
    layers = outline("cuda-convnet").layers
    weights = [3 * 4 * row.parameters / MIB for row in layers]  # weights, gradients and velocities
    maps = [2 * BATCH * row.activation_bytes / MIB for row in layers]  # outputs of a batch and their gradients
    followed = [row.kind == "convolution" or row.name in ("fc6", "fc7") for row in layers]
    rectified = [size if twice else 0.0 for size, twice in zip(maps, followed, strict=True)]
    held, made, more = (sum(column) / 1024 for column in (weights, maps, rectified))
    total = held + made + more
    measured = (
        f"the paper says so; one card would hold {held:.2f} GiB of weights, gradients and velocities, {made:.2f} GiB "
        f"of outputs of {BATCH} images and their gradients, and, as the code of 2012 did, {more:.2f} GiB of ReLU's by "
        f"themselves: {total:.2f} GiB, which is {'less' if total < 3 else 'more'} than 3, before the images and a "
        "convolution's own scratch space"
    )
    rows = [
        (row.name, row.kind, *(f"{size:,.1f}" for size in sizes))
        for row, *sizes in zip(layers, weights, maps, rectified, strict=True)
    ]
    details = table(("layer", "kind", "MiB of weights", "MiB of outputs", "MiB of its ReLU's"), rows)
    return ClaimResult(measured, CONFIRMED, "paper, §1 and §3.2; alexnet summary cuda-convnet", details)


def _verdict(right: bool) -> str:
    return CONFIRMED if right else REFUTED
