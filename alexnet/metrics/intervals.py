"""Confidence intervals of accuracies: how precisely a number of images determines them.

The interval of a share is Wilson's score interval (E. B. Wilson, "Probable inference, the law of succession, and
statistical inference", Journal of the American Statistical Association 22, 1927, pp. 209-212), as SciPy computes it. It
stays within 0 and 1 and is useful for few images and for shares near 0 or 1, where the normal approximation is not
(Brown, Cai and DasGupta, "Interval estimation for a binomial proportion", Statistical Science 16, 2001, pp. 101-133).
"""

from __future__ import annotations

CONFIDENCE = 0.95


def accuracy_interval(right: int, images: int) -> tuple[float, float]:
    """The 95 % confidence interval of an accuracy, as (lowest, highest), each 0 … 1.

    ``right``: number of correctly classified images, 0 … ``images``; ``images``: 1 or more. Raises ``ValueError`` for
    other numbers.
    """
    from scipy.stats import binomtest  # here, because its import takes longer than everything else that a report needs

    if not 0 <= right <= images or images < 1:
        raise ValueError(f"{right} of {images} images is not an accuracy")
    interval = binomtest(right, images).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)
