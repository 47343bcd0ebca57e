"""Networks as Keras files: Keras computes the same from them, for every variant that it can express."""

import os

import pytest
import torch

from alexnet.core.errors import UserError
from alexnet.models.registry import create_model, list_models
from alexnet.weights.child import Exchange
from alexnet.weights.convert import convert_file
from alexnet.weights.export import ExportOptions, NotInstalledError, export_model
from alexnet.weights.exporters import keras as exporter

os.environ.setdefault("KERAS_BACKEND", "torch")  # read once, when keras is imported
keras = pytest.importorskip("keras", reason="keras is not installed: pip install 'alexnet[dev]'")
if keras.backend.backend() != "torch":
    pytest.skip("keras runs on another backend here: set KERAS_BACKEND=torch", allow_module_level=True)
pytestmark = pytest.mark.filterwarnings("ignore")
WITHOUT = {  # variant → why not
    "cifar-18pct": "no average pool", "cifar-relu": "no average pool", "cifar-tanh": "no average pool",
    "cifar-13pct": "LocallyConnected", "cifar-11pct": "LocallyConnected",
}  # fmt: skip
NAMES = [name for name in list_models() if name not in WITHOUT]


@pytest.fixture
def here(monkeypatch, tmp_path):
    """Keras in this process: a process of its own takes ten seconds to import it."""
    from alexnet.weights.exporters import keras_child

    def call(function, path, arguments, tensors, environment, memory, seconds):
        exchange = Exchange(tmp_path, arguments, 1 << 40)
        monkeypatch.setattr(exchange, "inputs", lambda: {name: value.numpy() for name, value in tensors.items()})
        found = {}
        monkeypatch.setattr(exchange, "add", lambda name, array: found.__setitem__(name, torch.from_numpy(array)))
        getattr(keras_child, function.rpartition(":")[2])(path, exchange)
        return found, None

    monkeypatch.setattr(exporter, "call", call)


def assert_same(check):
    assert check.not_checked == ""
    assert check.images == 4
    assert check.difference <= 1e-5
    assert check.same_top5 == 1.0


@pytest.mark.parametrize("name", NAMES)
def test_keras_computes_the_same(tmp_path, narrow_network, lively, here, name, photographs):
    model = (
        lively(create_model(name, num_classes=7, seed=0)) if name == "lenet5" else narrow_network(name, in_channels=3)
    )
    assert exporter.why_not(model, ExportOptions()) is None
    paths, check = export_model(model, "keras", tmp_path / f"{name}.keras", ExportOptions(), photographs(model))
    assert paths == [tmp_path / f"{name}.keras"]
    assert_same(check)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("batchnorm", {"pool_ceil_mode": True, "image_size": 226}),  # pools round up behind a ReLU
        ("one-tower", {"dropout_scaling": "test"}),
        ("bvlc-alexnet", {"lrn_size": 4, "lrn_groups": 2, "activation": "tanh", "pool_ceil_mode": False}),
        ("torchvision", {"in_channels": 1}),
    ],
)
def test_settings(tmp_path, narrow_network, here, name, settings, photographs):
    model = narrow_network(name, **settings)
    assert_same(export_model(model, "keras", tmp_path / "a.keras", ExportOptions(), photographs(model))[1])


@pytest.mark.slow
def test_in_a_process_of_its_own_and_back(tmp_path, narrow_network, photographs):
    model = narrow_network("keras")
    (path,), check = export_model(model, "keras", tmp_path / "a.keras", ExportOptions(), images := photographs(model))
    assert_same(check)
    assert [file.name for file in tmp_path.iterdir()] == ["a.keras"]
    back, report = convert_file(path)
    assert report.variant == "keras"
    with torch.no_grad():
        torch.testing.assert_close(back(images), model(images), rtol=0, atol=0)


@pytest.mark.parametrize("name", WITHOUT)
def test_what_keras_cannot_express(name):
    model = create_model(name, seed=0)
    assert WITHOUT[name] in exporter.why_not(model, ExportOptions())


def test_other_reasons(tmp_path, narrow_network):
    model = narrow_network("torchvision", image_size=256)
    with pytest.raises(UserError, match="cannot be exported to keras: Keras has no adaptive pool, and the maps"):
        export_model(model, "keras", tmp_path / "a.keras", ExportOptions(), torch.zeros(1, 3, 256, 256))
    assert "int8" in exporter.why_not(model, ExportOptions(int8=True))
    assert "crop" in exporter.why_not(model, ExportOptions(pixels=True))
    tanh = narrow_network("batchnorm", pool_ceil_mode=True, activation="tanh", image_size=225)
    reason = exporter.why_not(tanh, ExportOptions())
    assert reason is None or "can be negative" in reason


def test_without_keras(tmp_path, narrow_network, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(NotInstalledError, match=r"pip install 'alexnet\[keras\]'"):
        exporter.write(narrow_network("keras"), tmp_path / "a.keras", ExportOptions())
    with pytest.raises(NotInstalledError):
        exporter.outputs([tmp_path / "a.keras"], torch.zeros(1, 3, 224, 224))


def test_a_failure_leaves_no_file(tmp_path, narrow_network, monkeypatch):
    def fail(*given, **settings):
        raise UserError("it failed")

    monkeypatch.setattr(exporter, "call", fail)
    with pytest.raises(UserError, match="Keras failed to write"):
        exporter.write(narrow_network("keras"), tmp_path / "a.keras", ExportOptions())
    assert list(tmp_path.iterdir()) == []
