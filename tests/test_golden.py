"""What an earlier version wrote is read today: runs, checkpoints, prepared datasets, models, recipes, ``--set`` words.

The files are in ``data_files/golden``; its README says what each is. Bits are compared where torch, instructions and
threads are those that wrote the files, and numbers within a tolerance everywhere.
"""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from safetensors.torch import load_file

# --- every name of the package that this file uses ---------------------------------------------------------------
from alexnet import Predictor, get_recipe, load_model, train
from alexnet.config import Recipe, override
from alexnet.core.schema import from_json, to_json
from alexnet.data.prepared import open_or_prepare, open_prepared, verify_prepared
from alexnet.data.sources import Source, open_source
from alexnet.models.bundle import save_model
from alexnet.runtime.checkpoint import load_newest
from alexnet.runtime.device import describe_hardware, resolve_device
from alexnet.runtime.run import Run
from alexnet.training.schedule import bias_learning_rate, learning_rate

NAMES = "now"  # which names of assignments.json the fields have: "before" or "now"
prepare = open_or_prepare
read_recipe = lambda document: from_json(Recipe, document)  # noqa: E731
labels_of = lambda owner: list(owner.labels)  # noqa: E731
network_of = lambda model: model  # noqa: E731
seen_by = lambda model: model.trained_on  # noqa: E731
mean_image_of = lambda model: model.mean_image  # noqa: E731
std_of = lambda dataset: dataset.std  # noqa: E731


def cpu_predictor(path):
    return Predictor(path, resolve_device("cpu", "fp32"))


def about_this_machine():
    return describe_hardware(resolve_device("cpu", "fp32"))


# -----------------------------------------------------------------------------------------------------------------

GOLDEN = Path(__file__).parent / "data_files" / "golden"
pytestmark = pytest.mark.usefixtures("one_thread", "no_rate")


@pytest.fixture
def no_rate(monkeypatch):
    """Trainings do not measure the machine's rate by a product of 4096³: it takes longer than they do."""
    product = torch.mm
    monkeypatch.setattr(torch, "mm", lambda a, b: a if a.shape == b.shape == (4096, 4096) else product(a, b))


def read(name):
    return json.loads((GOLDEN / name).read_text(encoding="utf-8"))


def same_arithmetic(environment):
    """Whether this machine and this torch round as those that wrote the files did."""
    return all(about_this_machine()[name] == environment[name] for name in ("torch", "instructions", "threads"))


def trained_tensors(folder):
    """The network's tensors of a model folder, without what only goes with them."""
    tensors = load_file(folder / "model.safetensors")
    return {name: value for name, value in tensors.items() if not name.startswith(("preprocessing.", "training."))}


def digest(tensors):
    content = hashlib.sha256()
    for name in sorted(tensors):
        content.update(name.encode() + tensors[name].contiguous().numpy().tobytes())
    return content.hexdigest()


