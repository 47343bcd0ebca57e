"""``alexnet bench``, with real networks and the fewest and shortest turns."""

import json

import pytest

from alexnet.cli.main import main
from alexnet.core.errors import UserError
from alexnet_lab.bench import data, hardware_peak, run
from alexnet_lab.bench.hardware_peak import HardwarePeak, highest
from alexnet_lab.bench.interleaved import Timed
from alexnet_lab.bench.run import run_benchmark

pytestmark = pytest.mark.slow

QUICK = ["--rounds", "1", "--seconds", "0.01", "--device", "cpu"]
COLUMNS = {"what", "variant", "batch", "precision", "ours", "stock", "ratio", "share_of_bound", "peak_memory"}


@pytest.fixture(scope="module", autouse=True)
def small_products():
    """Products and copies of a fraction of the work: what is tested here is that they stand beside the rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hardware_peak, "SIDE", 1024)
        patch.setattr(hardware_peak, "SECONDS", 0.01)
        patch.setattr(hardware_peak.copy_rate, "__defaults__", (2**24,))
        yield


@pytest.fixture(scope="module")
def inference():
    """The document of a small network's inference: in the default precision and with int8 weights."""
    return run_benchmark("infer", variants=["small"], batches=[1], rounds=1, seconds=0.01, device="cpu")


@pytest.fixture
def few_photographs(monkeypatch):
    monkeypatch.setattr(data, "PHOTOGRAPHS", 16)
    monkeypatch.setattr(data.make_photographs, "__defaults__", (16,))


def test_training_steps_are_rows_of_figures(capsys):
    assert main(["bench", "train", "--variant", "paper", "--batch", "2", *QUICK, "--json"]) == 0
    (row,) = (document := json.loads(capsys.readouterr().out))["rows"]
    assert row.keys() >= COLUMNS
    assert (row["what"], row["variant"], row["batch"]) == ("training step", "paper", 2)
    assert row["ratio"] == pytest.approx(row["ours"] / row["stock"])
    assert row["ours"] > 0
    assert row["peak_memory"] > 61e6 * 4 * 3  # weights, gradients, velocities in fp32
    assert row["first_seconds"] > 0
    assert document["hardware_peak"]["fp32_gflops"] > 0
    assert document["hardware_peak"]["copy_gigabytes"] > 0
    assert document["hardware"]["threads"] >= 1


def test_a_person_sees_a_table_and_the_machine(inference, capsys, monkeypatch):
    asked = []

    def finished(what, **settings):
        asked.append((what, settings["variants"], settings["batches"], settings["precision"]))
        return inference

    monkeypatch.setattr("alexnet_lab.bench.run.run_benchmark", finished)
    assert main(["bench", "infer", "--variant", "small", "--batch", "1", "--precision", "fp32", *QUICK]) == 0
    assert asked == [("infer", ["small"], [1], "fp32")]
    shown = capsys.readouterr().out
    assert "GFLOP/s in a product" in shown
    assert "inference" in shown
    assert "stock PyTorch, fp32" in shown
    assert "alexnet predict, the whole command" in shown
    assert "python -c 'import torch'" in shown
    assert " × (" in shown


def test_inference_is_timed_with_int8_weights_too(inference):
    rows = [row for row in inference["rows"] if row["beside"] == "stock PyTorch, fp32"]
    assert [row["precision"] for row in rows] == [inference["hardware"]["precision"], "int8"]
    assert rows[1]["bound"] == "int8 matrix product"
    assert inference["hardware_peak"]["int8_gflops"] > 0


def test_a_comparison_that_fails_does_not_cost_the_others(monkeypatch, notes):
    asked = []

    def timed(candidates, rounds, seconds, progress):
        asked.append(candidates)
        if len(asked) == 1:
            raise UserError("ours could not be timed: OutOfMemoryError: 50 GB")
        return {name: Timed((2.0,), 0.1, 100) for name in candidates}

    monkeypatch.setattr(run, "time_interleaved", timed)
    found = run_benchmark("train", variants=["small"], batches=[1, 2], device="cpu", reporter=notes)
    assert [row["batch"] for row in found["rows"]] == [2]
    assert found["failed"][0].startswith("training step small batch 1 ")
    assert found["failed"][0].endswith(": ours could not be timed: OutOfMemoryError: 50 GB")
    assert notes.lines == [f"warning: left out: {found['failed'][0]}"]
    asked.clear()
    with pytest.raises(UserError, match="ours could not be timed"):
        run_benchmark("train", variants=["small"], batches=[1], device="cpu", reporter=notes)


def test_loading_of_images(capsys, few_photographs):
    assert main(["bench", "data", "--variant", "torchvision", "--batch", "4", *QUICK, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["beside"] for row in rows] == [
        "Pillow, then torchvision",
        "one batch in memory",
        "DataLoader with Pillow, stock PyTorch, fp32",
    ]
    assert all(row["ratio"] > 0 for row in rows)


def test_nothing_is_timed_that_could_not_be_kept(monkeypatch, capsys):
    monkeypatch.setattr("alexnet_lab.results.records.code_commit", lambda: None)
    monkeypatch.setattr("alexnet_lab.bench.run.run_benchmark", lambda *given, **more: pytest.fail("it was timed"))
    assert main(["bench", "train", "--keep", *QUICK]) == 2
    assert "--keep needs a checkout" in capsys.readouterr().err


def test_a_machine_can_do_what_it_did_in_its_best_moment():
    assert highest(HardwarePeak(1.0, 5.0, 3.0), HardwarePeak(2.0, 4.0, 3.5)) == HardwarePeak(2.0, 5.0, 3.5)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["train", "--batch", "0"], "argument --batch: '0' is not a whole number of 1 or more"),
        (["train", "--variant", "alexnext"], "unknown variant 'alexnext'"),
        (["data", "--data", "digits"], "digits has no image files to decode"),
        (["train", "--seconds", "nan"], "argument --seconds"),
    ],
)
def test_mistakes_cost_a_line(words, line, capsys):
    assert main(["bench", *words, *([] if "--seconds" in words else QUICK)]) == 2
    assert f"alexnet: {line}" in capsys.readouterr().err
