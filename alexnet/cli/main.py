"""The table of commands: name, arguments, one line of help.

Only the command that was asked for is imported, so ``--help`` needs neither torch nor numpy nor Pillow. A user's
mistake leaves with status 2 and no traceback, an interrupt with 130, SIGTERM with 143, SIGUSR1 with 138.
"""

from __future__ import annotations

import argparse
import difflib
import errno
import importlib
import io
import math
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from alexnet.core.errors import StoppedError, UserError, unknown
from alexnet.plots.registry import PLOTS

Add = Callable[..., object]

SOURCE = "a built-in set, NAME:PATH for one kept at PATH (imagenet:PATH), a folder of class folders, or a tar of one"


def _train(add: Add) -> None:
    add("recipe", nargs="?", metavar="RECIPE", help="a name from 'alexnet list'; without one, the embedded digits")
    add("--data", metavar="SOURCE", help=f"{SOURCE}; alone it picks the recipe photos, or photos-small")
    add("--out", metavar="RUN", help="the run folder (default: runs/RECIPE); an interrupted run there is continued")
    change = "change a field, e.g. train.epochs=3; may be repeated, and a wrong name lists them all"
    add("--set", action="append", default=[], metavar="FIELD=VALUE", help=change)
    _seed(add)
    _machine(add)
    _reference(add)
    _data_root(add)


def _evaluate(add: Add) -> None:
    add("runs", nargs="+", metavar="RUN", help="run folders; several get a row each and one for their ensemble")
    add("--data", metavar="SOURCE", help=f"instead of the run's own test images: {SOURCE}")
    add("--views", type=int, choices=(1, 10), default=1, help="centre view, or ten views averaged (default: 1)")
    _machine(add)
    _reference(add)
    _data_root(add)


def _predict(add: Add) -> None:
    add("run", metavar="RUN", help="a run folder or its model/")
    add("images", nargs="+", metavar="IMAGE", help="image files, folders of them, or - for one image on stdin")
    add("--top-k", type=int, default=5, metavar="K", help="classes to print for each image (default: 5)")
    _machine(add)
    _reference(add)


def _summary(add: Add) -> None:
    add("variant", nargs="?", metavar="VARIANT", help="a name from 'alexnet list'; without one, all in a line each")
    add("--classes", type=int, metavar="N", help="outputs (default: what the variant's authors had)")
    add("--channels", type=int, choices=(1, 3), help="input channels (default: what the variant's authors had)")
    add("--image-size", type=int, metavar="PIXELS", help="side of the input (default: the variant's own)")


def _list(add: Add) -> None:
    add("what", nargs="?", choices=("variants", "recipes", "sources"), help="one of the three lists (default: all)")


def _prepare(add: Add) -> None:
    add("source", metavar="SOURCE", help=SOURCE)
    add("--size", type=int, metavar="PIXELS", help="side to keep (default: one size up to 128 is kept, else 256)")
    add("--channels", type=int, choices=(1, 3), help="grey or colour (default: the source's own; files: 3)")
    add("--strict", action="store_true", help="stop at the first file that is refused")
    add("--verify", action="store_true", help="hash the store again and compare")
    _data_root(add)


def _reproduce(add: Add) -> None:
    add("claims", nargs="*", metavar="CLAIM", help="C1 to C34; without one, the table of all")
    add("--run", action="store_true", help="first train what these claims need, cheapest first; resumable")
    add("--missing", action="store_true", help="with --run: only what results/ does not have yet")
    add("--data", action="append", default=[], metavar="NAME:PATH", help="where a set is: cifar10:PATH; repeatable")
    _device(add)  # recipes say in what precision they are trained
    _data_root(add)


