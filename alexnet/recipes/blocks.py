"""Settings that recipes for several data sets share, each named once.

``dataclasses.replace`` gives a recipe its own value of a field: ``replace(SGD_2012, schedule="plateau")``.
"""

from __future__ import annotations

from dataclasses import replace

from alexnet.config import OptimSpec

SMALL_NET_SGD = OptimSpec(
    optimizer="sgd", lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4, decay_biases=False,
    schedule="one-cycle", warmup=0.25,
)  # fmt: skip
"""This project's optimizer for its small networks: Nesterov momentum and the one-cycle schedule."""

SGD_2012 = OptimSpec(optimizer="sgd-2012", lr=0.01, momentum=0.9, weight_decay=5e-4)
"""The optimizer of Krizhevsky, Sutskever and Hinton 2012, §5, without its schedule."""

SGD_2012_CODE = replace(SGD_2012, bias_lr_mult=2.0, decay_biases=False)
"""The same as the code of 2012 and Caffe have it: biases learn twice as fast and have no weight decay."""
