"""Results name what ran, from a clean commit and without a path; the pages agree with the results."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from alexnet import train
from alexnet.cli.list import describe_measured
from alexnet.cli.list import measured_recipes as packaged
from alexnet.cli.main import main
from alexnet.core.errors import DivergedError, UserError
from alexnet.core.files import read_json, write_json
from alexnet.core.schema import to_json
from alexnet.metrics.measures import MEASURES
from alexnet.plots.curves import training_errors
from alexnet.recipes import RECIPES, get_recipe
from alexnet.runtime.run import Run, source_commit
from alexnet_lab import pages
from alexnet_lab.claims.paper_sections import STATEMENTS as PAPER_STATEMENTS
from alexnet_lab.claims.registry import STATEMENTS
from alexnet_lab.experiments.ablations import ABLATIONS, BASE
from alexnet_lab.experiments.registry import EXPERIMENTS, FIGURE_1_RATES, LONGER
from alexnet_lab.measured import measured_recipes
from alexnet_lab.pages import results_table
from alexnet_lab.results import records as results
from alexnet_lab.results.reader import Results, is_current, results_folder, with_todays_words

ROOT = Path(__file__).parents[1]
TRAININGS = [path for path in sorted(results_folder().glob("*_*.json")) if not path.name.startswith("bench_")]


BENCH = {
    "what": "train",
    "hardware": {"device": "cpu", "hardware": "a chip", "precision": "bf16", "threads": 2, "torch": "2.15"},
    "ceilings": {"fp32_gflops": 433.0, "bf16_gflops": 823.0, "copy_gigabytes": 78.0},
    "rows": [
        {
            "what": "training step",
            "beside": "stock PyTorch, fp32",
            "variant": "torchvision",
            "batch": 64,
            "precision": "bf16",
            "ours": 171.2,
            "stock": 64.8,
            "ratio": 2.66,
            "ratio_range": [2.58, 2.69],
            "ceiling": "bf16 matrix product",
            "ceiling_fraction": 0.86,
            "peak_memory": 2**31,
            "first_seconds": 1.1,
        }
    ],
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    (tmp_path / "results").mkdir()
    monkeypatch.setattr("alexnet_lab.results.reader.results_folder", lambda: tmp_path / "results")
    monkeypatch.setattr("alexnet.runtime.run.source_commit", lambda: "0" * 40)
    return train("small-digits", out=tmp_path / "run", overrides=["train.epochs=1"])


def test_a_result_and_its_row(run, tmp_path):
    path = results.keep([run.folder], note="one epoch")
    value = read_json(path)
    assert str(tmp_path) not in json.dumps(value)
    (kept,) = value["runs"]
    assert kept["commit"] == "0" * 40
    assert {name: kept[name] for name in ("top1", "active_units")} == {
        name: run.result[name] for name in ("top1", "active_units")
    }
    assert (value["source"], value["set"], value["data"]) == ("digits", "digits", run.result["data"])
    assert Results(tmp_path / "results").files() == []  # one epoch is not the recipe of that name
    value["recipe"] = to_json(get_recipe("small-digits"))
    write_json(path, value)
    row = results_table(Results(tmp_path / "results")).splitlines()[-1]
    assert f"| {run.result['top1']:.2%} | 1 |" in row
    assert "| `small-digits` | digits; one epoch |" in row


@pytest.mark.parametrize(("commit", "needed"), [(None, "a checkout"), ("0" * 40 + "-changed", "a clean checkout")])
def test_a_run_of_unknown_code_is_no_result(run, tmp_path, commit, needed):
    write_json(run.folder / "run.json", {**run.description, "commit": commit})
    with pytest.raises(UserError, match=f"^keeping .*run needs {needed}"):
        results.keep([run.folder])
    assert not list((tmp_path / "results").iterdir())


def test_a_training_that_diverged_is_a_result(tmp_path, run):
    """Its seeds stand beside the finished ones of the same training."""
    lost = tmp_path / "lost"
    with pytest.raises(DivergedError):
        train("small-digits", out=lost, seed=1, overrides=["train.epochs=1", "optim.lr=1e38"])
    both = [replace_recipe(folder, run.recipe) for folder in (run.folder, lost)]
    value = read_json(results.keep(both))
    assert [kept["seed"] for kept in value["runs"]] == [0]
    (kept,) = value["diverged"]
    assert (kept["seed"], kept["commit"]) == (1, "0" * 40)
    assert "is not a finite number" in kept["finding"]
    alone = read_json(results.keep(both[1:]))
    assert alone["runs"] == []
    assert (alone["source"], alone["data"]) == (value["source"], value["data"])


def replace_recipe(folder, recipe):
    """The run there, said to have been trained by another recipe."""
    write_json(folder / "run.json", {**Run(folder).description, "recipe": to_json(recipe)})
    return folder


def test_runs_of_two_trainings_are_not_one_result(run, tmp_path):
    other = train("small-digits", out=tmp_path / "other", overrides=["train.epochs=2"])
    with pytest.raises(UserError, match="other is a run of another training than"):
        results.keep([run.folder, other.folder])
    described = other.description
    write_json(
        other.folder / "run.json", {**described, "recipe": {**run.description["recipe"], "claim": {"cost": "?"}}}
    )
    assert len(read_json(results.keep([run.folder, other.folder]))["runs"]) == 2  # only the words differ


@pytest.mark.parametrize(
    ("place", "name"),
    [("cifar10:/photos/cifar", "cifar10"), ("cifar10", "cifar10"), ("/photos/cats", "cats"), ("C:/cats", "cats")],
)
def test_a_set_keeps_its_name_wherever_it_lies(place, name):
    assert results.set_of(place, "cats") == name


def test_the_commit_is_a_hash_or_unknown():
    commit = source_commit()
    assert commit is None or len(commit.removesuffix("-changed")) == 40


# The files that are there, and the pages made from them


def test_results_name_what_a_figure_must():
    assert TRAININGS
    for path in TRAININGS:
        value = read_json(path)
        assert value["runs"] or value["diverged"]
        for run in value["runs"]:
            assert re.fullmatch(r"[0-9a-f]{40}", run["commit"])
            assert {"hardware", "torch", "precision", "threads"} <= set(run["hardware"])
            assert run["matrix_gflops"] > 0
            assert 0 < run[MEASURES[run.get("task", "classification")].name] <= 1
            assert run["epochs"]


def test_results_are_of_todays_trainings():
    """No results have settings that no recipe and no experiment has today."""
    for path in TRAININGS:
        assert is_current(read_json(path)), path.name


@pytest.mark.parametrize("unit", ["relu", "tanh"])
def test_figure_1_s_rates_are_the_best_on_held_out_images(unit):
    found = Results(results_folder())
    choices = {rate: found.runs(f"fig1-{unit}-rate-{rate}") for rate in FIGURE_1_RATES[unit]}
    held_out = {float(rate): runs[0]["epochs"][-1]["val_top1"] for rate, runs in choices.items()}
    assert get_recipe(f"fig1-{unit}").optim.lr == max(held_out, key=lambda rate: held_out[rate])


def test_the_pages_agree_with_the_results():
    found = Results(results_folder())
    for page, tables in pages.tables(found).items():
        text = (ROOT / page).read_text(encoding="utf-8")
        for name, table in tables.items():
            assert table
            assert pages.between(text, name, table, page) == text, f"{page}: {name}"
    for page, text in ((pages.PAPER, pages.paper_page(found)), (pages.CLAIMS, pages.claims_page(found))):
        assert (ROOT / page).read_text(encoding="utf-8") == text, page
    with Image.open(ROOT / pages.FIGURE_1) as picture:
        assert picture.info["Description"] == training_errors(pages.figure_1_runs(found))


def test_what_list_shows_agrees_with_the_results(capsys):
    found = Results(results_folder())
    assert (ROOT / pages.MEASURED).read_text(encoding="utf-8") == pages.measured_json(found)
    assert packaged() == measured_recipes(found)
    assert main(["list", "recipes", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["recipes"]
    for name, recipe in RECIPES.items():
        assert listed[name]["measured"] == packaged()[name]
        if runs := found.runs(name):
            mean = sum(run["top1"] for run in runs) / len(runs)
            assert listed[name]["measured"]["top1"]["mean"] == pytest.approx(mean, abs=1e-6)
            assert listed[name]["status"].startswith(f"{mean:.2%} (")
            inside = recipe.claim.top1 and recipe.claim.top1[0] <= mean <= recipe.claim.top1[1]
            assert listed[name]["measured"]["as_expected"] is inside
    assert main(["list", "recipes"]) == 0
    assert "      measured  99.44% (99.44% – 99.44%, 3 seeds) on test, as expected; 8 s on " in capsys.readouterr().out


def test_the_readme_has_six_results_and_claims_a_section_each():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = readme.partition("<!-- results: begin -->\n")[2].partition("\n<!-- results: end -->")[0].splitlines()
    assert len(table) == 2 + 6
    claims = (ROOT / "docs" / "claims.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## (C\d+) .+\n\n\*\*(.+?)\*\*", claims, re.MULTILINE)
    found = Results(results_folder())
    assert sections == [(name, statement.check(found).verdict) for name, statement in STATEMENTS.items()]
    assert not re.search(r"\bS[0-4]\b", claims + (ROOT / "docs" / "paper.md").read_text(encoding="utf-8"))


def test_files_of_earlier_versions_are_read_with_todays_words():
    row = {"what": "training step from a store", "ceiling": "memory copy", "ceiling_fraction": 0.5}
    read = with_todays_words({"what": "data", "ceilings": {}, "rows": [row]})
    today = {"what": "training step from a prepared dataset", "bound": "memory copy", "share_of_bound": 0.5}
    assert read == {"what": "data", "hardware_peak": {}, "rows": [today]}
    assert with_todays_words(read) == read
    trial = {"what": "SIGKILL at random instants of a training, seed 0: bits at the end", "remark": "9.6 s undisturbed"}
    faults = with_todays_words({"what": "endurance", "trials": [trial]})
    today = {"what": "SIGKILL at random times during a training, seed 0: same bits", "remark": "9.6 s without kills"}
    assert faults == {"what": "faults", "trials": [today]}
    assert with_todays_words(faults) == faults
    kept = Results(results_folder())
    assert {bench["what"] for bench in kept.benches()} == {"train", "infer", "data"}
    assert all({"hardware_peak", "rows"} <= bench.keys() for bench in kept.benches())
    assert kept.bench("faults")


def made_run(seed, name):
    """A run of a training, with what the pages read of it."""
    epochs = [
        {"step": n, "epoch": n, "train_loss": 1.0, "train_top1": 0.5, "val_top1": 0.5, "test_top1": 0.5}
        for n in range(1, 11)
    ]
    device_config = {"hardware": "a chip", "precision": "bf16", "device": "cpu"}
    more = {"seconds": 1.0, "images_per_second": 2.0, "matrix_gflops": 3.0, "hardware": device_config, "loss": 1.0}
    return {"top1": 0.4 + 0.001 * seed, "epochs": epochs, "seed": seed, "one_view": {"top1": 0.3}, **more}


def test_every_training_that_can_be_run_is_shown_somewhere(tmp_path):
    for name, experiment in EXPERIMENTS.items():
        runs = [made_run(seed, name) for seed in range(3)]
        recipe = experiment.build()
        value = {"recipe": to_json(recipe), "runs": runs, "source": "x", "set": recipe.data.source, "note": ""}
        value["ensemble"] = {"top1": 0.45}
        write_json(tmp_path / f"{name}_x_chip_2026-01-01.json", value)
    found = Results(tmp_path)
    text = "".join(pages.tables(found)[pages.RESULTS_PAGE].values()) + pages.paper_page(found)
    ablations = [BASE, *ABLATIONS]
    for name in EXPERIMENTS:
        if name.removesuffix(LONGER) in ablations:
            continue  # its rows are counted below
        assert f"`{name}`" in text, name
    assert text.count("| one column with all kernels |") == 2  # for six epochs, and for thirty
    assert "40.10% with ten views, 30.00% with one, 3 seed(s)" in text
    assert "45.00% by the average of 3, 40.10% by one" in text
    measured = measured_recipes(found)
    status = {name: describe_measured(measured[name]) for name in ("keras-cifar10", "paper-imagenet")}
    assert status["keras-cifar10"].startswith("40.10%")
    assert "not trained to its end; shorter trainings: paper-tiny-imagenet 40.10%" in status["paper-imagenet"]


def test_what_the_paper_s_page_names_is_there():
    for statement in PAPER_STATEMENTS:
        for file in re.findall(r"`([\w/]+\.py)`", statement.where):
            assert (ROOT / "alexnet" / file).is_file(), file
        tests = re.findall(r"`([\w/]+\.py)`", statement.tests)
        assert tests, statement
        assert all((ROOT / file).is_file() for file in tests)
        for name in re.findall(r"recipes? `([\w-]+)`|, `((?:cuda|fig1)[\w-]+)`", statement.where):
            assert "".join(name) in RECIPES


def test_the_pages_are_written_whole(tmp_path):
    places = {
        "README.md": ["results"],
        "docs/results.md": ["results", "ablations", "trainings"],
        "docs/speed.md": ["speeds"],
        "docs/reliability.md": ["faults", "faults-processes"],
        "docs/verify.md": ["fresh", "trained", "faults"],
        "docs/transfer.md": ["transfer", "layers"],
        "docs/instances.md": ["accuracies", "shared-variance", "probes"],
        "docs/devices.md": ["devices"],
    }
    for page, names in places.items():
        marks = "".join(f"<!-- {name}: begin -->\nold\n<!-- {name}: end -->\n" for name in names)
        (tmp_path / page).parent.mkdir(exist_ok=True)
        (tmp_path / page).write_text(f"before\n{marks}after\n", encoding="utf-8")
    (tmp_path / "alexnet" / "recipes").mkdir(parents=True)
    trial = {"what": "a kill", "trials": 1000, "failures": [], "remark": "naive: 93 of 100"}
    kept = {"what": "endurance", "hardware": BENCH["hardware"], "trials": [trial]}
    write_json(tmp_path / "alexnet_lab" / "results" / "bench_endurance_chip_2026-01-01.json", kept)
    line = {"step": 1, "train_loss": 1.0}
    for name in ("fig1-relu", "fig1-tanh"):
        epochs = [{**line, "epoch": n, "train_top1": n / 10} for n in range(1, 9)]
        value = {"recipe": to_json(get_recipe(name)), "runs": [{"top1": 0.7, "epochs": epochs}] * 3, "note": ""}
        device_config = {"hardware": "a chip", "precision": "bf16", "device": "cpu"}
        more = {"seconds": 1, "images_per_second": 2, "matrix_gflops": 3, "hardware": device_config, "seed": 0}
        value |= {"runs": [{**run, **more} for run in value["runs"]], "source": "cifar10", "set": "cifar10"}
        write_json(tmp_path / "alexnet_lab" / "results" / f"{name}_cifar10_chip_2026-01-01.json", value)
    write_json(tmp_path / "alexnet_lab" / "results" / "bench_train_chip_2026-01-01.json", BENCH)
    narrow = {**BENCH["hardware"], "precision": "fp32", "matrix_dtype": "float32", "instructions": "AVX2"}
    slower = [{**BENCH["rows"][0], "ours": 23.4}]
    write_json(
        tmp_path / "alexnet_lab" / "results" / "bench_train_chip-avx2_2026-01-02.json",
        {**BENCH, "hardware": narrow, "rows": slower},
    )
    pages.write_pages(tmp_path)
    readme = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert readme.startswith("before\n<!-- results: begin -->\n| recipe | images | ")
    assert readme.endswith("\n<!-- results: end -->\nafter\n")
    assert "old" not in readme
    result = (tmp_path / "docs" / "results.md").read_text(encoding="utf-8")
    assert "| `fig1-relu` | cifar10 | 70.00% (70.00% – 70.00%) | 3 | – | 1 | 2 | a chip" in result
    speed = (tmp_path / "docs" / "speed.md").read_text(encoding="utf-8")
    assert "| what | compared with | a chip, AVX-512 BF16: bf16 | a chip, AVX2: fp32 |" in speed
    assert "| training step, `torchvision`, 64 images | stock PyTorch | 2.66 × (171) | 2.66 × (23.4) |" in speed
    assert (
        "| training step | torchvision | 64 | bf16 | 171 | stock PyTorch, fp32 | 64.8 | 2.66 × (2.58 – 2.69) | "
        in speed
    )
    assert "train`: a chip, AVX-512 BF16, 2 threads, torch 2.15: fp32 433, bf16 823 GFLOP/s in a product" in speed
    other = "| training step | torchvision | 64 | bf16 | 23.4 | stock PyTorch, fp32 | "
    assert [speed.count(part) for part in ("### a chip, AVX-512 BF16\n", "### a chip, AVX2\n", other)] == [1, 1, 1]
    assert "C12: " in (tmp_path / "docs" / "paper.md").read_text(encoding="utf-8")
    assert "## C12 ReLU" in (tmp_path / "docs" / "claims.md").read_text(encoding="utf-8")
    measured = read_json(tmp_path / "alexnet" / "recipes" / "measured.json")
    assert measured["fig1-relu"]["top1"]["mean"] == 0.7
    reliability = (tmp_path / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert "| a kill | 1,000 | 0 | naive: 93 of 100 |" in reliability
    with Image.open(tmp_path / "docs" / "figure1.png") as picture:
        assert picture.size[0] > 600
    (tmp_path / "README.md").write_text("no place", encoding="utf-8")
    with pytest.raises(UserError, match="has no place for its table results"):
        pages.write_pages(tmp_path)


def test_two_trainings_that_differ_have_different_figures():
    """Equal losses in two of them would say that what one of them changes had no effect on what was computed."""
    seen = {}
    for path in TRAININGS:
        value = read_json(path)
        for run in value["runs"]:
            losses = tuple(line["train_loss"] for line in run["epochs"])
            assert seen.setdefault((run["seed"], losses), value["recipe"]["name"]) == value["recipe"]["name"], path.name
    assert len(seen) >= len(TRAININGS)


def test_the_pages_on_detection_and_segmentation_state_the_kept_results():
    found = Results(results_folder())
    (boxes,), (masks,) = found.measured("detection"), found.measured("segmentation")
    pages_of = {
        name: " ".join((ROOT / "docs" / f"{name}.md").read_text().split()) for name in ("detection", "segmentation")
    }
    assert f"**{100 * boxes['map50']:.1f} % mAP50** and {100 * boxes['map']:.1f} % mAP" in pages_of["detection"]
    assert f"{boxes['objects']} objects" in pages_of["detection"]
    assert f"**{100 * masks['mean_iou']:.1f} % mean IoU**" in pages_of["segmentation"]
