"""The command line: help, mistakes, exit statuses, and what is printed to which stream."""

import io
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from alexnet.cli import main as cli


def run(*words, capsys) -> tuple[int, str, str]:
    status = cli.main(list(words))
    out, err = capsys.readouterr()
    return status, out, err


def seconds(*command: str) -> float:
    times = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return min(times)


def test_help_is_quick():
    nothing = seconds(sys.executable, "-c", "pass")
    helped = seconds(sys.executable, "-m", "alexnet", "--help")
    assert helped <= 10 * nothing


def test_help_imports_nothing_heavy():
    code = (
        "import sys, alexnet.cli.main\n"
        "for words in (['--help'], *([name, '--help'] for name in alexnet.cli.main.COMMANDS)):\n"
        "    try: alexnet.cli.main.main(words)\n"
        "    except SystemExit: pass\n"
        "heavy = ('torch', 'numpy', 'PIL', 'torchvision', 'sklearn', 'scipy', 'rich', 'pydantic', 'matplotlib')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out.splitlines()[-1] == "[]"


def test_the_commands_and_their_options_are_these():
    """Frozen, so that an option is added on purpose and documented."""
    shown = {}
    for name in cli.COMMANDS:
        options: list[str] = []
        cli.add_arguments(name, lambda *names, _options=options, **_: _options.append(names[0]))
        assert options.pop() == "--json"
        shown[name] = options
    device = ["--device", "--precision"]
    roots = ["--data-root", "--weights-root"]
    reference = ["--reference", "--plain"]  # the second is hidden: its earlier name
    assert shown == {
        "train": [
            "recipe", "--data", "--labels", "--from", "--freeze", "--out", "--set", "--nproc", "--parallel",
            "--max-restarts", "--keep-checkpoints", "--seed",
            *device, *reference, *roots,
        ],
        "evaluate": [
            "models", "--data", "--labels", "--views", "--nproc", "--predictions", *device, *reference, *roots,
        ],
        "predict": [
            "model", "images", "--top-k", "--threshold", "--sort-into",
            "--out", "--csv", "--names", *device, *reference,
            "--weights-root",
        ],
        "distance": [
            "model", "first", "second", "--matrix", "--resize", "--heads", "--csv", "--device", "--weights-root",
        ],
        "features": [
            "model", "images", "--layers", "--out", "--pool",
            "--untrained", "--rdm", "--cka", "--batch", "--nproc", "--names",
            *device, *reference, *roots,
        ],
        "probe": ["model", "--data", "--layers", "--labels", "--images", "--seed", *device, *reference, *roots],
        "convert": ["file", "--variant", "--mean", "--out", "--weights-root"],
        "export": ["model", "--to", "--out", "--int8", "--pixels", "--golden", "--data", *roots],
        "verify": [
            "model", "--against", "--data", "--labels", "--images", "--variant", "--mean", *roots,
        ],
        "plan": ["recipe", "--devices", "--batch", "--images", "--classes", "--reached", "--link"],
        "summary": ["target", "--classes", "--channels", "--image-size", "--weights-root"],
        "list": ["what", "--weights-root"],
        "prepare": [
            "source", "--labels", "--size", "--channels", "--strict", "--verify", "--shards", "--records", "--names",
            "--data-root",
        ],
        "show": ["what", "targets", "--out", "--image", "--class", "--layer", "--data", *device, *roots],
        "reproduce": ["claims", "--run", "--missing", "--data", "--device", "--data-root"],
        "bench": [
            "what", "--variant", "--batch", "--rounds", "--seconds", "--data", "--keep", *device, "--data-root",
        ],
        "cache": ["--remove"],
    }  # fmt: skip


def test_the_earlier_name_of_reference_is_read_and_not_shown():
    assert cli.parse(["train", "--plain"]).reference
    shown = subprocess.run(
        [sys.executable, "-m", "alexnet", "train", "--help"], check=True, capture_output=True, text=True
    ).stdout
    assert "--reference" in shown
    assert "--plain" not in shown


def test_the_process_is_the_same_after_a_command(capsys):
    """Signal handlers, warning filters and the error handlers of the streams; a command may be called in a thread."""

    def settings():
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
        return handlers, list(warnings.filters), sys.stdout.errors, sys.stderr.errors

    before = settings()
    assert cli.main(["list", "variants"]) == 0
    assert cli.main(["trian"]) == 2
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert settings() == before
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(cli.main, ["list", "sources"]).result() == 0
    assert settings() == before


def test_a_command_has_settings_of_its_own_while_it_runs(monkeypatch):
    found = []

    def command(arguments):
        found.extend([signal.getsignal(signal.SIGTERM), sys.stdout.errors])
        return 0

    monkeypatch.setattr(cli, "_load", lambda path: command)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert cli.main(["list"]) == 0
    assert found == [cli._terminate, "replace"]
    assert sys.stdout.errors == "strict"


MISTAKES = [
    (["trian"], "unknown command 'trian': did you mean 'train'?"),
    (["small-digits"], "unknown command 'small-digits': it is a recipe, write alexnet train small-digits"),
    (["train", "smal-digits"], "unknown recipe 'smal-digits': did you mean 'small-digits'?"),
    (["train", "Small_Digits"], "unknown recipe 'Small_Digits': did you mean 'small-digits'?"),
    (["train", "no.json"], "there is no file no.json"),
    (["train", "--set", "lr=0.1"], "unknown field 'lr': did you mean 'optim.lr'?"),
    (["train", "--set", "batch-size=3"], "unknown field 'batch-size': did you mean 'train.batch_size'?"),
    (["train", "--set", "what=3"], "unknown field 'what': choose one of augment.color_noise, "),
    (["train", "--set", "model.variant=lenet5"], "does not have these fields: add --set model.dropout=default"),
    (["reproduce", "C12", "--missing"], "--missing needs --run: give both"),
    (["train", "."], "'.' is not a recipe but a source of images: write --data ."),
    (["train", "cifar10"], "'cifar10' is not a recipe but a source of images: write --data cifar10"),
    (
        ["train", "--data", ""],
        "the source is empty: give a built-in name, a folder of class folders, or a tar or",
    ),
    (["prepare", " "], "the source is empty: give a built-in name"),
    (["train", "--out", ""], "--out is empty: give a folder, or leave it out for runs/RECIPE"),
    (["train", "--set", "optim.rte=1"], "unknown field 'optim.rte': did you mean 'optim.lr'?"),
    (["train", "--set", "optim.lr=fast"], "optim.lr = 'fast' is not a number"),
    (["train", "--set", "optim.lr"], "--set optim.lr: no '=' in it, write section.field=value"),
    (["train", "--set", "train.epochs=0"], "train.epochs = '0' is not a whole number of at least 1"),
    (["train", "--set", "model.variant=papr"], "unknown variant 'papr': did you mean 'paper'?"),
    (["train", "--set", "model.variant=paper"], "variant 'paper': an image of 24 pixels is too small"),
    (["train", "photos"], "recipe 'photos' trains on your own images: give --data FOLDER"),
    (["train", "--data", "no/such/place"], "there is no folder or file no/such/place"),
    (["train", "--data", "digit"], "unknown source 'digit': neither a built-in name nor an existing path"),
    (["train", "--device", "abacus"], "there is no kind of device 'abacus': give cpu, cuda or cuda:1"),
    (["train", "--data-root", "nowhere"], "--data-root nowhere: there is no such folder"),
    (["train", "--sed", "3"], "unknown option '--sed': did you mean '--seed'?"),
    (["train", "--epochs", "3"], "unknown option '--epochs': it is a field of the recipe, write --set train.epochs="),
    (["train", "--lr=0.1"], "unknown option '--lr=0.1': it is a field of the recipe, write --set optim.lr=VALUE"),
    (["summary", "papr"], "unknown variant 'papr': did you mean 'paper'?"),
    (["summary", "paper", "--image-size", "4097"], "a network takes at most 10,000,000 classes, 4,096 channels and"),
    (["summary", "--classes", "1000000000000"], "images of 4,096 pixels, not 1000000000000, 3 and 224"),
    (
        ["prepare", "digits", "--size", "1000000000000"],
        "with a side of 1 to 4096 and 1 or 3 channels, not 1000000000000",
    ),
    (["summary", "paper", "--image-size", "40"], "variant 'paper': an image of 40 pixels is too small for these"),
    (["evaluate", "."], ". is not a model: give a run folder that alexnet train wrote, or its model/ folder"),
    (["evaluate", ".", "--nproc", "9999"], "--nproc 9999: this computer has "),
    (["predict", ".", "cat.jpg"], ". is not a model: give a run folder that alexnet train wrote, or its model/ folder"),
]


@pytest.mark.parametrize(
    ("words", "line"), MISTAKES, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_a_mistake_costs_one_line(words, line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(*words, capsys=capsys)
    assert status == 2
    assert out == ""
    spoken = [text for text in err.splitlines() if text.startswith("alexnet: ")]
    assert len(spoken) == 1
    assert line in spoken[0]
    assert "Traceback" not in err


def test_an_empty_folder_and_one_class(capsys, tmp_path):
    status, _, err = run("train", "--data", str(tmp_path), capsys=capsys)
    assert (status, err.count("\n")) == (2, 1)
    assert f"{tmp_path} is empty" in err
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "a.jpg").write_bytes(b"x")
    status, _, err = run("train", "--data", str(tmp_path), capsys=capsys)
    assert status == 2
    assert "class" in err.splitlines()[0]


def test_list_names_everything(capsys):
    from alexnet.models.variants import VARIANTS
    from alexnet.recipes import RECIPES

    status, out, _ = run("list", "--json", capsys=capsys)
    lists = json.loads(out)
    assert status == 0
    assert list(lists["variants"]) == list(VARIANTS)
    assert list(lists["recipes"]) == list(RECIPES)
    assert all(recipe["claim"]["source"] and recipe["claim"]["cost"] for recipe in lists["recipes"].values())
    assert lists["recipes"]["small-digits"]["status"].startswith("99.")
    assert lists["recipes"]["paper-imagenet"]["status"].startswith("not trained to its end")
    _, text, _ = run("list", capsys=capsys)
    assert all(name in text for name in [*VARIANTS, *RECIPES, *lists["sources"]])


def test_an_output_that_cannot_be_written_costs_one_line():
    with Path("/dev/full").open("w") as full:
        process = subprocess.run(
            [sys.executable, "-m", "alexnet", "list"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert process.returncode == 2
    assert process.stderr == "alexnet: the output cannot be written: No space left on device\n"


@pytest.mark.parametrize(("closed", "shown"), [("<&-", True), (">&-", False), ("<&- 2>&-", True), ("<&- >&-", False)])
def test_closed_streams_are_no_error(closed, shown):
    """Services start programs so; a file that is opened next must not take the number of a stream."""
    command = f"{sys.executable} -m alexnet list variants {closed}"
    process = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (process.returncode, process.stderr) == (0, "")
    assert ("paper" in process.stdout) is shown


def test_a_reader_that_exits_is_no_error():
    command = f"(sleep 0.01; exec {sys.executable} -m alexnet list) | true; echo ${{PIPESTATUS[0]}}"
    process = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert (process.stdout, process.stderr) == ("141\n", "")  # true has exited before there is anything to read


@pytest.mark.parametrize(("busy", "policy"), [(0.9, "PASSIVE"), (0.1, None)])
def test_threads_sleep_while_they_wait_on_a_busy_machine(monkeypatch, busy, policy):
    monkeypatch.setattr(cli, "busy_share", lambda: busy)
    monkeypatch.setattr(os, "environ", {})
    cli.wait_politely()
    assert os.environ.get("OMP_WAIT_POLICY") == policy
    os.environ["OMP_WAIT_POLICY"] = "ACTIVE"
    cli.wait_politely()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"  # a user's own setting stays


def test_the_busy_share_is_measured(monkeypatch):
    ticks = iter([(100, 1000), (110, 1040)])
    monkeypatch.setattr(cli, "_processor_times", lambda: next(ticks))
    assert cli.busy_share(0) == pytest.approx(0.75)
    monkeypatch.undo()
    assert 0 <= cli.busy_share(0.01) <= 1
    program = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(program) for _ in range(os.cpu_count() or 1)]
    try:
        assert cli.busy_share(0.5) > cli.BUSY
    finally:
        for other in others:
            other.kill()
            other.wait()


def test_version(capsys):
    status, out, _ = run("--version", capsys=capsys)
    assert status == 0
    assert out.startswith("alexnet 0.")


@pytest.mark.parametrize("text", ["\ud800", "a\0b"], ids=["half of a surrogate pair", "NUL"])
@pytest.mark.parametrize(
    "words", [["train", "--data"], ["evaluate"], ["convert"], ["prepare"], ["verify"], ["summary"]]
)
def test_text_that_no_path_can_be_costs_one_line(words, text, capsys):
    """A shell cannot give such text; a caller in Python can."""
    assert cli.main([*words, text]) == 2
    assert "Traceback" not in capsys.readouterr().err
