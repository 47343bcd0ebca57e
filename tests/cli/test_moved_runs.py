"""The folder of a live training is renamed, removed or replaced: the process stops and mixes nothing.

Each test stops a real ``alexnet train`` in the middle (SIGSTOP), changes its folder, and lets it go on.
"""

import shutil
import signal
import subprocess
import time

import pytest

from alexnet import train
from alexnet.core.files import sha256_file


@pytest.fixture
def live(tmp_path, process, narrow):
    """A process that trains at ``tmp_path/run``, stopped after some lines of metrics."""
    out = tmp_path / "run"
    options = [word for change in narrow for word in ("--set", change)]
    child = subprocess.Popen(
        [*process, "train", "small-digits", *options, "--device", "cpu", "--out", str(out)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    metrics = out / "metrics.jsonl"
    while child.poll() is None and (not metrics.exists() or metrics.read_bytes().count(b"\n") < 15):
        time.sleep(0.005)
    child.send_signal(signal.SIGSTOP)
    yield child
    if child.poll() is None:
        child.kill()
        child.communicate()


def go_on(child):
    """Let the process go on. Returns its status and its last line."""
    child.send_signal(signal.SIGCONT)
    _, err = child.communicate(timeout=120)
    return child.returncode, err.splitlines()[-1]


def files(folder):
    """Path → hash of every file below a folder."""
    return {path.relative_to(folder): sha256_file(path) for path in folder.rglob("*") if path.is_file()}


def assert_same_training(run, other):
    """Metrics and weights are the same, byte for byte."""
    for name in ("metrics.jsonl", "model/model.safetensors"):
        assert (run.folder / name).read_bytes() == (other.folder / name).read_bytes()


def test_a_second_training_at_the_old_name_and_both_reach_their_end(live, tmp_path, narrow, narrow_run):
    out, moved = tmp_path / "run", tmp_path / "moved"
    out.rename(moved)
    second = train("small-digits", out=out, overrides=narrow, seed=1, device="cpu")
    before = files(out)
    status, line = go_on(live)
    assert status == 2
    assert line == (
        f"alexnet: {out} was renamed or replaced during the training: its files are now in {moved}; repeat the command "
        f"with --out {moved} to continue"
    )
    assert files(out) == before
    assert second.result["seed"] == 1
    assert (moved / "checkpoints").is_dir()
    assert_same_training(train("small-digits", out=moved, overrides=narrow, device="cpu"), narrow_run)


def test_a_removed_folder_is_not_created_again(live, tmp_path):
    shutil.rmtree(tmp_path / "run")
    status, line = go_on(live)
    assert status == 2
    assert f"{tmp_path / 'run'} was removed during the training, and its files with it" in line
    assert list(tmp_path.iterdir()) == []


def test_a_link_to_another_run_is_not_followed(live, tmp_path, narrow, narrow_run):
    other = shutil.copytree(narrow_run.folder, tmp_path / "other")
    (tmp_path / "run").rename(tmp_path / "moved")
    (tmp_path / "run").symlink_to(other)
    before = files(other)
    status, line = go_on(live)
    assert status == 2
    assert f"its files are now in {tmp_path / 'moved'}" in line
    assert files(other) == before
    assert_same_training(train("small-digits", out=tmp_path / "moved", overrides=narrow, device="cpu"), narrow_run)


def test_a_link_to_the_same_folder_changes_nothing(live, tmp_path, narrow_run):
    """As when a run is moved to another place on the disk, and its old name stays valid."""
    (tmp_path / "run").rename(tmp_path / "moved")
    (tmp_path / "run").symlink_to(tmp_path / "moved")
    status, _ = go_on(live)
    assert status == 0
    for name in ("metrics.jsonl", "model/model.safetensors"):
        assert (tmp_path / "moved" / name).read_bytes() == (narrow_run.folder / name).read_bytes()


def test_a_removed_lock_ends_the_training(live, tmp_path, narrow, narrow_run):
    """A second process could lock the folder now; the files stay where they are."""
    (tmp_path / "run" / ".lock").unlink()
    status, line = go_on(live)
    assert status == 2
    assert f"{tmp_path / 'run' / '.lock'} was removed or replaced during the training" in line
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert_same_training(train("small-digits", out=tmp_path / "run", overrides=narrow, device="cpu"), narrow_run)
