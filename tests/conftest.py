"""Fixtures for all tests: a cache folder of their own, small prepared datasets, a reporter that records its calls."""

import contextlib
import hashlib
import math
import os
import tempfile

if "PYTEST_XDIST_WORKER" in os.environ:  # one thread for each worker, before torch is imported; its processes too
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import signal
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

_HOME_OF_THE_USER = os.environ.get("ALEXNET_HOME")


def pytest_collection_modifyitems(items):
    """Files with a test marked ``slow`` first: the workers then end at nearly the same time."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)  # the sort is stable


@pytest.fixture(scope="session", autouse=True)
def own_home(tmp_path_factory):
    """Prepared datasets and downloads of the tests go to a temporary folder, not to the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("ALEXNET_HOME", str(home))
        yield home


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A cache folder for one test."""
    place = tmp_path / "home"
    monkeypatch.setenv("ALEXNET_HOME", str(place))
    return place


@pytest.fixture(scope="session", autouse=True)
def ctrl_c():
    """A shell starts background processes with Ctrl-C ignored; tests that send it need Python's own handler."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session", autouse=True)
def no_reports():
    """Trainings write no report.html, because that takes longer than they do; yields the function that writes one."""
    from alexnet.report import build as report

    real = report.add
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "add", lambda *given: None)
        yield real


@pytest.fixture(scope="session", autouse=True)
def small_matrix_product():
    """Trainings measure the machine's rate by a small matrix product: the one of 4096³ takes longer than they do."""
    from alexnet import api
    from alexnet.runtime.device import matrix_rate

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "matrix_rate", lambda device_config: matrix_rate(device_config, size=256))
        yield


@pytest.fixture(autouse=True)
def report_marker(request, no_reports, monkeypatch):
    """Trainings in tests marked ``report`` write it."""
    if "report" in request.keywords:
        monkeypatch.setattr("alexnet.report.build.add", no_reports)


@pytest.fixture(scope="session")
def fashion_mnist_root() -> Path:
    """A folder that holds Fashion-MNIST: $ALEXNET_DATA_ROOT, the user's own home of this package, or Debian's."""
    from alexnet.data.sources.file_sets import find_in
    from alexnet.data.sources.mnist import FASHION_MNIST

    named = [os.environ.get("ALEXNET_DATA_ROOT"), _HOME_OF_THE_USER or "~/.cache/alexnet", *FASHION_MNIST.packaged]
    places = [Path(name).expanduser() for name in named if name]
    for place in places:
        if find_in(FASHION_MNIST, place):
            return place
    looked = ", ".join(map(str, places))
    return pytest.skip(f"Fashion-MNIST is in none of {looked}: apt install dataset-fashion-mnist, or ALEXNET_DATA_ROOT")


@pytest.fixture(scope="session")
def make_store(tmp_path_factory):
    """Builds a prepared dataset from (N, H, W, C) uint8 pixels or encoded files, with a label and a split for each."""
    from alexnet.data.prepared import open_or_prepare
    from alexnet.data.sources import Record, Source

    def make(payloads, labels, splits, classes=tuple("0123456789"), name="made", **settings):
        content = hashlib.sha256(repr((labels, splits)).encode())
        for payload in payloads:
            content.update(payload if isinstance(payload, bytes) else np.ascontiguousarray(payload).tobytes())

        def records():
            for number, (payload, label, split) in enumerate(zip(payloads, labels, splits, strict=True)):
                yield Record(split, int(label), f"{number:05d}", payload)

        arrays = isinstance(payloads, np.ndarray)
        source = Source(
            name=name,
            location=f"{name} images",
            classes=tuple(classes),
            fingerprint=content.hexdigest(),
            read=records,
            count=len(labels),
            pixel_shape=payloads.shape[1:] if arrays else None,
        )
        return open_or_prepare(source, home=tmp_path_factory.mktemp("stores"), workers=1, **settings)

    return make


