"""Other runtimes get the network that ours is, and only those that are installed are timed."""

import importlib.util

import numpy as np
import pytest
import torch

from alexnet.runtime import device
from alexnet.runtime.device import resolve_device
from alexnet_lab.bench import runtimes
from alexnet_lab.bench.runtimes import RUNTIMES, exported, runtime_comparisons
from alexnet_lab.bench.stock import network_of

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("variant", ["torchvision", "paper"])
def test_what_is_exported_computes_what_ours_does(variant):
    onnxruntime = pytest.importorskip("onnxruntime")
    network = network_of(variant).eval()
    images = torch.rand(2, 3, network.image_size, network.image_size, generator=torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession(exported(variant), providers=["CPUExecutionProvider"])
    (theirs,) = session.run(None, {"images": images.numpy()})
    with torch.inference_mode():
        ours = network(images).numpy()
    assert np.abs(ours).max() > 0
    np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_runtime_works_through_its_batches(name):
    modules, prepare, precision = RUNTIMES[name]
    for module in modules:
        pytest.importorskip(module, reason="it is no dependency: pip install 'alexnet[bench]'")
    used, work = prepare("torchvision", 2)
    assert used == resolve_device("cpu", precision)
    assert [next(work) for _ in range(2)] == [2, 2]


def test_only_what_is_installed_is_timed(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(runtimes.importlib.util, "find_spec", lambda name: None if name == "openvino" else found("io"))
    (comparison,) = runtime_comparisons("torchvision", 1, "bf16")
    assert (comparison.beside, comparison.batch, set(comparison.candidates)) == (
        "ONNX Runtime, fp32",
        1,
        {"ours", "stock"},
    )


@pytest.mark.parametrize("native", [False, True])
def test_a_runtime_is_named_with_the_precision_that_it_computes_in(monkeypatch, native):
    monkeypatch.setattr(device, "multiplies_bf16", lambda where: native)
    monkeypatch.setattr(runtimes.importlib.util, "find_spec", lambda name: True)
    named = [comparison.beside for comparison in runtime_comparisons("torchvision", 1, "fp32")]
    assert named == ["ONNX Runtime, fp32", "OpenVINO, bf16" if native else "OpenVINO, fp32"]
