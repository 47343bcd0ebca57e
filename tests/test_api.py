"""The Python side: the names of the package, and the functions that no command covers."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

import alexnet
from alexnet.config import override
from alexnet.core.errors import UserError
from alexnet.data.prepared import open_or_prepare
from alexnet.data.sources import open_source
from alexnet.recipes import get_recipe
from alexnet.runtime.device import DeviceConfig
from alexnet.training.build import build_model
from alexnet.training.optimizer import build_optimizer

ROOT = Path(__file__).parents[1]
NAMES = [
    "Metrics", "Prediction", "Predictor", "Recipe", "Run", "UserError", "accelerate", "convert", "create_model",
    "create_transform", "evaluate", "export", "extract_features", "get_recipe", "list_models", "load_model",
    "perceptual_distance", "plot", "save_model", "train", "verify",
]  # fmt: skip


def test_the_names_of_the_package_are_these():
    assert alexnet.__all__ == NAMES == sorted(NAMES) == dir(alexnet)
    for name in NAMES:
        value = getattr(alexnet, name)
        assert callable(value)
        assert value.__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'tarin'"):
        _ = alexnet.tarin


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, alexnet; print([m for m in ('torch', 'numpy', 'pydantic', 'PIL') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out.strip() == "[]"


def test_both_packages_are_typed():
    import tomllib

    with (ROOT / "pyproject.toml").open("rb") as file:
        shipped = tomllib.load(file)["tool"]["setuptools"]["package-data"]
    for package in ("alexnet", "alexnet_lab"):
        assert (ROOT / package / "py.typed").is_file()
        assert "py.typed" in shipped[package]


def test_d2l_has_what_its_authors_gave_it():
    network = alexnet.create_model("d2l", seed=0, width=0.125)
    assert (network.in_channels, network.num_classes, network.image_size) == (1, 10, 224)


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("alexnet", "did you mean 'paper' or 'torchvision'?"),
        ("AlexNet", "did you mean 'paper' or 'torchvision'?"),
        ("torchvision_alexnet", "did you mean 'torchvision'?"),
        ("TorchVision", "did you mean 'torchvision'?"),
        ("bvlc_alexnet", "did you mean 'bvlc-alexnet'?"),
        ("CIFAR 18pct", "did you mean 'cifar-18pct'?"),
        ("vgg", "choose one of batchnorm, bvlc-alexnet, caffenet"),
    ],
)
def test_an_unknown_variant_suggests_the_nearest(name, suggestion):
    with pytest.raises(ValueError, match="unknown variant") as caught:
        alexnet.create_model(name)
    assert suggestion in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.fixture(scope="module")
def recipe():
    """Crops, flips and small networks on digits."""
    changes = {"model.width": 0.25, "augment.crop": 7, "augment.flip": True, "augment.rotation": 10.0}
    return override(get_recipe("small-digits"), {**changes, "data.image_size": 16})


@pytest.fixture(scope="module")
def model(recipe):
    return build_model(recipe, open_or_prepare(open_source("digits")), 0).eval()


@pytest.fixture
def digit(digits):
    return Image.fromarray(digits[0][7, :, :, 0])


def test_the_transform_of_a_model_gives_what_the_predictor_computes_with(model, recipe, digit, tmp_path, cpu):
    predictor = alexnet.Predictor(model, cpu)
    expected = predictor.view([predictor.read(digit)])[0]
    alexnet.save_model(model, tmp_path / "model")
    transforms = [alexnet.create_transform(given) for given in (model, recipe, tmp_path / "model")]
    for transform in [*transforms, pickle.loads(pickle.dumps(transforms[0]))]:
        view = transform(digit)
        assert (view.shape, view.dtype) == ((1, 16, 16), torch.float32)
        assert torch.equal(view, expected)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "CMYK"])
def test_a_photograph_of_any_mode_has_the_same_pixels_in_memory_as_in_a_file(mode, tmp_path, cpu):
    model = alexnet.create_model("small", in_channels=3, image_size=32, seed=0, width=0.25)
    image = Image.fromarray(load_sample_images().images[1]).resize((90, 60)).convert(mode)
    kind = "tif" if mode == "CMYK" else "png"
    image.save(tmp_path / f"image.{kind}")
    transform = alexnet.create_transform(model)
    assert torch.equal(transform(image), transform(tmp_path / f"image.{kind}"))
    assert transform(image).shape == (3, 32, 32)


def test_an_orientation_is_applied_to_an_image_in_memory_too(tmp_path):
    model = alexnet.create_model("small", in_channels=3, image_size=32, seed=0, width=0.25)
    image = Image.fromarray(load_sample_images().images[1]).resize((90, 60))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    transform = alexnet.create_transform(model)
    with Image.open(tmp_path / "turned.png") as opened:
        assert torch.equal(transform(opened), transform(tmp_path / "turned.png"))
    assert not torch.equal(transform(image), transform(tmp_path / "turned.png"))


def test_training_draws_from_the_generator(recipe, model, digit):
    def views(seed, count=8):
        generator = torch.Generator().manual_seed(seed)
        transform = alexnet.create_transform(recipe, training=True, generator=generator)
        return torch.stack([transform(digit) for _ in range(count)])

    assert views(0).shape == (8, 1, 16, 16)
    assert torch.equal(views(0), views(0))
    assert not torch.equal(views(0), views(1))
    assert len({view.numpy().tobytes() for view in views(0)}) > 4
    torch.manual_seed(3)
    transform = alexnet.create_transform(recipe, training=True)
    first = transform(digit)
    torch.manual_seed(3)
    assert torch.equal(first, transform(digit))
    with pytest.raises(UserError, match="needs a recipe: a model has no augmentation settings"):
        alexnet.create_transform(model, training=True)
    with pytest.raises(UserError, match="unknown recipe 'smal-digits': did you mean 'small-digits'"):
        alexnet.create_transform("smal-digits")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_accelerate_for_inference_is_a_copy_with_the_same_outputs(model, precision):
    images = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fast = alexnet.accelerate(model, "cpu", precision)
    with torch.no_grad():
        found, expected = fast(images), model(images)
        in_parts = fast.forward_head(fast.forward_features(images)).float()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 if precision == "fp32" else 2e-2)
    assert torch.equal(in_parts, found)
    assert not any(parameter.requires_grad for parameter in fast.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_accelerate_for_training_shares_the_parameters(recipe, model, precision):
    fast = alexnet.accelerate(model, "cpu", precision, training=True)
    assert list(fast.state_dict()) == list(model.state_dict())
    for mine, theirs in zip(fast.parameters(), model.parameters(), strict=True):
        assert mine is theirs
    optimizer = build_optimizer(model, recipe.optim, fused=False)
    before = model.fc8.weight.detach().clone()
    fast(torch.randn(4, 1, 16, 16)).logsumexp(dim=1).mean().backward()
    optimizer.step()
    assert not torch.equal(model.fc8.weight, before)
    with torch.no_grad():
        model.fc8.weight.copy_(before)
    with pytest.raises(UserError, match='precision "int8" is for inference'):
        alexnet.accelerate(model, "cpu", "int8", training=True)
    with pytest.raises(UserError, match="there is no kind of device 'abacus'"):
        alexnet.accelerate(model, "abacus")


def test_a_predictor_takes_every_kind_of_image(model, digit, digits, tmp_path):
    predictor = alexnet.Predictor(model, torch.device("cpu"), "fp32")
    assert predictor.device_config == DeviceConfig(torch.device("cpu"), bf16=False)
    path = tmp_path / "seven.png"
    digit.save(path)
    grey = np.asarray(digit)
    images = [path, str(path), path.read_bytes(), digit, grey, grey[:, :, None], np.stack([grey] * 3, axis=2)]
    one = predictor(path)
    for image in images:
        assert predictor(image) == one
    several = predictor(images, top_k=2)
    assert [len(found) for found in several] == [2] * 7
    for found in several:
        assert [item.name for item in found] == [item.name for item in one[:2]]
        assert found[0].probability == pytest.approx(one[0].probability, abs=1e-6)
    assert [found[0].name for found in predictor(digits[0][:70])] == [
        predictor(image)[0].name for image in digits[0][:70]
    ]
    assert predictor([]) == []


@pytest.mark.parametrize(
    ("image", "line"),
    [
        (
            np.zeros((8, 8), np.float32),
            "the image: is an array of shape (8, 8) and type float32: give (H, W), (H, W, 1)",
        ),
        (np.zeros((8, 8, 2), np.uint8), "the image: is an array of shape (8, 8, 2) and type uint8: give (H, W)"),
        (np.zeros((0, 8), np.uint8), "the image: has no pixels"),
        (np.zeros((1, 80), np.uint8), "the image: is 80 × 1 pixels, one side more than 50 times the other"),
        (
            torch.zeros(8, 8),
            "the image: is of type Tensor: give a path, bytes, a PIL image, or an (H, W, 3) uint8 array",
        ),
        ([b"not an image"], "image 0 of the sequence: "),
        (["gone.png"], "gone.png: cannot be read: No such file or directory"),
        (Image.new("F", (8, 8)), "the image: has floating-point pixels, whose range is unknown"),
    ],
)
def test_an_image_that_is_refused_costs_one_line(model, image, line):
    with pytest.raises(UserError) as caught:
        alexnet.Predictor(model, "cpu")(image)
    assert caught.value.line.startswith(line)
    assert "\n" not in caught.value.line
