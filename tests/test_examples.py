"""The examples in examples/: adapters against stubs of Brain-Score and thingsvision, and demonstrations."""

import importlib.util
import sys
from collections import OrderedDict
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet import create_model, extract_features, save_model, train
from alexnet.api import predict

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A narrow network in ``model/`` and three images in ``photos/``."""
    root = tmp_path_factory.mktemp("examples")
    save_model(create_model("torchvision", width=0.125, num_classes=3, image_size=64, seed=4).eval(), root / "model")
    (root / "photos").mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (70, 80, 3), np.uint8)
        Image.fromarray(pixels).save(root / "photos" / f"{number}.png")
    return root


def stub(monkeypatch, name, **attributes):
    """Put a module with these attributes where ``import`` finds it, and empty packages above it."""
    parts = name.split(".")
    for end in range(1, len(parts)):
        if ".".join(parts[:end]) not in sys.modules:
            monkeypatch.setitem(sys.modules, ".".join(parts[:end]), ModuleType(".".join(parts[:end])))
    module = sys.modules.get(name) or ModuleType(name)
    vars(module).update(attributes)
    monkeypatch.setitem(sys.modules, name, module)


def example(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Wrapper:
    """As ``PytorchWrapper``: preprocessing of paths, then forward hooks on submodules found by name."""

    def __init__(self, model, preprocessing, identifier=None):
        self.model, self.preprocessing, self.identifier = model, preprocessing, identifier

    def __call__(self, paths, layers):
        images = torch.stack([torch.from_numpy(image) for image in self.preprocessing(paths)])
        results, hooks = OrderedDict(), []
        for layer in layers:
            module = self.model._modules[layer]
            hook = module.register_forward_hook(lambda m, i, output, n=layer: results.update({n: output.numpy()}))
            hooks.append(hook)
        with torch.no_grad():
            self.model.eval()(images)
        for hook in hooks:
            hook.remove()
        return results


class Commitment:
    def __init__(self, identifier, activations_model, layers):
        self.identifier, self.activations_model, self.layers = identifier, activations_model, layers


def test_brain_score(place, monkeypatch, tmp_path):
    registry = {}
    stub(monkeypatch, "brainscore_vision", model_registry=registry)
    helpers = "brainscore_vision.model_helpers"
    stub(monkeypatch, f"{helpers}.activations.pytorch", PytorchWrapper=Wrapper)
    stub(monkeypatch, f"{helpers}.brain_transformation", ModelCommitment=Commitment)
    module = example("brain_score_model")
    monkeypatch.setattr(module, "MODEL", place / "model")
    assert list(registry) == ["alexnet", "alexnet-untrained-0", "alexnet-untrained-1", "alexnet-untrained-2"]
    model = registry["alexnet"]()
    assert (model.identifier, model.layers) == ("alexnet", module.LAYERS)
    assert model.activations_model.image_size == 64
    paths = sorted(map(str, (place / "photos").iterdir()))
    found = model.activations_model(paths, ["conv5", *module.LAYERS])
    expected = extract_features(place / "model", paths, list(found), tmp_path / "F", device="cpu", progress=False)
    for layer, activations in found.items():
        span = float(np.ptp(expected[layer]))
        np.testing.assert_allclose(activations, expected[layer], rtol=0, atol=1e-5 * span)
    assert found["conv5"].min() < 0
    twins = extract_features(
        place / "model", paths, ["relu5"], tmp_path / "G", untrained=3, device="cpu", progress=False
    )
    for seed in range(3):
        control = registry[f"alexnet-untrained-{seed}"]()
        assert control.identifier == control.activations_model.identifier == f"alexnet-untrained-{seed}"
        activations, features = control.activations_model(paths, ["relu5"])["relu5"], twins[f"untrained-{seed}/relu5"]
        np.testing.assert_allclose(activations, features, rtol=0, atol=1e-5 * float(np.ptp(features)))


class Extractor:
    """As thingsvision's extractor for PyTorch."""

    def __init__(self, model, device, backend, preprocess=None):
        self.model, self.preprocess, self.backend = model.to(device), preprocess, backend

    def get_backend(self):
        return self.backend

    def get_transformations(self, resize_dim=256, crop_dim=224):
        return self.preprocess

    def extract_features(self, batches, module_name, flatten_acts, output_type):
        assert module_name in dict(self.model.named_modules())
        assert (flatten_acts, output_type) == (True, "ndarray")
        kept = []
        hook = self.model.get_submodule(module_name).register_forward_hook(lambda m, i, o: kept.append(o.flatten(1)))
        with torch.no_grad():
            for batch in batches:
                self.model(batch)
        hook.remove()
        return torch.cat(kept).numpy()


