"""ONNX files of other writers: ONNX Runtime computes the same from the file as the network that is read from it."""

import resource
import time
import warnings

import numpy as np
import pytest
import torch

from alexnet.core.errors import UserError
from alexnet.weights import onnx_files
from alexnet.weights.convert import convert_file
from alexnet.weights.foreign import ForeignWeights
from alexnet.weights.formats import ReadOptions, read_weights

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

CLASSES = 7
FILTERS, UNITS, GROUPS = (12, 32, 48, 48, 32), (512, 512), (1, 2, 1, 2, 2)  # an eighth of the real ones
KERNELS, STRIDES, PADS = (11, 5, 3, 3, 3), (4, 1, 1, 1, 1), (0, 2, 1, 1, 1)
LRN = {"size": 5, "alpha": 1e-2, "beta": 0.75, "bias": 1.0}  # an α that matters


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    pass


def zoo_like(tmp_path, *, opset=9, pool="pads", norm_first=True, numbers="raw", dtype=np.float32, **changes):
    """A narrow network as the model zoo's bvlcalexnet: names of Caffe2, 224 pixels, LRN ops, a softmax at the end."""
    draws = np.random.default_rng(0)
    initializers, nodes, values = [], [], {}

    def weight(name, *shape):
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 16
        array = draws.normal(0, (2 / fan_in) ** 0.5, shape).astype(dtype)
        values[name] = array
        if numbers == "raw":
            initializers.append(numpy_helper.from_array(array, name))
        else:
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            initializers.append(helper.make_tensor(name, kind, array.shape, array.flatten()))
        return name

    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    current = "data_0"
    channels = 3
    for number, (filters, kernel, stride, pad, groups) in enumerate(
        zip(FILTERS, KERNELS, STRIDES, PADS, GROUPS, strict=True), 1
    ):
        inputs = [current, weight(f"conv{number}_w_0", filters, channels // groups, kernel, kernel)]
        inputs.append(weight(f"conv{number}_b_0", filters))
        settings = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4, "group": groups}
        nodes.append(helper.make_node("Conv", inputs, [f"conv{number}_1"], **settings))
        nodes.append(helper.make_node("Relu", [f"conv{number}_1"], [f"relu{number}"]))
        current, channels = f"relu{number}", filters
        after = {1: ["LRN", "MaxPool"], 2: ["LRN", "MaxPool"], 5: ["MaxPool"]}.get(number, [])
        for op in after if norm_first else after[::-1]:
            output = f"{op}{number}"
            if op == "LRN":
                nodes.append(helper.make_node(op, [current], [output], **{**LRN, **changes.get("lrn", {})}))
            else:
                rounded = {"pads": [0, 0, 1, 1]} if pool == "pads" else {"ceil_mode": 1} if pool == "ceil" else {}
                nodes.append(helper.make_node(op, [current], [output], kernel_shape=[3, 3], strides=[2, 2], **rounded))
            current = output
    initializers.append(numpy_helper.from_array(np.array([-1, FILTERS[-1] * 36], np.int64), "shape"))
    nodes.append(helper.make_node("Reshape", [current, "shape"], ["flat"]))
    current, width = "flat", FILTERS[-1] * 36
    for number, units in ((6, UNITS[0]), (7, UNITS[1]), (8, CLASSES)):
        inputs = [current, weight(f"fc{number}_w_0", units, width), weight(f"fc{number}_b_0", units)]
        nodes.append(helper.make_node("Gemm", inputs, [f"fc{number}_1"], transB=1))
        current, width = f"fc{number}_1", units
        if number < 8:
            nodes.append(helper.make_node("Relu", [current], [f"relu{number}"]))
            nodes.append(
                helper.make_node(
                    "Dropout", [f"relu{number}"], [f"drop{number}"], **({"ratio": 0.5} if opset < 12 else {})
                )
            )
            current = f"drop{number}"
    nodes.append(helper.make_node("Softmax", [current], ["prob_1"], axis=1))
    side = changes.get("side", 224)
    also_inputs = initializers if opset < 9 else []
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("data_0", kind, ["n", 3, side, side])]
        + [helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims) for tensor in also_inputs],
        [helper.make_tensor_value_info("prob_1", kind, ["n", CLASSES])], initializers,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], producer_name="onnx-caffe2")
    model.ir_version = 4 if opset >= 9 else 3
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    return path, model


