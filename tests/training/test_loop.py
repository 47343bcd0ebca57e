"""The loop: it learns, repeats itself, continues bit for bit from anywhere, and says what goes wrong."""

import functools
import json
import math
import re
import shutil
import signal
import time

import numpy as np
import pytest
import torch
from torch import nn

from alexnet.config import AugmentSpec, DataSpec, ModelSpec, OptimSpec, Recipe, TrainSpec, override
from alexnet.core.errors import StoppedError, UserError
from alexnet.data.splits import hold_out
from alexnet.runtime import log
from alexnet.runtime.checkpoint import list_checkpoints, load_newest, save_checkpoint
from alexnet.runtime.log import NullReporter, read_lines
from alexnet.runtime.run import start_or_continue
from alexnet.training import loop as train_module
from alexnet.training.loop import Training, use_averages
from alexnet.training.schedule import learning_rate

pytestmark = pytest.mark.usefixtures("one_thread")

BATCH_NORM = Recipe(  # with 100 images: 7 steps an epoch, the last one of 4
    name="tiny",
    model=ModelSpec("small", dropout=0.3),
    data=DataSpec("digits", image_size=16),
    augment=AugmentSpec(pad=1, rotation=10.0),
    optim=OptimSpec(lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4, decay_biases=False, schedule="one-cycle"),
    train=TrainSpec(batch_size=16, epochs=2, precision="fp32"),
)
LENET = Recipe(
    name="tinier",
    model=ModelSpec("lenet5"),
    data=DataSpec("digits", image_size=12),
    optim=OptimSpec(lr=0.05, momentum=0.9, weight_decay=5e-4, bias_lr_mult=2.0),
    train=TrainSpec(batch_size=16, epochs=2, precision="fp32"),
)
HELD_OUT = ["data.val_fraction=0.2", "train.keep=best-on-val"]


@pytest.fixture(scope="module")
def dataset(make_digits_store):
    return make_digits_store(train=100, test=30)


@pytest.fixture
def make(dataset, cpu):
    """Begins or continues a training: ``make(folder, recipe)``."""

    def make(folder, recipe, seed=0, reporter=None, on=dataset):
        run = start_or_continue(folder, recipe, seed, "digits", on.digest)
        return Training(recipe, on, run, seed, cpu, reporter or NullReporter())

    return make


def nothing(run):
    """No curves."""


def weights(model):
    return {name: value.clone() for name, value in getattr(model, "network", model).state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def left_by(run):
    """Everything that a run must leave however often it was interrupted: metrics, and its last checkpoint's files."""
    last = list_checkpoints(run.checkpoints)[-1]
    files = {file.name: file.read_bytes() for file in last.iterdir() if file.suffix == ".safetensors"}
    state = json.loads((last / "state.json").read_text(encoding="utf-8"))
    del state["seconds"]
    return {"metrics": (run.folder / "metrics.jsonl").read_bytes(), "state": state, **files}


def interrupt(training, when, number=signal.SIGTERM):
    """Have the training send itself a signal in each step of which ``when(step)`` is true."""
    step = training.step

    def stepping(batch):
        step(batch)
        if when(batch.step):
            signal.raise_signal(number)

    training.step = stepping
    return training


def kill(training, at):
    """Have the training end in step ``at`` without any farewell, as a killed process does."""
    step = training.step

    def stepping(batch):
        step(batch)
        if batch.step == at:
            raise SystemError("killed")

    training.step = stepping
    return training


# ----------------------------------------------- learns -----------------------------------------------


def test_the_loss_falls(make, tmp_path):
    training = make(tmp_path, override(BATCH_NORM, ["train.epochs=16"]))
    training.fit(nothing)
    epochs = [line for line in training.run.metrics() if "train_loss" in line]
    assert [line["epoch"] for line in epochs] == list(range(1, 17))
    assert epochs[0]["train_loss"] > 2
    assert epochs[-1]["train_loss"] < 1
    assert epochs[-1]["train_top1"] > 0.7


GOLDEN_LOSSES = [2.475202, 2.312798, 2.481765, 2.568032, 2.497547]


def test_the_first_losses_are_what_they_were(make, tmp_path):
    """fp32 on a processor: another one, or another torch, may move the fifth digit."""
    training = make(tmp_path, override(LENET, ["optim.lr=0.1"]))
    losses = []
    with training.loader() as batches:
        for batch in batches:
            training.step(batch)
            losses.append(training.interval.take()[0])
            if len(losses) == 5:
                break
    np.testing.assert_allclose(losses, GOLDEN_LOSSES, atol=1e-4)


def test_metrics_are_functions_of_the_state(make, tmp_path):
    recipe = BATCH_NORM
    training = make(tmp_path, recipe)
    training.fit(nothing)
    lines = training.run.metrics()
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 15))  # fewer than ten steps an epoch: each has a line
    assert [line["lr"] for line in steps] == [learning_rate(recipe.optim, s, 14, 7, []) for s in range(14)]
    assert steps[6]["epoch"] == 1.0
    for first, epoch in ((0, lines[7]), (7, lines[15])):
        images = [16] * 6 + [4]
        mean = sum(n * line["loss"] for n, line in zip(images, steps[first : first + 7], strict=True)) / 100
        assert epoch["train_loss"] == pytest.approx(mean, rel=1e-12)
        right = sum(n * line["accuracy"] for n, line in zip(images, steps[first : first + 7], strict=True))
        assert epoch["train_top1"] == pytest.approx(right / 100, rel=1e-12)
    assert set().union(*lines) == {"step", "epoch", "loss", "accuracy", "lr", "train_loss", "train_top1"}


