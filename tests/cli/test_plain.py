"""``--plain``: the path without fast forms learns the same, and a model serves both."""

import json

import pytest
import torch

from alexnet.api import evaluate, train
from alexnet.cli.main import main
from alexnet.kernels import winograd

# At the recipe's own rate, meant for batch normalization, seeds end anywhere between 77 and 99 % after so few epochs.
NORMALIZED = ("model.norm_layer=response", "train.epochs=8", "optim.lr=0.02", "train.precision=fp32")


def test_a_short_training_ends_within_the_spread_of_seeds_on_both_paths(tmp_path):
    fast = [train("small-digits", out=tmp_path / f"fast-{seed}", seed=seed, overrides=NORMALIZED) for seed in range(3)]
    plain = train("small-digits", out=tmp_path / "plain", overrides=NORMALIZED, reference=True)
    found = [run.result["top1"] for run in fast]
    margin = max(found) - min(found) + 1 / 360  # an image of the test set
    assert min(found) - margin <= plain.result["top1"] <= max(found) + margin
    first, twin = ([line["loss"] for line in run.metrics() if "loss" in line][:3] for run in (fast[0], plain))
    assert first == pytest.approx(twin, abs=1e-3)  # the same draws; rounding has not spread yet
    (by_fast,), (by_plain,) = evaluate(plain.folder, precision="fp32"), evaluate(plain.folder, reference=True)
    assert by_fast["loss"] == pytest.approx(by_plain["loss"], rel=1e-2)


def test_so_does_one_by_winograd_s_filtering(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    filtered = []
    whole = winograd.convolve
    monkeypatch.setattr(winograd, "convolve", lambda x, *given: (filtered.append(len(x)), whole(x, *given))[1])
    wide = ("model.width=2", "train.epochs=3", "optim.lr=0.02", "train.precision=fp32")
    fast = [train("small-digits", out=tmp_path / f"fast-{seed}", seed=seed, overrides=wide) for seed in range(3)]
    assert len(filtered) > 3 * 3 * 22  # more than once a step
    filtered.clear()
    plain = train("small-digits", out=tmp_path / "plain", overrides=wide, reference=True)
    assert not filtered
    found = [run.result["loss"] for run in fast]
    margin = max(found) - min(found)
    assert min(found) - margin <= plain.result["loss"] <= max(found) + margin
    first, twin = ([line["loss"] for line in run.metrics() if "loss" in line][:3] for run in (fast[0], plain))
    assert first == pytest.approx(twin, abs=1e-3)


def test_int8_weights_cost_less_than_half_a_point(tmp_path):
    run = train("small-digits", out=tmp_path / "run", overrides=("train.epochs=8",))
    (full,), (rounded,) = (evaluate(run.folder, precision=precision) for precision in ("fp32", "int8"))
    assert full["top1"] > 0.9
    assert abs(rounded["top1"] - full["top1"]) <= 0.005
    assert rounded["loss"] == pytest.approx(full["loss"], rel=0.05)
    assert rounded["loss"] != full["loss"]


def test_the_option_reaches_the_training_and_a_checkpoint_says_so(tmp_path, capsys):
    words = ["train", "small-digits", "--set", "train.epochs=1", "--precision", "fp32"]
    for option, plain in (("--plain", True), (None, False)):
        out = tmp_path / str(option)
        assert main([*words, "--out", str(out), *([option] if option else [])]) == 0
        (state,) = (json.loads(path.read_text()) for path in out.glob("checkpoints/*/state.json"))
        assert state["plain"] is plain
    assert "the run is in" in capsys.readouterr().out
