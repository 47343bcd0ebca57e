"""What a training starts from; what does not fit is said before anything is computed."""

import numpy as np
import pytest

from alexnet.config import override
from alexnet.core.errors import UserError
from alexnet.models.registry import build, create_model, get_architecture, get_variant
from alexnet.recipes import RECIPES, get_recipe
from alexnet.training.build import build_model, check_size, split_indices
from alexnet.training.optimizer import build_optimizer


@pytest.fixture
def recipe_of(small_recipe):
    return lambda *settings: override(small_recipe, settings)


@pytest.fixture(scope="module")
def dataset(make_digits_store):
    return make_digits_store(train=20)


@pytest.fixture(scope="module")
def pairs(make_store, digits):
    """Two images a class: too few to hold any out."""
    some = np.concatenate([np.flatnonzero(digits[1] == label)[:2] for label in range(10)])
    return make_store(digits[0][some], digits[1][some].tolist(), ["train"] * 20, name="pairs")


def test_batch_normalization_is_refused_where_a_batch_is_computed_in_parts(recipe_of, dataset):
    with pytest.raises(UserError, match="accumulate_steps cannot be used with batch normalization"):
        build_model(recipe_of("train.accumulate_steps=2", "model.norm_layer=batch"), dataset, 0)
    build_model(recipe_of("train.accumulate_steps=2", "model.norm_layer=none"), dataset, 0)


def test_a_batch_with_too_many_numbers_for_a_gpu_is_refused():
    """conv1 of the paper has 96 · 55² outputs for an image: 2³¹ numbers are passed at 7,395 images."""
    paper = create_model("paper")
    check_size(paper, 7394)
    with pytest.raises(UserError, match=r"a layer of paper has more than 2³¹ outputs for 7,395 .* at most 7,394 fit"):
        check_size(paper, 7395)


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        (["train.keep=best-on-val"], "add --set train.keep=last"),
        (["optim.schedule=plateau"], "add --set optim.schedule=constant"),
        (
            ["optim.schedule=plateau", "train.keep=best-on-val"],
            "add --set train.keep=last --set optim.schedule=constant",
        ),
    ],
)
def test_a_recipe_that_decides_by_validation_needs_some(recipe_of, pairs, settings, remedy):
    with pytest.raises(UserError) as caught:
        split_indices(recipe_of("data.val_fraction=0.2", *settings), pairs)
    line = "recipe 'least' needs validation images, but pairs has too few images to hold any out"
    assert caught.value.line == f"{line}: {remedy}"


def test_a_recipe_that_only_looks_at_validation_does_without(recipe_of, pairs):
    train, val = split_indices(recipe_of("data.val_fraction=0.2"), pairs)
    assert (len(train), len(val)) == (20, 0)


def test_nothing_to_train_on_is_a_user_error(recipe_of, make_digits_store):
    dataset = make_digits_store(train=30)
    with pytest.raises(UserError, match="few-digits has no images left to train on"):
        split_indices(recipe_of("data.val_fraction=0.999"), dataset)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (["train.test_curve=true"], "recipe 'least' evaluates test images after each epoch, but few-digits has none"),
        (["augment.color_noise=paper"], "augment.color_noise needs colour images and those of few-digits are grey"),
        (["augment.crop=11"], "augment.crop=11 with augment.pad=0 does not fit the prepared images of 8 pixels"),
        (["augment.pad=8"], "augment.crop=None with augment.pad=8 does not fit the prepared images of 8 pixels"),
        (["model.variant=paper", "data.image_size=none"], None),
        (["model.variant=small", "data.image_size=10"], "variant 'small': an image of 10 pixels is too small"),
        (["model.variant=smal"], "unknown variant 'smal': did you mean 'small'?"),
        (["model.variant=lenet5"], "variant 'lenet5' does not have these fields: add --set"),
    ],
)
def test_what_does_not_fit_is_a_user_error(recipe_of, dataset, settings, line):
    if line is None:
        model = build_model(recipe_of(*settings), dataset, 0)
        assert (model.preprocessing.image_size, model.in_channels, model.num_classes) == (224, 1, 10)
        return
    with pytest.raises(UserError) as caught:
        recipe = recipe_of(*settings)
        split_indices(recipe, dataset)
        build_model(recipe, dataset, 0)
    assert caught.value.line.startswith(line)


@pytest.mark.parametrize(
    ("pixel_normalization", "mean", "std"),
    [("unit", 0.0, 255.0), ("symmetric", 127.5, 127.5), ("channel", None, None), ("mean-image", 0.0, 1.0)],
)
def test_scaling_becomes_numbers_that_travel_with_the_model(recipe_of, dataset, pixel_normalization, mean, std):
    model = build_model(recipe_of(f"data.pixel_normalization={pixel_normalization}", "augment.crop=6"), dataset, 0)
    pixels = dataset.images[dataset.subset("train")].astype(np.float64)
    wanted = (pixels.mean() if mean is None else mean, pixels.std() if std is None else std)
    preprocessing = model.preprocessing
    assert (preprocessing.mean[0], preprocessing.std[0]) == pytest.approx(wanted, rel=1e-9)
    assert (preprocessing.resize_size, preprocessing.crop, preprocessing.image_size) == (8, 6, 16)
    if pixel_normalization == "mean-image":
        np.testing.assert_allclose(model.mean_image.numpy(), pixels.mean(axis=0), rtol=1e-5)
    else:
        assert model.mean_image is None


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_a_network_and_rules_for_layers_that_are_there(name):
    recipe = get_recipe(name)
    variant = get_variant(recipe.model.variant)
    architecture = get_architecture(recipe.model.variant, **recipe.model.overrides())
    network = build(
        recipe.model.variant, architecture, 10, variant.in_channels, recipe.data.image_size, device="meta",
        head=recipe.model.head,
    )  # fmt: skip
    optimizer = build_optimizer(network, recipe.optim)
    assert sum(p.numel() for group in optimizer.param_groups for p in group["params"]) == sum(
        p.numel() for p in network.parameters()
    )
