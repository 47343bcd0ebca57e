"""The table of commands, and the function that runs one of them.

Only the module of the given command is imported, so ``--help`` needs neither torch nor numpy nor Pillow nor pydantic. A
user's mistake gives one line of error and exit status 2. The status is 130 after Ctrl-C, 143 after SIGTERM and 138
after SIGUSR1.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import io
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple, NoReturn

from alexnet.cli.shared_options import (
    SOURCE,
    Add,
    add_data_root,
    add_device,
    add_device_and_precision,
    add_labels,
    add_names,
    add_reference,
    add_seed,
    add_weights_root,
    count,
    positive,
    share,
    whole,
)
from alexnet.core.errors import ConnectionLostError, StoppedError, UserError, unknown
from alexnet.core.names import printable
from alexnet.plots.registry import PLOTS

MODEL = "a run folder, its model/ folder, a weights file, a name from 'alexnet list weights', or hub:OWNER/NAME"
LOST = 1  # exit status of a process that trains with others, after one of them has ended
VARIANT = "a name from 'alexnet list'"
IMAGES = "a folder of images, a tar or zip, a .txt or .csv file with their paths, or a source such as digits"


def _train(add: Add) -> None:
    add(
        "recipe", nargs="?", metavar="RECIPE", help="a name from 'alexnet list', or a JSON file (default: small-digits)"
    )
    add(
        "--data",
        metavar="SOURCE",
        help=f"images to train on: {SOURCE}; without RECIPE: photos-transfer (with --from none: photos, photos-small)",
    )
    add_labels(add)
    start = f"start from trained weights: {MODEL}; 'none' starts from random weights (default: as the recipe says)"
    add("--from", dest="init", metavar="MODEL", help=start)
    add("--freeze", metavar="LAYERS", help="layers of --from that do not train, e.g. conv1-conv3 or conv1,conv2")
    out = "runs/RECIPE, or runs/RECIPE-FOLDER for your own images"
    add("--out", metavar="RUN", help=f"the run folder (default: {out}); an interrupted run there is resumed")
    change = "override a field of the recipe, e.g. train.epochs=3; may be repeated; 'help' lists all fields"
    add("--set", action="append", default=[], metavar="FIELD=VALUE", help=change)
    several = "train in N processes on this computer, each with its part of every batch (default: 1)"
    add("--nproc", type=count, default=1, metavar="N", help=several)
    how = (
        "divide each batch (data), each batch and also fc6 and fc7 (hybrid), or the network into the two columns of "
        "2012 (columns); default: data"
    )
    add("--parallel", choices=("data", "hybrid", "columns"), default="data", help=how)
    restarts = "with --nproc, after a process has died, start all again, at most N times (default: 3)"
    add("--max-restarts", type=whole, default=3, metavar="N", help=restarts)
    keep = "keep the checkpoints of the finished run (default: they are removed once its model is verified)"
    add("--keep-checkpoints", action="store_true", help=keep)
    add_seed(add)
    add_device_and_precision(add)
    add_reference(add)
    add_data_root(add)
    add_weights_root(add)


def _evaluate(add: Add) -> None:
    add("models", nargs="+", metavar="MODEL", help=f"{MODEL}; several are also evaluated as an ensemble")
    add("--data", metavar="SOURCE", help=f"images to evaluate on (default: the run's test images): {SOURCE}")
    add_labels(add)
    add("--views", type=int, choices=(1, 10), default=1, help="centre crop, or the average of ten crops (default: 1)")
    add("--nproc", type=count, default=1, metavar="N", help="divide the images among N processes (default: 1)")
    rows = "write a CSV file with a row for each image: file, true, predicted, probability"
    add("--predictions", metavar="FILE", help=rows)
    add_device_and_precision(add)
    add_reference(add)
    add_data_root(add)
    add_weights_root(add)


def _predict(add: Add) -> None:
    add("model", metavar="MODEL", help=MODEL)
    add("images", nargs="+", metavar="IMAGE", help="image files, folders of images, or - for one image on stdin")
    add("--top-k", type=int, metavar="K", help="classes to print for each image (default: 5; with --csv 1)")
    least = 'below it, 0 to 1, an image is "none of these", and a box is left out (default for boxes: 0.5)'
    add("--threshold", type=share, metavar="P", help=least)
    add("--sort-into", metavar="FOLDER", help="copy each image into FOLDER/CLASS/; nothing is moved or overwritten")
    add(
        "--out",
        metavar="FOLDER",
        help="of a model for masks or boxes: write a picture of them for each image",
    )
    add("--csv", action="store_true", help="print CSV: file, predicted, probability; or a row for each box")
    add_names(add)
    add_device_and_precision(add)
    add_reference(add)
    add_weights_root(add)


def _distance(add: Add) -> None:
    add("model", metavar="MODEL", help=f"an AlexNet: {MODEL}")
    add("first", metavar="A", help="an image, or a folder of images")
    add("second", nargs="?", metavar="B", help="an image; of two folders, images with the same name are compared")
    add("--matrix", action="store_true", help="each image of A with each of B; without B, every pair of images of A")
    resize = "use the model's preprocessing, with its resizing and crop (default: compare whole images of one size)"
    add("--resize", action="store_true", help=resize)
    heads = "LPIPS's alex.pth, or 'uniform' (default: the file in the package lpips, for torchvision's weights)"
    add("--heads", metavar="FILE", help=heads)
    add("--csv", action="store_true", help="print CSV: first, second, distance")
    add_device(add)
    add_weights_root(add)


def _features(add: Add) -> None:
    add("model", metavar="MODEL", help=MODEL)
    add("images", metavar="IMAGES", help=IMAGES)
    layers = (
        "layer names separated by commas (see alexnet summary MODEL): conv5 is before the ReLU, relu5 after it; for "
        "the variant torchvision also torchvision's names"
    )
    add("--layers", required=True, metavar="LAYERS", help=layers)
    out = "the folder to write, with an .npy file for each layer, or a file that ends in .npz, .h5 or .parquet"
    add("--out", required=True, metavar="FEATURES", help=f"{out}; an interrupted extraction there is continued")
    pool = "mean or max over the positions of feature maps (default: none)"
    add("--pool", choices=("none", "mean", "max"), default="none", help=pool)
    twins = "also the features of N untrained networks of the same architecture, random seeds 0 to N - 1"
    add("--untrained", type=int, default=0, metavar="N", help=twins)
    rdm = "also write the correlation distances of all pairs of images, a matrix and a picture for each layer"
    add("--rdm", action="store_true", help=rdm)
    cka = "print CKA between the layers; with folders of features of the same images, between these and the layers"
    add("--cka", nargs="*", metavar="FEATURES", help=cka)
    batch = "images that are read at a time (default: 256); the features do not depend on it"
    add("--batch", type=count, default=256, metavar="N", help=batch)
    add("--nproc", type=count, default=1, metavar="N", help="divide the images among N processes (default: 1)")
    add_names(add)
    add_device(add)
    add("--precision", choices=("fp32", "bf16"), default="fp32", help="of the computation (default: fp32)")
    add_reference(add)
    add_data_root(add)
    add_weights_root(add)


def _probe(add: Add) -> None:
    add("model", metavar="MODEL", help=MODEL)
    add("--data", metavar="SOURCE", help=f"images with classes: {SOURCE}")
    add(
        "--layers",
        default="",
        metavar="LAYERS",
        help="layer names separated by commas, e.g. relu5,fc6 (default: all activations)",
    )
    add_labels(add)
    add("--images", type=count, metavar="N", help="the most images to use, evenly spaced (default: all)")
    add_seed(add)
    add_device(add)
    add("--precision", choices=("fp32", "bf16"), default="fp32", help="of the features (default: fp32)")
    add_reference(add)
    add_data_root(add)
    add_weights_root(add)


def _convert(add: Add) -> None:
    add("file", metavar="FILE", help="a weights file: PyTorch, safetensors, Keras, NumPy, MatConvNet, ONNX or Caffe")
    add("--variant", metavar="VARIANT", help=f"{VARIANT} (default: found from shapes and names)")
    add("--mean", metavar="FILE", help="the mean image that the network subtracts: .binaryproto or .npy")
    add("--out", metavar="FOLDER", help="the model folder to write (default: the file's name without suffix)")
    add_weights_root(add)


def _export(add: Add) -> None:
    add("model", metavar="MODEL", help=MODEL)
    add(
        "--to",
        required=True,
        metavar="FORMAT",
        help="onnx, torch, torchvision, safetensors, caffe, keras, c, topology, or hub:OWNER/NAME to upload the model",
    )
    add("--out", metavar="FILE", help="the file to write (default: the model's name with the format's suffix, here)")
    add("--int8", action="store_true", help="int8 weights and activations, with ranges from real images")
    add("--pixels", action="store_true", help="uint8 images as input: crop and normalization are inside the file")
    add("--golden", metavar="IMAGE", help="also write the output of every layer for this image")
    images = "a source, an image or a folder of images"
    add(
        "--data",
        metavar="SOURCE",
        help=f"images for the check and for --int8 (default: the run's own, else two photographs): {images}",
    )
    add_data_root(add)
    add_weights_root(add)


def _verify(add: Add) -> None:
    add("model", metavar="MODEL", help=f"{MODEL}; also one that cannot be loaded, such as weights that are not finite")
    add("--against", metavar="MODEL", help="another MODEL: compare its layers with these")
    named = "or a folder of photographs whose names begin with a WordNet id"
    add("--data", metavar="SOURCE", help=f"labelled images, to find the preprocessing: {SOURCE}, {named}")
    add_labels(add)
    add("--images", type=count, default=400, metavar="N", help="the most images to classify (default: 400)")
    add("--variant", metavar="VARIANT", help=f"{VARIANT} (default: found from shapes and names)")
    add("--mean", metavar="FILE", help="the mean image that the network subtracts: .binaryproto or .npy")
    add_data_root(add)
    add_weights_root(add)


def _summary(add: Add) -> None:
    add(
        "target", nargs="?", metavar="VARIANT|MODEL", help=f"{VARIANT}, or {MODEL} (default: all variants, a line each)"
    )
    add("--classes", type=int, metavar="N", help="number of classes (default: the variant's own)")
    add("--channels", type=int, choices=(1, 3), help="input channels (default: the variant's own)")
    add("--image-size", type=int, metavar="PIXELS", help="side of the input image (default: the variant's own)")
    add_weights_root(add)


def _plan(add: Add) -> None:
    add("recipe", metavar="RECIPE", help="a name from 'alexnet list', or a JSON file")
    add("--devices", required=True, metavar="NxDEVICE", help="for example 8xH100 (A100, H100, H200, RTX3090, V100)")
    add(
        "--batch",
        type=count,
        action="append",
        metavar="N",
        help="global batch; may be repeated (default: the recipe's, and larger ones)",
    )
    add("--images", type=count, metavar="N", help="training images (default: those of the built-in set)")
    add("--classes", type=count, metavar="N", help="number of classes (default: those of the built-in set)")
    add(
        "--reached",
        type=share,
        default=0.4,
        metavar="SHARE",
        help="share of its peak that a device reaches (default: 0.4)",
    )
    link = "GB/s that each device sends (default: inside a computer for up to 8 devices, else the network's)"
    add("--link", type=positive, metavar="GB/S", help=link)


def _list(add: Add) -> None:
    lists = ("variants", "recipes", "sources", "weights")
    add("what", nargs="?", choices=lists, help="print only this list (default: all)")
    add_weights_root(add)


def _prepare(add: Add) -> None:
    add("source", metavar="SOURCE", help=SOURCE)
    add_labels(add)
    size = "side of the prepared images (default: 256, or their own if all have one size up to 128)"
    add("--size", type=int, metavar="PIXELS", help=size)
    add("--channels", type=int, choices=(1, 3), help="1 is grey, 3 is colour (default: the source's own; for files 3)")
    add("--strict", action="store_true", help="stop at the first file that is refused")
    add("--verify", action="store_true", help="hash the prepared files again and compare")
    shards = "also write the images as shards to a folder or to s3://BUCKET/PREFIX, a source for other computers"
    add("--shards", metavar="ADDRESS", help=shards)
    records = "content of the shards: uint8, the pixels (default), or encoded, the image files, decoded in training"
    add("--records", choices=("uint8", "encoded"), default="uint8", help=records)
    add_names(add)
    add_data_root(add)


def _cache(add: Add) -> None:
    remove = "remove entries by their names in the list; one that a training needs is not removed"
    add("--remove", nargs="+", metavar="NAME", help=remove)


def _show(add: Add) -> None:
    add("what", metavar="PLOT", help="a name from the list below")
    targets = (
        "run or model folders, several for curves and filters; a weights file or a name from 'alexnet list weights', "
        "for plots that need no training; architecture and receptive-field also take a VARIANT"
    )
    add("targets", nargs="+", metavar="MODEL", help=f"{targets}, augmentations a RECIPE")
    add("--out", metavar="FILE", help="the file to write, .png or .svg (default: in the run folder)")
    add(
        "--image", action="append", default=[], metavar="FILE", help="an image; may be repeated (default: a test image)"
    )
    add("--class", dest="class_name", metavar="CLASS", help="for attributions: the class (default: the most probable)")
    add("--layer", action="append", default=[], metavar="LAYER", help="e.g. relu5; for activations may be repeated")
    add("--data", metavar="SOURCE", help=f"images to use (default: the run's own): {SOURCE}")
    add_device_and_precision(add)
    add_data_root(add)
    add_weights_root(add)


class Command(NamedTuple):
    """A row of the table. ``arguments``: adds the command's arguments; a function or its ``module:name``.

    ``run``: ``module:name`` of the function that runs it. ``computes``: whether it uses all processors.
    """

    help: str
    arguments: Callable[[Add], None] | str
    run: str
    computes: bool = False
    epilog: str = ""


LAB = "alexnet_lab.cli"  # named, not imported: nothing in alexnet imports alexnet_lab
COMMANDS: dict[str, Command] = {
    "train": Command(
        "train a recipe, evaluate the model and write a run folder", _train, "alexnet.cli.train:main", computes=True
    ),
    "evaluate": Command(
        "top-1 and top-5 accuracy and loss of trained models, and of their ensemble",
        _evaluate, "alexnet.cli.evaluate:main", computes=True,
    ),
    "predict": Command(
        "predict classes, masks or boxes of image files with a trained model",
        _predict, "alexnet.cli.predict:main", computes=True,
    ),
    "distance": Command(
        "measure the perceptual distance between images (LPIPS's formula)",
        _distance, "alexnet.cli.distance:main", computes=True,
    ),
    "features": Command(
        "write the outputs of layers for many images", _features, "alexnet.cli.features:main", computes=True
    ),
    "probe": Command(
        "linear probes: the cross-validated accuracy of a linear classifier on the features of each layer",
        _probe, "alexnet.cli.probe:main", computes=True,
    ),
    "convert": Command(
        "turn a weights file of another framework into a model folder", _convert, "alexnet.cli.convert:main"
    ),
    "export": Command(
        "write a trained model for another runtime, and check it there", _export, "alexnet.cli.export:main",
        computes=True,
    ),
    "verify": Command(
        "what the weights of a model are, and whether they are right; status 1 if they are suspicious",
        _verify, "alexnet.cli.verify:main", computes=True,
    ),
    "plan": Command("estimate a training on many devices", _plan, "alexnet.cli.plan:main"),
    "summary": Command(
        "layer table of a network: shapes, parameters, multiply-adds, receptive fields",
        _summary, "alexnet.cli.summary:main",
    ),
    "list": Command("list the variants, recipes, image sets and trained weights", _list, "alexnet.cli.list:main"),
    "prepare": Command(
        "decode the images of a source once and cache them; list refused files",
        _prepare, "alexnet.cli.prepare:main",
    ),
    "cache": Command(
        "list prepared datasets and downloads with size and age, or remove some", _cache, "alexnet.cli.cache:main"
    ),
    "show": Command(
        "plot a training, a trained model, a network or a recipe", _show, "alexnet.cli.show:main", computes=True,
        epilog="\n".join([
            "plots:", *(f"  {name:<17}{line}" for name, line in PLOTS.items()),
            "  report           all plots of one run, on an HTML page",
        ]),
    ),
    "reproduce": Command(
        "claims about AlexNet, with measured figures and verdicts",
        f"{LAB}:add_reproduce_arguments", f"{LAB}:reproduce", computes=True,
    ),
    "bench": Command(
        "benchmark against stock PyTorch and the hardware peak",
        f"{LAB}:add_bench_arguments", f"{LAB}:bench", computes=True,
    ),
}  # fmt: skip
"""Name → command. To add one, write its module and add a row."""

BUSY = 0.4  # share of all processors: one of two processors in use by another program is enough


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one complete line."""

    def error(self, message: str) -> NoReturn:
        """Raise ``UserError``."""
        raise UserError(f"{message}; see {self.prog} --help")


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser of the command line, with the arguments of ``command`` only."""
    parser = Parser(
        prog="alexnet", allow_abbrev=False,
        description="AlexNet in every published form: train, evaluate, predict and plot.",
        epilog="Start with: alexnet train",
    )  # fmt: skip
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for name, row in COMMANDS.items():
        subparser = commands.add_parser(
            name, help=row.help, description=row.help[0].upper() + row.help[1:] + ".", epilog=row.epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
        )  # fmt: skip
        if name == command:
            add_arguments(name, subparser.add_argument)
    return parser


def add_arguments(command: str, add: Add) -> None:
    """Add the arguments of a command, ``--json`` included."""
    arguments = COMMANDS[command].arguments
    (_load(arguments) if isinstance(arguments, str) else arguments)(add)
    add("--json", action="store_true", help="print the result as one JSON document")


def _load(path: str) -> Callable[..., int]:
    """The function that ``module:name`` names."""
    module, _, name = path.partition(":")
    function: Callable[..., int] = getattr(importlib.import_module(module), name)
    return function


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The arguments. Raises ``UserError``, with the nearest name for a command or option that does not exist."""
    first = next((word for word in words if not word.startswith("-")), None)
    if first is not None and first not in COMMANDS:
        raise _unknown_command(first)
    arguments, strange = build_parser(first).parse_known_args(words)
    if strange and not strange[0].startswith("-"):
        raise UserError(f"unexpected argument {strange[0]!r}; see alexnet {arguments.command} --help")
    if strange and not arguments.command:
        raise UserError(f"{strange[0]} must come after a command: alexnet COMMAND {strange[0]}")
    if strange and arguments.command == "train":
        from alexnet.config import field_meant

        if field := field_meant(strange[0].partition("=")[0].lstrip("-")):
            raise UserError(f"unknown option {strange[0]!r}: it is a field of the recipe, write --set {field}=VALUE")
    if strange:
        raise unknown("option", strange[0], options_of(arguments.command))
    return arguments


