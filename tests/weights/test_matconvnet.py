"""Files in MatConvNet's form, written by SciPy and, for version 7.3, by h5py; SciPy computes the first layers."""

import random
import struct

import numpy as np
import pytest
import scipy.io
import scipy.signal
import scipy.sparse
import torch

from alexnet.core.errors import UserError
from alexnet.models.classifier import Classifier
from alexnet.weights import matconvnet
from alexnet.weights.convert import build_network, convert_file
from alexnet.weights.identify import identify
from alexnet.weights.matlab_files import read_matlab

CLASSES = 7


def cell(values):
    out = np.empty((1, len(values)), object)
    for place, value in enumerate(values):
        out[0, place] = value
    return out


def numbers(*values):
    return np.array([values], float)


def structs(network, *, old=False, pool_pad=(0, 1, 0, 1)):
    """The layers of an AlexNet as MatConvNet's importer of Caffe's networks writes them."""
    state, layers = network.state_dict(), []
    for name, module in network.named_children():
        kind = name.rstrip("12345678")
        if kind in ("conv", "fc"):
            weight = state[f"{name}.weight"]
            if kind == "fc":
                side = 6 if name == "fc6" else 1
                weight = weight.unflatten(1, (-1, side, side))
            filters, biases = weight.permute(2, 3, 1, 0).contiguous().numpy(), state[f"{name}.bias"].numpy()[None]
            pad, stride = (module.padding[0], module.stride[0]) if kind == "conv" else (0, 1)
            layer = {"type": "conv", "pad": numbers(pad, pad, pad, pad), "stride": numbers(stride, stride)}
            layer |= {"filters": filters, "biases": biases} if old else {"weights": cell([filters, biases])}
        elif kind == "relu":
            layer = {"type": "relu"}
        elif kind == "norm":
            layer = {"type": "normalize", "param": numbers(5, 1, 2e-5, 0.75)}
        elif kind == "pool":
            layer = {"type": "pool", "method": "max", "pool": numbers(3, 3), "stride": 2.0, "pad": numbers(*pool_pad)}
        else:
            continue
        layers.append({"name": name, **layer})
    return [*layers, {"type": "softmax", "name": "prob"}]


def net(network, average=None, **settings):
    normalization = {"imageSize": numbers(227, 227, 3), "border": numbers(29, 29), "keepAspect": True}
    if average is not None:
        normalization["averageImage"] = average
    names, words = (
        cell([f"n{place:08d}" for place in range(CLASSES)]),
        cell([f"thing {place}" for place in range(CLASSES)]),
    )
    meta = {"normalization": normalization, "classes": {"name": names, "description": words}}
    return {"layers": cell(structs(network, **settings)), "meta": meta}


AVERAGE = np.random.default_rng(0).uniform(90, 130, (227, 227, 3)).astype("f4")


@pytest.fixture(scope="module")
def network(narrow_network):
    return narrow_network("bvlc-alexnet")


@pytest.fixture
def images():
    return 50 * torch.randn(2, 3, 227, 227, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["bvlc-alexnet", "caffenet"])
@pytest.mark.parametrize("settings", [{}, {"old": True}, {"pool_pad": (0, 0, 0, 0)}], ids=["new", "old", "unpadded"])
def test_logits_are_those_of_the_network(tmp_path, narrow_network, images, name, settings):
    network = narrow_network(name)
    scipy.io.savemat(
        path := tmp_path / "imagenet-caffe-alex.mat",
        net(network, AVERAGE, **settings),
        do_compression="old" in settings,
    )
    found, report = convert_file(path)
    assert found.variant == name
    with torch.no_grad():
        torch.testing.assert_close(found(images), network(images), rtol=0, atol=0)
    torch.testing.assert_close(found.mean_image, torch.from_numpy(AVERAGE), rtol=0, atol=0)
    assert (found.preprocessing.resize, found.preprocessing.resize_size) == ("short-side", 256)
    assert found.classes[:2] == ("n00000000", "n00000001")
    assert found.labels[:2] == ("thing 0", "thing 1")
    assert any("is taken to be the row" in note for note in report.notes)
    assert "alpha" not in " ".join(report.assumptions)  # 2e-5 of the sum is 1e-4 of the mean of five


