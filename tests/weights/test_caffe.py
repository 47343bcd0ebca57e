"""Caffe's files, read: OpenCV's importer computes the same from files that are written here by Caffe's own rules."""

import random
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from alexnet.api import convert, create_transform
from alexnet.core.errors import UserError
from alexnet.models.registry import create_model
from alexnet.weights import caffe
from alexnet.weights.caffe_blobs import blob, read_blob
from alexnet.weights.convert import build_network, convert_file
from alexnet.weights.formats import ReadOptions, read_weights
from alexnet.weights.identify import identify
from alexnet.weights.imagenet import ilsvrc_mean_image
from alexnet.weights.load import load_model
from alexnet.weights.mean_file import read_mean
from alexnet.weights.protobuf import field, message

cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed: pip install 'opencv-python-headless<5'")

CLASSES = 20
SHAPES = {
    "conv1": (8, 3, 11, 11), "conv2": (24, 4, 5, 5), "conv3": (40, 24, 3, 3), "conv4": (40, 20, 3, 3),
    "conv5": (24, 20, 3, 3), "fc6": (408, 864), "fc7": (408, 408), "fc8": (CLASSES, 408),
}  # fmt: skip
LAYERS = {  # name → type, message, settings: models/bvlc_alexnet/deploy.prototxt of BVLC/caffe, narrower
    "conv1": ("Convolution", "convolution_param", {"num_output": 8, "kernel_size": 11, "stride": 4}),
    "relu1": ("ReLU", "", {}),
    "norm1": ("LRN", "lrn_param", {"local_size": 5, "alpha": 0.0001, "beta": 0.75}),
    "pool1": ("Pooling", "pooling_param", {"pool": "MAX", "kernel_size": 3, "stride": 2}),
    "conv2": ("Convolution", "convolution_param", {"num_output": 24, "pad": 2, "kernel_size": 5, "group": 2}),
    "relu2": ("ReLU", "", {}),
    "norm2": ("LRN", "lrn_param", {"local_size": 5, "alpha": 0.0001, "beta": 0.75}),
    "pool2": ("Pooling", "pooling_param", {"pool": "MAX", "kernel_size": 3, "stride": 2}),
    "conv3": ("Convolution", "convolution_param", {"num_output": 40, "pad": 1, "kernel_size": 3}),
    "relu3": ("ReLU", "", {}),
    "conv4": ("Convolution", "convolution_param", {"num_output": 40, "pad": 1, "kernel_size": 3, "group": 2}),
    "relu4": ("ReLU", "", {}),
    "conv5": ("Convolution", "convolution_param", {"num_output": 24, "pad": 1, "kernel_size": 3, "group": 2}),
    "relu5": ("ReLU", "", {}),
    "pool5": ("Pooling", "pooling_param", {"pool": "MAX", "kernel_size": 3, "stride": 2}),
    "fc6": ("InnerProduct", "inner_product_param", {"num_output": 408}),
    "relu6": ("ReLU", "", {}),
    "drop6": ("Dropout", "dropout_param", {"dropout_ratio": 0.5}),
    "fc7": ("InnerProduct", "inner_product_param", {"num_output": 408}),
    "relu7": ("ReLU", "", {}),
    "drop7": ("Dropout", "dropout_param", {"dropout_ratio": 0.5}),
    "fc8": ("InnerProduct", "inner_product_param", {"num_output": CLASSES}),
    "prob": ("Softmax", "", {}),
}
MESSAGES = {  # message → number in LayerParameter, number in V1LayerParameter, numbers of its fields
    "convolution_param": (106, 10, {
        "num_output": 1, "pad": 3, "kernel_size": 4, "group": 5, "stride": 6, "pad_h": 9, "pad_w": 10, "kernel_h": 11,
        "kernel_w": 12, "stride_h": 13, "stride_w": 14, "dilation": 18,
    }),
    "lrn_param": (118, 18, {"local_size": 1, "alpha": 2, "beta": 3, "norm_region": 4, "k": 5}),
    "pooling_param": (121, 19, {"pool": 1, "kernel_size": 2, "stride": 3, "pad": 4, "round_mode": 13}),
    "inner_product_param": (117, 17, {"num_output": 1, "axis": 5, "transpose": 6}),
    "dropout_param": (108, 12, {"dropout_ratio": 1}),
    "relu_param": (123, 30, {"negative_slope": 1}),
}  # fmt: skip
V1_NUMBERS = {"Accuracy": 1, "Convolution": 4, "Data": 5, "Dropout": 6, "InnerProduct": 14, "LRN": 15, "Pooling": 17,
              "ReLU": 18, "Softmax": 20, "SoftmaxWithLoss": 21, "Sigmoid": 19}  # fmt: skip