@pytest.mark.parametrize("steps", [3, 7, 10])
def test_a_training_of_so_many_steps_is_the_beginning_of_the_whole_one(make, tmp_path, steps):
    whole, part = (
        make(tmp_path / "whole", BATCH_NORM),
        make(tmp_path / "part", override(BATCH_NORM, [f"train.steps={steps}"])),
    )
    whole.fit(nothing)
    part.fit(nothing)
    lines = {training: [line for line in training.run.metrics() if "loss" in line] for training in (whole, part)}
    assert lines[part] == lines[whole][:steps]  # rates too: the schedule plans by epochs
    epochs = [line for line in part.run.metrics() if "train_loss" in line]
    assert [line["step"] for line in epochs] == ([7, 10] if steps == 10 else [steps])
    assert [line["epoch"] for line in epochs] == ([1, 2] if steps == 10 else [1])
    assert part.images_trained_on == {3: 48, 7: 100, 10: 148}[steps]
    assert part.kept_epoch == len(epochs)


@pytest.fixture(scope="module")
def colourful(make_store):
    """Forty images of colours that vary together."""
    draws = np.random.default_rng(0)
    pixels = (draws.integers(0, 200, (40, 16, 16, 1)) + draws.integers(0, 55, (40, 16, 16, 3))).astype(np.uint8)
    return make_store(pixels, [number % 10 for number in range(40)], ["train"] * 40, name="colourful")


def trained(make, folder, dataset, *changes):
    training = make(folder, override(BATCH_NORM, changes), on=dataset)
    training.fit(nothing)
    return weights(training)


def test_colour_noise_changes_the_training_until_it_is_switched_off(make, tmp_path, colourful):
    noise = "augment.color_noise=cuda-convnet"
    without = trained(make, tmp_path / "without", colourful)
    off = trained(make, tmp_path / "off", colourful, noise, "augment.color_noise_until=0")
    half = trained(make, tmp_path / "half", colourful, noise, "augment.color_noise_until=1")
    on = trained(make, tmp_path / "on", colourful, noise)
    assert same(off, without)
    assert not same(half, without)
    assert not same(half, on)


def test_crops_of_random_size_train_and_evaluation_takes_the_centre(make, tmp_path, colourful):
    recipe = override(BATCH_NORM, ["augment.pad=0", "augment.crop=14", "augment.random_resized_crop=0.3,1"])
    training = make(tmp_path, recipe, on=colourful)
    training.fit(nothing)
    assert (training.network.preprocessing.resize_size, training.network.preprocessing.crop) == (16, 14)
    assert not same(weights(training), trained(make, tmp_path / "cut", colourful, "augment.pad=0", "augment.crop=14"))


# ---------------------------------------------- repeats -----------------------------------------------

RESUMED = {
    "batch norm, dropout, augmentation, one cycle": (BATCH_NORM, []),
    "a plateau, 2012's update, the best on val": (LENET, [
        *HELD_OUT, "optim.optimizer=sgd-2012", "optim.lr=1e-5", "optim.schedule=plateau", "optim.patience=1",
        "train.epochs=6", "train.batch_size=48",
    ]),
    "adam, cosine, a test curve, the mean image": (LENET, [  # 20 steps an epoch: each line of metrics is two
        "optim.optimizer=adam", "optim.schedule=cosine", "optim.lr=0.01", "train.test_curve=true", "train.batch_size=5",
        "data.pixel_normalization=mean-image",
    ]),
}  # fmt: skip


