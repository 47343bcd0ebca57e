"""The first command of the README, run once as a process: its accuracy and its time, and predictions of its model.

These tests are in one file, so that workers of pytest-xdist do not train the same run twice.
"""

import io
import json
import statistics
import subprocess
import sys
import time

import pytest

from alexnet import Predictor, Run, evaluate, train
from alexnet.cli.main import main as cli
from alexnet.runtime.device import matrix_rate, resolve_device

REFERENCE_GFLOPS = 700.0  # the machine that the limit in seconds is for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # trainings, on a machine that others may use too


@pytest.fixture(scope="module")
def first_command(tmp_path_factory):
    """``alexnet train``, seed 0: its run, and its seconds from start to end."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    command = [sys.executable, "-m", "alexnet", "train", "--out", str(out), "--json"]
    start = time.perf_counter()
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds = time.perf_counter() - start
    run = Run(out)
    assert json.loads(shown)["top1"] == run.result["top1"]
    return run, seconds


@pytest.fixture
def digits_run(first_command):
    return first_command[0]


def test_three_seeds_on_digits(first_command, tmp_path):
    """The first command of the README reaches its accuracy in its time, start and imports included.

    Two more seeds come near it with a third of the epochs.
    """
    run, seconds = first_command
    short = {"train.epochs": 7}
    others = [train(out=tmp_path / str(seed), seed=seed, overrides=short, progress=False) for seed in (1, 2)]
    assert statistics.mean(each.result["top1"] for each in (run, *others)) >= 0.96
    assert seconds <= 90 * max(1.0, REFERENCE_GFLOPS / matrix_rate(resolve_device()))


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