CHOICES = {"MAX": 0, "AVE": 1}


def layers_of(network):
    """The layers of ``bvlc`` or ``caffenet`` in order; the latter has pool before norm."""
    names = list(LAYERS)
    if network == "caffenet":
        for number in (1, 2):
            norm = names.index(f"norm{number}")
            names[norm], names[norm + 1] = names[norm + 1], names[norm]
    return {name: LAYERS[name] for name in names}


def random_weights(seed=0):
    """Weights with which every layer responds to an image of 0 … 255: name → weight, bias."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in SHAPES.items():
        scale = (2 / np.prod(shape[1:])) ** 0.5 * (0.03 if name == "conv1" else 1)
        weights[name] = rng.normal(0, scale, shape).astype(np.float32), rng.normal(0, 0.1, shape[0]).astype(np.float32)
    return weights


def settings_of(layer_message, settings, *, v1):
    number, v1_number, numbers = MESSAGES[layer_message]
    values = [
        (key, part) for key, value in settings.items() for part in (value if isinstance(value, tuple) else (value,))
    ]
    return field(
        v1_number if v1 else number, message(field(numbers[key], CHOICES.get(part, part)) for key, part in values)
    )


def caffe_file(path, network="bvlc", *, v1=False, weights=None, layers=None, with_types=True, before=(), doubles=False):
    """A ``.caffemodel`` as training writes it, with two data layers, accuracy and loss."""
    layers, weights = layers or layers_of(network), weights or random_weights()
    layers = {
        "data": ("Data", "", {}), "data ": ("Data", "", {}), **layers,
        "accuracy": ("Accuracy", "", {}), "loss": ("SoftmaxWithLoss", "", {}),
    }  # fmt: skip
    encoded = []
    for name, (kind, layer_message, settings) in layers.items():
        parts = [field(3 if v1 else 4, name)]  # top
        parts.append(field(4 if v1 else 1, name.strip()))
        if with_types:
            parts.append(field(5, V1_NUMBERS[kind]) if v1 else field(2, kind))
        for array in weights.get(name, ()):
            if doubles:
                data = memoryview(array.astype("<f8").tobytes())
                dims = message(field(1, size) for size in array.shape)  # not packed
                parts.append(field(7, message([field(8, data), field(7, dims)])))
            else:
                parts.append(field(6 if v1 else 7, blob(array, is_old=v1)))
        if layer_message and with_types:
            parts.append(settings_of(layer_message, settings, v1=v1))
        encoded.append(field(2 if v1 else 100, message(parts)))
    path.write_bytes(b"".join(message([field(1, "AlexNet"), *before, *encoded])))
    return path


def prototxt(network):
    """The description for deployment, as Caffe's repository has it."""
    text = (
        'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 227 dim: 227 } } }\n'
    )
    bottom = "data"
    for name, (kind, layer_message, settings) in layers_of(network).items():
        top = bottom if kind in ("ReLU", "Dropout") else name
        inside = " ".join(f"{key}: {value}" for key, value in settings.items())
        inside = f"{layer_message} {{ {inside} }}" if layer_message else ""
        text += f'layer {{ name: "{name}" type: "{kind}" bottom: "{bottom}" top: "{top}" {inside} }}\n'
        bottom = top
    return text


@pytest.fixture(scope="module")
def photographs():
    """Photographs as OpenCV decodes and resizes them: ``(256, 256, 3)`` uint8, BGR."""
    images = [image[:, :, ::-1] for image in load_sample_images().images]
    images += [image[100:400, 50:350] for image in images]
    return [cv2.resize(image, (256, 256)) for image in images]


