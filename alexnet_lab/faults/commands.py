"""The command fuzzer: random command lines, each run in a copy of this process, and what must hold after each.

A line is a function of the seed and of its number, and finds the same files each time (``workspace.py``). So a series
of lines can be continued at any number, and a failure can be repeated by its number. The options and their values are
read from the parsers of the commands; a new option is used without a change here.

After each line: the exit status is 0, 2 or that of a signal or of a closed pipe; there is no traceback; an error begins
with ``alexnet:``; ``--json`` gives valid JSON; no terminal escape sequence is printed; no file outside the outputs, the
cache and the temporary folder was changed; time and memory are bounded.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import functools
import importlib
import json
import os
import pkgutil
import random
import re
import resource
import select
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

import alexnet
from alexnet.cli.main import COMMANDS, add_arguments, main
from alexnet.config import field_names
from alexnet.plots.registry import PLOTS
from alexnet_lab.faults.trial import FaultResult
from alexnet_lab.faults.workspace import WRITABLE, Snapshot, Workspace, changed, make_workspace

SECONDS = 300.0  # of one command, on a machine that does other work too
PROCESSOR_SECONDS = 60  # of one command
MEMORY = 2 << 30  # bytes of resident memory above those this process has when it forks
ADDRESSES = 16 << 30  # bytes of address space above those of this process, a stop before the machine swaps
FILE_BYTES = 256 << 20  # of the largest file that a command may write
LEFT_OUT = {"bench"}  # it takes minutes, and starts programs of its own
FORBIDDEN = {"--run"}  # the trainings of alexnet reproduce take hours
LAST = {"train": ["train.steps=2"]}  # a valid line may ask for a training of days
SMALL = ("model.width=0.1", "train.batch_size=8")
OUTPUTS = ("--out", "--csv", "--predictions", "--sort-into", "--names", "--shards")  # options that name what is written
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

RARELY = {"reproduce"}  # it reads all results, which takes seconds
NUMBERS = (("1", "2", "3", "16", "32"), ("0", "-1", "1.5", "1e9", "9" * 20, "nan", "inf", "٣", "1_0", ""))
MODELS = (
    ("runs/small-digits", "../given/run", "../given/run", "../given/run/model", "../given/model"),
    (*("../given/interrupted", "../given/damaged-run", *(f"../given/odd-run-{number}" for number in range(9))),
     *("../given/photos", "../given/text.txt", "../given/nosuch", "small-digits", "../given/pipe", "")),
)  # fmt: skip
VARIANTS = (("small", "batchnorm", "paper", "lenet5", "d2l"), ("nosuch", "SMALL", ""))
SOURCES = (
    ("digits", "../given/photos", "../given/large", "../given/split", "../given/photos.tar", "../given/photos.tgz"),
    (*("../given/odd names", "../given/one-class", "../given/flat", "../given/empty", "../given/litter", "../given"),
     *("../given/damaged", "../given/photos.zip", "../given/damaged.tar", "../given/short.tgz", "../given/text.txt"),
     *("../given/nothing", "../given/noise", "../given/pipe", "../given/link", "../given/loop", "../given/nosuch"),
     *("./digits", "digits:x", "mnist:../given/photos", "imagenet:../given/split", "imagenet:", "cifar10:../given"),
     *("tiny-imagenet:../given/photos", "https://example.org/a.zip", "/dev/null", "")),
)  # fmt: skip
IMAGES = (
    ("../given/image.png", "../given/image.jpg", "../given/photos", "../given/large/cat/1.jpg"),
    (*("../given/image.gif", "../given/damaged", "../given/odd names", "../given/text.txt", "../given/nothing", "-"),
     *("../given/noise", "../given/sparse.jpg", "../given/pipe", "../given/loop", "../given/empty", "/dev/null"),
     *("../given/nosuch.png", "../given/photos.zip", "https://example.org/a.jpg", "/dev/zero", "/proc/self/mem", "")),
)  # fmt: skip
OUTS = (
    ("new", "new/inside/deep", "runs/small-digits", "../given/run", "../given/interrupted"),
    ("../given/photos", "../given/text.txt", "../given/odd-run-0", "../given/loop", "../given/pipe", "/dev/null", ""),
)
FILES = (("out.png", "out.svg", "new/out.html", "out.csv"), ("out.xyz", "/dev/full", *OUTS[0], *OUTS[1]))
VALUES = {  # an option, or the metavar of an argument: usual values, and invalid or unusual values
    "SOURCE": SOURCES, "MODEL": MODELS, "IMAGE": IMAGES, "--image": IMAGES, "VARIANT": VARIANTS, "RUN": OUTS,
    "FILE": FILES, "VARIANT|MODEL": (VARIANTS[0] + MODELS[0], VARIANTS[1] + MODELS[1]), "--sort-into": OUTS,
    "--labels": (("../given/labels.csv",), ("../given/text.txt", "../given/noise", "../given/nested.json", "")),
    "RECIPE": (("small-digits", "../given/recipe.json"),
               ("photos-small", "../given/odd-recipe.json", "../given/nested.json", "../given/run", "digits", "cifar10",
                "photos", "nosuch", "")),
    "FOLDER": (("../given", "."), (*SOURCES[1], *OUTS[1])),
    "CLASS": (("cat", "3"), ("nosuch", "\u202etac", "")),
    "LAYER": (("conv1", "relu5", "fc8"), ("conv99", "logits", "")),
    "LAYERS": (("conv1", "relu5,fc8", "fc6"), ("conv99", "fc6,", "features.10", ",", "")),
    "IMAGES": (SOURCES[0] + IMAGES[0], SOURCES[1] + IMAGES[1]),
    "FEATURES": (("new", "new/f.npz", "f.h5", "f.parquet"), ("f.npy", *OUTS[0], *OUTS[1])),
    "N": NUMBERS, "K": NUMBERS, "PIXELS": NUMBERS, "DEVICE": (("cpu",), ("cuda", "cuda:7", "meta", "nosuch", "")),
    "CLAIM": (("C1", "C2", "C8", "C34"), ("C35", "c1", "nosuch", "")), "NAME:PATH": SOURCES,
    "PLOT": ((*PLOTS, "report"), ("nosuch", "REPORT", "")),
}  # fmt: skip
JUNK = ("--nosuch", "-x", "--", "-", "", "nosuch", "\u202e", "\x1b[31m", "é", "\ud800", "%s", "{}", "=", "--json")
FIELD_VALUES = ("1", "0", "-1", "0.5", "2", "true", "none", "default", "nan", "inf", "1e400", "[1]", "1,2", "x", "",
                "16", "9" * 400)  # fmt: skip
HOMES = ("", "~nosuch/x", "../given/text.txt", "../given/loop", "elsewhere", "/proc/nosuch")
CLEAN = re.compile(r"[^\n\t -~\xa0-\u061b\u061d-\u200d\u2010-\u2027\u202f-\u2065\u206a-\U0010ffff]")
"""A terminal escape sequence, or a character that changes the direction of text."""


@dataclass(frozen=True)
class Line:
    """A command line and its surroundings.

    ``stdin``: a file in ``given/``, "" for an empty input, None for a closed one. ``stdout``: "file", "full" (a full
    disk), "pipe" (its reader has exited) or "closed". ``home``: ``ALEXNET_HOME``, None for the cache of the workspace.
    ``interrupt``: a signal, sent after so many seconds. ``report``: whether a training writes ``report.html``.
    """

    number: int
    words: tuple[str, ...]
    stdin: str | None = ""
    stdout: str = "file"
    encoding: str = "utf-8"
    home: str | None = None
    interrupt: tuple[signal.Signals, float] | None = None
    report: bool = False

    def __str__(self) -> str:
        around = [] if self.home is None else [f"ALEXNET_HOME={shlex.quote(self.home)}"]
        around += [] if self.encoding == "utf-8" else [f"PYTHONIOENCODING={self.encoding}"]
        ends = ["<&-"] if self.stdin is None else [f"< {self.stdin}"] if self.stdin else []
        ends += {"file": [], "full": ["> /dev/full"], "pipe": ["| true"], "closed": [">&-"]}[self.stdout]
        ends += [f"# {self.interrupt[0].name} after {self.interrupt[1]:.2f} s"] if self.interrupt else []
        words = [*around, "alexnet", *map(shlex.quote, self.words), *ends]
        return " ".join(words).encode("unicode_escape").decode("ascii")


@dataclass
class Outcome:
    """What a command left: its exit status, output, seconds and the peak of its resident memory in bytes."""

    status: int
    stdout: str
    stderr: str
    seconds: float
    memory: int
    hung: bool = False
    faults: list[str] = field(default_factory=list)


def draw_line(number: int, seed: int) -> Line:
    """The command line of a number. A third of all lines have only usual values."""
    draws = random.Random(f"{seed}/{number}")
    commands = [name for name in COMMANDS if name not in LEFT_OUT]
    command = draws.choices(commands, [0.2 if name in RARELY else 1.0 for name in commands])[0]
    odd = draws.choice((0.0, 0.1, 0.4))
    words = _arguments(command, odd, draws)
    if odd and draws.random() < 0.3:
        words = _mutated(words, draws)
    words = [word for word in words if word.partition("=")[0] not in FORBIDDEN]
    if "train" in words:  # also where a mutation moved it
        given = {word.partition("=")[0] for word in words}
        last = [*(text for text in SMALL if text.partition("=")[0] not in given), *LAST["train"]]
        words += [word for text in last for word in ("--set", text)]
    rare = draws.random() if odd else 1.0
    return Line(
        number,
        tuple(words),
        stdin=draws.choice(("", "", "image.png", "text.txt", "noise", "sparse.jpg", None)),
        stdout="full" if rare < 0.02 else "pipe" if rare < 0.04 else "closed" if rare < 0.06 else "file",
        encoding=draws.choice(("utf-8", "utf-8", "utf-8", "ascii")),
        home=draws.choice(HOMES) if draws.random() < 0.1 * odd else None,
        interrupt=(draws.choice(SIGNALS), draws.random()) if draws.random() < 0.04 else None,
        report=draws.random() < 0.05,
    )


def _arguments(command: str, odd: float, draws: random.Random) -> list[str]:
    """The command with values for positional arguments, and some of its options. ``odd``: share of invalid values."""
    positional, options = _actions(command)
    words = []
    for action in positional:
        least, most = {None: (1, 1), "?": (0, 1), "+": (1, 3), "*": (0, 2)}[action.nargs]  # type: ignore[index]
        words += [_value(action, odd, draws) for _ in range(draws.randint(least, most))]
    for action in options:
        if draws.random() < min(0.5, 1.5 / len(options)):
            name = draws.choice(action.option_strings)
            for _ in range(draws.randint(1, 2) if action.default == [] else 1):  # it may be repeated
                if action.nargs == 0:
                    words.append(name)
                else:
                    value = _value(action, odd, draws)
                    words += [f"{name}={value}"] if draws.random() < 0.2 else [name, value]
    return [command, *words]


@functools.cache
def _actions(command: str) -> tuple[list[argparse.Action], list[argparse.Action]]:
    """The positional arguments and the options of a command."""
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(command, parser.add_argument)
    options = [action for action in parser._actions if action.option_strings]
    return [action for action in parser._actions if not action.option_strings], options


def _value(action: argparse.Action, odd: float, draws: random.Random) -> str:
    is_odd = draws.random() < odd
    if is_odd and draws.random() < 0.1:
        return draws.choice(JUNK)
    if action.choices:
        return str(draws.choice(list(action.choices)))
    if action.metavar == "FIELD=VALUE":
        name = draws.choice(field_names())
        return f"{name}={draws.choice(FIELD_VALUES) if is_odd else 'default'}"
    name = action.option_strings[0] if action.option_strings else ""
    return draws.choice(VALUES.get(name, VALUES.get(str(action.metavar), (JUNK, JUNK)))[is_odd])


def _mutated(words: list[str], draws: random.Random) -> list[str]:
    """The words with one to three of them dropped, repeated, moved or replaced, or with a character changed.

    Words that are paths keep their characters, so that no line names a file outside the workspace.
    """
    words = list(words)
    for _ in range(draws.randint(1, 3)):
        at = draws.randrange(len(words)) if words else 0
        match draws.randrange(5):
            case 0:
                del words[at : at + 1]
            case 1:
                words[at:at] = words[at : at + 1]
            case 2:
                words[at:at] = [draws.choice(JUNK)]
            case 3 if words:
                words.insert(draws.randrange(len(words)), words.pop(at))
            case _ if words and not set(words[at]) & set("/~."):
                place = draws.randint(0, len(words[at]))
                words[at] = words[at][:place] + draws.choice("aZ-=0 é\n") + words[at][place + 1 :]
    return words


class CommandFuzzer:
    """Runs lines in the folders below ``folder``, which is empty. All modules are imported first."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.seed = seed
        import_everything()
        self._files = folder / "streams"
        self._files.mkdir(parents=True)
        (folder / "space").mkdir()
        self.space = Workspace((folder / "space").resolve())
        self.space = make_workspace(folder / "space", self._prepare, seed)
        self._before: Snapshot = self.space.keep()

    def _prepare(self, words: Sequence[str]) -> int:
        outcome = self._execute(Line(0, tuple(words)))
        if outcome.status:
            print(outcome.stderr, file=sys.stderr)
        return outcome.status

    def run(self, line: Line) -> Outcome:
        """Run a line and list what is wrong in ``faults``."""
        outcome = self._execute(line)
        after = self.space.snapshot()
        different = changed(self._before, after)
        outcome.faults += _faults(line, outcome)
        if outside := [path for path in different if not _may_write(line, path, after)]:
            outcome.faults.append(f"changed {', '.join(map(ascii, outside[:5]))}")
        if different:
            self.space.restore()
        return outcome

    def _execute(self, line: Line) -> Outcome:
        out, err = self._files / "stdout", self._files / "stderr"
        start = time.monotonic()
        resident = _memory_in_use()[1]
        pid = os.fork()
        if not pid:
            _become_command(line, self.space, out, err)
        status, peak, hung = _wait(pid, line.interrupt)
        memory = max(0, peak - resident)
        seconds = time.monotonic() - start
        shown = out.read_text(encoding="utf-8", errors="replace") if line.stdout == "file" else ""
        return Outcome(status, shown, err.read_text(encoding="utf-8", errors="replace"), seconds, memory, hung)


