"""The command fuzzer, failing system calls and fuzzed parsers report what is planted, and stay in their folders."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from alexnet_lab.faults.calls import compile_library
from alexnet_lab.faults.commands import OUTPUTS, Line, draw_line
from alexnet_lab.faults.parsers import CORPUS, PARSERS, changed_input, read_or_refuse, whole_inputs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
CORPUS_BYTES = 64 * 1024


def python(script, *words, **variables):
    done = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, text=True, check=False, timeout=1000,
        env={**os.environ, **variables},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


PLANTED = """
import json, sys, time
from pathlib import Path
from unittest import mock
from alexnet_lab.faults import commands
from alexnet_lab.faults.commands import CommandFuzzer, Line
fuzzer = CommandFuzzer(Path(sys.argv[1]))
commands.MEMORY = 100 << 20

def wrong_file(arguments):
    Path("../given/photos/cat/0.png").write_bytes(b"changed")
    return 0

def removed_file(arguments):
    Path("runs/small-digits/run.json").unlink()
    return 0

def turn(arguments):
    while True:
        pass

def memory(arguments):
    return len(bytearray(b"x" * (300 << 20))) * 0

def prints(text):
    return lambda arguments: print(text) or 0

planted = {
    "traceback, status 70: ZeroDivisionError": lambda arguments: 1 // 0,
    "status 3": lambda arguments: 3,
    "status 2 without a line of error": lambda arguments: 2,
    "changed 'given/photos/cat/0.png'": wrong_file,
    "changed 'work/runs/small-digits/run.json'": removed_file,
    "did not end within 3 s": lambda arguments: time.sleep(60),
    "took more than 1 s of a processor": turn,
    "GB of memory": memory,
    "--json printed the number NaN": prints("NaN"),
    "printed ": prints("\\x1b[31mred"),
}
found = {}
for expected, bug in planted.items():
    words = ("list", "--json") if "--json" in expected else ("list",)
    seconds = 3.0 if "did not end" in expected else 120.0
    limit = 1 if "processor" in expected else 60
    mock.patch.object(commands, "PROCESSOR_SECONDS", limit).start()
    with mock.patch("alexnet.cli.list.main", bug), mock.patch.object(commands, "SECONDS", seconds):
        found[expected] = fuzzer.run(Line(0, words)).faults
for words in (("list",), ("evaluate", "runs/small-digits", "--json"), ("predict", "../given/model", "-"), ("nosuch",)):
    found[" ".join(words)] = fuzzer.run(Line(1, words, stdin="image.png")).faults
found["closed"] = fuzzer.run(Line(2, ("list",), stdin=None, stdout="closed")).faults
print(json.dumps(found))
"""


def test_the_command_fuzzer_reports_planted_bugs_and_nothing_else(tmp_path):
    found = python(PLANTED, str(tmp_path))
    for expected, faults in found.items():
        if expected.split()[0] in ("list", "evaluate", "predict", "nosuch", "closed"):
            assert faults == [], expected
        else:
            assert any(expected in fault for fault in faults), (expected, faults)
            assert len(faults) == 1, (expected, faults)


def test_a_line_is_a_function_of_seed_and_number():
    lines = [draw_line(number, 3) for number in range(200)]
    assert lines == [draw_line(number, 3) for number in range(200)]
    assert len({line.words for line in lines}) > 150
    assert lines[:50] != [draw_line(number, 4) for number in range(50)]
    assert all(str(line).isascii() and "\n" not in str(line) for line in lines)


def test_lines_write_nowhere_else_and_start_nothing_long():
    """Every path is below the folders of the fuzzer, or a device; no line asks for hours of training."""
    devices = ("/dev/null", "/dev/zero", "/dev/full", "/proc/self/mem")
    for number in range(3000):
        words = draw_line(number, 0).words
        assert words[:1] != ("bench",)
        assert "--run" not in words
        if "train" in words:
            assert words[-2:] == ("--set", "train.steps=2")
        for word in words:
            value = word.partition("=")[2] if word.startswith(OUTPUTS) else word
            if value.startswith("/"):
                assert value in devices
            path = os.path.normpath(f"a/folder/{value.rpartition(':')[2]}")
            assert value in devices or not path.startswith(".."), word
    assert str(Line(0, ("list",), stdin=None, stdout="full")) == "alexnet list <&- > /dev/full"


IN_PLACE = """
import contextlib, json, sys
from pathlib import Path
from unittest import mock
import torch
torch.set_num_threads(1)
from alexnet.runtime import checkpoint
from alexnet_lab.faults import calls
@contextlib.contextmanager
def in_place(path):
    path.mkdir(parents=True, exist_ok=True)
    yield path
results = []
for protection in (mock.patch.object(checkpoint, "SCHEMA", checkpoint.SCHEMA),
                   mock.patch.object(checkpoint, "publish_folder", in_place)):
    folder = Path(sys.argv[1]) / str(len(results))
    folder.mkdir()
    with protection:
        result = calls.fail_calls_of(calls.WORKS[0], folder, 3, calls.FailingCalls())
    results.append([result.trials, result.failures])
print(json.dumps(results))
"""


def test_failing_calls_are_noticed_where_a_checkpoint_is_written_in_place(tmp_path):
    try:
        library = compile_library(tmp_path)
    except OSError as error:
        pytest.skip(f"no C compiler: {error}")
    (trials, failures), (_, unprotected) = python(IN_PLACE, str(tmp_path), LD_PRELOAD=str(library))
    assert trials >= 20
    assert failures == []
    assert unprotected


@pytest.mark.parametrize("name", PARSERS)
def test_whole_inputs_and_the_corpus_are_read_or_refused(name, tmp_path, one_thread):
    inputs = whole_inputs(name)
    assert inputs
    accepted = [read_or_refuse(name, data, tmp_path) for data in inputs]
    assert any(accepted) or name == "checkpoint"  # a manifest without its files is refused


def test_the_corpus_is_small_and_belongs_to_parsers():
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert {path.parent.name for path in files} <= set(PARSERS)
    assert sum(path.stat().st_size for path in files) < CORPUS_BYTES


def test_changed_inputs_are_repeatable_and_different():
    inputs = [b'{"a": [1, {"b": 2}], "c": "x"}', bytes(range(100))]
    changed = [changed_input(inputs, f"0/{number}") for number in range(100)]
    assert changed == [changed_input(inputs, f"0/{number}") for number in range(100)]
    assert len(set(changed)) > 80


def test_a_planted_fault_of_a_parser_is_reported(tmp_path, monkeypatch, one_thread):
    from alexnet_lab.faults import parsers

    monkeypatch.setattr(parsers, "PARSERS", {"png": PARSERS["png"]})
    (tmp_path / "first").mkdir()
    assert parsers.fuzz_parsers(tmp_path / "first", 20, 0).failures == []

    def fault(data):
        raise KeyError("planted")

    monkeypatch.setattr("alexnet.data.png.fault", fault)
    (tmp_path / "second").mkdir()
    (failure,) = parsers.fuzz_parsers(tmp_path / "second", 20, 0).failures
    assert "png" in failure
    assert "planted" in failure


def test_without_atheris_one_line_says_so(capsys):
    from alexnet_lab.faults.parsers import main

    assert main(["nosuch"]) == 2
    assert "idx, archive" in capsys.readouterr().err
    if importlib.util.find_spec("atheris") is None:
        assert main(["png"]) == 2
        assert "pip install atheris" in capsys.readouterr().err
