"""The paper, section by section: each statement that code can implement, the code, its test, and the authors' code.

The authors' code is the one that the Computer History Museum released in 2025, with the network ``layers-145.cfg``,
which is the variant ``cuda-convnet`` here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PaperStatement:
    """A statement of the paper. ``where``: the recipe, variant, field or file. ``tests``: its test files.
    ``authors_code``: what the authors' code did. ``measured_by``: names of claims, ablations and other trainings whose
    results are the measured figures.
    """

    section: str
    statement: str
    where: str
    tests: str
    authors_code: str
    measured_by: tuple[str, ...] = ()


STATEMENTS = (
    PaperStatement(
        "§2", "images resized to short side 256, centre crop of 256 × 256; the mean of each pixel subtracted",
        "`data/decode.py` `fit`, `data/writer.py` `statistics`, normalization `mean-image`",
        "`tests/data/test_decode.py`, `tests/data/test_prepared.py`, `tests/data/test_augment.py`",
        "the centre of the mean image for every crop: normalization `mean-image-centre`",
    ),
    PaperStatement(
        "§3.1", "ReLU; figure 1: 25 % training error on CIFAR-10 in a sixth of tanh's epochs",
        "`models/alexnet.py` `ACTIVATIONS`; recipes `fig1-relu`, `fig1-tanh`",
        "`tests/models/test_alexnet.py`, `tests/models/test_cifar.py`", "it is not known which network figure 1 shows",
        ("C12", "C13", "C33"),
    ),
    PaperStatement(
        "§3.2", "two columns that meet at conv3 and from fc6 on", "`groups` in `models/variants.py`",
        "`tests/models/test_alexnet.py`, each column computed separately", "the same", ("ablate-columns", "C19"),
    ),
    PaperStatement(
        "§3.2", "a network with half the kernels on one GPU has 1.7 and 1.2 points more error", "variant `paper-half`",
        "`tests/models/test_variants.py`, parameters",
        "conv5 and the hidden layers at full width, as in the footnote: 39.2 and 18.2 % against 37.5 and 17.0 % "
        "(logs 145-half and 145-2010)",
        ("C25", "paper-half-tiny-imagenet"),
    ),
    PaperStatement(
        "§3.3", "local response normalization: k = 2, n = 5, α = 1e-4, β = 0.75, after ReLU of layers 1 and 2",
        "`models/layers.py` `LocalResponseNorm`, convention `sum`",
        "`tests/kernels/test_lrn.py`, the formula in float64",
        "α divided by n, windows inside a column, before ReLU in layer 1, a second LRN within each channel after "
        "layer 2",
        ("C7", "C20"),
    ),
    PaperStatement(
        "§3.3", "LRN lowers the errors on ImageNet by 1.4 and 1.2 points", "`model.norm_layer=none`",
        "`tests/models/test_alexnet.py`",
        "42.0 and 19.4 % without (log 148), 40.7 and 18.2 % with (log 145): 1.4 and 1.2",
        ("ablate-normalization", "ablate-normalization-slower"),
    ),
    PaperStatement(
        "§3.3", "a four-layer network on CIFAR-10: 13 % test error without normalization, 11 % with",
        "`models/cifar.py`; recipes `cuda-convnet-cifar10-13pct`, `cuda-convnet-cifar10-11pct`",
        "`tests/models/test_cifar.py`", "the 11 % network is also wider", ("C14",),
    ),
    PaperStatement(
        "§3.4", "pools of size 3 instead of 2, with stride 2: 0.4 and 0.3 points",
        "`pool_kernel`, `pool_stride` in `models/alexnet.py`",
        "`tests/models/test_alexnet.py`",
        "41.1 and 18.5 % without overlap (log 147, where conv2 has padding 1 and conv5 has none): 0.4 and 0.3 (log "
        "145)",
        ("ablate-overlap", "C25"),
    ),
    PaperStatement(
        "§3.5", "eight learned layers; input of 224 × 224, 55 × 55 after conv1",
        "padding `ceil`: three zeros below and at the right",
        "`tests/models/test_layers.py`", "the same; 224 with floor arithmetic gives 54", ("C1", "C5", "C6"),
    ),
    PaperStatement(
        "§3.5", "60 million parameters", "variant `paper`: 60,965,224", "`tests/models/test_variants.py`", "the same",
        ("C2", "C3"),
    ),
    PaperStatement(
        "§4.1", "crops of 224 from 256 and their mirror images, 2048 in all; ten test views, softmax outputs averaged",
        "`data/augment.py` `draw`, `ten_windows`; `training/evaluate.py` `average`",
        "`tests/data/test_augment.py`, `tests/training/test_evaluate.py`",
        "33 × 33 positions, one crop and flip for 32 images: `augment.crop_group=32`",
        ("C9", "ablate-crops-and-flips"),
    ),
    PaperStatement(
        "§4.1", "one view instead of ten: 39.0 and 18.3 % instead of 37.5 and 17.0 %",
        "`train.views`; `alexnet evaluate --views 10`", "`tests/training/test_evaluate.py`",
        "the same (log 145-2010)", ("ten views",),
    ),
    PaperStatement(
        "§4.1", "colours shifted along principal components by α·λ, α ~ N(0, 0.1²)", "`augment.color_noise=paper`",
        "`tests/data/test_augment.py`", "α·√λ, then everything divided by 1.1: `augment.color_noise=cuda-convnet`",
        ("C10", "ablate-colour-noise", "paper-colour-noise"),
    ),
    PaperStatement(
        "§4.2", "dropout 0.5 after fc6 and fc7; outputs halved in testing",
        "`models/layers.py` `Dropout`, scaling `test`",
        "`tests/models/test_layers.py`", "the same", ("C8", "ablate-dropout"),
    ),
    PaperStatement(
        "§5", "v ← 0.9·v − 0.0005·ε·w − ε·g, w ← w + v; batches of 128", "`training/optimizer.py` `SGD2012`",
        "`tests/training/test_optimizer.py`",
        "biases with twice the learning rate and without weight decay: `optim.bias_lr_mult=2`, "
        "`optim.decay_biases=false`",
    ),
    PaperStatement(
        "§5", "weights N(0, 0.01²); biases 1 in conv2, 4, 5 and the hidden layers",
        "`std`, `bias` in `models/variants.py`",
        "`tests/models/test_variants.py`", "0.03 in conv3 to conv5",
        ("C11", "C29", "paper-tiny-imagenet", "cuda-convnet-tiny-imagenet"),
    ),
    PaperStatement(
        "§5", "the learning rate divided by 10 when the validation error stops improving, three times",
        "`training/schedule.py` `plateaus`; recipe `paper-imagenet`", "`tests/training/test_schedule.py`",
        "by hand; conv1 earlier than the other layers and frozen at the end: recipe `cuda-convnet-imagenet`",
    ),
    PaperStatement(
        "§6", "top-1 and top-5 error of one network and of averages of several",
        "`training/evaluate.py`; `alexnet evaluate`",
        "`tests/training/test_evaluate.py`",
        "it is not known whether the averages were weighted", ("C18", "C30", "ensembles"),
    ),
    PaperStatement(
        "§6.1", "the kernels of one column are grey, those of the other coloured",
        "`analysis/filters.py`, `training/statistics.py`",
        "`tests/analysis/test_filters.py`, `tests/training/test_finalize.py`", "the logs do not show it", ("C19",),
    ),
)  # fmt: skip
