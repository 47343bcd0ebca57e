"""Files that Keras wrote: our logits are Keras's, on photographs; damaged files are refused."""

import json
import os
import random
import zipfile

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images
from torch import nn

from alexnet.core.errors import UserError
from alexnet.models.classifier import Classifier
from alexnet.weights import child, keras_files
from alexnet.weights.convert import build_network, convert_file
from alexnet.weights.foreign import ForeignWeights
from alexnet.weights.identify import identify

os.environ.setdefault("KERAS_BACKEND", "torch")  # read once, when keras is imported
h5py = pytest.importorskip("h5py", reason="h5py is not installed: pip install 'alexnet[h5]'")
hdf5_child = pytest.importorskip("alexnet.weights.hdf5_child")
keras = pytest.importorskip("keras", reason="keras is not installed: pip install 'alexnet[dev]'")
if keras.backend.backend() != "torch":
    pytest.skip("keras runs on another backend here: set KERAS_BACKEND=torch", allow_module_level=True)
pytestmark = pytest.mark.filterwarnings("ignore")
L = keras.layers
CLASSES, NARROW = 7, 8
FORMS = (".keras", ".weights.h5", ".h5")


def tutorial(groups=1, norms=True, epsilon=1e-3, activation="relu", size=224, maps=None, flatten=None):
    """The ``keras`` variant: "same" padding, batch norm after ReLU. ``maps``, ``flatten``: their ``data_format``."""
    first = maps == "channels_first"
    layers = [keras.Input((3, size, size) if first else (size, size, 3))]
    for number, (filters, kernel, stride) in enumerate(
        ((96, 11, 4), (256, 5, 1), (384, 3, 1), (384, 3, 1), (256, 3, 1))
    ):
        split = groups if number in (1, 3, 4) else 1
        settings = {"padding": "same", "activation": activation, "groups": split, "data_format": maps}
        layers += [L.Conv2D(filters // NARROW, kernel, strides=stride, **settings)]
        layers += [L.BatchNormalization(1 if first else -1, epsilon=epsilon)] if norms else []
        layers += [L.MaxPooling2D(3, 2, data_format=maps)] if number in (0, 1, 4) else []
    units = 4096 // NARROW
    layers += [
        L.Flatten(data_format=flatten or maps),
        L.Dense(units, activation=activation),
        L.Dropout(0.5),
        L.Dense(units),
        L.Activation(activation),
    ]
    return [*layers, L.Dropout(0.25), L.Dense(CLASSES)]


def like_torchvision():
    """torchvision's network with its preprocessing inside: activations as layers, padding as layers."""
    layers = [keras.Input((224, 224, 3)), L.Rescaling(1 / 255)]
    layers += [L.Normalization(mean=[0.485, 0.456, 0.406], variance=[0.229**2, 0.224**2, 0.225**2])]
    for filters, kernel, stride, zeros, pool in (
        (64, 11, 4, 2, 1), (192, 5, 1, 2, 1), (384, 3, 1, 1, 0), (256, 3, 1, 1, 0), (256, 3, 1, 1, 1),
    ):  # fmt: skip
        layers += [L.ZeroPadding2D(zeros), L.Conv2D(filters // NARROW, kernel, strides=stride), L.ReLU()]
        layers += [L.MaxPooling2D(3, 2) for _ in range(pool)]
    units = 4096 // NARROW
    layers += [L.Flatten(), L.Dropout(0.5), L.Dense(units, "relu"), L.Dropout(0.5), L.Dense(units, "relu")]
    return [*layers, L.Dense(CLASSES)]


def functional(layers):
    images = x = layers[0]
    for layer in layers[1:]:
        x = layer(x)
    return keras.Model(images, x)


def responding(model):
    """Weights that keep activations large, and statistics of batch norms that are not the identity's."""
    draws = torch.Generator().manual_seed(3)
    for layer in model.layers:
        if isinstance(layer, L.BatchNormalization):
            for variable in layer.weights:
                variable.assign(0.5 + torch.rand(tuple(variable.shape), generator=draws))
        elif isinstance(layer, L.Conv2D | L.Dense):
            kernel, bias = layer.weights
            std = (2 / np.prod(kernel.shape[:-1])) ** 0.5
            kernel.assign(std * torch.randn(tuple(kernel.shape), generator=draws))
            bias.assign(0.1 * torch.randn(tuple(bias.shape), generator=draws))
    return model


def photographs(size=224):
    """``(N, size, size, 3)`` fp32, 0 … 255."""
    pictures = [torch.from_numpy(picture).permute(2, 0, 1)[None].float() for picture in load_sample_images().images]
    pictures += [picture[..., 50:350, 100:400] for picture in pictures]
    resized = [nn.functional.interpolate(picture, size=(size, size), mode="bilinear") for picture in pictures]
    return torch.cat(resized).permute(0, 2, 3, 1)


NETWORKS = {
    "tutorial": (lambda: keras.Sequential(tutorial()), "keras", 1 / 255),
    "tutorial, functional": (lambda: functional(tutorial(epsilon=0.01)), "keras", 1 / 255),
    "grouped": (lambda: keras.Sequential(tutorial(groups=2)), "keras", 1 / 255),
    "without norms": (lambda: functional(tutorial(norms=False)), "one-tower", 1 / 255),
    "torchvision": (lambda: keras.Sequential(like_torchvision()), "torchvision", 1.0),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Network → (its model, form → its file)."""
    folder = tmp_path_factory.mktemp("keras")
    found = {}
    for name, (build, _, _) in NETWORKS.items():
        keras.backend.clear_session()
        model = responding(build())
        files = {form: folder / f"{name}{form}" for form in FORMS}
        for form, file in files.items():
            (model.save_weights if form == ".weights.h5" else model.save)(file)
        found[name] = (model, files)
    return found


def assert_same_logits(network, model, pixels, normalized):
    with torch.no_grad():
        expected = model(pixels, training=False)
        found = network(normalized.permute(0, 3, 1, 2).contiguous())
    assert float((found - expected).abs().max()) <= 1e-4 * float(expected.abs().max())
    assert torch.equal(found.topk(5).indices, expected.topk(5).indices)


@pytest.mark.parametrize("form", [".keras", ".h5"])
@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_kerass(saved, name, form):
    model, files = saved[name]
    network, report = convert_file(files[form])
    pixels = photographs() * NETWORKS[name][2]
    settings = network.preprocessing
    normalized = pixels
    if name == "torchvision":  # the network's own preprocessing is bound to it
        assert settings.pixel_normalization == "channel"
        normalized = (pixels - torch.tensor(settings.mean)) / torch.tensor(settings.std)
    assert_same_logits(network, model, pixels, normalized)
    assert network.variant == NETWORKS[name][1] == report.variant
    assert [row.layer for row in report.rows][:1] == ["conv1"]
    assert report.rows[0].steps == ("HWIO to OIHW",)
    assert "inputs from HWC to CHW" in next(row for row in report.rows if row.layer == "fc6").steps


def test_weights_without_names_and_order(saved):
    model, files = saved["tutorial"]
    network, report = convert_file(files[".weights.h5"])
    assert_same_logits(network, model, pixels := photographs() / 255, pixels)
    assert any("does not describe its network" in note for note in report.notes)


@pytest.mark.parametrize("flatten", ["channels_first", "channels_last"])
def test_channels_first_maps_and_both_orders_of_flatten(tmp_path, flatten):
    """Keras's ``Flatten("channels_first")`` moves the channels to the end; ``Flatten("channels_last")`` does not."""
    keras.backend.clear_session()
    model = responding(keras.Sequential(tutorial(size=99, maps="channels_first", flatten=flatten)))
    model.save(path := tmp_path / "first.keras")
    network, report = convert_file(path)
    pixels = photographs(99).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        expected, found = model(pixels, training=False), network(pixels.contiguous())
    assert float((found - expected).abs().max()) <= 1e-4 * float(expected.abs().max())
    order = "inputs from HWC to CHW" in next(row for row in report.rows if row.layer == "fc6").steps
    assert order == (flatten == "channels_first")


def test_epsilon_is_the_files(saved):
    assert convert_file(saved["tutorial"][1][".keras"])[0].norm1.eps == 1e-3
    assert convert_file(saved["tutorial, functional"][1][".keras"])[0].norm1.eps == 0.01


def test_names_are_sorted_as_numbers():
    names = ["conv2d_10", "conv2d_2", "dense", "conv2d", "dense_1"]
    assert sorted(names, key=keras_files._numbered) == ["conv2d", "conv2d_2", "conv2d_10", "dense", "dense_1"]


@pytest.mark.parametrize("whole", [True, False])
def test_a_file_of_keras_2(tmp_path, whole):
    """Its form, written by hand: ``kernel:0``, byte strings, activations and sizes where Keras 2 has them."""
    model = responding(keras.Sequential(tutorial()))
    path, layers = tmp_path / "old.h5", []
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights") if whole else file
        for layer in model.layers:
            group = root.create_group(layer.name)
            names = [f"{layer.name}/{variable.name}:0" for variable in layer.weights]
            group.attrs["weight_names"] = np.array(names, "S") if names else np.zeros(0, "S1")
            for name, variable in zip(names, layer.weights, strict=True):
                group[name] = variable.numpy()
            kept = (
                "filters",
                "kernel_size",
                "strides",
                "padding",
                "activation",
                "pool_size",
                "axis",
                "epsilon",
                "units",
                "rate",
            )
            config = {"name": layer.name, **{key: value for key, value in layer.get_config().items() if key in kept}}
            layers.append({"class_name": type(layer).__name__, "config": config})
        root.attrs["layer_names"] = np.array([layer.name for layer in model.layers], "S")
        layers[0]["config"]["batch_input_shape"] = [None, 224, 224, 3]
        for layer in layers:
            if layer["class_name"] == "BatchNormalization":
                layer["config"]["axis"] = [3]
        if whole:
            file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": layers}).encode()
    network, report = convert_file(path)
    assert_same_logits(network, model, pixels := photographs() / 255, pixels)
    assert report.format == "Keras .h5"


def described(layers):
    """What ``interpret`` makes of a Sequential, with weights from Keras."""
    keras.backend.clear_session()
    model = responding(keras.Sequential(layers))
    tensors, groups = {}, []
    counts = {}
    for layer in model.layers:
        snake = keras_files._snake(type(layer).__name__)
        number = counts[snake] = counts.get(snake, -1) + 1
        path = f"{snake}_{number}" if number else snake
        arrays = {str(place): torch.from_numpy(np.array(v.numpy())) for place, v in enumerate(layer.weights)}
        tensors |= {f"{path}|{place}": array for place, array in arrays.items()}
        groups.append({"path": path, "name": layer.name, "variables": list(arrays)})
    config = {"class_name": "Sequential", "config": keras.saving.serialize_keras_object(model)["config"]}
    return tensors, {"form": "keras", "config": json.dumps(config), "groups": groups}


SMALL = 67  # pixels: maps of 17, 8, 3 and 1


@pytest.mark.parametrize(
    ("extra", "place", "message"),
    [
        (lambda: L.Lambda(lambda x: x * 2), 1, "holds Python code, which is not read"),
        (lambda: L.LeakyReLU(), 3, "is in no AlexNet"),
        (lambda: L.AveragePooling2D(1), 3, "is in no AlexNet"),
        (lambda: L.ZeroPadding2D(((0, 3), (0, 3))), 1, '"same" behind a ZeroPadding2D'),
        (lambda: L.Rescaling(2.0), 4, "changes pixels behind a convolution"),
        (lambda: L.ReLU(6.0), 2, "is no plain ReLU"),
        (lambda: L.Activation("gelu"), 2, "has the activation 'gelu'"),
        (lambda: L.MaxPooling2D(1, data_format="channels_first"), 3, "has another data_format"),
        (lambda: L.ZeroPadding2D(1, data_format="channels_first"), 3, "has another data_format"),
        (lambda: L.BatchNormalization(epsilon=float("nan")), 3, "batch-norm with eps = nan; expected a number from 0"),
        (lambda: L.Rescaling(1e-320), 1, r"preprocessing\.std\[0\] = inf is not a number"),
        (lambda: L.Rescaling(1e-30), 1, r"pixels divided by 1e\+30, 1e\+30, 1e\+30, which has no meaning"),
        (lambda: L.Rescaling(1e-6, offset=1e6), 1, r"the mean -1e\+12, -1e\+12, -1e\+12 of the pixels"),
        (lambda: L.Rescaling(float("nan")), 1, r"preprocessing\.mean\[0\] = nan is not a number"),
        (lambda: L.Rescaling(1e-6, offset=float("inf")), 1, r"preprocessing\.mean\[0\] = -inf is not a number"),
        (lambda: L.Softmax(), -3, "found linear, activation, linear, softmax, activation, linear"),
        (lambda: L.Softmax(), 3, "after conv1: found activation, batch-norm, softmax, pool"),
        (lambda: L.ReLU(), 1, "before conv1: found activation; keras has nothing there"),
    ],
)
def test_another_network_is_refused(extra, place, message):
    layers = tutorial(size=SMALL)
    layers.insert(place, extra())
    with pytest.raises(UserError, match=message):
        identify(keras_files.interpret(*described(layers)))


def test_flatten_with_another_axis_of_channels_is_refused():
    with pytest.raises(UserError, match=r"'flatten' \(Flatten\) has another data_format"):
        keras_files.interpret(*described(tutorial(size=SMALL, maps="channels_last", flatten="channels_first")))


def test_softmax_at_the_end_is_read():
    assert identify(keras_files.interpret(*described([*tutorial(), L.Softmax()]))).variant == "keras"


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("rate", 1.5, "dropout with p = 1.5"),
        ("rate", -0.5, "dropout with p = -0.5"),
        ("rate", float("nan"), "dropout with p = nan"),
        ("epsilon", float("inf"), "batch-norm with eps = inf"),
        ("epsilon", -1.0, "batch-norm with eps = -1"),
        ("groups", 0, "conv with groups = 0"),
        ("data_format", "channels_middle", "is not Keras's"),
    ],
)
def test_settings_without_a_meaning_are_refused(setting, value, message):
    tensors, found = described(tutorial(size=SMALL))
    config = json.loads(found["config"])
    for layer in config["config"]["layers"]:
        if setting in layer["config"]:
            layer["config"][setting] = value
    with pytest.raises(UserError, match=message):
        identify(keras_files.interpret(tensors, {**found, "config": json.dumps(config)}))


def test_negative_variances_are_refused():
    tensors, found = described(tutorial(size=SMALL))
    tensors["batch_normalization_2|3"][1] = -0.5
    weights = keras_files.interpret(tensors, found)
    with pytest.raises(UserError, match="'batch_normalization_2' has a negative running variance"):
        build_network(weights, identify(weights), "it")


@pytest.mark.parametrize("whole", [True, False])
def test_a_model_in_the_model_of_an_h5_file(tmp_path, whole):
    """``.keras`` has a group for each; ``.h5`` puts the weights of all its layers together."""
    layers = tutorial(size=99)
    inner = keras.Sequential(layers[1:14], name="features")
    model = responding(keras.Sequential([layers[0], inner, *layers[14:]]))
    if whole:
        model.save(path := tmp_path / "a.keras")
        assert convert_file(path)[0].variant == "keras"
    model.save(path := tmp_path / "a.h5")
    if not whole:
        with h5py.File(path, "r+") as file:
            del file.attrs["model_config"]
    with pytest.raises(UserError, match=r"'features' is a model in the model, .* save the network as \.keras"):
        convert_file(path)


def test_layers_that_are_not_connected_are_refused():
    images = keras.Input((SMALL, SMALL, 3))
    config = keras.Model(images, L.ReLU(name="b")(L.ReLU(name="a")(images))).get_config()
    cycle = [
        json.loads(json.dumps(layer).replace('"a"', '"c"').replace('"b"', '"d"')) for layer in config["layers"][1:]
    ]
    cycle[0]["inbound_nodes"] = json.loads(json.dumps(cycle[1]["inbound_nodes"]).replace('"c"', '"d"'))
    config["layers"] += cycle
    found = {"form": "keras", "config": json.dumps({"class_name": "Functional", "config": config}), "groups": []}
    with pytest.raises(UserError, match=r"layer '[cd]' is not connected to the input"):
        keras_files.interpret({}, found)


def test_a_very_long_description_is_refused(tmp_path, saved):
    files = saved["without norms"][1]
    path = tmp_path / "a.h5"
    path.write_bytes(files[".h5"].read_bytes())
    with h5py.File(path, "r+") as file:
        text = file.attrs["model_config"]
        del file.attrs["model_config"]
        file.attrs["model_config"] = text + " " * hdf5_child.CONFIG_LIMIT
    with pytest.raises(UserError, match="its model_config has more than 1,048,576 bytes"):
        convert_file(path)
    with zipfile.ZipFile(path := tmp_path / "a.keras", "w") as archive, zipfile.ZipFile(files[".keras"]) as source:
        archive.writestr("config.json", source.read("config.json") + b" " * hdf5_child.CONFIG_LIMIT)
        archive.writestr("model.weights.h5", source.read("model.weights.h5"))
    with pytest.raises(UserError, match=r"its config\.json has"):
        convert_file(path)


def test_a_branch_is_refused():
    images = keras.Input((SMALL, SMALL, 3))
    x = L.Conv2D(4, 3)(images)
    model = keras.Model(images, L.Add()([x, L.ReLU()(x)]))
    config = {"class_name": "Functional", "config": model.get_config()}
    found = {"form": "keras", "config": json.dumps(config), "groups": []}
    with pytest.raises(UserError, match="part of a branch"):
        keras_files.interpret({}, found)


def test_order_and_head_are_compared():
    layers = tutorial(size=224)
    del layers[-3]  # the activation after fc7
    with pytest.raises(UserError, match="the nearest is keras: 1 difference") as caught:
        identify(keras_files.interpret(*described(layers)))
    assert caught.value.details[0].startswith("from fc6 on: found linear, activation, linear, linear")


def test_zeros_before_a_layer_are_its_padding(tmp_path):
    layers = tutorial()
    layers[1:2] = [L.ZeroPadding2D(((3, 4), (3, 4))), L.Conv2D(12, 11, strides=4, activation="relu")]
    weights = keras_files.interpret(*described(layers))
    assert weights.ops[0].settings == {"stride": 4, "padding": "same", "groups": 1}
    layers = tutorial()
    layers[1:2] = [L.ZeroPadding2D(2), L.Conv2D(12, 11, strides=4, activation="relu")]
    assert keras_files.interpret(*described(layers)).ops[0].settings["padding"] == 2


def test_links_to_other_files_are_refused(tmp_path, saved):
    (tmp_path / "secret.h5").write_bytes(saved["tutorial"][1][".weights.h5"].read_bytes())
    path = tmp_path / "linked.weights.h5"
    with h5py.File(path, "w") as file:
        file["layers/conv2d/vars/0"] = h5py.ExternalLink("secret.h5", "/layers/conv2d/vars/0")
    with pytest.raises(UserError, match="is a link to another place or file"):
        convert_file(path)


def test_a_small_file_with_large_arrays_is_refused(tmp_path):
    path = tmp_path / "bomb.weights.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("layers/conv2d/vars/0", (1 << 30,), "f4", chunks=(1 << 20,), compression="gzip")
    with pytest.raises(UserError, match="too much for its size"):
        convert_file(path)


def test_without_h5py_the_error_names_the_extra(tmp_path, monkeypatch, saved):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'alexnet\[h5\]'"):
        convert_file(saved["tutorial"][1][".h5"])


def test_changed_descriptions_are_refused_or_give_a_network():
    tensors, found = described(tutorial(size=SMALL))
    draws = random.Random(0)
    networks = 0
    for _ in range(200):
        text = list(found["config"])
        for _ in range(draws.choice((1, 1, 4))):
            place = draws.randrange(len(text))
            text[place : place + draws.choice((0, 1, 1, 5))] = draws.choice(
                ["", "0", "9", "-", "null", "[", '"', "1e9", "true"]
            )
        try:
            weights = keras_files.interpret(tensors, {**found, "config": "".join(text)})
            network = build_network(weights, identify(weights), "it")[0]
        except UserError:
            continue
        assert isinstance(weights, ForeignWeights)
        assert isinstance(network, Classifier)
        networks += 1
    assert networks > 30


def test_changed_files_are_refused_or_give_a_network(tmp_path, saved):
    whole = {form: saved["tutorial"][1][form].read_bytes() for form in FORMS}
    draws = random.Random(1)
    for trial in range(9):
        form = FORMS[trial % 3]
        data = bytearray(whole[form])
        with zipfile.ZipFile(saved["tutorial"][1][".keras"]) as archive:
            start = archive.getinfo("model.weights.h5").header_offset if form == ".keras" else 0
        for _ in range(20):
            data[start + draws.randrange(min(20_000, len(data) - start))] = draws.randrange(256)
        path = tmp_path / f"changed{form}"
        path.write_bytes(data[: draws.choice((len(data), len(data) // 2))])
        try:
            network = convert_file(path)[0]
        except UserError as error:
            assert "\n" not in error.line
        else:
            assert network.num_classes == CLASSES


@pytest.mark.parametrize("form", FORMS)
def test_arrays_that_lie_in_the_file_as_they_are_are_not_copied(tmp_path, saved, form):
    exchange = child.Exchange(tmp_path, None, 1 << 40)
    hdf5_child.read_keras(saved["tutorial"][1][form], exchange)
    assert len(exchange.places) >= 36
    assert exchange.names == []


def stored_otherwise(path, target, **settings):
    """A copy of a ``.weights.h5`` file whose arrays are stored in another way."""
    with h5py.File(path) as source, h5py.File(target, "w", userblock_size=1024) as file:

        def put(name, value):
            if isinstance(value, h5py.Dataset) and value.shape:
                dtype = settings.get("dtype", value.dtype)
                more = {key: item for key, item in settings.items() if key != "dtype"}
                file.create_dataset(name, data=value[()].astype(dtype), **more)
            else:
                file.require_group(name)

        source.visititems(put)


@pytest.mark.parametrize(
    "settings",
    [{}, {"compression": "gzip"}, {"chunks": True}, {"dtype": ">f4"}, {"dtype": "<f8"}],
    ids=["behind a block of the user", "gzip", "chunks", "big-endian", "fp64"],
)
def test_arrays_that_are_stored_otherwise(tmp_path, saved, settings):
    path = saved["tutorial"][1][".weights.h5"]
    stored_otherwise(path, other := tmp_path / "a.weights.h5", **settings)
    wanted, found = (convert_file(each)[0].state_dict() for each in (path, other))
    assert all(torch.equal(tensor, found[name]) for name, tensor in wanted.items())


def test_the_zip_of_a_keras_file(tmp_path, saved):
    """A damaged number is found by the checksum; a member may be compressed."""
    path = saved["without norms"][1][".keras"]
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(packed := tmp_path / "packed.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    wanted, found = (convert_file(each)[0].state_dict() for each in (path, packed))
    assert all(torch.equal(tensor, found[name]) for name, tensor in wanted.items())
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    (damaged := tmp_path / "damaged.keras").write_bytes(data)
    with pytest.raises(UserError, match=r"its model\.weights\.h5 differs from its checksum"):
        convert_file(damaged)


def test_child_errors_name_the_file(tmp_path):
    path = tmp_path / "x.h5"
    path.write_bytes(keras_files.HDF5 + bytes(100))
    with pytest.raises(UserError, match=r"x\.h5 is damaged"):
        child.call("alexnet.weights.hdf5_child:read_keras", path)
