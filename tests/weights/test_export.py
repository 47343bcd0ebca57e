"""Every variant in every format: the other side computes the same from photographs, or there is a reason."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import alexnet
from alexnet.cli.main import COMMANDS, main
from alexnet.config import Preprocessing
from alexnet.core.errors import UserError
from alexnet.models.bundle import save_model
from alexnet.models.registry import create_model, list_models
from alexnet.runtime.log import NullReporter
from alexnet.training.sample_images import PHOTOGRAPHS, sample_images
from alexnet.weights import export
from alexnet.weights.convert import convert_file
from alexnet.weights.export import (
    EXPORTERS,
    ExportOptions,
    compare_logits,
    export_and_report,
    get_exporter,
    preprocess,
)  # fmt: skip
from alexnet.weights.exporters import onnx as onnx_exporter
from alexnet.weights.exporters.common import PixelNetwork
from alexnet_lab.export_table import WORKS, export_reasons, export_table

NEEDS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "caffe": ("cv2",)}
ELSEWHERE = ("torchvision", "keras")  # fixed widths; test_export_keras.py has every variant in one process


@pytest.fixture(scope="module")
def narrow(lively):
    def build(name, **settings):
        if not name.startswith("cifar-") and name != "lenet5":
            settings.setdefault("width", 0.1)
        return lively(create_model(name, num_classes=7, seed=1, **settings))

    return build


def photographs(model, count=64):
    return sample_images(model, None, None, count, 0, None, NullReporter())


@pytest.fixture(scope="module")
def reasons():
    return export_reasons()


@pytest.mark.slow
@pytest.mark.parametrize("file_format", [name for name in EXPORTERS if name not in ELSEWHERE])
@pytest.mark.parametrize("name", list_models())
def test_every_variant_in_every_format(name, file_format, reasons, narrow, tmp_path, one_thread):
    for module in NEEDS.get(file_format, ()):
        pytest.importorskip(module)
    model = narrow(name)
    path = tmp_path / f"net{get_exporter(file_format).SUFFIX}"
    if reasons[name][file_format] != WORKS:
        with pytest.raises(UserError, match=f"{name} cannot be exported to {file_format}: "):
            export_and_report(model, file_format, path, ExportOptions(), photographs(model))
        assert list(tmp_path.iterdir()) == []
        return
    exported = export_and_report(model, file_format, path, ExportOptions(), photographs(model, 8))
    check = exported.check
    assert not check.not_checked
    assert check.failure == ""
    if check.images:
        assert check.images >= 8
        assert check.difference <= 1e-5
        assert check.same_top5 == 1
    written = json.loads(exported.report.read_text())
    assert written["passed"]
    assert written["difference"] == check.difference
    assert all(file.parent == tmp_path for file in exported.files)


def test_the_table_has_a_row_for_each_variant_and_every_reason(reasons):
    text = export_table(reasons)
    assert [name for name, row in reasons.items() if row["torchvision"] == WORKS] == ["torchvision"]
    assert all(row["onnx"] == row["torch"] == row["safetensors"] == WORKS for row in reasons.values())
    for name in list_models():
        assert f"| `{name}` |" in text
    assert text.count("\n1. ") == 1
    assert all(name in COMMANDS["export"].help + _help() for name in EXPORTERS)


def test_the_page_has_the_table(reasons):
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    assert page.partition("<!-- export table: begin -->\n")[2].partition("\n<!-- export table: end -->")[
        0
    ] == export_table(reasons)


def _help():
    shown = []
    COMMANDS["export"].arguments(lambda *names, **settings: shown.append(settings.get("help", "")))
    return " ".join(shown)


@pytest.mark.slow
def test_torchvision_loads_the_file_strictly(tmp_path, lively):
    model = lively(create_model("torchvision", num_classes=7, seed=1))
    check = export_and_report(model, "torchvision", tmp_path / "net.pth", ExportOptions(), photographs(model)).check
    assert check.failure == ""
    assert check.difference <= 1e-5
    exporter = get_exporter("torchvision")
    assert "other settings" in exporter.why_not(create_model("torchvision", seed=0, activation="tanh"), ExportOptions())


def test_torchvision_takes_only_its_own_network(narrow):
    exporter = get_exporter("torchvision")
    assert "other layers: conv1.weight" in exporter.why_not(narrow("torchvision"), ExportOptions())
    assert "3 channels, this one 1" in exporter.why_not(narrow("d2l"), ExportOptions())
    assert "fp32" in exporter.why_not(narrow("torchvision"), ExportOptions(int8=True))
    assert "preprocessing" in exporter.why_not(narrow("torchvision"), ExportOptions(pixels=True))


def settings_of(kind):
    """A preprocessing that crops, normalizes and resizes, and its mean image."""
    mean_image = torch.rand(96, 96, 3, generator=torch.Generator().manual_seed(0)) * 255
    channel = ("channel", (123.0, 117.0, 104.0), (58.0, 57.0, 56.0))
    return {
        "crop": (Preprocessing(3, 96, 80, 80, *channel), None),
        "smaller": (Preprocessing(3, 130, 115, 80, *channel), None),
        "larger": (Preprocessing(3, 28, 28, 80, *channel), None),
        "odd": (Preprocessing(3, 97, 80, 80, *channel), None),
        "beyond": (Preprocessing(3, 72, 80, 80, *channel), None),
        "mean image": (Preprocessing(3, 96, 81, 80, "mean-image"), mean_image),
        "its centre": (Preprocessing(3, 96, 80, 80, "mean-image-centre"), mean_image),
    }[kind]


@pytest.mark.parametrize("kind", ["crop", "smaller", "larger", "odd", "beyond", "mean image", "its centre"])
def test_the_preprocessing_inside_a_file_is_that_of_predictions(kind, narrow):
    from dataclasses import replace

    model = narrow("d2l", in_channels=3, image_size=80)
    preprocessing, mean_image = settings_of(kind)
    model.info = replace(model.info, preprocessing=preprocessing, mean_image=mean_image)
    pixels = photographs(model).pixels
    inputs = preprocess(model, pixels)
    network = PixelNetwork(model)
    network.model = torch.nn.Identity()
    seen = network(pixels)
    assert seen.shape == inputs.shape == (20, 3, 80, 80)
    torch.testing.assert_close(seen, inputs, rtol=0, atol=2e-4 * float(inputs.abs().max()) / 255)


@pytest.mark.parametrize("file_format", ["onnx", "torch"])
def test_files_take_stored_images(file_format, narrow, tmp_path):
    from dataclasses import replace

    model = narrow("small")
    settings = Preprocessing(1, 40, 32, 28, "channel", (100.0,), (60.0,))
    model.info = replace(model.info, preprocessing=settings)
    path = tmp_path / f"net{get_exporter(file_format).SUFFIX}"
    check = export_and_report(model, file_format, path, ExportOptions(pixels=True), photographs(model)).check
    assert (check.failure, check.same_top5) == ("", 1)


def test_onnx_is_one_file_with_a_dynamic_batch_and_says_what_it_is(narrow, tmp_path):
    import onnx
    import onnxruntime

    model = narrow("bvlc-alexnet")
    path = tmp_path / "net.onnx"
    export_and_report(model, "onnx", path, ExportOptions(), photographs(model))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net.onnx", "net.onnx.check.json"]
    proto = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(proto, full_check=True)
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert all(opset.version >= 18 for opset in proto.opset_import if opset.domain == "")
    entries = {entry.key: entry.value for entry in proto.metadata_props}
    assert entries["alexnet.variant"] == "bvlc-alexnet"
    assert json.loads(entries["alexnet.labels"]) == list(model.labels)
    assert json.loads(entries["alexnet.preprocessing"])["image_size"] == model.image_size
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    for images in (1, 2, 7):
        x = np.zeros((images, 3, model.image_size, model.image_size), np.float32)
        assert session.run(None, {"images": x})[0].shape == (images, 7)


def test_a_batch_that_the_exporter_fixed_is_noticed(narrow, monkeypatch):
    class Fixed(torch.nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, images):
            return self.network(images.reshape(2, *images.shape[1:]))

    fixed = Fixed(narrow("small"))
    fixed.image_size, fixed.in_channels = 28, 1
    monkeypatch.setattr(onnx_exporter, "for_export", lambda model: fixed)
    with pytest.raises((RuntimeError, torch.onnx.errors.OnnxExporterError)):
        onnx_exporter.graph_of(narrow("small"), ExportOptions())


def test_openvino_reads_the_onnx(narrow, tmp_path):
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install openvino")
    model = narrow("paper")
    images = photographs(model)
    path = tmp_path / "net.onnx"
    export_and_report(model, "onnx", path, ExportOptions(), images)
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    x = preprocess(model, images.pixels)
    theirs = torch.from_numpy(np.array(compiled({0: x.numpy()})[0]))
    check = compare_logits(export.logits(model, x), theirs)
    assert check.difference <= 1e-5
    assert check.same_top5 == 1


@pytest.mark.parametrize("suffix", ["onnx", "safetensors"])
@pytest.mark.parametrize("name", ["paper", "cuda-convnet", "torchvision", "keras", "small"])
def test_an_exported_file_can_be_converted_back(name, suffix, narrow, tmp_path):
    from dataclasses import replace

    model = narrow(name, pool_ceil_mode=name != "small")
    names = tuple(f"class {number}" for number in range(7))
    model.info = replace(model.info, classes=names, labels=names[::-1])
    path = tmp_path / f"net.{suffix}"
    get_exporter(suffix).write(model, path, ExportOptions())
    found, report = convert_file(path)
    assert report.variant == name
    assert report.assumptions == ()
    assert found.architecture == model.architecture
    assert (found.classes, found.labels, found.preprocessing) == (model.classes, model.labels, model.preprocessing)
    for key, tensor in model.state_dict().items():
        if "num_batches" not in key:
            torch.testing.assert_close(found.state_dict()[key], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("file_format", ["safetensors", "c"])
def test_a_network_in_training_mode_is_exported_as_in_evaluation(file_format, narrow, tmp_path, one_thread):
    model = narrow("small", dropout=0.5).train()
    check = alexnet.export(model, tmp_path / f"net{get_exporter(file_format).SUFFIX}", file_format).check
    assert check.difference <= 1e-5
    assert check.images >= 8
    assert model.training


def test_a_mean_image_travels_with_the_file(narrow, tmp_path):
    from dataclasses import replace

    model = narrow("d2l", in_channels=3, image_size=80)
    preprocessing, mean_image = settings_of("mean image")
    model.info = replace(model.info, preprocessing=preprocessing, mean_image=mean_image)
    for suffix in ("onnx", "safetensors"):
        get_exporter(suffix).write(model, tmp_path / f"net.{suffix}", ExportOptions())
        found, _ = convert_file(tmp_path / f"net.{suffix}")
        assert found.preprocessing == preprocessing
        torch.testing.assert_close(found.mean_image, mean_image, rtol=0, atol=0)


@pytest.fixture
def folder(narrow, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_model(narrow("small"), tmp_path / "digits")
    return tmp_path


def test_the_command_prints_the_figures(folder, capsys):
    assert main(["export", "digits", "--to", "safetensors"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("written to digits.safetensors (")
    assert out[1].startswith("fp32: largest difference ")
    assert out[1].endswith("of the largest logit, same top-5 on 20 of 20 images (safetensors)")
    assert out[2] == f"the images are {PHOTOGRAPHS}"
    assert (folder / "digits.safetensors.check.json").is_file()
    assert main(["export", "digits", "--to", "safetensors", "--json", "--data", "digits"]) == 0
    assert json.loads(capsys.readouterr().out)["check"]["images"] == 64


def test_golden_tensors_are_written_beside(folder, capsys):
    from PIL import Image
    from sklearn.datasets import load_sample_image

    from alexnet.weights.golden import read_golden

    Image.fromarray(load_sample_image("china.jpg")).save(folder / "china.png")
    assert main(["export", "digits", "--to", "safetensors", "--golden", "china.png"]) == 0
    assert "digits.safetensors.golden.npz" in capsys.readouterr().out
    arrays = read_golden(folder / "digits.safetensors.golden.npz").arrays
    model = alexnet.load_model("digits")
    logits = model(alexnet.create_transform(model)("china.png")[None])
    np.testing.assert_allclose(arrays["fc8"], logits.detach().numpy(), atol=1e-5)
    assert main(["export", "digits", "--to", "safetensors", "--golden", "missing.png"]) == 2


def test_an_image_that_cannot_be_read_is_not_called_a_file_that_cannot_be_written(folder, capsys, monkeypatch):
    from PIL import Image

    Image.new("RGB", (8, 8)).save(folder / "photo.png")

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("alexnet.api.sha256_file", refuse)
        assert main(["export", "digits", "--to", "safetensors", "--golden", "photo.png"]) == 2
        assert capsys.readouterr().err.startswith("alexnet: cannot read photo.png: Permission denied")
    assert not (folder / "digits.safetensors").exists()  # it was read before anything was written
    monkeypatch.setattr("alexnet.api.write_golden", lambda *given: refuse("x"))
    assert main(["export", "digits", "--to", "safetensors", "--golden", "photo.png"]) == 2
    assert "cannot write digits.safetensors.golden.npz: Permission denied; give" in capsys.readouterr().err


def test_a_write_that_fails_keeps_the_earlier_export_and_the_next_one_replaces_it(folder, capsys, monkeypatch):
    assert main(["export", "digits", "--to", "c", "--out", "net.c"]) == 0
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}

    def refuse(*given):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("alexnet.weights.exporters.c.write_text", refuse)
        assert main(["export", "digits", "--to", "c", "--out", "net.c"]) == 2
    assert "cannot write net.c: No space left on device; give another file with --out" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    assert main(["export", "digits", "--to", "c", "--out", "net.c"]) == 0
    assert json.loads(before["net.c.check.json"])["finished"] is True


def test_an_export_whose_check_could_not_run_is_replaced_by_the_next_one(folder, capsys, monkeypatch):
    exporter = get_exporter("safetensors")

    def fail(paths, images):
        raise UserError("the other side fails")

    with monkeypatch.context() as patch:
        patch.setattr(exporter, "outputs", fail)
        assert main(["export", "digits", "--to", "safetensors"]) == 2
    report = json.loads((folder / "digits.safetensors.check.json").read_text())
    assert (report["finished"], report["passed"]) == (False, False)
    assert main(["export", "digits", "--to", "safetensors"]) == 0


def test_a_check_that_fails_is_an_error_and_the_file_is_kept(folder, capsys, monkeypatch):
    exporter = get_exporter("safetensors")
    real = exporter.outputs
    monkeypatch.setattr(exporter, "outputs", lambda paths, images: real(paths, images) * 1.001)
    assert main(["export", "digits", "--to", "safetensors", "--out", "net.safetensors"]) == 2
    error = capsys.readouterr().err.splitlines()
    assert error[0].endswith(
        "net.safetensors does not agree with the model: the largest difference is above 1e-05 of the largest logit; "
        "the file is kept, but do not use it"
    )
    assert (folder / "net.safetensors").is_file()
    assert json.loads((folder / "net.safetensors.check.json").read_text())["passed"] is False


def test_without_the_runtime_the_file_is_written_and_called_not_checked(folder, capsys, monkeypatch):
    real = onnx_exporter.importlib.util.find_spec
    monkeypatch.setattr(
        onnx_exporter.importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else real(name)
    )
    assert main(["export", "digits", "--to", "onnx"]) == 0
    assert "not checked: onnxruntime is not installed (pip install 'alexnet[onnx]')" in capsys.readouterr().out
    assert json.loads((folder / "digits.onnx.check.json").read_text())["checked"] is False
    assert main(["export", "digits", "--to", "onnx", "--int8"]) == 2
    assert "pip install 'alexnet[onnx]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to", "onxn"], "did you mean 'onnx'"),
        (["--to", "torch", "--int8"], "fp32 only; leave out --int8"),
        (["--to", "torch", "--out", "."], "is a folder"),
        (["--to", "torch", "--data", "missing"], "missing"),
    ],
)
def test_mistakes_cost_one_line(folder, capsys, words, message):
    assert main(["export", "digits", *words]) == 2
    captured = capsys.readouterr()
    assert message in captured.err.splitlines()[0]
    assert captured.out == ""


@pytest.mark.parametrize(("to", "file", "out"), [
    ("safetensors", "cat.jpg", "cat.jpg"), ("caffe", "mine.prototxt", "mine.caffemodel"), ("c", "mine.h", "mine.c"),
])  # fmt: skip
def test_files_of_the_user_are_not_replaced(folder, capsys, to, file, out):
    (folder / file).write_text("mine")
    assert main(["export", "digits", "--to", to, "--out", out]) == 2
    assert f"{file} exists and is not of an earlier export: give another file with --out" in capsys.readouterr().err
    assert (folder / file).read_text() == "mine"


def test_a_file_of_an_earlier_export_is_replaced(folder):
    for _ in range(2):
        assert main(["export", "digits", "--to", "safetensors", "--out", "again.safetensors"]) == 0


def test_the_model_itself_is_not_overwritten(folder):
    assert main(["export", "digits", "--to", "safetensors"]) == 0
    before = (folder / "digits.safetensors").read_bytes()
    with pytest.raises(UserError, match="is the model itself"):
        alexnet.export(folder / "digits.safetensors", format="safetensors")
    assert (folder / "digits.safetensors").read_bytes() == before


def test_images_of_the_user(folder, narrow):
    from PIL import Image
    from sklearn.datasets import load_sample_images

    model = narrow("small")
    (folder / "own").mkdir()
    for number, photograph in enumerate(load_sample_images().images):
        Image.fromarray(photograph).save(folder / "own" / f"{number}.png")
    images = sample_images(model, None, str(folder / "own"), 64, 0, None, NullReporter())
    assert images.pixels.shape == (18, 28, 28, 1)
    one = sample_images(model, None, str(folder / "own" / "0.png"), 64, 0, None, NullReporter())
    assert len(one.pixels) >= 8
    assert torch.equal(one.pixels[0], images.pixels[0])
    assert one.source.endswith("0.png and their mirror images")
    digits = sample_images(model, None, "digits", 50, 30, None, NullReporter())
    assert (len(digits.pixels), len(digits.calibration)) == (50, 30)


def test_int8_needs_ranges_and_keeps_answers(narrow, tmp_path):
    import onnx

    model = narrow("small")
    images = photographs(model)
    path = tmp_path / "net.onnx"
    check = export_and_report(model, "onnx", path, ExportOptions(int8=True), images).check
    assert check.precision == "int8"
    assert 0 < check.difference < 0.5
    proto = onnx.load(path)
    ops = [node.op_type for node in proto.graph.node]
    assert ops.count("DequantizeLinear") >= 8
    weights = {
        tensor.name: tensor for tensor in proto.graph.initializer if tensor.data_type == 3 and len(tensor.dims) > 1
    }
    assert len(weights) == 8
    assert path.stat().st_size < 4 * sum(parameter.numel() for parameter in model.parameters())
    with pytest.raises(UserError, match="holds int8 weights"):
        convert_file(path)


def test_the_comparison_notices_what_differs():
    ours = torch.tensor([[3.0, 2.0, 1.0], [0.0, 5.0, 1.0]])
    assert compare_logits(ours, ours.clone()).difference == 0
    changed = ours.clone()
    changed[0] = torch.tensor([2.0, 3.0, 1.0])
    check = compare_logits(ours, changed)
    assert (check.same_top1, check.same_top5) == (0.5, 0.5)
    assert check.difference == pytest.approx(0.2)
    with pytest.raises(UserError, match="shape"):
        compare_logits(ours, ours[:, :2])


def test_entries_that_were_changed_are_refused(narrow):
    from alexnet.weights.metadata import describe, parse

    entries = describe(narrow("paper"))
    assert parse(entries, "net") is not None
    assert parse({}, "net") is None
    for key, value in (
        ("alexnet.classes", "[1]"),
        ("alexnet.classes", '["one"]'),
        ("alexnet.image_size", "1e9"),
        ("alexnet.image_size", "5"),
        ("alexnet.architecture", '{"convs": 5}'),
        ("alexnet.preprocessing", "[" * 100_000),
        ("alexnet.architecture", entries["alexnet.architecture"].replace('"lrn_size"', '"lrn_sise"')),
        ("alexnet.preprocessing", entries["alexnet.preprocessing"].replace("[255.0", "[0.0")),
    ):
        with pytest.raises(UserError, match="what it states about the network is damaged"):
            parse({**entries, key: value}, "net")