def theirs(path, images, name):
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return torch.tensor(session.run(None, {name: images.numpy()})[0])


def photographs(count, side):
    from sklearn.datasets import load_sample_images

    whole = [torch.tensor(image).permute(2, 0, 1).float() for image in load_sample_images().images]
    parts = [image[:, y : y + side, x : x + side] for image in whole for y in (0, 150) for x in (0, 200, 400)]
    return torch.stack(parts[:count])


@pytest.mark.parametrize("pool", ["pads", "ceil"])
@pytest.mark.parametrize("opset", [7, 9, 12])
def test_a_file_as_in_the_model_zoo(tmp_path, opset, pool):
    if pool == "ceil" and opset < 10:
        pytest.skip("ceil_mode came with opset 10")
    path, _ = zoo_like(tmp_path, opset=opset, pool=pool)
    network, report = convert_file(path, variant="bvlc-alexnet")
    images = photographs(4, 224) - 110  # as the file takes them: BGR
    found = torch.softmax(network(images.flip(1)), 1)
    wanted = theirs(path, images, "data_0")
    assert wanted.std() > 1e-3
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    assert torch.equal(found.topk(5).indices, wanted.topk(5).indices)
    assert network.image_size == 224
    assert network.architecture.pool_ceil_mode
    assert (network.architecture.lrn_alpha, network.architecture.lrn_convention) == (pytest.approx(1e-2), "mean")
    said = " ".join((*report.notes, *report.assumptions))
    assert "BGR" in said
    assert "softmax" in said


def test_the_order_of_operations_decides_the_variant(tmp_path):
    path, _ = zoo_like(tmp_path, norm_first=False)
    assert convert_file(path)[1].variant == "caffenet"
    path, _ = zoo_like(tmp_path)
    assert convert_file(path)[1].variant == "bvlc-alexnet"


@pytest.mark.parametrize(
    ("numbers", "dtype"),
    [("list", np.float32), ("raw", np.float16), ("list", np.float16), ("raw", np.float64), ("list", np.float64)],
)
def test_every_form_of_numbers(tmp_path, numbers, dtype):
    wanted, _ = zoo_like(tmp_path)
    exact = {layer.name: layer for layer in onnx_files.read(wanted, ReadOptions()).layers}
    path, _ = zoo_like(tmp_path, numbers=numbers, dtype=dtype)
    weights = onnx_files.read(path, ReadOptions())
    assert isinstance(weights, ForeignWeights)
    for layer in weights.layers:
        assert layer.weight.dtype == torch.float32
        tolerance = 2e-3 if dtype is np.float16 else 0
        torch.testing.assert_close(
            layer.weight, exact[layer.name].weight, rtol=tolerance, atol=1e-4 if tolerance else 0
        )


@pytest.mark.parametrize("dynamo", [True, False])
def test_torchvision_as_pytorch_exports_it(tmp_path, narrow_torchvision, dynamo):
    if dynamo:
        pytest.importorskip("onnxscript")
    network = narrow_torchvision(CLASSES)
    path = tmp_path / "net.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = {"external_data": False, "verbose": False} if dynamo else {"dynamic_axes": {"x": {0: "n"}}}
        torch.onnx.export(network, (torch.zeros(2, 3, 224, 224),), path, dynamo=dynamo, input_names=["x"], **settings)
    found, report = convert_file(path)
    assert report.variant == "torchvision"
    images = photographs(2, 224) / 100 - 1
    with torch.inference_mode():
        torch.testing.assert_close(found(images), network(images), rtol=0, atol=1e-4)
        torch.testing.assert_close(found(images), theirs(path, images, "x"), rtol=0, atol=1e-4)
    assert found.preprocessing.crop == 224


def test_batch_normalization_and_other_paddings(tmp_path, narrow_network):
    """The graph of a Keras variant, without what this program states in the metadata."""
    pytest.importorskip("onnxscript")
    from alexnet.weights.export import ExportOptions
    from alexnet.weights.exporters import onnx as exporter

    network = narrow_network("keras", batch_norm_eps=2e-3)
    path = tmp_path / "net.onnx"
    path.write_bytes(exporter.graph_of(network, ExportOptions()).SerializeToString())
    found, report = convert_file(path)
    assert report.variant == "keras"
    assert found.architecture.batch_norm_eps == pytest.approx(2e-3)
    images = photographs(2, 224) / 100 - 1
    with torch.inference_mode():
        torch.testing.assert_close(found(images), network(images), rtol=0, atol=1e-4)
        torch.testing.assert_close(found(images), theirs(path, images, "images"), rtol=0, atol=1e-4)