def import_everything() -> None:
    """Import all modules of ``alexnet`` and those that commands import later, and run the kernels' tests.

    Modules for child processes are left out: they import libraries that a command itself never does.
    """
    for module in pkgutil.walk_packages(alexnet.__path__, "alexnet."):
        if not module.name.endswith(("__main__", "_child")):
            importlib.import_module(module.name)
    for name in ("alexnet_lab.cli", "alexnet_lab.claims.report", "alexnet_lab.results.reader", "sklearn.manifold"):
        importlib.import_module(name)
    import torch

    from alexnet.kernels.selftest import int8_fault, prepacked_fault
    from alexnet.runtime.run import source_commit

    torch.set_num_threads(1)  # a forked process has no other threads
    source_commit()  # asks git, once a process
    int8_fault()
    for dtype in (torch.float32, torch.bfloat16):
        prepacked_fault(dtype)


def _become_command(line: Line, space: Workspace, out: Path, err: Path) -> NoReturn:
    """Run the line in this process, which was forked for it, and end the process with its status."""
    status = 70
    try:
        os.setsid()
        _replace_streams(line, space, out, err)
        faulthandler.enable(os.fdopen(2, "w", closefd=False))
        faulthandler.dump_traceback_later(SECONDS, exit=True, file=2)
        faulthandler.register(signal.SIGXCPU, file=2, chain=True)
        _set_limits()
        os.environ.update(space.environment)
        if line.home is not None:
            os.environ["ALEXNET_HOME"] = line.home
        os.chdir(space.place("work"))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)
        status = _exit_status(line)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status & 0xFF)


