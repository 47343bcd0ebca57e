"""An image file goes the way that training's images went, and comes to the same answer."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from alexnet.cli import predict as command
from alexnet.config import override
from alexnet.core.errors import UserError
from alexnet.data import image_file
from alexnet.inference.predictor import Predictor, predict_files
from alexnet.models.bundle import save_model
from alexnet.runtime.device import DeviceConfig
from alexnet.training.build import build_model
from alexnet.training.evaluate import inputs, log_probabilities

pytestmark = pytest.mark.usefixtures("one_thread")


def encode(pixels, kind="png"):
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(file, format=kind)
    return file.getvalue()


@pytest.fixture(scope="module")
def grey(make_digits_store, small_recipe, cpu, tmp_path_factory):
    """Digits from an array: their store, a model with drawn weights, and its predictor."""
    dataset = make_digits_store(train=40, test=20)
    model = build_model(small_recipe, dataset, 0)
    folder = tmp_path_factory.mktemp("model")
    save_model(model, folder)
    return dataset, model, Predictor(folder, cpu)


@pytest.fixture(scope="module")
def learned(make_digits_store, small_recipe, cpu, tmp_path_factory):
    """A network that knows most of its digits, so that its answers are far from each other."""
    dataset = make_digits_store(train=400, test=60)
    model = build_model(small_recipe, dataset, 0)
    torch.manual_seed(0)  # of dropout, which has no masks here
    network, optimizer = model.train(), torch.optim.AdamW(model.parameters(), lr=2e-3)
    labels = torch.from_numpy(dataset.targets)
    for step in range(40):
        some = np.arange(40 * step, 40 * step + 40) % 400
        ((_, (view,)),) = [(index, tuple(seen)) for index, seen in inputs(model, dataset, some, cpu)]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(view), labels[some]).backward()
        optimizer.step()
    network.eval()
    folder = tmp_path_factory.mktemp("model")
    save_model(model, folder)
    return dataset, model, Predictor(folder, cpu)


@pytest.fixture(scope="module")
def colour(make_store, small_recipe, cpu, tmp_path_factory):
    """Two photographs as JPEG files, cropped and scaled by a mean image: files, store, model, predictor."""
    files = [encode(image, "jpeg") for image in load_sample_images().images]
    dataset = make_store(files, [0, 1], ["train", "train"], ("china", "flower"), "photographs", side=48, channels=3)
    settings = ["data.image_size=32", "augment.crop=40", "data.pixel_normalization=mean-image"]
    model = build_model(override(small_recipe, settings), dataset, 0)
    folder = tmp_path_factory.mktemp("model")
    save_model(model, folder)
    return files, dataset, model, Predictor(folder, cpu)


def evaluated(model, dataset, cpu):
    """The probabilities that an evaluation gives all images of a store."""
    batches = log_probabilities(model, dataset, np.arange(len(dataset.targets)), cpu)
    return torch.cat([output for output, _ in batches]).exp().numpy()


def test_an_array_and_its_png_have_the_same_pixels_and_probabilities(grey, cpu):
    dataset, model, predictor = grey
    pixels = [predictor.read(encode(image)) for image in dataset.images]
    for read, resize_size in zip(pixels, dataset.images, strict=True):
        assert read.dtype == np.uint8
        assert np.array_equal(read, resize_size)
    found = predictor.probabilities(pixels)
    assert found.std(axis=0).min() > 1e-4  # the images do differ to this model
    np.testing.assert_allclose(found, evaluated(model, dataset, cpu), atol=1e-6)


def test_a_photograph_is_prepared_as_the_store_prepared_it(colour, cpu):
    files, dataset, model, predictor = colour
    pixels = [predictor.read(file) for file in files]
    assert pixels[0].shape == (48, 48, 3)
    assert np.array_equal(np.stack(pixels), dataset.images)
    np.testing.assert_allclose(predictor.probabilities(pixels), evaluated(model, dataset, cpu), atol=1e-6)


@pytest.mark.parametrize("fixture", ["learned", "grey", "colour"])
def test_a_batch_is_its_single_images(fixture, request):
    *_, dataset, _, predictor = request.getfixturevalue(fixture)
    pixels = list(dataset.images)
    single = np.concatenate([predictor.probabilities([image]) for image in pixels])
    np.testing.assert_allclose(predictor.probabilities(pixels), single, atol=1e-5)
    np.testing.assert_allclose(single.sum(axis=1), 1.0, atol=1e-6)


@pytest.mark.parametrize("fixture", ["learned", "grey", "colour"])
def test_in_bf16_a_batch_is_nearly_its_single_images(fixture, request, tmp_path):
    *_, dataset, model, _ = request.getfixturevalue(fixture)
    save_model(model, tmp_path / "model")
    predictor = Predictor(tmp_path / "model", DeviceConfig(torch.device("cpu"), bf16=True))
    pixels = list(dataset.images)
    single = np.concatenate([predictor.probabilities([image]) for image in pixels])
    together = predictor.probabilities(pixels)
    np.testing.assert_allclose(together, single, atol=1e-2)
    second, first = np.sort(single, axis=1)[:, -2:].T
    clear = first - second > 1e-2
    assert np.array_equal(together.argmax(axis=1)[clear], single.argmax(axis=1)[clear])
    if fixture == "learned":
        assert clear.mean() > 0.9
        assert (single.argmax(axis=1) == dataset.targets).mean() > 0.8


def test_a_path_and_its_bytes_agree(colour, tmp_path):
    files, _, _, predictor = colour
    path = tmp_path / "china.jpg"
    path.write_bytes(files[0])
    assert predictor(path) == predictor(str(path)) == predictor(files[0])


def test_bytes_and_standard_input_without_end_are_refused(colour, monkeypatch):
    *_, predictor = colour
    monkeypatch.setattr(image_file, "FILE_LIMIT", 1 << 20)
    monkeypatch.setattr(command, "FILE_LIMIT", 1 << 20)
    with pytest.raises(UserError, match="the image: is larger than 1 MiB"):
        predictor(bytes((1 << 20) + 1))
    with Path("/dev/zero").open() as endless:
        monkeypatch.setattr(sys, "stdin", endless)
        data = command._read_stdin()
    found = list(predict_files(predictor, ["-"], 1, data))
    assert found == [{"image": "-", "error": "standard input: is larger than 1 MiB, the limit for such a file"}]
    monkeypatch.setattr(sys, "stdin", None)  # closed: <&-
    assert command._read_stdin() == b""


def test_predictions_are_ranked_and_named(grey):
    dataset, _, predictor = grey
    found = predictor(encode(dataset.images[0]), top_k=3)
    probabilities = predictor.probabilities([dataset.images[0]])[0]
    order = np.argsort(probabilities)[::-1][:3]
    assert [item.name for item in found] == [item.label for item in found] == [str(i) for i in order]
    assert [item.probability for item in found] == [float(probabilities[i]) for i in order]


def test_more_classes_than_there_are_gives_all_of_them(colour):
    files, _, _, predictor = colour
    found = predictor(files[1], top_k=50)
    assert {item.name for item in found} == {"china", "flower"}
    assert sum(item.probability for item in found) == pytest.approx(1.0)
    assert found[0].probability >= found[1].probability


def test_no_class_at_all_is_a_user_error(colour):
    files, _, _, predictor = colour
    with pytest.raises(UserError, match="top_k = 0: give 1 or more"):
        predictor(files[0], top_k=0)


def test_a_refused_file_is_named(grey, tmp_path):
    predictor = grey[-1]
    path = tmp_path / "notes.png"
    path.write_bytes(b"not an image")
    with pytest.raises(UserError) as caught:
        predictor(path)
    assert caught.value.line.startswith(f"{path}: ")
    with pytest.raises(UserError, match=r"^the image: "):
        predictor(b"not an image")


@pytest.mark.parametrize(("name", "reason"), [("absent.png", "No such file or directory"), ("", "Is a directory")])
def test_a_file_that_cannot_be_read_is_named(grey, tmp_path, name, reason):
    with pytest.raises(UserError) as caught:
        grey[-1](tmp_path / name)
    assert caught.value.line == f"{tmp_path / name}: cannot be read: {reason}"
