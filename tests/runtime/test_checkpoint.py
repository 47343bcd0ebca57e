"""Checkpoints: what was written comes back, damage of any kind is noticed, and the one before is used."""

import json
import pickle
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet.core.errors import UserError
from alexnet.core.files import sha256_file
from alexnet.runtime.checkpoint import (
    DamagedError,
    list_checkpoints,
    load_checkpoint,
    load_newest,
    save_checkpoint,
    set_aside,
)


def tensors(value):
    return {
        "model": {"fc.weight": torch.full((3, 2), float(value)), "count": torch.tensor(value)},
        "optimizer": {"momentum_buffer.fc.weight": torch.arange(6.0).view(3, 2) / 3 + value},
    }


def save(root, step, **state):
    return save_checkpoint(root, step, tensors(step), {"note": f"at {step}", **state})


def names(root):
    return [path.name for path in list_checkpoints(root)]


@pytest.fixture
def two(tmp_path):
    """A folder with the checkpoints of steps 1 and 2, and the newer one's path."""
    save(tmp_path, 1)
    return tmp_path, save(tmp_path, 2)


def assert_fallback(root, *mentioned):
    """The checkpoint of step 1 is used, and the complaint about that of step 2 says what was wrong."""
    found, damaged = load_newest(root)
    assert found.step == 1
    assert found.tensors["model"]["fc.weight"].unique().tolist() == [1.0]
    (error,) = damaged
    assert error.path == root / "step-00000002"
    for text in ("step-00000002", *mentioned):
        assert text in str(error)


def rewrite_manifest(path):
    """Make the manifest true again, as someone would who wants a changed file to be read."""
    manifest = path / "manifest.json"
    files = [file for file in path.iterdir() if file != manifest]
    listed = {file.name: {"bytes": file.stat().st_size, "sha256": sha256_file(file)} for file in files}
    manifest.write_text(json.dumps({"schema": 1, "files": listed}), encoding="utf-8")


def test_what_was_written_comes_back(tmp_path):
    weight = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    written = {
        "model": {"conv": weight.to(memory_format=torch.channels_last), "step": torch.tensor(7.0)},
        "best": {"mask": torch.tensor([True, False]), "count": torch.tensor(2**40)},
    }
    state = {"errors": [0.1, 0.30000000000000004], "best_error": None, "text": "äé"}
    path = save_checkpoint(tmp_path, 1234, written, state)
    assert path.name == "step-00001234"
    assert {file.name for file in path.iterdir()} == {
        "model.safetensors", "best.safetensors", "state.json", "manifest.json",
    }  # fmt: skip
    found = load_checkpoint(path)
    assert (found.step, found.state) == (1234, state)
    assert found.tensors.keys() == written.keys()
    for group, items in written.items():
        assert found.tensors[group].keys() == items.keys()
        for name, value in items.items():
            assert found.tensors[group][name].dtype == value.dtype
            assert torch.equal(found.tensors[group][name], value)


def test_nothing_there_is_nothing_found(tmp_path):
    assert load_newest(tmp_path) == (None, [])
    assert load_newest(tmp_path / "absent") == (None, [])


def test_the_same_state_gives_the_same_bytes(tmp_path):
    one, other = save(tmp_path / "one", 5), save(tmp_path / "other", 5)
    for file in one.iterdir():
        assert file.read_bytes() == (other / file.name).read_bytes()


def test_two_are_kept_and_the_newest_is_read(tmp_path):
    for step in (9, 10, 99_999_999, 100_000_000):
        save(tmp_path, step)
    assert names(tmp_path) == ["step-99999999", "step-100000000"]  # by number, not by name
    assert load_newest(tmp_path)[0].step == 100_000_000


def test_a_step_may_be_written_again(tmp_path):
    save(tmp_path, 3, note="first")
    save(tmp_path, 3, note="second")
    assert names(tmp_path) == ["step-00000003"]
    assert load_newest(tmp_path)[0].state["note"] == "second"


def test_damaged_ones_take_no_place_among_the_two_that_are_kept(tmp_path):
    """A training that fell back from two damaged checkpoints must lose neither its new ones to them nor the old one."""
    save(tmp_path, 10)
    for step in (12, 30):
        shutil.copytree(tmp_path / "step-00000010", tmp_path / f"step-{step:08d}")
    found, damaged = load_newest(tmp_path)
    assert found.step == 10
    for error in damaged:
        assert set_aside(error.path).name == f"damaged-{error.path.name}"
    save(tmp_path, 15)
    assert names(tmp_path) == ["step-00000010", "step-00000015"]
    found, damaged = load_newest(tmp_path)
    assert (found.step, damaged) == (15, [])


def test_what_is_set_aside_stays_whatever_is_set_aside_after_it(tmp_path):
    for note in ("first", "second", "third"):
        set_aside(save(tmp_path, 3, note=note))
    notes = {path.name: json.loads((path / "state.json").read_text())["note"] for path in tmp_path.iterdir()}
    aside = "damaged-step-00000003"
    assert notes == {aside: "first", f"{aside}-2": "second", f"{aside}-3": "third"}


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
def test_any_flipped_bit_is_noticed(two, name):
    root, newer = two
    whole = (newer / name).read_bytes()
    for place in np.random.default_rng(0).integers(0, 8 * len(whole), 40):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        (newer / name).write_bytes(damaged)
        assert_fallback(root)
    (newer / name).write_bytes(whole)
    assert load_newest(root)[0].step == 2


