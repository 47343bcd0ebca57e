"""Every checkable statement of the five source documents, with its check.

The documents are retellings of AlexNet as they are passed around: S0 a tutorial with torchvision's network on CIFAR-10,
S1 one after *Dive into Deep Learning* §8.1, S2 reading notes on the paper, S3 a short retelling with a network in one
column, S4 a tutorial with Keras. A result outside what one says is a finding, not a failure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from alexnet.core.errors import UserError, unknown
from alexnet_lab.claims import ablation as ablations
from alexnet_lab.claims import literature, network, training
from alexnet_lab.claims.claim_result import Results, Statement
from alexnet_lab.experiments.ablations import SLOWER
from alexnet_lab.experiments.registry import (
    EXPERIMENTS,
    STEPS,
    STEPS_FIXED,
    STEPS_FP32,
    STEPS_NORMALIZED,
    WHOLE_NORMALIZED,
    Device,
    Experiment,
)

DOCUMENTS: Mapping[str, str] = {
    "S0": "a tutorial with torchvision's network on CIFAR-10",
    "S1": "a tutorial after Dive into Deep Learning §8.1",
    "S2": "reading notes on the paper",
    "S3": "a short retelling, its network in one column",
    "S4": "a tutorial with Keras",
    "paper": "Krizhevsky, Sutskever and Hinton, NIPS 2012",
}

_STATEMENTS = (
    Statement("C1", "eight learned layers", "all", "5 + 3", network.learned_layers),
    Statement("C2", "about 60 million parameters", "S2", "60 M", network.parameters),
    Statement(
        "C3", "fully connected layers hold over 80 % of the parameters", "S1", "4096 × 4096 × 2 ≈ 33 M",
        network.fully_connected_share,
    ),
    Statement("C4", "the shapes of the textbook's layers", "S1", "54, 26, 26, 12, …, 6400", network.textbook_shapes),
    Statement("C5", "224 pixels, stride 4, no padding give 55", "S2", "55", network.first_convolution),
    Statement("C6", "receptive fields of the convolutions", "S2", "11, 51, 99, 131, 163", network.receptive_fields),
    Statement("C7", "k = 2, n = 5, α = 1e-4, β = 0.75", "S2", "α = 1e-4", network.normalization_constants),
    Statement("C8", "dropout divides by p in training and halves in testing", "S2", "both", network.dropout_twice),
    Statement("C9", "crops and flips make 2048 times the data", "S2", "2048", network.crops_and_flips),
    Statement("C10", "colour noise of α·λ along the components", "S2, S3", "λ", network.colour_noise),
    Statement("C11", "biases of 1 in conv2, 4, 5 and the hidden layers", "S2", "1", network.biases_of_one),
    Statement(
        "C12", "ReLU trains six times faster than tanh", "S1, S2, paper", "6 × (S1: 10 ×)", training.relu_and_tanh,
        tuple(name for name in EXPERIMENTS if name.startswith("fig1-")),
    ),
    Statement(
        "C13", "about half of the ReLU units are active", "S2", "50 %",
        training.active_units, training.ACTIVE,
    ),
    Statement(
        "C14", "a four-layer net: 13 % error without, 11 % with normalization", "paper", "13 %, 11 %",
        training.four_layer_nets, (*training.FOUR_LAYERS, *training.FOUR_LAYERS_BRIEFLY),
    ),
    Statement(
        "C15", "the textbook's AlexNet on Fashion-MNIST", "S1", "loss 0.33, 88 %, 89 %", training.textbook_alexnet,
        ("d2l-fashion-mnist",),
    ),
    Statement(
        "C16", "LeNet reaches 84 % there, AlexNet is better", "S1", "84 %, 89 %", training.lenet_and_alexnet,
        ("lenet5-fashion-mnist", "d2l-fashion-mnist"),
    ),
    Statement(
        "C17", "about 3,900 samples a second on a V100", "S1", "3,900", training.samples_per_second
    ),
    Statement("C18", "top-1 37.5 % and top-5 15.3 %", "S2", "37.5 %, 15.3 %", literature.one_row_two_sets),
    Statement(
        "C19", "one column sees orientation, the other colour", "S3", "they specialise",
        ablations.columns_specialise, (*ablations.ablation("ablate-columns"), *ablations.LARGE_COLUMNS),
    ),
    Statement(
        "C20", "response normalization hardly matters", "S3", "little", ablations.response_normalization,
        ablations.ablation("ablate-normalization", SLOWER, "ablate-normalization-slower"),
    ),
    Statement(
        "C21", "28-pixel images must be enlarged", "S1", "224", training.enlarged_images,
        ("fashion-mnist-28-pixels", "fashion-mnist-65-pixels", "d2l-fashion-mnist", "small-fashion-mnist-quick"),
    ),
    Statement(
        "C22", "batch normalization stabilises and speeds training", "S4", "it does",
        training.batch_norm_on_cifar10, (STEPS, STEPS_NORMALIZED, WHOLE_NORMALIZED),
    ),
    Statement(
        "C23", "transfer learning is faster and overfits less", "S4", "it does",
        lambda results: training.not_measured("transfer is not built yet"),
    ),
    Statement(
        "C24", "augmentation improves generalization", "S2, S4", "it does", ablations.augmentation,
        ablations.ablation("ablate-crops-and-flips", "ablate-colour-noise"),
    ),
    Statement(
        "C25", "overlapping pools gain 0.4 points, two columns 1.7", "paper", "0.4, 1.7", ablations.overlap_and_columns,
        ablations.ablation("ablate-overlap", "ablate-half", "ablate-columns"),
    ),
    Statement(
        "C26", "Adam at 1e-3 trains this network on CIFAR-10 in five epochs", "S0", "it trains",
        training.adam_on_cifar10, (STEPS, STEPS_FP32, STEPS_FIXED, "torchvision-cifar10"),
    ),
    Statement("C27", "fc6 has 227 × 227 × 3 inputs", "S4", "154,587", network.input_of_fc6),
    Statement("C28", "the prose's network is the code's", "S4", "the same", network.prose_network),
    Statement("C29", "biases of 1 in the fully connected layers", "S2", "all three", network.biases_of_linear_layers),
    Statement("C30", "runner-up 26.2 %, traditional methods 47 % and 28 %", "S2", "one table", literature.runners_up),
    Statement("C31", "384 channels are over ten times LeNet's 16", "S1", "> 10 ×", network.times_lenet),
    Statement("C32", "LeNet has weight decay, AlexNet augmentation", "S1", "they have", network.regularization),
    Statement("C33", "AlexNet was the first to use ReLU", "S3, S2", "the first", literature.first_to_use_relu),
    Statement("C34", "trained on two cards of 3 GB", "S1", "2 × 3 GB", network.one_card),
)  # fmt: skip

STATEMENTS: Mapping[str, Statement] = {statement.id: statement for statement in _STATEMENTS}


def get_statement(name: str) -> Statement:
    """A statement by its number, in either case. Raises ``UserError`` naming the nearest if there is none."""
    if name.upper() not in STATEMENTS:
        raise unknown("claim", name, STATEMENTS)
    return STATEMENTS[name.upper()]


def needed(claims: Sequence[str], results: Results, device: Device, *, missing: bool) -> list[Experiment]:
    """The experiments that claims (none: all of them) read, cheapest first; with ``missing`` only the unmeasured.

    Raises ``UserError`` for a claim that does not exist or that no training answers.
    """
    names = set(EXPERIMENTS)
    if claims:
        names = {training for claim in claims for training in get_statement(claim).trainings} & names
        if not names:
            answered = [name for name, item in STATEMENTS.items() if set(item.trainings) & set(EXPERIMENTS)]
            raise UserError(f"no training answers {', '.join(claims)}: those that one does are {', '.join(answered)}")
    wanted = [item for name, item in EXPERIMENTS.items() if name in names and item.seeds(device)]
    lacking = [item for item in wanted if not (missing and results.has(item.name, item.seeds(device), device))]
    return sorted(lacking, key=lambda item: item.cost(device))
