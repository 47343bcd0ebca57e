"""The index of a set: made once, of one model, set and layer; the nearest are the nearest."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from alexnet.core.errors import UserError
from alexnet.inference import feature_index as features
from alexnet.inference.feature_index import FeatureIndex, open_index
from alexnet.inference.predictor import Predictor
from alexnet.models.bundle import save_model
from alexnet.runtime.device import DeviceConfig
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


def test_no_file_of_features_is_larger_than_what_was_written(tmp_path):
    """A sparse, mapped file would end the process with SIGBUS on a full disk; a write raises an error."""
    path, sizes = tmp_path / "features.npy", []

    def batches():
        for number in range(3):
            sizes.append(path.stat().st_size)
            yield np.full((1000, 64), number * 1e6, np.float32)

    features._write(path, 3000, batches())
    assert sizes[0] == 0
    assert sizes[2] <= 128 + 2 * 1000 * 64 * 2
    written = np.load(path, allow_pickle=False)
    assert (written.shape, written.dtype) == ((3000, 64), np.float16)
    assert written[::1000, 0].tolist() == [0.0, 65504.0, 65504.0]


def test_a_full_disk_and_a_folder_of_other_files_cost_one_line(tmp_path, monkeypatch):
    def full(path, count, batches):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(features, "_matches", lambda *given: False)
    monkeypatch.setattr(features, "digest_tensors", lambda state: "x")
    monkeypatch.setattr(features, "compute_features", lambda *given: iter(()))
    given = (SimpleNamespace(model=nn.Identity(), device_config=DeviceConfig(torch.device("cpu"), False)),
             SimpleNamespace(digest="d"), np.arange(3), "relu7", NullReporter())  # fmt: skip
    (tmp_path / "relu7").mkdir()
    (tmp_path / "relu7" / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"cannot write the features to .*relu7: there is already 'thesis\.tex'"):
        features.open_index(tmp_path / "relu7", *given)
    monkeypatch.setattr(features, "_write", full)
    with pytest.raises(UserError, match=r"cannot write the features to .*relu6: No space left on device"):
        features.open_index(tmp_path / "relu6", *given)
    assert [path.name for path in tmp_path.rglob("*")] == ["relu7", "thesis.tex"]
