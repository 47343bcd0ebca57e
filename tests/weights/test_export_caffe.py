"""Networks as Caffe's files: OpenCV computes the same from them, for every variant that Caffe can express."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import nn

from alexnet.api import create_transform
from alexnet.config import Preprocessing
from alexnet.core.errors import UserError
from alexnet.models.alexnet import architecture_of
from alexnet.models.registry import create_model, get_architecture, list_models
from alexnet.weights import caffe as caffe_in
from alexnet.weights.caffe_blobs import DESCRIPTION, read_blob
from alexnet.weights.convert import convert_file
from alexnet.weights.export import ExportOptions, NotInstalledError, export_model, logits
from alexnet.weights.exporters import caffe
from alexnet.weights.imagenet import ilsvrc_mean_image
from alexnet.weights.protobuf import field, fields, message

CLASSES = 20
LOCAL = ("cifar-13pct", "cifar-11pct")  # with locally connected layers
IMAGENET = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def lively(name, **settings):
    """A narrow network in which every layer responds: He's weights, and batch norms that change what they get."""
    if not name.startswith("cifar-") and name != "lenet5":
        settings.setdefault("width", 0.1)
    model = create_model(name, num_classes=CLASSES, seed=1, **settings).eval()
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, generator=draws)
                module.bias.normal_(0, 0.1, generator=draws)
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3, generator=draws)
                module.running_var.uniform_(0.5, 2, generator=draws)
                module.weight.uniform_(0.5, 1.5, generator=draws)
                module.bias.normal_(0, 0.1, generator=draws)
    return model


@pytest.mark.parametrize("name", [name for name in list_models() if name not in LOCAL])
def test_opencv_computes_the_same(tmp_path, name, photographs):
    pytest.importorskip("cv2")
    model = lively(name)
    images = photographs(model)
    files, check = export_model(model, "caffe", tmp_path / "net.caffemodel", ExportOptions(), images)
    assert [file.suffix for file in files] == [".caffemodel", ".prototxt"]
    assert check.not_checked == ""
    assert check.difference <= 1e-5
    assert check.same_top1 == check.same_top5 == 1
    assert logits(model, images).std(dim=0).min() > 0


def test_what_caffe_cannot_express(tmp_path):
    for name in LOCAL:
        with pytest.raises(UserError, match=r"cannot be exported to caffe: Caffe has no layer like local3"):
            export_model(lively(name), "caffe", tmp_path / "net.caffemodel", ExportOptions(), torch.zeros(1))
    assert "adaptive" in caffe.why_not(lively("torchvision", image_size=300), ExportOptions())
    assert "odd size" in caffe.why_not(lively("paper", lrn_size=4), ExportOptions())
    assert "2 channels" in caffe.why_not(lively("paper", in_channels=2), ExportOptions())
    assert "int8" in caffe.why_not(lively("paper"), ExportOptions(int8=True))
    assert "crops" in caffe.why_not(lively("paper"), ExportOptions(pixels=True))
    assert list(tmp_path.iterdir()) == []


NORMALIZATIONS = {
    "mean-image": Preprocessing(3, 256, 227, 227, "mean-image", (), (), "warp"),
    "channel": Preprocessing(3, 256, 227, 227, "channel", *IMAGENET),
    "unit": Preprocessing(3, 256, 227, 227, "unit", (0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
}


@pytest.mark.parametrize("kind", NORMALIZATIONS)
def test_the_input_is_what_the_prototxt_says(tmp_path, kind, photographs):
    """Someone who knows Caffe only: BGR pixels from 0 to 255 minus the mean in the file, with OpenCV alone."""
    cv2 = pytest.importorskip("cv2")
    model = lively("bvlc-alexnet")
    mean_image = ilsvrc_mean_image() if kind == "mean-image" else None
    model.info = replace(model.info, preprocessing=NORMALIZATIONS[kind], mean_image=mean_image)
    images = photographs(model)
    files, check = export_model(model, "caffe", tmp_path / "net.caffemodel", ExportOptions(), images)
    assert check.difference <= 1e-5
    text = files[1].read_text(encoding="utf-8")
    assert "# Input: BGR pixels from 0 to 255 minus the mean" in text
    if mean_image is None:
        mean = np.array([float(line.split(":")[1]) for line in text.splitlines() if "mean_value" in line])
    else:
        mean = read_blob(memoryview(files[2].read_bytes()))[0].transpose(1, 2, 0)[14:241, 14:241]
    image = Image.fromarray(load_sample_images().images[0]).resize((256, 256))
    model.info = replace(model.info, preprocessing=replace(model.preprocessing, resize="short-side"))
    wanted = logits(model, create_transform(model)(image)[None])[0].numpy()
    bgr = np.asarray(image)[14:241, 14:241, ::-1]
    net = cv2.dnn.readNetFromCaffe(str(files[1]), str(files[0]))
    net.setInput(np.ascontiguousarray((bgr - mean).astype(np.float32).transpose(2, 0, 1)[None]))
    assert np.abs(net.forward("fc8")[0] - wanted).max() <= 1e-5 * np.abs(wanted).max()


def without_description(path, target):
    """The file as Caffe writes it when it trains on: without the field that it does not know."""
    kept = [field(number, value) for number, _, value in fields(memoryview(path.read_bytes())) if number != DESCRIPTION]
    target.write_bytes(b"".join(message(kept)))
    return target


def export(model, path):
    caffe.write(model, path, ExportOptions())
    return path


@pytest.mark.parametrize("name", [name for name in list_models() if get_architecture(name) is not None])
def test_there_and_back_is_the_same(tmp_path, name, photographs):
    model = lively(name)
    model.info = replace(model.info, labels=tuple(f"label {number}" for number in range(CLASSES)))
    back, report = convert_file(export(model, tmp_path / "net.caffemodel"))
    assert back.variant == name
    assert architecture_of(back) == architecture_of(model)
    assert back.preprocessing == model.preprocessing
    assert (back.classes, back.labels) == (model.classes, model.labels)
    assert report.assumptions == ()
    assert back.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, back.state_dict()[key]) for key, tensor in model.state_dict().items())
    images = photographs(model)[:2]
    assert torch.equal(logits(back, images), logits(model, images))


