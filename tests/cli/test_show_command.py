"""``alexnet show`` and ``alexnet.plot``: every plot of a run, its caption and JSON, and mistakes in one line."""

import json
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

import alexnet
from alexnet import train
from alexnet.cli import main as cli
from alexnet.core.errors import UserError
from alexnet.plots.registry import PLOTS, get_plot
from alexnet.report import build
from alexnet.runtime.run import Run

pytestmark = pytest.mark.usefixtures("one_thread")
SETTINGS = ["train.epochs=1", "data.image_size=24"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with colour images of three classes, two runs on them, and a photograph."""
    root = tmp_path_factory.mktemp("show")
    draws = np.random.default_rng(0)
    for number, name in enumerate(("red", "green", "blue")):
        for place, images in (("colours", 20), ("more", 5)):
            (root / place / name).mkdir(parents=True)
            for count in range(images):
                pixels = draws.integers(0, 90, (24, 24, 3)).astype(np.uint8)
                pixels[:, :, number] += 120
                Image.fromarray(pixels).save(root / place / name / f"{count}.png")
    for seed in (0, 1):
        changes = [*SETTINGS, "model.width=0.25", "train.batch_size=16"]
        train(
            "photos-small", data=root / "colours", out=root / f"run{seed}", seed=seed, overrides=changes, device="cpu"
        )
    Image.fromarray(np.full((90, 120, 3), 130, np.uint8)).save(root / "photo.png")
    return root


@pytest.fixture
def here(place, monkeypatch):
    monkeypatch.chdir(place)
    return place


RUNS = [
    ["curves", "run0", "run1"],
    ["filters", "run0", "run1"],
    ["activations", "run0", "--image", "photo.png"],
    ["activations", "run0/model", "--image", "photo.png", "--layer", "relu2", "--layer", "fc8"],
    ["attributions", "run0", "--image", "photo.png", "--class", "green"],
    ["attributions", "run0", "--image", "photo.png"],
    ["predictions", "run0"],
    ["predictions", "run0/model", "--data", "colours"],
    ["predictions", "run0", "--image", "photo.png", "--image", "colours/red/0.png"],
    ["confusion", "run0"],
    ["roc", "run0"],
    ["activations", "run0"],
    ["attributions", "run0"],
    ["neighbours", "run0"],
    ["neighbours", "run0", "--image", "photo.png", "--image", "colours/red/0.png"],
    ["embedding", "run0", "--data", "more"],
    ["rdm", "run0", "--layer", "relu5"],
    ["receptive-field", "small"],
    ["receptive-field", "small", "--image", "photo.png"],
    ["receptive-field", "run0"],
    ["augmentations", "small-cifar10-2012", "--image", "photo.png"],
    ["augmentations", "small-cifar10-2012"],
    ["augmentations", "run0"],
    ["architecture", "caffenet"],
    ["architecture", "run0"],
]


def test_help_lists_every_plot(capsys):
    with pytest.raises(SystemExit):
        cli.main(["show", "--help"])
    text = capsys.readouterr().out
    for name, line in PLOTS.items():
        assert f"  {name:<17}{line}\n" in text
    assert "  report           " in text


def test_every_plot_has_an_entry_and_a_test():
    # The last two: tests/training/test_segmentation.py and test_detection.py.
    assert {*(words[0] for words in RUNS), "masks", "boxes"} == set(PLOTS)
    assert all(callable(get_plot(name).compose) for name in PLOTS)


def test_the_registry_imports_no_library():
    slow = {"torch", "numpy", "matplotlib", "PIL", "pydantic"}
    code = f"import sys, alexnet.plots.registry; print({slow} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_python_gets_a_figure(here):
    figure = alexnet.plot("filters", here / "run0", Run(here / "run1"), device="cpu")
    assert isinstance(figure, Figure)
    assert not (here / "run0" / "filters.png").exists()
    titles = [text.get_text() for text in figure.findobj(Text)]
    assert any(title.startswith("run1: 8 filters") for title in titles)
    assert isinstance(alexnet.plot("activations", "run0", image="photo.png", layers="relu2"), Figure)
    with pytest.raises(UserError, match="unknown plot 'filter': did you mean 'filters'"):
        alexnet.plot("filter", here / "run0")
    with pytest.raises(UserError, match="curves is a plot of one run: give one"):
        alexnet.plot("curves")
    with pytest.raises(UserError, match="attributions does not use --layer: leave it out; it is an option of embed"):
        alexnet.plot("attributions", "run0", layers="relu1")


@pytest.mark.parametrize("words", RUNS, ids=" ".join)
def test_every_plot_is_written_with_its_caption(words, here, tmp_path, capsys):
    out = tmp_path / "picture.png"
    assert cli.main(["show", *words, "--out", str(out), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["what"], printed["file"]) == (words[0], str(out))
    assert printed["caption"]
    with Image.open(out) as picture:
        assert min(picture.size) > 200
        assert picture.info["Description"] == printed["caption"]


def test_a_run_s_images_are_kept_and_seen_as_in_its_training(here, tmp_path, capsys):
    for words in (["augmentations", "run0"], ["augmentations", "run0", "--image", "photo.png"]):
        assert cli.main(["show", *words, "--out", str(tmp_path / "a.svg")]) == 0
        assert "as stored, 24 × 24" in (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert cli.main(["show", "receptive-field", "run0", "--image", "photo.png"]) == 0
    assert "run0 (small): receptive field of the centre unit" in (out := capsys.readouterr().out)
    assert "grey: outside of the image of 24 pixels" in out


def test_letters_that_no_font_has_are_named(here, tmp_path, capsys):
    name = tmp_path / "\U00012000.png"
    name.write_bytes((here / "photo.png").read_bytes())
    assert cli.main(["show", "predictions", "run0", "--image", str(name), "--out", str(tmp_path / "p.png")]) == 0
    assert "note: no installed font has \U00012000: shown as boxes in the plot" in capsys.readouterr().err


def test_a_picture_of_a_run_lies_in_its_folder_and_one_of_a_name_here(here, capsys):
    assert cli.main(["show", "filters", "run1/model"]) == 0
    assert (here / "run1" / "filters.png").is_file()
    assert "run1: 8 first-layer filters in two halves of one column" in capsys.readouterr().out
    assert cli.main(["show", "architecture", "lenet5"]) == 0
    assert (here / "architecture-lenet5.png").is_file()
    assert (here / "architecture-lenet5.svg").is_file()
    (here / "paper").mkdir()
    assert cli.main(["show", "architecture", "paper"]) == 0
    assert (here / "architecture-paper.png").is_file()
    assert cli.main(["show", "architecture", "run1/model"]) == 0
    assert (here / "run1" / "architecture.svg").is_file()
    assert "run1 (small), 1 column" in capsys.readouterr().out
    assert cli.main(["show", "curves", "run0/model", "--out", "lines.svg"]) == 0
    assert "<svg" in (here / "lines.svg").read_text(encoding="utf-8")


def test_runs_of_one_name_are_told_apart(here, tmp_path, capsys):
    import shutil

    for place in ("a", "b"):
        shutil.copytree(here / "run0", tmp_path / place / "run")
    words = ["curves", str(tmp_path / "a" / "run"), str(tmp_path / "b" / "run" / "model"), str(tmp_path / "a" / "run")]
    assert cli.main(["show", *words, "--out", "two.png", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["values"]) == ["a/run", "b/run"]
    own = (tmp_path / "a" / "run" / "curves.png").read_bytes()
    assert cli.main(["show", *words]) == 0
    assert (tmp_path / "a" / "run" / "curves.png").read_bytes() == own  # no run's picture is another's
    assert (here / "curves-of-3.png").is_file()


def test_a_nearest_image_is_itself_and_the_index_is_made_once(here, capsys):
    words = ["show", "neighbours", "run0", "--image", "colours/red/0.png", "--image", "colours/blue/1.png", "--json"]
    assert cli.main(words) == 0
    made = (here / "run0" / "features" / "relu7" / "features.npy").stat().st_mtime_ns
    one, other = json.loads(capsys.readouterr().out)["values"]["images"]
    assert (one["image"], len(one["nearest"]), one["nearest"][0]["class"]) == ("0.png", 6, "red")
    assert one["nearest"][0]["distance"] < one["nearest"][1]["distance"]
    assert other["nearest"][0]["class"] == "blue"
    assert cli.main(words) == 0
    assert cli.main([*words, "--layer", "relu6"]) == 0  # has an index of its own
    assert (here / "run0" / "features" / "relu6" / "features.npy").is_file()
    assert (here / "run0" / "features" / "relu7" / "features.npy").stat().st_mtime_ns == made


@pytest.mark.report
def test_a_report_can_be_made_anew(here, capsys, monkeypatch):
    assert cli.main(["show", "report", "run0", "--out", "again.html"]) == 0
    assert "Confusion matrix" in (here / "again.html").read_text(encoding="utf-8")
    import builtins

    real = builtins.__import__

    def without_captum(name, *given, **more):
        if name.startswith("captum"):
            raise ImportError(name)
        return real(name, *given, **more)

    monkeypatch.setattr(builtins, "__import__", without_captum)
    only = [figure for figure in build.report_figures() if figure.title == "Attribution maps"]
    monkeypatch.setattr(build, "report_figures", lambda task: only)
    assert cli.main(["show", "report", "run0", "--out", "less.html"]) == 0
    assert "Not shown: attribution maps need Captum" in (here / "less.html").read_text(encoding="utf-8")
    capsys.readouterr()
    assert cli.main(["show", "attributions", "run0", "--image", "photo.png"]) == 2
    assert "pip install captum" in (here / "less.html").read_text(encoding="utf-8")
    assert "is not installed: pip install captum" in capsys.readouterr().err


MISTAKES = [
    (["curvs", "run0"], "unknown plot 'curvs': did you mean 'curves'?"),
    (["curves", "nowhere"], "there is no file or folder nowhere"),
    (["curves", "colours"], "colours is not a run folder: run.json is missing"),
    (["filters", "nowhere"], "there is no file or folder nowhere"),
    (["filters", "colours"], "colours is not a model: give a run folder that alexnet train wrote"),
    (["confusion", "run0", "run1"], "confusion is of one run: leave out run1"),
    (["receptive-field", "paper", "--data", "colours"], "paper is not a run, and --data gives a run other images"),
    (["architecture", "papr"], "unknown variant 'papr': did you mean 'paper'?"),
    (["augmentations", "small-digit", "--image", "photo.png"], "unknown recipe 'small-digit': did you mean"),
    (
        ["activations", "run0", "--image", "photoo.png"],
        "--image photoo.png: there is no such file; did you mean photo.png?",
    ),
    (
        ["activations", "run0", "--image", "no/cat.png"],
        "--image no/cat.png: there is no such file, and no has no files",
    ),
    (["activations", "run0", "--image", "zzz"], "--image zzz: there is no such file; . has "),
    (["activations", "run0", "--precision", "int8"], "is made with the weights as trained: leave out --precision"),
    (
        ["report", "run0", "--out", "page.png"],
        "--out page.png: a report is an HTML page, so the name must end in",
    ),
    (["predictions", "run0", "--data", "digits"], "digits has 10 classes that the model does not have (0, 1, 2"),
    (["embedding", "run0", "--data", "digits"], "digits has 10 classes that the model does not have (0, 1, 2"),
    (["report", "run0", "--data", "digits"], "digits has 10 classes that the model does not have (0, 1, 2"),
    (["activations", "run0", "--image", "colours"], "--image colours: is a folder; give one image file"),
    (
        ["activations", "run0", *["--image", "photo.png"] * 2],
        "activations takes one image: leave out --image photo",
    ),
    (["confusion", "run0", "--image", "photo.png"], "confusion takes no image: leave out --image photo.png"),
    (
        ["confusion", "run0", "--layer", "relu1"],
        "confusion does not use --layer: leave it out; it is an option of embedd",
    ),
    (
        ["curves", "run0", "--data", "colours"],
        "curves does not use --data: leave it out; it is an option of recept",
    ),
    (["embedding", "run0", "--layer", "relu6", "--layer", "x"], "embedding takes one layer: leave out --layer x"),
    (["activations", "run0", "--image", "photo.png", "--layer", "relu9"], "unknown layer 'relu9': did you mean 'relu"),
    (["attributions", "run0", "--image", "photo.png", "--class", "grean"], "unknown class 'grean': did you mean 'gree"),
    (
        ["curves", "run0", "--class", "green"],
        "curves does not use --class: leave it out; it is an option of attrib",
    ),
    (["curves", "run0", "--out", "a.jpg"], "--out a.jpg: plots are written as PNG or SVG"),
    (["curves", "run0", "--out", "/proc/none/a.png"], "cannot write /proc/none/a.png"),
    (["confusion", "run0/model"], "run0/model is a model without its run"),
    (["embedding", "run0"], "t-SNE needs at least 8 images, not 6"),
    (["report", "nowhere"], "there is no file or folder nowhere"),
]


def test_a_run_called_as_a_recipe_is_one_where_only_a_variant_has_a_name(place, tmp_path, monkeypatch, capsys):
    (tmp_path / "small-digits").symlink_to(place / "run0")
    monkeypatch.chdir(tmp_path)
    for what in ("architecture", "receptive-field"):
        assert cli.main(["show", what, "small-digits", "--data", str(place / "colours")] if what != "architecture"
                        else ["show", what, "small-digits"]) == 0  # fmt: skip
        assert "run0 (small)" in capsys.readouterr().out


@pytest.mark.parametrize(
    "what", ["curves", "predictions", "report", "architecture", "receptive-field", "augmentations"]
)
def test_a_run_in_the_usual_place_is_the_one_meant(what, place, tmp_path, monkeypatch, capsys):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(place / "run0")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["show", what, "mine"]) == 2
    assert "there is no file or folder mine: did you mean runs/mine?" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()  # it is there, and is something else
    assert cli.main(["show", what, "mine"]) == 2
    assert "did you mean" not in capsys.readouterr().err


def test_a_run_with_a_similar_name_is_suggested(place, tmp_path, monkeypatch, capsys):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "photos-small").symlink_to(place / "run0")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["evaluate", "runs/photos"]) == 2
    assert "there is no file or folder runs/photos: did you mean runs/photos-small?" in capsys.readouterr().err
    assert cli.main(["evaluate", "runs/mine"]) == 2
    assert "alexnet: there is no file or folder runs/mine\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "line"), MISTAKES, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_a_mistake_costs_one_line(words, line, here, capsys):
    if words == ["confusion", "run0/model"]:
        (here / "run0" / "run.json").rename(here / "aside.json")
    try:
        assert cli.main(["show", *words]) == 2
    finally:
        if (here / "aside.json").exists():
            (here / "aside.json").rename(here / "run0" / "run.json")
    out, err = capsys.readouterr()
    assert out == ""
    (said,) = [text for text in err.splitlines() if text.startswith("alexnet: ")]
    assert line in said
