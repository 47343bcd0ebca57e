"""Statements about the network itself. Each check computes its figures from the network."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import torch
from sklearn.datasets import load_sample_images

from alexnet.analysis.receptive_field import receptive_field
from alexnet.config import AugmentSpec
from alexnet.data.augment import draw
from alexnet.data.writer import principal_components, statistics
from alexnet.models.alexnet import LinearLayer
from alexnet.models.layers import Dropout, LocalResponseNorm, padding_amounts, window_count
from alexnet.models.registry import build, create_model, get_variant
from alexnet.models.summary import Summary, summarize
from alexnet.models.variants import VARIANTS
from alexnet.recipes import get_recipe
from alexnet.report.tables import dimensions, table
from alexnet_lab.claims.claim_result import CORRECTED, NOT_SUPPORTED, SUPPORTED, ClaimResult, Verdict
from alexnet_lab.results.reader import Results

ALEXNETS = [name for name, row in VARIANTS.items() if row.architecture is not None and name not in ("small", "trunk")]
MILLION, MIB = 1e6, 2**20
BATCH = 128  # paper §5


def layer_table(name: str) -> Summary:
    """The layers of a variant, with the classes and channels of its authors; it allocates no memory."""
    row = get_variant(name)
    return summarize(build(name, row.architecture, row.num_classes, row.in_channels, None, device="meta"))


def learned_layers(results: Results) -> ClaimResult:
    """C1: eight learned layers."""
    kinds = {name: Counter(row.kind for row in layer_table(name).layers) for name in ALEXNETS}
    right = all((count["convolution"], count["fully connected"]) == (5, 3) for count in kinds.values())
    measured = "5 convolutions and 3 fully connected layers in every variant"
    return ClaimResult(_verdict(right), measured, "alexnet summary paper", "5 + 3")


def parameters(results: Results) -> ClaimResult:
    """C2: about 60 million parameters."""
    counts = {name: layer_table(name).parameters for name in ("paper", "torchvision", "one-tower")}
    measured = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    right = all(abs(count - 60e6) < 3e6 for count in counts.values())
    return ClaimResult(_verdict(right), measured, "alexnet summary", f"{counts['paper'] / MILLION:.1f} million")


def fully_connected_share(results: Results) -> ClaimResult:
    """C3: more than 80 % of the parameters are fully connected, "4096 × 4096 × 2 ≈ 33 M" of them."""
    shares, rows, split = [], [], ""
    for name in ALEXNETS:
        summary = layer_table(name)
        linear = {row.name: row.parameters for row in summary.layers if row.kind == "fully connected"}
        shares.append(sum(linear.values()) / summary.parameters)
        rows.append((name, f"{summary.parameters:,}", *(f"{n:,}" for n in linear.values()), f"{shares[-1]:.1%}"))
        if name == "d2l":
            split = " + ".join(f"{count / MILLION:.2f} M" for count in linear.values())
    details = table(("variant", "parameters", "fc6", "fc7", "fc8", "fully connected"), rows)
    figure = f"{min(shares):.1%} to {max(shares):.1%}"
    measured = f"{figure} over all variants; the source's own network has {split}"
    reason = "The share is right. The arithmetic is wrong: fc6 has more than 4096 × 4096 weights."
    verdict = CORRECTED if min(shares) > 0.8 else NOT_SUPPORTED
    return ClaimResult(verdict, measured, "alexnet summary d2l", figure, reason, details)


def textbook_shapes(results: Results) -> ClaimResult:
    """C4: the textbook's shapes, layer by layer."""
    shapes = [row.shape for row in layer_table("d2l").layers]
    sizes = [shape[-1] for shape in shapes[:8]] + [math.prod(shapes[7])] + [shape[0] for shape in shapes[8:]]
    right = sizes == [54, 26, 26, 12, 12, 12, 12, 5, 6400, 4096, 4096, 10]
    return ClaimResult(_verdict(right), ", ".join(map(str, sizes)), "alexnet summary d2l")