def opencv_probabilities(path, network, photographs, mean_bgr):
    """As Caffe's ``classify``: minus the mean image at the place of the crop, centre 227."""
    net = cv2.dnn.readNetFromCaffe(np.frombuffer(prototxt(network).encode(), np.uint8), np.fromfile(path, np.uint8))
    rows = []
    for image in photographs:
        pixels = (image.astype(np.float32) - mean_bgr)[14:241, 14:241]
        net.setInput(np.ascontiguousarray(pixels.transpose(2, 0, 1)[None]))
        rows.append([net.forward(layer)[0].copy() for layer in ("prob", "fc8")])
    return [np.stack(layer) for layer in zip(*rows, strict=True)]


def our_logits(model, photographs):
    transform = create_transform(model)
    images = torch.stack([transform(Image.fromarray(image[:, :, ::-1])) for image in photographs])
    with torch.inference_mode():
        return model(images).numpy()


@pytest.mark.parametrize("v1", [False, True], ids=["new", "V1"])
@pytest.mark.parametrize(("network", "variant"), [("bvlc", "bvlc-alexnet"), ("caffenet", "caffenet")])
def test_opencv_computes_the_same_from_photographs(tmp_path, photographs, network, variant, v1):
    """Traps: BGR folded once, the mean image reversed once and cropped with the image, α divided, k = 1, order."""
    path = caffe_file(tmp_path / "net.caffemodel", network, v1=v1)
    mean = ilsvrc_mean_image().numpy()[:, :, ::-1]
    np.save(tmp_path / "mean.npy", mean.transpose(2, 0, 1).astype(np.float64))
    model, report = convert_file(path, mean=tmp_path / "mean.npy")
    assert report.variant == model.variant == variant
    probabilities, logits = opencv_probabilities(path, network, photographs, mean)
    ours = our_logits(model, photographs)
    assert np.abs(ours).max() > 1
    assert np.abs(ours - logits).max() <= 1e-4 * np.abs(logits).max()
    assert np.abs(torch.from_numpy(ours).softmax(1).numpy() - probabilities).max() <= 1e-4
    assert (np.argsort(-ours)[:, :5] == np.argsort(-logits)[:, :5]).all()
    assert all(np.ptp(rows) > 1e-2 * np.abs(rows).max() for rows in ours.T), "an output that does not respond"


def test_the_check_notices_each_trap(tmp_path, photographs):
    """What the test above compares changes if one of its traps is fallen into."""
    path = caffe_file(tmp_path / "net.caffemodel")
    mean = ilsvrc_mean_image().numpy()[:, :, ::-1]
    _, logits = opencv_probabilities(path, "bvlc", photographs, mean)
    weights = read_weights(path, ReadOptions())
    right = identify(weights)

    def difference(identity=right, **changed):
        model, _ = build_network(replace(weights, mean_image=ilsvrc_mean_image(), **changed), identity, "net")
        return np.abs(our_logits(model, photographs) - logits).max() / np.abs(logits).max()

    assert difference() < 1e-5
    assert difference(channel_order="RGB") > 1e-2
    for setting, value in (("lrn_convention", "sum"), ("lrn_k", 2.0)):
        wrong = replace(right, architecture=replace(right.architecture, **{setting: value}))
        assert difference(wrong) > 1e-3, setting
    assert difference(identify(replace(weights, ops=()), "caffenet")) > 1e-4
    model, _ = build_network(replace(weights, mean_image=ilsvrc_mean_image().flip(2)), right, "net")
    assert np.abs(our_logits(model, photographs) - logits).max() / np.abs(logits).max() > 1e-3


def test_a_file_without_types_needs_a_variant(tmp_path):
    """The weights of bvlc_alexnet and CaffeNet have equal shapes."""
    path = caffe_file(tmp_path / "net.caffemodel", with_types=False)
    with pytest.raises(UserError, match=r"fit several networks with equal shapes: bvlc-alexnet, caffenet.*--variant"):
        convert_file(path)
    for variant in ("bvlc-alexnet", "caffenet"):
        model, report = convert_file(path, variant=variant)
        assert model.variant == variant
        assert any("weights only" in note for note in report.notes)
        assert torch.equal(model.fc7.weight, torch.from_numpy(random_weights()["fc7"][0]))


def test_weights_without_the_layers_between(tmp_path):
    only = {name: LAYERS[name] for name in SHAPES}
    path = caffe_file(tmp_path / "net.caffemodel", layers=only)
    with pytest.raises(UserError, match="--variant"):
        convert_file(path)
    assert load_model(path, variant="caffenet").variant == "caffenet"


