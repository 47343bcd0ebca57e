"""Statements about history. They are checked by citations, because no computation can check them.

"Paper" is Krizhevsky, Sutskever and Hinton (NIPS 2012). Its table 1 is about the test set of ILSVRC-2010, its table 2
about ILSVRC-2012.
"""

from __future__ import annotations

from alexnet_lab.claims.claim_result import CORRECTED, NOT_SUPPORTED, ClaimResult
from alexnet_lab.results.reader import Results

TABLES = "paper, tables 1 and 2"


def one_row_two_sets(results: Results) -> ClaimResult:
    """C18: top-1 error 37.5 % and top-5 error 15.3 % in one row of a table."""
    measured = (
        "37.5 % and 17.0 % are the errors of one network on the test set of ILSVRC-2010; 15.3 % is the error of an "
        "average of seven networks on ILSVRC-2012, two of them pre-trained on ImageNet 2011; on its validation "
        "images one network has 40.7 % and 18.2 %"
    )
    return ClaimResult(CORRECTED, measured, TABLES, "37.5 % and 17.0 % (2010), 40.7 % and 18.2 % (2012)")


def runners_up(results: Results) -> ClaimResult:
    """C30: runner-up 26.2 % top-5 error, traditional methods about 47 % and 28 %."""
    measured = (
        "26.2 % is the error of the runner-up of ILSVRC-2012; 47.1 % and 28.2 % are the top-1 and top-5 errors of "
        "sparse coding on ILSVRC-2010, another test set two years earlier (SIFT and Fisher vectors have 45.7 % and "
        "25.7 % on it)"
    )
    return ClaimResult(CORRECTED, measured, TABLES, "figures of two test sets")


def first_to_use_relu(results: Results) -> ClaimResult:
    """C33: AlexNet was the first to use ReLU."""
    measured = (
        "Fukushima (1969) used the function, Nair and Hinton (2010) trained networks with it, and Glorot, Bordes and "
        "Bengio (2011) trained deep networks with it; the paper cites Nair and Hinton for the name. Another statement "
        "is that AlexNet was the first network of its size with ReLU; these papers do not contradict it"
    )
    return ClaimResult(
        NOT_SUPPORTED,
        measured,
        "Fukushima, IEEE Trans. Systems Science and Cybernetics 5(4), 1969; Nair and Hinton, ICML 2010 (reference 20 "
        "of the paper); Glorot, Bordes and Bengio, AISTATS 2011",
        "first used in 1969",
    )
