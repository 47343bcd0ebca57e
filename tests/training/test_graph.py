"""Steps that are replayed on the same memory have the bits of ordinary steps; where they cannot be, one line says so.

A CUDA graph needs a GPU. Here its place is taken by a function that does the recorded work again and writes the result
into the tensors of the first time. The host must not wait in it.
"""

from dataclasses import replace

import pytest
import torch

from alexnet.config import AugmentSpec, DataSpec, ModelSpec, OptimSpec, Recipe, TrainSpec
from alexnet.models import layers
from alexnet.runtime.device import DeviceConfig
from alexnet.runtime.group import ONE, Group
from alexnet.runtime.log import NullReporter
from alexnet.runtime.run import start_or_continue
from alexnet.training.graph import GraphStep, StepInputs, graphs_pay
from alexnet.training.loop import Training
from alexnet.training.optimizer import optimizer_tensors
from alexnet.training.step import Outcome, running_averages

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = Recipe(  # 40 images: two batches of 16 and one of 8 in each epoch
    name="replayed",
    model=ModelSpec("small", dropout=0.3, width=0.25),
    data=DataSpec("digits", image_size=16),
    augment=AugmentSpec(pad=1, rotation=10.0),
    optim=OptimSpec(lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4, schedule="one-cycle"),
    train=TrainSpec(batch_size=16, epochs=3, precision="fp32"),
)


@pytest.fixture(autouse=True)
def masks_as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(layers, "uses_counters", lambda device: True)


@pytest.fixture(scope="module")
def dataset(make_digits_store):
    return make_digits_store(train=40)


@pytest.fixture
def make(dataset, tmp_path):
    def make(name, recipe=RECIPE):
        run = start_or_continue(tmp_path / name, recipe, 0, "digits", dataset.digest)
        device_config = DeviceConfig(torch.device("cpu"), bf16=recipe.train.precision == "bf16")
        return Training(recipe, dataset, run, 0, device_config, NullReporter())

    return make


class Recorder:
    """Takes the place of a CUDA graph. ``seen``: the addresses of the inputs of each replay."""

    def __init__(self, training, no_host_wait, noise=0.0):
        self.training, self.no_host_wait, self.noise = training, no_host_wait, noise
        self.records = self.replays = 0

    def __call__(self, work):
        self.records += 1
        outcome = work()
        parameters = list(self.training.network.parameters())
        gradients = [parameter.grad for parameter in parameters]

        def replay():
            self.replays += 1
            with self.no_host_wait():
                again = work()
            for name in ("loss", "right", "finite"):
                getattr(outcome, name).copy_(getattr(again, name))
            for gradient, parameter in zip(gradients, parameters, strict=True):
                gradient.copy_(parameter.grad + self.noise)

        return replay, outcome


def ends(training, steps):
    """Everything that ``steps`` steps leave."""
    with training.loader() as batches:
        for batch, _ in zip(batches, range(steps), strict=False):
            training.step(batch)
    state = {**training.network.state_dict(), **optimizer_tensors(training.network, training.optimizer)}
    return {**state, "interval": training.interval.sums, "first_bad": training.state.first_bad}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def replayed(training, no_host_wait, lines, noise=0.0):
    recorder = Recorder(training, no_host_wait, noise)
    averages = running_averages(training.fast_network)
    training.graph = GraphStep(training.fast_network, averages, lines.append, recorder)
    return recorder


@pytest.mark.parametrize(
    ("optim", "precision"),
    [
        (RECIPE.optim, "fp32"),
        (RECIPE.optim, "bf16"),
        (OptimSpec(optimizer="sgd-2012", lr=0.01, momentum=0.9, schedule="step", milestones=(1,)), "fp32"),
        (OptimSpec(optimizer="adam", lr=1e-3), "fp32"),
    ],
    ids=["sgd", "bf16", "sgd-2012", "adam"],
)
def test_replayed_steps_have_the_bits_of_ordinary_ones(make, no_host_wait, optim, precision):
    """Eight steps: dropout, augmentation, batch norm, another learning rate in each step, and two smaller batches."""
    recipe = replace(RECIPE, optim=optim, train=replace(RECIPE.train, precision=precision))
    expected, lines, training = ends(make("ordinary", recipe), 8), [], make("replayed", recipe)
    recorder = replayed(training, no_host_wait, lines)
    assert same(ends(training, 8), expected)
    assert (recorder.records, recorder.replays, lines) == (1, 6, [])


def test_a_batch_with_numbers_that_are_not_finite_changes_nothing_in_a_replay_either(make, no_host_wait):
    found = []
    for name in ("ordinary", "replayed"):
        training = make(name)
        if name == "replayed":
            replayed(training, no_host_wait, [])
        with training.loader() as batches:
            for batch in batches:
                if batch.step == 1:
                    training.network.fc8.bias.data.fill_(torch.nan)
                before = {key: value.clone() for key, value in training.network.state_dict().items()}
                training.step(batch)
                if batch.step == 1:
                    after = training.network.state_dict()
                    assert all(torch.equal(after[key], before[key]) for key in before if key != "fc8.bias")
                    break
        found.append(int(training.state.first_bad))
    assert found == [2, 2]


def out_of_memory(work):
    work()
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("fault", ["CUDA out of memory", "its result differs"])
def test_where_a_step_cannot_be_replayed_it_is_computed_as_before(make, no_host_wait, fault):
    expected, lines, training = ends(make("ordinary"), 5), [], make("replayed")
    replayed(training, no_host_wait, lines, noise=1e-9)
    if fault == "CUDA out of memory":
        training.graph._record = out_of_memory
    assert same(ends(training, 5), expected)
    (line,) = lines
    assert line.startswith("a training step cannot be replayed as a CUDA graph, it is computed kernel by kernel: ")
    assert fault in line


def test_other_shapes_and_settings_are_recorded_anew():
    network = torch.nn.Linear(2, 1, bias=False)
    recorded = []

    def compute(inputs):
        network.zero_grad()
        loss = network(inputs.pixels).sum()
        loss.backward()
        return Outcome(loss.detach(), inputs.targets.sum(), loss.detach().isfinite())

    def record(work):
        recorded.append(work)
        outcome, gradient = work(), network.weight.grad

        def replay():
            again = work()
            outcome.loss.copy_(again.loss)
            gradient.copy_(network.weight.grad)

        return replay, outcome

    step = GraphStep(network, [], print, record)
    for setting, images, records in [("a", 3, 1), ("a", 3, 1), ("b", 3, 2), ("b", 3, 2), ("b", 4, 3), ("a", 3, 4)]:
        pixels = torch.randn(images, 2)
        outcome = step(setting, compute, StepInputs(pixels, torch.ones(images), torch.zeros(1)))
        assert len(recorded) == records
        assert torch.equal(network.weight.grad[0], pixels.sum(0))
        assert torch.equal(outcome.loss, network(pixels).sum())


def test_graphs_are_for_one_process_on_a_gpu():
    gpu, cpu = DeviceConfig(torch.device("cuda"), bf16=True), DeviceConfig(torch.device("cpu"), bf16=True)
    two = Group()
    two.size = 2
    assert graphs_pay(gpu, ONE, 1)
    assert not graphs_pay(cpu, ONE, 1)
    assert not graphs_pay(replace(gpu, reference=True), ONE, 1)
    assert not graphs_pay(gpu, two, 1)
    assert not graphs_pay(gpu, ONE, 2)