def _exit_status(line: Line) -> int:
    """The exit status of ``sys.exit(main(words))`` in the interpreter."""
    with contextlib.ExitStack() as patches:
        patches.enter_context(mock.patch("alexnet.cli.main.busy_share", lambda: 0.0))
        patches.enter_context(mock.patch("alexnet.api.matrix_rate", lambda device_config: 100.0))
        if not line.report and line.words[:1] == ("train",):
            patches.enter_context(mock.patch("alexnet.report.build.add", lambda *given: None))
        try:
            status = main(list(line.words))
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 1 if ended.code else 0
        try:
            for stream in (sys.stdout, sys.stderr):
                if stream is not None:
                    stream.flush()
        except OSError:
            status = 120
    return status


def _replace_streams(line: Line, space: Workspace, out: Path, err: Path) -> None:
    """Open standard input, output and error as the line says, and the streams of ``sys`` on them."""
    name = space.place("given") / line.stdin if line.stdin else os.devnull
    os.dup2(os.open(name, os.O_RDONLY), 0)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    os.dup2(os.open(err, flags), 2)
    if line.stdout == "pipe":
        reading, writing = os.pipe()
        os.dup2(writing, 1)
        os.close(reading)
        os.close(writing)
    else:
        os.dup2(os.open("/dev/full" if line.stdout == "full" else out, flags), 1)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    sys.stdin = open(0, encoding=line.encoding, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding=line.encoding, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding=line.encoding, errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    if line.stdin is None:  # as Python starts with a closed stream
        os.close(0)
        sys.stdin = None
    if line.stdout == "closed":
        os.close(1)
        sys.stdout = None


def _memory_in_use() -> tuple[int, int]:
    """Bytes of addresses and of resident memory that this process has now.

    Not ``ru_maxrss``: that is this process's peak, which hides what a child takes below it.
    """
    addresses, resident = Path("/proc/self/statm").read_text(encoding="ascii").split()[:2]
    return int(addresses) * resource.getpagesize(), int(resident) * resource.getpagesize()


def _set_limits() -> None:
    most = _memory_in_use()[0] + ADDRESSES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR_SECONDS, PROCESSOR_SECONDS + 10))