@pytest.mark.parametrize("form", ["V1", "doubles"])
def test_other_forms_of_arrays_give_the_same_network(tmp_path, form):
    wanted = convert_file(caffe_file(tmp_path / "new.caffemodel"))[0].state_dict()
    found = convert_file(caffe_file(tmp_path / "other.caffemodel", v1=form == "V1", doubles=form == "doubles"))[0]
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in found.state_dict().items())
    weight, bias = random_weights()["conv1"]
    assert torch.equal(wanted["conv1.weight"], torch.from_numpy(weight).flip(1))
    assert torch.equal(wanted["conv1.bias"], torch.from_numpy(bias))


def test_floats_that_are_not_packed():
    values = np.random.default_rng(0).standard_normal((7, 11)).astype(np.float32)
    loose = message(
        [*(field(5, float(value)) for value in values.ravel()), field(7, message([field(1, 7), field(1, 11)]))]
    )
    assert np.array_equal(read_blob(memoryview(b"".join(loose))), values)


def test_settings_of_the_file_are_used(tmp_path):
    layers = layers_of("bvlc")
    conv2 = {"num_output": 24, "pad_h": 2, "pad_w": 2, "kernel_h": 5, "kernel_w": 5, "group": 2, "stride": (1, 1)}
    layers["conv2"] = ("Convolution", "convolution_param", conv2)
    layers |= {name: ("LRN", "lrn_param", {"local_size": 3, "alpha": 0.5, "k": 2.0}) for name in ("norm1", "norm2")}
    layers |= {name: ("Dropout", "dropout_param", {"dropout_ratio": 0.25}) for name in ("drop6", "drop7")}
    layers |= {name: ("Sigmoid", "", {}) for name in layers if name.startswith("relu")}
    model, report = convert_file(caffe_file(tmp_path / "net.caffemodel", layers=layers))
    a = model.architecture
    assert (a.lrn_size, a.lrn_alpha, a.lrn_k, a.lrn_convention, a.lrn_groups) == (3, 0.5, 2, "mean", 1)
    assert (a.dropout, a.dropout_scaling, a.activation, a.pool_ceil_mode) == (0.25, "train", "sigmoid", True)
    assert (a.convs[1].padding, a.convs[1].stride, a.convs[1].groups) == (2, 1, 2)
    assert any("lrn_k is 2.0 in the file, 1.0 in bvlc-alexnet" in line for line in report.assumptions)


def test_caffes_defaults_where_the_file_states_nothing(tmp_path):
    layers = {**layers_of("bvlc"), **dict.fromkeys(("norm1", "norm2"), ("LRN", "lrn_param", {}))}
    model, _ = convert_file(caffe_file(tmp_path / "net.caffemodel", layers=layers))
    a = model.architecture
    assert (a.lrn_size, a.lrn_alpha, a.lrn_beta, a.lrn_k, a.pool_ceil_mode) == (5, 1.0, 0.75, 1.0, True)


def test_transposed_linear_layers(tmp_path):
    weights, layers = random_weights(), layers_of("bvlc")
    layers["fc7"] = ("InnerProduct", "inner_product_param", {"num_output": 408, "transpose": 1})
    turned = {**weights, "fc7": (np.ascontiguousarray(weights["fc7"][0].T), weights["fc7"][1])}
    model, report = convert_file(caffe_file(tmp_path / "net.caffemodel", layers=layers, weights=turned))
    assert torch.equal(model.fc7.weight, torch.from_numpy(weights["fc7"][0]))
    assert "transposed" in next(row for row in report.rows if row.layer == "fc7").steps


def conv1(**changed):
    return "Convolution", "convolution_param", {"num_output": 8, "kernel_size": 11, "stride": 4, **changed}


