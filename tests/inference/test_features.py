"""The index of a set: made once, of one model, set and layer; the nearest are the nearest."""

import numpy as np
import pytest

from alexnet.core.errors import UserError
from alexnet.inference.features import FeatureIndex, open_index
from alexnet.inference.predictor import Predictor
from alexnet.models.bundle import save_model
from alexnet.runtime.log import NullReporter
from alexnet.training.build import build_model

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def trained(make_digits_store, small_recipe, cpu, tmp_path):
    dataset = make_digits_store(train=40, test=20)
    save_model(build_model(small_recipe, dataset, 0), tmp_path / "model")
    return dataset, Predictor(tmp_path / "model", cpu), tmp_path / "features"


def opened(trained, monkeypatch, layer="relu7", images=None):
    """An index, and how many images were looked at for it."""
    dataset, predictor, folder = trained
    looked = []
    real = predictor.features
    monkeypatch.setattr(predictor, "features", lambda pixels, name: looked.append(len(pixels)) or real(pixels, name))
    images = dataset.subset("train") if images is None else images
    index = open_index(folder, predictor, dataset, images, layer, NullReporter())
    monkeypatch.undo()
    return index, sum(looked)


def test_an_index_is_made_once_and_again_for_another_question(trained, monkeypatch):
    dataset, predictor, folder = trained
    index, looked = opened(trained, monkeypatch)
    assert looked == 40
    expected = predictor.features(dataset.read(index.images), "relu7")
    np.testing.assert_allclose(index.features, expected, rtol=1e-3, atol=1e-6)
    assert opened(trained, monkeypatch)[1] == 0
    assert opened(trained, monkeypatch, layer="relu6")[1] == 40
    assert opened(trained, monkeypatch, layer="relu6", images=dataset.subset("test"))[1] == 20
    with (folder / "features.npy").open("r+b") as file:
        file.truncate(200)
    assert opened(trained, monkeypatch, layer="relu6", images=dataset.subset("test"))[1] == 20
    with pytest.raises(UserError, match="unknown layer"):
        opened(trained, monkeypatch, layer="relu99")


def test_another_model_has_another_index(trained, make_digits_store, small_recipe, cpu, tmp_path, monkeypatch):
    dataset, _, folder = trained
    opened(trained, monkeypatch)
    save_model(build_model(small_recipe, dataset, 1), tmp_path / "other")
    assert opened((dataset, Predictor(tmp_path / "other", cpu), folder), monkeypatch)[1] == 40


def test_the_nearest_are_those_of_scikit_learn():
    from sklearn.neighbors import NearestNeighbors

    draws = np.random.default_rng(0)
    features = draws.normal(size=(500, 16)).astype(np.float16)
    index = FeatureIndex(np.arange(1000, 1500), features)
    model = NearestNeighbors(n_neighbors=7).fit(features.astype(np.float32))
    for point in draws.normal(size=(5, 16)).astype(np.float32):
        images, distances = index.nearest(point, 7)
        expected_distances, expected = model.kneighbors(point[None])
        assert images.tolist() == (1000 + expected[0]).tolist()
        np.testing.assert_allclose(distances, expected_distances[0], rtol=1e-5)


def test_a_training_image_is_nearest_to_itself(trained, monkeypatch):
    dataset, predictor, _ = trained
    index, _ = opened(trained, monkeypatch)
    image = int(index.images[7])
    (point,) = predictor.features(dataset.read(np.array([image])), "relu7")
    images, distances = index.nearest(point, 3)
    assert images[0] == image
    assert distances[0] < 0.01 * distances[1] + 1e-3