def _wait(pid: int, interrupt: tuple[signal.Signals, float] | None) -> tuple[int, int, bool]:
    """Wait for the process: its exit status, the peak of its resident memory in bytes, whether it hung."""
    handle = os.pidfd_open(pid)
    try:
        if interrupt is not None:
            number, seconds = interrupt
            if not select.select([handle], [], [], seconds)[0]:
                os.kill(pid, number)
        hung = not select.select([handle], [], [], SECONDS + 10)[0]
        if hung:
            os.kill(pid, signal.SIGKILL)
        _, ended, usage = os.wait4(pid, 0)
    finally:
        os.close(handle)
    with contextlib.suppress(ProcessLookupError, PermissionError):  # what it started and left running
        os.killpg(pid, signal.SIGKILL)
    status = 128 + os.WTERMSIG(ended) if os.WIFSIGNALED(ended) else os.WEXITSTATUS(ended)
    return status, usage.ru_maxrss * 1024, hung


def _faults(line: Line, outcome: Outcome) -> list[str]:
    """What is wrong with the status, the output, the time and the memory of a command."""
    faults = []
    allowed = {0, 2}
    if "verify" in line.words:
        allowed |= {1}  # the weights are inconsistent
    if line.stdout in ("pipe", "full"):
        allowed |= {141}
    if line.interrupt is not None:
        allowed |= {128 + line.interrupt[0]}
    errors = re.findall(r"^[\w.]*(?:Error|Exception|Interrupt|Warning)\b.*", outcome.stderr, re.MULTILINE)
    last = errors[-1] if errors else (outcome.stderr.strip().splitlines() or [""])[-1]
    is_json = "--json" in line.words and "--help" not in line.words
    if outcome.hung or "Timeout (" in outcome.stderr:
        faults.append(f"did not end within {SECONDS:g} s: {_where(outcome.stderr)}")
    elif outcome.status == 128 + signal.SIGXCPU:
        faults.append(f"took more than {PROCESSOR_SECONDS} s of a processor: {_where(outcome.stderr)}")
    elif "Traceback (most recent call last)" in outcome.stderr or "Fatal Python error" in outcome.stderr:
        faults.append(f"traceback, status {outcome.status}: {last} {_where(outcome.stderr)}")
    elif outcome.status not in allowed:
        faults.append(f"status {outcome.status}: {last}")
    elif outcome.status == 2 and not _names_the_error(line, outcome):
        faults.append(f"status 2 without a line of error: {last!r}")
    if outcome.memory > MEMORY:
        faults.append(f"took {outcome.memory / 1e9:.1f} GB of memory")
    if is_json and outcome.status in (0, 2) and outcome.stdout and (why := _json_fault(outcome.stdout)):
        faults.append(f"--json printed {why}")
    shown = outcome.stderr if is_json else outcome.stderr + outcome.stdout
    if found := CLEAN.search(shown.replace("\r\n", "\n")):
        faults.append(f"printed {found[0]!a} in {_around(shown, found.start())!a}")
    return faults