class Dataset:
    def __init__(self, root, out_path, backend, transforms):
        self.paths, self.transforms = sorted(Path(root).iterdir()), transforms


def loader(dataset, batch_size, backend):
    images = []
    for path in dataset.paths:
        with Image.open(path) as image:
            images.append(dataset.transforms(image.convert("RGB")))
    return torch.stack(images).split(batch_size)


def test_thingsvision(place, monkeypatch, tmp_path):
    saved = {}
    stub(monkeypatch, "thingsvision", get_extractor_from_model=Extractor)
    stub(monkeypatch, "thingsvision.utils.data", ImageDataset=Dataset, DataLoader=loader)
    stub(
        monkeypatch, "thingsvision.utils.storing",
        save_features=lambda features, out_path, file_format: saved.update({out_path: (features, file_format)}),
    )  # fmt: skip
    module = example("thingsvision_features")
    found = module.extract(place / "model", place / "photos", "relu5", "out", batch_size=2)
    expected = extract_features(
        place / "model", place / "photos", "relu5", tmp_path / "F", device="cpu", progress=False
    )
    span = float(np.ptp(expected["relu5"]))
    np.testing.assert_allclose(found, expected["relu5"].reshape(3, -1), rtol=0, atol=1e-5 * span)
    assert saved["out"][0] is found
    assert saved["out"][1] == "npy"


@pytest.mark.parametrize("name", ["brain_score_model", "thingsvision_features"])
def test_an_adapter_is_short(name):
    assert len((ROOT / "examples" / f"{name}.py").read_text().splitlines()) <= 40


def test_the_medical_demonstration_makes_files_of_five_patients_that_are_read(tmp_path, monkeypatch):
    """Its training is that of tests/training/test_operating_point.py with another recipe; here are its files."""
    pytest.importorskip("pydicom", reason="pip install 'alexnet[medical]'")
    from alexnet.data.prepared import open_or_prepare
    from alexnet.data.sources import open_source

    module = example("medical")
    monkeypatch.setattr(module, "VARIANTS", 3)
    module.main(tmp_path / "scans")
    dataset = open_or_prepare(open_source(str(tmp_path / "scans")), 80, home=tmp_path / "home")
    assert dataset.classes == ["clear", "opacity"]
    assert not dataset.meta["refused"] and len(dataset.targets) == 30
    assert len(np.unique(dataset.groups)) == 5
    means = dataset.images.reshape(30, -1).astype(float)
    assert (means.max(axis=1) > means.min(axis=1) + 50).all()


@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_the_demonstration_of_shapes_is_trained_on_and_predicted(task, tmp_path):
    module = example("shapes")
    module.COUNTS = {"train": 24, "test": 8}
    module.main(tmp_path / "shapes")
    settings = {
        "data.resize_size": 64, "data.image_size": 64, "augment.crop": 64, "train.epochs": 2, "train.precision": "fp32",
    }  # fmt: skip
    run = train(task, data=tmp_path / "shapes", out=tmp_path / "run", overrides=settings, progress=False)
    assert run.result["images"] == 8 and run.result["init"]["copied"][0] == "conv1"
    images = sorted(map(str, (tmp_path / "shapes" / "test" / "images").iterdir()))
    for answer in predict(run.folder, images[:2], out=tmp_path / "out"):
        assert "error" not in answer and Path(answer["mask" if task == "segmentation" else "drawn"]).is_file()
