"""Dictionaries of arrays as caffe-tensorflow wrote them, ``.npz`` files, and files that are neither."""

import io
import pickle
import random
import zipfile

import numpy as np
import pytest
import torch

from alexnet.core.errors import UserError
from alexnet.models.classifier import Classifier
from alexnet.weights.convert import build_network, convert_file, fc6_in_order
from alexnet.weights.foreign import ForeignWeights
from alexnet.weights.formats import read_weights
from alexnet.weights.identify import identify

CONVS = [f"conv{number}" for number in range(1, 6)]
FCS = ["fc6", "fc7", "fc8"]


def dictionary(network, bgr=True):
    """The weights as caffe-tensorflow has them: H, W, in, out; fc6's inputs row, column, channel; conv1 for BGR."""
    state, layers = network.state_dict(), {}
    for name in [*CONVS, "fc6", "fc7", "fc8"]:
        weight = state[f"{name}.weight"]
        if name == "conv1" and bgr:
            weight = weight.flip(1)
        if name == "fc6":
            channels = len(state["conv5.weight"])
            weight = weight.unflatten(1, (channels, 6, 6)).permute(0, 2, 3, 1).flatten(1)
        weight = weight.permute(2, 3, 1, 0) if weight.ndim == 4 else weight.T
        layers[name] = [weight.contiguous().numpy(), state[f"{name}.bias"].numpy()]
    return layers


def named_parts(layers):
    return {name: {"weights": weight, "biases": bias} for name, (weight, bias) in layers.items()}


@pytest.fixture(scope="module")
def network(narrow_network):
    return narrow_network("bvlc-alexnet")


def save_npy(path, layers):
    np.save(path, layers, allow_pickle=True)


def save_parts(path, layers):
    path.write_bytes(pickle.dumps(named_parts(layers), protocol=2))


def save_npz(path, layers):
    np.savez(
        path,
        **{f"{name}/{part}": array for name, parts in named_parts(layers).items() for part, array in parts.items()},
    )


def save_compressed(path, layers):
    np.savez_compressed(
        path,
        **{f"{name}_{part}": array for name, pair in layers.items() for part, array in zip("wb", pair, strict=True)},
    )


def save_convolutions(path, layers):
    """fc6 … fc8 as convolutions, as TF-slim has them."""
    channels = layers["conv5"][0].shape[3]
    sides = {
        "fc6": (6, 6, channels, -1),
        "fc7": (1, 1, len(layers["fc7"][0]), -1),
        "fc8": (1, 1, len(layers["fc8"][0]), -1),
    }
    save_npy(path, layers | {name: [layers[name][0].reshape(side), layers[name][1]] for name, side in sides.items()})


@pytest.mark.parametrize(
    ("save", "suffix"),
    [(save_npy, "npy"), (save_parts, "pkl"), (save_npz, "npz"), (save_compressed, "npz"), (save_convolutions, "npy")],
)
def test_logits_are_those_of_the_network(tmp_path, network, save, suffix):
    save(path := tmp_path / f"bvlc_alexnet.{suffix}", dictionary(network))
    found, report = convert_file(path, variant="bvlc-alexnet")
    images = 50 * torch.randn(2, 3, 227, 227, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(found(images), network(images), rtol=0, atol=0)
    steps = {row.layer: row.steps for row in report.rows}
    assert "input channels from BGR to RGB" in steps["conv1"]
    assert "inputs from HWC to CHW" in steps["fc6"]
    assert found.conv2.groups == 2
    assert found.preprocessing.resize == "warp"
    assert found.preprocessing.mean == (122.679, 116.669, 104.007)
    assert any("BGR" in note for note in report.notes)


def test_bvlc_and_caffenet_need_the_variant(tmp_path, network):
    save_npy(path := tmp_path / "a.npy", dictionary(network))
    with pytest.raises(UserError, match=r"bvlc-alexnet, caffenet; name the right one: .* --variant"):
        convert_file(path)


def test_the_order_of_a_dictionary_of_python_2_is_no_order(tmp_path, network):
    layers = dictionary(network)
    names = list(layers)
    random.Random(4).shuffle(names)
    save_npy(path := tmp_path / "a.npy", {name: layers[name] for name in names})
    assert [layer.name for layer in read_weights(path).layers] == [*CONVS, "fc6", "fc7", "fc8"]


@pytest.mark.parametrize(
    ("first", "later"), [("conv2d", "conv2d_{}"), ("Conv2D", "Conv2D_{}"), ("conv2d/x", "conv2d_{}/x"), ("c1", "c1{}")]
)
def test_names_of_keras_are_sorted(tmp_path, narrow_network, first, later):
    """``conv2d`` is before ``conv2d_1``: its 2 is part of a word."""
    layers = dictionary(narrow_network("bvlc-alexnet"))
    names = [first, *(later.format(number) for number in (1, 2, 3, 10))]
    pairs = [*zip(names, [layers[name] for name in CONVS], strict=True), *((name, layers[name]) for name in FCS)]
    random.Random(5).shuffle(pairs)
    save_npy(path := tmp_path / "a.npy", dict(pairs))
    assert [layer.name for layer in read_weights(path).layers] == [*names, *FCS]


def test_other_names_are_rgb(tmp_path, narrow_network):
    layers = {
        f"layer_{place}": pair
        for place, pair in enumerate(dictionary(narrow_network("one-tower"), bgr=False).values(), 1)
    }
    save_npy(path := tmp_path / "a.npy", layers)
    weights = read_weights(path)
    assert isinstance(weights, ForeignWeights)
    assert (weights.channel_order, weights.framework, weights.flatten) == ("RGB", "tensorflow", "HWC")


def npz(**members):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            member = zipfile.ZipInfo(f"{name}.npy")  # with a fixed date: a short file is the name of its test
            archive.writestr(member, data, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def npy(array, **settings):
    out = io.BytesIO()
    np.save(out, array, **settings)
    return out.getvalue()


FOUR = np.zeros((3, 3, 1, 2), "f4")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (npy(FOUR), "holds one array"),
        (npy({f"conv{n}": [FOUR, FOUR[0, 0, 0]] for n in range(1, 6)}, allow_pickle=True), "no fully connected layers"),
        (npy({"a": 1}, allow_pickle=True), "layer 'a' is neither"),
        (npy({"a": [np.zeros((3, 4, 1, 2), "f4")]}, allow_pickle=True), "expected in, out, or height"),
        (npy({"a": [np.zeros((3, 4), "i4")]}, allow_pickle=True), "does not hold floating-point numbers"),
        (npy({"a": 1}, allow_pickle=True).replace(b"|O", b"|P"), "its header is not NumPy's"),
        (npy({f"c{n}": [FOUR] for n in range(70)}, allow_pickle=True), "it has 70 layers"),
        (npz(a=npy(FOUR)), "is not a layer's weights or biases"),
        (npz(**{"a/w": npy(np.array(["x"], object), allow_pickle=True)}), "holds objects"),
        (npz(**{"a/w": npy(FOUR)[:-4]}), "has the shape"),
        (npz(**{"a/w": npy(FOUR).replace(b"(3, 3, 1, 2)", b"(9**9, 9, 9)")}), "its header is not NumPy's"),
        (npz(**{"a/w": npy(FOUR) + bytes(100_000_000)}), "too large for its size"),
        (npy({"a": [FOUR]}, allow_pickle=True).replace(b"f4", b"b4"), "of the type 'b4', not of numbers"),
        (npz(**{"a/w": npy(FOUR).replace(b"<f4", b"<b4")}), "its header is not NumPy's"),
        (npz(**{"a/w": npy(FOUR)}).replace(b"PK\x01\x02", b"PK\x01\x02" + bytes(40)), "is damaged"),
        (npz(**{"a/w": npy(FOUR)})[:-6] + b"\xff\xff\0\0\0\0", "is damaged"),
        (npz(a=b"")[:-30], "list of its members is missing|is damaged"),
    ],
)
def test_other_files_are_refused(tmp_path, data, message):
    (path := tmp_path / "x.npy").write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        convert_file(path)
    assert "x.npy" in caught.value.line


