"""The paper, section by section: each sentence that can be code, where it is code, and what holds it to its word.

"What was run" is the authors' code as the Computer History Museum released it in 2025, network ``layers-145.cfg``,
which here is the variant ``cuda-convnet``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sentence:
    """``where``: recipe, variant, field or file; ``held_by``: the tests; ``ran``: what was run in 2012.

    ``measured_by``: claims, ablations and other trainings, by name: what they found are the measured figures.
    """

    section: str
    says: str
    where: str
    held_by: str
    ran: str
    measured_by: tuple[str, ...] = ()


SENTENCES = (
    Sentence(
        "§2", "images scaled to short side 256, centre 256 × 256 cut; the mean of each pixel subtracted",
        "`data/decode.py` `fit`, `data/writer.py` `statistics`, scaling `mean-image`",
        "`tests/data/test_decode.py`, `tests/data/test_store.py`, `tests/data/test_augment.py`",
        "the centre of the mean image, whatever the crop: scaling `mean-image-centre`",
    ),
    Sentence(
        "§3.1", "ReLU; figure 1: 25 % training error on CIFAR-10 in a sixth of tanh's epochs",
        "`models/alexnet.py` `ACTIVATIONS`; recipes `fig1-relu`, `fig1-tanh`",
        "`tests/model/test_network.py`, `tests/model/test_cifar.py`", "which net figure 1 shows is not known",
        ("C12", "C13", "C33"),
    ),
    Sentence(
        "§3.2", "two columns that meet at conv3 and from fc6 on", "`groups` in `models/variants.py`",
        "`tests/model/test_network.py`, the columns computed apart", "the same", ("ablate-columns", "C19"),
    ),
    Sentence(
        "§3.2", "a net with half the kernels on one card is 1.7 and 1.2 points worse", "variant `paper-half`",
        "`tests/model/test_variants.py`, parameters",
        "conv5 and the hidden layers not halved, as the footnote says: 39.2 and 18.2 % against 37.5 and 17.0 % "
        "(logs 145-half and 145-2010)",
        ("C25", "paper-half-tiny-imagenet"),
    ),
    Sentence(
        "§3.3", "response normalization: k = 2, n = 5, α = 1e-4, β = 0.75, after ReLU of layers 1 and 2",
        "`kernels/lrn.py`, convention `sum`", "`tests/model/test_response_norm.py`, the formula in float64",
        "α divided by n, windows inside a column, before ReLU in layer 1, a second norm inside each map after layer 2",
        ("C7", "C20"),
    ),
    Sentence(
        "§3.3", "normalization lowers ImageNet's errors by 1.4 and 1.2 points", "`model.norm_layer=absent`",
        "`tests/model/test_network.py`",
        "42.0 and 19.4 % without (log 148), 40.7 and 18.2 % with (log 145): 1.4 and 1.2",
        ("ablate-normalization", "ablate-normalization-slower"),
    ),
    Sentence(
        "§3.3", "a four-layer net on CIFAR-10: 13 % test error without normalization, 11 % with",
        "`models/cifar.py`; recipes `cuda-convnet-cifar10-13pct`, `cuda-convnet-cifar10-11pct`",
        "`tests/model/test_cifar.py`", "the 11 % net is also wider", ("C14",),
    ),
    Sentence(
        "§3.4", "pools of 3 at stride 2 instead of 2: 0.4 and 0.3 points",
        "`pool_kernel`, `pool_stride` in `models/alexnet.py`",
        "`tests/model/test_network.py`",
        "41.1 and 18.5 % without overlap (log 147, where conv2 pads 1 and conv5 nothing): 0.4 and 0.3 (log 145)",
        ("ablate-overlap", "C25"),
    ),
    Sentence(
        "§3.5", "eight learned layers; 224 × 224 in, 55 × 55 after conv1",
        "padding `ceil`: three zeros below and right",
        "`tests/model/test_layers.py`", "the same; 224 with floor arithmetic gives 54", ("C1", "C5", "C6"),
    ),
    Sentence(
        "§3.5", "60 million parameters", "variant `paper`: 60,965,224", "`tests/model/test_variants.py`", "the same",
        ("C2", "C3"),
    ),
    Sentence(
        "§4.1", "224 crops of 256 with mirror images, 2048 of them; ten test views, softmax averaged",
        "`data/augment.py` `draw`, `ten_windows`; `training/evaluate.py` `average`",
        "`tests/data/test_augment.py`, `tests/training/test_evaluate.py`",
        "33 × 33 places, one crop and flip for 32 images: `augment.crop_group=32`",
        ("C9", "ablate-crops-and-flips"),
    ),
    Sentence(
        "§4.1", "one view instead of ten: 39.0 and 18.3 % instead of 37.5 and 17.0 %",
        "`train.views`; `alexnet evaluate --views 10`", "`tests/training/test_evaluate.py`",
        "the same (log 145-2010)", ("ten views",),
    ),
    Sentence(
        "§4.1", "colours shifted along principal components by α·λ, α ~ N(0, 0.1²)", "`augment.color_noise=paper`",
        "`tests/data/test_augment.py`", "α·√λ, then everything divided by 1.1: `augment.color_noise=cuda-convnet`",
        ("C10", "ablate-colour-noise", "paper-colour-noise"),
    ),
    Sentence(
        "§4.2", "dropout 0.5 after fc6 and fc7; outputs halved at test", "`models/layers.py` `Dropout`, scaling `test`",
        "`tests/model/test_layers.py`", "the same", ("C8", "ablate-dropout"),
    ),
    Sentence(
        "§5", "v ← 0.9·v − 0.0005·ε·w − ε·g, w ← w + v; batches of 128", "`training/optimizer.py` `SGD2012`",
        "`tests/training/test_optimizer.py`",
        "biases at twice the rate and without decay: `optim.bias_lr_mult=2`, `optim.decay_biases=false`",
    ),
    Sentence(
        "§5", "weights N(0, 0.01²); biases 1 in conv2, 4, 5 and the hidden layers",
        "`std`, `bias` in `models/variants.py`",
        "`tests/model/test_variants.py`", "0.03 in conv3 to conv5",
        ("C11", "C29", "paper-tiny-imagenet", "cuda-convnet-tiny-imagenet"),
    ),
    Sentence(
        "§5", "the rate divided by 10 when the validation error stops improving, three times",
        "`training/schedule.py` `plateaus`; recipe `paper-imagenet`", "`tests/training/test_schedule.py`",
        "by hand, conv1 ahead of the rest and frozen at the end: recipe `cuda-convnet-imagenet`",
    ),
    Sentence(
        "§6", "top-1 and top-5 error of one network and of averages of several",
        "`training/evaluate.py`; `alexnet evaluate`",
        "`tests/training/test_evaluate.py`",
        "whether the averages of several were weighted is not known", ("C18", "C30", "ensembles"),
    ),
    Sentence(
        "§6.1", "one column's kernels are grey, the other's coloured", "`analysis/filters.py`, `training/statistics.py`",
        "`tests/model/test_kernels.py`, `tests/training/test_outcome.py`", "nothing of it is in the logs", ("C19",),
    ),
)  # fmt: skip
