"""``docs/variants/`` is what the code writes, and what it writes is right where the literature gives a figure."""

from pathlib import Path

import pytest

from alexnet.models.variants import VARIANTS, Variant
from alexnet_lab.results.reader import Results, results_folder
from alexnet_lab.variant_pages import ABOUT, FOLDER, PAPER, difference_table, pages, settings, variant_page

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def texts():
    return pages(Results(results_folder()))


def test_the_pages_are_what_the_code_writes(texts):
    on_disk = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / FOLDER).glob("*.md")}
    assert on_disk == texts, "run python -m alexnet_lab.variant_pages"


def test_every_variant_has_a_page_and_says_where_it_is_from(texts):
    assert set(texts) == {"index.md", *(f"{name}.md" for name in VARIANTS)}
    assert set(ABOUT) == set(VARIANTS)
    for name, variant in VARIANTS.items():
        if variant.architecture is not None:
            known = {*settings(variant.architecture), *settings(VARIANTS[PAPER].architecture)}
            assert set(ABOUT[name].places) <= known, f"{name}: a place for a setting that it does not have"


@pytest.mark.parametrize(
    ("name", "parts"),
    {
        "paper": ("60,965,224", "| conv5 | convolution | 256×13×13 |", "α = 0.0001 times the sum of squares"),
        "cuda-convnet": ("0.03 in conv3, conv4, conv5", "LRN → ReLU → max pool"),
        "torchvision": ("61,100,840", "64 filters 11 × 11, stride 4, padding 2", "on the outputs of pool5 and fc6"),
        "d2l": ("1 × 224 × 224", "96×54×54", "Xavier uniform"),
        "lenet5": ("61,706",),
    }.items(),
)
def test_pages_hold_what_the_literature_gives(texts, name, parts):
    for part in parts:
        assert part in texts[f"{name}.md"], part


def test_only_what_differs_is_listed():
    table = difference_table("caffenet", VARIANTS["caffenet"])
    assert "| after conv1 |" in table
    assert "| conv3 |" not in table  # the paper's
    assert difference_table("lenet5", VARIANTS["lenet5"]) == ""


def test_a_variant_of_another_package_gets_a_page():
    row = Variant(VARIANTS["d2l"].architecture, "somebody's report")
    text = variant_page("new", row, Results(ROOT / "no-such-folder"))
    assert "somebody's report" in text
    assert "No training of this network was measured here." in text
