"""Trainings on few images: the draws, the figures, and the table of them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet.core.errors import UserError
from alexnet.core.files import read_json, write_json
from alexnet.data.sources import open_source
from alexnet_lab import transfer
from alexnet_lab.results.reader import Results

NETWORK = Path(__file__).parents[1] / "data_files" / "colour-network"


@pytest.fixture(scope="module")
def source_folder(tmp_path_factory):
    """Three classes of colours: eight training and two test images each."""
    root, draws = tmp_path_factory.mktemp("colours"), np.random.default_rng(0)
    for label, name in enumerate(("blue", "green", "red")):
        for split, count in (("train", 8), ("test", 2)):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = draws.integers(0, 60, (40, 40, 3), np.uint8)
                pixels[:, :, 2 - label] += 150
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return root


def test_a_draw_is_random_but_the_same_again(source_folder, tmp_path):
    source = open_source(str(source_folder))
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        transfer.draw(source, tmp_path / name, 2, 5, seed)
    contents = {
        name: {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.png")}
        for name in ("one", "again", "other")
    }
    assert contents["one"] == contents["again"] != contents["other"]
    assert len(contents["one"]) == 2 * (5 + 2)
    originals = {path.read_bytes() for path in (source_folder / "train").rglob("*.png")}
    training = [data for path, data in contents["one"].items() if path.parts[0] == "train"]
    assert len({*training}) == 10 <= len(originals & {*training})
    with pytest.raises(UserError, match="has 8 training images, 9 are needed"):
        transfer.draw(source, tmp_path / "large", 2, 9, 0)
    assert not (tmp_path / "large").exists()


def test_the_command_measures_and_its_figures_are_read_again(source_folder, tmp_path, capsys, monkeypatch):
    words = ["run", str(source_folder), "--name", "colours", "--classes", "2", "--images", "6", "--draws", "1"]
    words += ["--methods", "default", "--from", str(NETWORK), "--out", str(tmp_path)]
    assert transfer.main(words) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("colours-2-classes-6-0, default, seed 0: ")
    (row,) = [read_json(path) for path in tmp_path.glob("*.json")]
    assert (row["recipe"], row["images"], row["steps"]) == ("photos-transfer", 4, 0)
    assert 0 <= row["folds_top1"] <= 1
    assert row["train_top1"] > 0.5
    monkeypatch.setattr(transfer, "train", None)
    assert transfer.main(words) == 0
    assert capsys.readouterr().out == shown


@pytest.mark.parametrize("extra", [[], [("set-100-0", "random weights", 0.5, 1.0, None)]])
def test_the_table(tmp_path, extra):
    trainings = [
        {"draw": draw, "method": method, "top1": top1, "train_top1": train, "folds_top1": folds, "seconds": 9}
        for draw, method, top1, train, folds in (
            ("set-30-0", "default", 0.5, 0.7, 0.6), ("set-30-1", "default", 0.7, 0.8, 0.5),
            ("set-30-0", "random weights", 0.4, 0.9, None), ("set-100-0", "default", 0.9, 1.0, None),
            *extra,
        )
    ]  # fmt: skip
    hardware = {"hardware": "a chip", "device": "cpu", "precision": "bf16"}
    value = {"what": "transfer", "trainings": trainings, "hardware": hardware, "date": "2026-11-29", "commit": "abc"}
    write_json(tmp_path / "bench_transfer_machine_2026-11-29.json", value)
    text = transfer.table(Results(tmp_path))
    assert "| set-30 | default | 2 | 60.0% (50.0% – 70.0%) | 75.0% | 55.0% | 15.0 | 9 |" in text
    assert "| set-30 | random weights | 1 | 40.0% (40.0% – 40.0%) | 90.0% | – | – | 9 |" in text
    assert text.index("set-30") < text.index("set-100")
    (tmp_path / "empty").mkdir()
    assert transfer.table(Results(tmp_path / "empty")) == "Not measured yet."
    transfer.draw_picture(Results(tmp_path), tmp_path / "picture.png")
    assert (tmp_path / "picture.png").exists() == bool(extra)  # one number of images is no curve


def test_the_layers_are_probed_and_kept(source_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "LAYERS", ("relu1", "relu5"))
    words = ["layers", str(source_folder), "--from", str(NETWORK), "--out", str(tmp_path)]
    assert transfer.main(words) == 0
    found = read_json(tmp_path / "layers" / "layers.json")
    assert found["images"] == 24
    assert [row["layer"] for row in found["layers"]] == ["relu1", "relu5"]
    assert found["layers"][0]["trained"]["accuracy"] > 0.8
    write_json(tmp_path / "layers" / "layers.json", {**found, "commit": "abc"})
    monkeypatch.setattr("alexnet_lab.results.records.check_clean", lambda commit, what: str(commit))
    monkeypatch.setattr("alexnet_lab.results.reader.results_folder", lambda: tmp_path / "results")
    (tmp_path / "results").mkdir()
    (path,) = transfer.keep(tmp_path)
    assert path.name.startswith("bench_transfer-layers_")
    text = transfer.layers_table(Results(tmp_path / "results"))
    assert "| `relu5` |" in text
    assert "24 training images of 3 classes" in text
