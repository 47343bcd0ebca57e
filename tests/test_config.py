"""A training as a value: the same after JSON, and every wrong field answered with what would be right."""

import json
import typing
from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet.config import (
    AugmentSpec,
    DataSpec,
    LayerRule,
    OptimSpec,
    Preprocessing,
    Recipe,
    assignments,
    first_difference,
    override,
)
from alexnet.core.errors import UserError
from alexnet.core.schema import from_json, to_json
from alexnet.recipes import RECIPES, get_recipe


def changed(assignment, recipe="small-digits"):
    """The value of the field that ``section.field=value`` changes."""
    section, name = assignment.partition("=")[0].split(".")
    return getattr(getattr(override(get_recipe(recipe), [assignment]), section), name)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_the_same_after_json(name):
    recipe = RECIPES[name]
    again = from_json(Recipe, json.loads(json.dumps(to_json(recipe))))
    assert again == recipe
    assert first_difference(again, recipe) is None
    assert repr(again) == repr(recipe)  # types too: 1 and 1.0 are equal


def test_every_optional_field_survives_json():
    recipe = override(
        get_recipe("small-digits"),
        ["model.activation=tanh", "model.dropout=0", "data.channels=1", "data.resize_size=8", "optim.milestones=1,2.5"],
    )
    assert from_json(Recipe, json.loads(json.dumps(to_json(recipe)))) == recipe
    preprocessing = Preprocessing(3, 256, 224, 224, "channel", (1.5, 2.0, 3.0), (4.0, 5.0, 6.0))
    assert from_json(Preprocessing, json.loads(json.dumps(to_json(preprocessing)))) == preprocessing


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("train.epochs=3", 3),
        ("optim.lr=1", 1.0),
        ("optim.lr=1.0", 1.0),
        ("optim.lr=1e-3", 1e-3),
        ("augment.flip=true", True),
        ("augment.flip=False", False),
        ("model.dropout=none", None),
        ("model.dropout=0", 0.0),
        ("model.activation=tanh", "tanh"),
        ("data.channels=3", 3),
        ("data.channels=none", None),
        ("data.resize_size=64", 64),
        ("data.source=none", "none"),
        ("data.source=5", "5"),
        ("data.source=a=b", "a=b"),
        ("train.views=1", 1),
        ("optim.milestones=30,60", (30.0, 60.0)),
        ("optim.milestones=7", (7.0,)),
        ("optim.milestones=", ()),
        ("optim.schedule=cosine", "cosine"),
    ],
)
def test_a_word_becomes_the_field_s_type(assignment, value):
    found = changed(assignment)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("assignment", "line"),
    [
        ("train.epochs=1.0", "train.epochs = '1.0' is not a whole number"),
        ("train.epochs=true", "train.epochs = 'true' is not a whole number"),
        ("train.epochs=many", "train.epochs = 'many' is not a whole number"),
        ("optim.lr=fast", "optim.lr = 'fast' is not a number"),
        ("optim.lr=inf", "optim.lr = 'inf' is not a number"),
        ("optim.lr=nan", "optim.lr = 'nan' is not a number"),
        ("optim.lr=1" + 400 * "0", f"optim.lr = '1{400 * '0'}' is not a number"),
        ("optim.milestones=1,nan", "optim.milestones = '1,nan' is not numbers with commas between them"),
        ("augment.flip=1", "augment.flip = '1' is not true or false"),
        ("model.dropout=half", "model.dropout = 'half' is not a number or none"),
        ("data.resize_size=8.5", "data.resize_size = '8.5' is not a whole number or none"),
        ("train.views=1.0", "train.views = '1.0' is not one of 1, 10"),
        ("train.views=true", "train.views = 'true' is not one of 1, 10"),
        ("train.views=5", "train.views = '5' is not one of 1, 10"),
        ("data.channels=2", "data.channels = '2' is not one of 1, 3 or none"),
        ("model.activation=gelu", "model.activation = 'gelu' is not one of relu, tanh, sigmoid or none"),
        ("optim.optimizer=sgd2012", "optim.optimizer = 'sgd2012' is not one of sgd, sgd-2012, adam, adamw"),
    ],
)
def test_a_word_of_another_type_is_refused(assignment, line):
    with pytest.raises(UserError) as caught:
        changed(assignment)
    assert caught.value.line == line


