"""What a report says of a measure: wording, and how much so many images can tell."""

import pytest
from scipy.stats import binomtest

from alexnet.config import override
from alexnet.recipes import RECIPES, get_recipe
from alexnet.visualize.report import describe_images, describe_measure, wilson_interval, write_report

CLASSES = {str(number): {"images": 4, "top1": 0.75} for number in range(10)}
RESULT = {
    "split": "test", "images": 40, "top1": 0.75, "top5": 0.9, "loss": 0.5, "views": 1, "per_class": CLASSES, "seed": 0,
    "source": "digits", "splits": {"train": 1437, "val": 0, "test": 40}, "steps": 460, "seconds": 8.0,
    "images_per_second": 3800.0, "matrix_gflops": 800.0,
    "hardware": {"hardware": "a chip", "precision": "fp32", "torch": "2.11", "python": "3.11"},
}  # fmt: skip


@pytest.mark.parametrize("images", [1, 7, 360, 10_000])
def test_wilson_interval_is_scipys(images):
    for hits in {0, 1, images // 3, images}:
        expected = binomtest(hits, images).proportion_ci(0.95, "wilson")
        assert wilson_interval(hits, images) == pytest.approx((expected.low, expected.high), abs=1e-5)


def test_images_are_counted_in_words():
    assert describe_images(RESULT) == "40 test images"
    assert describe_images({**RESULT, "split": "all", "images": 4200}) == "all 4,200 images"
    assert describe_images({**RESULT, "split": "val", "images": 1, "views": 10}) == "1 val image, ten views"


def test_top5_is_left_out_where_it_says_nothing():
    assert describe_measure(RESULT) == (
        "75.00% top-1 (95 % interval 59.8% – 85.8%), 90.00% top-5, loss 0.5000 on 40 test images"
    )
    few = {**RESULT, "per_class": {name: CLASSES[name] for name in "01234"}}
    assert describe_measure(few).endswith(" – 85.8%), loss 0.5000 on 40 test images")


@pytest.mark.parametrize("name", RECIPES)
def test_a_report_holds_the_recipe_as_it_can_be_given_again(name):
    recipe = override(get_recipe(name), ["train.epochs=7", "data.validation=0.25"])
    text = write_report(recipe, RESULT, [])
    fields = text.partition("```\n")[2].partition("```")[0].splitlines()
    assert "train.epochs=7" in fields
    assert override(get_recipe(name), fields) == recipe