def test_the_first_layers_are_those_that_scipy_computes(tmp_path, network):
    """vl_nnconv is a correlation of H × W × C with H × W × C × K; vl_nnnormalize divides by (κ + α Σ x²)^β."""
    scipy.io.savemat(path := tmp_path / "a.mat", net(network, AVERAGE))
    found, _ = convert_file(path)
    filters = scipy.io.loadmat(path)["layers"][0, 0]["weights"][0, 0][0, 0]  # (11, 11, 3, 12)
    biases = scipy.io.loadmat(path)["layers"][0, 0]["weights"][0, 0][0, 1].ravel()
    image = np.random.default_rng(1).normal(0, 50, (227, 227, 3))
    maps = np.stack(
        [
            sum(scipy.signal.correlate2d(image[..., c], filters[..., c, k], "valid") for c in range(3))[::4, ::4] + bias
            for k, bias in enumerate(biases)
        ],
        axis=2,
    ).clip(0)
    total = np.stack([np.square(maps[..., max(0, k - 2) : k + 3]).sum(2) for k in range(maps.shape[2])], axis=2)
    expected = maps / (1 + 2e-5 * total) ** 0.75
    with torch.no_grad():
        x = torch.from_numpy(image).float().permute(2, 0, 1)[None]
        norm1 = found.layer_outputs(x, ["norm1"])["norm1"][0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(norm1, expected, atol=1e-4 * abs(expected).max())


def test_a_mean_colour(tmp_path, network):
    scipy.io.savemat(path := tmp_path / "a.mat", net(network, np.array([[[123.0, 117, 104]]], "f4")))
    found, _ = convert_file(path)
    assert found.mean_image is None
    assert found.preprocessing.mean == (123, 117, 104)
    assert found.preprocessing.pixel_normalization == "channel"


def write_73(path, variables):
    """A file of version 7.3: HDF5 behind 512 bytes, axes in reverse order, cells as references."""
    h5py = pytest.importorskip("h5py", reason="h5py is not installed: pip install 'alexnet[h5]'")
    with h5py.File(path, "w", userblock_size=512) as file:
        stored = file.create_group("#refs#")

        def put(group, name, value):
            if isinstance(value, dict):
                made = group.create_group(name)
                for key, item in value.items():
                    put(made, key, item)
                kind = "struct"
            elif isinstance(value, np.ndarray) and value.dtype == object:
                references = []
                for item in value.ravel():
                    key = f"r{len(stored)}"
                    put(stored, key, item)
                    references.append(stored[key].ref)
                made = group.create_dataset(name, (len(references), 1), h5py.ref_dtype)
                made[:, 0] = references
                kind = "cell"
            elif isinstance(value, str):
                made = group.create_dataset(name, data=np.array([[ord(char)] for char in value], "u2"))
                kind = "char"
            else:
                made = group.create_dataset(name, data=np.atleast_2d(value).T)
                kind = "single" if made.dtype == np.float32 else "double"
            made.attrs["MATLAB_class"] = np.bytes_(kind)

        for name, value in variables.items():
            put(file, name, value)
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512))