def test_weights_in_a_second_file(tmp_path):
    path, model = zoo_like(tmp_path)
    wanted = onnx_files.read(path, ReadOptions()).layers
    apart = tmp_path / "apart"
    apart.mkdir()
    path = apart / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    found = onnx_files.read(path, ReadOptions()).layers
    assert all(torch.equal(one.weight, other.weight) for one, other in zip(found, wanted, strict=True))
    (apart / "weights.bin").rename(tmp_path / "elsewhere.bin")
    with pytest.raises(UserError, match=r"keeps its weights in a second file, weights\.bin, which is not beside it"):
        onnx_files.read(path, ReadOptions())
    (apart / "weights.bin").write_bytes(b"short")
    with pytest.raises(UserError, match="is no complete ONNX file"):
        onnx_files.read(path, ReadOptions())


@pytest.mark.parametrize("location", ["../model.onnx", "/etc/passwd", "..", "", "a/b", "x" * 300])
def test_a_second_file_in_another_folder_is_not_opened(tmp_path, location):
    path, model = zoo_like(tmp_path)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match="only a file in the same folder is read"):
        onnx_files.read(path, ReadOptions())


def test_one_region_of_a_second_file_is_not_read_many_times(tmp_path):
    path, model = zoo_like(tmp_path)
    (tmp_path / "one.bin").write_bytes(bytes(4 * 64 * FILTERS[-1] * 36))
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="one.bin")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match="is no complete ONNX file"):
        onnx_files.read(path, ReadOptions())


def changed(tmp_path, change):
    path, model = zoo_like(tmp_path)
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def node_of(model, op, place=0):
    return [node for node in model.graph.node if node.op_type == op][place]


def set_attribute(node, name, value):
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


REFUSALS = {
    "another operation": (lambda m: setattr(node_of(m, "Relu"), "op_type", "Elu"), "it has the operation Elu"),
    "another domain": (lambda m: setattr(node_of(m, "Relu"), "domain", "com.x"), "it has the operation com.x.Relu"),
    "other LRN": (lambda m: set_attribute(node_of(m, "LRN", 1), "alpha", 0.5), "lrn layers have different settings"),
    "huge LRN": (
        lambda m: [set_attribute(node_of(m, "LRN", place), "size", 1 << 40) for place in (0, 1)],
        "lrn with size = 1099511627776",
    ),
    "no stride": (lambda m: set_attribute(node_of(m, "Conv"), "strides", [0, 0]), "a Conv has the settings"),
    "oblong windows": (lambda m: set_attribute(node_of(m, "MaxPool"), "kernel_shape", [3, 2]), "no squares"),
    "dilation": (lambda m: set_attribute(node_of(m, "Conv", 2), "dilations", [2, 2]), "have holes"),
    "odd padding": (lambda m: set_attribute(node_of(m, "Conv", 2), "pads", [0, 1, 2, 3]), "padding 0, 1, 2, 3"),
    "pools differ": (lambda m: set_attribute(node_of(m, "MaxPool"), "pads", [0, 0, 0, 0]), "in different ways"),
    "weights missing": (lambda m: m.graph.initializer.pop(0), "no complete ONNX file"),
    "two of a name": (lambda m: m.graph.initializer.append(m.graph.initializer[0]), "no complete ONNX file"),
    "shape and bytes": (lambda m: m.graph.initializer[0].dims.__setitem__(0, 1 << 40), "no complete ONNX file"),
    "negative shape": (lambda m: m.graph.initializer[0].dims.__setitem__(0, -1), "no complete ONNX file"),
    "int8": (lambda m: m.graph.node.insert(0, helper.make_node("QuantizeLinear", ["a"], ["b"])), "holds int8 weights"),
    "two images": (
        lambda m: m.graph.input.append(helper.make_tensor_value_info("other", 1, [1])), "2 inputs besides its weights"
    ),
    "another output": (lambda m: setattr(m.graph.output[0], "name", "fc7_1"), "is not that of its last layer"),
    "no graph": (lambda m: m.ClearField("graph"), "no complete ONNX file"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_say_what_is_wrong(tmp_path, name):
    change, message = REFUSALS[name]
    with pytest.raises(UserError, match=message):
        convert_file(changed(tmp_path, change), variant="bvlc-alexnet")


def test_weights_that_are_not_finite_are_refused(tmp_path):
    path, _ = zoo_like(tmp_path, dtype=np.float64)
    model = onnx.load(path)
    array = numpy_helper.to_array(model.graph.initializer[0]).copy()
    array.flat[5] = 1e300
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(array, model.graph.initializer[0].name))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match="not finite"):
        convert_file(path, variant="bvlc-alexnet")


