"""``alexnet train`` and what follows it: resume, finished runs, run folders, images that are known by their content."""

import gc
import json
import os
import re
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
from alexnet.api import clear_cache
from alexnet.cli.main import main as cli
from alexnet.core.errors import StoppedError
from alexnet.core.files import write_json
from alexnet.core.schema import to_json
from alexnet.data.prepared import open_or_prepare
from alexnet.data.sources import open_source
from alexnet.data.uses import unfinished_runs
from alexnet.recipes.photos import recipe_for
from alexnet.training.loop import Training

SHORT = ["model.width=0.25", "train.epochs=1"]


def words(overrides) -> list[str]:
    """The overrides as options of a command."""
    return [word for override in overrides for word in ("--set", override)]


def test_a_run_folder_is_complete(narrow_run):
    names = {path.name for path in narrow_run.folder.iterdir()}
    assert names == {
        "run.json", "result.json", "report.md", "curves.png", "metrics.jsonl", "events.jsonl", "model", ".lock",
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
        changes = ["train.epochs=3", "model.width=0.25", "train.keep=best-on-val"]
        run = train(data="set", init="none", out=root / "run", overrides=changes)
    return run, root / "set"


def test_the_report_names_the_kept_epoch_and_the_overrides(greys_run):
    run, _ = greys_run
    assert run.recipe.name == "photos-small"
    errors = [1 - line["val_top1"] for line in run.metrics() if "val_top1" in line]
    assert run.result["kept_epoch"] == max(epoch for epoch, error in enumerate(errors, 1) if error == min(errors))
    text = (run.folder / "report.md").read_text(encoding="utf-8")
    assert f"The weights are those of epoch {run.result['kept_epoch']} of 3" in text
    changes = "train.epochs 15 → 3; train.min_steps 2000 → 0; train.keep last → best-on-val"
    assert f"model.width none → 0.25; {changes}" in text


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
    changes = {"train.epochs": 1, "model.width": 0.125}
    run = train(data=tmp_path / "set", init="none", out=tmp_path / "run", overrides=changes)
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


def test_what_a_finished_run_lost_is_written_again_from_a_kept_checkpoint(tmp_path, capsys, monkeypatch, notes):
    """A lost model, a damaged result and lost checkpoints, and what the same command does about each of them."""
    folder = tmp_path / "run"
    command = ["train", "small-digits", *words(SHORT), "--out", str(folder), "--keep-checkpoints"]
    monkeypatch.setattr("alexnet.cli.train.LARGE", 0)
    assert cli([*command, "--data-root", str(tmp_path)]) == 0
    assert "does not need" not in capsys.readouterr().out
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
    assert f"{result} is missing or damaged: delete it and repeat the command" in capsys.readouterr().err
    result.unlink()
    assert cli(command) == 0
    assert "epoch 1/1" not in capsys.readouterr().err  # nothing was trained again
    after = json.loads(result.read_text(encoding="utf-8"))
    assert {**after, "matrix_gflops": 0} == {**before, "matrix_gflops": 0}
    assert cli(command[:-1]) == 0  # who kept them keeps them, until that folder is removed
    shown = capsys.readouterr().out
    assert f"{folder}/checkpoints has 0.0 GB that a finished run does not need: you can remove that folder" in shown
    shutil.rmtree(folder / "checkpoints")
    shutil.rmtree(folder / "model")
    result.unlink()
    train("small-digits", out=folder, overrides=SHORT, reporter=notes)
    assert notes.warnings() == [f"warning: there are no checkpoints in {folder}/checkpoints: starting at step 0 again"]


def test_a_finished_run_has_no_checkpoints_and_what_it_lost_costs_a_line(tmp_path, capsys):
    """Without a checkpoint nothing is written again, and nothing that is left is overwritten."""
    folder = tmp_path / "run"
    command = ["train", "small-digits", *words(SHORT), "--out", str(folder)]
    assert cli(command) == 0
    assert not (folder / "checkpoints").exists()
    model, result = folder / "model", folder / "result.json"
    files = {path: path.read_bytes() for path in (result, *model.iterdir())}
    capsys.readouterr()
    result.unlink()
    (folder / "checkpoints" / "damaged-step-00000001").mkdir(parents=True)  # one that cannot be used does not count
    assert cli(command) == 2
    line = f"{folder} has a model but no result.json, and no checkpoint to write it from: 'alexnet evaluate {folder}'"
    assert line in capsys.readouterr().err
    assert not result.exists()
    assert cli(["evaluate", str(folder)]) == 0
    result.write_bytes(files[result])
    shutil.move(model, tmp_path / "away")
    capsys.readouterr()
    assert cli(command) == 2
    assert f"{folder} has finished but has no model in {model}, and no checkpoint" in capsys.readouterr().err
    shutil.move(tmp_path / "away", model)
    assert {path: path.read_bytes() for path in files} == files
    weights = bytearray(files[model / "model.safetensors"])
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    assert cli(["evaluate", str(folder)]) == 2
    assert "is damaged: use another copy, or train again in another folder with --out" in capsys.readouterr().err


def test_checkpoints_stay_where_the_model_cannot_be_verified(tmp_path, monkeypatch, notes):
    real = Run.write_result

    def damage(run, result):
        real(run, result)
        model = run.model_folder / "model.safetensors"
        model.write_bytes(model.read_bytes()[:-1] + b"x")

    with monkeypatch.context() as patch:
        patch.setattr(Run, "write_result", damage)
        run = train("small-digits", out=tmp_path / "run", overrides=SHORT, reporter=notes)
    (warning,) = notes.warnings()
    assert (
        f"the checkpoints in {run.checkpoints} are not removed: the model in {run.model_folder} is damaged" in warning
    )
    assert any(run.checkpoints.iterdir())


def test_checkpoints_that_a_kill_left_are_removed_by_the_same_command(tmp_path, monkeypatch):
    """Killed between the result and the removal: they are not those that somebody wanted to keep."""
    with monkeypatch.context() as patch:
        patch.setattr("alexnet.api.remove_checkpoints", lambda run, reporter: None)
        run = train("small-digits", out=tmp_path / "run", overrides=SHORT, progress=False)
    assert any(run.checkpoints.iterdir())
    assert train("small-digits", out=tmp_path / "run", overrides=SHORT, progress=False).result == run.result
    assert not run.checkpoints.exists()


def test_every_file_of_a_run_has_the_rights_of_the_files_beside_it(tmp_path):
    before = os.umask(0o027)
    try:
        run = train("small-digits", out=tmp_path / "run", overrides=SHORT, progress=False, keep_checkpoints=True)
    finally:
        os.umask(before)
    files = [path for path in run.folder.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"model.safetensors", "optimizer.safetensors", "model.json", "report.md"}
    assert {oct(path.stat().st_mode & 0o777) for path in files} == {oct(0o640)}


def test_the_place_of_the_images_is_named_before_the_training(tmp_path, notes):
    run = train("small-digits", out=tmp_path / "run", overrides=SHORT, reporter=notes)
    place = next(line for line in notes.lines if line.startswith("the prepared dataset is in "))
    assert notes.lines.index(place) < next(n for n, line in enumerate(notes.lines) if line.startswith("epoch 1"))
    dataset = Path(place.removeprefix("the prepared dataset is in "))
    assert (dataset / "store.json").is_file()
    assert unfinished_runs(dataset, run.description["data"]) == []  # it was needed, and is needed no longer


def test_a_training_that_needs_much_disk_says_so_before_it_begins(tmp_path, monkeypatch, notes):
    monkeypatch.setattr("alexnet.training.disk.LARGE", 1e6)
    train("small-digits", out=tmp_path / "run", overrides=SHORT, reporter=notes)
    said = next(line for line in notes.lines if line.startswith("disk: "))
    assert re.fullmatch(rf"disk: the run needs up to 0\.\d GB in {tmp_path}/run until .*; \d+\.\d GB are free", said)
    count = len(notes.lines)
    train("small-digits", out=tmp_path / "run", overrides=SHORT, reporter=notes)
    assert not [line for line in notes.lines[count:] if line.startswith("disk: ")]  # it is finished and needs nothing


@pytest.fixture
def interrupted_greys(tmp_path, make_two_greys, monkeypatch):
    """A training on a folder of images that was interrupted after its second epoch, and a function to continue it."""
    monkeypatch.setenv("ALEXNET_HOME", str(tmp_path / "home"))
    make_two_greys(tmp_path / "set")

    def go_on(folder=tmp_path / "run", **changes):
        overrides = ["train.epochs=4", "model.width=0.25"]
        settings = {"data": tmp_path / "set", "init": "none", "out": folder, "overrides": overrides, "progress": False}
        return train(**{**settings, **changes})

    whole = go_on(tmp_path / "whole")

    def stop(self, log, on_evaluation):
        real(self, log, on_evaluation)
        if self.epochs_begun == 2:
            signal.raise_signal(signal.SIGTERM)

    real = Training.end_epoch
    with monkeypatch.context() as patch:
        patch.setattr(Training, "end_epoch", stop)
        with pytest.raises(StoppedError):
            go_on()
    return go_on, whole


def add_grey(folder):
    Image.fromarray(np.full((28, 28), 99, np.uint8)).save(folder / "light" / "new.png")


def remove_grey(folder):
    next((folder / "light").iterdir()).unlink()


def add_class(folder):
    (folder / "middle").mkdir()
    for number in range(3):
        Image.fromarray(np.full((28, 28), 120 + number, np.uint8)).save(folder / "middle" / f"{number}.png")


def touch_all(folder):
    for path in folder.rglob("*.png"):
        os.utime(path, (1e9, 1e9))


@pytest.mark.parametrize("change", [add_grey, remove_grey, add_class, touch_all])
def test_an_interrupted_run_continues_on_the_images_it_began_with(change, interrupted_greys, tmp_path, notes):
    """Whatever was done to the images meanwhile, also by another training that was prepared from the new ones."""
    go_on, whole = interrupted_greys
    (began,) = (tmp_path / "home" / "stores").iterdir()
    change(tmp_path / "set")
    open_or_prepare(open_source(str(tmp_path / "set")))
    gc.collect()
    assert began.exists()
    run = go_on(reporter=notes)
    note = (
        f"note: {tmp_path}/set has changed since the training in {run.folder} began: it continues on the images that "
        "it began with; to train on the changed images, give another folder with --out"
    )
    same = change is touch_all  # prepared again, they are equal
    assert [line for line in notes.lines if line.startswith("note: ")] == ([] if same else [note])
    for name in ("metrics.jsonl", "model/model.safetensors"):
        assert (run.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_an_interrupted_run_continues_without_its_source(interrupted_greys, tmp_path, notes):
    go_on, whole = interrupted_greys
    (tmp_path / "set").rename(tmp_path / "elsewhere")
    begun = ["train.epochs=4", "model.width=0.25"]
    others = (
        {"seed": 1}, {"overrides": ["train.epochs=5"]}, {"folder": tmp_path / "new"}, {"data": tmp_path / "no"},
        {"init": None}, {"overrides": [*begun, "train.init=trunk/tiny-imagenet"]}, {"recipe": "small-digits"},
        {"recipe": "photos"},
    )  # fmt: skip
    for wrong in others:
        with pytest.raises(UserError):
            go_on(**wrong)
    run = go_on(reporter=notes)
    note = f"note: {tmp_path}/set is gone since the training in {run.folder} began: it continues on the images that it"
    assert [line for line in notes.lines if line.startswith("note: ")] == [f"{note} began with"]
    for name in ("metrics.jsonl", "model/model.safetensors"):
        assert (run.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_the_images_of_an_interrupted_run_are_removed_neither_by_name_nor_by_another_source(
    interrupted_greys, tmp_path, notes
):
    go_on, _ = interrupted_greys
    (began,) = (tmp_path / "home" / "stores").iterdir()
    with pytest.raises(UserError, match=r"the unfinished training in .* needs it"):
        clear_cache([began.name])
    shutil.copytree(tmp_path / "set", tmp_path / "other")
    add_grey(tmp_path / "other")
    with pytest.raises(UserError, match="it differs in the images"):
        go_on(data=tmp_path / "other")  # other images are not a change of these
    add_grey(tmp_path / "set")
    shutil.rmtree(began)
    with pytest.raises(UserError, match="it differs in the images"):
        go_on(reporter=notes)  # those of the beginning are gone
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_finished_run_does_not_keep_its_images(interrupted_greys, tmp_path):
    go_on, _ = interrupted_greys
    (began,) = (tmp_path / "home" / "stores").iterdir()
    go_on()
    add_grey(tmp_path / "set")
    gc.collect()
    now = open_or_prepare(open_source(str(tmp_path / "set"))).path
    assert [path.name for path in (tmp_path / "home" / "stores").iterdir()] == [now.name]
    assert now != began


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
        folders.append(train(data=name, init="none", overrides={"train.epochs": 1, "model.width": 0.25}).folder)
    assert folders == [Path("runs/photos-small-cats-and-dogs"), Path("runs/photos-small-birds")]
    assert train(data="birds").folder == Path("runs/photos-transfer-birds")
