"""The queue: every training builds, the cheapest comes first, what is measured is not run again."""

import json

import pytest

from alexnet import cli
from alexnet.core.errors import UserError
from alexnet.reproduce import experiments
from alexnet.reproduce.claims import STATEMENTS
from alexnet.reproduce.experiments import EXPERIMENTS, Experiment, needed
from alexnet.reproduce.finding import Results
from alexnet.runtime.run import Run


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_builds_under_its_name(name):
    recipe = EXPERIMENTS[name].build()
    assert recipe.name == name
    assert EXPERIMENTS[name].minutes > 0


def test_the_cheapest_comes_first_and_claims_choose(tmp_path):
    nothing = Results(tmp_path)
    everything = needed([], nothing, missing=True)
    assert [item.minutes for item in everything] == sorted(item.minutes for item in EXPERIMENTS.values())
    assert [item.name for item in needed(["c16"], nothing, missing=True)] == [
        "lenet5-fashion-mnist",
        "d2l-fashion-mnist",
    ]
    with pytest.raises(UserError, match=r"no training answers C5: those that one does are C12, C14, C15"):
        needed(["C5"], nothing, missing=True)


def test_every_training_that_a_claim_reads_can_be_run():
    assert {name for statement in STATEMENTS.values() for name in statement.trainings} <= set(EXPERIMENTS)


def test_what_departs_from_a_recipe_is_no_evidence_for_it(tmp_path):
    value = {"recipe": {"name": "d2l-fashion-mnist"}, "departs_from_the_named_recipe": "train.epochs (10, now 1)"}
    (tmp_path / "d2l-fashion-mnist_x_y_2026-01-01.json").write_text(json.dumps({**value, "runs": [{}]}))
    assert Results(tmp_path).runs("d2l-fashion-mnist") == []


def test_the_queue_runs_keeps_and_goes_on(tmp_path, monkeypatch, capsys):
    """Two seeds of a short training: interrupted between them, then continued, then nothing left to do."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    monkeypatch.setattr("alexnet.runtime.run.source_commit", lambda: "0" * 40)
    monkeypatch.setattr("alexnet.reproduce.results.rewrite_readme", lambda: None)
    short = Experiment("digits-briefly", 0.1, seeds=(0, 1), recipe="small-digits", changes=("train.epochs=1",))
    monkeypatch.setattr(experiments, "EXPERIMENTS", {short.name: short})
    real, calls = cli.importlib.import_module("alexnet.commands.reproduce").train, []

    def stop_before_the_second(recipe, **settings):
        calls.append(settings["seed"])
        if calls == [0, 1]:
            raise KeyboardInterrupt
        return real(recipe, **settings)

    monkeypatch.setattr("alexnet.commands.reproduce.train", stop_before_the_second)
    assert cli.main(["reproduce", "--run", "--missing"]) == 130
    assert not list((tmp_path / "results").iterdir())
    first = (tmp_path / "runs" / "reproduce" / "digits-briefly-0" / "result.json").stat().st_mtime_ns
    assert cli.main(["reproduce", "--run", "--missing"]) == 0
    assert (tmp_path / "runs" / "reproduce" / "digits-briefly-0" / "result.json").stat().st_mtime_ns == first
    (kept,) = (tmp_path / "results").iterdir()
    assert [run["seed"] for run in json.loads(kept.read_text(encoding="utf-8"))["runs"]] == [0, 1]
    assert Run(tmp_path / "runs" / "reproduce" / "digits-briefly-1").recipe.name == "digits-briefly"
    done = len(calls)
    assert cli.main(["reproduce", "--run", "--missing"]) == 0
    assert len(calls) == done
    assert "digits-briefly, 2 seed(s)" in capsys.readouterr().err
