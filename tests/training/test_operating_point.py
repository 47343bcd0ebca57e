"""The ROC curve of a training: which images choose the operating point, and what the run says about it."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from alexnet import plot, train
from alexnet.analysis.probe import NestedScore
from alexnet.config import Recipe, override
from alexnet.core.errors import UserError
from alexnet.metrics.counts import CROSS_VALIDATED
from alexnet.metrics.roc import choose_threshold
from alexnet.recipes import get_recipe
from alexnet.recipes.photos import MEDICAL, PHOTOS_TRANSFER, fitted, for_weights, is_for_own_images
from alexnet.report.text import NO_MEDICAL_DEVICE, describe_roc
from alexnet.training import operating_point
from alexnet.training.linear_probe import CrossValidation
from alexnet.training.operating_point import measure_classes, positive_classes

pytestmark = pytest.mark.usefixtures("one_thread")
RECIPE = override(Recipe("made"), ["train.operating_point=youden"])


class Made:
    """The parts of a prepared dataset that are used here: 0 … 39 val, 40 … 99 test."""

    classes = ("clear", "opacity")
    has_groups = False

    def __init__(self, targets, groups=None):
        self.targets, self.groups = targets, groups
        self.has_groups = groups is not None

    def subset(self, split):
        return {"val": np.arange(40), "test": np.arange(40, 100), "train": np.arange(0)}[split]


def made_scores(seed=0, classes=2):
    random = np.random.default_rng(seed)
    targets = random.integers(0, classes, 100)
    logits = random.normal(size=(100, classes)) + 1.2 * np.eye(classes)[targets]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return targets, probabilities


@pytest.fixture
def scored(monkeypatch):
    """Replaces the network by probabilities."""

    def use(probabilities):
        monkeypatch.setattr(
            operating_point, "probabilities", lambda model, dataset, index, device: probabilities[index]
        )

    return use


def test_the_point_is_chosen_on_val_and_tried_on_test(scored):
    targets, scores = made_scores()
    scored(scores)
    found = measure_classes(RECIPE, None, Made(targets), None, "test", np.arange(40), None, 0)
    assert (found["chosen_on"], found["same_images"], found["patients"]) == ("val", False, None)
    (counted,) = found["classes"].values()
    threshold = choose_threshold(scores[:40, 1], targets[:40] == 1, "youden", 0.9)
    assert counted["threshold"] == threshold
    ones = targets[40:] == 1
    assert counted["sensitivity"]["value"] == (scores[40:, 1] >= threshold)[ones].mean()
    assert counted["specificity"]["value"] == (scores[40:, 1] < threshold)[~ones].mean()
    changed = scores.copy()  # other test images never change the choice
    changed[40:] = changed[40:, ::-1]
    scored(changed)
    again = measure_classes(RECIPE, None, Made(targets), None, "test", np.arange(40), None, 0)
    assert again["classes"]["opacity"]["threshold"] == threshold


def test_in_folds_no_image_takes_part_in_its_own_choice(scored):
    targets, scores = made_scores(3)
    fold = np.arange(100) % 4
    folds = CrossValidation(
        np.arange(100), NestedScore(np.log(scores), ("a",) * 4, fold), SimpleNamespace(layer="relu5")
    )
    found = measure_classes(RECIPE, None, Made(targets), None, CROSS_VALIDATED, np.arange(0), folds, 0)
    assert found["chosen_on"] == "folds"
    decided = np.zeros(100, bool)
    for number in range(4):
        others = fold != number
        threshold = choose_threshold(scores[others, 1], targets[others] == 1, "youden", 0.9)
        decided[~others] = scores[~others, 1] >= threshold
    counted = found["classes"]["opacity"]
    assert counted["sensitivity"]["value"] == pytest.approx(decided[targets == 1].mean())
    assert counted["specificity"]["value"] == pytest.approx((~decided)[targets == 0].mean())


def test_a_target_sensitivity_patients_and_a_named_class(scored):
    targets, scores = made_scores(4)
    scored(scores)
    recipe = override(
        RECIPE, ["train.operating_point=sensitivity", "train.target_sensitivity=0.8", "train.positive_class=clear"]
    )
    dataset = Made(targets, (np.arange(100) // 2).astype(np.uint64))
    found = measure_classes(recipe, None, dataset, None, "test", np.arange(40), None, 0)
    assert list(found["classes"]) == ["clear"]
    assert (found["patients"], found["target_sensitivity"]) == (30, 0.8)
    assert found["classes"]["clear"]["bootstrap"]
    chosen = found["classes"]["clear"]["threshold"]
    assert (scores[:40, 0] >= chosen)[targets[:40] == 0].mean() >= 0.8
    lines = describe_roc({"roc": found, "calibration_error": 0.123}, {"clear": "Clear"})
    assert lines[0].startswith("AUC of Clear 0.")
    assert "a sensitivity of 80%" in lines[1]
    assert lines[2] == "The intervals draw 30 patients, because some have several images."
    assert lines[3:] == ["Calibration: the expected calibration error is 12.3%.", NO_MEDICAL_DEVICE]


def test_without_val_there_is_no_point_and_of_three_classes_each_is_compared(scored):
    targets, scores = made_scores(5, classes=3)
    scored(scores)
    dataset = Made(targets)
    dataset.classes = ("a", "b", "c")
    found = measure_classes(RECIPE, None, dataset, None, "test", np.arange(0), None, 0)
    assert list(found["classes"]) == ["a", "b", "c"]
    assert all(counted["threshold"] is None and counted["sensitivity"] is None for counted in found["classes"].values())
    lines = describe_roc({"roc": found, "calibration_error": None})
    assert lines[1] == "There is no operating point for a: no validation images of both kinds to choose it on."
    json.dumps(found, allow_nan=False)
    assert positive_classes("", ("a", "b")) == [1]


def test_the_result_on_the_images_of_the_choice_says_so(scored):
    targets, scores = made_scores(6)
    scored(scores)
    found = measure_classes(RECIPE, None, Made(targets), None, "val", np.arange(40), None, 0)
    assert "It was chosen on the images that it is measured on, so both figures are too high." in describe_roc(
        {"roc": found, "calibration_error": None}
    )


def test_the_recipe_starts_from_weights_like_that_for_photographs():
    assert is_for_own_images(MEDICAL) and get_recipe("medical") is MEDICAL
    assert fitted(MEDICAL, 256).data.resize_size == fitted(PHOTOS_TRANSFER, 256).data.resize_size == 80
    assert for_weights(MEDICAL, "torchvision", "fc").optim.rules[0].layer == "fc"
    assert MEDICAL.train.class_weights == "auto" and not MEDICAL.augment.flip


def test_any_training_of_two_classes_can_have_a_roc_curve(tmp_path, home):
    random = np.random.default_rng(0)
    for number in range(60):
        place = tmp_path / "set" / ("dark", "light")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 120, (16, 16)) + 100 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(place / f"{number}.png")
    changes = {"model.width": 0.125, "train.epochs": 2, "train.batch_size": 16, "train.operating_point": "youden"}
    with pytest.raises(UserError, match="unknown class 'lihgt'"):
        train("photos-small", data=tmp_path / "set", out=tmp_path / "no", progress=False,
              overrides={**changes, "train.positive_class": "lihgt"})  # fmt: skip
    run = train("photos-small", data=tmp_path / "set", out=tmp_path / "run", overrides=changes, progress=False)
    counted = run.result["roc"]["classes"]["light"]
    assert counted["positives"] + counted["negatives"] == run.result["images"]
    report = (run.folder / "report.md").read_text()
    assert "AUC of light" in report and NO_MEDICAL_DEVICE in report
    for settings in ({}, {"data": tmp_path / "set"}):
        figure = plot("roc", run.folder, **settings)
        assert [axes.get_ylabel() for axes in figure.axes] == ["sensitivity", "share of the class"]
    plain = train("photos-small", data=tmp_path / "set", out=tmp_path / "plain", progress=False,
                  overrides={**changes, "train.operating_point": "none"})  # fmt: skip
    assert "roc" not in plain.result
    assert NO_MEDICAL_DEVICE not in (plain.folder / "report.md").read_text()
    assert plot("roc", plain.folder).axes
