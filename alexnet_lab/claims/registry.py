"""Every checkable statement of five tutorials about AlexNet and of the paper, each with its check.

A measured figure that differs from the claimed one is also a result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from alexnet.core.errors import UserError, unknown
from alexnet_lab.claims import ablation_claims, literature_claims, network_claims, training_claims
from alexnet_lab.claims.claim_result import Statement
from alexnet_lab.experiments.ablations import BASE, SLOWER
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
from alexnet_lab.results.reader import Results

PYTORCH, TEXTBOOK, NOTES = "pytorch-tutorial", "textbook-tutorial", "paper-notes"
ONE_COLUMN, KERAS, PAPER = "one-column-introduction", "keras-tutorial", "paper"
SOURCES: Mapping[str, str] = {
    PYTORCH: "a PyTorch tutorial: torchvision's network on CIFAR-10",
    TEXTBOOK: "a tutorial after Dive into Deep Learning §8.1: one-channel network on Fashion-MNIST",
    NOTES: "reading notes on the 2012 paper",
    ONE_COLUMN: "a short introduction: network in one column, training on two GPUs",
    KERAS: "a Keras tutorial: batch normalization and transfer learning",
    PAPER: "Krizhevsky, Sutskever and Hinton, NIPS 2012",
}
"""Short name → what the source is. The first five are tutorials and notes from the web."""

TUTORIALS = (PYTORCH, TEXTBOOK, NOTES, ONE_COLUMN, KERAS)

_STATEMENTS = (
    Statement("C1", "AlexNet has eight learned layers", TUTORIALS, "5 + 3", network_claims.learned_layers),
    Statement("C2", "It has about 60 million parameters", (NOTES,), "60 million", network_claims.parameters),
    Statement(
        "C3", "Fully connected layers have over 80 % of the parameters", (TEXTBOOK,), "4096 × 4096 × 2 ≈ 33 M",
        network_claims.fully_connected_share,
    ),
    Statement("C4", "The output sizes of the textbook's layers", (TEXTBOOK,), "54, 26, 26, 12, …, 6400",
              network_claims.textbook_shapes),
    Statement("C5", "conv1 with 224 pixels, stride 4 and no padding gives 55", (NOTES,), "55",
              network_claims.first_convolution),
    Statement("C6", "Receptive fields of the convolutions", (NOTES,), "11, 51, 99, 131, 163",
              network_claims.receptive_fields),
    Statement("C7", "LRN has k = 2, n = 5, α = 1e-4, β = 0.75", (NOTES,), "α = 1e-4",
              network_claims.normalization_constants),
    Statement("C8", "Dropout divides by p in training and halves in testing", (NOTES,), "both scalings",
              network_claims.dropout_twice),
    Statement("C9", "Crops and flips make 2048 times the data", (NOTES,), "2048", network_claims.crops_and_flips),
    Statement("C10", "Colour noise adds α·λ along the principal components", (NOTES, ONE_COLUMN), "λ",
              network_claims.colour_noise),
    Statement("C11", "Biases start at 1 in conv2, 4, 5 and the hidden layers", (NOTES,), "1",
              network_claims.biases_of_one),
    Statement(
        "C12", "ReLU trains six times faster than tanh", (TEXTBOOK, NOTES, PAPER), "6 × (textbook tutorial: 10 ×)",
        training_claims.relu_and_tanh, tuple(name for name in EXPERIMENTS if name.startswith("fig1-")),
    ),
    Statement(
        "C13", "About half of the ReLU units are active", (NOTES,), "50 %", training_claims.active_units,
        training_claims.ACTIVE,
    ),
    Statement(
        "C14", "A four-layer network has 13 % error without normalization, 11 % with it", (PAPER,), "13 %, 11 %",
        training_claims.four_layer_networks, (*training_claims.FOUR_LAYERS, *training_claims.FOUR_LAYERS_SHORT),
    ),
    Statement(
        "C15", "The textbook's AlexNet on Fashion-MNIST: loss, training and test accuracy", (TEXTBOOK,),
        "loss 0.33, 88 %, 89 %", training_claims.textbook_alexnet, (training_claims.D2L,),
    ),
    Statement(
        "C16", "LeNet reaches 84 % on Fashion-MNIST, AlexNet is better", (TEXTBOOK,), "84 %, 89 %",
        training_claims.lenet_and_alexnet, (training_claims.LENET, training_claims.D2L),
    ),
    Statement(
        "C17", "Training processes about 3,900 images per second on a V100", (TEXTBOOK,), "3,900",
        training_claims.samples_per_second,
    ),
    Statement("C18", "One network has top-1 error 37.5 % and top-5 error 15.3 %", (NOTES,), "37.5 %, 15.3 %",
              literature_claims.one_row_two_sets),
    Statement(
        "C19", "One column specializes in orientation, the other in colour", (ONE_COLUMN,), "the columns specialize",
        ablation_claims.columns_specialise, (BASE, "ablate-columns", *ablation_claims.LARGE_COLUMNS),
    ),
    Statement(
        "C20", "LRN has little effect", (ONE_COLUMN,), "little effect", ablation_claims.response_normalization,
        ablation_claims.with_base("ablate-normalization", SLOWER, "ablate-normalization-slower"),
    ),
    Statement(
        "C21", "Images of 28 pixels must be enlarged", (TEXTBOOK,), "224 pixels", training_claims.enlarged_images,
        (training_claims.PIXELS_28, training_claims.PIXELS_65, training_claims.D2L, training_claims.OTHER_28),
    ),
    Statement(
        "C22", "Batch normalization stabilizes and speeds up training", (KERAS,), "more stable and faster",
        training_claims.batch_norm_on_cifar10, (STEPS, STEPS_NORMALIZED, WHOLE_NORMALIZED, "with-batch-norm"),
    ),
    Statement(
        "C23", "Transfer learning is faster and overfits less", (KERAS,), "faster, less overfitting",
        training_claims.transfer_learning,
    ),
    Statement(
        "C24", "Augmentation improves generalization", (NOTES, KERAS), "better generalization",
        ablation_claims.augmentation,
        ablation_claims.with_base("ablate-crops-and-flips", "ablate-colour-noise"),
    ),
    Statement(
        "C25", "Overlapping pools gain 0.4 points, two columns gain 1.7", (PAPER,), "0.4, 1.7",
        ablation_claims.overlap_and_columns, ablation_claims.with_base("ablate-overlap", "ablate-half",
        "ablate-columns"),
    ),
    Statement(
        "C26", "Adam at 1e-3 trains this network on CIFAR-10 in five epochs", (PYTORCH,), "the network learns",
        training_claims.adam_on_cifar10, (STEPS, STEPS_FP32, STEPS_FIXED, training_claims.WHOLE),
    ),
    Statement("C27", "fc6 has 227 × 227 × 3 inputs", (KERAS,), "154,587", network_claims.input_of_fc6),
    Statement("C28", "The tutorial's text and code describe the same network", (KERAS,), "the same network",
              network_claims.described_network),
    Statement("C29", "Biases start at 1 in the fully connected layers", (NOTES,), "all three",
              network_claims.biases_of_linear_layers),
    Statement("C30", "Top-5 error: runner-up 26.2 %, traditional methods 47 % and 28 %", (NOTES,), "one table for all",
              literature_claims.runners_up),
    Statement("C31", "384 channels are over ten times LeNet's 16", (TEXTBOOK,), "> 10 ×", network_claims.times_lenet),
    Statement("C32", "LeNet has only weight decay, AlexNet has dropout and augmentation", (TEXTBOOK,),
              "weight decay; dropout and augmentation", network_claims.regularization),
    Statement("C33", "AlexNet was the first to use ReLU", (ONE_COLUMN, NOTES), "the first",
              literature_claims.first_to_use_relu),
    Statement("C34", "It was trained on two GPUs of 3 GB", (TEXTBOOK,), "2 × 3 GB", network_claims.one_card),
)  # fmt: skip

STATEMENTS: Mapping[str, Statement] = {statement.id: statement for statement in _STATEMENTS}

TIMED = "C17"  # the claim about speed: timed, not trained


def get_statement(name: str) -> Statement:
    """A statement by its number, in upper or lower case. Raises ``UserError`` naming the nearest if there is none."""
    if name.upper() not in STATEMENTS:
        raise unknown("claim", name, STATEMENTS)
    return STATEMENTS[name.upper()]


def needed_experiments(claims: Sequence[str], results: Results, device: Device, *, missing: bool) -> list[Experiment]:
    """The experiments that the checks of ``claims`` read (all if empty), cheapest first.

    ``missing``: only those without results. Raises ``UserError`` for a claim that does not exist, or if no training
    belongs to any of them.
    """
    names = set(EXPERIMENTS)
    if claims:
        names = {training for claim in claims for training in get_statement(claim).trainings} & names
        if not names:
            trained = [name for name, item in STATEMENTS.items() if set(item.trainings) & set(EXPERIMENTS)]
            raise UserError(
                f"the check of {', '.join(claims)} needs no training: those that need one are {', '.join(trained)}"
            )
    wanted = [item for name, item in EXPERIMENTS.items() if name in names and item.seeds(device)]
    lacking = [item for item in wanted if not (missing and results.has(item.name, item.seeds(device), device))]
    return sorted(lacking, key=lambda item: item.cost(device))
