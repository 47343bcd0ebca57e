"""Kills of ranks: what is killed, how often, and what is counted. The trainings themselves are in tests/distributed."""

import random
import sys

import pytest

from alexnet.core.errors import UserError
from alexnet.core.files import read_json, write_json
from alexnet_lab.faults import processes
from alexnet_lab.faults.__main__ import main
from alexnet_lab.faults.processes import Disturbed, kill_ranks, kill_while_training, ranks

PARENT = """
import os, pathlib, subprocess, sys, time
sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
children = [subprocess.Popen(sleep, env={**os.environ, "RANK": rank}) for rank in "01"]
place = pathlib.Path(sys.argv[1])
place.write_text(place.read_text() + "x" if place.exists() else "x")
while all(child.poll() is None for child in children):
    time.sleep(0.01)
[child.kill() or child.wait() for child in children]
sys.exit(0 if len(place.read_text()) == 3 else 1)
"""


def test_a_command_is_repeated_until_it_ends_well(tmp_path):
    command = [sys.executable, "-c", PARENT, str(tmp_path / "count")]
    done = kill_while_training(command, tmp_path, lambda: 0.1, random.Random(0).randrange)
    assert (done.kills, done.commands, done.failure) == (3, 3, "")
    failing = [sys.executable, "-c", "raise SystemExit('why')"]
    done = kill_while_training(failing, tmp_path, lambda: 60.0, random.Random(0).randrange)
    assert (done.kills, done.commands, done.failure) == (0, 1, "status 1 without a kill: why")
    assert ranks(1_000_000_000) == {}


@pytest.fixture
def pretended(monkeypatch):
    """Trainings that have two kills each, and their digest."""
    found = {"digest": "bits"}

    def kill(command, folder, gap, choose, most=9):
        done = Disturbed()
        done.kills, done.commands = (2, 3) if most else (0, 1)
        return done

    monkeypatch.setattr(processes, "kill_while_training", kill)
    monkeypatch.setattr(
        processes, "digest", lambda folder: found[folder.name] if folder.name in found else found["digest"]
    )
    monkeypatch.setattr(processes, "_default_ddp", lambda folder: "")
    monkeypatch.setattr(processes, "_default_store", lambda folder: "a restart succeeded")
    return found


def test_kills_are_counted_and_continued(pretended, tmp_path):
    out = tmp_path / "figures.json"
    for kills, trainings in ((3, 2), (6, 3)):
        done, ddp, store = kill_ranks(tmp_path, kills, 0, out)
        assert (done.trials, done.failures, done.figures["kills"]) == (trainings, [], 2 * trainings)
        assert read_json(out)["kills"] == 2 * trainings
        assert (ddp.failures, store.failures) == ([], ["a restart succeeded"])
    pretended["killed-3"] = "others"
    done, *_ = kill_ranks(tmp_path, 20, 0, out)
    assert done.failures == ["training 3: other bits, after 2 kills"]
    pretended["digest"] = "of another machine"
    with pytest.raises(UserError, match="other bits than those of today"):
        kill_ranks(tmp_path, 30, 0, out)
    write_json(out, {"format": "onnx"})
    with pytest.raises(UserError, match="the figures of another seed or commit"):
        kill_ranks(tmp_path, 30, 0, out)


def test_the_command_has_a_results_file_of_its_own(pretended, capsys, tmp_path):
    assert main(["processes", "--count", "2", "--json", "--out", str(tmp_path / "F")]) == 1
    assert '"faults-processes"' in capsys.readouterr().out
    assert main(["parsers", "--out", str(tmp_path / "F")]) == 2
