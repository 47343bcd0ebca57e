"""Any field of ``run.json``, ``result.json``, ``metrics.jsonl`` and ``events.jsonl`` may be missing or odd.

A person or a program has changed the file. Each command then ends with its result or with one line, never with a
traceback. The readers are tried with every field and every odd value, the commands with fewer.
"""

import copy
import itertools
import json
import shutil

import pytest

from alexnet.cli.main import main as cli
from alexnet.core.errors import UserError
from alexnet.core.files import write_text
from alexnet.plots.curves import plot_curves, read_history
from alexnet.report.html import render
from alexnet.report.markdown import write_report
from alexnet.runtime.run import Run

MISSING = object()
ODD = [MISSING, None, True, -1, 1.5, 10**400, "", "a|b\u202e\x1b[2J\n", "\udcff", [], [1], {}, {"a": 1}]
NESTED = ("hardware", "splits", "recipe", "per_class", "confusions", "last_epoch")


def places(value, inside=()):
    """The path of each field: all at the top, and those in the first item of what is nested."""
    if isinstance(value, dict):
        first = list(value.items())[:1] if inside and inside[-1] in ("per_class",) else value.items()
        for name, item in first:
            yield (*inside, name)
            if inside or name in NESTED:
                yield from places(item, (*inside, name))
    elif isinstance(value, list) and value:
        yield (*inside, 0)
        yield from places(value[0], (*inside, 0))


def changed(value, place, odd):
    """A copy with the odd value at this place."""
    value = copy.deepcopy(value)
    *path, last = place
    inner = value
    for name in path:
        inner = inner[name]
    if odd is MISSING:
        del inner[last]
    else:
        inner[last] = odd
    return value


def write(path, value):
    path.write_text(json.dumps(value), encoding="utf-8")


@pytest.fixture(scope="module")
def whole(narrow_run):
    """The contents of a run's files; of the logs each kind of line once."""
    contents = {
        name: json.loads((narrow_run.folder / name).read_text(encoding="utf-8")) for name in ("run.json", "result.json")
    }
    step, epoch = (next(line for line in narrow_run.metrics() if name in line) for name in ("loss", "train_loss"))
    speed = next(event for event in narrow_run.events() if event["event"] == "speed")
    diverged = {
        **speed,
        "event": "diverged",
        "finding": "x",
        "source": "x",
        "hardware": contents["result.json"]["hardware"],
    }
    return {**contents, "metrics.jsonl": [step, epoch], "events.jsonl": [speed, diverged]}


@pytest.fixture
def broken(narrow_run, tmp_path):
    """A copy of the run, whose files a test changes."""
    return Run(shutil.copytree(narrow_run.folder, tmp_path / "run"))


def use_everything(run):
    """Read all files of a run and make all texts of them, as the commands do."""
    recipe, result, _ = run.recipe, run.result, run.divergence
    for text in (write_report(recipe, result, []), render(recipe, result, [], [], {}, run.name)):
        write_text(run.folder / "text", text)
    history = read_history(run, recipe, result)
    return [(line["step"], line.get("lr"), line.get("loss")) for line in history.lines + history.epochs]


@pytest.mark.parametrize("name", ["run.json", "result.json"])
def test_every_field_with_every_odd_value(name, whole, broken):
    use_everything(broken)
    refused = []
    for place, odd in itertools.product(places(whole[name]), ODD):
        write(broken.folder / name, changed(whole[name], place, odd))
        try:
            use_everything(broken)
        except UserError as error:
            assert "\n" not in error.line
            refused.append(place)
    needed = {"run.json": 5, "result.json": 20}[name]
    assert len({place[0] for place in refused}) >= needed


@pytest.mark.parametrize("name", ["metrics.jsonl", "events.jsonl"])
def test_every_field_of_every_line_of_a_log(name, whole, broken):
    """A line without its fields is left out, and the curves show the others."""
    for number, line in enumerate(whole[name]):
        for place, odd in itertools.product(places(line), ODD):
            lines = [*whole[name][:number], changed(line, place, odd), *whole[name]]
            text = "\n".join(json.dumps(each) for each in lines)
            (broken.folder / name).write_text(text, encoding="utf-8")
            assert len(use_everything(broken)) >= 2
    (broken.folder / "metrics.jsonl").write_text("\n[]\n3\n" + "[" * 100_000, encoding="utf-8")
    plot_curves([read_history(broken, broken.recipe)]).encode()


COMMANDS = {
    "train": ("run.json", "result.json"),
    "evaluate": ("run.json", "result.json"),
    "curves": ("run.json", "result.json"),
    "report": ("run.json", "result.json"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_costs_one_line(command, whole, broken, narrow, capsys, monkeypatch):
    monkeypatch.setattr("alexnet.plots.canvas.Picture.save", lambda picture, path: None)
    monkeypatch.setattr("alexnet.report.build.make_sections", lambda finished, reporter: [])
    folder = str(broken.folder)
    words = {
        "train": ["train", "small-digits", *[word for change in narrow for word in ("--set", change)], "--out", folder],
        "evaluate": ["evaluate", folder],
        "curves": ["show", "curves", folder],
        "report": ["show", "report", folder],
    }[command]
    odd = itertools.cycle(ODD[1:])
    for name in COMMANDS[command]:
        for place in places(whole[name]):
            if place[0] == "recipe" and len(place) == 3 and place[1] not in ("data", "optim"):
                continue
            for value in (MISSING, next(odd)):
                write(broken.folder / name, changed(whole[name], place, value))
                status = cli([*words, "--device", "cpu"])
                err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("alexnet: ")]
                assert (status, len(err)) in ((0, 0), (2, 1)), (name, place, value)
        write(broken.folder / name, whole[name])