def metrics_of(path):
    """The lines of a metrics file, with the learning rate under one name."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{"lr" if name == "rate" else name: value for name, value in line.items()} for line in lines]


@pytest.mark.parametrize("name", ["sgd", "sgd-2012", "adam", "adamw"])
def test_an_interrupted_run_is_finished_to_the_same_bits(name, tmp_path):
    expected = read("interrupted/expected.json")
    wanted = expected["runs"][name]
    folder = shutil.copytree(GOLDEN / "interrupted" / name, tmp_path / name)
    found, damaged = load_newest(folder / "checkpoints")
    assert found.step == wanted["stopped_after"]
    assert not damaged

    run = train(wanted["recipe"], out=folder, overrides=wanted["set"], seed=wanted["seed"], device="cpu")

    events = [json.loads(line) for line in (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [event["step"] for event in events if event["event"] == "resume"] == [wanted["stopped_after"]]
    assert run.result["steps"] == wanted["steps"]
    assert run.result["kept_epoch"] == wanted["kept_epoch"]
    tensors, exact = trained_tensors(folder / "model"), load_file(GOLDEN / "interrupted" / f"{name}.safetensors")
    assert digest(exact) == wanted["sha256"]
    assert tensors.keys() == exact.keys()
    for key, value in exact.items():
        torch.testing.assert_close(tensors[key], value, rtol=1e-3, atol=1e-3)
    lines, exact_lines = (metrics_of(path / f"{stem}metrics.jsonl") for path, stem in (
        (folder, ""), (GOLDEN / "interrupted", f"{name}."),
    ))  # fmt: skip
    assert [line.keys() for line in lines] == [line.keys() for line in exact_lines]
    assert [(line["step"], line.get("lr")) for line in lines] == [
        (line["step"], line.get("lr")) for line in exact_lines
    ]
    if same_arithmetic(expected["environment"]):
        assert digest(tensors) == wanted["sha256"]
        assert lines == exact_lines
        assert run.result["top1"] == wanted["top1"]


def test_an_interrupted_run_still_refuses_another_training(tmp_path):
    wanted = read("interrupted/expected.json")["runs"]["sgd"]
    folder = shutil.copytree(GOLDEN / "interrupted" / "sgd", tmp_path / "sgd")
    with pytest.raises(ValueError, match=r"seed \(3, now 4\)"):
        train(wanted["recipe"], out=folder, overrides=wanted["set"], seed=4, device="cpu")
    with pytest.raises(ValueError, match=r"model\.width \(0\.05, now 0\.06\)"):
        train(wanted["recipe"], out=folder, overrides=[*wanted["set"], "model.width=0.06"], seed=3, device="cpu")


def test_a_finished_run_is_read(tmp_path):
    expected = read("digits-images/expected.json")
    folder = shutil.copytree(GOLDEN / "digits-run", tmp_path / "digits-run")
    run = Run(folder)
    assert run.finished
    assert {name: run.result[name] for name in expected["result"]} == expected["result"]
    assert run.description["data"] == expected["data"]
    assert run.recipe == read_recipe(read("digits-run/run.json")["recipe"])
    assert len(run.metrics()) > 4
    overrides = [
        "model.width=0.05", "data.image_size=16", "train.batch_size=64", "train.epochs=4", "train.precision=fp32",
        "model.dropout=0", "augment.rotation=0",
    ]  # fmt: skip
    before = (folder / "model" / "model.safetensors").read_bytes()
    again = train("small-digits", out=folder, overrides=overrides, device="cpu")  # the same training: nothing is done
    assert again.result == run.result
    assert (folder / "model" / "model.safetensors").read_bytes() == before


def test_a_finished_run_predicts_what_it_predicted():
    expected = read("digits-images/expected.json")
    predictor = cpu_predictor(GOLDEN / "digits-run")
    for name, wanted in expected["images"].items():
        answers = predictor(GOLDEN / "digits-images" / name, top_k=10)
        assert [answer.name for answer in answers[:3]] == [class_name for class_name, _ in wanted["top"][:3]]
        probabilities = {answer.name: answer.probability for answer in answers}
        assert probabilities == pytest.approx(dict(wanted["top"]), abs=1e-5)
        if same_arithmetic(expected["environment"]):
            assert [[answer.name, answer.probability] for answer in answers] == wanted["top"]


def test_a_prepared_dataset_is_read():
    expected = read("prepared/expected.json")
    folder = GOLDEN / "prepared" / expected["folder"]
    dataset = open_prepared(folder)
    assert verify_prepared(folder) == []
    assert dataset.digest == expected["digest"]
    assert (dataset.side, dataset.channels) == (expected["side"], expected["channels"])
    assert dataset.targets.tolist() == expected["labels"]
    assert dataset.splits.tolist() == expected["splits"]
    assert dataset.names(np.arange(len(dataset.targets))) == expected["names"]
    assert labels_of(dataset) == expected["readable_classes"]
    assert [list(dataset.mean), list(std_of(dataset))] == [expected["mean"], expected["deviation"]]
    assert [dataset.colours.deviations.tolist(), dataset.colours.components.tolist()] == expected["colours"]


def test_a_prepared_dataset_is_found_in_the_cache(tmp_path):
    expected = read("prepared/expected.json")
    folder = shutil.copytree(GOLDEN / "prepared" / expected["folder"], tmp_path / "stores" / expected["folder"])
    about = json.loads((folder / "store.json").read_text(encoding="utf-8"))

    def never():
        raise AssertionError("it was prepared before")

    source = Source(
        name=about["source"]["name"],
        location=about["source"]["location"],
        classes=tuple(about["classes"]),
        fingerprint=about["source"]["fingerprint"],
        read=never,
    )
    assert prepare(source, expected["side"], expected["channels"], home=tmp_path).path == folder


def test_the_same_images_are_prepared_to_the_same_digest(tmp_path):
    expected = read("prepared/expected.json")
    before = open_prepared(GOLDEN / "prepared" / expected["folder"])
    source = open_source(str(shutil.copytree(GOLDEN / "images", tmp_path / "images")))
    dataset = prepare(source, expected["side"], home=tmp_path)
    assert dataset.targets.tolist() == expected["labels"]
    assert dataset.splits.tolist() == expected["splits"]
    assert np.array_equal(dataset.hashes, before.hashes)
    assert [item["name"] for item in dataset.meta["refused"]] == expected["refused"]
    assert dataset.meta["notes"] == before.meta["notes"]
    assert dataset.meta["warnings"] == before.meta["warnings"]
    if PIL.__version__ == expected["pillow"]:
        assert dataset.digest == expected["digest"]
    else:
        assert np.abs(dataset.images.astype(int) - before.images).max() <= 8


@pytest.mark.parametrize("name", sorted(read("models/expected.json")["models"]))
def test_a_saved_model_computes_what_it_computed(name, tmp_path):
    wanted = read("models/expected.json")["models"][name]
    inputs = np.random.default_rng(0)
    x = torch.from_numpy(inputs.standard_normal(wanted["input_shape"]).astype(np.float32))
    pixels = inputs.integers(0, 256, wanted["pixels_shape"], dtype=np.uint8)
    model = load_model(GOLDEN / "models" / name)
    save_model(model, tmp_path / "copy")

    for folder in (GOLDEN / "models" / name, tmp_path / "copy"):
        model = load_model(folder)
        with torch.inference_mode():
            logits = network_of(model)(x).double()
        torch.testing.assert_close(logits, torch.tensor(wanted["logits"], dtype=torch.float64), rtol=1e-5, atol=2e-5)
        assert np.abs(cpu_predictor(folder).probabilities(pixels) - wanted["probabilities"]).max() < 1e-5
        assert (list(model.classes), labels_of(model)) == (wanted["classes"], wanted["readable_classes"])
        assert model.variant == wanted["variant"]
        assert seen_by(model).tolist() == wanted["seen"]
        mean_image = mean_image_of(model)
        if wanted["mean_image_sum"] is None:
            assert mean_image is None
        else:
            assert float(mean_image.double().sum()) == pytest.approx(wanted["mean_image_sum"], rel=1e-12)
        before, after = (load_file(at / "model.safetensors") for at in (GOLDEN / "models" / name, folder))
        assert before.keys() == after.keys()
        assert all(torch.equal(value, after[key]) for key, value in before.items())


BETTER_NOW = {"photos", "photos-small"}  # the recipes for the user's own images have better settings than they had


def every_recipe():
    documents = read("recipes.json")
    yield from documents["named"].items()
    yield from ((name, item["document"]) for name, item in documents["changed"].items())


@pytest.mark.parametrize("name", [name for name, _ in every_recipe()])
def test_a_recipe_as_it_was_written_is_read(name):
    document = dict(every_recipe())[name]
    recipe = read_recipe(document)
    assert read_recipe(json.loads(json.dumps(to_json(recipe)))) == recipe
    changed = read("recipes.json")["changed"].get(name)
    if changed:
        again = override(read_recipe(read("recipes.json")["named"][changed["recipe"]]), changed["set"])
        assert replace(again, claim=recipe.claim) == recipe  # the wording of a claim may change


@pytest.mark.parametrize("name", sorted(set(read("recipes.json")["named"]) - BETTER_NOW))
def test_a_named_recipe_trains_as_it_did(name):
    before, now = (to_json(recipe) for recipe in (read_recipe(read("recipes.json")["named"][name]), get_recipe(name)))
    for section in ("model", "data", "augment", "optim", "train"):
        assert now[section] == before[section]


@pytest.mark.parametrize("name", list(read("rates.json")["rates"]))
def test_learning_rates_are_the_same_to_the_last_bit(name):
    golden = read("rates.json")
    wanted = golden["rates"][name]
    optim = read_recipe(dict(every_recipe())[name]).optim
    per_epoch, total = wanted["steps_per_epoch"], wanted["total_steps"]
    rows = []
    for step, _, _ in wanted["rows"]:
        rate = learning_rate(optim, step, total, per_epoch, golden["errors"][: step // per_epoch])
        rows.append([step, rate.hex(), bias_learning_rate(optim, rate, step / per_epoch).hex()])
    assert rows == wanted["rows"]


@pytest.mark.parametrize("number", range(len(read("assignments.json")["assignments"])))
def test_a_set_word_means_what_it_meant(number):
    golden = read("assignments.json")
    item = golden["assignments"][number]
    document = json.loads(json.dumps(to_json(override(get_recipe(golden["recipe"]), item["set"]))))
    found = {path: document[path.split(".")[0]][path.split(".")[1]] for path in item[NAMES]}
    for rule in found.get("optim.rules", ()):
        assert rule.pop("lr_mult") is None  # a later field
    assert found == item[NAMES]


def test_no_golden_file_holds_a_path_of_the_machine_that_wrote_it():
    names = (b"/work", b"/tmp", b"/home", b"/root", b"/usr", b"/mnt", b"/Users")
    files = [path for path in GOLDEN.rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if any(name in path.read_bytes() for name in names)] == []
