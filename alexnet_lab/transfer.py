"""``python -m alexnet_lab.transfer``: how accurate trainings on few images are, from trained and from random weights.

``run`` draws classes and images at random from a source, trains on each draw, and evaluates on all test images of these
classes. Each training is a run folder, so the command can be interrupted and repeated. ``layers`` fits a linear probe
on each layer of the weights. ``keep`` writes the figures to the results, from which ``docs/transfer.md`` has its tables
and its picture. No choice depends on the test images. The given weights must not have been trained on the drawn
classes.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from alexnet import Predictor, Run, train
from alexnet.api import probe
from alexnet.core.errors import UserError
from alexnet.core.files import publish_folder, read_json, write_bytes, write_json
from alexnet.data.sources import Record, Source, open_source
from alexnet.metrics.intervals import accuracy_interval
from alexnet.plots.canvas import BLUE, ORANGE, encode_figure, new_figure
from alexnet.report.tables import markdown_table, spread
from alexnet.runtime.device import hardware_name, resolve_device
from alexnet_lab.commands import add_keep, exit_status
from alexnet_lab.results.reader import TRANSFER, TRANSFER_LAYERS, Results, file_name
from alexnet_lab.results.records import circumstances, keep_figures

BATCH = 256
TWIN = "trunk/tiny-imagenet-a"  # of the included weights, not trained on the classes of half b
LAYERS = ("relu1", "relu2", "relu3", "relu4", "relu5", "avgpool5", "relu6", "relu7")
SPLIT = {"train.few_images": "split"}
ONE_UPDATE = {"train.epochs": 1, "train.min_steps": 1, "optim.lr": 1e-12, "train.freeze": ("conv1-conv5",)}
METHODS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "probe": {"overrides": {**SPLIT, **ONE_UPDATE}},
    "fine-tuning": {"overrides": SPLIT},
    "random weights": {"init": "none"},
}
"""Method → the arguments of ``train``.

