"""The whole way on real images: train, continue, evaluate, predict, as the README says it."""

import io
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet import Predictor, evaluate, load_model, train
from alexnet.cli.main import main as cli
from alexnet.core.errors import UserError
from alexnet.data.prepared import open_or_prepare
from alexnet.data.sources import open_source
from alexnet.data.sources.file_sets import find_in
from alexnet.data.sources.mnist import FASHION_MNIST
from alexnet.recipes import get_recipe
from alexnet.runtime.device import matrix_rate, resolve_device
from alexnet.runtime.run import Run
from alexnet.training.resolve import recipe_for

REFERENCE_GFLOPS = 700.0  # the machine that the seconds are meant for


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory) -> Run:
    return train("small-digits", out=tmp_path_factory.mktemp("runs") / "digits")


def digit_png(index: int) -> bytes:
    """One of scikit-learn's digits as an image file."""
    from sklearn.datasets import load_digits

    pixels = np.rint(load_digits().images[index] * 255 / 16).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="png")
    return file.getvalue()


def make_two_greys(folder: Path) -> None:
    """Ten dark images and ten light ones, no two the same."""
    for name, grey in (("dark", 20), ("light", 200)):
        (folder / name).mkdir(parents=True)
        for number in range(10):
            Image.fromarray(np.full((28, 28), grey + number, np.uint8)).save(folder / name / f"{number}.png")


def test_three_seeds_on_digits(digits_run, tmp_path):
    """The first command of the README reaches what it says, in the time it says, start and imports included."""
    runs, seconds = [digits_run], []
    for seed in ("1", "2"):
        start = time.perf_counter()
        out = tmp_path / seed
        command = [sys.executable, "-m", "alexnet", "train", "--seed", seed, "--out", str(out), "--json"]
        shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        seconds.append(time.perf_counter() - start)
        runs.append(Run(out))
        assert json.loads(shown)["top1"] == runs[-1].result["top1"]
    assert statistics.mean(run.result["top1"] for run in runs) >= 0.96
    assert min(seconds) <= 90 * max(1.0, REFERENCE_GFLOPS / matrix_rate(resolve_device()))


def test_a_run_folder_is_complete(digits_run):
    names = {path.name for path in digits_run.folder.iterdir()}
    assert names == {
        "run.json", "result.json", "report.md", "curves.png", "metrics.jsonl", "events.jsonl", "checkpoints", "model",
        ".lock",
    }  # fmt: skip
    with Image.open(digits_run.folder / "curves.png") as picture:
        assert picture.size[0] > 1000
    report = (digits_run.folder / "report.md").read_text(encoding="utf-8")
    assert f"{digits_run.result['top1']:.2%} top-1" in report
    assert digits_run.result["images"] == 360
    assert sum(item["images"] for item in digits_run.result["per_class"].values()) == 360


def test_evaluate_repeats_what_the_training_counted(digits_run):
    (row,) = evaluate(digits_run.folder)
    for name in ("top1", "top5", "images"):
        assert row[name] == digits_run.result[name]
    assert row["loss"] == pytest.approx(digits_run.result["loss"], rel=1e-3)
    assert np.diag(row["confusion_matrix"]).sum() == round(row["top1"] * 360)
    assert np.sum(row["confusion_matrix"]) == 360


def test_a_run_given_twice_counts_once_and_a_copy_changes_nothing(digits_run, tmp_path):
    (row,) = evaluate(digits_run.folder, digits_run.model_folder)
    shutil.copytree(digits_run.folder, tmp_path / "copy", ignore=shutil.ignore_patterns("checkpoints"))
    rows = evaluate(digits_run.folder, tmp_path / "copy", digits_run.folder)
    assert [row["run"] for row in rows] == [str(digits_run.folder), str(tmp_path / "copy"), "ensemble"]
    for name in ("top1", "top5", "images", "per_class", "confusions"):
        assert rows[2][name] == rows[0][name] == row[name]
    assert rows[2]["loss"] == pytest.approx(row["loss"], rel=1e-6)


