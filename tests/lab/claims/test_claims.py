"""Every claim has a verdict: computed ones the right one, the others what their results show, with a reason."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch

from alexnet.analysis.filters import colour_index
from alexnet.cli.main import main
from alexnet.config import override
from alexnet.core.errors import UserError
from alexnet.core.schema import to_json
from alexnet.recipes import RECIPES, get_recipe
from alexnet_lab.claims.ablation_claims import RANDOM_COLOUR
from alexnet_lab.claims.claim_result import INCONCLUSIVE, PENDING, Verdict
from alexnet_lab.claims.registry import SOURCES, STATEMENTS, get_statement
from alexnet_lab.experiments.registry import EXPERIMENTS
from alexnet_lab.results.reader import Results, results_folder

ROOT = Path(__file__).parents[3]
VERDICTS = get_args(Verdict)
WEAK = ("C12", "C13", "C16", "C19", "C20", "C21", "C22", "C24", "C25")  # to be measured again
COMPUTED = {  # the verdicts that need no training
    **dict.fromkeys(("C1", "C2", "C4", "C6", "C11", "C31", "C34"), "supported"),
    **dict.fromkeys(("C3", "C5", "C7", "C9", "C10", "C18", "C29", "C30", "C32"), "corrected"),
    **dict.fromkeys(("C8", "C27", "C28", "C33"), "not supported"),
}


def write(folder, training, date, runs):
    recipe = RECIPES.get(training) or EXPERIMENTS[training].build()
    diverged = [run for run in runs if "finding" in run]
    finished = [run for run in runs if run not in diverged]
    value = {"recipe": to_json(recipe), "set": recipe.data.source, "runs": finished, "diverged": diverged}
    (folder / f"{training}_set_machine_{date}.json").write_text(json.dumps(value), encoding="utf-8")


def run(top1=0.5, losses=(2.0, 1.0), train=(0.3, 0.8), **more):
    epochs = [
        {"epoch": n, "train_loss": loss, "train_top1": share}
        for n, (loss, share) in enumerate(zip(losses, train, strict=True), 1)
    ]
    device_config = {"hardware": "a chip", "device": "cpu", "precision": "bf16"}
    speed = {"images_per_second": 90.0, "seconds": 60.0, "hardware": device_config, "seed": 0}
    return {"top1": top1, "loss": losses[-1], "epochs": epochs, **speed, **more}


def curve(*shares):
    """A run with its test accuracy after each epoch."""
    value = run(shares[-1], losses=shares, train=shares)
    for line, share in zip(value["epochs"], shares, strict=True):
        line["test_top1"] = share
    return value


def kernels(first, second, p):
    """Measures of conv1 whose halves differ in colour by so much, and in orientation not."""
    alike = {"first": 0.5, "second": 0.5, "p": 1.0}
    return {"kernels": {"colour": {"first": first, "second": second, "p": p}, "orientation": alike}}


def seeds(*top1, **more):
    return [run(value, **more, seed=seed) for seed, value in enumerate(top1)]


def diverged(*steps):
    """Seeds whose loss was no number by these steps."""
    device_config = {"hardware": "a chip", "device": "cpu"}
    return [
        {"seed": seed, "step": step, "finding": "the loss is nan", "hardware": device_config}
        for seed, step in enumerate(steps)
    ]


def ending(*losses):
    """A seed for each test loss."""
    return [run(losses=(2, last), seed=seed) for seed, last in enumerate(losses)]


@pytest.fixture
def results(tmp_path):
    def make(**trainings):
        for training, runs in trainings.items():
            write(tmp_path, training.replace("_", "-"), "2026-01-01", runs)
        return Results(tmp_path)

    return make


@pytest.fixture(scope="module")
def kept():
    """The outcome of every check on the results that are kept."""
    results = Results(results_folder())
    return {name: statement.check(results) for name, statement in STATEMENTS.items()}


def test_all_claims_are_there():
    assert list(STATEMENTS) == [f"C{number}" for number in range(1, 35)]
    for statement in STATEMENTS.values():
        assert statement.sources
        assert set(statement.sources) <= set(SOURCES)
        assert statement.claimed


@pytest.mark.parametrize("name", STATEMENTS)
def test_every_claim_has_a_verdict_without_any_results(name, results):
    result = STATEMENTS[name].check(results())
    assert result.verdict in VERDICTS
    if name in COMPUTED:
        assert result.verdict == COMPUTED[name]
        assert result.measured != "–"
    else:
        assert (result.verdict, result.measured) == (PENDING, "–")
        assert result.reason


def test_verdicts_that_rest_on_weak_evidence_are_inconclusive_and_give_the_reason(kept):
    for name in WEAK:
        result = kept[name]
        assert result.verdict == INCONCLUSIVE, name
        assert result.figure, name
        assert result.reason.endswith("."), name
        assert result.reason.count(". ") <= 1, name  # one or two sentences
    assert kept["C32"].reason.startswith("The part about AlexNet is right")
    for statement in STATEMENTS.values():
        result = kept[statement.id]
        assert bool(result.reason) or result.verdict not in (INCONCLUSIVE, PENDING), statement.id
        assert not re.search(r"\bS[0-4]\b", f"{result} {statement}")


def test_random_kernels_have_the_colour_index_that_c19_compares_with():
    kernels = torch.randn(20_000, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    assert float(colour_index(kernels).mean()) == pytest.approx(RANDOM_COLOUR, abs=0.002)


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("C2", ["60,965,224", "61,100,840", "62,378,344"]),
        ("C5", ["54", "55", "3 below and right"]),
        ("C6", ["11, 51, 99, 131, 163", "195 after pool5"]),
        ("C7", ["23.24", "43.87"]),  # 100·(2 + 5·1e-4·1e4)^−0.75 and 100·(2 + 1e-4·1e4)^−0.75
        ("C9", ["2,178"]),
        ("C27", ["9,216", "154,587"]),
        ("C28", ["27, 13, 6, 2, 0"]),
        ("C31", ["384 / 16 = 24"]),
    ],
)
def test_figures_are_those_of_arithmetic(name, figures, results):
    measured = STATEMENTS[name].check(results()).measured
    assert all(figure in measured for figure in figures)


TEXTBOOK = {"losses": (1.0, 0.33), "train": (0.7, 0.88)}


@pytest.mark.parametrize(
    ("name", "trainings", "verdict", "figure"),
    [
        ("C12", {"fig1_relu": [run(train=(0.8, 0.9))], "fig1_tanh": [run()]}, "inconclusive: 2.0 ×", "ReLU 1, tanh 2"),
        (
            "C12", {"fig1_relu": [run(train=(0.8, 0.9))], "fig1_tanh": [run(), run(train=(0.1, 0.2))]},
            "inconclusive: 2.0 × or more", "ReLU 1, tanh 2, not in 2",
        ),
        (
            "C12", {"fig1_relu": [run(), run(train=(0.1, 0.2))], "fig1_tanh": [run()]},
            "inconclusive: ReLU did not reach 25% in every seed", "ReLU 2, not in 2, tanh 2",
        ),
        ("C13", {"small_cifar10_2012": [run(active_units={"conv1": 0.45, "fc6": 0.55})]}, "inconclusive", "fc6 55%"),
        (  # 32 maps of 32 × 32 and 512 hidden units
            "C13", {"small_cifar10_2012": [run(active_units={"conv1": 0.45, "fc6": 0.15})]},
            "inconclusive: 45% in small-cifar10-2012; 15% to 45% in single layers", "45% of all units; conv1 45%, fc6",
        ),
        (
            "C14", {f"cuda_convnet_cifar10_{p}pct_30_epochs": [run(0.8)] for p in (13, 11)},
            "inconclusive: 20.00% (1 seed) without and 20.00% (1 seed) with normalization after 30 epochs",
            "wider layer",
        ),
        ("C15", {"d2l_fashion_mnist": [run(0.885, **TEXTBOOK)] * 3}, "supported", "test 88.50% (88.50% – 88.50%, 3 "),
        ("C15", {"d2l_fashion_mnist": [run(0.885)] * 3}, "corrected", "training loss 1.000, training accuracy 80.0%"),
        ("C15", {"d2l_fashion_mnist": [run(0.905, **TEXTBOOK)] * 3}, "corrected", "test 90.50%"),
        ("C15", {"d2l_fashion_mnist": [run(0.70), run(0.75), run(0.80)]}, "not supported", "(70.00% – 80.00%, 3 "),
        (
            "C15", {"d2l_fashion_mnist": [curve(0.1, 0.84, 0.86, 0.85, 0.885)]},
            "inconclusive: loss 0.89, training accuracy 88.5%, test accuracy 88.50% (1 seed)",
            "(1 seed), in the last four epochs 84.0% to 88.5%",
        ),
        ("C16", {"lenet5_fashion_mnist": [run(0.84)]}, "pending", "LeNet 84.00%"),
        ("C16", {"lenet5_fashion_mnist": [run(0.84)] * 3, "d2l_fashion_mnist": [run(0.89)] * 3}, "supported", "89.00%"),
        ("C16", {"lenet5_fashion_mnist": [run(0.80)] * 3, "d2l_fashion_mnist": [run(0.89)] * 3}, "corrected", "80.00%"),
        ("C16", {"lenet5_fashion_mnist": [run(0.84)] * 3, "d2l_fashion_mnist": [run(0.83)] * 3}, "not supported", "83"),
        (
            "C16", {"lenet5_fashion_mnist": [run(0.84)] * 3, "d2l_fashion_mnist": [run(0.89)]},
            "inconclusive: LeNet 84.00%", "89.00% (1 seed)",
        ),
        (
            "C19", {"small_cifar10_2012": [run(**kernels(0.1, 0.6, 0.001)), run(**kernels(0.4, 0.3, 0.03)), run()],
                    "ablate_columns": [run(**kernels(0.3, 0.3, 0.9))]},
            "inconclusive: two columns differ in colour in 1 and orientation in 0 of 2 seeds; halves of an undivided "
            "layer differ in colour in 0 and orientation in 0 of 1 seed", "two columns, colour 0.50 and 0.20",
        ),
        (
            "C19", {"small_cifar10_2012": [run(**kernels(0.3, 0.3, 0.9))],
                    "ablate_columns": [run(**kernels(0.3, 0.3, 0.9))],
                    "cuda_convnet_tiny_imagenet_12_epochs": [run(**kernels(0.1, 0.6, 0.001))]},
            "inconclusive: two columns differ in colour in 0 and orientation in 0 of 1 seed; halves of an undivided "
            "layer differ in colour in 0 and orientation in 0 of 1 seed; two columns of the authors' network differ "
            "in colour in 1", "two columns of the authors' network, colour 0.60 and 0.10",
        ),
        (
            "C20", {"small_cifar10_2012": seeds(0.60, 0.62, 0.61), "ablate_normalization": diverged(312, 273, 312),
                    "ablate_normalization_slower": seeds(0.50, 0.52, 0.51),
                    "small_cifar10_2012_slower": seeds(0.55, 0.57, 0.56)},
            "inconclusive: no LRN: diverged by steps 273 to 312 in 3 of 3 seeds; no LRN, both at a tenth "
            "of the learning rate: -5.0 points (-5.0 to -5.0)", "over 3 seeds of 6 epochs",
        ),
        (  # the mean of -0.01, 0.01 and -0.03 with Student's 4.303 for two degrees of freedom
            "C20", {name: seeds(0.59, 0.63, 0.58) for name in ("ablate_normalization", "ablate_normalization_slower")}
            | {name: seeds(0.60, 0.62, 0.61) for name in ("small_cifar10_2012", "small_cifar10_2012_slower")},
            "inconclusive: no LRN: -1.0 points", "-1.0 points (-6.0 to +4.0), not significant",
        ),
        (
            "C20", {"small_cifar10_2012": seeds(0.60, 0.62, 0.61), "ablate_normalization": diverged(312, 312)},
            "pending", "–",
        ),
        ("C20", {"small_cifar10_2012": seeds(0.60, 0.62)}, "pending", "–"),
        (
            "C21", {"fashion_mnist_28_pixels": [curve(0.7, 0.85)], "fashion_mnist_65_pixels": [curve(0.6, 0.86)],
                    "d2l_fashion_mnist": [curve(0.8, 0.87, 0.89)]},
            "inconclusive: 28 pixels 85.00% (1 seed) and 224 pixels 87.00% (1 seed) after epoch 2; 65 pixels 86.00% "
            "(1 seed) and 224 pixels 87.00% (1 seed) after epoch 2", "224 pixels at the end 89.00%",
        ),
        (  # 28 pixels were trained as long as 224: the last epoch of both is compared, not the second
            "C21", {"fashion_mnist_28_pixels": [curve(0.7, 0.85, 0.9)], "fashion_mnist_65_pixels": [curve(0.6)],
                    "d2l_fashion_mnist": [curve(0.8, 0.87, 0.89)], "small_fashion_mnist_quick": [run(0.88)]},
            "inconclusive: 28 pixels 90.00% (1 seed) and 224 pixels 89.00% (1 seed) after epoch 3; 65 pixels 60.00%",
            "with another training: 88.00%",
        ),
        (
            "C21", {"fashion_mnist_28_pixels": [curve(0.88)] * 3, "fashion_mnist_65_pixels": [curve(0.86)] * 3,
                    "d2l_fashion_mnist": [curve(0.87, 0.9)] * 3, "small_fashion_mnist_quick": [run(0.91)]},
            "corrected", "needs 65 pixels or more, so the variant small without normalization was used at 28 pixels",
        ),
        (
            "C22", {"torchvision_cifar10_400_steps": ending(1.9, 1.7, 9),
                    "torchvision_cifar10_400_steps_batch_norm": ending(1.5, 1.6)},
            "inconclusive: after 400 steps the test loss is lower with it", "standard deviation over 2 seeds is 0.07 "
            "instead of 0.14, not a significant difference (p = 0.59)",
        ),
        (  # F = 10⁴ with 2 and 2 degrees of freedom: p = 2 / (1 + F)
            "C22", {"torchvision_cifar10_400_steps": ending(1.0, 2.0, 3.0),
                    "torchvision_cifar10_400_steps_batch_norm": ending(1.99, 2.0, 2.01)},
            "inconclusive: after 400 steps the test loss is neither clearly lower nor higher with it",
            "the standard deviation over 3 seeds is 0.01 instead of 1.00, a significant difference (p = 0.00)",
        ),
        (
            "C13", {"small_cifar10_2012": [run(active_units={"conv1": 0.45, "fc6": 0.55})],
                    "paper_tiny_imagenet": [run(losses=(2.0, 2.3), active_units={"conv1": 0.1})]},
            "inconclusive", "paper-tiny-imagenet is left out: its loss is still that of random guessing",
        ),
        (
            "C26", {"torchvision_cifar10": [run(0.6)], "torchvision_cifar10_400_steps_fp32": ending(1.5)},
            "supported", "in fp32 the test loss after 400 steps is 1.50 (1 seed)",
        ),
        ("C26", {"torchvision_cifar10": [run(0.6)]}, "supported", "0 of 1 seeds are still at ln 10, test accuracy 60"),
        ("C26", {"torchvision_cifar10": [run(0.1, (2.3, 2.3)), run(0.6)]}, "not supported", "five epochs 1 of 2 seeds"),
        ("C26", {"torchvision_cifar10": [run(0.1, (2.3, 2.6))]}, "not supported", "after five epochs 1 of 1 seeds are"),
        ("C26", {"torchvision_cifar10": [run(0.6), *diverged(90)]}, "not supported", "five epochs 1 of 2 seeds"),
        (
            "C26", {"torchvision_cifar10_400_steps": [run(0.6, (2.3, 1.6)), *diverged(90)]}, "corrected",
            "after 400 steps 1 of 2 seeds are still at ln 10 (test loss 1.60, not a number)",
        ),
        (
            "C21", {"fashion_mnist_28_pixels": diverged(9, 12), "fashion_mnist_65_pixels": [run(0.86)],
                    "d2l_fashion_mnist": [run(0.89)]},
            "inconclusive: fashion-mnist-28-pixels diverged by steps 9 to 12 in 2 of 2 seeds", "–",
        ),
        (
            "C26", {"torchvision_cifar10_400_steps": [run(0.1, (2.3, 2.31)), run(0.4, (2.3, 1.8))],
                    "torchvision_cifar10": [run(0.6)]},
            "corrected", "after 400 steps 1 of 2 seeds are still at ln 10 (test loss 2.31, 1.80)",
        ),
    ],
)  # fmt: skip
def test_a_check_reads_its_trainings(name, trainings, verdict, figure, results):
    result = STATEMENTS[name].check(results(**trainings))
    assert result.in_short.replace(INCONCLUSIVE, "inconclusive").startswith(verdict)
    assert figure in result.measured
    assert "alexnet_lab/results/" in result.evidence or verdict == "pending"
    assert result.reason or result.verdict not in (INCONCLUSIVE, PENDING)


def test_the_newest_results_count(tmp_path):
    for date, top1 in (("2026-03-01", 0.89), ("2026-02-01", 0.10)):
        write(tmp_path, "d2l-fashion-mnist", date, [run(top1, **TEXTBOOK)] * 3)
    assert STATEMENTS["C15"].check(Results(tmp_path)).verdict == "supported"


def test_a_claim_by_name():
    assert get_statement("c7").id == "C7"
    with pytest.raises(UserError, match="unknown claim 'C77': did you mean 'C7'"):
        get_statement("C77")


def test_the_command_prints_a_table_pages_and_json(capsys):
    assert main(["reproduce"]) == 0
    table = capsys.readouterr().out
    assert all(re.search(rf"^{name} ", table, re.MULTILINE) for name in STATEMENTS)
    assert main(["reproduce", "c5", "C8"]) == 0
    pages = capsys.readouterr().out
    assert pages.count("verdict") == 2
    assert "not supported" in pages
    assert "  measure " not in pages
    assert main(["reproduce", "C12"]) == 0
    assert re.search(
        r"measure   alexnet reproduce C12 --run: about \d+ minutes on two CPU cores", capsys.readouterr().out
    )
    assert main(["reproduce", "C5", "--json"]) == 0
    (document,) = json.loads(capsys.readouterr().out)
    assert set(document) == {
        *("id", "statement", "source", "claimed", "measured", "verdict", "figure", "reason", "evidence")
    }


def test_what_was_trained_otherwise_or_on_other_images_is_no_evidence(tmp_path):
    def found(recipe, images):
        value = {"recipe": to_json(recipe), "set": images, "runs": [run()]}
        (tmp_path / "x_y_2026-01-01.json").write_text(json.dumps(value), encoding="utf-8")
        return [value["recipe"]["name"] for _, value in Results(tmp_path).files()]

    recipe, ablation = get_recipe("torchvision-cifar10"), EXPERIMENTS["ablate-overlap"].build()
    assert found(recipe, "cifar10") == ["torchvision-cifar10"]
    assert found(recipe, "cats-and-dogs") == []
    assert found(override(recipe, ["train.epochs=1"]), "cifar10") == []
    assert found(ablation, "cifar10") == ["ablate-overlap"]
    assert found(override(ablation, ["optim.lr=0.9"]), "cifar10") == []
    assert found(replace(recipe, name="nobody"), "cifar10") == []


@pytest.mark.parametrize("text", ["{}", "[]", "not json", '{"recipe": {"name": "x", "optim": 3}}'])
def test_a_damaged_result_costs_one_line(tmp_path, text):
    (tmp_path / "a_b_2026-01-01.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"a_b_2026-01-01\.json is not a result of this project, or it is damaged"):
        Results(tmp_path)


def test_tables_are_shown_where_a_line_is_not_enough(capsys):
    assert main(["reproduce", "C28", "C34"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"pool5 +max pool +nothing is left", shown)
    assert re.search(r"norm10 +norm", shown)
    assert re.search(r"fc6 +fully connected +432\.0 ", shown)  # 3 · 4 · (9216 + 1) · 4096 / 2²⁰


def test_installed_it_gives_the_verdicts_of_a_checkout(tmp_path, kept):
    """The packages without the checkout around them, in an empty folder: same verdicts, and nothing can be kept."""
    for package in ("alexnet", "alexnet_lab"):
        shutil.copytree(ROOT / package, tmp_path / "site" / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "empty").mkdir()

    def alexnet(*words):
        command = [sys.executable, "-m", "alexnet", *words]
        environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
        return subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=tmp_path / "empty", env=environment, timeout=300
        )

    installed = {item["id"]: item["verdict"] for item in json.loads(alexnet("reproduce", "--json").stdout)}
    assert installed == {name: result.verdict for name, result in kept.items()}
    refused = alexnet("reproduce", "C16", "--run")
    assert refused.returncode == 2
    assert refused.stderr.startswith("alexnet: --run needs a checkout of the project (a folder with .git)")
    assert refused.stderr.count("\n") == 1
    assert list((tmp_path / "empty").iterdir()) == []


def test_package_data_is_declared():
    """What the two packages read at run time is what setuptools installs."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        data = tomllib.load(file)["tool"]["setuptools"]["package-data"]
    assert "*.json" in data["alexnet_lab.results"]
    assert "measured.json" in data["alexnet.recipes"]


def test_without_results_the_network_still_answers(tmp_path, monkeypatch, capsys):
    """Claims that are computed need no results."""
    monkeypatch.setattr("alexnet_lab.results.reader.results_folder", lambda: tmp_path)
    assert main(["reproduce"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^C6 .* supported ", shown, re.MULTILINE)
    assert re.search(r"^C15 .* pending ", shown, re.MULTILINE)
    assert "C15: Not measured yet: d2l-fashion-mnist." in shown
