"""The queue: every training builds, the cheapest comes first, what is measured is not run again."""

import json
from dataclasses import replace

import pytest
import torch

from alexnet.cli.main import main
from alexnet.config import Claim, differences, override
from alexnet.core.errors import UserError
from alexnet.core.schema import to_json
from alexnet.models.registry import build, get_architecture
from alexnet.recipes import get_recipe
from alexnet.runtime.run import Run, start_or_continue
from alexnet_lab import job_queue
from alexnet_lab.claims.registry import STATEMENTS, needed_experiments
from alexnet_lab.experiments.ablations import ABLATIONS, BASE
from alexnet_lab.experiments.registry import EXPERIMENTS, Experiment, run_folder
from alexnet_lab.results.reader import Results
from alexnet_lab.results.records import keep_bench


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_builds_under_its_name(name):
    recipe = EXPERIMENTS[name].build()
    assert recipe.name == name
    assert EXPERIMENTS[name].minutes > 0
    assert EXPERIMENTS[name].seeds("cpu") or EXPERIMENTS[name].seeds("cuda")
    channels = 1 if "mnist" in name or "digits" in name else 3
    architecture = get_architecture(recipe.model.variant, **recipe.model.overrides())
    network = build(recipe.model.variant, architecture, 10, channels, recipe.data.image_size, device="meta")
    side = network.image_size
    assert network.eval()(torch.empty(2, channels, side, side, device="meta")).shape == (2, 10)


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_changes_what_it_says(name):
    changed = {path for path, _, _ in differences(get_recipe(BASE), EXPERIMENTS[name].build())}
    assert changed == {change.partition("=")[0] for change in ABLATIONS[name].changes}


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        (BASE, {"lrn"}),
        ("ablate-normalization", set()),
        ("ablate-normalization-slower", set()),
        ("with-batch-norm", {"batch-norm"}),
        ("fashion-mnist-28-pixels", set()),
    ],
)
def test_normalization_is_what_the_name_says(name, kinds):
    recipe = EXPERIMENTS[name].build()
    architecture = get_architecture(recipe.model.variant, **recipe.model.overrides())
    operations = {operation for layer in architecture.convs for operation in layer.ops}
    assert operations & {"lrn", "in-map", "batch-norm"} == kinds


def test_the_cheapest_comes_first_and_claims_choose(tmp_path):
    nothing = Results(tmp_path)
    everything = needed_experiments([], nothing, "cpu", missing=True)
    costs = [item.minutes * len(item.cpu_seeds) for item in everything]
    assert costs == sorted(costs)
    assert costs != [item.minutes for item in everything]
    assert [item.name for item in needed_experiments(["c16"], nothing, "cpu", missing=True)] == [
        "lenet5-fashion-mnist",
        "d2l-fashion-mnist",
    ]
    with pytest.raises(
        UserError, match=r"the check of C5 needs no training: those that need one are C12, C13, C14, C15"
    ):
        needed_experiments(["C5"], nothing, "cpu", missing=True)


def test_a_gpu_is_asked_for_more(tmp_path):
    nothing = Results(tmp_path)
    on_cpu, on_gpu = (
        {item.name for item in needed_experiments([], nothing, kind, missing=True)} for kind in ("cpu", "cuda")
    )
    whole = {"cuda-convnet-cifar10-13pct", "cuda-convnet-cifar10-11pct"}
    wide = {f"small-{name}-best-wide" for name in ("fashion-mnist", "cifar10", "tiny-imagenet")}
    longer = {f"{name}-longer" for name in [BASE, *ABLATIONS]}
    own = {"paper-half-tiny-imagenet", "torchvision-cifar10-batch-norm"}
    whole_ones = {"torchvision-cifar10-fixed", "torchvision-cifar10-fixed-400-steps", "keras-cifar10"}
    assert on_gpu - on_cpu == whole | wide | longer | own | whole_ones | {"cuda-convnet-cifar10-18pct"}
    assert {item.name for item in needed_experiments(["C14"], nothing, "cuda", missing=True)} == whole
    assert {"cuda-convnet-cifar10-13pct-30-epochs", "keras-cifar10-64-pixels"} <= on_cpu - on_gpu
    for statement in STATEMENTS.values():  # a claim that needs a training can be measured on a GPU too
        if statement.trainings:
            assert needed_experiments([statement.id], nothing, "cuda", missing=True), statement.id
    assert len(EXPERIMENTS["torchvision-cifar10"].seeds("cuda")) == 5


def test_what_one_machine_measured_another_kind_still_lacks(tmp_path):
    def keep(seeds, device):
        runs = [{"seed": seed, "hardware": {"device": device}} for seed in seeds]
        value = {"recipe": to_json(get_recipe("small-digits")), "set": "digits", "runs": runs}
        (tmp_path / "small-digits_digits_x_2026-01-01.json").write_text(json.dumps(value), encoding="utf-8")

    def lacking(kind):
        return "small-digits" in {item.name for item in needed_experiments([], Results(tmp_path), kind, missing=True)}

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


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder that counts as a clean checkout of the project."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    monkeypatch.setattr("alexnet_lab.results.reader.results_folder", lambda: tmp_path / "results")
    monkeypatch.setattr("alexnet.runtime.run.source_commit", lambda: "0" * 40)
    for place in ("alexnet_lab.results.records", "alexnet_lab.job_queue"):
        monkeypatch.setattr(f"{place}.code_commit", lambda: "0" * 40)
    return tmp_path