def first_convolution(results: Results) -> ClaimResult:
    """C5: 224 pixels, stride 4 and no padding give 55."""
    floor = window_count(224, 11, 4)
    before, after = padding_amounts(224, 11, 4, "ceil")
    padded = window_count(224 + before + after, 11, 4)
    measured = f"{floor} without padding; {padded} with {before} zeros above and left and {after} below and right"
    verdict = CORRECTED if floor != 55 and padded == 55 else _verdict(floor == 55)
    return ClaimResult(verdict, measured, "alexnet summary paper; docs/paper.md, §3.5", f"{floor} without padding")


def receptive_fields(results: Results) -> ClaimResult:
    """C6: receptive fields of 11, 51, 99, 131 and 163 pixels."""
    narrow = (LinearLayer(8), LinearLayer(8))
    network = create_model("paper", num_classes=2, image_size=447, hidden=narrow, seed=0)
    by_gradient = [receptive_field(network, f"conv{number}") for number in range(1, 6)]
    by_arithmetic = [row.receptive_field for row in layer_table("paper").layers if row.kind == "convolution"]
    pool5 = receptive_field(network, "pool5")
    figure = ", ".join(map(str, by_gradient))
    right = by_gradient == by_arithmetic == [11, 51, 99, 131, 163]
    measured = f"{figure} by gradient and by arithmetic; {pool5} after pool5"
    return ClaimResult(_verdict(right), measured, "alexnet summary paper")


def normalization_constants(results: Results) -> ClaimResult:
    """C7: k = 2, n = 5, α = 1e-4, β = 0.75."""
    ones = torch.full((1, 5, 1, 1), 100.0, dtype=torch.float64)
    text, code = (
        float(LocalResponseNorm(5, 1e-4, 0.75, 2.0, convention, 1)(ones)[0, 2]) for convention in ("sum", "mean")
    )
    measured = (
        f"five units of 100 become {text:.2f} by the paper's formula and {code:.2f} by the authors' code, which "
        "divides α by n"
    )
    verdict = SUPPORTED if math.isclose(text, code, rel_tol=1e-6) else CORRECTED
    return ClaimResult(
        verdict, measured, "variants paper and cuda-convnet; docs/paper.md, §3.3", "α / 5 in the authors' code"
    )


def dropout_twice(results: Results) -> ClaimResult:
    """C8: x/p in training and x · 0.5 in testing."""
    x, keep = torch.ones(1, 10_000), 0.5
    inverted, original = Dropout(0.5, "train").train(), Dropout(0.5, "test").train()
    mask = torch.arange(10_000)[None] % 2 == 0
    trained = [float(layer.forward(x, mask).mean()) for layer in (inverted, original)]
    tested = [float(layer.eval().forward(x).mean()) for layer in (inverted, original)]
    measured = (
        f"mean output in training and in testing: {trained[0]:g} and {tested[0]:g} if scaled in training, "
        f"{trained[1]:g} and {tested[1]:g} if scaled in testing, {trained[0]:g} and {tested[0] * keep:g} if both"
    )
    consistent = math.isclose(trained[0], tested[0] * keep, rel_tol=1e-6)
    figure = f"mean output {trained[0]:g} in training, {tested[0] * keep:g} in testing"
    return ClaimResult(_verdict(consistent), measured, "alexnet/models/layers.py, Dropout", figure)


def crops_and_flips(results: Results) -> ClaimResult:
    """C9: crops and flips make 2048 times the data."""
    index = np.arange(200_000)
    draws = draw(AugmentSpec(crop=224, flip=True), 256, 0, 0, index, index, None)
    places = len(np.unique(np.stack([draws.top, draws.left, draws.flip]), axis=1).T)
    measured = f"{places:,} different views among 200,000 draws: 33 × 33 positions, flipped or not"
    verdict = CORRECTED if places == 2178 else NOT_SUPPORTED
    return ClaimResult(verdict, measured, "alexnet/data/augment.py, draw", f"{places:,}")


def colour_noise(results: Results) -> ClaimResult:
    """C10: colour noise of p·α·λ."""
    images = np.concatenate([image.reshape(-1, 1, 1, 3) for image in load_sample_images().images])
    _, _, covariance = statistics(images, np.arange(len(images)))
    largest = float(principal_components(covariance)[0][0])
    root = math.sqrt(largest)
    measured = (
        f"on two photographs, one standard deviation of α shifts a pixel by {0.1 * largest:.0f} levels with λ on the "
        f"scale 0 … 255, by {0.1 * largest / 255:.1f} with λ on 0 … 1, and by {0.1 * root:.1f} with √λ, which the "
        "authors' code has"
    )
    usable = 0.1 * largest < 128  # levels, half of the range of a pixel
    evidence = "augment.color_noise=paper and cuda-convnet; docs/paper.md, §4.1"
    return ClaimResult(SUPPORTED if usable else CORRECTED, measured, evidence, "√λ in the authors' code")