@pytest.mark.parametrize(
    ("assignment", "start"),
    [
        ("model.dropout=1", "model.dropout = 1.0 is out of range"),
        ("model.pool_kernel=0", "model.pool_kernel = 0 is out of range"),
        ("model.width=0", "model.width = 0.0 is out of range"),
        ("data.val_fraction=1", "data.val_fraction = 1.0 is out of range"),
        ("data.resize_size=3", "data.resize_size = 3 is out of range"),
        ("data.image_size=0", "data.image_size = 0 is out of range"),
        ("augment.crop=1", "augment.crop = 1 is out of range"),
        ("augment.pad=-1", "augment.pad = -1 is out of range"),
        ("augment.random_resized_crop=0,1", "augment.random_resized_crop = (0.0, 1.0) is out of range: two shares"),
        ("augment.random_resized_crop=0.5,0.2", "augment.random_resized_crop = (0.5, 0.2) is out of range: two shares"),
        ("augment.random_resized_crop=0.5", "augment.random_resized_crop = (0.5,) is out of range: two shares"),
        ("augment.crop_group=0", "augment.crop_group = 0 is out of range"),
        ("augment.rotation=181", "augment.rotation = 181.0 is out of range"),
        ("augment.color_noise_std=-0.1", "augment.color_noise_std = -0.1 is out of range"),
        ("optim.lr=-1", "optim.lr = -1.0 is out of range"),
        ("optim.momentum=1", "optim.momentum = 1.0 is out of range"),
        ("optim.weight_decay=-1", "optim.weight_decay = -1.0 is out of range"),
        ("optim.bias_lr_mult=-1", "optim.bias_lr_mult = -1.0 is out of range"),
        ("optim.patience=0", "optim.patience = 0 is out of range"),
        ("optim.warmup=1", "optim.warmup = 1.0 is out of range"),
        ("optim.milestones=2,1", "optim.milestones = (2.0, 1.0) is out of range: epochs in rising order"),
        ("train.batch_size=0", "train.batch_size = 0 is out of range"),
        ("train.epochs=0", "train.epochs = 0 is out of range"),
        ("train.steps=0", "train.steps = 0 is out of range"),
        ("train.label_smoothing=1", "train.label_smoothing = 1.0 is out of range"),
    ],
)
def test_a_value_out_of_range_is_refused(assignment, start):
    with pytest.raises(UserError) as caught:
        changed(assignment)
    assert caught.value.line.startswith(start)


@pytest.mark.parametrize(
    ("path", "nearest"),
    [("optim.ratte", "optim.lr"), ("train.epoch", "train.epochs"), ("augment.flipp", "augment.flip")],
)
def test_an_unknown_field_names_the_nearest(path, nearest):
    with pytest.raises(UserError) as caught:
        override(get_recipe("small-digits"), [f"{path}=1"])
    assert caught.value.line == f"unknown field {path!r}: did you mean {nearest!r}?"


@pytest.mark.parametrize("path", ["claim.top1", "name", "claim.cost"])
def test_what_a_recipe_claims_cannot_be_set(path):
    with pytest.raises(UserError, match=f"unknown field '{path}'"):
        override(get_recipe("small-digits"), [f"{path}=1"])


def test_an_assignment_needs_an_equals_sign():
    with pytest.raises(UserError, match=r"--set optim\.rate: no '=' in it"):
        override(get_recipe("small-digits"), ["optim.lr"])


def test_the_last_assignment_wins_and_the_others_stay():
    recipe = get_recipe("small-digits")
    found = override(recipe, ["optim.lr=1", "train.epochs=2", "optim.lr=0.5", "optim.momentum=0.8"])
    optim = replace(recipe.optim, lr=0.5, momentum=0.8)
    assert found == replace(recipe, optim=optim, train=replace(recipe.train, epochs=2))
    assert override(recipe, []) == recipe


@pytest.mark.parametrize("assignment", ["optim.schedule=plateau", "train.keep=best-on-val"])
def test_deciding_by_validation_needs_validation(assignment):
    recipe = get_recipe("small-digits")
    with pytest.raises(UserError, match=r"'small-digits' decides by validation and has none: set data\.validation"):
        override(recipe, [assignment])
    assert override(recipe, [assignment, "data.val_fraction=0.1"]).data.val_fraction == 0.1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"nesterov": True}, "optim.nesterov is for optim.optimizer=sgd with a momentum above 0"),
        ({"nesterov": True, "momentum": 0.9, "update": "adam"}, "optim.nesterov is for optim.optimizer=sgd"),
        ({"schedule": "step"}, "drops the rate at no epoch"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        OptimSpec(**fields)


def test_a_crop_of_random_size_is_inside_the_image_and_has_no_mean_image():
    with pytest.raises(UserError, match=r"augment\.area crops inside each image: set augment\.pad=0"):
        AugmentSpec(random_resized_crop=(0.1, 1.0), pad=2)
    with pytest.raises(UserError, match=r"set data\.scaling=channel or augment\.area=none"):
        Recipe(
            "x", data=DataSpec(pixel_normalization="mean-image"), augment=AugmentSpec(random_resized_crop=(0.1, 1.0))
        )


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ({"name": "x", "optim": {"ratte": 1}}, "unknown field 'optim.ratte': did you mean 'optim.lr'?"),
        ({"name": "x", "optim": {"rate": "1"}}, "optim.lr = '1' is not a number"),
        ({"name": "x", "optim": {"drops": ["1"]}}, "optim.milestones = ['1'] is not numbers with commas between them"),
        ({"name": "x", "optim": 3}, "optim = 3 is not a set of fields"),
        ({"name": 3}, "name = 3 is not text"),
        ([], "Recipe = [] is not a set of fields"),
    ],
)
def test_json_of_another_shape_is_refused(value, line):
    with pytest.raises(UserError) as caught:
        from_json(Recipe, value)
    assert caught.value.line == line


