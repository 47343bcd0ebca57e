"""``python -m alexnet_lab.instances``: how much networks differ that differ in their random seed only.

``run`` computes, for the included weights ``trunk/seed-0`` … and for untrained networks of the same seeds, the
dissimilarity matrix (RDM) of each layer for the same images, and compares the matrices of each pair of networks. The
measure is the squared correlation of the two RDMs: the share of the variance of one that the other explains (Mehrer,
Spoerer, Kriegeskorte and Kietzmann, "Individual differences among deep neural network models", Nature Communications
11:5725, 2020). It also fits a linear classifier on the last feature maps of each network. The images must be of classes
that the networks were not trained on. ``keep`` writes the figures to the results, from which ``docs/instances.md`` has
its tables and its picture.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet import extract_features, load_model
from alexnet.analysis.probe import make_folds, score
from alexnet.analysis.similarity import correlation_distances
from alexnet.core.errors import UserError
from alexnet.core.files import write_bytes, write_json
from alexnet.data.sources import Record, open_source
from alexnet.data.splits import evenly_spaced
from alexnet.models.classifier import Classifier
from alexnet.models.registry import untrained_twin
from alexnet.plots.canvas import BLUE, GREY, encode_figure, new_figure
from alexnet.report.tables import markdown_table, spread
from alexnet.runtime.device import hardware_name, resolve_device
from alexnet.weights.zoo import included_weights
from alexnet_lab.commands import add_keep, exit_status
from alexnet_lab.results.reader import INSTANCES, Results, file_name
from alexnet_lab.results.records import circumstances, keep_figures

FAMILY = "trunk/seed-"
LAYERS = ("relu1", "relu2", "relu3", "relu4", "relu5", "relu6", "relu7")
PROBED = "avgpool5"
KINDS = ("trained", "untrained")
PICTURE = Path("docs/instances.png")


def family() -> list[str]:
    """The names of the included weights that differ in their random seed only."""
    return sorted(
        (name for name in included_weights() if name.startswith(FAMILY)), key=lambda name: int(name[len(FAMILY) :])
    )


def test_images(source: str, data_root: Path | None, images: int) -> list[Record]:
    """``images`` test images, evenly spaced over the classes. Raises ``UserError`` for too few."""
    opened = open_source(source, data_root)
    records = sorted((each for each in opened.records() if each.split == "test"), key=lambda record: record.label)
    if len(records) < images:
        raise UserError(f"{source} has {len(records):,} test images, {images:,} are needed")
    return [records[position] for position in evenly_spaced(np.arange(len(records)), images)]


def networks(names: Sequence[str]) -> Iterator[tuple[str, int, Classifier]]:
    """Each trained network, and the untrained one of the same architecture and seed, with its kind and its number."""
    for number, name in enumerate(names):
        trained = load_model(name)
        yield KINDS[0], number, trained
        yield KINDS[1], number, untrained_twin(trained, included_weights()[name].seed)


def measure(records: Sequence[Record], found: Iterable[tuple[str, int, Classifier]]) -> dict[str, Any]:
    """The figures: layer → kind → shared variance of the RDMs of each pair; and kind → accuracy of each probe.

    ``found``: see :func:`networks`; two or more of each kind, with the layers ``LAYERS`` and ``PROBED``.
    """
    matrices: dict[tuple[str, str], list[NDArray[np.float64]]] = {}
    accuracies: dict[str, list[float]] = {kind: [] for kind in KINDS}
    labels = np.array([record.label for record in records])
    folds = make_folds(
        labels, np.arange(len(labels)).astype(np.uint64), [str(label) for label in range(max(labels) + 1)]
    )
    upper = np.triu_indices(len(records), 1)
    for kind, number, network in found:
        print(f"{kind} {number}", flush=True)
        with tempfile.TemporaryDirectory() as scratch:
            payloads = [record.payload for record in records]
            features = extract_features(
                network, payloads, [*LAYERS, PROBED], Path(scratch) / "features", progress=False
            )
            for layer in LAYERS:
                matrices.setdefault((layer, kind), []).append(correlation_distances(features[layer])[upper])
            accuracies[kind].append(score(features[PROBED].mean(axis=(2, 3)), labels, folds).accuracy)
    shared = {layer: {kind: _shared(matrices[layer, kind]) for kind in KINDS} for layer in LAYERS}
    return {"images": len(records), "shared_variance": shared, "probe_accuracy": accuracies}


def _shared(matrices: Sequence[NDArray[np.float64]]) -> list[float]:
    """The squared correlation of each pair."""
    return [float(np.corrcoef(one, other)[0, 1] ** 2) for one, other in itertools.combinations(matrices, 2)]


def _found(results: Results) -> tuple[Path, dict[str, Any], Mapping[str, Any]] | None:
    found = results.bench(INSTANCES)
    return None if found is None else (*found, found[1]["measurements"][0])


def tables(results: Results) -> dict[str, str]:
    """The tables of ``docs/instances.md``."""
    found = _found(results)
    if found is None:
        return dict.fromkeys(("accuracies", "shared-variance", "probes"), "Not measured yet.")
    path, value, figures = found
    cards = [included_weights()[name] for name in figures["networks"]]
    rows = [(f"`{card.name}`", f"{card.top1:.1f} %", str(card.seed)) for card in cards]
    shared = [
        (f"`{layer}`", *(spread(kinds[kind]) for kind in KINDS)) for layer, kinds in figures["shared_variance"].items()
    ]
    probes = [(kind, spread(figures["probe_accuracy"][kind])) for kind in KINDS]
    source = f"From `{file_name(path)}`, on {hardware_name(value['hardware'])}."
    head = tuple(f"{kind}, mean (lowest – highest pair)" for kind in KINDS)
    return {
        "accuracies": markdown_table(("MODEL", "top-1 on its 50 classes", "random seed"), rows),
        "shared-variance": f"{markdown_table(('layer', *head), shared)}\n\n{source}",
        "probes": markdown_table(("networks", "accuracy of a linear probe, mean (lowest – highest)"), probes),
    }


def draw_picture(results: Results, path: Path) -> None:
    """Write the picture of ``docs/instances.md``: shared variance by layer; nothing without results."""
    found = _found(results)
    if found is None:
        return
    shared = found[2]["shared_variance"]
    figure = new_figure(6.4, 3.4, "How much two networks with different random seeds have in common")
    axes = figure.subplots()
    for kind, colour in zip(KINDS, (BLUE, GREY), strict=True):
        values = [shared[layer][kind] for layer in LAYERS]
        axes.plot(LAYERS, [statistics.mean(each) for each in values], color=colour, marker="o", label=kind)
        axes.fill_between(
            LAYERS, [min(each) for each in values], [max(each) for each in values], color=colour, alpha=0.2
        )
    axes.set(ylim=(0, 1), ylabel="shared variance of the RDMs")
    axes.legend(frameon=False)
    caption = "Shared variance of the dissimilarity matrices of two networks, by layer: mean and range over all pairs"
    write_bytes(path, encode_figure(figure, caption))


def main(words: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m alexnet_lab.instances", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("run", help="compare the networks").add_argument
    add("source", metavar="SOURCE", help="images with a test split, of other classes than those of the networks")
    add("--images", type=int, default=1000, metavar="N", help="test images (default: 1000)")
    add("--data-root", type=Path, metavar="FOLDER", help="where built-in image sets are")
    add("--out", type=Path, required=True, metavar="FOLDER", help="where the figures are written")
    add_keep(commands)
    given = parser.parse_args(words)

    def work() -> None:
        if given.command == "keep":
            print(keep_figures(INSTANCES, given.out, "measurements", "python -m alexnet_lab.instances run"))
            return
        if len(names := family()) < 2:
            raise UserError(f"two or more included weights {FAMILY}N are needed: add them with alexnet_lab.trunks")
        figures = measure(test_images(given.source, given.data_root, given.images), networks(names))
        given.out.mkdir(parents=True, exist_ok=True)
        write_json(given.out / "instances.json", {"networks": names, **figures, **circumstances(resolve_device())})

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main())
