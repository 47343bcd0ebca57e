"""Files of a run are its own: links are not followed, copies by hard links stay as they are, leftovers are removed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from alexnet.core.errors import UserError
from alexnet.core.files import publish_folder, write_bytes, write_json
from alexnet.recipes import get_recipe
from alexnet.runtime.lock import LOCK, MovedError, exclusive_lock
from alexnet.runtime.log import RunLog
from alexnet.runtime.run import Run, lock_run_folder, start_or_continue

RECIPE = get_recipe("small-digits")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def victim(tmp_path):
    """A file of the user, outside the run."""
    path = tmp_path / "victim"
    path.write_text("important\n", encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    return path


@pytest.mark.parametrize("name", ["events.jsonl", "metrics.jsonl"])
@pytest.mark.parametrize("target", ["victim", "absent"])
def test_a_log_that_is_a_link_is_refused(name, target, folder, victim):
    (folder / name).symlink_to(victim.with_name(target))
    with pytest.raises(UserError) as caught:
        RunLog(folder)
    assert caught.value.line == f"cannot write the log {folder / name}: it is a link: remove it"
    assert victim.read_text(encoding="utf-8") == "important\n"
    assert not victim.with_name("absent").exists()


@pytest.mark.parametrize("target", ["victim", "absent"])
def test_a_lock_that_is_a_link_is_refused(target, folder, victim):
    (folder / LOCK).symlink_to(victim.with_name(target))
    with (
        pytest.raises(UserError, match=r"\.lock is a link, a folder or a device, .*: remove it"),
        exclusive_lock(folder),
    ):
        raise AssertionError("locked")
    assert victim.read_text(encoding="utf-8") == "important\n"
    assert not victim.with_name("absent").exists()


def test_a_lock_of_another_program_is_kept(folder):
    (folder / LOCK).write_text("4711", encoding="utf-8")
    with pytest.raises(UserError, match=r"\.lock is a file of another program"), exclusive_lock(folder):
        raise AssertionError("locked")
    assert (folder / LOCK).read_text(encoding="utf-8") == "4711"
    for before in ("", "{", '{"process": 1, "host": "a"}'):  # of this tool, also after a kill
        (folder / LOCK).write_text(before, encoding="utf-8")
        with exclusive_lock(folder):
            assert f'"process": {os.getpid()}' in (folder / LOCK).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [LOCK, "metrics.jsonl"])
@pytest.mark.parametrize("kind", ["fifo", "folder"])
def test_special_files_are_refused_at_once(name, kind, folder):
    os.mkfifo(folder / name) if kind == "fifo" else (folder / name).mkdir()
    with pytest.raises(UserError, match=r"not a regular file|Is a directory"):
        exclusive_lock(folder).__enter__() if name == LOCK else RunLog(folder)


def test_a_copy_by_hard_links_stays_as_it_is(folder, tmp_path):
    """As ``cp -al`` and many backups make it: both folders have the same files until one of them is written."""
    with exclusive_lock(folder), RunLog(folder) as log:
        log.metrics(step=1)
    backup = tmp_path / "backup"
    shutil.copytree(folder, backup, copy_function=os.link)
    before = {path.name: path.read_bytes() for path in backup.iterdir()}
    with exclusive_lock(folder), exclusive_lock(backup), RunLog(folder) as log:
        log.metrics(step=2)
    assert (folder / "metrics.jsonl").read_bytes() == b'{"step": 1}\n{"step": 2}\n'
    assert (backup / "metrics.jsonl").read_bytes() == before["metrics.jsonl"]
    assert names(folder) == names(backup) == [LOCK, "events.jsonl", "metrics.jsonl"]


def test_a_file_that_is_replaced_is_not_written_through_a_link(folder, victim):
    for write in (lambda path: write_bytes(path, b"new"), lambda path: write_json(path, [1])):
        (folder / "report.md").unlink(missing_ok=True)
        (folder / "report.md").symlink_to(victim)
        write(folder / "report.md")
        assert not (folder / "report.md").is_symlink()
        assert victim.read_text(encoding="utf-8") == "important\n"


def test_a_folder_that_is_a_link_is_replaced_and_its_target_kept(folder, tmp_path):
    for target in ("target", "absent"):
        (tmp_path / "target").mkdir(exist_ok=True)
        (tmp_path / "target" / "file").touch()
        link = folder / f"model-{target}"
        link.symlink_to(tmp_path / target)
        with publish_folder(link, replaces=("a",)) as beside:
            (beside / "a").touch()
        assert not link.is_symlink()
        assert names(link) == ["a"]
    assert names(tmp_path / "target") == ["file"]
    assert names(folder) == ["model-absent", "model-target"]


def test_a_folder_with_other_files_is_not_replaced(tmp_path):
    path = tmp_path / "model"
    with publish_folder(path, replaces=("a", "b")) as beside:
        (beside / "a").write_text("old")
    (path / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match=r"there is already 'thesis\.tex', which would be lost"):  # noqa: SIM117
        with publish_folder(path, replaces=("a", "b")):
            raise AssertionError("replaced")
    (path / "thesis.tex").unlink()
    with pytest.raises(FileExistsError), publish_folder(path, replaces=("a", "b")) as beside:
        (path / "late").touch()  # while the new one was built
    assert names(path) == ["a", "late"]
    assert names(tmp_path) == ["model"]


def test_nothing_is_written_below_a_folder_that_was_moved(folder, tmp_path):
    """Each way to put something there; the folder is not created again, and nothing lands in a new one."""
    moved = tmp_path / "moved"
    ways = {
        "a file": lambda: write_bytes(folder / "report.md", b"x"),
        "a file in a folder": lambda: write_bytes(folder / "a" / "b" / "c", b"x"),
        "a folder": lambda: publish_folder(folder / "model").__enter__(),
        "logs": lambda: RunLog(folder),
    }
    with exclusive_lock(folder):
        write_bytes(folder / "checkpoints" / "new" / "file", b"x")
        folder.rename(moved)
        for new in (False, True):
            if new:
                folder.mkdir()
            for write in ways.values():
                with pytest.raises(MovedError, match=f"files are now in {moved}; repeat the command with --out"):
                    write()
            assert folder.exists() == new
        assert names(moved) == [LOCK, "checkpoints"]
    assert names(folder) == []
    with exclusive_lock(moved), exclusive_lock(folder):
        write_bytes(folder / "report.md", b"x")


def test_a_folder_renamed_while_a_file_is_written(folder, tmp_path):
    with exclusive_lock(folder), pytest.raises(MovedError), publish_folder(folder / "model") as beside:
        (beside / "a").touch()
        folder.rename(tmp_path / "moved")
        shutil.copytree(tmp_path / "moved", folder)  # all the same names, and other files
    assert "model" not in names(folder)


KILLED = """
import os, sys
from pathlib import Path
from alexnet.core import files
folder = Path(sys.argv[1])
os.fsync = lambda handle: os._exit(9)
files.write_bytes(folder / sys.argv[2], b"half")
"""


def leave(folder, name):
    """A real process that is killed while it writes a file."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder), name], check=False)
    assert done.returncode == 9


