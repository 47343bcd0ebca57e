"""A recipe is a value: the same after JSON; earlier names are read; a wrong field costs one line with what fits."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet.config import (
    RENAMED,
    AugmentSpec,
    DataSpec,
    LayerRule,
    ModelSpec,
    OptimSpec,
    Preprocessing,
    Recipe,
    TrainSpec,
    assignments,
    differences,
    field_meant,
    field_names,
    first_difference,
    override,
)
from alexnet.core.errors import UserError
from alexnet.core.schema import from_json, to_json
from alexnet.recipes import RECIPES, get_recipe

ROOT = Path(__file__).parents[1]
DEEP = "[" * 100_000
RULES_TAKE = "a JSON list of objects with layer, start, lr, weight_decay, lr_mult"


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
        ("train.epochs=1.0", "train.epochs = '1.0' is not a whole number of at least 1"),
        ("train.epochs=true", "train.epochs = 'true' is not a whole number of at least 1"),
        ("train.epochs=many", "train.epochs = 'many' is not a whole number of at least 1"),
        ("train.epochs=none", "train.epochs = 'none' is not a whole number of at least 1"),
        ("optim.lr=fast", "optim.lr = 'fast' is not a number of at least 0"),
        ("optim.lr=true", "optim.lr = 'true' is not a number of at least 0"),
        ("optim.lr=inf", "optim.lr = 'inf' is not a number of at least 0"),
        ("optim.lr=nan", "optim.lr = 'nan' is not a number of at least 0"),
        ("optim.lr=1" + 400 * "0", f"optim.lr = '1{36 * '0'}...{38 * '0'}' is not a number of at least 0"),
        ("optim.milestones=1,nan", "optim.milestones = '1,nan' is not numbers with commas between them"),
        ("optim.milestones=1,inf", "optim.milestones = '1,inf' is not numbers with commas between them"),
        ("augment.flip=1", "augment.flip = '1' is not true or false"),
        ("model.dropout=half", "model.dropout = 'half' is not a number of at least 0 and below 1, or none"),
        (
            "data.resize_size=8.5",
            "data.resize_size = '8.5' is not a whole number of at least 4 and at most 4096, or none",
        ),
        ("train.views=1.0", "train.views = '1.0' is not one of 1, 10"),
        ("train.views=true", "train.views = 'true' is not one of 1, 10"),
        ("train.views=5", "train.views = '5' is not one of 1, 10"),
        ("data.channels=2", "data.channels = '2' is not one of 1, 3, or none"),
        ("model.groups=true", "model.groups = 'true' is not one of 1, 2, or none"),
        ("model.activation=swish", "model.activation = 'swish' is not one of relu, tanh, sigmoid, or none"),
        (
            "model.activation=gelu",
            "model.activation = 'gelu' is not one of relu, tanh, sigmoid, or none: did you mean 'relu'?",
        ),
        (
            "model.activation=rellu",
            "model.activation = 'rellu' is not one of relu, tanh, sigmoid, or none: did you mean 'relu'?",
        ),
        ("model.norm_layer=lnr", "model.norm_layer = 'lnr' is not one of none, lrn, batch: did you mean 'lrn'?"),
        (
            "optim.optimizer=sgd2012",
            "optim.optimizer = 'sgd2012' is not one of sgd, sgd-2012, adam, adamw, lars: did you mean 'sgd-2012'?",
        ),
    ],
)
def test_a_word_of_another_type_is_refused(assignment, line):
    with pytest.raises(UserError) as caught:
        changed(assignment)
    assert caught.value.line == line


SHARE = "a number of at least 0 and below 1"
COUNT = "a whole number of at least 1"


@pytest.mark.parametrize(
    ("path", "outside", "inside", "takes"),
    [
        ("model.dropout", ["1", "-0.1"], ["0", "0.99"], f"{SHARE}, or none"),
        ("model.pool_kernel", ["0"], ["1"], f"{COUNT}, or none"),
        ("model.width", ["0", "101"], ["0.1", "100"], "a number above 0 and at most 100, or none"),
        ("data.val_fraction", ["1", "-0.1"], ["0", "0.9"], SHARE),
        ("data.resize_size", ["3", "4097"], ["4", "4096"], "a whole number of at least 4 and at most 4096, or none"),
        ("data.image_size", ["3", "4097"], ["4", "4096"], "a whole number of at least 4 and at most 4096, or none"),
        ("augment.crop", ["3"], ["4"], "a whole number of at least 4, or none"),
        ("augment.pad", ["-1"], ["0"], "a whole number of at least 0"),
        ("augment.crop_group", ["0"], ["1"], COUNT),
        ("augment.rotation", ["181", "-1"], ["0", "180"], "a number of at least 0 and at most 180"),
        ("augment.color_noise_std", ["-0.1"], ["0"], "a number of at least 0"),
        ("optim.lr", ["-1"], ["0"], "a number of at least 0"),
        ("optim.momentum", ["1", "-0.1"], ["0", "0.9"], SHARE),
        ("optim.weight_decay", ["-1"], ["0"], "a number of at least 0"),
        ("optim.bias_lr_mult", ["-1"], ["0"], "a number of at least 0"),
        ("optim.gamma", ["0", "1"], ["0.1"], "a number above 0 and below 1"),
        ("optim.patience", ["0"], ["1"], COUNT),
        ("optim.warmup", ["1", "-0.1"], ["0", "0.9"], SHARE),
        ("train.batch_size", ["0"], ["1"], COUNT),
        ("train.epochs", ["0", "-1"], ["1"], COUNT),
        ("train.steps", ["0"], ["1"], f"{COUNT}, or none"),
        ("train.label_smoothing", ["1", "-0.1"], ["0", "0.9"], SHARE),
    ],
)
def test_a_value_out_of_range_is_refused(path, outside, inside, takes):
    section, name = path.split(".")
    for text in outside:
        with pytest.raises(UserError) as caught:
            changed(f"{path}={text}", "photos")
        assert caught.value.line == f"{path} = {text!r} is not {takes}"
        number = json.loads(text)
        for build in (
            lambda number=number: override(Recipe("x"), {path: number}),
            lambda number=number: from_json(Recipe, {"name": "x", section: {name: number}}),
            lambda number=number: replace(getattr(Recipe("x"), section), **{name: number}),
        ):
            with pytest.raises(UserError) as caught:
                build()
            assert caught.value.line.startswith(f"{path} = ")
            assert caught.value.line.endswith(f" is not {takes}")
    for text in inside:
        found = override(Recipe("x"), {path: json.loads(text)})
        assert getattr(getattr(found, section), name) == float(text)
        assert override(Recipe("x"), [f"{path}={text}"]) == found


@pytest.mark.parametrize(
    ("assignment", "line"),
    [
        ("augment.random_resized_crop=0.5", "augment.random_resized_crop = '0.5' is not 2 numbers with commas between"),
        ("augment.random_resized_crop=0,1", "augment.random_resized_crop = (0.0, 1.0) is not two shares of the area"),
        ("augment.random_resized_crop=0.5,0.2", "augment.random_resized_crop = (0.5, 0.2) is not two shares"),
        ("augment.random_resized_crop=0.5,1.2", "augment.random_resized_crop = (0.5, 1.2) is not two shares"),
        ("optim.milestones=2,1", "optim.milestones = (2.0, 1.0) are not epochs in rising order"),
    ],
)
def test_numbers_in_the_wrong_order_are_refused(assignment, line):
    with pytest.raises(UserError) as caught:
        changed(assignment)
    assert caught.value.line.startswith(line)


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("optim.learning_rate", "optim.lr"),
        ("optim.ratte", "optim.lr"),
        ("train.epoch", "train.epochs"),
        ("augment.flipp", "augment.flip"),
        ("epochs", "train.epochs"),
        ("rate", "optim.lr"),
        ("wd", "optim.weight_decay"),
    ],
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
    with pytest.raises(UserError, match=r"--set optim\.lr: no '=' in it"):
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
    with pytest.raises(UserError, match=r"'small-digits' needs validation images: set data\.val_fraction"):
        override(recipe, [assignment])
    assert override(recipe, [assignment, "data.val_fraction=0.1"]).data.val_fraction == 0.1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"nesterov": True}, "optim.nesterov needs optim.optimizer=sgd and a momentum above 0"),
        ({"nesterov": True, "momentum": 0.9, "optimizer": "adam"}, "optim.nesterov needs optim.optimizer=sgd"),
        ({"schedule": "step"}, "optim.schedule=step has no milestones"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        OptimSpec(**fields)


def test_a_crop_of_random_size_is_inside_the_image_and_has_no_mean_image():
    with pytest.raises(UserError, match=r"augment\.random_resized_crop crops inside each image: set augment\.pad=0"):
        AugmentSpec(random_resized_crop=(0.1, 1.0), pad=2)
    with pytest.raises(UserError, match=r"set data\.pixel_normalization=channel or augment\.random_resized_crop=none"):
        Recipe(
            "x", data=DataSpec(pixel_normalization="mean-image"), augment=AugmentSpec(random_resized_crop=(0.1, 1.0))
        )


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ({"name": "x", "optim": {"ratte": 1}}, "unknown field 'optim.ratte': did you mean 'optim.lr'?"),
        ({"name": "x", "optim": {"lr": "1"}}, "optim.lr = '1' is not a number of at least 0"),
        ({"name": "x", "optim": {"lr": True}}, "optim.lr = True is not a number of at least 0"),
        ({"name": "x", "optim": {"lr": math.inf}}, "optim.lr = inf is not a number of at least 0"),
        ({"name": "x", "optim": {"lr": math.nan}}, "optim.lr = nan is not a number of at least 0"),
        ({"name": "x", "optim": {"milestones": ["1"]}}, "optim.milestones[0] = '1' is not a number"),
        ({"name": "x", "optim": {"milestones": [1, True]}}, "optim.milestones[1] = True is not a number"),
        ({"name": "x", "optim": {"milestones": 1}}, "optim.milestones = 1 is not numbers with commas between them"),
        ({"name": "x", "train": {"epochs": True}}, "train.epochs = True is not a whole number of at least 1"),
        ({"name": "x", "train": {"epochs": 1.0}}, "train.epochs = 1.0 is not a whole number of at least 1"),
        ({"name": "x", "train": {"views": True}}, "train.views = True is not one of 1, 10"),
        ({"name": "x", "train": {"views": 10.0}}, "train.views = 10.0 is not one of 1, 10"),
        ({"name": "x", "augment": {"flip": 1}}, "augment.flip = 1 is not true or false"),
        ({"name": "x", "optim": {"rules": 3}}, f"optim.rules = 3 is not {RULES_TAKE}"),
        ({"name": "x", "optim": {"rules": [3]}}, "optim.rules[0] = 3 is not a set of fields"),
        ({"name": "x", "optim": {"rules": [{"lr": 1}]}}, "optim.rules[0] is incomplete: it lacks 'layer'"),
        (
            {"name": "x", "optim": {"rules": [{"layer": "conv1", "weight_decy": 1}]}},
            "unknown field 'optim.rules[0].weight_decy': did you mean 'optim.rules[0].weight_decay'?",
        ),
        (
            {"name": "x", "optim": {"rules": [{"layer": "conv1", "lr": "1"}]}},
            "optim.rules[0].lr = '1' is not a number, or none",
        ),
        (
            {"name": "x", "claim": {"top1": [0.5]}},
            "claim.top1 = [0.5] is not 2 numbers with commas between them, or none",
        ),
        ({"name": "x", "trian": {}}, "unknown field 'trian': did you mean 'train'?"),
        ({"name": "x", "optim": 3}, "optim = 3 is not a set of fields"),
        ({"name": 3}, "name = 3 is not text"),
        ([], "Recipe = [] is not a set of fields"),
        (None, "Recipe = None is not a set of fields"),
    ],
)
def test_json_of_another_shape_is_refused(value, line):
    with pytest.raises(UserError) as caught:
        from_json(Recipe, value)
    assert caught.value.line == line


@pytest.mark.parametrize("depth", [300, 100_000])
def test_json_that_is_nested_too_deeply_costs_one_short_line(depth):
    deep = []
    for _ in range(depth):
        deep = [deep]
    for place in (
        {"name": deep},
        {"name": "x", "optim": {"milestones": deep}},
        {"name": "x", "optim": {"rules": deep}},
    ):
        with pytest.raises(UserError) as caught:
            from_json(Recipe, place)
        assert len(caught.value.line) < 300
    with pytest.raises(UserError, match=r"optim\.milestones"):
        override(Recipe("x"), {"optim.milestones": deep})
    with pytest.raises(UserError, match=r"optim\.milestones"):
        OptimSpec(milestones=deep)


def test_json_without_a_name_is_refused_and_other_fields_have_defaults():
    with pytest.raises(UserError, match=r"Recipe is incomplete: .*'name'"):
        from_json(Recipe, {})
    assert from_json(Recipe, {"name": "x", "train": {"epochs": 2}}).train.batch_size == 128
    with pytest.raises(UserError, match="Recipe is incomplete: it lacks 'name'"):
        Recipe()


def test_python_values_are_held_to_the_same_types():
    for build, line in (
        (lambda: TrainSpec(epochs=True), "train.epochs = True is not a whole number of at least 1"),
        (lambda: TrainSpec(views=True), "train.views = True is not one of 1, 10"),
        (lambda: ModelSpec(groups=2.0), "model.groups = 2.0 is not one of 1, 2, or none"),
        (lambda: OptimSpec(lr=math.inf), "optim.lr = inf is not a number of at least 0"),
        (lambda: OptimSpec(rules=({"layer": "x"},)), "optim.rules[0] = {'layer': 'x'} is not of the type LayerRule"),
        (lambda: OptimSpec(ratte=1), "unknown field 'optim.ratte'"),
        (lambda: Recipe("x", optim={}), "optim = {} is not of the type OptimSpec"),
    ):
        with pytest.raises(UserError) as caught:
            build()
        assert caught.value.line.startswith(line)
    assert OptimSpec(lr=1, milestones=[1, 2.5]) == OptimSpec(lr=1.0, milestones=(1.0, 2.5))
    with pytest.raises(TypeError):
        LayerRule("conv1", 0.0, 0.1, 0.2, None, 0.3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        OptimSpec().lr = 1.0


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
        ('[{"layer": "conv1", "wd": 0}]', "unknown field 'optim.rules[0].wd'"),
        ("conv1", f"optim.rules = 'conv1' is not {RULES_TAKE}"),
        ("3", f"optim.rules = 3 is not {RULES_TAKE}"),
        ("[3]", "optim.rules[0] = 3 is not a set of fields"),
        ('[{"layer": "conv1", "lr": NaN}]', "optim.rules[0].lr = nan is not a number, or none"),
        (DEEP, "optim.rules = '[[["),
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


def test_every_field_can_be_left_to_its_default_again():
    """``default`` does it for every field; ``none`` for those that may be left open and have no choice of this name."""
    full = override(get_recipe("photos"), ["model.norm_layer=none", "train.steps=3", "model.activation=tanh"])
    assert full.model.norm_layer == "none"  # no normalization; None would be the variant's own
    again = override(full, [f"{path}=default" for path in field_names() if not path.startswith("claim")])
    assert again == replace(Recipe("photos"), claim=full.claim)
    assert override(full, ["train.steps=none", "model.activation=none"]).train.steps is None
    assert override(full, {"model.norm_layer": None, "train.steps": None}).model.norm_layer is None


@pytest.mark.parametrize("kind", ["none", "lrn", "batch"])
def test_every_norm_layer_can_be_chosen(kind):
    recipe = override(get_recipe("small-digits"), [f"model.norm_layer={kind}"])
    assert recipe.model.norm_layer == kind
    assert override(get_recipe("photos"), assignments(recipe)).model == recipe.model
    assert "model.norm_layer=default" in assignments(get_recipe("photos"))


# Mappings


def test_overrides_as_a_mapping():
    recipe = get_recipe("small-digits")
    changes = {
        "train.epochs": 2, "optim.milestones": [1, 2], "optim.lr": 1, "model.dropout": None, "data.source": "none",
        "optim.rules": [{"layer": "conv1", "lr": 0.0}, LayerRule("fc6", start=2)],
        "augment.random_resized_crop": (0.5, 1),
    }  # fmt: skip
    found = override(recipe, changes)
    assert (found.train.epochs, found.optim.milestones, found.optim.lr) == (2, (1.0, 2.0), 1.0)
    assert (found.model.dropout, found.data.source) == (None, "none")
    assert found.optim.rules == (LayerRule("conv1", lr=0.0), LayerRule("fc6", start=2.0))
    assert found.augment.random_resized_crop == (0.5, 1.0)
    assert override(recipe, {}) == recipe
    assert override(recipe, "train.epochs=2") == override(recipe, {"train.epochs": 2})


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"train.epochs": "2"}, "train.epochs = '2' is not a whole number of at least 1"),
        ({"train.epochs": "default"}, "train.epochs = 'default' is not a whole number of at least 1"),
        ({"train.epochs": True}, "train.epochs = True is not a whole number of at least 1"),
        ({"train.epochs": 2.0}, "train.epochs = 2.0 is not a whole number of at least 1"),
        ({"optim.lr": math.inf}, "optim.lr = inf is not a number of at least 0"),
        ({"optim.lr": 10**400}, f"optim.lr = 1{37 * '0'}...{39 * '0'} is not a number of at least 0"),
        ({"optim.milestones": [1, "2"]}, "optim.milestones[1] = '2' is not a number"),
        ({"optim.milestones": {1, 2}}, "optim.milestones = {1, 2} is not numbers with commas between them"),
        ({"optim.rules": [{"layer": 3}]}, "optim.rules[0].layer = 3 is not text"),
        ({"data.source": Path("x")}, "data.source = "),
        ({"train.epcohs": 2}, "unknown field 'train.epcohs': did you mean 'train.epochs'?"),
        ({"epochs": 2}, "unknown field 'epochs': did you mean 'train.epochs'?"),
        ({"claim.top1": None}, "unknown field 'claim.top1'"),
        ({3: 2}, "unknown field '3'"),
    ],
)
def test_a_mapping_with_a_wrong_name_or_type_is_refused(changes, line):
    with pytest.raises(UserError) as caught:
        override(get_recipe("small-digits"), changes)
    assert caught.value.line.startswith(line)


# Names and values of earlier versions

EARLIER = {  # earlier field → ((earlier JSON value, word for --set, today's value), …)
    "model.normalization": [
        ("absent", "absent", "none"), ("response", "response", "lrn"), ("batch", "batch", "batch"), (None, "none", None)
    ],
    "model.pool_rounding": [("up", "up", True), ("down", "down", False), (None, "none", None)],
    "model.columns": [(2, "2", 2), (1, "1", 1), (None, "none", None)],
    "data.stored": [(64, "64", 64), (None, "none", None)],
    "data.scaling": [("mean-image", "mean-image", "mean-image")],
    "data.validation": [(0.1, "0.1", 0.1)],
    "augment.area": [([0.08, 1.0], "0.08,1", (0.08, 1.0)), (None, "none", None)],
    "optim.update": [("sgd-2012", "sgd-2012", "sgd-2012")],
    "optim.rate": [(0.3, "0.3", 0.3), (1, "1", 1.0)],
    "optim.drops": [([30.0, 60], "30,60", (30.0, 60.0)), ([], "", ())],
    "optim.drop": [(10.0, "10", 0.1), (2, "2", 0.5), (4.0, "4.0", 0.25)],
    "optim.bias_drops": [([], "", ()), ([5], "5", (5.0,)), (None, "none", None)],
    "optim.bias_rate": [(2.0, "2", 2.0)],
    "optim.rules.rate": [(1e-5, "1e-5", 1e-5), (None, "null", None)],
    "preprocessing.stored": [(64, None, 64)],
    "preprocessing.scaling": [("mean-image", None, "mean-image")],
    "preprocessing.deviation": [([1.5, 2, 3], None, (1.5, 2.0, 3.0))],
}  # fmt: skip


def test_every_earlier_name_is_tested():
    assert EARLIER.keys() == RENAMED.keys()


@pytest.mark.parametrize("path", EARLIER)
def test_earlier_names_and_values_are_read(path):
    *outer, name = path.split(".")
    today = RENAMED[path].name
    for value, word, expected in EARLIER[path]:
        if outer == ["preprocessing"]:
            document = {"channels": 3, "stored": 32, "crop": 32, "image_size": 32, "scaling": "unit", name: value}
            found = getattr(from_json(Preprocessing, document), today)
        elif outer == ["optim", "rules"]:
            document = {"name": "x", "optim": {"rules": [{"layer": "conv1", name: value}]}}
            found = getattr(from_json(Recipe, document).optim.rules[0], today)
            words = [f'optim.rules=[{{"layer": "conv1", "{name}": {word}}}]']
            assert getattr(override(Recipe("x"), words).optim.rules[0], today) == expected
            mapping = {"optim.rules": [{"layer": "conv1", name: value}]}
            assert getattr(override(Recipe("x"), mapping).optim.rules[0], today) == expected
        else:
            (section,) = outer
            found = getattr(getattr(from_json(Recipe, {"name": "x", section: {name: value}}), section), today)
            for changes in ([f"{path}={word}"], {path: value}):
                changed_to = getattr(getattr(override(Recipe("x"), changes), section), today)
                assert (changed_to, type(changed_to)) == (expected, type(expected))
            assert field_meant(name) == f"{section}.{today}"
            back = override(override(Recipe("x"), [f"{path}={word}"]), [f"{path}=default"])
            assert back == Recipe("x")
        assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize("drop", [1.5, 2.0, 3.0, 5.0, 10.0, 250 ** (1 / 3), 20.0, 100.0, 1e3])
def test_an_earlier_drop_becomes_the_factor_whose_inverse_it_is(drop):
    recipe = override(Recipe("x"), [f"optim.drop={drop!r}"])
    assert 1 / recipe.optim.gamma == drop  # so that lr / (1 / gamma)**k has the bits of lr / drop**k
    assert from_json(Recipe, {"name": "x", "optim": {"drop": drop}}) == recipe


def test_few_drops_are_no_float_s_inverse():
    """Their schedules differ from the earlier version's in the last bit."""
    gammas = {drop: override(Recipe("x"), {"optim.drop": drop}).optim.gamma for drop in range(2, 101)}
    assert [drop for drop, gamma in gammas.items() if 1 / gamma != drop] == [49, 93, 98, 99]
    for drop in (49, 93, 98, 99):
        nearby = [math.nextafter(1 / drop, 0), 1 / drop, math.nextafter(1 / drop, 1)]
        assert drop not in [1 / gamma for gamma in nearby]