def test_json_without_a_name_is_refused_and_other_fields_have_defaults():
    with pytest.raises(UserError, match=r"Recipe is incomplete: .*'name'"):
        from_json(Recipe, {})
    assert from_json(Recipe, {"name": "x", "train": {"epochs": 2}}).train.batch_size == 128


def test_difference_names_the_first_field():
    recipe = get_recipe("small-digits")
    other = override(recipe, ["optim.momentum=0.8", "optim.lr=0.1"])
    assert first_difference(recipe, other) == "optim.lr (0.05, now 0.1)"
    assert first_difference(other, recipe) == "optim.lr (0.1, now 0.05)"
    elsewhere = replace(recipe, claim=get_recipe("photos").claim, data=replace(recipe.data, source="/elsewhere"))
    assert first_difference(recipe, elsewhere) is None  # content has a hash of its own
    assert first_difference(recipe, replace(recipe, data=DataSpec())) == "data.image_size (24, now None)"


@given(st.text(max_size=40))
def test_any_text_is_a_value_or_a_user_error(text):
    for path in ("optim.lr", "optim.milestones", "train.epochs", "model.activation", "data.source", "augment.flip"):
        try:
            override(get_recipe("small-digits"), [f"{path}={text}"])
        except UserError as error:
            assert path in error.line


def test_ten_views_need_a_crop():
    with pytest.raises(UserError, match="ten views need a crop"):
        override(Recipe("x"), ["train.views=10"])
    assert override(Recipe("x"), ["train.views=10", "augment.crop=24"]).train.views == 10


RULES = (LayerRule("conv1", start=67, lr=1e-5), LayerRule("fc5", weight_decay=1.0))


def test_rules_survive_json_and_words():
    recipe = replace(get_recipe("paper-imagenet"), optim=OptimSpec(rules=RULES, bias_milestones=(), gamma=0.4))
    assert from_json(Recipe, json.loads(json.dumps(to_json(recipe)))) == recipe
    words = assignments(recipe)
    assert override(get_recipe("paper-imagenet"), words).optim == recipe.optim


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[{"layer": "conv1", "rat": 0}]', "optim.rules = "),
        ("conv1", "optim.rules = 'conv1' is not a JSON list of objects with layer, start, rate, weight_decay"),
        ("[3]", "optim.rules = "),
    ],
)
def test_rules_of_another_shape_are_refused(text, line):
    with pytest.raises(UserError) as caught:
        override(get_recipe("paper-imagenet"), [f"optim.rules={text}"])
    assert caught.value.line.startswith(line)


def test_colour_noise_ends_at_its_epoch():
    spec = AugmentSpec(color_noise="cuda-convnet", color_noise_until=2)
    assert [spec.at(epoch).color_noise for epoch in range(4)] == ["cuda-convnet", "cuda-convnet", "none", "none"]
    assert AugmentSpec(color_noise="paper").at(1000).color_noise == "paper"


def test_no_choice_is_spelled_as_the_word_for_no_choice():
    """``--set field=none`` is the default wherever a field may be left open, so no choice of such a field is "none"."""
    checked = 0
    for section in ("model", "data", "augment", "optim", "train"):
        for name, hint in typing.get_type_hints(typing.get_type_hints(Recipe)[section]).items():
            kinds = typing.get_args(hint)
            if type(None) in kinds:
                checked += 1
                choices = {
                    word for kind in kinds if typing.get_origin(kind) is Literal for word in typing.get_args(kind)
                }
                assert not choices & {"none", "true", "false"}, f"{section}.{name}"
    assert checked > 10


@pytest.mark.parametrize("kind", ["absent", "response", "batch"])
def test_every_normalization_can_be_asked_for(kind):
    assert override(get_recipe("small-digits"), [f"model.norm_layer={kind}"]).model.norm_layer == kind