@pytest.fixture(scope="session")
def digits():
    """scikit-learn's digits: pixels (1797, 8, 8, 1) uint8 and labels (1797,)."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return np.round(pixels * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1), labels


@pytest.fixture(scope="session")
def make_digits_store(make_store, digits):
    """Builds a prepared dataset of digits with this many in each split."""

    def make(train=100, val=0, test=0):
        count = train + val + test
        splits = ["train"] * train + ["val"] * val + ["test"] * test
        return make_store(digits[0][:count], digits[1][:count].tolist(), splits, name="few-digits")

    return make


@pytest.fixture(scope="session")
def small_recipe():
    """A small network with batch norm and dropout: the variant "small" at 16 pixels, one epoch, batches of 16, fp32."""
    from alexnet.config import DataSpec, ModelSpec, OptimSpec, Recipe, TrainSpec

    return Recipe(
        name="least",
        model=ModelSpec("small", dropout=0.2),
        data=DataSpec("digits", image_size=16),
        optim=OptimSpec(lr=0.01, momentum=0.9),
        train=TrainSpec(batch_size=16, epochs=1, precision="fp32"),
    )


@dataclass
class Notes:
    """A reporter that records its calls."""

    lines: list = field(default_factory=list)
    calls: list = field(default_factory=list)

    def begin(self, title, total, done=0):
        self.calls.append(("begin", title, total, done))

    def advance(self, done, **figures):
        self.calls.append(("advance", done, figures))

    def finish(self):
        self.calls.append(("finish",))

    def log(self, text):
        self.lines.append(text)

    def warnings(self):
        return [line for line in self.lines if line.startswith("warning: ")]


@pytest.fixture(scope="session")
def no_host_wait():
    """A context in which an operation raises if the host needs a number that is on the device, and so waits for it."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class NoHostWait(TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            if operation.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "masked_select", "_unique2"):
                raise AssertionError(f"the host waits for the device: {operation}")
            return operation(*args, **(kwargs or {}))

    return NoHostWait


@pytest.fixture
def notes():
    return Notes()


@pytest.fixture(scope="session")
def slim():
    """Variant → overrides that give it few hidden units: the whole structure in a fraction of the memory."""
    from alexnet.models.registry import get_architecture

    def differences(name, units=64):
        architecture = get_architecture(name)
        return {"hidden": tuple(replace(layer, units=units) for layer in architecture.hidden)} if architecture else {}

    return differences


@pytest.fixture(scope="session")
def lively():
    """Fills every weight, bias and running average of a network with numbers that keep activations large."""
    import torch

    def fill(network, seed=1):
        draws = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for key, parameter in network.named_parameters():
                fan_in = parameter[0].numel() if key.endswith("weight") and parameter.dim() > 1 else 16
                parameter.normal_(0, math.sqrt(2 / fan_in), generator=draws)
            for key, buffer in network.named_buffers():
                if key.endswith("running_var"):
                    buffer.uniform_(0.5, 2, generator=draws)
                elif key.endswith("running_mean"):
                    buffer.normal_(generator=draws)
        return network.eval()

    return fill


@pytest.fixture(scope="session")
def randomised(slim, lively):
    """Variant → its slim network for five classes, in float64 and evaluation mode, every weight and bias random and
    large enough that activations stay large in every layer.
    """
    from alexnet.models.registry import create_model

    def build(name, image_size=None, **differences):
        channels = 1 if name in ("d2l", "lenet5") else 3
        network = create_model(
            name, num_classes=5, in_channels=channels, image_size=image_size, seed=0, **{**slim(name), **differences}
        )
        return lively(network.double())

    return build


@pytest.fixture(scope="module")
def one_thread():
    """For tiny batches: where a machine is shared, waiting for a second thread costs far more than it brings."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def as_user():
    """A context in which the modes of files hold: root may read anything, so root becomes another user in it."""

    @contextlib.contextmanager
    def become():
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        try:
            yield
        finally:
            if root:
                os.seteuid(0)

    return become


@pytest.fixture
def public_folder():
    """A temporary folder that every user may enter."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="session")
def cpu():
    """The CPU in fp32, where results differ least between machines."""
    from alexnet.runtime.device import resolve_device

    return resolve_device("cpu", "fp32")