OTHERS = [name for name in list_models() if get_architecture(name) is None and name not in LOCAL]


@pytest.mark.parametrize("name", OTHERS)
def test_networks_that_are_no_alexnet_are_refused_when_read(tmp_path, name):
    with pytest.raises(UserError, match=f"{name} is no AlexNet: its weights can only be read from a folder"):
        convert_file(export(lively(name), tmp_path / "net.caffemodel"))


@pytest.mark.parametrize("kind", NORMALIZATIONS)
@pytest.mark.parametrize("has_description", [True, False])
def test_the_preprocessing_comes_back(tmp_path, kind, has_description, photographs):
    """From the description, or from the layers as far as they state it; what is assumed is said."""
    model = lively("bvlc-alexnet")
    mean_image = ilsvrc_mean_image() if kind == "mean-image" else None
    stated = replace(NORMALIZATIONS[kind], resize="warp" if kind == "mean-image" else "short-side")
    model.info = replace(model.info, preprocessing=stated, mean_image=mean_image)
    path = export(model, tmp_path / "net.caffemodel")
    if has_description:
        back, report = convert_file(path)
        assert back.preprocessing == stated
        assert report.assumptions == ()
        assert mean_image is None or torch.equal(back.mean_image, mean_image)
        return
    mean = None if mean_image is None else tmp_path / "net.binaryproto"
    back, report = convert_file(without_description(path, tmp_path / "other.caffemodel"), mean=mean)
    assert back.variant == "bvlc-alexnet"
    assert back.preprocessing.resize == "warp"
    assert [line for line in report.assumptions if "images are warped" in line] == [] if mean else [caffe_in.WARPED]
    assert back.preprocessing.mean == pytest.approx(stated.mean)
    assert back.preprocessing.std == pytest.approx(stated.std, rel=1e-6)
    images = photographs(model)
    torch.testing.assert_close(logits(back, images), logits(model, images), rtol=0, atol=0)


def test_the_users_mean_image_wins(tmp_path):
    model = lively("bvlc-alexnet")
    path = export(model, tmp_path / "net.caffemodel")
    np.save(mean := tmp_path / "mean.npy", np.full((3, 256, 256), 100.0, "f4"))
    back, _ = convert_file(path, mean=mean)
    assert back.preprocessing == NORMALIZATIONS["mean-image"]
    assert back.mean_image.unique().tolist() == [100]


def test_a_damaged_description_is_refused(tmp_path):
    path = export(lively("bvlc-alexnet"), tmp_path / "net.caffemodel")
    path.write_bytes(path.read_bytes().replace(b'"resize_size"', b'"resize_sizf"'))
    with pytest.raises(UserError, match="what it states about the network is damaged"):
        convert_file(path)


def test_without_opencv_the_files_are_not_checked(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    model = lively("bvlc-alexnet")
    files, check = export_model(
        model, "caffe", tmp_path / "net.caffemodel", ExportOptions(), torch.zeros(1, 3, 227, 227)
    )
    assert "pip install" in check.not_checked
    assert all(file.stat().st_size for file in files)
    with pytest.raises(NotInstalledError):
        caffe.outputs(files, torch.zeros(1, 3, 227, 227))