def test_version_73(tmp_path, network, images):
    write_73(path := tmp_path / "a.mat", {"net": net(network, AVERAGE)})
    found, _ = convert_file(path)
    with torch.no_grad():
        torch.testing.assert_close(found(images), network(images), rtol=0, atol=0)
    assert found.labels[1] == "thing 1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda layers: layers[0].update(type="bnorm"), "is of the type 'bnorm'"),
        (lambda layers: layers[3].update(method="avg"), "is a pool of the method 'avg'"),
        (lambda layers: layers[3].update(pad=numbers(1, 1, 1, 1)), "only equal ones at the bottom and right"),
        (lambda layers: layers[0].update(pad=numbers(0, 1, 0, 1)), "must be equal on all sides"),
        (lambda layers: layers[1].update(leak=0.1), "is no plain ReLU"),
        (lambda layers: layers[2].update(param=numbers(5, 1)), "is no network of MatConvNet"),
        (lambda layers: layers[2].update(param=numbers(5.5, 1, 2e-5, 0.75)), "normalizes over 5.5 channels"),
        (lambda layers: layers[2].update(param=numbers(5, 0, 2e-5, 0.75)), "lrn with k = 0.0; expected a number from"),
        (lambda layers: layers[2].update(param=numbers(5, 1, np.nan, 0.75)), "lrn with alpha = nan"),
        (lambda layers: layers[2].update(param=numbers(5, 1, 2e-5, np.inf)), "lrn with beta = inf"),
        (lambda layers: layers[2].update(param=numbers(-5, 1, 2e-5, 0.75)), "lrn with size = -5"),
        (lambda layers: layers.insert(-2, {"type": "dropout", "rate": 2.0}), "dropout with p = 2.0"),
        (lambda layers: layers.insert(-2, {"type": "softmax"}), "1 difference"),
        (lambda layers: layers.pop(0), "it has 5 convolutions, 2 linear layers and 0 batch normalizations; an AlexNet"),
    ],
)
def test_another_network_is_refused(tmp_path, network, change, message):
    layers = structs(network)
    change(layers)
    scipy.io.savemat(path := tmp_path / "a.mat", {"layers": cell(layers)})
    with pytest.raises(UserError, match=message):
        convert_file(path)


@pytest.mark.parametrize(
    ("average", "message"),
    [
        (np.where(np.arange(227) == 5, np.nan, AVERAGE.T).T, "the mean image in the file holds numbers that are not"),
        (np.array([[[123.0, np.inf, 104]]]), r"preprocessing\.mean\[1\] = inf is not a number"),
    ],
    ids=["image", "colour"],
)
def test_a_mean_that_is_not_finite_is_refused(tmp_path, network, average, message):
    scipy.io.savemat(path := tmp_path / "a.mat", net(network, average))
    with pytest.raises(UserError, match=message):
        convert_file(path)


def plain(value):
    """What SciPy reads, in our form; arrays of numbers as lists."""
    if hasattr(value, "_fieldnames"):
        return {name: plain(getattr(value, name)) for name in value._fieldnames}
    if not isinstance(value, np.ndarray) or value.dtype.kind == "c":
        return None
    match value.dtype.kind:
        case "U":
            return value.tolist()[0] if value.size == 1 else value.tolist() or ""
        case "O":
            items = [plain(item) for item in value.ravel(order="F")]
            return items[0] if value.size == 1 and hasattr(value.ravel()[0], "_fieldnames") else items
        case _:
            return value.tolist()


def with_lists(value, tensors):
    match value:
        case {"array": key, "shape": shape}:
            assert list(tensors[key].shape) == shape
            return tensors[key].tolist()
        case dict():
            return {name: with_lists(item, tensors) for name, item in value.items()}
        case list():
            return [with_lists(item, tensors) for item in value]
    return value


