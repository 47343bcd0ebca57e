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
from alexnet.models.registry import create_model, list_models
from alexnet.weights.caffe_blobs import read_blob
from alexnet.weights.convert import convert_file
from alexnet.weights.export import ExportOptions, NotInstalledError, export_model, logits
from alexnet.weights.exporters import caffe
from alexnet.weights.imagenet import ilsvrc_mean_image

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


@pytest.mark.parametrize("name", ["bvlc-alexnet", "caffenet"])
def test_there_and_back_is_the_same(tmp_path, name, photographs):
    model = lively(name)
    model.info = replace(model.info, preprocessing=NORMALIZATIONS["mean-image"], mean_image=ilsvrc_mean_image())
    export_model(model, "caffe", tmp_path / "net.caffemodel", ExportOptions(), photographs(model))
    back, _ = convert_file(tmp_path / "net.caffemodel", mean=tmp_path / "net.binaryproto")
    assert back.variant == name
    assert back.preprocessing == model.preprocessing
    assert torch.equal(back.mean_image, model.mean_image)
    assert all(torch.equal(tensor, back.state_dict()[key]) for key, tensor in model.state_dict().items())


def test_a_mean_of_each_channel_comes_back(tmp_path, photographs):
    """The standard deviation is in the weights of conv1, the mean in the input layer."""
    model = lively("torchvision")
    model.info = replace(model.info, preprocessing=Preprocessing(3, 256, 224, 224, "channel", *IMAGENET))
    images = photographs(model)
    export_model(model, "caffe", tmp_path / "net.caffemodel", ExportOptions(), images)
    back, _ = convert_file(tmp_path / "net.caffemodel")
    assert back.variant == "torchvision"
    assert back.preprocessing == Preprocessing(3, 256, 224, 224, "channel", IMAGENET[0], (1.0, 1.0, 1.0), "warp")
    pixels = images * torch.tensor(IMAGENET[1])[:, None, None]
    torch.testing.assert_close(logits(back, pixels), logits(model, images), rtol=1e-4, atol=1e-4)


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
