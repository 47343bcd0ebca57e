"""The run folder of a target, and names that no two runs share."""

import json

import pytest

from alexnet.runtime.run_names import distinct_names, run_folder, short_name


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "runs" / "digits"
    (folder / "model").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({}))
    (folder / "model" / "model.json").write_text(json.dumps({}))
    return folder


def test_a_run_and_its_model_are_one_folder(run):
    assert run_folder(str(run)) == run_folder(str(run / "model")) == run
    assert short_name(str(run / "model")) == "digits"


def test_a_model_without_a_run_is_its_own_folder(run):
    (run / "run.json").unlink()
    assert run_folder(str(run / "model")) == run / "model"


def test_names_have_as_many_folders_as_needed(tmp_path):
    targets = [str(tmp_path / name) for name in ("a/x", "b/x", "b/y")]
    assert distinct_names(targets) == dict(zip(targets, ["a/x", "b/x", "b/y"], strict=True))
    assert distinct_names(targets[1:]) == {targets[1]: "x", targets[2]: "y"}


def test_a_run_given_twice_is_one_entry(run):
    assert distinct_names([str(run), str(run), str(run / "model")]) == {str(run / "model"): "digits"}
