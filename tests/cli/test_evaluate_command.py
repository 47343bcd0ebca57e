"""``alexnet evaluate``, ``alexnet predict`` and ``alexnet prepare`` on trained runs."""

import io
import json
import shutil
import sys

import numpy as np
import pytest

from alexnet import Predictor, UserError, evaluate, load_model
from alexnet.cli.main import main as cli


def test_evaluate_repeats_the_final_evaluation_of_the_training(narrow_run):
    (metrics,) = evaluate(narrow_run.folder)
    result = narrow_run.result
    assert (metrics.top1, metrics.top5, metrics.images) == (result["top1"], result["top5"], result["images"])
    assert (metrics.split, metrics.views, metrics.name) == ("test", 1, str(narrow_run.folder))
    assert metrics.loss == pytest.approx(result["loss"], rel=1e-3)
    matrix = metrics.confusion_matrix()
    assert (np.trace(matrix), matrix.sum()) == (metrics.correct, 360)
    assert metrics.per_class() == result["per_class"]


def test_a_model_given_twice_counts_once_and_a_copy_changes_nothing(narrow_run, tmp_path, capsys):
    (alone,) = evaluate([narrow_run.folder, narrow_run.model_folder])
    shutil.copytree(narrow_run.folder, tmp_path / "copy", ignore=shutil.ignore_patterns("checkpoints"))
    models = [narrow_run.folder, tmp_path / "copy", narrow_run.folder]
    assert cli(["evaluate", *map(str, models), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["run"] for row in rows] == [str(narrow_run.folder), str(tmp_path / "copy"), "ensemble"]
    expected = alone.to_json()
    for name in ("top1", "top5", "images", "per_class", "confusions", "confusion_matrix"):
        assert rows[2][name] == rows[0][name] == expected[name]
    assert rows[2]["loss"] == pytest.approx(alone.loss, rel=1e-6)


def test_a_loaded_model_is_evaluated_on_a_source(narrow_run):
    model = load_model(narrow_run.folder)
    (by_path,) = evaluate(narrow_run.folder)
    (by_value,) = evaluate(model, "digits")
    assert (by_value.top1, by_value.loss, by_value.name) == (by_path.top1, by_path.loss, "small")
    with pytest.raises(UserError, match="small is a loaded model, so its images are unknown: give data=SOURCE"):
        evaluate(model)
    with pytest.raises(UserError, match="there is no model to evaluate"):
        evaluate([])


def test_the_table_is_for_people_and_ten_views_need_a_crop(narrow_run, capsys):
    assert cli(["evaluate", str(narrow_run.folder)]) == 0
    shown = capsys.readouterr().out
    assert f"{narrow_run.result['top1']:.2%}" in shown
    assert "360 test images" in shown
    assert cli(["evaluate", str(narrow_run.folder), "--views", "10"]) == 2
    assert "ten views need a crop" in capsys.readouterr().err


def test_predict_names_the_digit(digits_run, digit_png, tmp_path, capsys):
    predictor = Predictor(digits_run.folder)
    right = [found[0].name == str(index % 10) for index, found in enumerate(predictor([*map(digit_png, range(10))]))]
    assert sum(right) >= 9
    (tmp_path / "seven.png").write_bytes(digit_png(7))
    (tmp_path / "broken.png").write_bytes(b"not an image")
    command = ["predict", str(digits_run.folder), str(tmp_path), "--top-k", "3"]
    assert cli([*command, "--json"]) == 2
    broken, seven = json.loads(capsys.readouterr().out)
    assert "broken.png" in broken["error"]
    assert [len(seven["predictions"]), seven["predictions"][0]["label"]] == [3, "7"]
    assert cli(command) == 2
    shown, refused = capsys.readouterr()
    assert shown.splitlines()[1].endswith("7")
    assert refused == f"alexnet: {broken['error']}\n"


def test_refused_images_are_named_among_the_others(digits_run, digit_png, tmp_path, capsys, monkeypatch):
    (tmp_path / "seven.png").write_bytes(digit_png(7))
    (tmp_path / "nothing").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    status = cli(["predict", str(digits_run.folder), "gone.png", "nothing", "-", "seven.png", "--json"])
    *refused, seven = json.loads(capsys.readouterr().out)
    assert status == 2
    assert [answer["error"] for answer in refused] == [
        "gone.png: cannot be read: No such file or directory",
        "nothing: is a folder without files; give image files or folders of them",
        "standard input: is empty",
    ]
    assert seven["predictions"][0]["label"] == "7"


def test_int8_weights_cost_less_than_half_a_point(digits_run):
    (full,), (rounded,) = (evaluate(digits_run.folder, precision=precision) for precision in ("fp32", "int8"))
    assert full.top1 > 0.9
    assert abs(rounded.top1 - full.top1) <= 0.005
    assert rounded.loss == pytest.approx(full.loss, rel=0.05)
    assert rounded.loss != full.loss


def test_prepare_prints_what_the_dataset_holds(capsys):
    assert cli(["prepare", "digits", "--json", "--verify"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["splits"] == {"train": 1437, "val": 0, "test": 360}
    assert facts["damage"] == []
    assert cli(["prepare", "digits", "--verify"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("digits: 1,797 images of 8 × 8 × 1 in 10 classes (1,437 train, 360 test)")
    assert shown.endswith("verified: all files are unchanged\n")
