"""What ``alexnet evaluate`` and ``alexnet predict`` write: classes by name, CSV, a threshold, sorted copies."""

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from alexnet import evaluate
from alexnet.cli.main import main as cli


@pytest.fixture(scope="module")
def digit_folder(tmp_path_factory):
    """Writes test images of scikit-learn's digits to FOLDER/test/CLASS, which folder is named after which digit."""
    images, labels = load_digits(return_X_y=True)

    def make(names, each=4):
        root = tmp_path_factory.mktemp("digits")
        for digit, name in names.items():
            (root / "test" / name).mkdir(parents=True)
            for number in np.flatnonzero(labels == digit)[:each]:
                pixels = np.rint(images[number].reshape(8, 8) * 255 / 16).astype(np.uint8)
                Image.fromarray(pixels).save(root / "test" / name / f"{number}.png")
        return root

    return make


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_a_folder_with_some_of_the_classes_and_only_test_images(narrow_run, digit_folder, tmp_path, capsys):
    folder, file = digit_folder({7: "7", 2: "2"}), tmp_path / "rows.csv"
    assert cli(["evaluate", str(narrow_run.folder), "--data", str(folder), "--predictions", str(file), "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["images"], found["split"]) == (8, "test")
    assert {name: counted["images"] for name, counted in found["per_class"].items() if counted["images"]} == {
        "2": 4, "7": 4,
    }  # fmt: skip
    assert "has no images of 8 classes of the model: 0, 1, 3, 4, 5, 6, 8, 9; they are not counted" in err
    rows = rows_of(file.read_text())
    assert [row["true"] for row in rows] == ["2"] * 4 + ["7"] * 4
    assert sum(row["true"] == row["predicted"] for row in rows) == round(found["top1"] * 8) > 4
    assert all(row["file"].startswith(f"test/{row['true']}/") for row in rows)
    assert all(0.1 <= float(row["probability"]) <= 1 for row in rows)


def test_classes_that_the_model_does_not_have_are_named(narrow_run, digit_folder, capsys):
    folder = digit_folder({7: "7", 2: "two"})
    assert cli(["evaluate", str(narrow_run.folder), "--data", str(folder)]) == 2
    assert "has 1 class that the model does not have (two): leave them out, or rename them" in capsys.readouterr().err


def test_predictions_of_an_evaluation_are_those_that_were_counted(narrow_run, tmp_path, capsys):
    file = tmp_path / "rows.csv"
    (metrics,) = evaluate(narrow_run.folder, predictions=file)
    rows = rows_of(file.read_text())
    assert len(rows) == metrics.images == 360
    assert sum(row["true"] == row["predicted"] for row in rows) == metrics.correct
    for place in (tmp_path, tmp_path / "nowhere" / "rows.csv"):
        assert cli(["evaluate", str(narrow_run.folder), "--predictions", str(place)]) == 2
        assert f"--predictions {place}: give a file in a folder that exists" in capsys.readouterr().err


def test_predict_prints_csv_and_sorts_copies(narrow_run, digit_folder, tmp_path, capsys):
    folder, out = digit_folder({7: "7", 2: "2"}) / "test", tmp_path / "sorted"
    (folder / "7" / "bad, name.png").write_text("no image")
    command = ["predict", str(narrow_run.folder), str(folder)]
    assert cli([*command, "--csv", "--sort-into", str(out)]) == 2
    printed, errors = capsys.readouterr()
    rows = rows_of(printed)
    assert list(rows[0]) == ["file", "predicted", "probability"]
    assert len(rows) == 9
    assert [row["file"] for row in rows if not row["predicted"]] == [str(folder / "7" / "bad, name.png")]
    assert "bad, name.png: is not a" in errors
    good = [row for row in rows if row["predicted"]]
    assert len(list(out.rglob("*.png"))) == 8
    assert all((out / row["predicted"] / row["file"].rpartition("/")[2]).is_file() for row in good)
    assert cli([*command, "--json", "--threshold", "1", "--sort-into", str(out)]) == 2
    answers = [answer for answer in json.loads(capsys.readouterr().out) if "error" not in answer]
    assert all(answer["none_of_these"] for answer in answers)
    assert {answer["copied_to"] for answer in answers} == set(map(str, (out / "none of these").iterdir()))
    assert cli([*command[:2], str(folder / "2"), "--threshold", "1", "--top-k", "2"]) == 0
    assert "  none of these: no class reaches 100.00%" in capsys.readouterr().out
    assert cli([*command, "--csv", "--top-k", "2", "--threshold", "1"]) == 2
    rows = rows_of(capsys.readouterr().out)
    assert list(rows[0]) == ["file", "predicted", "probability", "predicted_2", "probability_2"]
    assert {row["predicted"] for row in rows} == {"none of these", ""}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--csv", "--json"], "--csv and --json are two forms of the same result"),
        (["--threshold", "1.5"], "'1.5' is not a number from 0 to 1"),
        (["--sort-into", "IMAGES/sorted"], "is inside"),
        (["-", "--sort-into", "out"], "standard input is none"),
    ],
)
def test_mistakes_are_one_line(narrow_run, digit_folder, monkeypatch, capsys, options, line):
    folder = str(digit_folder({7: "7"}))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
    options = [option.replace("IMAGES", folder) for option in options]
    assert cli(["predict", str(narrow_run.folder), folder, *options]) == 2
    errors = capsys.readouterr().err
    assert line in errors
    assert len(errors.splitlines()) == 1