def _biases() -> dict[str, float]:
    """Layer → the initial value of its biases in the paper's network."""
    state = create_model("paper", num_classes=10, image_size=64, seed=0).state_dict()
    return {key.removesuffix(".bias"): float(value.mean()) for key, value in state.items() if key.endswith(".bias")}


def biases_of_one(results: Results) -> ClaimResult:
    """C11: biases start at 1 in conv2, 4, 5 and the hidden layers."""
    ones = [name for name, bias in _biases().items() if bias == 1]
    right = ones == ["conv2", "conv4", "conv5", "fc6", "fc7"]
    measured = f"1 in {', '.join(ones)}; 0 in all others"
    return ClaimResult(_verdict(right), measured, "alexnet/models/variants.py, PAPER")


def biases_of_linear_layers(results: Results) -> ClaimResult:
    """C29: biases start at 1 in "the fully connected layers"."""
    last = _biases()["fc8"]
    measured = f"fc6 and fc7 start at 1, fc8 starts at {last:g}; the paper names the hidden layers only"
    return ClaimResult(SUPPORTED if last == 1 else CORRECTED, measured, "paper, §5", "two of three layers")


def input_of_fc6(results: Results) -> ClaimResult:
    """C27: the first fully connected layer has 227 × 227 × 3 inputs."""
    inputs = {}
    for name in ("keras", "one-tower"):
        state = build(name, get_variant(name).architecture, 10, 3, None, "meta").state_dict()
        inputs[name] = state["fc6.weight"].shape[1]
    measured = ", ".join(f"{name} {count:,}" for name, count in inputs.items()) + f", not {227 * 227 * 3:,}"
    verdict = _verdict(227 * 227 * 3 in inputs.values())
    return ClaimResult(verdict, measured, "alexnet summary keras", f"{inputs['keras']:,}")


DESCRIBED = ((96, 11, 4, 0), (256, 5, 1, 2), (384, 3, 1, 1), (384, 3, 1, 1), (256, 3, 1, 1))
"""The convolutions that the Keras tutorial's text describes: filters, kernel, stride, padding."""


def described_network(results: Results) -> ClaimResult:
    """C28: the text of the Keras tutorial (two norms and a pool after each convolution) describes its code."""
    side, rows, sides = 227, [], []
    for number, (filters, kernel, stride, padding) in enumerate(DESCRIBED, 1):
        side = window_count(side + 2 * padding, kernel, stride)
        rows.append((f"conv{number}", "convolution", f"{filters}×{side}×{side}"))
        rows += [(f"norm{2 * number - 1 + more}", "norm", f"{filters}×{side}×{side}") for more in (0, 1)]
        side = window_count(side, 3, 2)
        sides.append(side)
        rows.append((f"pool{number}", "max pool", f"{filters}×{side}×{side}" if side else "nothing is left"))
    rows.append(("norm11", "norm", "before the fully connected layers"))
    rows += [("fc6", "fully connected", f"4096, of {227 * 227 * 3:,} inputs"), ("fc7", "fully connected", "4096")]
    rows.append(("fc8", "fully connected", "1000"))
    code = layer_table("keras").layers
    kinds = Counter(row.kind for row in code)
    measured = (
        f"with a pool after each convolution the feature maps have sides of {', '.join(map(str, sides))} pixels, so "
        f"nothing is left; the code has {kinds['max pool']} pools and {kinds['batch norm']} normalizations"
    )
    same = (kinds["max pool"], kinds["batch norm"]) == (len(DESCRIBED), 2 * len(DESCRIBED))
    header = ("layer", "kind", "output")
    cells = [(row.name, row.kind, dimensions(row.shape)) for row in code]
    details = f"as described\n{table(header, rows)}\n\nas coded\n{table(header, cells)}"
    return ClaimResult(_verdict(same), measured, "alexnet summary keras", details=details)


