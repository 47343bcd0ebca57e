"""``alexnet cache``: what is listed, what is removed by name, and what is not."""

import json
import os
import shutil
import subprocess
import time

import numpy as np
import pytest
from PIL import Image

from alexnet import train
from alexnet.api import cache, clear_cache
from alexnet.cli.cache import describe_age, describe_bytes
from alexnet.cli.main import main as cli
from alexnet.core.errors import UserError
from alexnet.core.files import scratch_folder

LONG = ["--from", "none", "--set", "model.width=0.25", "--set", "train.epochs=100000"]


@pytest.fixture
def pictures(tmp_path):
    for name, grey in (("dark", 0), ("light", 200)):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(6):
            Image.fromarray(np.full((28, 28, 3), grey + number, np.uint8)).save(
                tmp_path / "pictures" / name / f"{number}.png"
            )
    return tmp_path / "pictures"


def add_picture(folder, grey=99):
    Image.fromarray(np.full((28, 28, 3), grey, np.uint8)).save(folder / "light" / f"new-{grey}.png")


def add_download(home):
    folder = home / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(bytes(3_000_000))
    return folder


def test_an_empty_cache(home, capsys):
    assert cli(["cache"]) == 0
    assert capsys.readouterr().out == f"{home} holds no prepared datasets and no downloads\n"
    assert cli(["cache", "--remove", "x"]) == 2
    assert capsys.readouterr().err == f"alexnet: {home} is empty\n"
    assert not home.exists()


def test_what_is_kept_is_listed_with_size_age_and_source_and_removed_by_name(home, pictures, capsys):
    assert cli(["prepare", str(pictures)]) == 0
    (dataset,) = (home / "stores").iterdir()
    then = time.time() - 3 * 86_400 - 5
    os.utime(dataset / "store.json", (then, then))
    add_download(home)
    (home / "my own file").write_text("important", encoding="utf-8")
    left = home / "stores" / ".unfinished.pictures-1.0a1b2c3d"
    left.mkdir()
    capsys.readouterr()
    assert cli(["cache"]) == 0
    shown = capsys.readouterr().out
    row, download, leftover = (
        next(line for line in shown.splitlines() if line.startswith(name))
        for name in (dataset.name, "fashion-mnist", left.name)
    )
    assert f"{pictures}: 12 images of 28 × 28 × 3" in row
    assert "3 days" in row
    assert "kB" in row
    assert "3.0 MB" in download
    assert "a command that was killed" in leftover
    assert "my own file" not in shown
    assert cli(["cache", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["home"] == str(home)
    assert [entry["kind"] for entry in listed["entries"]] == ["prepared dataset", "download", "leftover"]
    assert cli(["cache", "--remove", dataset.name, "fashion-mnist", left.name]) == 0
    assert f"removed {dataset.name}" in capsys.readouterr().out
    assert sorted(path.name for path in home.rglob("*")) == ["my own file", "stores"]
    assert cli(["cache", "--remove", "my own file"]) == 2
    assert (home / "my own file").exists()


def test_one_wrong_name_removes_nothing(home, pictures, capsys):
    assert cli(["prepare", str(pictures)]) == 0
    (dataset,) = (home / "stores").iterdir()
    capsys.readouterr()
    for name in (dataset.name[:-1], "../stores", str(dataset), "stores", ""):
        assert cli(["cache", "--remove", dataset.name, name]) == 2
        assert capsys.readouterr().err.startswith(f"alexnet: unknown entry of the cache {name!r}")
    assert dataset.exists()


def test_what_a_training_needs_is_not_removed_while_it_runs_nor_after_it_was_killed(home, pictures, process, capsys):
    """In a process of its own: while it trains, after SIGKILL, and after its run folder was removed."""
    run = home.parent / "run"
    options = ["--data", str(pictures), "--out", str(run), "--device", "cpu", *LONG]
    child = subprocess.Popen([*process, "train", *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while child.poll() is None and not any((run / "checkpoints").glob("step-*")):
        time.sleep(0.02)
    assert child.poll() is None
    (dataset,) = (home / "stores").glob("[!.]*")
    add_download(home)
    assert cli(["cache", "--remove", "fashion-mnist", dataset.name]) == 2
    assert f"{dataset.name} is not removed: a running process uses it; repeat the command" in capsys.readouterr().err
    child.kill()
    child.wait()
    assert cli(["cache", "--remove", "fashion-mnist", dataset.name]) == 2
    assert f"{dataset.name} is not removed: the unfinished training in {run} needs it" in capsys.readouterr().err
    assert cli(["cache"]) == 0
    assert f"the unfinished training in {run} needs it" in capsys.readouterr().out
    assert (home / "FashionMNIST").exists()  # all or nothing
    shutil.rmtree(run)
    assert cli(["cache", "--remove", "fashion-mnist", dataset.name]) == 0
    assert list((home / "stores").iterdir()) == []


def test_a_download_from_which_a_dataset_is_being_prepared_is_not_removed(home):
    folder = add_download(home)
    with scratch_folder(home / "stores" / "fashion-mnist-1"), pytest.raises(UserError, match="is being prepared"):
        clear_cache(["fashion-mnist"])
    assert folder.exists()
    clear_cache(["fashion-mnist"])
    assert not folder.parent.exists()


def test_an_earlier_state_and_a_damaged_dataset_are_shown_as_such(home, pictures):
    run = train(
        data=pictures,
        init="none",
        out=home.parent / "run",
        overrides=["model.width=0.25", "train.epochs=1"],
        progress=False,
    )
    assert run.finished
    (first,) = (home / "stores").iterdir()
    (first / "runs" / ".all-noted").unlink()  # as an earlier version made it: it stays when the images change
    add_picture(pictures)
    assert cli(["prepare", str(pictures)]) == 0
    then = time.time() - 60
    os.utime(first / "store.json", (then, then))
    sources = {entry.name: entry.source for entry in cache()}
    assert [name for name, source in sources.items() if source.endswith(", an earlier state")] == [first.name]
    (first / "store.json").write_text("{", encoding="utf-8")
    damaged = next(entry for entry in cache() if entry.name == first.name)
    assert damaged.source.startswith("unknown, it is damaged")
    clear_cache([first.name])
    assert not first.exists()


def test_sizes_and_ages_in_words():
    assert [describe_bytes(size) for size in (0, 999, 3_400_000, 1_800_000_000)] == [
        "0.0 kB", "1.0 kB", "3.4 MB", "1.8 GB",
    ]  # fmt: skip
    ages = (-5, 10, 60, 3_600, 86_400, 10 * 86_400)
    assert [describe_age(age) for age in ages] == [
        "0 minutes", "0 minutes", "1 minute", "1 hour", "1 day", "10 days",
    ]  # fmt: skip