@pytest.fixture(scope="module", params=RESUMED, ids=lambda name: name.replace(", ", "-").replace(" ", "-"))
def uninterrupted(request, dataset, cpu, tmp_path_factory):
    """A recipe, its run in one go, and the model that came out."""
    recipe = override(*RESUMED[request.param])
    folder = tmp_path_factory.mktemp("whole")
    run = start_or_continue(folder, recipe, 0, "digits", dataset.digest)
    training = Training(recipe, dataset, run, 0, cpu, NullReporter())
    return recipe, run, weights(training.fit(nothing))


def test_the_same_seed_gives_the_same_bits_and_another_one_does_not(make, tmp_path, uninterrupted):
    recipe, run, model = uninterrupted
    again = make(tmp_path / "again", recipe)
    assert same(weights(again.fit(nothing)), model)
    assert left_by(again.run) == left_by(run)
    other = make(tmp_path / "other", recipe, seed=1)
    assert not same(weights(other.fit(nothing)), model)


def test_interrupted_after_every_single_step_it_ends_the_same(make, tmp_path, uninterrupted):
    """As many sittings as steps, each begun from a checkpoint; most are in the middle of an epoch."""
    recipe, run, model = uninterrupted
    stops = 0
    while True:
        training = interrupt(make(tmp_path, recipe), lambda step: True)
        try:
            result = training.fit(nothing)
            break
        except StoppedError as stopped:
            stops += 1
            assert stopped.status == 143
            assert str(stopped) == f"stopped after step {stops}; the same command continues there"
    assert stops == training.total_steps
    assert same(weights(result), model)
    assert left_by(training.run) == left_by(run)


@pytest.mark.parametrize("at", [0, 2, 7, 10])
def test_killed_in_a_step_it_ends_the_same(make, tmp_path, uninterrupted, at):
    """No farewell: it starts again from the last epoch, and lines written since are cut."""
    recipe, run, model = uninterrupted
    with pytest.raises(SystemError):
        kill(make(tmp_path, recipe), at).fit(nothing)
    training = make(tmp_path, recipe)
    assert same(weights(training.fit(nothing)), model)
    assert left_by(training.run) == left_by(run)


def test_a_damaged_checkpoint_costs_time_and_nothing_else(make, tmp_path, uninterrupted, notes):
    recipe, run, model = uninterrupted
    for at in (7, 8):
        with pytest.raises(StoppedError):
            interrupt(make(tmp_path, recipe), lambda step, at=at: step == at).fit(nothing)
    newest = list_checkpoints(tmp_path / "checkpoints")[-1]
    (newest / "model.safetensors").write_bytes(b"\0" * 100)
    training = make(tmp_path, recipe, reporter=notes)
    assert same(weights(training.fit(nothing)), model)
    assert left_by(training.run) == left_by(run)
    (warning,) = notes.warnings()
    assert f"{newest}/model.safetensors: is damaged" in warning
    assert "it was renamed to damaged-step-00000009" in warning
    assert warning.endswith("the checkpoint of step 8 is used")
    assert (newest.parent / "damaged-step-00000009" / "model.safetensors").exists()


def test_without_any_whole_checkpoint_nothing_is_changed(make, tmp_path):
    with pytest.raises(StoppedError):
        interrupt(make(tmp_path, LENET), lambda step: step == 8).fit(nothing)
    for path in list_checkpoints(tmp_path / "checkpoints"):
        (path / "state.json").write_bytes(b"")
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != "events.jsonl"}
    with pytest.raises(UserError) as caught:
        make(tmp_path, LENET).fit(nothing)
    assert f"all checkpoints in {tmp_path / 'checkpoints'} are damaged: restore one" in caught.value.line
    assert any("step-00000009/state.json: is damaged" in line for line in caught.value.details)
    assert all(path.read_bytes() == data for path, data in files.items())


