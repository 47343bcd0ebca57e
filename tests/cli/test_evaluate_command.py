"""``alexnet evaluate``, ``alexnet predict`` and ``alexnet prepare`` on trained runs."""

import json
import shutil

import numpy as np
import pytest

from alexnet import UserError, evaluate, load_model
from alexnet.cli.main import main as cli


def test_evaluate_repeats_the_final_evaluation_of_the_training(narrow_run):
    (metrics,) = evaluate(narrow_run.folder, precision=narrow_run.recipe.train.precision)
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


def test_prepare_prints_what_the_dataset_holds(capsys):
    assert cli(["prepare", "digits", "--json", "--verify"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["splits"] == {"train": 1437, "val": 0, "test": 360}
    assert facts["damage"] == []
    assert cli(["prepare", "digits", "--verify"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("digits: 1,797 images of 8 × 8 × 1 in 10 classes (1,437 train, 360 test)")
    assert shown.endswith("verified: all files are unchanged\n")
