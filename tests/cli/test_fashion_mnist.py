"""The recipes on the real Fashion-MNIST, where it is found; Debian's package dataset-fashion-mnist is enough."""

import math
import time

import pytest
import torch

from alexnet import evaluate, export, train
from alexnet.config import override
from alexnet.data.prepared import open_or_prepare
from alexnet.data.sources import open_source
from alexnet.recipes import get_recipe
from alexnet.runtime.device import matrix_rate, resolve_device
from alexnet.runtime.log import NullReporter
from alexnet.runtime.run import start_or_continue
from alexnet.training.loop import Training

REFERENCE_GFLOPS = 700.0  # the machine that the limit in seconds is meant for
LIMIT_SECONDS = 120.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # a training of a minute, on one thread beside other tests


@pytest.fixture(scope="module")
def quick_run(fashion_mnist_root, tmp_path_factory):
    """One of the four epochs of the quick recipe: its run, and its seconds from start to end."""
    out, start = tmp_path_factory.mktemp("runs") / "quick", time.perf_counter()
    run = train("small-fashion-mnist-quick", out=out, data_root=fashion_mnist_root, overrides={"train.epochs": 1})
    return run, time.perf_counter() - start


def test_one_epoch_of_the_quick_recipe_reaches_its_accuracy_in_its_time(quick_run, fashion_mnist_root):
    """At least 85 % on test. The accuracy of all four epochs is in the measured results."""
    run, seconds = quick_run
    assert run.result["images"] == 10_000
    assert run.result["top1"] >= 0.85
    assert seconds <= LIMIT_SECONDS * max(1.0, REFERENCE_GFLOPS / matrix_rate(resolve_device()))
    (metrics,) = evaluate(run.folder, data_root=fashion_mnist_root)
    assert metrics.top1 == run.result["top1"]


def test_int8_keeps_the_answers(quick_run, fashion_mnist_root, tmp_path):
    check = export(quick_run[0].folder, tmp_path / "net.onnx", int8=True, data_root=fashion_mnist_root).check
    assert check.images == 1000
    assert check.same_top1 >= 0.99
    assert abs(check.accuracy - check.accuracy_here) <= 0.01


def test_the_textbook_network_steps_on_real_images(fashion_mnist_root, tmp_path):
    """As the book has it, for one step: 28 pixels resized to 224, plain SGD at 0.01, a first loss of ln 10."""
    recipe = override(get_recipe("d2l-fashion-mnist"), ["train.test_curve=false", "train.precision=fp32"])
    dataset = open_or_prepare(open_source("fashion-mnist", fashion_mnist_root))
    run = start_or_continue(tmp_path / "run", recipe, 0, "fashion-mnist", dataset.digest)
    training = Training(recipe, dataset, run, 0, resolve_device("cpu", "fp32"), NullReporter())
    before = training.network.fc8.weight.detach().clone()
    with training.loader() as batches:
        batch = next(iter(batches))
        training.step(batch)
    loss, _ = training.interval.take()
    assert batch.pixels.shape == (128, 28, 28, 1)
    assert training.network.preprocessing.image_size == 224
    assert loss == pytest.approx(math.log(10), abs=0.05)
    weight = training.network.fc8.weight
    torch.testing.assert_close(weight.detach(), before - 0.01 * weight.grad)
