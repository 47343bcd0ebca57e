"""A run folder: begun, continued if it trains the same, refused by the name of the field if not."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from alexnet.config import override
from alexnet.core.errors import UserError
from alexnet.recipes import get_recipe
from alexnet.runtime.run import Run, lock_run_folder, start_or_continue

RECIPE = get_recipe("small-digits")


def start(folder, recipe=RECIPE, seed=0, location="digits", digest="d1"):
    return start_or_continue(folder, recipe, seed, location, digest)


def begin(folder, recipe=RECIPE):
    """A run that has got somewhere."""
    run = start(folder, recipe)
    (run.checkpoints / "step-00000001").mkdir(parents=True)
    return run


def refusal(folder, **changes):
    with pytest.raises(UserError) as caught:
        start(folder, **changes)
    return caught.value.line


def test_a_run_is_begun_and_described(tmp_path):
    run = start(tmp_path / "deep" / "run")
    assert run.folder == tmp_path / "deep" / "run"
    assert run.recipe == RECIPE
    assert {name: run.description[name] for name in ("seed", "source", "data")} == {
        "seed": 0, "source": "digits", "data": "d1",
    }  # fmt: skip
    assert not run.finished
    assert run.model_folder == run.folder / "model"


@pytest.mark.parametrize("name", ["small-digits", "photos", "paper-imagenet"])
def test_the_same_training_is_continued_wherever_its_images_are(tmp_path, name):
    recipe = get_recipe(name)
    begin(tmp_path, recipe)
    before = (tmp_path / "run.json").read_bytes()
    moved = replace(recipe, data=replace(recipe.data, source="/elsewhere"))
    assert start(tmp_path, moved, location="/elsewhere") == Run(tmp_path)
    assert (tmp_path / "run.json").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"seed": 9}, "seed (0, now 9)"),
        ({"recipe": get_recipe("photos")}, "recipe ('small-digits', now 'photos')"),
        ({"recipe": override(RECIPE, ["optim.lr=0.1"])}, "optim.lr (0.05, now 0.1)"),
        ({"recipe": override(RECIPE, ["train.epochs=3"])}, "train.epochs (20, now 3)"),
        ({"digest": "d2"}, "the images (digits has changed since, or other images were given)"),
    ],
)
def test_another_training_is_refused_by_name(tmp_path, changes, differs):
    begin(tmp_path)
    line = refusal(tmp_path, **changes)
    assert line == f"{tmp_path} holds another training: it differs in {differs}; choose another folder with --out"


def test_a_folder_in_which_nothing_was_trained_may_train_anything(tmp_path):
    """A command that fails at once must not stand in the way of the corrected one."""
    start(tmp_path)
    assert start(tmp_path, seed=9).description["seed"] == 9
    with lock_run_folder(tmp_path), pytest.raises(UserError, match="is in use by process"), lock_run_folder(tmp_path):
        raise AssertionError("it is in training, by somebody who has no checkpoint yet")
    assert start(tmp_path, seed=3).description["seed"] == 3


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("important", encoding="utf-8")
    with pytest.raises(UserError) as caught, lock_run_folder(tmp_path):
        raise AssertionError("claimed")
    assert caught.value.line == f"{tmp_path} is not empty and is not a run: choose another folder with --out"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_hidden_files_do_not_fill_a_folder(tmp_path):
    (tmp_path / ".DS_Store").touch()
    with lock_run_folder(tmp_path):
        assert start(tmp_path).description["seed"] == 0


def test_a_file_in_the_way_is_a_user_error(tmp_path):
    (tmp_path / "run").write_text("", encoding="utf-8")
    with pytest.raises(UserError) as caught, lock_run_folder(tmp_path / "run"):
        raise AssertionError("claimed")
    assert caught.value.line.startswith(f"cannot write the run folder {tmp_path / 'run'}: File exists")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "{}", '{"schema": 2, "recipe": {}, "seed": 0, "source": "", "data": ""}']
)
def test_a_damaged_description_is_a_user_error(tmp_path, text):
    begin(tmp_path)
    (tmp_path / "run.json").write_text(text, encoding="utf-8")
    assert f"{tmp_path} is not a run folder" in refusal(tmp_path)


def test_a_recipe_with_a_field_of_another_version_is_a_user_error(tmp_path):
    begin(tmp_path)
    value = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    value["recipe"]["optim"]["lookahead"] = 5
    (tmp_path / "run.json").write_text(json.dumps(value), encoding="utf-8")
    assert "unknown field 'optim.lookahead'" in refusal(tmp_path)


GOLDEN = Path(__file__).parents[1] / "data_files" / "golden" / "digits-run"


def test_a_result_and_both_files_of_its_model_finish_a_run(tmp_path):
    run = start(tmp_path)
    assert not run.finished
    shutil.copy(GOLDEN / "result.json", tmp_path)
    result = json.loads((GOLDEN / "result.json").read_text(encoding="utf-8"))
    (tmp_path / "model").mkdir()
    for name in ("model.json", "model.safetensors"):
        assert not run.finished  # a measure without the model that was measured is of no use
        (tmp_path / "model" / name).write_text("{}", encoding="utf-8")
    assert run.finished
    assert run.result == result


@pytest.mark.parametrize("text", ["", "{}", "{bad", "[]", '{"top1": 0.5}'])
def test_a_damaged_result_says_what_to_do(tmp_path, text):
    run = begin(tmp_path)
    (tmp_path / "result.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"result\.json is missing or damaged: delete it and repeat the command"):
        _ = run.result
    shutil.rmtree(run.checkpoints)
    with pytest.raises(
        UserError, match=r"result\.json is missing or damaged: 'alexnet evaluate .*' measures the model"
    ):
        _ = run.result


def test_metrics_are_read_back(tmp_path):
    step = {"step": 1, "epoch": 0.5, "loss": 2.3, "accuracy": 0.1, "lr": 0.1}
    earlier = {"step": 1, "epoch": 0.5, "loss": 2.3, "accuracy": 0.1, "rate": 0.1}
    epoch = {"step": 2, "epoch": 1, "train_loss": 2.3, "train_top1": 0.1}
    lines = [step, {"step": 1}, earlier, {**step, "loss": None}, epoch, {**epoch, "val_top1": "x"}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    assert Run(tmp_path).metrics() == [step, earlier, epoch]


def test_a_file_that_may_not_be_read_is_not_called_damaged(public_folder, as_user):
    run = start(public_folder)
    (public_folder / "run.json").chmod(0)
    with as_user(), pytest.raises(UserError, match=r"cannot read .*run\.json: Permission denied"):
        _ = run.description
    (public_folder / "result.json").write_text("{}", encoding="utf-8")
    (public_folder / "result.json").chmod(0)
    with as_user(), pytest.raises(UserError, match=r"cannot read .*result\.json: Permission denied; ask"):
        _ = run.result