``default`` is what the command ``alexnet train --data FOLDER`` does: below 50 images a class a probe that is fitted on
all images, otherwise fine-tuning. ``probe`` is the
probe with which that fine-tuning begins; one update with lr 1e-12 does not change it.
"""
COLOURS = {"default": BLUE, "random weights": ORANGE}
PICTURE = Path("docs/transfer.png")


def draw(source: Source, folder: Path, classes: int, images: int, seed: int) -> None:
    """Write ``classes`` random classes with ``images`` random training images each, and all their test images.

    ``folder`` gets ``train/<class>/`` and ``test/<class>/``. Nothing is done if it is there. Raises ``UserError`` if a
    class has too few images.
    """
    if folder.is_dir():
        return
    if classes > len(source.classes):
        raise UserError(f"{source.name} has {len(source.classes)} classes, {classes} are needed")
    draws = np.random.default_rng(seed)
    chosen = sorted(draws.choice(len(source.classes), classes, replace=False).tolist())
    by_class: dict[tuple[str | None, int], list[Record]] = defaultdict(list)
    for record in source.records():
        if record.label in chosen and record.split in ("train", "test"):
            by_class[record.split, record.label].append(record)
    with publish_folder(folder) as place:
        for label in chosen:
            name, training = source.classes[label], by_class["train", label]
            if not by_class["test", label]:
                raise UserError(f"{source.name}: class {name} has no test images")
            if len(training) < images:
                raise UserError(f"{source.name}: class {name} has {len(training)} training images, {images} are needed")
            numbers = sorted(draws.choice(len(training), images, replace=False).tolist())
            _write([training[number] for number in numbers], place / "train" / name)
            _write(by_class["test", label], place / "test" / name)


def _write(records: Sequence[Record], folder: Path) -> None:
    folder.mkdir(parents=True)
    for number, record in enumerate(records):
        if isinstance(record.payload, Path):
            shutil.copy(record.payload, folder / f"{number:05d}{record.payload.suffix}")
        elif isinstance(record.payload, bytes):
            (folder / f"{number:05d}{Path(record.name).suffix}").write_bytes(record.payload)
        else:
            Image.fromarray(record.payload.squeeze()).save(folder / f"{number:05d}.png")


def measure(folder: Path, method: str, seed: int, init: str, out: Path) -> dict[str, Any]:
    """Train on a drawn folder and return the figures; those of a finished training are read from ``out``."""
    figures = out / f"{folder.name}-{method.replace(' ', '-')}-{seed}.json"
    arguments = {"init": init, **METHODS[method]}
    if figures.is_file():
        found: dict[str, Any] = read_json(figures)
        if found["init"] != arguments["init"]:
            raise UserError(f"{figures} was measured with --from {found['init']}: give another --out")
        return found
    run = train(data=folder, out=out / figures.stem, seed=seed, **arguments)
    result = run.result
    folds = result.get("cross_validation") or {}
    value = {
        "draw": folder.name, "method": method, "seed": seed, "init": arguments["init"], "recipe": result["recipe"],
        "top1": result["top1"], "images": result["images"],
        "train_top1": accuracy_on(run, folder / "train"), "folds_top1": folds.get("top1"),
        "kept_epoch": result["kept_epoch"], "steps": result["steps"],
        "seconds": round(result["seconds"], 1), "matrix_gflops": result["matrix_gflops"],
        **circumstances(resolve_device()),
    }  # fmt: skip
    write_json(figures, value)
    return value


def accuracy_on(run: Run, folder: Path) -> float:
    """The share, 0 … 1, of the images in class folders that the model of a run predicts correctly, one view each."""
    predict = Predictor(run.folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    numbers = {name: number for number, name in enumerate(predict.model.classes)}
    right = sum(
        int(row.argmax()) == numbers[file.parent.name]
        for start in range(0, len(files), BATCH)
        for some in [files[start : start + BATCH]]
        for file, row in zip(some, predict.probabilities([predict.read(file) for file in some]), strict=True)
    )
    return right / len(files)


def measure_layers(source: str, data_root: Path | None, images: int, init: str, out: Path) -> None:
    """Fit a probe on each of ``LAYERS``, by cross-validation, and write the figures to ``out``/layers."""
    result = probe(init, source, LAYERS, images=images, data_root=data_root)
    rows = [
        {
            "layer": layer.layer, "units": layer.units,
            **{kind: {"accuracy": score.accuracy, "interval": list(score.interval)}
               for kind, score in (("trained", layer.trained), ("untrained", layer.untrained))},
        }
        for layer in result.layers
    ]  # fmt: skip
    (out / "layers").mkdir(parents=True, exist_ok=True)
    write_json(
        out / "layers" / "layers.json",
        {
            "init": init, "images": result.images, "classes": result.classes, "splits": list(result.splits),
            "layers": rows, **circumstances(resolve_device(precision="fp32")),
        },
    )  # fmt: skip


def keep(out: Path) -> list[Path]:
    """Write the figures in a folder of ``run`` and ``layers`` to results files; returns their paths.

    Raises ``UserError`` if there are none, and for those of several machines.
    """
    if len(machines := {hardware_name(read_json(path)["hardware"]) for path in out.glob("*.json")}) > 1:
        raise UserError(f"{out} has figures of several machines ({', '.join(sorted(machines))}): measure all on one")
    command = "python -m alexnet_lab.transfer"
    found = []
    if [*out.glob("*.json")] or not (out / "layers").is_dir():
        found.append(keep_figures(TRANSFER, out, "trainings", f"{command} run"))
    if (out / "layers").is_dir():
        found.append(keep_figures(TRANSFER_LAYERS, out / "layers", "probes", f"{command} layers"))
    return found


def tables(results: Results) -> dict[str, str]:
    """The tables of ``docs/transfer.md``."""
    return {"transfer": table(results), "layers": layers_table(results)}


def layers_table(results: Results) -> str:
    """Layer → accuracy of a linear probe on it, trained and untrained."""
    found = results.bench(TRANSFER_LAYERS)
    if found is None:
        return "Not measured yet."
    path, value = found
    (probes,) = value["probes"]
    rows = [
        (
            f"`{row['layer']}`", f"{row['units']:,}",
            *(f"{row[kind]['accuracy']:.1%} ({row[kind]['interval'][0]:.1%} – {row[kind]['interval'][1]:.1%})"
              for kind in ("trained", "untrained")),
        )
        for row in probes["layers"]
    ]  # fmt: skip
    titles = ("layer", "features", "accuracy, 95 % interval", "random weights")
    about = (
        f"`{probes['init']}`, {probes['images']:,} training images of {probes['classes']} classes, five folds. From "
        f"`{file_name(path)}`."
    )
    return f"{markdown_table(titles, rows)}\n\n{about}"


def table(results: Results) -> str:
    """The table of ``docs/transfer.md``: for each set and number of images the accuracy of each method."""
    found = results.bench(TRANSFER)
    if found is None:
        return "Not measured yet."
    path, value = found
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in value["trainings"]:
        groups[row["draw"].rpartition("-")[0], row["method"]].append(row)
    rows = [(draws, method, *_cells(some)) for (draws, method), some in sorted(groups.items(), key=_order)]
    titles = (
        "draws", "method", "trainings", "test top-1, mean (lowest – highest)", "train top-1", "in folds",
        "difference of folds and test", "seconds",
    )  # fmt: skip
    threads = value["hardware"].get("threads", 1)
    about = f"From `{file_name(path)}`, on {hardware_name(value['hardware'])}; {threads} thread{'s' * (threads > 1)}."
    return f"{markdown_table(titles, rows)}\n\n{about}"


def _order(group: tuple[tuple[str, str], object]) -> tuple[str, int, str]:
    (draws, method), _ = group
    name, _, images = draws.rpartition("-")
    return name, int(images), method


def _cells(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Means over trainings; the difference of folds and test is the mean of absolute values, in points."""
    top1 = [row["top1"] for row in rows]
    measured = [row for row in rows if row["folds_top1"] is not None]
    folds = f"{statistics.mean(row['folds_top1'] for row in measured):.1%}" if measured else "–"
    differs = (
        f"{100 * statistics.mean(abs(row['folds_top1'] - row['top1']) for row in measured):.1f}" if measured else "–"
    )
    return (
        str(len(rows)), spread(top1),
        f"{statistics.mean(row['train_top1'] for row in rows):.1%}", folds, differs,
        f"{statistics.median(row['seconds'] for row in rows):,.0f}",
    )  # fmt: skip


