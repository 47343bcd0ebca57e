"""Every statement has a verdict, those computed here the right one, those read from results what the results show."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from alexnet.cli.main import main as cli
from alexnet.config import override
from alexnet.core.errors import UserError
from alexnet.core.schema import to_json
from alexnet.recipes import RECIPES, get_recipe
from alexnet_lab.claims.claim_result import Results, results_folder
from alexnet_lab.claims.registry import DOCUMENTS, STATEMENTS, get_statement
from alexnet_lab.experiments.registry import EXPERIMENTS

ROOT = Path(__file__).parents[2]
VERDICTS = re.compile(r"confirmed|corrected|refuted|at this scale: .+|out of reach: .+|pending: .+")
COMPUTED = {  # what is known of the network and its history, whatever was trained
    "C1": "confirmed", "C2": "confirmed", "C3": "corrected", "C4": "confirmed", "C5": "corrected", "C6": "confirmed",
    "C7": "corrected", "C8": "refuted", "C9": "corrected", "C10": "corrected", "C11": "confirmed", "C18": "corrected",
    "C27": "refuted", "C28": "refuted", "C29": "corrected", "C30": "corrected", "C31": "confirmed", "C32": "refuted",
    "C33": "refuted", "C34": "confirmed",
}  # fmt: skip


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


def test_all_claims_are_there():
    assert list(STATEMENTS) == [f"C{number}" for number in range(1, 35)]
    for statement in STATEMENTS.values():
        assert {*re.findall(r"S\d|paper", statement.source)} <= set(DOCUMENTS)
        assert statement.claimed


@pytest.mark.parametrize("name", STATEMENTS)
def test_every_claim_has_a_verdict_without_any_results(name, results):
    finding = STATEMENTS[name].check(results())
    assert VERDICTS.fullmatch(finding.verdict)
    if name in COMPUTED:
        assert finding.verdict == COMPUTED[name]
        assert finding.measured != "–"
    elif STATEMENTS[name].trainings:
        assert finding.verdict.startswith(("pending", "out of reach"))


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
        ("C12", {"fig1_relu": [run(train=(0.8, 0.9))], "fig1_tanh": [run()]}, "at this scale: 2.0 ×", "ReLU 1, tanh 2"),
        (
            "C12", {"fig1_relu": [run(train=(0.8, 0.9))], "fig1_tanh": [run(), run(train=(0.1, 0.2))]},
            "at this scale: more than 2.0 ×", "ReLU 1, tanh 2, not in 2",
        ),
        (
            "C12", {"fig1_relu": [run(), run(train=(0.1, 0.2))], "fig1_tanh": [run()]},
            "at this scale: ReLU did not reach it in every seed", "ReLU 2, not in 2, tanh 2",
        ),
        ("C13", {"small_cifar10_2012": [run(active_units={"conv1": 0.45, "fc6": 0.55})]}, "confirmed", "fc6 55%"),
        (  # 32 maps of 32 × 32 and 512 hidden units
            "C13", {"small_cifar10_2012": [run(active_units={"conv1": 0.45, "fc6": 0.15})]},
            "at this scale: 45% in small-cifar10-2012; in single layers 15% to 45%", "45% of all units; conv1 45%, fc6",
        ),
        (
            "C14", {f"cuda_convnet_cifar10_{p}pct_30_epochs": [run(0.8)] for p in (13, 11)},
            "at this scale: 20.00% (1 seed) and 20.00% (1 seed) after 30 epochs", "wider layer",
        ),
        ("C15", {"d2l_fashion_mnist": [run(0.885, **TEXTBOOK)] * 3}, "confirmed", "test 88.50% (88.50% – 88.50%, 3 "),
        ("C15", {"d2l_fashion_mnist": [run(0.885)] * 3}, "corrected", "training loss 1.000, training accuracy 80.0%"),
        ("C15", {"d2l_fashion_mnist": [run(0.905, **TEXTBOOK)] * 3}, "corrected", "test 90.50%"),
        ("C15", {"d2l_fashion_mnist": [run(0.70), run(0.75), run(0.80)]}, "refuted", "(70.00% – 80.00%, 3 seeds)"),
        (
            "C15", {"d2l_fashion_mnist": [curve(0.1, 0.84, 0.86, 0.85, 0.885)]},
            "at this scale: loss 0.89, 88.5% and 88.5% with 1 seed", "(1 seed), in the last four epochs 84.0% to 88.5%",
        ),
        ("C16", {"lenet5_fashion_mnist": [run(0.84)]}, "pending: d2l", "LeNet 84.00%"),
        ("C16", {"lenet5_fashion_mnist": [run(0.84)], "d2l_fashion_mnist": [run(0.89)]}, "confirmed", "89.00%"),
        ("C16", {"lenet5_fashion_mnist": [run(0.80)], "d2l_fashion_mnist": [run(0.89)]}, "corrected", "LeNet 80.00%"),
        ("C16", {"lenet5_fashion_mnist": [run(0.84)], "d2l_fashion_mnist": [run(0.83)]}, "refuted", "83.00%"),
        (
            "C19", {"small_cifar10_2012": [run(**kernels(0.1, 0.6, 0.001)), run(**kernels(0.4, 0.3, 0.03)), run()],
                    "ablate_columns": [run(**kernels(0.3, 0.3, 0.9))]},
            "at this scale: two columns differ in colour in 1 and orientation in 0 of 2 seeds; halves of an undivided "
            "layer differ in colour in 0 and orientation in 0 of 1 seeds", "two columns, colour 0.50 and 0.20",
        ),
        (
            "C19", {"small_cifar10_2012": [run(**kernels(0.3, 0.3, 0.9))],
                    "ablate_columns": [run(**kernels(0.3, 0.3, 0.9))],
                    "cuda_convnet_tiny_imagenet_12_epochs": [run(**kernels(0.1, 0.6, 0.001))]},
            "at this scale: two columns differ in colour in 0 and orientation in 0 of 1 seeds; halves of an undivided "
            "layer differ in colour in 0 and orientation in 0 of 1 seeds; two columns of the authors' network differ "
            "in colour in 1", "two columns of the authors' network, colour 0.60 and 0.10",
        ),
        (
            "C20", {"small_cifar10_2012": seeds(0.60, 0.62, 0.61), "ablate_normalization": diverged(312, 273, 312),
                    "ablate_normalization_slower": seeds(0.50, 0.52, 0.51),
                    "small_cifar10_2012_slower": seeds(0.55, 0.57, 0.56)},
            "at this scale: no response normalization: diverged by steps 273 to 312 in 3 of 3 seeds; no response "
            "normalization, both at a tenth of the rate: -5.0 points (-5.0 to -5.0)", "over 3 seeds of 6 epochs",
        ),
        (  # the mean of -0.01, 0.01 and -0.03 with Student's 4.303 for two degrees of freedom
            "C20", {name: seeds(0.59, 0.63, 0.58) for name in ("ablate_normalization", "ablate_normalization_slower")}
            | {name: seeds(0.60, 0.62, 0.61) for name in ("small_cifar10_2012", "small_cifar10_2012_slower")},
            "at this scale: no effect to be seen", "-1.0 points (-6.0 to +4.0), unclear",
        ),
        (
            "C20", {"small_cifar10_2012": seeds(0.60, 0.62, 0.61), "ablate_normalization": diverged(312, 312)},
            "pending: ablate-normalization-slower and small-cifar10-2012-slower not measured yet", "–",
        ),
        ("C20", {"small_cifar10_2012": seeds(0.60, 0.62)}, "pending: ablate-normalization", "–"),
        (
            "C21", {"fashion_mnist_28_pixels": [curve(0.7, 0.85)], "fashion_mnist_65_pixels": [curve(0.6, 0.86)],
                    "d2l_fashion_mnist": [curve(0.8, 0.87, 0.89)]},
            "at this scale: 28 pixels 85.00% (1 seed) and 224 pixels 87.00% (1 seed) after epoch 2; 65 pixels 86.00% "
            "(1 seed) and 224 pixels 87.00% (1 seed) after epoch 2", "224 pixels in the end 89.00%",
        ),
        (  # 28 pixels were trained as long as 224: the last epoch of both is compared, not the second
            "C21", {"fashion_mnist_28_pixels": [curve(0.7, 0.85, 0.9)], "fashion_mnist_65_pixels": [curve(0.6)],
                    "d2l_fashion_mnist": [curve(0.8, 0.87, 0.89)], "small_fashion_mnist_quick": [run(0.88)]},
            "at this scale: 28 pixels 90.00% (1 seed) and 224 pixels 89.00% (1 seed) after epoch 3; 65 pixels 60.00%",
            "trained another way: 88.00%",
        ),
        (
            "C21", {"fashion_mnist_28_pixels": [curve(0.88)], "fashion_mnist_65_pixels": [curve(0.86)],
                    "d2l_fashion_mnist": [curve(0.87, 0.9)], "small_fashion_mnist_quick": [run(0.91)]},
            "corrected", "takes 65 pixels or more; at 28 the variant small",
        ),
        (
            "C22", {"torchvision_cifar10_400_steps": ending(1.9, 1.7, 9),
                    "torchvision_cifar10_400_steps_batch_norm": ending(1.5, 1.6)},
            "at this scale: after 400 steps faster; a standard deviation over 2 seeds of 0.07 instead of 0.14, which "
            "so few cannot tell from chance (p = 0.59)", "1.80 (1.70 – 1.90, 2 seeds) without",
        ),
        (  # F = 10⁴ with 2 and 2 degrees of freedom: p = 2 / (1 + F)
            "C22", {"torchvision_cifar10_400_steps": ending(1.0, 2.0, 3.0),
                    "torchvision_cifar10_400_steps_batch_norm": ending(1.99, 2.0, 2.01)},
            "at this scale: after 400 steps neither faster nor slower beyond the seeds' spread; a standard deviation "
            "over 3 seeds of 0.01 instead of 1.00, a difference (p = 0.00)", "the document has it after",
        ),
        (
            "C13", {"small_cifar10_2012": [run(active_units={"conv1": 0.45, "fc6": 0.55})],
                    "paper_tiny_imagenet": [run(losses=(2.0, 2.3), active_units={"conv1": 0.1})]},
            "confirmed", "paper-tiny-imagenet left out: its loss still stands where guessing has it",
        ),
        (
            "C26", {"torchvision_cifar10": [run(0.6)], "torchvision_cifar10_400_steps_fp32": ending(1.5)},
            "confirmed", "in fp32 the test loss after 400 steps is 1.50 (1 seed)",
        ),
        ("C26", {"torchvision_cifar10": [run(0.6)]}, "confirmed", "after five epochs 0 of 1 stand there, test 60.00%"),
        ("C26", {"torchvision_cifar10": [run(0.1, (2.3, 2.3)), run(0.6)]}, "refuted", "five epochs 1 of 2 stand there"),
        ("C26", {"torchvision_cifar10": [run(0.1, (2.3, 2.6))]}, "refuted", "after five epochs 1 of 1 stand there"),
        ("C26", {"torchvision_cifar10": [run(0.6), *diverged(90)]}, "refuted", "five epochs 1 of 2 stand there"),
        (
            "C26", {"torchvision_cifar10_400_steps": [run(0.6, (2.3, 1.6)), *diverged(90)]}, "corrected",
            "after 400 steps 1 of 2 seeds stand at ln 10 (test loss 1.60, not a number)",
        ),
        (
            "C21", {"fashion_mnist_28_pixels": diverged(9, 12), "fashion_mnist_65_pixels": [run(0.86)],
                    "d2l_fashion_mnist": [run(0.89)]},
            "at this scale: fashion-mnist-28-pixels diverged by steps 9 to 12 in 2 of 2 seeds", "–",
        ),
        (
            "C26", {"torchvision_cifar10_400_steps": [run(0.1, (2.3, 2.31)), run(0.4, (2.3, 1.8))],
                    "torchvision_cifar10": [run(0.6)]},
            "corrected", "after 400 steps 1 of 2 seeds stand at ln 10 (test loss 2.31, 1.80)",
        ),
    ],
)  # fmt: skip
def test_trainings_are_read_as_they_are(name, trainings, verdict, figure, results):
    finding = STATEMENTS[name].check(results(**trainings))
    assert finding.verdict.startswith(verdict)
    assert figure in finding.measured
    assert "results/" in finding.evidence or verdict.startswith("pending")


def test_the_newest_results_count(tmp_path):
    for date, top1 in (("2026-03-01", 0.89), ("2026-02-01", 0.10)):
        write(tmp_path, "d2l-fashion-mnist", date, [run(top1, **TEXTBOOK)] * 3)
    assert STATEMENTS["C15"].check(Results(tmp_path)).verdict == "confirmed"


def test_a_claim_by_name():
    assert get_statement("c7").id == "C7"
    with pytest.raises(UserError, match="unknown claim 'C77': did you mean 'C7'"):
        get_statement("C77")


def test_the_command_prints_a_table_pages_and_json(capsys):
    assert cli.main(["reproduce"]) == 0
    table = capsys.readouterr().out
    assert all(re.search(rf"^{name} ", table, re.MULTILINE) for name in STATEMENTS)
    assert cli.main(["reproduce", "c5", "C8"]) == 0
    pages = capsys.readouterr().out
    assert pages.count("verdict") == 2
    assert "refuted" in pages
    assert "anew" not in pages
    assert cli.main(["reproduce", "C12"]) == 0
    assert re.search(
        r"anew      alexnet reproduce C12 --run: about \d+ minutes on two CPU cores", capsys.readouterr().out
    )
    assert cli.main(["reproduce", "C5", "--json"]) == 0
    (document,) = json.loads(capsys.readouterr().out)
    assert set(document) == {"id", "claim", "source", "claimed", "measured", "verdict", "evidence"}


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
    with pytest.raises(UserError, match=r"a_b_2026-01-01\.json is no result of this project, or damaged"):
        Results(tmp_path)


def test_tables_are_shown_where_a_line_is_not_enough(capsys):
    assert cli.main(["reproduce", "C28", "C34"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"pool5 +max pool +nothing is left", shown)
    assert re.search(r"norm10 +norm", shown)
    assert re.search(r"fc6 +fully connected +432\.0 ", shown)  # 3 · 4 · (9216 + 1) · 4096 / 2²⁰


def test_results_are_those_of_a_checkout_and_never_another_folder_of_that_name(tmp_path, monkeypatch):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "my_own_data.json").write_text("{}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "alexnet_lab.claims.claim_result.__file__", str(tmp_path / "site" / "alexnet" / "reproduce" / "f.py")
    )
    assert results_folder() == tmp_path / "site" / "results"
    monkeypatch.chdir(ROOT)  # as after "pip install ." there
    assert results_folder() == ROOT / "results"


def test_without_results_the_network_still_answers(tmp_path, monkeypatch, capsys):
    """As after an installation without the checkout: what is computed needs no files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("alexnet_lab.claims.claim_result.project_root", lambda: tmp_path)
    assert cli.main(["reproduce"]) == 0
    shown = capsys.readouterr().out
    assert "there are no results/ beside the package" in shown
    assert re.search(r"^C6 .* confirmed$", shown, re.MULTILINE)
    assert re.search(r"^C15 .* pending: ", shown, re.MULTILINE)