def _show(add: Add) -> None:
    add("what", metavar="WHAT", help="a name from the list below")
    names = "architecture and receptive-field also take a VARIANT, augmentations a RECIPE"
    add("targets", nargs="+", metavar="RUN", help=f"a run folder; several for curves and filters; {names}")
    add("--out", metavar="FILE", help="file to write, .png or .svg (default: in the run folder)")
    add("--image", action="append", default=[], metavar="FILE", help="an image; repeatable (default: a test image)")
    add("--class", dest="class_name", metavar="CLASS", help="for attributions (default: the most probable class)")
    add("--layer", action="append", default=[], metavar="LAYER", help="e.g. relu5; for activations repeatable")
    add("--data", metavar="SOURCE", help=f"instead of the run's own images: {SOURCE}")
    _machine(add)
    _data_root(add)


def _bench(add: Add) -> None:
    add("what", choices=("train", "infer", "data"), help="training steps, inference, or images on their way")
    add("--variant", action="append", metavar="VARIANT", help="a name from 'alexnet list'; repeatable")
    add("--batch", action="append", type=_count, metavar="N", help="images at once; repeatable")
    add("--rounds", type=_count, default=5, metavar="N", help="turns for each side (default: 5)")
    add("--seconds", type=_positive, default=4.0, metavar="S", help="how long a turn is (default: 4)")
    add("--data", metavar="SOURCE", help="for data: photographs of your own instead of made ones")
    add("--keep", action="store_true", help="write the figures to results/ too")
    _machine(add)
    _data_root(add)


def _count(word: str) -> int:
    if not word.isdigit() or not int(word):
        raise argparse.ArgumentTypeError(f"{word!r} is no number of 1 or more")
    return int(word)


def _positive(word: str) -> float:
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{word!r} is no number above 0")
    return number


def _seed(add: Add) -> None:
    add("--seed", type=int, default=0, metavar="N", help="what every draw is keyed by (default: 0)")


def _device(add: Add) -> None:
    add("--device", metavar="DEVICE", help="cpu, cuda, cuda:1 (default: a GPU if there is one)")


PRECISION = "int8 is for trained networks, their weights, on a CPU (default: bf16 where the machine does it well)"


def _machine(add: Add) -> None:
    _device(add)
    add("--precision", choices=("auto", "fp32", "bf16", "int8"), help=PRECISION)


def _reference(add: Add) -> None:
    add("--reference", action="store_true", help="use reference PyTorch layers instead of the fast kernels")
    add("--plain", dest="reference", action="store_true", help=argparse.SUPPRESS)  # its name in earlier versions


def _data_root(add: Add) -> None:
    add("--data-root", type=Path, metavar="FOLDER", help="where built-in sets are looked for first")


COMMANDS: dict[str, tuple[Callable[[Add], None], str]] = {
    "train": (_train, "train a recipe, evaluate it, and leave a run folder"),
    "evaluate": (_evaluate, "top-1, top-5 and loss of finished runs, and of their ensemble"),
    "predict": (_predict, "label image files with a trained run"),
    "summary": (_summary, "layers of a network: shapes, parameters, multiply-adds, receptive fields"),
    "list": (_list, "the variants, recipes and built-in image sets"),
    "prepare": (_prepare, "decode a source once into a store, and list what was refused"),
    "show": (_show, "plots of a run, a network or a recipe"),
    "reproduce": (_reproduce, "what is said of AlexNet, beside what was measured"),
    "bench": (_bench, "speed beside stock PyTorch and beside what the machine can do, by turns"),
}