def test_nothing_is_trained_that_could_not_be_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("alexnet_lab.job_queue.code_commit", lambda: None)
    assert main(["reproduce", "C16", "--run"]) == 2
    assert "--run needs a checkout of the project" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_speed_is_timed_where_it_is_asked_for(checkout, monkeypatch):
    timed = []
    monkeypatch.setattr("alexnet_lab.job_queue.time_textbook", lambda *given: timed.append(given))
    assert main(["reproduce", "c17", "--run", "--device", "cpu"]) == 0
    assert len(timed) == 1
    value = {"recipe": "d2l-fashion-mnist", "date": "2026-01-01", "commit": "0" * 40}
    value["hardware"] = {"hardware": "Two Chips", "device": "cpu", "precision": "bf16", "matrix_dtype": "bfloat16"}
    value["rounds"] = [{"ours": 100.0, "stock": 40.0}, {"ours": 90.0, "stock": 30.0}]
    assert keep_bench(value).name == "bench_d2l-fashion-mnist_two-chips-avx-512-bf16_2026-01-01.json"
    result = STATEMENTS["C17"].check(Results(checkout / "results"))
    assert (
        "95 images a second here, 35 with the textbook's own loop in fp32: 2.8 × (Two Chips, AVX-512 BF16, bf16)"
        in result.measured
    )
    assert main(["reproduce", "c17", "--run", "--missing", "--device", "cpu"]) == 0
    assert len(timed) == 1


def test_the_queue_runs_keeps_and_goes_on(checkout, monkeypatch, capsys):
    """Two seeds of a short training: interrupted between them, then continued, then nothing left to do; then anew."""
    changes = ("train.epochs=1",)
    short = Experiment("digits-briefly", 0.1, (0, 1), (0, 1), "small-digits", changes)
    elsewhere = Experiment("elsewhere", 0.1, (0,), (0,), "paper-imagenet", changes)
    for place in ("experiments", "claims"):
        monkeypatch.setattr(f"alexnet_lab.{place}.registry.EXPERIMENTS", {e.name: e for e in (elsewhere, short)})
    monkeypatch.setenv("ALEXNET_HOME", str(checkout / "home"))
    real, calls, timed = job_queue.train, [], []

    def stop_before_the_second(recipe, **settings):
        calls.append((recipe.name, settings["seed"]))
        if calls.count(("digits-briefly", 1)) == len(calls) - 2 == 1:
            raise KeyboardInterrupt
        return real(recipe, **settings)

    def time_it(*given):
        timed.append(given)
        raise UserError("no clothes here")

    monkeypatch.setattr("alexnet_lab.job_queue.train", stop_before_the_second)
    monkeypatch.setattr("alexnet_lab.job_queue.time_textbook", time_it)
    command = ["reproduce", "--run", "--device", "cpu"]
    runs = checkout / "runs" / "reproduce" / "cpu"
    assert main([*command, "--missing"]) == 130
    assert not list((checkout / "results").iterdir())
    assert timed == []  # the cheapest comes first
    first = (runs / "digits-briefly-0" / "result.json").stat().st_mtime_ns
    assert main([*command, "--missing"]) == 2  # one has no images here, the other is trained
    shown = capsys.readouterr().err
    assert "elsewhere, 1 seed(s), about 0 minutes: imagenet was not found" in shown
    assert "2 of 3 jobs failed, see above: elsewhere, d2l-fashion-mnist and" in shown
    assert (runs / "digits-briefly-0" / "result.json").stat().st_mtime_ns == first
    (kept,) = (checkout / "results").iterdir()
    assert [run["seed"] for run in json.loads(kept.read_text(encoding="utf-8"))["runs"]] == [0, 1]
    assert Run(runs / "digits-briefly-1").recipe.name == "digits-briefly"
    assert not Run(runs / "digits-briefly-1").checkpoints.exists()
    done = len(calls)
    assert main([*command, "--missing"]) == 2
    assert len(calls) == done + 1  # only the one that cannot be run was tried
    assert main(command) == 2
    assert {path.name for path in runs.iterdir()} == {f"digits-briefly-{seed}" for seed in ("0", "1", "0-2", "1-2")}


def test_a_run_by_other_settings_stays_as_it_is(checkout):
    recipe = get_recipe("small-digits")
    folder = run_folder(recipe, "cpu", 0, again=False)
    start_or_continue(folder, recipe, 0, "digits", "d1")
    assert run_folder(recipe, "cpu", 0, again=True) == folder  # begun, not finished
    assert run_folder(override(recipe, ["train.epochs=1"]), "cpu", 0, again=False) == folder.with_name(
        "small-digits-0-2"
    )
    assert run_folder(recipe, "cuda", 0, again=False) != folder
    reworded = replace(recipe, claim=Claim(cost="nothing"))
    assert run_folder(reworded, "cpu", 0, again=False) == folder


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("/nowhere", "--data /nowhere: write NAME:PATH, e.g. cifar10:/nowhere"),
        ("cifr10:/x", "unknown source 'cifr10': did you mean 'cifar10'"),
        ("cifar10:", "--data cifar10:: write NAME:PATH"),
    ],
)
def test_a_wrong_source_is_an_error_before_anything_is_trained(checkout, capsys, place, line):
    assert main(["reproduce", "C16", "--run", "--data", place]) == 2
    assert line in capsys.readouterr().err
    assert not (checkout / "runs").exists()
