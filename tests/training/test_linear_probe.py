"""Linear probes before a fine-tuning: the accuracies are scikit-learn's, and the last layer begins as the probe."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from alexnet.analysis.probe import linear_layer, make_folds
from alexnet.config import DataSpec, ModelSpec, OptimSpec, Recipe, TrainSpec, override
from alexnet.data.augment import views
from alexnet.models.registry import create_model
from alexnet.runtime.run import start_or_continue
from alexnet.training.build import build_model, split_indices
from alexnet.training.evaluate import log_probabilities
from alexnet.training.linear_probe import LinearProbes, layer_before_last, probed_layers
from alexnet.training.loop import Training

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = Recipe(
    name="tiny",
    model=ModelSpec("small", width=0.25, dropout=0.3),
    data=DataSpec("digits", image_size=16, val_fraction=0.2),
    optim=OptimSpec(optimizer="adamw", lr=1e-4),
    train=TrainSpec(batch_size=32, epochs=1, precision="fp32", init="x", head="probe"),
)
COPIED = ("conv1", "norm1", "conv2", "norm2", "conv3", "norm3", "conv4", "norm4", "conv5", "norm5", "fc6", "fc7")


@pytest.fixture(scope="module")
def dataset(make_digits_store):
    return make_digits_store(train=150, test=30)


@pytest.fixture(scope="module")
def init():
    """A network of other classes whose features differ between images."""
    return create_model("small", num_classes=4, image_size=16, width=0.25, seed=5).eval()


@pytest.fixture
def probes(dataset, init, cpu):
    network = build_model(RECIPE, dataset, 0, init)
    return LinearProbes(network, dataset, *split_indices(RECIPE, dataset), cpu)


def judge_of(features, labels):
    """scikit-learn's own probe, fitted."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500)).fit(features, labels)


# ---------------------------------------------- layers ----------------------------------------------


@pytest.mark.parametrize(
    ("copied", "layers"),
    [
        (COPIED, ["pool5", "relu6", "relu7"]),
        (COPIED[:-1], ["pool5", "relu6"]),
        (COPIED[:-2], ["pool5"]),
        (COPIED[:6], []),
        ((*COPIED, "fc8"), ["pool5", "relu6", "relu7"]),
    ],
)
def test_probes_are_of_layers_from_trained_weights(copied, layers):
    assert probed_layers(create_model("small", width=0.1, seed=0), copied) == layers


def test_the_layer_before_the_last_is_its_input():
    assert layer_before_last(create_model("small", width=0.1, dropout=0.5, seed=0)) == "dropout7"
    assert layer_before_last(create_model("small", width=0.1, dropout=0, seed=0)) == "relu7"


# -------------------------------------------- accuracies --------------------------------------------


def test_the_accuracies_are_those_of_scikit_learn(probes, dataset, notes):
    found = list(probes.cross_validate(COPIED, 3, notes))
    assert [each.probe.layer for each in found] == ["pool5", "relu6", "relu7"]
    labels = dataset.targets[probes.index]
    assert len(probes.index) == 150
    assert set(probes.index) == set(dataset.subset("train"))  # never test
    folds = make_folds(labels, dataset.hashes[probes.index], dataset.classes, 3)
    network = probes.network.eval()
    with torch.inference_mode():
        pixels = torch.from_numpy(dataset.read(probes.index))
        outputs = network.layer_outputs(next(iter(views(pixels, network.preprocessing, None))), ["pool5", "relu7"])
    for each, features in ((found[0], outputs["pool5"].mean(dim=(2, 3))), (found[2], outputs["relu7"])):
        judge = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
        predicted = cross_val_predict(judge, features.double().numpy(), labels, cv=folds)
        assert each.probe.trained.accuracy == pytest.approx((predicted == labels).mean(), abs=1e-9)
        assert each.probe.trained.balanced == pytest.approx(balanced_accuracy_score(labels, predicted), abs=1e-9)
    assert found[0].to_json()["images"] == 150
    assert str(found[0]).startswith("linear probe on pool5: expected accuracy ")
    assert "(5 folds of 30 images); the same with random weights: " in str(found[0])
    trained = replace(found[0].probe.trained, correct=75, images=150, interval=(0.42, 0.58), balanced=0.4)
    text = str(replace(found[0], probe=replace(found[0].probe, trained=trained)))
    assert "expected accuracy 50% ± 8, 40% if all classes are equally frequent (5 folds" in text


def test_of_many_images_some_of_each_class_are_used(dataset, init, cpu, monkeypatch):
    monkeypatch.setattr("alexnet.training.linear_probe.MOST_IMAGES", 40)
    probes = LinearProbes(build_model(RECIPE, dataset, 0, init), dataset, *split_indices(RECIPE, dataset), cpu)
    assert len(probes.index) == 40
    counts = np.bincount(dataset.targets[probes.index], minlength=10)
    assert counts.min() >= 3
    assert (np.diff(probes.index) > 0).all()


