"""Counts against scikit-learn's, and everything that must not change them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, top_k_accuracy_score
from torchvision.transforms import TenCrop

from alexnet.config import override
from alexnet.core.errors import UserError
from alexnet.inference.predictor import Predictor
from alexnet.metrics.counts import Metrics
from alexnet.plots.predictions import compose_unlabelled_predictions
from alexnet.report.text import describe_counts, describe_measure
from alexnet.training.build import build_model
from alexnet.training.evaluate import (
    average,
    evaluate_models,
    log_probabilities,
    match_classes,
    most_probable,
    not_trained_on,
)

pytestmark = pytest.mark.usefixtures("one_thread")

LABELS = list(range(10))


@pytest.fixture(scope="module")
def dataset(make_digits_store):
    return make_digits_store(train=60, val=30, test=157)


@pytest.fixture(scope="module")
def make_model(dataset, small_recipe):
    def make(seed=0, *changes):
        return build_model(override(small_recipe, changes), dataset, seed)

    return make


def by_hand(model, dataset, split):
    """Probabilities (N, 10) and labels of a split, by nothing of this package but the network."""
    index = dataset.subset(split)
    pixels = torch.from_numpy(np.array(dataset.images[index])).permute(0, 3, 1, 2).float()
    train = dataset.images[dataset.subset("train")].astype(np.float64)
    x = F.interpolate((pixels - train.mean()) / train.std(), (16, 16), mode="bilinear", align_corners=False)
    with torch.no_grad():
        return model.eval()(x.float()).softmax(dim=1).numpy(), dataset.targets[index]


def test_counts_are_scikit_learn_s(make_model, dataset, cpu):
    model = make_model()
    (counts,) = evaluate_models([model], [dataset], dataset.subset("test"), cpu)
    probabilities, targets = by_hand(model, dataset, "test")
    assert len(set(probabilities.argmax(axis=1))) >= 3  # a model that has something to be wrong about
    summary = counts.summary(dataset.classes)
    assert summary["images"] == 157
    assert summary["top1"] == accuracy_score(targets, probabilities.argmax(axis=1))
    assert summary["top5"] == top_k_accuracy_score(targets, probabilities, k=5, labels=LABELS)
    probabilities = probabilities.astype(np.float64)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    assert summary["loss"] == pytest.approx(log_loss(targets, probabilities, labels=LABELS), rel=1e-5)
    for name, found in summary["per_class"].items():
        mine = targets == int(name)
        assert found["images"] == mine.sum()
        assert found["top1"] == (probabilities[mine].argmax(axis=1) == int(name)).mean()
    assert sum(found["images"] for found in summary["per_class"].values()) == 157


def test_confusions_are_scikit_learn_s(make_model, dataset, cpu):
    model = make_model()
    (counts,) = evaluate_models([model], [dataset], dataset.subset("test"), cpu)
    probabilities, targets = by_hand(model, dataset, "test")
    expected = confusion_matrix(targets, probabilities.argmax(axis=1), labels=LABELS)
    assert np.array_equal(counts.confusion_matrix(), expected)
    listed = counts.summary(dataset.classes)["confusions"]
    assert [pair["images"] for pair in listed] == sorted((n["images"] for n in listed), reverse=True)
    assert {(int(pair["true"]), int(pair["predicted"])): pair["images"] for pair in listed} == {
        (t, p): n for t in LABELS for p in LABELS if t != p and (n := expected[t, p])
    }


def test_calibration_error_is_the_formula(make_model, dataset, cpu):
    """Guo et al. (2017), equation 3, bin by bin."""
    model = make_model()
    (counts,) = evaluate_models([model], [dataset], dataset.subset("test"), cpu)
    probabilities, targets = by_hand(model, dataset, "test")
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == targets
    total = 0.0
    for m in range(15):
        inside = (confidence > m / 15) & (confidence <= (m + 1) / 15)
        if inside.any():
            total += inside.sum() / len(targets) * abs(right[inside].mean() - confidence[inside].mean())
    assert counts.calibration_error == pytest.approx(total, abs=1e-5)
    assert counts.bins[0].sum() == len(targets)


@pytest.mark.parametrize(("confidence", "right", "error"), [(0.9, 9, 0.0), (0.99, 5, 0.49), (0.5, 10, 0.5)])
def test_calibration_error_of_made_answers(confidence, right, error):
    answers = torch.tensor([[confidence, 1 - confidence]]).log().expand(10, 2)
    counts = Metrics(2)
    counts.add(answers, torch.tensor([0] * right + [1] * (10 - right)))
    assert counts.calibration_error == pytest.approx(error, abs=1e-6)


def test_seeing_every_image_twice_changes_no_share(make_model, dataset, cpu):
    model, index = make_model(), dataset.subset("test")
    once, twice = Metrics(10), Metrics(10)
    for output, targets in log_probabilities(model, dataset, index, cpu):
        once.add(output, targets)
        for _ in range(2):
            twice.add(output, targets)
    one, two = once.summary(dataset.classes), twice.summary(dataset.classes)
    for name in ("top1", "top5", "loss", "calibration_error"):
        assert two[name] == pytest.approx(one[name], rel=1e-12)
    assert two["images"] == 2 * one["images"]


def test_many_classes_have_pairs_and_no_matrix():
    counts = Metrics(20_000)
    answers = torch.full((3, 20_000), -20.0)
    answers[[0, 1, 2], [19_999, 5, 5]] = 0.0
    counts.add(answers, torch.tensor([19_999, 5, 7]))
    assert counts.pairs == {(19_999, 19_999): 1, (5, 5): 1, (7, 5): 1}
    assert counts.confusion_matrix() is None


def test_a_class_without_images_has_no_accuracy():
    counts = Metrics(3)
    counts.add(torch.tensor([[-0.1, -3.0, -4.0], [-0.5, -2.0, -3.0]]), torch.tensor([0, 1]))
    summary = counts.summary(["a", "b", "c"])
    assert (summary["top1"], summary["top5"]) == (0.5, 1.0)  # top 5 of three classes is all of them
    assert summary["loss"] == pytest.approx((0.1 + 2.0) / 2)
    assert summary["per_class"] == {
        "a": {"images": 1, "top1": 1.0}, "b": {"images": 1, "top1": 0.0}, "c": {"images": 0, "top1": None},
    }  # fmt: skip


@pytest.mark.parametrize("batch_size", [7, 157, 1000])
def test_batch_size_does_not_matter(make_model, dataset, cpu, batch_size):
    model, index = make_model(), dataset.subset("test")
    whole = Metrics(10)
    for output, targets in log_probabilities(model, dataset, index, cpu):
        whole.add(output, targets)
    parts = Metrics(10)
    sizes = []
    for output, targets in log_probabilities(model, dataset, index, cpu, batch_size=batch_size):
        parts.add(output, targets)
        sizes.append(len(targets))
    assert sum(sizes) == 157
    assert max(sizes) == min(batch_size, 157)
    assert (parts.correct, parts.correct_top5, parts.images) == (whole.correct, whole.correct_top5, whole.images)
    assert parts.pairs == whole.pairs
    assert np.allclose(parts.bins, whole.bins, atol=1e-4)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-6)


def test_the_ensemble_of_one_model_twice_is_that_model(make_model, dataset, cpu):
    one, two, ensemble = evaluate_models([make_model(), make_model()], [dataset, dataset], dataset.subset("test"), cpu)
    assert one.summary(dataset.classes) == two.summary(dataset.classes)
    assert (ensemble.top1, ensemble.top5, ensemble.images) == (one.top1, one.top5, one.images)
    assert ensemble.loss == pytest.approx(one.loss, rel=1e-6)


def test_an_ensemble_averages_probabilities(make_model, dataset, cpu):
    models = [make_model(seed) for seed in (1, 2, 3)]
    *_, ensemble = evaluate_models(models, [dataset] * 3, dataset.subset("test"), cpu)
    mean = np.mean([by_hand(model, dataset, "test")[0] for model in models], axis=0)
    targets = dataset.targets[dataset.subset("test")]
    assert ensemble.correct == (mean.argmax(axis=1) == targets).sum()
    assert ensemble.loss_sum == pytest.approx(-np.log(mean[np.arange(157), targets]).sum(), rel=1e-5)


def test_average_is_of_probabilities_and_does_not_underflow():
    one, two = torch.tensor([[0.2, 0.8]]).log(), torch.tensor([[0.6, 0.4]]).log()
    torch.testing.assert_close(average([one, two]).exp(), torch.tensor([[0.4, 0.6]]))
    far = torch.tensor([[-300.0, 0.0]])
    torch.testing.assert_close(average([far, far]), far)


def test_ten_views_average_the_softmax(make_model, dataset, cpu):
    model = make_model(0, "augment.crop=6")
    (counts,) = evaluate_models([model], [dataset], dataset.subset("test"), cpu, 10)
    index = dataset.subset("test")
    pixels = torch.from_numpy(np.array(dataset.images[index])).permute(0, 3, 1, 2)
    preprocessing = model.preprocessing
    outputs = []
    for crop in TenCrop(6)(pixels):
        x = (crop.float() - preprocessing.mean[0]) / preprocessing.std[0]
        x = F.interpolate(x, (16, 16), mode="bilinear", align_corners=False)
        with torch.no_grad():
            outputs.append(model.eval()(x).softmax(dim=1))
    mean = torch.stack(outputs).mean(dim=0).numpy()
    targets = dataset.targets[index]
    assert len(outputs) == 10
    assert counts.correct == (mean.argmax(axis=1) == targets).sum()
    assert counts.loss_sum == pytest.approx(-np.log(mean[np.arange(157), targets]).sum(), rel=1e-5)
    (one_view,) = evaluate_models([model], [dataset], dataset.subset("test"), cpu)
    assert one_view.loss != pytest.approx(counts.loss, rel=1e-4)


def test_any_images_of_a_store_can_be_counted(make_model, dataset, cpu, notes):
    (counts,) = evaluate_models([make_model()], [dataset], np.arange(247), cpu, reporter=notes)
    assert counts.images == 247
    assert notes.calls == [("begin", "evaluating", 247, 0), ("advance", 247, {}), ("finish",)]


def test_unseen_images_are_those_of_no_model_s_train_and_val(make_model, dataset, make_digits_store):
    assert np.array_equal(not_trained_on([make_model()], dataset), dataset.subset("test"))
    fewer = make_model(0, "data.val_fraction=0.5")  # which is no more than train and val together
    assert np.array_equal(not_trained_on([fewer], dataset), dataset.subset("test"))
    others = make_digits_store(train=300)
    assert np.array_equal(
        not_trained_on([make_model()], others), np.arange(90, 300)
    )  # the first 90 are the same digits


def test_classes_that_do_not_match_are_a_user_error(make_model, make_store, digits, cpu):
    letters = make_store(digits[0][:20], digits[1][:20].tolist(), ["test"] * 10 + ["train"] * 10, "abcdefghij")
    with pytest.raises(UserError, match="the model's 10 classes are not the 10 of made: give --data") as caught:
        evaluate_models([make_model()], [letters], letters.subset("test"), cpu)
    assert caught.value.details == ("model: 0, 1, 2, 3, 4, 5, 6, 7 …", "images: a, b, c, d, e, f, g, h …")


def test_no_image_is_a_user_error(make_model, dataset, cpu):
    with pytest.raises(UserError, match="few-digits has no images to evaluate on"):
        evaluate_models([make_model()], [dataset], np.arange(0), cpu)


def test_an_ensemble_needs_one_set_of_images(make_model, dataset, make_digits_store, cpu):
    other = make_digits_store(train=60, val=30, test=156)
    with pytest.raises(UserError, match=r"evaluated on different images .* give one image set for all with --data"):
        evaluate_models([make_model(), make_model()], [dataset, other], dataset.subset("test"), cpu)


def test_an_output_that_is_not_finite_is_counted_and_never_right():
    """NaN in the row of class 0 once counted as right, because the first of equal places was taken."""
    nan, inf = float("nan"), float("inf")
    counts = Metrics(3)
    counts.add(
        torch.tensor([[-0.1, -3.0, -4.0], [nan, nan, nan], [-0.1, nan, -3.0], [-0.1, -inf, -3.0], [-2.0, -0.5, -3.0]]),
        torch.tensor([0, 0, 0, 0, 1]),
    )
    assert (counts.images, counts.correct, counts.correct_top5, counts.not_finite) == (5, 2, 2, {0: 3})
    assert counts.loss == pytest.approx((0.1 + 0.5) / 2)
    summary = counts.summary(["a", "b", "c"])
    assert (summary["top1"], summary["not_finite"]) == (0.4, 3)
    assert summary["per_class"]["a"] == {"images": 4, "top1": 0.25}
    text = describe_counts([counts.to_json()])
    assert "for 3 of them the output is not finite: counted as wrong, left out of the loss" in text
    nothing = Metrics(3)
    nothing.add(torch.full((2, 3), nan), torch.tensor([0, 1]))
    row = nothing.to_json()
    assert (row["top1"], row["loss"], row["calibration_error"], row["not_finite"]) == (0.0, None, None, 2)
    assert "0.00% top-1" in describe_measure(row)
    assert json.dumps(row, allow_nan=False)
    good = Metrics(3)
    good.add(torch.tensor([[-0.1, -3.0, -4.0]]), torch.tensor([0]))
    assert "not_finite" not in good.summary()


def test_a_model_whose_outputs_overflow_is_never_right(make_model, dataset, cpu):
    model = make_model()
    with torch.no_grad():
        model.fc8.weight.fill_(3e38)
    batches = []
    (counts,) = evaluate_models([model], [dataset], dataset.subset("test"), cpu, on_batch=batches.append)
    assert (counts.correct, counts.not_finite.total()) == (0, 157)
    assert [found for batch in batches for found in most_probable(batch)] == [None] * 157
    predictor = Predictor(model, cpu)
    with pytest.raises(UserError, match="is not finite, so there is no prediction"):
        predictor(dataset.images[0])
    with pytest.raises(UserError, match="for 1 of 1 images the output of the model is not finite"):
        compose_unlabelled_predictions(predictor, [("a", dataset.images[0])], "t")


def test_classes_are_matched_by_name(make_model):
    model = make_model()
    model.info = replace(
        model.info,
        classes=("ant", "Bee", "café", "n4", "e", "f", "g", "h", "i", "j"),
        labels=("ant", "Bee", "café", "dog", "e", "f", "g", "h", "i", "j"),
    )
    numbers, notes = match_classes(model, ["dog", " bee", "cafe\u0301", "ant"], "some")
    assert numbers == [3, 1, 2, 0]
    assert notes == [
        "note: classes of some that are spelled in another way: 'dog' as 'n4', ' bee' as 'Bee', 'cafe\u0301' as 'café'",
        "note: some has no images of 6 classes of the model: e, f, g, h, i, j; they are not counted",
    ]
    with pytest.raises(UserError, match=r"some has 2 classes that the model does not have \(cat, cow\): leave"):
        match_classes(model, ["ant", "cat", "cow"], "some")