def test_predict_names_the_digit(digits_run, tmp_path, capsys):
    predictor = Predictor(digits_run.folder)
    right = [predictor(digit_png(index))[0].name == str(index % 10) for index in range(10)]
    assert sum(right) >= 9
    (tmp_path / "seven.png").write_bytes(digit_png(7))
    (tmp_path / "broken.png").write_bytes(b"not an image")
    status = cli.main(["predict", str(digits_run.folder), str(tmp_path), "--json", "--top-k", "3"])
    broken, seven = json.loads(capsys.readouterr().out)
    assert status == 2
    assert "broken.png" in broken["error"]
    assert [len(seven["predictions"]), seven["predictions"][0]["label"]] == [3, "7"]


def test_a_finished_run_prints_its_result_and_another_is_refused(digits_run, capsys):
    out = ["--out", str(digits_run.folder)]
    assert cli.main(["train", "small-digits", *out, "--json"]) == 0
    shown, remarks = capsys.readouterr()
    assert json.loads(shown)["top1"] == digits_run.result["top1"]
    assert "finished already" in remarks
    for words, field in ((["--seed", "9"], "seed (0, now 9)"), (["--set", "optim.lr=0.1"], "optim.lr")):
        assert cli.main(["train", "small-digits", *out, *words]) == 2
        assert field in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