@pytest.mark.parametrize(
    ("name", "layer", "message_"),
    [
        ("relu1", ("ReLU", "relu_param", {"negative_slope": 0.1}), "leaky ReLU"),
        ("pool1", ("Pooling", "pooling_param", {"pool": "AVE", "kernel_size": 3, "stride": 2}), "no max pool"),
        ("pool1", ("Pooling", "pooling_param", {"kernel_size": 3, "stride": 2, "pad": 1}), "padding 1"),
        ("norm1", ("LRN", "lrn_param", {"local_size": 4}), "size 4"),
        ("norm1", ("LRN", "lrn_param", {"local_size": 3, "norm_region": 1}), "within a channel"),
        ("norm1", ("LRN", "lrn_param", {"local_size": 5, "alpha": float("nan")}), "damaged"),
        ("conv1", conv1(stride=(4, 2)), "rows and columns"),
        ("conv1", conv1(kernel_size=7), "8 filters of 7 × 7"),
        ("conv1", conv1(dilation=2), "dilation"),
        ("conv1", conv1(group=3), "3 groups do not fit"),
        ("drop6", ("Dropout", "dropout_param", {"dropout_ratio": 1.5}), "dropout_ratio"),
        ("prob", ("Embed", "", {}), "type Embed"),
    ],
)  # fmt: skip
def test_what_no_alexnet_has_is_refused_with_the_layers_name(tmp_path, name, layer, message_):
    path = caffe_file(tmp_path / "net.caffemodel", layers={**layers_of("bvlc"), name: layer})
    with pytest.raises(UserError, match=message_) as caught:
        convert_file(path)
    assert repr(name) in caught.value.line
    assert str(path) in caught.value.line


def test_settings_that_differ_between_layers_are_refused(tmp_path):
    layers = {**layers_of("bvlc"), "norm2": ("LRN", "lrn_param", {"local_size": 5, "alpha": 0.0002, "beta": 0.75})}
    with pytest.raises(UserError) as caught:
        convert_file(caffe_file(tmp_path / "net.caffemodel", layers=layers))
    assert any("alpha differs between layers" in line for line in caught.value.details)


def test_the_mean_of_each_channel_and_the_scale_in_the_data_layer(tmp_path):
    transform = message([field(1, 0.5), field(3, 227), *(field(5, value) for value in (104.0, 117.0, 123.0))])
    data = message([field(1, "data"), field(2, "Data"), field(100, transform)])
    model, report = convert_file(caffe_file(tmp_path / "net.caffemodel", before=[field(100, data)]))
    p = model.preprocessing
    assert (p.pixel_normalization, p.mean, p.std, p.crop, p.resize_size, p.resize) == (
        "channel", (123.0, 117.0, 104.0), (1.0, 1.0, 1.0), 227, 256, "warp",
    )  # fmt: skip
    weight = torch.from_numpy(random_weights()["conv1"][0])
    assert torch.equal(model.conv1.weight, weight.flip(1) * 0.5)
    assert "times 0.5, the input's scale" in report.rows[0].steps


def test_mean_files_are_reversed_exactly_once(tmp_path):
    bgr = np.random.default_rng(0).uniform(80, 140, (3, 256, 256)).astype(np.float32)
    np.save(tmp_path / "mean.npy", bgr.astype(np.float64))
    np.save(tmp_path / "fortran.npy", np.asfortranarray(bgr))
    (tmp_path / "mean.binaryproto").write_bytes(b"".join(blob(bgr[None], is_old=True)))
    (tmp_path / "new.binaryproto").write_bytes(b"".join(blob(bgr[None])))
    wanted = torch.from_numpy(bgr[::-1].transpose(1, 2, 0).copy())
    for name in ("mean.npy", "fortran.npy", "mean.binaryproto", "new.binaryproto"):
        assert torch.equal(read_mean(tmp_path / name), wanted), name
    np.save(tmp_path / "values.npy", np.array([104.0, 117.0, 123.0]))
    assert read_mean(tmp_path / "values.npy")[7, 9].tolist() == [123, 117, 104]
    path = caffe_file(tmp_path / "net.caffemodel")
    model = convert_file(path, mean=tmp_path / "mean.binaryproto")[0]
    assert torch.equal(model.mean_image, wanted)
    folder, _ = convert(path, tmp_path / "model", mean=tmp_path / "mean.npy")
    assert torch.equal(load_model(folder).mean_image, wanted)


@pytest.mark.parametrize(
    "array",
    [np.zeros((3, 100, 100)), np.zeros((1, 256, 256)), np.zeros((2, 256, 256)), np.zeros((3, 256, 255)), np.zeros(()),
     np.full((3, 256, 256), np.nan), np.array(["a"]), np.array([{}], dtype=object), np.zeros((3, 256, 256), complex)],
    ids=["small", "grey", "two channels", "no square", "a number", "not finite", "text", "a pickle", "complex"],
)  # fmt: skip
def test_mean_files_of_other_shapes_and_types_are_refused(tmp_path, array):
    np.save(tmp_path / "mean.npy", array)
    with pytest.raises(UserError, match="mean image"):
        convert_file(caffe_file(tmp_path / "net.caffemodel"), mean=tmp_path / "mean.npy")