def test_layers_of_the_file_are_released_when_they_are_copied(tmp_path, network):
    save_npy(path := tmp_path / "a.npy", dictionary(network))
    weights = read_weights(path)
    identity = identify(weights, "bvlc-alexnet")
    build_network(weights, identity, "it")
    assert len(identity.parts) == 8
    build_network(weights, identity, "it", release=True)
    assert identity.parts == {}


@pytest.mark.parametrize("rows", [1, 64, 65])
@pytest.mark.parametrize("order", ["HWC", "WHC"])
def test_the_inputs_of_fc6_in_another_order(rows, order):
    maps, side = 3, 2
    weight = torch.arange(rows * maps * side * side, dtype=torch.float32).reshape(rows, -1)
    original, sizes = weight.clone(), {"C": maps, "H": side, "W": side}
    apart = original.unflatten(1, [sizes[axis] for axis in order])
    wanted = torch.stack([apart.select(order.index("C") + 1, c) for c in range(maps)], 1)
    wanted = (wanted if order == "HWC" else wanted.transpose(2, 3)).flatten(1)
    for given in (weight, weight.T.contiguous().T):
        assert torch.equal(fc6_in_order(given, maps, order), wanted)
        assert torch.equal(given, original)


def test_one_array_many_times_is_refused(tmp_path):
    array = np.zeros((100, 100), "f4")
    (path := tmp_path / "x.npy").write_bytes(npy({f"fc{n}": [array] for n in range(60)}, allow_pickle=True))
    with pytest.raises(UserError, match="share their bytes"):
        convert_file(path)


def test_torchs_older_pickles_are_not_numpys():
    from alexnet.weights import numpy_files

    out = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, out, _use_new_zipfile_serialization=False)
    assert not numpy_files.recognises(out.getvalue()[:4096], None)
    assert numpy_files.recognises(pickle.dumps({}, protocol=2), None)


@pytest.mark.parametrize("save", [save_npy, save_npz])
def test_changed_files_are_refused_or_give_a_network(tmp_path, narrow_network, save):
    save(
        path := tmp_path / ("a.npz" if save is save_npz else "a.npy"),
        dictionary(narrow_network("bvlc-alexnet", width=0.01)),
    )
    whole, draws, networks = path.read_bytes(), random.Random(0), 0
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(draws.choice((1, 3, 30))):
            near = draws.random() < 0.5  # the first and last bytes have the structure
            place = (
                draws.randrange(400)
                if near
                else -1 - draws.randrange(1500)
                if draws.random() < 0.5
                else draws.randrange(len(data))
            )
            data[place] = draws.randrange(256)
        path.write_bytes(data[: draws.choice((len(data), len(data), draws.randrange(len(data))))])
        try:
            network, _ = convert_file(path, variant="bvlc-alexnet")
        except UserError as error:
            assert "\n" not in error.line
        else:
            assert isinstance(network, Classifier)
            assert all(bool(value.isfinite().all()) for value in network.parameters())
            networks += 1
    assert networks  # a CRC protects the members of a zip
