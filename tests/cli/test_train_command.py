"""``alexnet train`` and what follows it: resume, finished runs, run folders, images that are known by their content."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet import Run, UserError, evaluate, get_recipe, load_model, train
from alexnet.cli.main import main as cli
from alexnet.core.files import write_json
from alexnet.core.schema import to_json
from alexnet.data.prepared import open_or_prepare
from alexnet.data.sources import open_source
from alexnet.recipes.photos import recipe_for

SHORT = ["model.width=0.25", "train.epochs=1"]


def words(overrides) -> list[str]:
    """The overrides as options of a command."""
    return [word for override in overrides for word in ("--set", override)]


def test_a_run_folder_is_complete(narrow_run):
    names = {path.name for path in narrow_run.folder.iterdir()}
    assert names == {
        "run.json", "result.json", "report.md", "curves.png", "metrics.jsonl", "events.jsonl", "checkpoints", "model",
        ".lock",
    }  # fmt: skip
    with Image.open(narrow_run.folder / "curves.png") as picture:
        assert picture.size[0] > 1000
    report = (narrow_run.folder / "report.md").read_text(encoding="utf-8")
    assert f"{narrow_run.result['top1']:.2%} top-1" in report
    assert narrow_run.result["images"] == 360
    assert sum(item["images"] for item in narrow_run.result["per_class"].values()) == 360


def test_a_finished_run_prints_its_result_and_another_is_refused(narrow_run, narrow, capsys):
    command = ["train", "small-digits", *words(narrow), "--out", str(narrow_run.folder)]
    assert cli([*command, "--json"]) == 0
    shown, remarks = capsys.readouterr()
    assert json.loads(shown)["top1"] == narrow_run.result["top1"]
    assert "is already finished" in remarks
    for changed, field in ((["--seed", "9"], "seed (0, now 9)"), (["--set", "optim.lr=0.1"], "optim.lr")):
        assert cli([*command, *changed]) == 2
        assert field in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
def test_an_interrupted_training_is_resumed_to_the_same_end(number, status, narrow_run, narrow, process, tmp_path):
    """Stopped in the middle of a real process, then resumed: the same metrics and the same weights, byte for byte."""
    out = tmp_path / "run"
    options = [*words(narrow), "--device", "cpu", "--out", str(out)]
    child = subprocess.Popen(
        [*process, "train", "small-digits", *options], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    metrics = out / "metrics.jsonl"
    while child.poll() is None and (not metrics.exists() or metrics.read_bytes().count(b"\n") < 15):
        time.sleep(0.005)
    os.kill(child.pid, number)
    _, err = child.communicate(timeout=120)
    assert child.returncode == status, err
    assert "the same command continues there" in err
    assert not (out / "result.json").exists()
    run = train("small-digits", out=out, overrides=narrow, device="cpu")
    assert metrics.read_bytes() == (narrow_run.folder / "metrics.jsonl").read_bytes()
    model = Path("model") / "model.safetensors"
    assert (run.folder / model).read_bytes() == (narrow_run.folder / model).read_bytes()


@pytest.mark.parametrize("checkpoint", [True, False])
def test_a_result_that_cannot_be_written_costs_a_line_and_nothing_else(tmp_path, monkeypatch, capsys, checkpoint):
    command = ["train", "small-digits", *words(SHORT), "--out", str(tmp_path / "run")]

    def refuse(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr("alexnet.api.finalize", refuse)
        if not checkpoint:
            full.setattr("alexnet.training.state.save_checkpoint", refuse)
        assert cli(command) == 2
    err = capsys.readouterr().err
    kept = "the training itself is done" if checkpoint else "its last checkpoint could not be written either"
    assert f"No space left on device; {kept}: free disk space and repeat the command" in err
    assert cli(command) == 0
    assert ("epoch 1/1" in capsys.readouterr().err) is not checkpoint  # nothing that was kept was trained twice


@pytest.fixture(scope="module")
def greys_run(tmp_path_factory, make_two_greys):
    """A run on two classes of grey images, three epochs, and the folder of the images, which tests do not change."""
    root = tmp_path_factory.mktemp("greys")
    make_two_greys(root / "set")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        run = train(data="set", out=root / "run", overrides=["train.epochs=3", "model.width=0.25"])
    return run, root / "set"


def test_the_report_names_the_kept_epoch_and_the_overrides(greys_run):
    run, _ = greys_run
    assert run.recipe.name == "photos-small"
    errors = [1 - line["val_top1"] for line in run.metrics() if "val_top1" in line]
    assert run.result["kept_epoch"] == max(epoch for epoch, error in enumerate(errors, 1) if error == min(errors))
    text = (run.folder / "report.md").read_text(encoding="utf-8")
    assert f"The weights are those of epoch {run.result['kept_epoch']} of 3" in text
    assert "model.width none → 0.25; train.epochs 15 → 3; train.min_steps 1000 → 0" in text


def test_an_image_that_was_trained_on_is_never_evaluated_on(greys_run, tmp_path, monkeypatch, capsys):
    """Images are known by content: from any working folder, in a tar, in a changed folder, for a model without its run,
    and in a folder that was moved.
    """
    run, source = greys_run
    shutil.copytree(source, tmp_path / "set")
    monkeypatch.chdir("/")
    (own,) = evaluate(run.folder)
    assert (own.split, own.images) == ("test", 2)
    with tarfile.open(tmp_path / "set.tar", "w") as tar:  # in another order than that of a folder
        for path in sorted((tmp_path / "set").rglob("*.png"), reverse=True):
            tar.add(path, path.relative_to(tmp_path))
    shutil.copytree(run.model_folder, tmp_path / "alone")
    for trained, data in ((run.folder, tmp_path / "set.tar"), (tmp_path / "alone", tmp_path / "set")):
        (metrics,) = evaluate(trained, data)
        assert (metrics.split, metrics.images, metrics.top1) == ("test", 2, own.top1)
    dataset = open_or_prepare(open_source(str(tmp_path / "set")))
    fitted = dataset.images[np.concatenate([dataset.subset("train"), dataset.subset("val")])][:, 0, 0, 0]
    grey = int(fitted.min())  # of a dark image that was trained on
    (tmp_path / "set" / "dark" / f"{grey - 20}.png").unlink()
    Image.fromarray(np.full((28, 28), 99, np.uint8)).save(tmp_path / "set" / "light" / "new.png")
    (metrics,) = evaluate(run.folder, tmp_path / "set")
    assert (metrics.split, metrics.images) == ("unseen", 3)  # the two of test and the new one
    shutil.copytree(run.folder, tmp_path / "moved", ignore=shutil.ignore_patterns("checkpoints"))
    described = json.loads((run.folder / "run.json").read_text(encoding="utf-8"))
    write_json(tmp_path / "moved" / "run.json", {**described, "source": f"{tmp_path}/gone"})
    assert cli(["evaluate", str(tmp_path / "moved")]) == 2
    line = f"the images of {tmp_path}/moved are no longer at {tmp_path}/gone: give their new path with --data"
    assert line in capsys.readouterr().err


def test_images_between_small_and_large_are_resized(tmp_path):
    """Folders of 65 to 128 pixels, such as STL-10's 96, need no setting by hand."""
    draws = np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 128)):
        (tmp_path / "set" / name).mkdir(parents=True)
        for number in range(10):
            pixels = draws.integers(low, low + 128, (96, 96, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "set" / name / f"{number}.png")
    run = train(data=tmp_path / "set", out=tmp_path / "run", overrides={"train.epochs": 1, "model.width": 0.125})
    assert run.recipe.name == "photos"
    preprocessing = load_model(run.folder).preprocessing
    assert (preprocessing.resize_size, preprocessing.crop, preprocessing.image_size) == (96, 84, 224)


def test_a_recipe_for_every_side():
    for side in (4, 28, 64, 65, 128, 256):
        recipe = recipe_for(side)
        assert recipe.name == ("photos-small" if side <= 64 else "photos")
        assert (recipe.augment.crop or side) <= side
    assert recipe_for(256) == get_recipe("photos")
    assert recipe_for(64) == get_recipe("photos-small")


def test_a_recipe_from_a_json_file(tmp_path, monkeypatch, narrow):
    """``alexnet train ./my-recipe.json``; a folder or a run in its place is a mistake of one line."""
    from dataclasses import replace

    from alexnet.config import override

    monkeypatch.chdir(tmp_path)
    recipe = replace(override(get_recipe("small-digits"), [*narrow, "train.epochs=1"]), name="mine")
    write_json(tmp_path / "my-recipe.json", to_json(recipe))
    assert cli(["train", "./my-recipe.json"]) == 0
    run = Run(Path("runs/mine"))
    assert run.recipe == recipe
    with pytest.raises(UserError, match="is a run, not a recipe"):
        train("runs/mine")
    with pytest.raises(UserError, match="'runs' is not a recipe but a source of images: write --data runs"):
        train("runs")


def test_a_data_root_is_recorded_for_a_set_by_its_name(fashion_mnist_root, tmp_path):
    from alexnet.data.sources.file_sets import find_in
    from alexnet.data.sources.mnist import FASHION_MNIST

    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (file,) = find_in(FASHION_MNIST, fashion_mnist_root)[:1]
        shutil.copy(file.with_name(f"{name}-ubyte{file.suffix if file.suffix == '.gz' else ''}"), tmp_path)
    changes = {"train.epochs": 1, "train.steps": 2, "model.variant": "lenet5", "model.dropout": None}
    run = train(
        "small-fashion-mnist-quick", data="fashion-mnist", out=tmp_path / "run", overrides=changes, data_root=tmp_path
    )
    assert run.description["source"] == f"fashion-mnist:{tmp_path}"


def test_a_source_as_an_override_is_the_one_that_is_trained_on(tmp_path, make_two_greys):
    """Both ways to give the images mean the same, in the run's files and in the training."""
    make_two_greys(tmp_path / "set")
    changes = [f"data.source={tmp_path / 'set'}", *SHORT, "model.variant=small", "data.image_size=28"]
    run = train("photos-small", out=tmp_path / "run", overrides=changes)
    assert run.result["source"] == "set"
    assert run.description["source"] == str(tmp_path / "set")
    assert run.recipe.data.source == str(tmp_path / "set")
    with pytest.raises(UserError, match="there is no folder or file /nowhere"):
        train("small-digits", out=tmp_path / "other", overrides=["data.source=/nowhere"])


def test_what_a_finished_run_lost_is_written_again(tmp_path, capsys, monkeypatch, notes):
    """A lost model, a damaged result and lost checkpoints, and what the same command does about each of them."""
    folder = tmp_path / "run"
    command = ["train", "small-digits", *words(SHORT), "--out", str(folder)]
    monkeypatch.setattr("alexnet.cli.train.LARGE", 0)
    assert cli([*command, "--data-root", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert f"{folder}/checkpoints has 0.0 GB that a finished run does not need" in shown
    assert Run(folder).description["source"] == "digits"  # a data root does not hide them
    weights = (folder / "model" / "model.safetensors").read_bytes()
    shutil.rmtree(folder / "model")
    assert cli(["predict", str(folder), "x.png"]) == 2
    assert cli(command) == 0
    assert (folder / "model" / "model.safetensors").read_bytes() == weights
    result = folder / "result.json"
    before = json.loads(result.read_text(encoding="utf-8"))
    result.write_text("{}", encoding="utf-8")
    capsys.readouterr()
    assert cli(command) == 2
    assert f"{result} is missing or damaged" in capsys.readouterr().err
    result.unlink()
    assert cli(command) == 0
    assert "epoch 1/1" not in capsys.readouterr().err  # nothing was trained again
    after = json.loads(result.read_text(encoding="utf-8"))
    assert {**after, "matrix_gflops": 0} == {**before, "matrix_gflops": 0}
    shutil.rmtree(folder / "checkpoints")
    result.unlink()
    train("small-digits", out=folder, overrides=SHORT, reporter=notes)
    assert notes.warnings() == [f"warning: there are no checkpoints in {folder}/checkpoints: starting at step 0 again"]


def test_progress_without_a_reader_does_not_end_a_training(tmp_path, process):
    out = tmp_path / "run"
    command = f"{shlex.join([*process, 'train', *words(SHORT), '--out', str(out)])} 2>&1 >/dev/null"
    subprocess.run(["bash", "-c", f"{command} | head -1"], check=True, stdout=subprocess.DEVNULL, timeout=300)
    assert Run(out).finished


def test_progress_is_shown_by_default_and_can_be_switched_off(narrow_run, narrow, capsys):
    train("small-digits", out=narrow_run.folder, overrides=narrow, progress=False)
    assert capsys.readouterr() == ("", "")
    train("small-digits", out=narrow_run.folder, overrides=narrow)
    assert "is already finished" in capsys.readouterr().err


def test_two_folders_have_two_runs(make_two_greys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = []
    for name in ("cats and dogs", "birds"):
        make_two_greys(tmp_path / name)
        folders.append(train(data=name, overrides={"train.epochs": 1, "model.width": 0.25}).folder)
    assert folders == [Path("runs/photos-small-cats-and-dogs"), Path("runs/photos-small-birds")]