def _unknown_command(name: str) -> UserError:
    from alexnet.recipes import is_recipe

    if is_recipe(name):
        return UserError(f"unknown command {name!r}: it is a recipe, write alexnet train {name}")
    return unknown("command", name, COMMANDS)


def options_of(command: str) -> list[str]:
    """The options of a command, ``--help`` included."""
    names: list[str] = []
    add_arguments(command, lambda *given, **_: names.append(given[0]))
    return [name for name in [*names, "--help"] if name.startswith("-")]


def main(words: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status. ``words``: the arguments, those of the process if None.

    Signal handlers, warning filters and the error handlers of the streams are the same afterwards as before.
    """
    _open_closed_streams()
    try:
        with _process_settings():
            status = _run(sys.argv[1:] if words is None else words)
    except SystemExit as stopped:  # a signal, or an error of the arguments
        if "WORLD_SIZE" not in os.environ or not isinstance(stopped.code, int):
            raise
        status = stopped.code
    return _status_of_process(status) if "WORLD_SIZE" in os.environ else status


def _status_of_process(status: int) -> int:
    """The exit status of one of several processes that train together, see ``distributed/launch.py``."""
    from alexnet.distributed.launch import has_reported, is_launched, report_status

    first = os.environ.get("RANK", "0") == "0"
    if status == LOST:
        return 0 if has_reported(wait=not first) else LOST
    status = report_status(status, first=first)
    if is_launched():  # threads of torch.distributed have aborted an ordinary exit, after all was done
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _run(words: Sequence[str]) -> int:
    try:
        arguments = parse(words)
        if arguments.version:
            from importlib.metadata import PackageNotFoundError, version

            try:
                print(f"alexnet {version('alexnet')}")
            except PackageNotFoundError as error:
                raise UserError("the version is unknown, because alexnet is not installed: pip install .") from error
            return 0
        if arguments.command is None:
            build_parser().print_help()
            return 0
        arguments.words = list(words)
        command = COMMANDS[arguments.command]
        if command.computes:
            wait_politely()
        status = _load(command.run)(arguments)
        sys.stdout.flush()  # here, so that a full disk is reported in a line
    except UserError as error:
        print(f"alexnet: {error}", file=sys.stderr)
        return 2
    except StoppedError as stopped:
        print(f"alexnet: {stopped}", file=sys.stderr)
        return stopped.status
    except ConnectionLostError as lost:
        if "WORLD_SIZE" not in os.environ or os.environ.get("RANK") == "0":
            print(f"alexnet: the connection to another process was lost: {lost}", file=sys.stderr)
        return LOST
    except KeyboardInterrupt:
        print("alexnet: interrupted", file=sys.stderr)
        return 130
    except OSError as error:
        with contextlib.suppress(OSError, ValueError):  # drop unwritten output, or Python writes it at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # the program that read our output has exited
            return 141
        full = error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
        where = "the output cannot be written" if full else error.filename or "system error"
        print(f"alexnet: {printable(str(where))}: {error.strerror or error}", file=sys.stderr)
        return 2
    return status


def _open_closed_streams() -> None:
    """Open standard streams that are closed (``>&-``, some services) as ``/dev/null``.

    Otherwise ``print`` fails, and the next file that is opened takes the number of the closed stream.
    """
    closed = [name for name in ("stdin", "stdout", "stderr") if getattr(sys, name) is None]
    if not closed:
        return
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:  # the lowest free number
        pass
    os.close(handle)
    for name in closed:
        setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: PTH123, SIM115


@contextlib.contextmanager
def _process_settings() -> Iterator[None]:
    """A context with the process settings that a command needs; the earlier ones are restored at its end."""
    streams = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, io.TextIOWrapper)]
    errors = [stream.errors for stream in streams]
    handlers = {}
    if threading.current_thread() is threading.main_thread():  # Python sets signal handlers nowhere else
        handlers = {number: signal.signal(number, _terminate) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")  # refused files are reported separately
            for stream in streams:
                stream.reconfigure(errors="replace")  # a terminal that cannot print × must not end a training
            yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for stream, before in zip(streams, errors, strict=True):
            if not stream.closed:
                with contextlib.suppress(OSError):  # it flushes, and the reader may have exited
                    stream.reconfigure(errors=before)


def wait_politely() -> None:
    """If other programs use the processors, let waiting OpenMP threads sleep instead of spin.

    If processors are busy, spinning threads can make the work ten times slower (docs/log.md). On an idle computer,
    sleeping threads make it a third slower. OpenMP reads the setting once, so it must be set before torch is imported.
    """
    if busy_share() > BUSY:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def busy_share(seconds: float = 0.1) -> float:
    """The share of all processors' time in use, 0 … 1, measured for ``seconds``; 0 if the system does not report it.

    The load average is not used, because it includes programs that have ended a minute ago, such as an earlier
    training.
    """
    try:
        before = _processor_times()
        time.sleep(seconds)
        idle, total = (after - earlier for after, earlier in zip(_processor_times(), before, strict=True))
    except (OSError, ValueError, IndexError):
        return 0.0
    return 1 - idle / total if total else 0.0


def _processor_times() -> tuple[int, int]:
    """Clock ticks of all processors since the system started: idle ones, and all (proc_stat(5))."""
    first, *_ = Path("/proc/stat").read_text(encoding="ascii").splitlines()
    ticks = [int(field) for field in first.split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
