"""What is no MODEL: nothing at the path, an empty file, a file of another kind. One line, the same in every command."""

import pytest
from PIL import Image

import alexnet
from alexnet.cli.main import main
from alexnet.core.errors import UserError
from alexnet.weights.mean_file import read_mean

COMMANDS = [
    ["predict", "MODEL", "photo.png"],
    ["evaluate", "MODEL", "--data", "digits"],
    ["export", "MODEL", "--to", "onnx"],
    ["convert", "MODEL"],
    ["verify", "MODEL"],
    ["summary", "MODEL"],
    ["show", "filters", "MODEL"],
    ["show", "architecture", "MODEL"],
]
SUFFIXES = ["pth", "pt", "pt2", "safetensors", "onnx", "caffemodel", "keras", "h5", "npy", "npz", "pkl", "mat", "csv"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("photo.png")
    return tmp_path


def error(words, capsys):
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert not out
    return err


def with_model(words, model):
    return [model if word == "MODEL" else word for word in words]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_nothing_at_the_path(words, here, capsys):
    for model in ("nope.pth", "no/such/folder", "/nowhere/model.onnx"):
        assert error(with_model(words, model), capsys) == f"alexnet: there is no file or folder {model}\n"
    for model, meant in (
        ("torchvision/imagenett", "torchvision/imagenet"),
        ("bvlc_alexnet.caffemodel", "bvlc-alexnet/imagenet"),
        ("alexnet-owt-7be5be79.pth", "torchvision/imagenet"),
    ):
        line = f"there is no file or folder {model}: did you mean the weights {meant}?"
        assert error(with_model(words, model), capsys) == f"alexnet: {line}\n"
    (here / "mine.pth").touch()
    line = "there is no file or folder mime.pth: did you mean mine.pth?"
    assert error(with_model(words, "mime.pth"), capsys) == f"alexnet: {line}\n"
    address = "https://example.org/net.pth"
    assert error(with_model(words, address), capsys) == (
        f"alexnet: {address} is an address, and addresses are not fetched: download the file and give its path\n"
    )


def test_nothing_at_the_path_of_another_model(here, capsys):
    (here / "x.pth").write_bytes(b"something")
    assert error(["verify", "x.pth", "--against", "nope.pth"], capsys) == (
        "alexnet: there is no file or folder nope.pth\n"
    )


def test_nothing_at_the_path_in_python(here):
    for call in (
        lambda: alexnet.load_model("nope.pth"),
        lambda: alexnet.create_transform("nope.pth"),
        lambda: alexnet.create_model("torchvision", weights="nope.pth"),
        lambda: alexnet.plot("filters", "nope.pth"),
        lambda: alexnet.evaluate(["nope.pth"], "digits"),
    ):
        with pytest.raises(UserError, match=r"^there is no file or folder nope\.pth$"):
            call()


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_file_that_is_no_weights_file(words, here, capsys):
    (here / "table.csv").write_text("file,label\na,b\n")
    line = "table.csv is not a weights file that this version reads: it reads PyTorch, safetensors, "
    assert error(with_model(words, "table.csv"), capsys).startswith(f"alexnet: {line}")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_empty_file(suffix, here, capsys):
    name = f"empty.{suffix}"
    (here / name).touch()
    for words in (["predict", name, "photo.png"], ["verify", name], ["convert", name]):
        assert error(words, capsys) == f"alexnet: {name} is empty\n"


def test_an_empty_mean_image(here):
    (here / "mean.npy").touch()
    with pytest.raises(UserError, match=r"^mean\.npy is empty$"):
        read_mean(here.relative_to(here) / "mean.npy")