@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_any_damage_is_noticed(tmp_path_factory, data):
    root = tmp_path_factory.mktemp("checkpoints")
    save(root, 1)
    newer = save(root, 2)
    file = newer / data.draw(st.sampled_from(sorted(path.name for path in newer.iterdir())))
    whole = file.read_bytes()
    start = data.draw(st.integers(0, len(whole) - 1))
    stop = data.draw(st.integers(start + 1, len(whole)))
    damaged = data.draw(
        st.sampled_from([whole[:start], whole[:start] + bytes(stop - start) + whole[stop:], whole + whole[start:stop]])
    )
    if file.name == "manifest.json" and damaged.strip() == whole.strip():
        return  # an empty line more says the same
    if damaged != whole:
        file.write_bytes(damaged)
        assert_fallback(root)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
def test_a_missing_or_empty_file_is_noticed(two, name):
    root, newer = two
    (newer / name).write_bytes(b"")
    assert_fallback(root, name)
    (newer / name).unlink()
    assert_fallback(root, name)


def test_an_extra_file_is_noticed(two):
    root, newer = two
    (newer / "extra.bin").write_bytes(b"x")
    assert_fallback(root, "extra.bin")


def test_files_of_another_checkpoint_are_noticed(two):
    root, newer = two
    for name in ("model.safetensors", "state.json"):
        saved = (newer / name).read_bytes()
        (newer / name).write_bytes((root / "step-00000001" / name).read_bytes())
        assert_fallback(root, name)
        (newer / name).write_bytes(saved)


def test_swapped_files_are_noticed(two):
    root, newer = two
    one, other = newer / "model.safetensors", newer / "optimizer.safetensors"
    contents = one.read_bytes(), other.read_bytes()
    one.write_bytes(contents[1])
    other.write_bytes(contents[0])
    assert_fallback(root, "model.safetensors")


def test_a_renamed_checkpoint_is_noticed(two):
    root, newer = two
    shutil.rmtree(newer)
    shutil.copytree(root / "step-00000001", newer)
    assert_fallback(root, "belongs to another step")


@pytest.mark.parametrize(
    ("manifest", "mentioned"),
    [
        ("", "manifest.json"),
        ("{}", "manifest.json"),
        ("[]", "manifest.json"),
        ("null", "manifest.json"),
        ('{"schema": 1, "files": {}}', "model.safetensors"),
        ('{"schema": 1, "files": []}', "manifest.json"),
        ('{"schema": 1, "files": {"model.safetensors": 3}}', "manifest.json"),
        ('{"schema": 1, "files": {"model.safetensors": {"bytes": Infinity, "sha256": ""}}}', "manifest.json"),
        ('{"schema": 2, "files": {}}', "schema 2"),
    ],
)
def test_a_manifest_of_another_form_is_noticed(two, manifest, mentioned):
    root, newer = two
    (newer / "manifest.json").write_text(manifest, encoding="utf-8")
    assert_fallback(root, mentioned)


class Bomb:
    """Pickled, it would make a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["model.safetensors", "state.json"])
def test_a_pickle_with_a_true_manifest_is_refused_and_not_run(two, tmp_path, name):
    root, newer = two
    mark = tmp_path / "it-ran"
    (newer / name).write_bytes(pickle.dumps(Bomb(mark)))
    rewrite_manifest(newer)
    assert_fallback(root, "cannot be read")
    assert not mark.exists()


@pytest.mark.parametrize("state", ["[]", "{}", '{"step": "two"}', '{"step": null}', '{"step": Infinity}', "3"])
def test_a_state_of_another_form_is_refused(two, state):
    root, newer = two
    (newer / "state.json").write_text(state, encoding="utf-8")
    rewrite_manifest(newer)
    assert_fallback(root, "cannot be read")


def test_when_all_are_damaged_each_is_named(two):
    root, newer = two
    for path in (newer, root / "step-00000001"):
        (path / "model.safetensors").write_bytes(b"")
    found, complaints = load_newest(root)
    assert found is None
    assert [error.path.name for error in complaints] == ["step-00000002", "step-00000001"]
    with pytest.raises(DamagedError, match="is damaged"):
        load_checkpoint(newer)


def test_a_file_or_a_half_written_folder_among_them_is_no_checkpoint(two):
    root, newer = two
    shutil.copytree(newer, root / ".unfinished.step-00000003.abcdef01")
    shutil.copytree(newer, root / "step-00000003.partial")
    (root / "step-4").mkdir()
    (root / "step-00000005").write_bytes(b"no folder")
    assert names(root) == ["step-00000001", "step-00000002"]
    found, complaints = load_newest(root)
    assert (found.step, complaints) == (2, [])
    save(root, 6)
    assert names(root) == ["step-00000002", "step-00000006"]
    assert not list(root.glob(".unfinished*"))


def test_an_unreadable_file_is_damage(two, monkeypatch):
    root, newer = two

    def failing(path):
        if path.parent == newer:
            raise OSError(5, "Input/output error")
        return sha256_file(path)

    monkeypatch.setattr("alexnet.runtime.checkpoint.sha256_file", failing)
    assert_fallback(root, "Input/output error")


@pytest.mark.parametrize("room", [0, 64, 700])
def test_a_disk_that_refuses_leaves_the_old_ones_intact(two, room):
    """A limit on file sizes stands for a full disk: the system refuses in the middle of each kind of file."""
    root, newer = two
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            save(root, 3, filler="x" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in root.iterdir()) == ["step-00000001", newer.name]
    save(root, 3)
    assert names(root) == ["step-00000002", "step-00000003"]


def test_a_checkpoint_that_may_not_be_read_is_not_passed_over(public_folder, as_user):
    for step in (1, 2):
        save_checkpoint(public_folder, step, tensors(step), {})
    for path in public_folder.rglob("*"):
        path.chmod(0o755)
    (public_folder / "step-00000002" / "model.safetensors").chmod(0)
    with (
        as_user(),
        pytest.raises(UserError, match=r"cannot read .*2/model\.safetensors: Permission denied"),
    ):
        load_newest(public_folder)