def test_an_interrupted_training_continues_to_the_same_end(number, status, digits_run, tmp_path):
    """Killed in the middle of a real process, then continued: the same metrics and the same weights, byte for byte."""
    out = tmp_path / "run"
    command = [sys.executable, "-m", "alexnet", "train", "small-digits", "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    metrics = out / "metrics.jsonl"
    while process.poll() is None and (not metrics.exists() or metrics.read_bytes().count(b"\n") < 40):
        time.sleep(0.02)
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == status, err
    assert "the same command continues there" in err
    assert not (out / "result.json").exists()
    run = train("small-digits", out=out)
    assert metrics.read_bytes() == (digits_run.folder / "metrics.jsonl").read_bytes()
    model = Path("model") / "model.safetensors"
    assert (run.folder / model).read_bytes() == (digits_run.folder / model).read_bytes()


@pytest.mark.parametrize("checkpoint", [True, False])
def test_an_outcome_that_cannot_be_written_costs_a_line_and_nothing_else(tmp_path, monkeypatch, capsys, checkpoint):
    words = ["train", "small-digits", "--set", "train.epochs=1", "--out", str(tmp_path / "run")]

    def refuse(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr("alexnet.cli.finish.conclude", refuse)
        if not checkpoint:
            full.setattr("alexnet.training.state.save_checkpoint", refuse)
        assert cli.main(words) == 2
    err = capsys.readouterr().err
    kept = "the training itself is done" if checkpoint else "no checkpoint of its end could be written either"
    assert f"No space left on device; {kept}: make room and give the same command again" in err
    assert cli.main(words) == 0
    assert ("epoch 1/1" in capsys.readouterr().err) is not checkpoint  # nothing was trained twice that was kept


def test_the_report_says_which_weights_and_what_departs(tmp_path):
    make_two_greys(tmp_path / "set")
    run = train(data=tmp_path / "set", out=tmp_path / "run", overrides=["train.epochs=3"])
    errors = [1 - line["val_top1"] for line in run.metrics() if "val_top1" in line]
    assert run.result["kept_epoch"] == max(epoch for epoch, error in enumerate(errors, 1) if error == min(errors))
    text = (run.folder / "report.md").read_text(encoding="utf-8")
    assert f"The weights are those of epoch {run.result['kept_epoch']} of 3, the best on validation." in text
    changed = "data.image_size 32 → 28; train.epochs 15 → 3"
    assert f"But this training departs from the recipe of that name: {changed}." in text


def test_checkpoints_that_are_no_longer_needed_are_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("alexnet.cli.train.LARGE", 0)
    assert cli.main(["train", "--set", "train.epochs=1", "--out", str(tmp_path / "run")]) == 0
    assert f"{tmp_path}/run/checkpoints holds 0.0 GB that a finished run no longer needs" in capsys.readouterr().out


def test_a_run_remembers_its_images_from_any_folder(tmp_path, monkeypatch):
    make_two_greys(tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    run = train(data="set", out=tmp_path / "run", overrides=["train.epochs=1"])
    assert run.recipe.name == "photos-small"
    monkeypatch.chdir("/")
    (row,) = evaluate(run.folder)
    assert (row["split"], row["images"]) == ("test", 2)
    (row,) = evaluate(run.folder, data=tmp_path / "set")
    assert (row["split"], row["images"]) == ("test", 2)  # the rest was trained on


def test_an_image_that_was_trained_on_is_never_counted(tmp_path):
    """Known by content: in a tar, in a copy with images gone and others come, and for a model without its run."""
    make_two_greys(tmp_path / "set")
    run = train(data=tmp_path / "set", out=tmp_path / "run", overrides=["train.epochs=1"])
    (own,) = evaluate(run.folder)
    assert (own["split"], own["images"]) == ("test", 2)
    with tarfile.open(tmp_path / "set.tar", "w") as tar:  # in another order than a folder's
        for path in sorted((tmp_path / "set").rglob("*.png"), reverse=True):
            tar.add(path, path.relative_to(tmp_path))
    shutil.copytree(run.model_folder, tmp_path / "alone")
    for trained, data in ((run.folder, tmp_path / "set.tar"), (tmp_path / "alone", tmp_path / "set")):
        (row,) = evaluate(trained, data=data)
        assert (row["split"], row["images"], row["top1"]) == ("test", 2, own["top1"])
    dataset = open_or_prepare(open_source(str(tmp_path / "set")))
    fitted = dataset.images[np.concatenate([dataset.subset("train"), dataset.subset("val")])][:, 0, 0, 0]
    gone = int(fitted.min())  # a grey that was trained on
    shutil.copytree(tmp_path / "set", tmp_path / "other")
    (tmp_path / "other" / "dark" / f"{gone - 20}.png").unlink()
    Image.fromarray(np.full((28, 28), 99, np.uint8)).save(tmp_path / "other" / "light" / "new.png")
    (row,) = evaluate(run.folder, data=tmp_path / "other")
    assert (row["split"], row["images"]) == ("unseen", 3)  # the two of test and the new one
    shutil.move(tmp_path / "other", tmp_path / "set2")
    shutil.rmtree(tmp_path / "set")
    shutil.move(tmp_path / "set2", tmp_path / "set")
    (row,) = evaluate(run.folder)  # the folder itself has changed
    assert (row["split"], row["images"]) == ("unseen", 3)


def test_images_between_small_and_large_are_enlarged(tmp_path):
    """Folders of 65 to 128 pixels, such as STL-10's 96, need no setting by hand."""
    draws = np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 128)):
        (tmp_path / "set" / name).mkdir(parents=True)
        for number in range(10):
            pixels = draws.integers(low, low + 128, (96, 96, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "set" / name / f"{number}.png")
    run = train(data=tmp_path / "set", out=tmp_path / "run", overrides=["train.epochs=1"])
    assert run.recipe.name == "photos"
    preprocessing = load_model(run.folder).preprocessing
    assert (preprocessing.resize_size, preprocessing.crop, preprocessing.image_size) == (96, 84, 224)


@pytest.mark.parametrize("side", [4, 28, 64, 65, 128, 256])
def test_a_recipe_for_every_side(side):
    recipe = recipe_for(side)
    assert recipe.name == ("photos-small" if side <= 64 else "photos")
    assert (recipe.augment.crop or side) <= side
    assert recipe_for(256) == get_recipe("photos")


def test_a_data_root_is_remembered_for_a_set_by_its_name(fashion_mnist_root, tmp_path):
    settings = {"overrides": ["train.epochs=1", "model.variant=lenet5", "model.dropout=none"], "data_root": tmp_path}
    (tmp_path / "FashionMNIST").mkdir()
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (file,) = find_in(FASHION_MNIST, fashion_mnist_root)[:1]
        shutil.copy(file.with_name(f"{name}-ubyte{file.suffix if file.suffix == '.gz' else ''}"), tmp_path)
    run = train("small-fashion-mnist-quick", data="fashion-mnist", out=tmp_path / "run", **settings)
    assert run.description["source"] == f"fashion-mnist:{tmp_path}"


def test_images_that_were_moved_are_asked_for(tmp_path, capsys):
    make_two_greys(tmp_path / "set")
    run = train(data=tmp_path / "set", out=tmp_path / "run", overrides=["train.epochs=1"])
    (tmp_path / "set").rename(tmp_path / "moved")
    assert cli.main(["evaluate", str(run.folder)]) == 2
    line = f"the images of {run.folder} are no longer at {tmp_path}/set: say where with --data"
    assert line in capsys.readouterr().err
    (row,) = evaluate(run.folder, data=tmp_path / "moved")
    assert (row["split"], row["images"]) == ("test", 2)  # they are known by what they hold


def test_a_source_set_as_a_field_is_the_one_that_is_trained_on(tmp_path):
    """Both ways of naming the images mean the same, in what is recorded and in what is seen."""
    make_two_greys(tmp_path / "set")
    words = [f"data.source={tmp_path / 'set'}", "train.epochs=1", "model.variant=small", "data.image_size=28"]
    run = train("photos-small", out=tmp_path / "run", overrides=words)
    assert run.result["source"] == "set"
    assert run.description["source"] == str(tmp_path / "set")
    assert run.recipe.data.source == str(tmp_path / "set")
    with pytest.raises(UserError, match="there is no folder or file /nowhere"):
        train("small-digits", out=tmp_path / "other", overrides=["data.source=/nowhere"])


def test_a_finished_run_is_whole_or_made_whole(tmp_path, capsys):
    """A model or a result that was lost or damaged is written anew from the last checkpoint, by the same command."""
    words = ["train", "small-digits", "--set", "train.epochs=1", "--out", str(tmp_path / "run")]
    assert cli.main(words) == 0
    weights = (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "run" / "model")
    assert cli.main(["predict", str(tmp_path / "run"), "x.png"]) == 2
    assert cli.main(words) == 0
    assert (tmp_path / "run" / "model" / "model.safetensors").read_bytes() == weights
    result = tmp_path / "run" / "result.json"
    before = json.loads(result.read_text(encoding="utf-8"))
    result.write_text("{}", encoding="utf-8")
    capsys.readouterr()
    assert cli.main(words) == 2
    assert f"{result} is missing or damaged: delete it and give the run's own command" in capsys.readouterr().err
    result.unlink()
    assert cli.main(words) == 0
    assert "epoch 1/1" not in capsys.readouterr().err  # nothing was trained again
    after = json.loads(result.read_text(encoding="utf-8"))
    assert {**after, "matrix_gflops": 0} == {**before, "matrix_gflops": 0}


def test_lost_checkpoints_are_said(tmp_path, notes):
    train("small-digits", out=tmp_path / "run", overrides=["train.epochs=1"])
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    (tmp_path / "run" / "result.json").unlink()
    train("small-digits", out=tmp_path / "run", overrides=["train.epochs=1"], reporter=notes)
    assert notes.warnings() == [
        f"warning: there are no checkpoints in {tmp_path}/run/checkpoints: starting at step 0 again"
    ]


def test_progress_that_nobody_reads_does_not_end_a_training(tmp_path):
    command = f"{sys.executable} -m alexnet train --set train.epochs=2 --out {tmp_path / 'run'} 2>&1 >/dev/null"
    subprocess.run(["bash", "-c", f"{command} | head -1"], check=True, stdout=subprocess.DEVNULL, timeout=300)
    assert Run(tmp_path / "run").finished


def test_what_cannot_be_predicted_is_named_among_what_can(digits_run, tmp_path, capsys, monkeypatch):
    (tmp_path / "seven.png").write_bytes(digit_png(7))
    (tmp_path / "nothing").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    status = cli.main(["predict", str(digits_run.folder), "gone.png", "nothing", "-", "seven.png", "--json"])
    *refused, seven = json.loads(capsys.readouterr().out)
    assert status == 2
    assert [answer["error"] for answer in refused] == [
        "gone.png: cannot be read: No such file or directory",
        "nothing: is a folder without files; give image files or folders of them",
        "standard input: is empty",
    ]
    assert seven["predictions"][0]["label"] == "7"


def test_a_data_root_does_not_hide_the_digits(tmp_path):
    run = train("small-digits", out=tmp_path / "run", data_root=tmp_path, overrides=["train.epochs=1"])
    assert run.description["source"] == "digits"
    (row,) = evaluate(run.folder)
    assert row["images"] == 360


def test_ten_views_need_a_crop(digits_run, capsys):
    assert cli.main(["evaluate", str(digits_run.folder), "--views", "10"]) == 2
    assert "ten views need a crop" in capsys.readouterr().err


def test_json_leaves_one_document_on_stdout(digits_run, capsys):
    assert cli.main(["evaluate", str(digits_run.folder), "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert {"top1", "top5", "loss", "images", "per_class"} <= set(row)
    assert cli.main(["prepare", "digits", "--json", "--verify"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["splits"] == {"train": 1437, "val": 0, "test": 360}
    assert facts["damage"] == []
