"""A step whose numbers are not finite changes nothing: weights, optimizer state, running averages."""

import copy

import pytest
import torch
from torch import nn

from alexnet.config import OptimSpec
from alexnet.models.layers import draw_masks
from alexnet.models.registry import create_model
from alexnet.runtime.device import DeviceConfig
from alexnet.training.criterion import ClassificationLoss
from alexnet.training.optimizer import build_optimizer, optimizer_tensors
from alexnet.training.state import AverageMeter
from alexnet.training.step import all_finite, running_averages, train_step

CPU = torch.device("cpu")
UPDATES = [
    OptimSpec(optimizer="sgd", momentum=0.9, nesterov=True),
    OptimSpec(optimizer="sgd"),
    OptimSpec(optimizer="sgd-2012", momentum=0.9),
    OptimSpec(optimizer="adam", lr=1e-3),
    OptimSpec(optimizer="adamw", lr=1e-3, weight_decay=0.1),
]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(params=UPDATES, ids=lambda spec: spec.optimizer)
def trained(request):
    """A network with batch norms, an optimizer that has state, and a step to do with some images."""

    def make(reference):
        device_config = DeviceConfig(CPU, bf16=False, reference=reference)
        network = device_config.to_device(
            create_model("small", num_classes=10, in_channels=1, image_size=28, seed=0, dropout=0.0)
        ).train()
        optimizer = build_optimizer(network, request.param, fused=not reference)
        targets = torch.arange(8)

        def step(images):
            masks = draw_masks(network.dropout_sites, len(images), 0, 0, CPU)
            return train_step(network, optimizer, images, targets, masks, ClassificationLoss(), device_config)

        assert step(some_images(0)).finite
        return network, optimizer, step

    return make


def some_images(seed):
    return torch.randn(8, 1, 28, 28, generator=torch.Generator().manual_seed(seed))


def everything(network, optimizer):
    state = {**network.state_dict(), **optimizer_tensors(network, optimizer)}
    return {name: value.clone() for name, value in state.items()}


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_bad_batch_changes_nothing(trained, reference, value):
    network, optimizer, step = trained(reference)
    before = everything(network, optimizer)
    images = some_images(1)
    images[3, 0, 5, 7] = value
    assert not step(images).finite
    after = everything(network, optimizer)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert step(some_images(2)).finite
    moved = everything(network, optimizer)
    assert not torch.equal(moved["conv1.weight"], before["conv1.weight"])
    assert not torch.equal(moved["norm1.running_mean"], before["norm1.running_mean"])


@pytest.mark.parametrize("reference", [False, True])
def test_what_follows_a_bad_batch_is_as_if_it_had_not_been(trained, reference):
    network, _, step = trained(reference)
    twin, _, twin_step = trained(reference)
    step(some_images(1) * torch.nan)
    for seed in (2, 3):
        step(some_images(seed))
        twin_step(some_images(seed))
    assert all(torch.equal(value, twin.state_dict()[name]) for name, value in network.state_dict().items())


def test_a_loss_that_is_finite_with_a_gradient_that_is_not(trained):
    network, optimizer, step = trained(False)
    before = everything(network, optimizer)
    network.fc8.weight.register_hook(lambda gradient: gradient * torch.inf)
    outcome = step(some_images(1))
    assert outcome.loss.isfinite()
    assert not outcome.finite
    assert all(torch.equal(value, before[name]) for name, value in everything(network, optimizer).items())


@pytest.mark.parametrize(
    ("spec", "waits"),
    [
        (OptimSpec(optimizer="sgd", momentum=0.9), False),
        (OptimSpec(optimizer="sgd-2012", momentum=0.9), False),
        (OptimSpec(optimizer="adam"), False),
        (OptimSpec(optimizer="adamw"), False),
        (OptimSpec(optimizer="lars", momentum=0.9), True),
    ],
    ids=lambda value: getattr(value, "optimizer", value),
)
def test_the_host_waits_for_no_number_of_a_step(no_host_wait, monkeypatch, spec, waits):
    """A CPU in place of a GPU: parameters claim to be on one, so the updates are those that are used there."""
    config = DeviceConfig(CPU, bf16=True)
    network = create_model("small", num_classes=10, in_channels=1, image_size=28, seed=0).train()
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "is_cuda", True)
        optimizer = build_optimizer(network, spec)
    masks = {site: torch.ones(8, units).bool() for site, (units, _) in network.dropout_sites.items()}
    smoothed = ClassificationLoss(label_smoothing=0.1)
    step = lambda: train_step(network, optimizer, some_images(0), torch.arange(8), masks, smoothed, config)  # noqa: E731
    with no_host_wait():
        if waits:
            with pytest.raises(AssertionError, match="the host waits"):
                step()
            return
        outcome = step()
    assert outcome.finite


def test_one_value_of_any_gradient_decides():
    gradients = [torch.zeros(3), torch.zeros(2, 5), torch.zeros(1)]
    loss = torch.tensor(1.0)
    assert all_finite(loss, gradients)
    assert not all_finite(loss * torch.nan, gradients)
    for place in range(3):
        for value in (torch.nan, torch.inf, -torch.inf):
            bad = copy.deepcopy(gradients)
            bad[place].view(-1)[-1] = value
            assert not all_finite(loss, bad)


def test_the_averages_are_those_of_all_batch_norms():
    model = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 1), nn.Sequential(nn.BatchNorm2d(3)))
    averages = running_averages(model)
    assert len(averages) == 6
    before = [average.clone() for average in averages]
    model(torch.randn(4, 2, 5, 5))
    assert not any(torch.equal(old, new) for old, new in zip(before, averages, strict=True))
    assert running_averages(nn.Linear(2, 2)) == []


def test_a_bad_batch_is_not_counted():
    meter = AverageMeter(CPU)
    meter.add(torch.tensor(2.0), torch.tensor(3), 4, torch.tensor(True))
    meter.add(torch.tensor(torch.nan), torch.tensor(1), 4, torch.tensor(False))
    assert meter.take() == (2.0, 0.75)


@pytest.mark.parametrize("class_weights", [None, torch.tensor([3.0, 1.0, 0.5, 2.0])])
@pytest.mark.parametrize("parts", [2, 5, 40])
def test_a_batch_in_parts_gives_the_gradient_of_the_whole(class_weights, parts):
    """7 images in float64, with dropout and label smoothing; parts that do not divide 7, and more parts than images."""
    device_config = DeviceConfig(CPU, bf16=False, reference=True)
    images = torch.randn(7, 1, 28, 28, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    targets, results = torch.arange(7) % 4, []
    weights = None if class_weights is None else class_weights.double()
    for count in (1, parts):
        network = create_model("small", num_classes=4, in_channels=1, image_size=28, seed=0, norm_layer="none").double()
        optimizer = build_optimizer(network, OptimSpec(lr=0.1, momentum=0.9), fused=False)
        masks = draw_masks(network.dropout_sites, 7, 0, 0, CPU)
        outcome = train_step(
            network.train(), optimizer, images, targets, masks, ClassificationLoss(weights, 0.1), device_config,
            parts=count,
        )  # fmt: skip
        results.append((outcome, everything(network, optimizer)))
    (whole, expected), (divided, found) = results
    assert divided.right == whole.right
    torch.testing.assert_close(divided.loss, whole.loss, rtol=1e-13, atol=0)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-14)