def test_leftovers_of_kills_are_removed_at_the_next_start(tmp_path):
    run = start_or_continue(tmp_path / "run", RECIPE, 0, "digits", "d1")
    for name in ("report.md", "confusion.png"):
        leave(run.folder, name)
    own = [".unfinished.model.0123abcd", ".model.0123abcd", "checkpoints/.unfinished.step-00000002.0123abcd",
           "checkpoints/.step-00000001.0123abcd", "features/.unfinished.relu7.0123abcd"]  # fmt: skip
    for name in [*own, "model", "checkpoints/step-00000001"]:
        (run.folder / name).mkdir(parents=True)
        (run.folder / name / "file").touch()
    others = [".holiday.0123abcd", ".report.md.old", ".report.md.0123abcdef", ".unfinished.note", ".ssh.0123abcd"]
    for name in others:
        (run.folder / name).touch()
    assert len([name for name in names(run.folder) if name.startswith((".report.md.", ".confusion.png."))]) == 4
    with lock_run_folder(run.folder):
        pass
    assert names(run.folder) == sorted([*others, LOCK, "run.json", "model", "checkpoints", "features"])
    assert names(run.folder / "checkpoints") == ["step-00000001"]
    assert names(run.folder / "features") == []


def test_a_folder_that_was_set_aside_is_brought_back(tmp_path):
    """A kill between the two renames of a replacement leaves the old model under a temporary name only."""
    run = start_or_continue(tmp_path / "run", RECIPE, 0, "digits", "d1")
    (run.folder / ".model.0123abcd").mkdir()
    (run.folder / ".model.0123abcd" / "model.json").write_text("{}", encoding="utf-8")
    with lock_run_folder(run.folder):
        assert names(run.folder) == [LOCK, "model", "run.json"]
    assert names(run.model_folder) == ["model.json"]


