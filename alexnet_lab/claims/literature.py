"""Statements about history, which a source settles and no computation can: each with where it can be read.

"Paper" is Krizhevsky, Sutskever and Hinton (NIPS 2012); its table 1 is ILSVRC-2010's test set, its table 2 ILSVRC-2012.
"""

from __future__ import annotations

from alexnet_lab.claims.claim_result import CORRECTED, REFUTED, ClaimResult, Results

PAPER = "paper"


def one_row_two_sets(results: Results) -> ClaimResult:
    """C18: top-1 37.5 % and top-5 15.3 % in one row."""
    measured = (
        "37.5 % and 17.0 % are one network on ILSVRC-2010's test set; 15.3 % is an average of seven networks, two of "
        "them pre-trained on ImageNet 2011, on ILSVRC-2012's; one network is 40.7 % and 18.2 % there (val)"
    )
    return ClaimResult(measured, CORRECTED, f"{PAPER}, tables 1 and 2")


def runners_up(results: Results) -> ClaimResult:
    """C30: runner-up 26.2 % top-5, traditional methods about 47 % and 28 %."""
    measured = (
        "26.2 % is ILSVRC-2012's runner-up; 47.1 % and 28.2 % are sparse coding on ILSVRC-2010, another test set two "
        "years earlier (SIFT and Fisher vectors there: 45.7 % and 25.7 %)"
    )
    return ClaimResult(measured, CORRECTED, f"{PAPER}, tables 1 and 2")


def first_to_use_relu(results: Results) -> ClaimResult:
    """C33: AlexNet was the first to use ReLU (S3), or the first in a large network (S2)."""
    measured = (
        "Fukushima (1969) had the function, Nair and Hinton (2010) trained networks with it, and Glorot, Bordes and "
        "Bengio (2011) deep ones; the paper takes the name from the second. That it was the first network of its size "
        "to have them, as S2 says, is another statement, which these do not contradict"
    )
    return ClaimResult(
        measured,
        REFUTED,
        "Fukushima, IEEE Trans. Systems Science and Cybernetics 5(4), 1969; Nair and Hinton, ICML 2010 (the paper's "
        "reference 20); Glorot, Bordes and Bengio, AISTATS 2011",
    )