@given(st.floats(min_value=1, max_value=1e300, exclude_min=True))
def test_an_earlier_drop_has_the_nearest_factor(drop):
    inverse = 1 / override(Recipe("x"), {"optim.drop": drop}).optim.gamma
    assert inverse == pytest.approx(drop, rel=2**-51)


@pytest.mark.parametrize(
    ("assignment", "line"),
    [
        ("optim.drop=1", "optim.drop = '1' is not a number above 1 (the field is now called gamma)"),
        ("optim.drop=-3", "optim.drop = '-3' is not a number above 1 (the field is now called gamma)"),
        ("optim.drop=inf", "optim.drop = 'inf' is not a number above 1 (the field is now called gamma)"),
        ("optim.rate=fast", "optim.rate = 'fast' is not a number of at least 0 (the field is now called lr)"),
        (
            "model.pool_rounding=upp",
            "model.pool_rounding = 'upp' is not one of down, up, or none: did you mean 'up'? "
            "(the field is now called pool_ceil_mode)",
        ),
        (
            "model.normalization=lrn",
            "model.normalization = 'lrn' is not one of absent, response, batch, or none "
            "(the field is now called norm_layer)",
        ),
    ],
)
def test_a_wrong_value_of_an_earlier_field_is_refused_by_both_names(assignment, line):
    with pytest.raises(UserError) as caught:
        changed(assignment)
    assert caught.value.line == line