@pytest.mark.parametrize("compressed", [False, True])
def test_variables_are_those_that_scipy_reads(tmp_path, compressed):
    many = np.zeros((1, 2), [("a", object), ("name", object)])
    many[0] = [(np.arange(3.0), "one"), (np.zeros((0, 2)), "")]
    variables = {
        "small": numbers(1, 2), "one": 5.0, "text": "abc", "rows": np.array(["ab", "cd"]), "wide": "é€",
        "cells": cell([np.arange(24, dtype="f4").reshape(2, 3, 4), "x", cell(["y", numbers(3)])]), "many": many,
        "deep": {"a": {"b": {"c": np.array([[True, False]])}}}, "imaginary": np.array([[1 + 2j]]),
        "sparse": scipy.sparse.csc_array(np.eye(3)), "after": numbers(7), "long_name": np.arange(2000.0),
        **{f"n{code}": np.array([[3, 100]], code) for code in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4")},
    }  # fmt: skip
    scipy.io.savemat(path := tmp_path / "a.mat", variables, do_compression=compressed, long_field_names=True)
    theirs = scipy.io.loadmat(path, struct_as_record=False)
    tensors, ours = read_matlab(path)
    assert with_lists(ours, tensors) == {name: plain(value) for name, value in theirs.items() if name[:2] != "__"}


def test_numbers_in_a_smaller_type_and_the_other_byte_order(tmp_path):
    """MATLAB stores whole numbers of a double array in as few bytes as they need."""
    flags, shape = struct.pack(">IIII", 6, 8, 6, 0), struct.pack(">IIii", 5, 8, 1, 3)
    body = flags + shape + struct.pack(">HH4s", 1, 1, b"x") + struct.pack(">HH4s", 3, 2, b"\7\x08\x09")
    (path := tmp_path / "a.mat").write_bytes(
        b"MATLAB 5.0 MAT-file".ljust(124) + b"\1\0MI" + struct.pack(">II", 14, len(body)) + body
    )
    tensors, variables = read_matlab(path)
    assert variables == {"x": {"array": "1:x", "shape": [1, 3]}}
    assert tensors["1:x"].dtype == torch.float64
    assert tensors["1:x"].tolist() == scipy.io.loadmat(path)["x"].tolist() == [[7, 8, 9]]


def test_a_compressed_file_that_unpacks_to_far_more_is_refused(tmp_path):
    scipy.io.savemat(path := tmp_path / "a.mat", {"x": np.zeros(5 << 20)}, do_compression=True)
    with pytest.raises(UserError, match="too much for its size"):
        read_matlab(path)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"x": np.zeros(3)}, "expected layers, found x"),
        ({"params": numbers(1), "vars": numbers(1), "layers": numbers(1)}, "holds a DagNN network"),
    ],
)
def test_other_files_are_refused(tmp_path, variables, message):
    scipy.io.savemat(path := tmp_path / "a.mat", variables)
    with pytest.raises(UserError, match=message):
        convert_file(path)


def test_changed_values_are_refused_or_give_a_network(tmp_path, network):
    """What is read of the file, changed."""
    scipy.io.savemat(path := tmp_path / "a.mat", net(network, AVERAGE))
    tensors, variables = read_matlab(path)
    draws, networks = random.Random(0), 0
    others = [None, [], {}, "", "relu", 3, "conv", {"array": "?", "shape": []}]
    for _ in range(300):
        changed = dict(variables)
        changed["layers"] = [dict(layer) for layer in variables["layers"]]
        layer = draws.choice(changed["layers"])
        key = draws.choice(list(layer))
        arrays = [value for value in layer.values() if isinstance(value, dict)]
        layer[key] = draws.choice([*others, *arrays, draws.choice(changed["layers"])[next(iter(layer))]])
        try:
            weights = matconvnet.interpret(tensors, changed)
            found, _ = build_network(weights, identify(weights), "it")
        except UserError:
            continue
        assert isinstance(found, Classifier)
        networks += 1
    assert networks > 20


def test_changed_files_are_refused_or_give_a_network(tmp_path, network):
    scipy.io.savemat(path := tmp_path / "a.mat", net(network))
    whole, draws = path.read_bytes(), random.Random(1)
    for _ in range(10):
        data = bytearray(whole)
        for _ in range(10):
            data[128 + draws.randrange(3000)] = draws.randrange(256)
        path.write_bytes(data[: draws.choice((len(data), len(data) // 3))])
        try:
            found, _ = convert_file(path)
        except UserError as error:
            assert "\n" not in error.line
        else:
            assert isinstance(found, Classifier)