def draw_picture(results: Results, path: Path) -> None:
    """Write the picture of ``docs/transfer.md``: test accuracy by images of a class.

    Nothing is written if fewer than two numbers of images were measured from random weights.
    """
    found = results.bench(TRANSFER)
    if found is None:
        return
    by_set: dict[str, dict[str, dict[int, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for row in found[1]["trainings"]:
        name, _, images = row["draw"].rpartition("-")[0].rpartition("-")
        by_set[name][row["method"]][int(images)].append(row["top1"])
    if not any(len(methods["random weights"]) > 1 for methods in by_set.values()):
        return
    figure = new_figure(3.2 * max(2, len(by_set)), 3.4, "Test accuracy by training images of each class")
    for axes, (name, methods) in zip(figure.subplots(1, len(by_set), squeeze=False)[0], by_set.items(), strict=True):
        for method, colour in COLOURS.items():
            points = sorted(methods[method].items())
            counts = [images for images, _ in points]
            label = "trained weights" if method == "default" else method
            axes.plot(counts, [statistics.mean(each) for _, each in points], color=colour, marker="o", label=label)
            low, high = ([end(each) for _, each in points] for end in (min, max))
            axes.fill_between(counts, low, high, color=colour, alpha=0.2)
        axes.set(xscale="log", ylim=(0, 1), xlabel="training images of each class", title=name, ylabel="test accuracy")
        counts = sorted({count for points_of_method in methods.values() for count in points_of_method})
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.minorticks_off()
        axes.legend(frameon=False)
    caption = "Test accuracy by training images of each class, from trained and from random weights: mean and range"
    write_bytes(path, encode_figure(figure, caption))


def main(words: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m alexnet_lab.transfer", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("run", help="draw images and train on them").add_argument
    add("source", metavar="SOURCE", help="images with the splits train and test")
    add("--name", required=True, help="of the draws, for example tiny-imagenet-100-b")
    add("--classes", type=int, default=10, metavar="N", help="of each draw (default: 10)")
    add("--images", type=int, default=30, metavar="N", help="training images of each class (default: 30)")
    add("--first", type=int, default=0, metavar="N", help="number, and random seed, of the first draw (default: 0)")
    add("--draws", type=int, default=3, metavar="N", help="random draws of classes and images (default: 3)")
    add("--seeds", type=int, default=1, metavar="N", help="trainings on each draw (default: 1)")
    add("--methods", nargs="+", choices=METHODS, default=["default", "random weights"])
    add("--from", dest="init", metavar="MODEL", default=TWIN, help="(default: %(default)s)")
    add("--data-root", type=Path, metavar="FOLDER", help="where built-in image sets are")
    add("--out", type=Path, required=True, metavar="FOLDER", help="draws, runs and figures; can be resumed")
    add = commands.add_parser("layers", help="probe each layer").add_argument
    add("source", metavar="SOURCE", help="images; a test split is left out")
    add("--images", type=int, default=2000, metavar="N", help="at most so many (default: 2000)")
    add("--from", dest="init", metavar="MODEL", default=TWIN, help="(default: %(default)s)")
    add("--data-root", type=Path, metavar="FOLDER", help="where built-in image sets are")
    add("--out", type=Path, required=True, metavar="FOLDER", help="that of the command run")
    add_keep(commands)
    given = parser.parse_args(words)

    def work() -> None:
        if given.command == "keep":
            print(*keep(given.out), sep="\n")
            return
        if given.command == "layers":
            measure_layers(given.source, given.data_root, given.images, given.init, given.out)
            return
        source = open_source(given.source, given.data_root)
        for number in range(given.first, given.first + given.draws):
            folder = given.out / "draws" / f"{given.name}-{given.classes}-classes-{given.images}-{number}"
            draw(source, folder, given.classes, given.images, number)
            for method in given.methods:
                for seed in range(given.seeds):
                    row = measure(folder, method, seed, given.init, given.out)
                    low, high = accuracy_interval(round(row["top1"] * row["images"]), row["images"])
                    print(
                        f"{folder.name}, {method}, seed {seed}: {row['top1']:.1%} ({low:.1%} – {high:.1%})", flush=True
                    )

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main())