def test_a_mean_file_that_claims_more_than_it_has(tmp_path):
    np.save(tmp_path / "mean.npy", np.zeros((3, 256, 256), np.float32))
    data = (tmp_path / "mean.npy").read_bytes()
    (tmp_path / "mean.npy").write_bytes(data.replace(b"(3, 256, 256)", b"(3, 1 << 40)", 1))
    with pytest.raises(UserError, match="no mean image"):
        read_mean(tmp_path / "mean.npy")
    (tmp_path / "mean.npy").write_bytes(data.replace(b"(3, 256, 256)", b"(3, 2560000)", 1))
    with pytest.raises(UserError, match="no mean image"):
        read_mean(tmp_path / "mean.npy")


def test_a_long_list_is_no_mean_of_each_channel_and_costs_no_memory(tmp_path):
    np.save(tmp_path / "mean.npy", np.zeros(768, np.float32))
    tracemalloc.start()
    with pytest.raises(UserError, match="its shape is 768"):
        read_mean(tmp_path / "mean.npy")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_a_shape_that_claims_more_than_there_is_costs_no_memory(tmp_path):
    huge = message([field(5, bytes(16)), field(7, message([field(1, 2**31), field(1, 2**31)]))])
    layer = message([field(1, "conv1"), field(2, "Convolution"), field(7, huge)])
    path = tmp_path / "net.caffemodel"
    path.write_bytes(b"".join(message([field(100, layer)])))
    tracemalloc.start()
    with pytest.raises(UserError, match="no complete Caffe model"):
        caffe.read(path, ReadOptions())
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_files_that_belong_beside_are_named(tmp_path):
    for name, what in (("deploy.prototxt", "holds no weights"), ("mean.binaryproto", "--mean")):
        (tmp_path / name).write_text("name: 1\n")
        with pytest.raises(UserError, match=what):
            read_weights(tmp_path / name)


def test_a_description_without_weights(tmp_path):
    with pytest.raises(UserError, match="'conv1': it has no weights"):
        convert_file(caffe_file(tmp_path / "net.caffemodel", weights={"none": ()}))


def test_the_format_before_v1_is_refused(tmp_path):
    path = tmp_path / "net.caffemodel"
    path.write_bytes(b"".join(field(2, message([field(1, message([field(1, "conv1")]))]))))
    with pytest.raises(UserError, match="upgrade_net_proto_binary"):
        convert_file(path)


@pytest.mark.parametrize("v1", [False, True])
def test_a_file_is_recognized_by_its_contents(tmp_path, v1):
    path = caffe_file(tmp_path / "weights", v1=v1)
    assert caffe.recognises(path.read_bytes()[:4096], path)
    for head in (
        b"",
        b"name: 'AlexNet'",
        b"PK\x03\x04",
        b"\x89HDF\r\n\x1a\n",
        b"\x08\x0a\x12\x07pytorch",
        b"\x80\x02}q",
    ):
        assert not caffe.recognises(head, path)


