"""Linear probes before a fine-tuning: the accuracies are scikit-learn's, and the last layer begins as the probe."""

import copy
import csv
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from alexnet.analysis.probe import linear_layer, make_folds
from alexnet.api import evaluate, finish, train
from alexnet.config import DataSpec, ModelSpec, OptimSpec, Recipe, TrainSpec, override
from alexnet.core.errors import UserError
from alexnet.data.augment import views
from alexnet.models.alexnet import LinearLayer
from alexnet.models.bundle import load_model, save_model
from alexnet.models.registry import create_model
from alexnet.plots.curves import CurvesFile
from alexnet.runtime.run import Run, start_or_continue
from alexnet.training.build import build_model, fits_probe_only, has_own_test_images, split_indices
from alexnet.training.evaluate import log_probabilities
from alexnet.training.linear_probe import LinearProbes, can_carry, probed_layers, put_probe
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


def judge_of(features, labels, c=0.01):
    """scikit-learn's own probe, fitted."""
    judge = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=500))
    return judge.fit(np.asarray(features, float), labels)


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
    probes.start_from_best(notes, ())
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


def test_a_network_without_hidden_linear_layers_averages_the_maps_in_its_last_layer():
    network = create_model("cifar-18pct", num_classes=4, seed=0).eval()
    names = [name for name, _ in network.named_children()]
    layer = names[names.index("flatten") - 1]
    images = torch.rand(5, 3, network.image_size, network.image_size)
    features = network.layer_outputs(images, [layer])[layer].mean(dim=(2, 3)).double().detach().numpy()
    draws = np.random.default_rng(0)
    weight, bias = draws.normal(size=(4, features.shape[1])), draws.normal(size=4)
    assert can_carry(network, layer)
    put_probe(network, layer, weight, bias)
    np.testing.assert_allclose(network(images).detach().numpy(), features @ weight.T + bias, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("variant", ["small", "trunk", "torchvision", "bvlc-alexnet", "batchnorm", "paper-half"])
@pytest.mark.parametrize("layer", ["maps", "relu6", "relu7"])
def test_a_probe_on_any_layer_becomes_part_of_the_network(variant, layer):
    """The logits are those of the probe on the layer's features, averaged over positions."""
    given = {"dropout_scaling": "train"} if variant == "paper-half" else {}
    network = create_model(variant, num_classes=4, in_channels=3, image_size=80, width=0.125, seed=0, **given).eval()
    names = [name for name, _ in network.named_children()]
    layer = names[names.index("flatten") - 1] if layer == "maps" else layer
    images = torch.rand(6, 3, 80, 80)
    output = network.layer_outputs(images, [layer])[layer]
    features = (output.mean(dim=(2, 3)) if output.ndim == 4 else output).double().detach().numpy()
    draws = np.random.default_rng(0)
    weight, bias = draws.normal(size=(4, features.shape[1])), draws.normal(size=4)
    assert can_carry(network, layer)
    put_probe(network, layer, weight, bias)
    expected = features @ weight.T + bias
    np.testing.assert_allclose(network(images).detach().numpy(), expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("variant", "settings", "layer", "frozen"),
    [
        ("keras", {}, "pool5", ()),  # its batch norm after ReLU makes negative features
        ("paper", {}, "pool5", ()),  # its dropout scales in evaluation mode
        ("paper", {}, "relu7", ()),
        ("small", {"activation": "tanh"}, "relu5", ()),
        ("small", {}, "pool5", ("fc6",)),
        ("small", {}, "relu6", ("conv1", "fc7")),
        ("small", {}, "relu7", ("fc8",)),
        ("small", {"hidden": (LinearLayer(8), LinearLayer(64))}, "pool5", ()),  # fewer units than features
    ],
)
def test_other_probes_do_not(variant, settings, layer, frozen):
    network = create_model(variant, num_classes=4, in_channels=3, image_size=80, seed=0, **settings)
    layer = layer if layer in dict(network.named_children()) else "pool5"
    assert not can_carry(network, layer, frozen)


def test_a_frozen_layer_before_the_probe_does_no_harm():
    network = create_model("small", num_classes=4, in_channels=3, image_size=80, seed=0)
    assert can_carry(network, "pool5", ("conv1", "norm1", "conv5"))
    assert can_carry(network, "relu7", ("fc6", "fc7"))


@pytest.mark.parametrize("scaling", ["train", "test"])
def test_a_fine_tuning_begins_as_the_best_probe(scaling, dataset, init, cpu, notes):
    changed = create_model("small", num_classes=4, image_size=16, width=0.25, seed=5, dropout_scaling=scaling).eval()
    recipe = override(RECIPE, {"model.width": None, "data.image_size": None, "model.dropout": 0.5})
    network = build_model(recipe, dataset, 0, changed)
    train, val = split_indices(recipe, dataset)
    probes = LinearProbes(network, dataset, train, val, cpu)
    list(probes.cross_validate(COPIED, 0, notes))
    assert list(probes.carried(())) == (["dropout7"] if scaling == "test" else ["pool5", "relu6", "relu7"])
    rows = np.isin(probes.index, train)
    labels = dataset.targets[probes.index][rows]
    of_train = {layer: values[rows] for layer, values in probes.carried(()).items()}
    best = "dropout7" if scaling == "test" else max(probes.accuracies, key=probes.accuracies.get)
    probes.start_from_best(notes, ())
    assert notes.lines[-1] == f"the network is now the probe on {best}, with C = 0.01"
    judge = judge_of(of_train[best].astype(float), labels)
    found = torch.cat([output for output, _ in log_probabilities(network, dataset, probes.index[rows], cpu)])
    np.testing.assert_allclose(found.exp().numpy(), judge.predict_proba(of_train[best].astype(float)), atol=1e-4)


# -------------------------------------------- few images --------------------------------------------


@pytest.fixture(scope="module")
def few(make_store, digits):
    """Forty images of two classes, which the package splits; one image occurs twice."""
    chosen = np.flatnonzero(digits[1] < 2)[:40]
    pixels = digits[0][chosen]
    pixels[7] = pixels[3]
    labels = digits[1][chosen]
    labels[7] = labels[3]
    return make_store(pixels, labels.tolist(), [None] * 40, classes=("zero", "one"), name="few")


FEW = replace(RECIPE, train=replace(RECIPE.train, few_images="cross-validate", keep="best-on-val"))


def test_the_probe_on_few_images_is_the_model_and_its_accuracy_is_that_of_the_folds(few, init, cpu, tmp_path, notes):
    run = start_or_continue(tmp_path / "run", FEW, 0, "few", few.digest)
    training = Training(FEW, few, run, 0, cpu, notes, init)
    assert len(training.train_index) == 40
    assert not len(training.val_index)
    finish(training, training.fit(lambda run: None), CurvesFile(FEW), 1.0, keep_checkpoints=False)
    found = training.cross_validation
    probes = LinearProbes(build_model(FEW, few, 0, init), few, np.arange(40), np.arange(0), cpu)
    list(probes.cross_validate(COPIED, 0, notes))
    labels = few.targets
    predicted = np.zeros(40, np.int64)
    for rest, test in make_folds(labels, few.hashes, few.classes, 0):
        inner = make_folds(labels[rest], few.hashes[rest], few.classes, 0)
        scores = {
            (layer, c): sum(
                (judge_of(values[rest][a], labels[rest][a], c).predict(values[rest][b]) == labels[rest][b]).sum()
                for a, b in inner
            )
            for layer, values in probes.features.items()
            for c in (0.001, 0.01, 0.1)
        }
        count = sum(len(b) for _, b in inner)
        share = scores["pool5", 0.01] / count
        best = max(scores, key=lambda key: scores[key])
        better = scores[best] / count > share + (share * (1 - share) / count) ** 0.5
        layer, c = best if better else ("pool5", 0.01)
        values = probes.features[layer]
        predicted[test] = judge_of(values[rest], labels[rest], c).predict(values[test])
    assert np.array_equal(found.nested.log_probabilities.argmax(axis=1), predicted)
    assert found.nested.fold[3] == found.nested.fold[7]  # a copy is in the same fold
    result = run.result
    assert (result["split"], result["steps"], result["images"]) == ("folds", 0, 40)
    assert result["splits"] == {"train": 40, "val": 0, "test": 0}
    assert result["top1"] == pytest.approx((predicted == labels).mean())
    rows = list(csv.DictReader(io.StringIO((run.folder / "predictions.csv").read_text(encoding="utf-8"))))
    assert [few.classes.index(row["predicted"]) for row in rows] == predicted.tolist()
    wrong = [row["file"] for row in rows if row["true"] != row["predicted"]]
    assert [row["file"] for row in result["cross_validation"]["mistakes"]] == wrong
    report = (run.folder / "report.md").read_text(encoding="utf-8")
    assert "on 40 images, each predicted by a probe that was not fitted on it (5 folds)" in report
    assert "curves.png" not in report
    model = load_model(run.folder)
    output = torch.cat([rows for rows, _ in log_probabilities(model, few, np.arange(40), cpu)])
    judge = judge_of(probes.features[found.choice.layer], labels, found.choice.regularization)
    np.testing.assert_allclose(
        output.exp().numpy(), judge.predict_proba(probes.features[found.choice.layer]), atol=1e-4
    )


def test_when_images_are_few(few, make_store, digits):
    own = make_store(digits[0][:40], [n % 2 for n in range(40)], ["train"] * 30 + ["test"] * 10, classes=("a", "b"))
    many = make_store(digits[0][:400], [n % 2 for n in range(400)], [None] * 400, classes=("a", "b"))
    assert fits_probe_only(FEW, few)
    assert fits_probe_only(FEW, own)
    assert [len(each) for each in split_indices(FEW, own)] == [30, 0]  # never the test images
    assert (has_own_test_images(few), has_own_test_images(own)) == (False, True)
    assert not fits_probe_only(FEW, many)
    assert not fits_probe_only(override(FEW, {"train.head": "random"}), few)
    assert not fits_probe_only(override(FEW, {"train.init": "none"}), few)
    assert not fits_probe_only(RECIPE, few)


def test_a_given_test_split_is_evaluated_once(make_store, digits, init, cpu, tmp_path, notes):
    chosen = np.flatnonzero(digits[1] < 2)[:60]
    splits = ["train"] * 30 + ["val"] * 10 + ["test"] * 20
    dataset = make_store(digits[0][chosen], digits[1][chosen].tolist(), splits, classes=("zero", "one"))
    run = start_or_continue(tmp_path / "run", FEW, 0, "few", dataset.digest)
    training = Training(FEW, dataset, run, 0, cpu, notes, init)
    finish(training, training.fit(lambda run: None), CurvesFile(FEW), 1.0, keep_checkpoints=False)
    result = run.result
    assert (result["split"], result["images"], result["cross_validation"]["images"]) == ("test", 20, 40)
    assert result["splits"] == {"train": 40, "val": 0, "test": 20}
    output = torch.cat(
        [rows for rows, _ in log_probabilities(load_model(run.folder), dataset, dataset.subset("test"), cpu)]
    )
    right = (output.argmax(dim=1).numpy() == dataset.targets[dataset.subset("test")]).mean()
    assert result["top1"] == pytest.approx(right)
    assert "In 5 folds, " in (run.folder / "report.md").read_text(encoding="utf-8")


def test_a_class_of_one_image_is_refused_by_name(make_store, digits, init, cpu, tmp_path, notes):
    dataset = make_store(digits[0][:9], [0] * 8 + [1], [None] * 9, classes=("many", "single"))
    run = start_or_continue(tmp_path / "run", FEW, 0, "few", dataset.digest)
    with pytest.raises(UserError, match="class 'single' has only one image: cross-validation needs two or more"):
        Training(FEW, dataset, run, 0, cpu, notes, init).fit(lambda run: None)


def test_weights_that_have_seen_the_images_are_a_warning(few, init, cpu, tmp_path, notes):
    hashes = torch.from_numpy(np.sort(few.hashes[:12]).view(np.int64))
    seen = copy.deepcopy(init)
    seen.info = replace(seen.info, trained_on=hashes)
    run = start_or_continue(tmp_path / "run", FEW, 0, "few", few.digest)
    Training(FEW, few, run, 0, cpu, notes, seen).fit(lambda run: None)
    assert "warning: x was trained on 12 of these images, so the cross-validated accuracies are too high" in notes.lines


def test_a_training_on_few_images_from_the_command(tmp_path, monkeypatch, capsys, init):
    """Its own images are no test images, and a write that fails at the end is repeated by the same command."""
    monkeypatch.setenv("ALEXNET_HOME", str(tmp_path / "home"))
    draws = np.random.default_rng(0)
    for label, name in enumerate(("dark", "light")):
        (tmp_path / "set" / name).mkdir(parents=True)
        for number in range(8):
            pixels = draws.integers(0, 80, (20, 20, 3), np.uint8) + 120 * label
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "set" / name / f"{number}.png")
    save_model(
        create_model("small", num_classes=3, image_size=16, in_channels=3, width=0.25, seed=5), tmp_path / "init"
    )
    words = {"data": tmp_path / "set", "init": tmp_path / "init", "out": tmp_path / "run", "progress": False}

    def refuse(self, result):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(Run, "write_result", refuse)
        with pytest.raises(UserError, match=r"No space left on device; free disk space and repeat the command$"):
            train(**words)
    run = train(**words)
    assert (run.result["split"], run.result["steps"], run.result["images"]) == ("folds", 0, 16)
    with pytest.raises(UserError, match="was fitted on all of its images"):
        evaluate(run.folder)
    with pytest.raises(UserError, match="every image of set was used for training"):
        evaluate(run.folder, data=tmp_path / "set")


def test_the_start_is_kept_if_no_epoch_is_better(dataset, init, cpu, tmp_path, notes):
    recipe = override(RECIPE, {"train.keep": "best-on-val", "optim.lr": 0.3, "optim.optimizer": "sgd"})
    run = start_or_continue(tmp_path / "run", recipe, 0, "digits", dataset.digest)
    training = Training(recipe, dataset, run, 0, cpu, notes, init)
    training.measure = lambda name, index, group: {
        f"{name}_loss": 1.0, f"{name}_top1": 0.5 if training.state.step else 0.6
    }  # fmt: skip
    before = {}
    real = training.state.keep_best
    training.state.keep_best = lambda error: (real(error), before.update(training.state.best))
    kept = training.fit(lambda run: None)
    assert training.kept_epoch == 0
    assert all(torch.equal(value, before[name]) for name, value in kept.state_dict().items())


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