def test_a_class_of_one_image_has_no_probe_and_the_training_goes_on(make_store, digits, init, cpu, notes):
    labels = [0] * 8 + [1]
    dataset = make_store(digits[0][:9], labels, ["train"] * 9, classes=("a", "b"))
    network = build_model(override(RECIPE, {"data.val_fraction": 0.0}), dataset, 0, init)
    before = network.classifier.weight.clone()
    probes = LinearProbes(network, dataset, dataset.subset("train"), dataset.subset("val"), cpu)
    assert list(probes.cross_validate(COPIED, 0, notes)) == []
    assert notes.lines[-1].startswith("note: no linear probe: class 'b' has only one image")
    probes.start_last_layer()
    assert torch.equal(network.classifier.weight, before)


# -------------------------------------------- last layer --------------------------------------------


@pytest.mark.parametrize("classes", [2, 3])
def test_the_linear_layer_has_the_probabilities_of_the_probe(classes):
    draws = np.random.default_rng(0)
    features = draws.normal(3, 2, (40, 6)).astype(np.float32)
    labels = np.arange(40) % classes
    features[np.arange(40), labels] += 2
    weight, bias = linear_layer(features, labels, classes)
    judge = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500)).fit(
        features.astype(float), labels
    )
    logits = torch.from_numpy(features.astype(float) @ weight.T + bias)
    np.testing.assert_allclose(logits.softmax(dim=1).numpy(), judge.predict_proba(features.astype(float)), atol=1e-9)


def test_a_class_without_images_is_never_the_answer():
    draws = np.random.default_rng(0)
    features, labels = draws.normal(size=(30, 5)).astype(np.float32), np.arange(30) % 2 * 2
    weight, bias = linear_layer(features, labels, 4)
    assert set((features @ weight.T + bias).argmax(axis=1)) <= {0, 2}


@pytest.mark.parametrize("scaling", ["train", "test"])
def test_the_last_layer_begins_as_the_probe(scaling, dataset, init, cpu, notes):
    changed = create_model("small", num_classes=4, image_size=16, width=0.25, seed=5, dropout_scaling=scaling).eval()
    recipe = override(RECIPE, {"model.width": None, "data.image_size": None, "model.dropout": 0.5})
    network = build_model(recipe, dataset, 0, changed)
    assert next(module for name, module in network.named_children() if name == "dropout7").scaling == scaling
    train, val = split_indices(recipe, dataset)
    probes = LinearProbes(network, dataset, train, val, cpu)
    list(probes.cross_validate(COPIED, 0, notes))
    probes.start_last_layer()
    rows = np.isin(probes.index, train)
    features = probes.features["dropout7"][rows].astype(float)
    labels = dataset.targets[probes.index][rows]
    judge = judge_of(features, labels)
    found = torch.cat([output for output, _ in log_probabilities(network, dataset, probes.index[rows], cpu)])
    np.testing.assert_allclose(found.exp().numpy(), judge.predict_proba(features), atol=1e-4)


# --------------------------------------------- training ---------------------------------------------


def test_a_training_logs_its_probes_and_a_killed_one_continues_to_the_same_bits(dataset, init, cpu, tmp_path, notes):
    def make(folder):
        run = start_or_continue(folder, RECIPE, 0, "digits", dataset.digest)
        return Training(RECIPE, dataset, run, 0, cpu, notes, init)

    whole = make(tmp_path / "whole")
    whole.fit(lambda run: None)
    events = [event for event in whole.run.events() if event["event"] == "probe"]
    assert [event["layer"] for event in events] == ["pool5", "relu6", "relu7"]
    assert all(0 <= event["untrained_accuracy"] <= 1 and event["folds"] == 5 for event in events)
    assert sum(line.startswith("linear probe on ") for line in notes.lines) == 3
    killed = make(tmp_path / "killed")
    step = killed.step
    killed.step = lambda batch: (_ for _ in ()).throw(SystemError("killed")) if batch.step == 2 else step(batch)
    with pytest.raises(SystemError):
        killed.fit(lambda run: None)
    again = make(tmp_path / "killed")
    again.fit(lambda run: None)
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name]), name


def test_without_the_setting_the_last_layer_is_random(dataset, init, cpu, tmp_path, notes):
    recipe = override(RECIPE, {"train.head": "random"})
    run = start_or_continue(tmp_path / "run", recipe, 0, "digits", dataset.digest)
    training = Training(recipe, dataset, run, 0, cpu, notes, init)
    training.fit(lambda run: None)
    assert not any(line.startswith("linear probe") for line in notes.lines)
    assert replace(recipe, name="x").train.head == "random"