def test_a_file_that_another_process_writes_is_no_leftover(tmp_path):
    run = start_or_continue(tmp_path / "run", RECIPE, 0, "digits", "d1")
    script = KILLED.replace("os._exit(9)", "(print('ready', flush=True), sys.stdin.read())")
    with subprocess.Popen(
        [sys.executable, "-c", script, str(run.folder), "report.md"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"ready\n"
        with lock_run_folder(run.folder):
            assert len([name for name in names(run.folder) if name.startswith(".report.md.")]) == 1
        process.communicate(b"")
    assert (run.folder / "report.md").read_bytes() == b"half"


FOREIGN = {
    "of another tool": {"name": "experiment 7", "metrics": {"loss": 0.1}},
    "with some of the fields": {"seed": 0, "source": "digits"},
    "of another schema": {"schema": 7},
    "a list": [1, 2],
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_a_folder_with_a_foreign_run_json_is_refused_untouched(content, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(content), encoding="utf-8")
    (tmp_path / "data.csv").write_text("1,2", encoding="utf-8")
    with pytest.raises(UserError, match=f"^{tmp_path} is not a run folder of this version"), lock_run_folder(tmp_path):
        raise AssertionError("claimed")
    with pytest.raises(UserError, match=f"^{tmp_path} is not a run folder of this version"):
        start_or_continue(tmp_path, RECIPE, 0, "digits", "d1")
    assert names(tmp_path) == ["data.csv", "run.json"]
    assert json.loads((tmp_path / "run.json").read_text(encoding="utf-8")) == content


@pytest.mark.parametrize("left", ["result.json", "model", "checkpoints", "metrics.jsonl"])
def test_a_run_without_its_description_takes_on_no_seed(left, tmp_path):
    (tmp_path / left).mkdir() if "." not in left else (tmp_path / left).write_text("{}", encoding="utf-8")
    for claim in (
        lambda: lock_run_folder(tmp_path).__enter__(),
        lambda: start_or_continue(tmp_path, RECIPE, 9, "", ""),
    ):
        with pytest.raises(UserError) as caught:
            claim()
        assert caught.value.line.startswith(f"{tmp_path} has {left} and no run.json, so it is not known which training")
    assert names(tmp_path) == [left]


GOLDEN = Path(__file__).parents[1] / "data_files" / "golden" / "digits-run"


@pytest.fixture
def golden(tmp_path):
    """A finished run that an earlier version wrote, with the values that the same command has today."""
    run = Run(shutil.copytree(GOLDEN, tmp_path / "run"))
    return run, (run.recipe, run.description["seed"], "digits", run.description["data"])


@pytest.mark.parametrize(("field", "value"), [("seed", 5), ("data", "d9"), ("recipe", "photos")])
def test_a_result_of_another_run_is_noticed(field, value, golden):
    run, given = golden
    write_json(run.folder / "result.json", {**run.result, field: value})
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=f"holds files of two trainings: {field} is .* in run.json and .*{value}"):
        start_or_continue(run.folder, *given)
    assert {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()} == before


def test_a_model_of_another_run_is_noticed(golden):
    run, given = golden
    assert start_or_continue(run.folder, *given) == run  # this result does not say which model it is about
    run.write_result(run.result)
    assert start_or_continue(run.folder, *given) == run
    path = run.model_folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(UserError, match=r"model\.safetensors is damaged: restore it from a backup, or train again"):
        start_or_continue(run.folder, *given)
    from alexnet.core.files import read_json, sha256_file

    described = read_json(run.model_folder / "model.json")
    write_json(run.model_folder / "model.json", {**described, "sha256": sha256_file(path)})
    with pytest.raises(UserError, match=r"model\.safetensors is not the model that result\.json is about"):
        start_or_continue(run.folder, *given)