def times_lenet(results: Results) -> ClaimResult:
    """C31: 384 channels are more than ten times LeNet's 16."""
    widest = max(row.shape[0] for row in layer_table("d2l").layers if row.kind == "convolution")
    lenet = max(row.shape[0] for row in layer_table("lenet5").layers if row.kind == "convolution")
    ratio = widest / lenet
    measured = f"{widest} / {lenet} = {ratio:g}"
    return ClaimResult(_verdict(widest > 10 * lenet), measured, "alexnet summary lenet5", f"{ratio:g} ×")


def regularization(results: Results) -> ClaimResult:
    """C32: LeNet has weight decay only, AlexNet has dropout and augmentation.

    The part about AlexNet is compared with the paper's training, the part about LeNet with the training that the source
    describes. Both right: supported; one: corrected; none: not supported.
    """
    lenet, textbook, paper = map(get_recipe, ("lenet5-fashion-mnist", "d2l-fashion-mnist", "paper-imagenet"))
    augmented = paper.augment != AugmentSpec()
    dropout = layer_dropout("paper") > 0
    right = [lenet.optim.weight_decay > 0, augmented and dropout]
    measured = (
        f"the paper's AlexNet has dropout {layer_dropout('paper'):g}, {'' if augmented else 'no '}augmentation and "
        f"weight decay {paper.optim.weight_decay:g}; in the source's own trainings LeNet has weight decay "
        f"{lenet.optim.weight_decay:g}, and AlexNet has dropout {layer_dropout('d2l'):g} and "
        f"{'no augmentation' if textbook.augment == AugmentSpec() else 'augmentation'}"
    )
    verdict = SUPPORTED if all(right) else CORRECTED if any(right) else NOT_SUPPORTED
    reason = (
        "The part about AlexNet is right, but the paper's AlexNet also has weight decay. LeNet's "
        "training in the textbook has no weight decay."
    )
    return ClaimResult(
        verdict, measured, "alexnet list recipes --json", "partly right", reason if verdict == CORRECTED else ""
    )


def layer_dropout(variant: str) -> float:
    """The dropout probability of an AlexNet."""
    architecture = get_variant(variant).architecture
    return 0.0 if architecture is None else float(architecture.dropout)


def one_card(results: Results) -> ClaimResult:
    """C34: trained on two GPUs of 3 GB. How much memory would one GPU need, layer by layer?

    The code of 2012 kept the output of each ReLU in addition to the output of the layer before it; later libraries
    overwrite that.
    """
    layers = layer_table("cuda-convnet").layers
    weights = [3 * 4 * row.parameters / MIB for row in layers]  # weights, gradients and velocities
    outputs = [2 * BATCH * row.activation_bytes / MIB for row in layers]  # of a batch, and their gradients
    has_relu = [row.kind == "convolution" or row.name in ("fc6", "fc7") for row in layers]
    rectified = [size if relu else 0.0 for size, relu in zip(outputs, has_relu, strict=True)]
    parts = [sum(column) / 1024 for column in (weights, outputs, rectified)]
    total = sum(parts)
    measured = (
        f"the paper reports it; one GPU would need {parts[0]:.2f} GiB for weights, gradients and velocities, "
        f"{parts[1]:.2f} GiB for the outputs of {BATCH} images and their gradients, and {parts[2]:.2f} GiB for the "
        f"separate ReLU outputs of the 2012 code: {total:.2f} GiB, {'less' if total < 3 else 'more'} than 3, without "
        "the images and the workspace of the convolutions"
    )
    rows = [
        (row.name, row.kind, *(f"{size:,.1f}" for size in sizes))
        for row, *sizes in zip(layers, weights, outputs, rectified, strict=True)
    ]
    details = table(("layer", "kind", "MiB of weights", "MiB of outputs", "MiB of ReLU outputs"), rows)
    evidence = "paper, §1 and §3.2; alexnet summary cuda-convnet"
    return ClaimResult(SUPPORTED, measured, evidence, f"{total:.2f} GiB for one GPU", details=details)


def _verdict(right: bool) -> Verdict:
    return SUPPORTED if right else NOT_SUPPORTED