def test_files_are_recognised_by_their_beginning(tmp_path):
    path, _ = zoo_like(tmp_path)
    other = path.rename(tmp_path / "weights.bin")
    assert read_weights(other).format == "ONNX"
    for junk in (b"", b"x", b"\x08", b"\x08\x07\x12", b"{}", b"\x7fELF"):
        (tmp_path / "junk.onnx").write_bytes(junk)
        with pytest.raises(UserError, match="is no complete ONNX file" if junk else "is empty"):
            convert_file(tmp_path / "junk.onnx")


def small_file(tmp_path, narrow_network, kind):
    if kind == "foreign":
        return zoo_like(tmp_path)[0].read_bytes()
    pytest.importorskip("onnxscript")
    from alexnet.weights.export import ExportOptions
    from alexnet.weights.exporters import onnx as exporter

    path = tmp_path / "own.onnx"
    exporter.write(narrow_network("small", in_channels=1), path, ExportOptions())
    return path.read_bytes()


def mutated(data, draws):
    """The file with a few bytes changed, a part removed, doubled or replaced; half of the changes hit no weights."""
    found = bytearray(data)
    for _ in range(draws.integers(1, 4)):
        kind, length = draws.integers(5), int(draws.integers(1, 64))
        place = int(draws.integers(len(found)))
        if draws.random() < 0.5:
            place = int(draws.choice(TEXT_PLACES[id(data)])) % len(found)
        if kind == 0:
            found[place] = int(draws.integers(256))
        elif kind == 1:
            del found[place : place + length]
        elif kind == 2:
            found[place:place] = found[place : place + length]
        elif kind == 3:
            found[place : place + length] = draws.integers(0, 256, length, np.uint8).tobytes()
        else:
            found[place] ^= 1 << int(draws.integers(8))
        if not found:
            return bytes(found)
    return bytes(found) if draws.random() > 0.05 else bytes(found[: int(draws.integers(len(found)))])


TEXT_PLACES = {}


def places_of(data):
    """Positions near names, shapes and settings: those of the file without long runs of weights."""
    model = onnx.load_from_string(data)
    places = []
    for tensor in model.graph.initializer:
        start = data.find(tensor.name.encode())
        places += range(max(0, start - 40), start + 40)
    for node in model.graph.node:
        for text in (node.op_type, *node.input, *(attribute.name for attribute in node.attribute)):
            start = data.find(text.encode())
            places += range(max(0, start - 10), start + 20)
    for entry in model.metadata_props:
        start = data.find(entry.key.encode())
        places += range(max(0, start - 5), start + min(300, len(entry.value)))
    return np.array([place for place in places if 0 <= place < len(data)])


def run_mutations(data, path, count, seed):
    """Refusals and networks of ``count`` changed files; asserts on each, and on time and memory."""
    TEXT_PLACES[id(data)] = places_of(data)
    draws, refused, slowest = np.random.default_rng(seed), 0, 0.0
    for number in range(count):
        path.write_bytes(mutated(data, draws))
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
        try:
            network, _ = convert_file(path)
        except UserError as error:
            refused += 1
            assert "\n" not in error.line
        else:
            assert all(parameter.isfinite().all() for parameter in network.parameters())
            if number % 10 == 0 and network.image_size <= 512:
                images = torch.zeros(1, network.in_channels, network.image_size, network.image_size)
                with torch.inference_mode():
                    assert network(images).shape == (1, network.num_classes)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
        assert grown <= 4 * len(data) + (64 << 20), f"change {number} of seed {seed}"
        slowest = max(slowest, time.monotonic() - start)
    assert slowest < 10
    return refused


@pytest.mark.parametrize("kind", ["foreign", "own"])
def test_changed_files_are_refused_or_give_a_finite_network(tmp_path, narrow_network, kind):
    refused = run_mutations(small_file(tmp_path, narrow_network, kind), tmp_path / "changed.onnx", 200, 0)
    assert 20 < refused < 200