def test_batch_normalization_with_its_scale(tmp_path):
    """The file has sums, and the factor by which Caffe divides them (``batch_norm_layer.cpp``)."""
    ours = create_model("batchnorm", num_classes=5, seed=0, width=0.1)
    parts, rng = [], np.random.default_rng(0)
    for name, module in ours.named_children():
        weights = [p.detach().numpy() for p in module.parameters()]
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.copy_(torch.from_numpy(rng.normal(0, 1, len(module.running_mean))))
            module.running_var.copy_(torch.from_numpy(rng.uniform(0.5, 2, len(module.running_var))))
            sums = [module.running_mean.numpy() * 4, module.running_var.numpy() * 4, np.float32([4])]
            parts += [
                (name, "BatchNorm", sums, [field(139, message([field(3, 2e-5)]))]),
                (name + "s", "Scale", weights, []),
            ]
        elif name.startswith(("relu", "pool", "conv", "fc")):
            kind = {"r": "ReLU", "p": "Pooling", "c": "Convolution", "f": "InnerProduct"}[name[0]]
            extra = []
            if kind == "Pooling":
                extra = [settings_of("pooling_param", {"kernel_size": 3, "stride": 2, "round_mode": 1}, v1=False)]
            if kind == "Convolution":
                settings = {"stride": module.stride[0], "pad": module.padding[0], "kernel_size": module.kernel_size[0]}
                extra = [settings_of("convolution_param", settings, v1=False)]
            parts.append((name, kind, weights, extra))
    path = tmp_path / "net.caffemodel"
    layers = []
    for name, kind, arrays, extra in parts:
        blobs = [field(7, blob(array)) for array in arrays]
        layers.append(field(100, message([field(1, name), field(2, kind), *blobs, *extra])))
    path.write_bytes(b"".join(message(layers)))
    model, report = convert_file(path)
    assert model.variant == "batchnorm"
    assert model.architecture.batch_norm_eps == 2e-5
    assert any("batch_norm_eps is 2e-05" in line for line in report.assumptions)
    for name, tensor in ours.state_dict().items():
        wanted = tensor.flip(1) if name == "conv1.weight" else tensor
        if "num_batches" not in name:
            torch.testing.assert_close(model.state_dict()[name], wanted, rtol=1e-6, atol=0)


def mutate(data, dice):
    """Changed, removed, repeated and inserted bytes, most of them in the small fields between the numbers."""
    data = bytearray(data)
    for _ in range(dice.randint(1, 6)):
        place = dice.randrange(len(data))
        match dice.randrange(5):
            case 0 | 1:
                data[place] = dice.randrange(256)
            case 2:
                del data[place : place + dice.randint(1, 8)]
            case 3:
                data[place:place] = data[place : place + dice.randint(1, 16)]
            case 4:
                data[place:place] = dice.randbytes(dice.randint(1, 8))
    return bytes(data)


def tiny_file(path, v1):
    """A file whose arrays are few and small beside its settings, so that mutations meet the settings too."""
    weights = {name: (weight * 0 + 0.01, bias * 0) for name, (weight, bias) in random_weights().items()}
    return caffe_file(path, v1=v1, weights=weights)


def settings_only(data, dice):
    """A mutation of the bytes outside the arrays, which are runs of one number."""
    whole = np.frombuffer(data, np.uint8)
    start = dice.choice([0, *np.flatnonzero(np.diff(whole.astype(int)) != 0)[::7].tolist()])
    return data[:start] + mutate(data[start : start + 60], dice) + data[start + 60 :]


def check_mutation(path):
    """A refusal, or a network whose outputs are finite and of the right shape."""
    try:
        model, _ = convert_file(path)
    except UserError as error:
        assert "\n" not in error.line
        return "refused"
    side = model.image_size
    with torch.inference_mode():
        output = model(torch.rand(1, model.in_channels, side, side))
    assert output.shape == (1, model.num_classes)
    return "read" if output.isfinite().all() else "overflow"


@pytest.mark.parametrize("v1", [False, True])
def test_changed_files_are_refused_or_give_a_network(tmp_path, v1):
    path = tiny_file(tmp_path / "net.caffemodel", v1)
    data, dice = path.read_bytes(), random.Random(int(v1))
    counts = {"refused": 0, "read": 0, "overflow": 0}
    for number in range(150):
        path.write_bytes((mutate if number % 3 == 0 else settings_only)(data, dice))
        counts[check_mutation(path)] += 1
    assert counts["refused"] > 20
    assert counts["read"] > 5


def test_changed_mean_files_are_refused_or_give_an_image(tmp_path):
    path, dice = tmp_path / "mean.binaryproto", random.Random(0)
    originals = [b"".join(blob(np.full((1, 3, 16, 16), 100, np.float32), is_old=old)) for old in (True, False)]
    np.save(tmp_path / "mean.npy", np.full((3, 16, 16), 100, np.float32))
    originals.append((tmp_path / "mean.npy").read_bytes())
    refused = 0
    for number in range(300):
        data = originals[number % 3]
        head = mutate(data[:100], dice)
        path.write_bytes(head + data[100:] if number % 2 else mutate(data, dice))
        try:
            mean = read_mean(path)
        except UserError:
            refused += 1
        else:
            assert mean.ndim == 3
            assert mean.isfinite().all()
    assert 30 < refused < 300