def _names_the_error(line: Line, outcome: Outcome) -> bool:
    """Whether stderr has a line of error; predict may print it inside its JSON."""
    inside = "--json" in line.words and line.words[0] == "predict"
    return inside or bool(re.search(r"^alexnet: \S", outcome.stderr, re.MULTILINE))


def _where(stderr: str) -> str:
    """The innermost place of this project in a traceback."""
    places = re.findall(r'File "[^"]*?(alexnet\w*/[^"]*)", line (\d+)', stderr)
    inner = [place for place in places if not place[0].startswith("alexnet_lab/faults")]
    if not inner:
        return "in no module of alexnet"
    name, number = inner[0] if "most recent call first" in stderr else inner[-1]
    return f"in {name}:{number}"


def _around(text: str, at: int) -> str:
    return text[max(0, at - 30) : at + 30]


def _json_fault(text: str) -> str | None:
    def refuse(word: str) -> NoReturn:
        raise ValueError(f"the number {word}")

    try:
        json.loads(text, parse_constant=refuse)
    except ValueError as error:
        return str(error)
    return None


def _may_write(line: Line, path: str, after: Snapshot) -> bool:
    """Whether the line may change ``path``, which is relative to the root of the workspace."""
    allowed = [*WRITABLE, *_outputs(line)]
    if line.home is not None:
        allowed += [os.path.normpath(f"work/{line.home}")] if line.home else ["user/.cache"]
    if "train" in line.words:
        allowed.append("work/runs")
    if "show" in line.words and path.endswith((".png", ".svg", ".html")):
        folder = os.path.dirname(path)  # noqa: PTH120
        targets = [os.path.normpath(f"work/{word}") for word in line.words if word]
        if folder in ("work", *targets, *(target.removesuffix("/model") for target in targets)):
            allowed.append(path)
    if "neighbours" in line.words:  # the features of the training images are kept in the run
        runs = (os.path.normpath(f"work/{word}").removesuffix("/model") for word in line.words if word)
        allowed += [f"{run}/features" for run in runs]
    is_parent = any(name.startswith(f"{path}/") for name in allowed)  # a folder made on the way
    return is_parent or any(path == name or path.startswith(f"{name}/") for name in allowed)


