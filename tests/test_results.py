"""Results name what ran: one clean commit, no path, and what departs from the named recipe."""

import json

import pytest

from alexnet import train
from alexnet.core.errors import UserError
from alexnet.core.files import read_json, write_json
from alexnet.reproduce import results
from alexnet.runtime.run import source_commit


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr("alexnet.runtime.run.source_commit", lambda: "0" * 40)
    return train("small-digits", out=tmp_path / "run", overrides=["train.epochs=1"])


def test_a_result_and_its_row(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = results.keep([run.folder], note="one epoch")
    value = read_json(path)
    assert value["commit"] == "0" * 40
    assert value["departs_from_the_named_recipe"] == "train.epochs (20, now 1)"
    assert str(tmp_path) not in json.dumps(value)
    assert value["runs"][0]["top1"] == run.result["top1"]
    row = results.table().splitlines()[-1]
    assert f"{run.result['top1']:.2%}, 1 seed" in row
    assert "`small-digits`, digits, one epoch" in row


@pytest.mark.parametrize("commit", [None, "0" * 40 + "-changed"])
def test_a_run_of_unknown_code_is_no_result(run, tmp_path, monkeypatch, commit):
    monkeypatch.chdir(tmp_path)
    write_json(run.folder / "run.json", {**run.description, "commit": commit})
    with pytest.raises(UserError, match="results name one commit"):
        results.keep([run.folder])
    assert not (tmp_path / "results").exists()


def test_the_commit_is_a_hash_or_unknown():
    commit = source_commit()
    assert commit is None or len(commit.removesuffix("-changed")) == 40
