"""``--reference``: the reference layers learn the same as the fast kernels, and a model serves both."""

import json

import pytest
import torch

from alexnet import evaluate, train
from alexnet.cli.main import main
from alexnet.kernels import winograd

# At the recipe's own learning rate, meant for batch normalization, seeds end anywhere between 77 and 99 %.
NORMALIZED = ("model.norm_layer=lrn", "model.width=0.5", "train.epochs=5", "optim.lr=0.02", "train.precision=fp32")
WIDE = ("model.width=2", "train.steps=16", "optim.lr=0.02", "train.precision=fp32")  # wide enough for Winograd kernels

pytestmark = pytest.mark.slow


def first_losses(run) -> list[float]:
    return [line["loss"] for line in run.metrics() if "loss" in line][:3]


def test_a_short_training_ends_within_the_spread_of_seeds_on_both_paths(tmp_path):
    fast = [train("small-digits", out=tmp_path / f"fast-{seed}", seed=seed, overrides=NORMALIZED) for seed in range(3)]
    reference = train("small-digits", out=tmp_path / "reference", overrides=NORMALIZED, reference=True)
    found = [run.result["top1"] for run in fast]
    margin = max(found) - min(found) + 1 / 360  # an image of the test set
    assert min(found) - margin <= reference.result["top1"] <= max(found) + margin
    assert first_losses(fast[0]) == pytest.approx(first_losses(reference), abs=1e-3)  # the same draws; little rounding
    (by_fast,), (by_reference,) = (evaluate(reference.folder, precision="fp32", reference=it) for it in (False, True))
    assert by_fast.loss == pytest.approx(by_reference.loss, rel=1e-2)


def test_so_does_one_with_winograd_kernels(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    filtered = []
    convolve = winograd.convolve
    monkeypatch.setattr(winograd, "convolve", lambda x, *given: (filtered.append(len(x)), convolve(x, *given))[1])
    fast = [train("small-digits", out=tmp_path / f"fast-{seed}", seed=seed, overrides=WIDE) for seed in range(3)]
    assert len(filtered) > 3 * 16  # more than once a step
    filtered.clear()
    reference = train("small-digits", out=tmp_path / "reference", overrides=WIDE, reference=True)
    assert not filtered
    found = [run.result["loss"] for run in fast]
    margin = max(found) - min(found)
    assert min(found) - margin <= reference.result["loss"] <= max(found) + margin
    assert first_losses(fast[0]) == pytest.approx(first_losses(reference), abs=1e-3)


def test_the_option_reaches_the_training_and_is_kept_in_its_checkpoints(tmp_path, capsys):
    words = ["train", "small-digits", "--set", "train.steps=2", "--set", "model.width=0.25", "--precision", "fp32"]
    for option, reference in (("--reference", True), ("--plain", True), (None, False)):  # --plain: its earlier name
        out = tmp_path / str(option)
        assert main([*words, "--keep-checkpoints", "--out", str(out), *([option] if option else [])]) == 0
        (state,) = (json.loads(path.read_text()) for path in out.glob("checkpoints/*/state.json"))
        assert state["plain"] is reference
    assert "the run is in" in capsys.readouterr().out
