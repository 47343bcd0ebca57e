"""The queue: every training builds, the cheapest comes first, what is measured is not run again."""

import json

import pytest

from alexnet import cli
from alexnet.config import override
from alexnet.core.errors import UserError
from alexnet.core.typed import to_json
from alexnet.recipes import get_recipe
from alexnet.reproduce import experiments
from alexnet.reproduce.claims import STATEMENTS
from alexnet.reproduce.experiments import EXPERIMENTS, Experiment, needed
from alexnet.reproduce.finding import Results
from alexnet.reproduce.results import keep_comparison
from alexnet.runtime.run import Run


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_builds_under_its_name(name):
    recipe = EXPERIMENTS[name].build()
    assert recipe.name == name
    assert EXPERIMENTS[name].minutes > 0


def test_the_cheapest_comes_first_and_claims_choose(tmp_path):
    nothing = Results(tmp_path)
    everything = needed([], nothing, "cpu", missing=True)
    assert [item.minutes for item in everything] == sorted(item.minutes for item in everything)
    assert [item.name for item in needed(["c16"], nothing, "cpu", missing=True)] == [
        "lenet5-fashion-mnist",
        "d2l-fashion-mnist",
    ]
    with pytest.raises(UserError, match=r"no training answers C5: those that one does are C12, C13, C14, C15"):
        needed(["C5"], nothing, "cpu", missing=True)


def test_a_gpu_is_asked_for_more(tmp_path):
    nothing = Results(tmp_path)
    on_cpu, on_gpu = ({item.name for item in needed([], nothing, kind, missing=True)} for kind in ("cpu", "cuda"))
    whole = {"cuda-convnet-cifar10-13pct", "cuda-convnet-cifar10-11pct"}
    wide = {f"small-{name}-best-wide" for name in ("fashion-mnist", "cifar10", "tiny-imagenet")}
    assert on_gpu - on_cpu == whole | wide
    assert {"cuda-convnet-cifar10-13pct-30-epochs", "torchvision-cifar10-400-steps"} <= on_cpu - on_gpu
    assert len(EXPERIMENTS["torchvision-cifar10"].seeds("cuda")) == 5


def test_what_one_machine_measured_another_kind_still_lacks(tmp_path):
    def keep(seeds, device):
        runs = [{"seed": seed, "hardware": {"device": device}} for seed in seeds]
        value = {"recipe": to_json(get_recipe("small-digits")), "runs": runs}
        (tmp_path / "small-digits_digits_x_2026-01-01.json").write_text(json.dumps(value), encoding="utf-8")

    def lacking(kind):
        return "small-digits" in {item.name for item in needed([], Results(tmp_path), kind, missing=True)}

    keep((0, 1), "cpu")
    assert lacking("cpu")  # a seed too few
    keep((0, 1, 2), "cpu")
    assert not lacking("cpu")
    assert lacking("cuda")
    keep((0, 1, 2), "cuda")
    assert lacking("cpu")
    assert not lacking("cuda")


def test_every_training_that_a_claim_reads_can_be_run():
    assert {name for statement in STATEMENTS.values() for name in statement.trainings} <= set(EXPERIMENTS)


def test_what_departs_from_a_recipe_is_no_evidence_for_it(tmp_path):
    recipe = override(get_recipe("d2l-fashion-mnist"), ["train.epochs=1"])
    value = {"recipe": to_json(recipe), "runs": [{}]}
    (tmp_path / "d2l-fashion-mnist_x_y_2026-01-01.json").write_text(json.dumps(value), encoding="utf-8")
    assert Results(tmp_path).runs("d2l-fashion-mnist") == []


def clean_checkout(monkeypatch):
    for place in ("runtime.run", "commands.queue"):
        monkeypatch.setattr(f"alexnet.{place}.source_commit", lambda: "0" * 40)


def test_nothing_is_trained_that_could_not_be_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("alexnet.commands.queue.source_commit", lambda: None)
    assert cli.main(["reproduce", "C16", "--run"]) == 2
    assert "--run works only from a clean checkout of the project" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_speed_is_timed_where_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clean_checkout(monkeypatch)
    timed = []
    monkeypatch.setattr("alexnet.commands.queue.time_the_textbook", timed.append)
    assert cli.main(["reproduce", "c17", "--run", "--device", "cpu"]) == 0
    assert len(timed) == 1
    value = {"recipe": "d2l-fashion-mnist", "date": "2026-01-01", "commit": "0" * 40}
    value["hardware"] = {"hardware": "Two Chips", "device": "cpu", "precision": "bf16"}
    value["rounds"] = [{"ours": 100.0, "stock": 40.0}, {"ours": 90.0, "stock": 30.0}]
    assert keep_comparison(value).name == "bench_d2l-fashion-mnist_two-chips_2026-01-01.json"
    finding = STATEMENTS["C17"].check(Results(tmp_path / "results"))
    assert "95 a second here, 35 by the textbook's own loop in fp32: 2.8 × (Two Chips, bf16)" in finding.measured
    assert cli.main(["reproduce", "c17", "--run", "--missing", "--device", "cpu"]) == 0
    assert len(timed) == 1


def test_the_queue_runs_keeps_and_goes_on(tmp_path, monkeypatch, capsys):
    """Two seeds of a short training: interrupted between them, then continued, then nothing left to do."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    clean_checkout(monkeypatch)
    changes = ("train.epochs=1",)
    short = Experiment("digits-briefly", 0.1, (0, 1), (0, 1), "small-digits", changes)
    elsewhere = Experiment("elsewhere", 0.1, (0,), (0,), "paper-imagenet", changes)
    monkeypatch.setattr(experiments, "EXPERIMENTS", {elsewhere.name: elsewhere, short.name: short})
    monkeypatch.setenv("ALEXNET_HOME", str(tmp_path / "home"))
    real, calls = cli.importlib.import_module("alexnet.commands.queue").train, []

    def stop_before_the_second(recipe, **settings):
        calls.append((recipe.name, settings["seed"]))
        if calls.count(("digits-briefly", 1)) == len(calls) - 2 == 1:
            raise KeyboardInterrupt
        return real(recipe, **settings)

    monkeypatch.setattr("alexnet.commands.queue.train", stop_before_the_second)
    timed = []
    monkeypatch.setattr("alexnet.commands.queue.time_the_textbook", timed.append)
    assert cli.main(["reproduce", "--run", "--missing"]) == 130
    assert len(timed) == 1
    assert not list((tmp_path / "results").iterdir())
    first = (tmp_path / "runs" / "reproduce" / "digits-briefly-0" / "result.json").stat().st_mtime_ns
    assert (
        cli.main(["reproduce", "--run", "--missing"]) == 2
    )  # one has no images here, the other is trained all the same
    shown = capsys.readouterr().err
    assert "elsewhere: imagenet was not found" in shown
    assert "1 of 2 trainings could not be run, see above: elsewhere" in shown
    assert (tmp_path / "runs" / "reproduce" / "digits-briefly-0" / "result.json").stat().st_mtime_ns == first
    (kept,) = (tmp_path / "results").iterdir()
    assert [run["seed"] for run in json.loads(kept.read_text(encoding="utf-8"))["runs"]] == [0, 1]
    assert Run(tmp_path / "runs" / "reproduce" / "digits-briefly-1").recipe.name == "digits-briefly"
    done = len(calls)
    assert cli.main(["reproduce", "--run", "--missing"]) == 2
    assert len(calls) == done + 1  # only the one that cannot be run was tried