SHOWN = {**PLOTS, "report": "all plots of one run on an HTML page"}
EPILOGS = {"show": "\n".join(["plots:", *(f"  {name:<17}{line}" for name, line in SHOWN.items())])}
COMPUTING = ("train", "evaluate", "predict", "show", "reproduce", "bench")
BUSY = 0.4  # of all processors: one of two, taken by another program, is enough


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one complete line, with the nearest name for a command or option that is unknown."""

    def error(self, message: str) -> NoReturn:
        """Print and leave with status 2."""
        raise UserError(f"{message}; see {self.prog} --help")


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = Parser(
        prog="alexnet", allow_abbrev=False,
        description="AlexNet in every published form: trained, measured, explained and put to use.",
        epilog="Start with: alexnet train",
    )  # fmt: skip
    parser.add_argument("--version", action="store_true", help="print the version and leave")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for name, (add_arguments, line) in COMMANDS.items():
        command = commands.add_parser(
            name, help=line, description=line[0].upper() + line[1:] + ".", epilog=EPILOGS.get(name),
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
        )  # fmt: skip
        add_arguments(command.add_argument)
        command.add_argument("--json", action="store_true", help="print one JSON document on stdout")
    return parser


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The arguments. Raises ``UserError`` naming the nearest for a command or option that does not exist."""
    first = next((word for word in words if not word.startswith("-")), None)
    if first is not None and first not in COMMANDS:
        nearest = difflib.get_close_matches(first, COMMANDS, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"commands: {', '.join(COMMANDS)}"
        raise UserError(f"unknown command {first!r}: {hint}")
    arguments, strange = build_parser().parse_known_args(words)
    if strange and not strange[0].startswith("-"):
        raise UserError(f"{strange[0]!r} is one argument too many; see alexnet {arguments.command} --help")
    if strange and not arguments.command:
        raise UserError(f"{strange[0]} comes after a command: alexnet COMMAND {strange[0]}")
    if strange and arguments.command == "train":
        from alexnet.config import field_meant

        if field := field_meant(strange[0].partition("=")[0].lstrip("-")):
            raise UserError(f"unknown option {strange[0]!r}: it is a field of the recipe, write --set {field}=VALUE")
    if strange:
        raise unknown("option", strange[0], options_of(arguments.command))
    return arguments


def options_of(command: str) -> list[str]:
    """The options that a command takes, ``--json`` and ``--help`` included."""
    names: list[str] = []
    COMMANDS[command][0](lambda *given, **_: names.append(given[0]))
    return [name for name in [*names, "--json", "--help"] if name.startswith("-")]


def main(words: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, _terminate)
    warnings.filterwarnings("ignore", module=r"PIL\.")  # what matters of a file is said in one line of our own
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that has no × must not end a training
    try:
        arguments = parse(sys.argv[1:] if words is None else words)
        if arguments.version:
            from importlib.metadata import version

            print(f"alexnet {version('alexnet')}")
            return 0
        if arguments.command is None:
            build_parser().print_help()
            return 0
        if arguments.command in COMPUTING:
            wait_politely()
        command = importlib.import_module(f"alexnet.cli.{arguments.command}")
        status: int = command.main(arguments)
        sys.stdout.flush()  # here, where a full disk still gets its line
    except UserError as error:
        print(f"alexnet: {error}", file=sys.stderr)
        return 2
    except StoppedError as stopped:
        print(f"alexnet: {stopped}", file=sys.stderr)
        return stopped.status
    except KeyboardInterrupt:
        print("alexnet: interrupted", file=sys.stderr)
        return 130
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what it could not take is dropped
        if isinstance(error, BrokenPipeError):  # whoever read our output has left
            return 141
        full = error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
        where = "the output cannot be written" if full else error.filename or "the system refused"
        print(f"alexnet: {where}: {error.strerror or error}", file=sys.stderr)
        return 2
    return status


def wait_politely() -> None:
    """Where others keep the processors busy, have threads that wait sleep instead of spinning.

    A thread that spins for a partner which is not running costs up to ten times the work itself (docs/log.md); one that
    sleeps costs a third more on an idle machine. OpenMP reads the setting once, so it is made before torch is imported.
    """
    if busy_share() > BUSY:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def busy_share(seconds: float = 0.1) -> float:
    """The share of all processors' time that others use now, watched for so long; 0 where the system does not say.

    Not the load average: that remembers what ended a minute ago, such as the training before this one.
    """
    try:
        before = _processor_times()
        time.sleep(seconds)
        idle, total = (after - earlier for after, earlier in zip(_processor_times(), before, strict=True))
    except (OSError, ValueError, IndexError):
        return 0.0
    return 1 - idle / total if total else 0.0


def _processor_times() -> tuple[int, int]:
    """Clock ticks since the start of the system, of all processors: idle ones, and all (proc_stat(5))."""
    first, *_ = Path("/proc/stat").read_text(encoding="ascii").splitlines()
    ticks = [int(field) for field in first.split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