def _outputs(line: Line) -> Iterable[str]:
    """What the line names as its outputs, relative to the root of the workspace."""
    for word, after in zip(line.words, (*line.words[1:], ""), strict=True):
        name, equals, value = word.partition("=")
        if name in OUTPUTS and (target := value if equals else after):
            path = os.path.normpath(f"work/{target}")
            yield path
            yield os.path.splitext(path)[0] + ".svg"  # noqa: PTH122
            yield f"{path}.partial"  # of an unfinished extraction of features


def fuzz_commands(
    folder: Path, numbers: Iterable[int], seed: int, log: Callable[[Line, Outcome], Any] = lambda line, outcome: None
) -> FaultResult:
    """Run the lines of ``numbers``. ``log`` receives each line and its outcome."""
    result = FaultResult("random command line: status, output, files, time and memory as documented")
    fuzzer = CommandFuzzer(folder, seed)
    statuses: dict[int, int] = {}
    slowest = largest = 0.0
    for number in numbers:
        line = draw_line(number, seed)
        outcome = fuzzer.run(line)
        log(line, outcome)
        statuses[outcome.status] = statuses.get(outcome.status, 0) + 1
        slowest, largest = max(slowest, outcome.seconds), max(largest, outcome.memory)
        result.count(passed=not outcome.faults, failure=f"{number}: {'; '.join(outcome.faults)}: {line}")
    counts = ", ".join(f"{count:,} × {status}" for status, count in sorted(statuses.items()))
    result.remark = f"status {counts}; slowest {slowest:.1f} s"
    result.figures = {"slowest_seconds": slowest, "largest_bytes": largest}
    return result
