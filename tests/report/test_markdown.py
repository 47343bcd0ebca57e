"""``report.md``: the recipe, the differences from it, and the sentences on the result."""

from dataclasses import replace

import pytest

from alexnet.config import override
from alexnet.recipes import RECIPES, get_recipe
from alexnet.recipes.photos import recipe_for
from alexnet.report.markdown import described_differences, readings, write_report
from alexnet.report.text import describe_measure

CLASSES = {str(number): {"images": 4, "top1": 0.75} for number in range(10)}
RESULT = {
    "split": "test", "kept_epoch": 3, "images": 40, "top1": 0.75, "top5": 0.9, "loss": 0.5, "views": 1,
    "per_class": CLASSES, "seed": 0,
    "source": "digits", "splits": {"train": 1437, "val": 0, "test": 40}, "steps": 460, "seconds": 8.0,
    "images_per_second": 3800.0, "matrix_gflops": 800.0,
    "hardware": {"hardware": "a chip", "device": "cpu", "precision": "fp32", "torch": "2.11", "python": "3.11"},
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_a_report_holds_the_recipe_as_it_can_be_given_again(name):
    recipe = override(get_recipe(name), ["train.epochs=7", "data.val_fraction=0.25"])
    text = write_report(recipe, RESULT, [])
    fields = text.partition("```\n")[2].partition("```")[0].splitlines()
    assert "train.epochs=7" in fields
    assert override(get_recipe(name), fields) == recipe


def test_a_report_says_how_a_training_departs_from_the_recipe_of_its_name():
    recipe = override(get_recipe("paper-imagenet"), ["train.epochs=1", "optim.bias_milestones=2,3"])
    text = write_report(recipe, RESULT, [])
    assert (
        "differs from the recipe of that name: optim.bias_milestones none → 2.0,3.0; train.epochs 90 → 1; images "
        in text
    )
    assert "images imagenet → digits." in text
    assert "differs" not in write_report(get_recipe("small-digits"), RESULT, [])


def test_a_training_of_another_name_is_not_said_to_be_expected_to_reach_what_its_recipe_does():
    recipe = get_recipe("small-digits")
    assert "Expected: " in write_report(recipe, RESULT, [])
    assert "Expected: " not in write_report(replace(recipe, name="small-digits-begun"), RESULT, [])


def test_it_is_said_where_one_answer_to_all_would_do_as_well():
    recipe = get_recipe("photos")
    counts = {"dogs": {"images": 10, "top1": 0.0}, "things": {"images": 12, "top1": 1.0}}
    result = {**RESULT, "images": 22, "top1": 12 / 22, "per_class": counts, "kept_epoch": 5}
    assert readings(recipe, result) == [
        "The weights are those of epoch 5 of 30, the best on the validation images.",
        "That is not clearly better than always predicting things (accuracy 54.55%).",
    ]
    assert "always predicting objects (" in readings(recipe, result, {"things": "objects"})[1]
    assert len(readings(recipe, {**result, "top1": 21 / 22})) == 1
    assert len(readings(recipe, {**result, "per_class": {"things": counts["things"]}})) == 1
    assert readings(recipe, {**result, "split": None}) == []


def test_what_an_own_folder_s_side_decides_is_no_difference():
    recipe = override(recipe_for(64), ["optim.lr=0.02"])
    assert described_differences(recipe, "cats", 64) == ["optim.lr 0.05 → 0.02"]
    assert described_differences(recipe_for(40), "cats", 40) == []
    assert described_differences(override(recipe_for(40), ["data.image_size=36"]), "cats", 40) == [
        "data.image_size 30 → 36"
    ]


@pytest.mark.parametrize(
    ("train", "test", "advice"),
    [
        (
            0.95,
            0.55,
            "It reaches 95% on its training images and 55% on other images: more photographs would help most (it",
        ),
        (
            0.60,
            0.55,
            "It reaches 60% on its training images and 55% on other images: a longer training would help, e.g. -",
        ),
        (0.98, 0.97, "It reaches 98% on its training images and 97% on other images."),
    ],
)
def test_an_own_folder_s_result_ends_with_advice(train, test, advice):
    result = {**RESULT, "top1": test, "last_epoch": {"train_top1": train}}
    assert readings(get_recipe("photos-small"), result)[-1].startswith(advice)
    assert not any("It reaches" in line for line in readings(get_recipe("small-digits"), result))


def test_classes_of_different_size_have_a_balanced_accuracy():
    counts = {"cat": {"images": 30, "top1": 0.9}, "dog": {"images": 10, "top1": 0.5}}
    line = describe_measure({**RESULT, "top1": 0.8, "per_class": counts})
    assert "70.00% balanced accuracy, loss" in line
    assert "balanced" not in describe_measure(RESULT)