def test_one_field_under_two_names_is_refused():
    with pytest.raises(UserError, match=r"optim\.lr is given twice, once by an earlier name"):
        from_json(Recipe, {"name": "x", "optim": {"rate": 0.1, "lr": 0.2}})
    assert override(Recipe("x"), ["optim.rate=0.1", "optim.lr=0.2"]).optim.lr == 0.2  # of words the last one wins


def test_recipes_that_an_earlier_version_wrote_are_the_same_trainings():
    """The file holds what the last version with the earlier names wrote into ``run.json``."""
    documents = json.loads((ROOT / "tests/data_files/golden/recipes.json").read_text(encoding="utf-8"))["named"]
    assert len(documents) == 26
    for name, document in documents.items():
        recipe = from_json(Recipe, document)
        better_now = name in ("photos", "photos-small")
        assert (differences(recipe, RECIPES[name]) != []) == better_now
        assert 1 / recipe.optim.gamma == document["optim"]["drop"]
        assert 1 / RECIPES[name].optim.gamma == document["optim"]["drop"]


# What an import costs


def imported_by(code, *names):
    """Which of these modules a new Python process has imported after ``code``."""
    script = f"import sys\n{code}\nprint('imported', *[name for name in {names!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return done.stdout.splitlines()[-1].split()[1:]


def test_config_needs_neither_torch_nor_numpy():
    assert imported_by("import alexnet.config", "pydantic", "torch", "numpy", "PIL") == ["pydantic"]


def test_help_needs_no_pydantic():
    for words in ([], ["--help"], ["train", "--help"], ["show", "--help"]):
        code = f"from alexnet.cli.main import main\ntry:\n    main({words!r})\nexcept SystemExit:\n    pass"
        assert imported_by(code, "pydantic", "torch", "numpy", "PIL", "rich") == []
