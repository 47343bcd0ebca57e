"""A prepared dataset that a process has open, or that an unfinished training needs, is never removed."""

import gc
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from alexnet.core.files import write_json
from alexnet.data import uses
from alexnet.data.prepared import find_prepared, open_or_prepare, open_prepared

HOLD = """
import sys
from pathlib import Path
from alexnet.data.prepared import open_prepared
dataset = open_prepared(Path(sys.argv[1]))
print("open", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def states(array_source, home):
    """Prepares the source "made" in its state ``number``: each has other pixels."""

    def prepare(number):
        pixels = np.full((4, 8, 8, 1), 10 * number, np.uint8)
        return open_or_prepare(array_source(pixels, [0, 1, 0, 1], ["train"] * 4, fingerprint=f"state {number}"))

    return prepare


def closed(dataset):
    """The folder of a dataset, and its hash, when no process has it open any more; the caller must not keep it."""
    return dataset.path, dataset.digest


def begin(folder, digest, **files):
    folder.mkdir()
    write_json(folder / "run.json", {"data": digest})
    return folder


def hold(path):
    """A process that has the dataset open until its input ends."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "open\n"
    return child


def test_one_that_another_process_has_open_is_kept_until_the_process_ends(states):
    path, digest = closed(states(1))
    gc.collect()
    child = hold(path)
    assert uses.user_of(path, None) == "a running process uses it"
    assert uses.remove_unused(path, digest) == "a running process uses it"
    second = states(2).path
    assert path.exists()
    assert second.exists()
    child.kill()
    child.communicate()
    gc.collect()
    third = states(3).path
    assert not path.exists()
    assert not second.exists()
    assert third.exists()


def test_one_that_is_open_here_is_kept(states):
    first = states(1)
    states(2)
    assert open_prepared(first.path).digest == first.digest


def test_one_that_an_unfinished_training_needs_is_kept_until_it_has_finished(states, tmp_path):
    path, digest = closed(states(1))
    run = begin(tmp_path / "run", digest)
    uses.note_run(path, run)
    uses.note_run(path, run)
    assert uses.unfinished_runs(path, digest) == [run]
    gc.collect()
    states(2)
    gc.collect()
    assert uses.remove_unused(path, digest) == f"the unfinished training in {run} needs it"
    write_json(run / "result.json", {})
    states(3)
    assert not path.exists()


@pytest.mark.parametrize("change", ["removed", "trained on other images", "no run", "damaged"])
def test_a_folder_that_holds_the_training_no_longer_does_not_count(states, tmp_path, change):
    """The usual case: a run folder is removed, and a new training on changed images has the same name."""
    path, digest = closed(states(1))
    run = begin(tmp_path / "run", digest)
    uses.note_run(path, run)
    if change == "removed":
        shutil.rmtree(run)
    elif change == "trained on other images":
        write_json(run / "run.json", {"data": "other"})
    elif change == "no run":
        (run / "run.json").unlink()
    else:
        (run / "run.json").write_text("[1", encoding="utf-8")
    assert uses.unfinished_runs(path, digest) == []
    gc.collect()
    states(2)
    assert not path.exists()


def test_one_of_an_earlier_version_is_never_removed_by_itself(states):
    """Nobody noted which trainings need it."""
    path, _ = closed(states(1))
    shutil.rmtree(path / "runs")
    gc.collect()
    states(2)
    assert path.exists()


def test_one_whose_description_is_damaged_is_never_removed_by_itself(states):
    path, _ = closed(states(1))
    (path / "store.json").write_text("{}", encoding="utf-8")
    gc.collect()
    states(2)
    assert path.exists()


def test_without_locks_nothing_is_removed(states, monkeypatch):
    def no_locks(*given):
        raise OSError(37, "No locks available")

    path, digest = closed(states(1))
    gc.collect()
    with monkeypatch.context() as patch:
        patch.setattr(uses.fcntl, "flock", no_locks)
        assert uses.remove_unused(path, digest) == "a running process uses it"
        assert open_prepared(path).digest == digest
    gc.collect()
    assert uses.remove_unused(path, digest) == ""
    assert not path.exists()


def test_a_run_with_a_name_of_any_bytes_is_noted(states, tmp_path):
    path, digest = closed(states(1))
    run = begin(tmp_path / os.fsdecode(b"caf\xe9 \n x"), digest)
    uses.note_run(path, run)
    assert uses.unfinished_runs(path, digest) == [run]


def test_notes_change_neither_the_hash_nor_the_verification(states, tmp_path):
    first = states(1)
    uses.note_run(first.path, begin(tmp_path / "run", first.digest))
    assert open_prepared(first.path).digest == first.digest
    assert json.loads((first.path / "store.json").read_text())["files"].keys() == first.meta["files"].keys()


def test_a_dataset_is_found_by_its_content(states, home):
    path, digest = closed(states(1))
    other, _ = closed(states(2))
    gc.collect()
    assert find_prepared("0" * 64) is None
    found = open_prepared(other).digest
    assert find_prepared(found) == other
    assert find_prepared(found, other) == other
    assert find_prepared(digest) in (path, None)
    (other / "store.json").write_text("[]", encoding="utf-8")
    assert find_prepared(found) is None


def test_one_that_is_removed_while_it_is_opened_is_prepared_again(states, monkeypatch):
    from alexnet.data import prepared

    path, _ = closed(states(1))
    gc.collect()
    real, calls = prepared.open_prepared, []

    def removed_just_now(folder, address=None):
        calls.append(folder)
        if len(calls) == 1:
            shutil.rmtree(folder)
        return real(folder)

    monkeypatch.setattr(prepared, "open_prepared", removed_just_now)
    assert states(1).path == path
    assert calls == [path, path]