LIES = {
    "a velocity of another shape": lambda tensors, state: tensors["optimizer"].update(
        {name: value[:1] for name, value in tensors["optimizer"].items()}
    ),
    "a velocity too few": lambda tensors, state: tensors["optimizer"].popitem(),
    "no optimizer": lambda tensors, state: tensors.pop("optimizer"),
    "weights of another shape": lambda tensors, state: tensors["model"].update({"fc8.weight": torch.zeros(1)}),
    "weights too few": lambda tensors, state: tensors["model"].popitem(),
    "best weights nobody asked for": lambda tensors, state: tensors.update({"best": {"x": torch.zeros(1)}}),
    "metrics of a negative length": lambda tensors, state: state.update(metrics_bytes=-1),
    "metrics of no length": lambda tensors, state: state.pop("metrics_bytes"),
    "seconds in words": lambda tensors, state: state.update(seconds="x"),
    "seconds that are not a number": lambda tensors, state: state.update(seconds=float("nan")),
    "a sum too many": lambda tensors, state: state.update(interval=[0.0] * 4),
    "errors that are lists": lambda tensors, state: state.update(errors=[[0.5]]),
    "another recipe": lambda tensors, state: state.update(recipe=[]),
    "no recipe": lambda tensors, state: state.pop("recipe"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_checkpoint_that_lies_with_a_true_manifest_costs_one_line(make, tmp_path, lie):
    with pytest.raises(StoppedError):
        interrupt(make(tmp_path, LENET), lambda step: step == 8).fit(nothing)
    found, _ = load_newest(tmp_path / "checkpoints")
    LIES[lie](found.tensors, found.state)
    for path in list_checkpoints(tmp_path / "checkpoints"):
        shutil.rmtree(path)
    save_checkpoint(tmp_path / "checkpoints", found.step, found.tensors, found.state)
    with pytest.raises(UserError, match="the checkpoint of step 9 is from another training"):
        make(tmp_path, LENET).fit(nothing)


def test_a_checkpoint_by_the_clock_is_in_the_middle_of_an_epoch(make, tmp_path, monkeypatch):
    monkeypatch.setattr(train_module, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(SystemError):
        kill(make(tmp_path, BATCH_NORM), 4).fit(nothing)
    names = [path.name for path in list_checkpoints(tmp_path / "checkpoints")]
    assert names == ["step-00000003", "step-00000004"]


def test_without_the_clock_there_is_one_each_epoch(make, tmp_path):
    training = make(tmp_path, BATCH_NORM)
    training.fit(nothing)
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == ["step-00000007", "step-00000014"]
    state = load_newest(tmp_path / "checkpoints")[0].state
    assert state["data"] == training.dataset.digest
    assert state["recipe"]["name"] == "tiny"
    assert (state["seed"], state["torch"], state["threads"]) == (0, torch.__version__, torch.get_num_threads())
    assert (state["device"], state["precision"]) == ("cpu", "fp32")
    assert state["metrics_bytes"] == (tmp_path / "metrics.jsonl").stat().st_size


def test_a_finished_training_gives_its_model_again(make, tmp_path, uninterrupted, notes):
    recipe, run, model = uninterrupted
    before = left_by(run)
    training = make(run.folder, recipe, reporter=notes)
    assert same(weights(training.fit(nothing)), model)
    assert left_by(run) == before
    assert not any("continuing" in line for line in notes.lines)


# --------------------------------------------- validation ---------------------------------------------


def test_what_is_held_out_is_never_trained_on(make, dataset, tmp_path):
    training = make(tmp_path, override(LENET, [*HELD_OUT]))
    seen = []
    step = training.step

    def stepping(batch):
        seen.append(batch.index)
        step(batch)

    training.step = stepping
    training.fit(nothing)
    train = dataset.subset("train")
    held = hold_out(dataset.targets[train], dataset.hashes[train], 0.2)
    assert held.sum() == 20
    assert sorted(np.concatenate(seen)) == sorted(np.tile(train[~held], 2))
    assert training.val_index.tolist() == train[held].tolist()
    assert {len(line) for line in training.run.metrics() if "val_loss" in line} == {6}


def test_a_val_split_of_the_set_is_used_whole(make, make_digits_store, tmp_path):
    dataset = make_digits_store(train=60, val=20, test=10)
    training = make(tmp_path, override(LENET, [*HELD_OUT]), on=dataset)
    assert training.train_index.tolist() == list(range(60))
    assert training.val_index.tolist() == list(range(60, 80))


def test_the_best_on_val_is_kept_the_latest_of_equals(make, tmp_path, monkeypatch):
    training = make(tmp_path, override(BATCH_NORM, [*HELD_OUT, "train.epochs=4"]))
    accuracies = iter([0.5, 0.9, 0.9, 0.7])
    monkeypatch.setattr(training, "measure", lambda *_: {"val_loss": 1.0, "val_top1": next(accuracies)})
    after = []
    kept = weights(training.fit(lambda run: after.append(weights(training))))
    assert training.state.errors == pytest.approx([0.5, 0.1, 0.1, 0.3])
    assert same(kept, after[2])
    assert not same(kept, after[1])
    assert training.kept_epoch == 3


def test_the_last_is_kept_unless_the_recipe_says_otherwise(make, tmp_path):
    training = make(tmp_path, override(BATCH_NORM, ["data.val_fraction=0.2"]))
    after = []
    kept = weights(training.fit(lambda run: after.append(weights(training))))
    assert same(kept, after[-1])
    assert training.state.best == {}


def test_a_plateau_drops_the_rate(make, tmp_path):
    """At a rate of 1e-5 the validation error never moves: with a patience of 1 each epoch drops it, three times."""
    training = make(tmp_path, override(*RESUMED["a plateau, 2012's update, the best on val"]))
    training.fit(nothing)
    assert len(set(training.state.errors)) == 1
    by_epoch = {math.ceil(line["epoch"]): line["lr"] for line in training.run.metrics() if "loss" in line}
    assert by_epoch == pytest.approx({1: 1e-5, 2: 1e-5, 3: 1e-6, 4: 1e-7, 5: 1e-8, 6: 1e-8})


def test_measuring_does_not_disturb_the_training(make, tmp_path):
    """Neither batch norm's averages nor any generator: with and without a count each epoch the weights are the same."""
    generators = torch.get_rng_state(), np.random.get_state()[1].tolist()
    plain = make(tmp_path / "plain", override(BATCH_NORM, ["train.epochs=3"])).fit(nothing)
    counted = make(tmp_path / "counted", override(BATCH_NORM, ["train.epochs=3", "train.test_curve=true"]))
    assert same(weights(plain), weights(counted.fit(nothing)))
    assert len([line for line in counted.run.metrics() if "test_top1" in line]) == 3
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert np.random.get_state()[1].tolist() == generators[1]


# ------------------------------------------ what goes wrong -------------------------------------------


BAD_STEP = r"the loss or a gradient is not a finite number \(images ([\d, …]+)\) at step (\d+) of tinier"


def test_a_loss_that_is_not_finite_stops_the_training(make, tmp_path, notes):
    training = make(tmp_path, override(LENET, ["optim.lr=1e38"]), reporter=notes)
    with pytest.raises(UserError) as caught:
        training.fit(nothing)
    (step, images) = re.match(BAD_STEP, caught.value.line).groups()[::-1]
    assert images == ", ".join(training.dataset.names(training.order.at(int(step) - 1)[1][:8])) + ", …"
    assert "lower the learning rate, e.g. --set optim.lr=1e+37, and start again in another folder" in caught.value.line
    assert notes.calls[-1] == ("finish",)
    for line in training.run.metrics():
        assert math.isfinite(line["loss"])
    divergence = training.run.divergence
    assert divergence["step"] == int(step) > training.state.step - 20
    assert divergence["finding"].startswith("the loss or a gradient is not a finite number")


def test_a_bad_step_is_noticed_within_twenty_and_named_with_its_images(make, tmp_path, monkeypatch):
    """Where lines of metrics, which look too, are far apart."""
    monkeypatch.setattr(train_module, "LINES_PER_EPOCH", 1)
    real, calls = train_module.compute_gradients, 0

    def poisoned(network, images, *rest):
        nonlocal calls
        calls += 1
        return real(network, images * torch.nan if calls == 43 else images, *rest)

    monkeypatch.setattr(train_module, "compute_gradients", poisoned)
    training = make(tmp_path, override(LENET, ["train.batch_size=1"]))
    with pytest.raises(UserError) as caught:
        training.fit(nothing)
    assert training.order.steps_per_epoch == 100
    step, images = re.match(BAD_STEP, caught.value.line).groups()[::-1]
    assert (int(step), images) == (43, *training.dataset.names(training.order.at(42)[1]))
    assert 43 <= calls <= 43 + 20


def test_weights_that_are_not_finite_are_never_written(make, tmp_path):
    training = make(tmp_path, BATCH_NORM)
    step = training.step

    def stepping(batch):
        step(batch)
        if batch.step == 13:  # the last one: no later loss would show it
            with torch.no_grad():
                training.network.fc8.weight[0, 0] = math.inf

    training.step = stepping
    with pytest.raises(UserError, match="a weight is infinite or not a number at step 14 of tiny"):
        training.fit(nothing)
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == ["step-00000007"]


def frozen_at_chance(training):
    """The network knows nothing: all logits are 0."""
    with torch.no_grad():
        training.network.fc5.weight.zero_()
        training.network.fc5.bias.zero_()
    return training


@pytest.mark.parametrize("seconds", [0.0, 0.05])
def test_the_wait_for_images_is_logged_and_shown_if_it_is_long(make, tmp_path, notes, monkeypatch, seconds):
    monkeypatch.setattr(log, "WAITING_SECONDS", 0.3)
    monkeypatch.setattr(log, "WAITING_SHARE", 0.0)  # the steps may take long too, where a machine is shared
    training = make(tmp_path, LENET, reporter=notes)
    training.loader = functools.partial(training.loader, 0)  # nothing is read ahead
    pixels = training.dataset.pixels
    read = pixels.read
    monkeypatch.setattr(type(pixels), "read", lambda self, index: time.sleep(seconds) or read(index))
    training.fit(nothing)
    epochs = [event for event in training.run.events() if event["event"] == "epoch"]
    assert [event["step"] for event in epochs] == [7, 14]
    assert all((7 * seconds <= event["waited"] + 0.001) and event["waited"] < event["seconds"] for event in epochs)
    lines = [*(line for line in notes.lines if line.startswith("waiting")), *training.run.waiting()]
    assert len(lines) == (3 if seconds else 0)
    assert all(re.fullmatch(r"waiting for images [1-9]\d?% of the time", line) for line in lines)
    assert not any("waited" in line for line in training.run.metrics())


def test_a_loss_that_stays_at_chance_is_remarked_upon_once(make, tmp_path, notes):
    recipe = override(LENET, ["optim.lr=0", "train.epochs=30"])
    training = frozen_at_chance(make(tmp_path, recipe, reporter=notes))
    training.fit(nothing)
    (warning,) = notes.warnings()
    assert "the loss has been at ln(10) = 2.303, the loss of random guessing, for 100 steps. Likely causes" in warning
    assert [line["step"] for line in read_lines(tmp_path / "events.jsonl") if line["event"] == "stalled"] == [100]


def test_a_loss_that_falls_is_not_remarked_upon(make, tmp_path, notes):
    make(tmp_path, override(BATCH_NORM, ["train.epochs=16"]), reporter=notes).fit(nothing)
    assert notes.warnings() == []


def test_a_loss_that_passes_chance_is_not_remarked_upon(make, tmp_path, notes, monkeypatch):
    monkeypatch.setattr(train_module, "STALL_STEPS", 5)
    training = frozen_at_chance(make(tmp_path, override(LENET, ["optim.lr=0"]), reporter=notes))
    step = training.step

    def stepping(batch):
        step(batch)
        with torch.no_grad():  # at chance for four steps, once away from it, and at chance again
            training.network.fc5.bias[0] = 5.0 if batch.step % 5 == 3 else 0.0

    training.step = stepping
    training.fit(nothing)
    assert notes.warnings() == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
def test_a_signal_leaves_a_checkpoint_and_a_status(make, tmp_path, notes, number, status):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(StoppedError) as stopped:
        interrupt(make(tmp_path, BATCH_NORM, reporter=notes), lambda step: step == 2, number).fit(nothing)
    assert stopped.value.status == status
    assert load_newest(tmp_path / "checkpoints")[0].step == 3
    assert notes.calls[-1] == ("finish",)  # no bar is left on a terminal
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_second_signal_acts_at_once(make, tmp_path):
    def twice(step):
        if step == 2:
            signal.raise_signal(signal.SIGTERM)
        return step == 2

    with pytest.raises(KeyboardInterrupt):
        interrupt(make(tmp_path, BATCH_NORM), twice, signal.SIGINT).fit(nothing)
    assert list_checkpoints(tmp_path / "checkpoints") == []


def test_a_signal_during_the_last_evaluation_is_not_lost(make, tmp_path):
    training = make(tmp_path, BATCH_NORM)

    def on_evaluation(run):
        if training.state.step == training.total_steps:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(StoppedError, match="stopped after step 14; the same command continues there"):
        training.fit(on_evaluation)


def refuse(*arguments):
    raise OSError(28, "No space left on device")


def test_a_full_disk_costs_a_warning(make, tmp_path, monkeypatch, notes):
    training = make(tmp_path / "full", override(BATCH_NORM, ["train.epochs=3"]), reporter=notes)

    def on_evaluation(run):
        if training.state.step == 7:
            monkeypatch.setattr("alexnet.training.state.save_checkpoint", refuse)

    whole = make(tmp_path / "whole", override(BATCH_NORM, ["train.epochs=3"])).fit(nothing)
    training.run.checkpoints.mkdir()
    assert same(weights(training.fit(on_evaluation)), weights(whole))
    reason = "[Errno 28] No space left on device; training continues"
    assert notes.warnings() == [f"warning: no checkpoint at step {step}: {reason}" for step in (7, 14, 21)]
    events = [line for line in read_lines(tmp_path / "full" / "events.jsonl") if line["event"] == "checkpoint-failed"]
    assert [line["step"] for line in events] == [7, 14, 21]


def test_after_a_full_disk_the_farewell_says_where_it_continues(make, tmp_path, monkeypatch):
    training = interrupt(make(tmp_path, BATCH_NORM), lambda step: step == 9)
    monkeypatch.setattr(train_module, "CHECKPOINT_SECONDS", 1e9)
    save = train_module.State.save
    monkeypatch.setattr(train_module.State, "save", lambda s, *a: save(s, *a) if s.step == 7 else refuse())
    with pytest.raises(StoppedError) as stopped:
        training.fit(nothing)
    line = "stopped after step 10; the same command continues after step 7, the last checkpoint"
    assert str(stopped.value) == line
    found, complaints = load_newest(tmp_path / "checkpoints")
    assert (found.step, complaints) == (7, [])


def test_curves_that_cannot_be_drawn_cost_a_warning(make, tmp_path, notes):
    make(tmp_path, override(LENET, ["train.epochs=1"]), reporter=notes).fit(refuse)
    (warning,) = notes.warnings()
    failure = "[Errno 28] No space left on device; training continues"
    assert warning == f"warning: cannot write the curves of epoch 1: {failure}"


@pytest.mark.parametrize(
    ("seed", "settings", "differs"),
    [(1, [], "it differs in seed"), (0, ["optim.lr=0.04"], "it differs in optim.lr (0.01, now 0.04)")],
)
def test_checkpoints_of_another_training_are_refused(make, tmp_path, seed, settings, differs):
    with pytest.raises(StoppedError):
        interrupt(make(tmp_path / "one", BATCH_NORM), lambda step: step == 2).fit(nothing)
    training = make(tmp_path / "other", override(BATCH_NORM, settings), seed=seed)
    shutil.copytree(tmp_path / "one" / "checkpoints", training.run.checkpoints)
    with pytest.raises(UserError, match="the checkpoint of step 3 is from another training") as caught:
        training.fit(nothing)
    assert caught.value.details == (differs,)


def test_another_thread_count_is_remarked_upon(make, tmp_path, notes):
    with pytest.raises(StoppedError):
        interrupt(make(tmp_path, LENET), lambda step: step == 2).fit(nothing)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        make(tmp_path, LENET, reporter=notes).fit(nothing)
    finally:
        torch.set_num_threads(threads)
    assert notes.warnings() == [
        f"warning: threads was {threads}, now {threads + 1}: the last bits may differ"
    ]  # fmt: skip
    assert "continuing after step 3" in notes.lines


def test_metrics_that_someone_shortened_are_remarked_upon(make, tmp_path, notes):
    with pytest.raises(StoppedError):
        interrupt(make(tmp_path, LENET), lambda step: step == 2).fit(nothing)
    (tmp_path / "metrics.jsonl").write_bytes(b"")
    make(tmp_path, LENET, reporter=notes).fit(nothing)
    assert notes.warnings() == ["warning: metrics.jsonl is shorter than it was; its earlier lines are lost"]


# ---------------------------------------- batches of one image ----------------------------------------


def test_a_last_batch_of_one_image_leaves_batch_norm_s_averages(make, make_digits_store, tmp_path):
    training = make(tmp_path, BATCH_NORM, on=make_digits_store(train=33))  # 16 + 16 + 1
    step, moved = training.step, []

    def stepping(batch):
        before = weights(training)
        step(batch)
        after = weights(training)
        moved.append({n for n in after if not torch.equal(before[n], after[n])})

    training.step = stepping
    training.fit(nothing)
    averages = {f"norm{n}.{what}" for n in range(1, 6) for what in ("running_mean", "running_var")}
    assert [averages <= names for names in moved] == [True, True, False] * 2
    assert [averages & names for names in moved[2::3]] == [set(), set()]
    assert all("conv1.weight" in names for names in moved)  # it learns from that image all the same


def test_batches_of_one_image_by_choice_are_normalized_as_torch_does(make, make_digits_store, tmp_path):
    training = make(tmp_path, override(BATCH_NORM, ["train.batch_size=1"]), on=make_digits_store(train=5))
    before = weights(training)
    training.fit(nothing)
    assert not torch.equal(weights(training)["norm1.running_mean"], before["norm1.running_mean"])


def test_averages_serve_where_torch_refuses():
    norm = nn.BatchNorm2d(3)
    one = torch.randn(1, 3, 1, 1)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        norm(one)
    use_averages(nn.Sequential(norm))
    torch.testing.assert_close(norm(one), one / math.sqrt(1 + 1e-5))


# Trainings on few images


def test_few_images_are_trained_on_for_a_smallest_number_of_steps(make, tmp_path):
    """100 images are 7 steps an epoch: 50 steps need 8 epochs, and the schedule is planned for all of them."""
    training = make(tmp_path, override(LENET, ["train.min_steps=50"]))
    assert (training.epochs, training.total_steps, training.last_step) == (8, 56, 56)
    training.fit(nothing)
    assert training.state.step == 56
    assert [line["epoch"] for line in training.run.metrics() if "train_loss" in line] == list(range(1, 9))
    assert make(tmp_path / "more", override(LENET, ["train.min_steps=10"])).epochs == 2  # the recipe's own are more
    assert override(LENET, ["train.min_steps=50", "train.epochs=3"]).train.min_steps == 50
    assert override(override(LENET, ["train.min_steps=50"]), ["train.epochs=3"]).train.min_steps == 0


def test_many_short_epochs_are_evaluated_a_hundred_times(make, tmp_path):
    recipe = override(LENET, ["train.batch_size=100", "train.min_steps=250", "train.keep=best-on-val", HELD_OUT[0]])
    training = make(tmp_path, recipe)
    training.fit(nothing)
    evaluated = [line["epoch"] for line in training.run.metrics() if "val_top1" in line]
    assert evaluated == [*range(2, 251, 2)]
    errors = training.state.errors
    assert training.kept_epoch == 2 * (len(errors) - errors[::-1].index(min(errors)))


def test_a_training_that_no_longer_improves_stops_early_also_if_it_was_interrupted(make, tmp_path, notes):
    """The validation error rises after the first epoch: the training ends after four more of its ten epochs."""
    words = ["train.epochs=10", "train.early_stopping=0.4", *HELD_OUT]
    training = make(tmp_path / "whole", override(LENET, words), reporter=notes)
    steps = training.order.steps_per_epoch
    training.state.errors = [0.5, 0.6, 0.6, 0.6]
    assert not training.stops_early
    training.state.errors += [0.6]
    assert training.stops_early
    training.state.errors = []
    worse = iter([0.5, *[0.6] * 20])
    training.measure = lambda name, index, group: {"val_loss": 1.0, "val_top1": 1 - next(worse)}
    training.fit(nothing)
    assert training.state.step == 5 * steps
    assert "stopped early: the validation accuracy did not improve for 4 epochs" in notes.lines
    assert training.kept_epoch == 1
    again = make(tmp_path / "whole", override(LENET, words))
    again.fit(nothing)  # it resumes from the last checkpoint, and there is nothing left to do
    assert again.state.step == 5 * steps


def test_weighted_classes_change_the_loss_where_classes_differ_in_size(make_digits_store, make, tmp_path):
    from alexnet.training.build import class_weights

    targets = np.array([0] * 50 + [1] * 10 + [2] * 12)
    assert class_weights("none", targets, 3) is None
    balanced = class_weights("auto", targets, 4)
    assert balanced.tolist() == pytest.approx([72 / 150, 72 / 30, 72 / 36, 0.0])
    assert float(balanced[targets].mean()) == pytest.approx(1.0)
    assert class_weights("auto", targets[10:], 3) is None  # 40, 10 and 12 images: less than five times as many
    assert class_weights("balanced", targets[10:], 3) is not None
    plain, weighted = (
        make(tmp_path / choice, override(LENET, [f"train.class_weights={choice}", "train.steps=3"]))
        for choice in ("none", "balanced")
    )
    assert weighted.criterion.class_weights is not None
    for training in (plain, weighted):
        training.fit(nothing)
    assert not same(weights(plain), weights(weighted))
