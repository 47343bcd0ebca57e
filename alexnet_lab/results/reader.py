"""Reads the measured results, which are JSON files beside this module.

They are package data, so an installed package has the same results as a checkout. A file named
``<training>_<images>_<hardware>_<date>.json`` holds the runs of one training; ``bench_<what>_<hardware>_<date>.json``
holds speeds or the outcome of fault injection. Descriptions in files of earlier versions are replaced by today's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from alexnet.config import Recipe, differences
from alexnet.core.errors import UserError
from alexnet.core.files import read_json
from alexnet.core.schema import from_json
from alexnet.metrics.measures import MEASURES
from alexnet.runtime.device import hardware_name
from alexnet_lab.experiments.registry import recipe_named

Runs = Sequence[Mapping[str, Any]]
FAULTS = "faults"  # the kind of a file with the outcome of fault injection
FAULTS_OF_PROCESSES = "faults-processes"  # … of kills of the processes of one training
TRANSFER = "transfer"  # what a file with trainings on few images holds
TRANSFER_LAYERS = "transfer-layers"  # … with probes of each layer
INSTANCES = "instances"  # … with networks that differ in their random seed
IMAGE_SETS = {"cifar10": "CIFAR-10", "fashion-mnist": "Fashion-MNIST", "tiny-imagenet": "Tiny ImageNet, 100 classes"}
EARLIER_KINDS = {"endurance": FAULTS}
EARLIER_KEYS = {"ceilings": "hardware_peak", "ceiling": "bound", "ceiling_fraction": "share_of_bound"}
EARLIER_WORDS = (  # in files of speeds and of fault injection that earlier versions wrote → today's
    ("response normalization, both passes", "LRN, forward and backward"),
    ("training step from a store", "training step from a prepared dataset"),
    ("preparing photographs, one core", "preparing photographs on one core"),
    ("a checkpoint is damaged: noticed, named, the one before it used, nothing run",
     "damaged checkpoint: detected, named, the previous one used, no code in it run"),
    ("an image file is damaged: pixels or a refusal, and nobody dies",
     "damaged image file: pixels or an error, no crash"),
    ("a file may grow by no more than every 64 KiB of a save", "file size limit at every 64 KiB of a save"),
    ("an input/output error at every request of a save", "I/O error at every system call of a save"),
    ("the disk is full at every 64 KiB of a save", "disk full at every 64 KiB of a save"),
    ("a read-only file system", "read-only file system"),
    ("SIGTERM, SIGUSR1, SIGINT: the status, and no step lost",
     "SIGTERM, SIGUSR1, SIGINT: right exit status, no step lost"),
    ("stopped after one step and continued: bits at the end", "stopped after each step and resumed: same bits"),
    ("at random instants of a training", "at random times during a training"),
    ("at random instants of alexnet train", "at random times during alexnet train"),
    (": bits at the end", ": same bits"),
    ("folders passed over", "incomplete folders skipped"),
    ("s undisturbed, start included", "s without kills, start included"),
    ("s undisturbed", "s without kills"),
    ("the slowest answer after", "slowest response"),
    ("batches ahead", "prefetched batches"),
    (" shown; JPEG", " decoded; JPEG"),
    ("a page zeroed", "a page set to zero"),
    ("cut off", "truncated"),
    ("another schema", "another schema version"),
    ("a manifest of another form", "an invalid manifest"),
    ("a million brackets", "deeply nested JSON"),
    ("a pickle in disguise", "a pickle file"),
)  # fmt: skip


def results_folder() -> Path:
    """The folder of the results: this package's own."""
    return Path(__file__).parent


class Results:
    """The results in a folder; of several measurements of one training the newest is read.

    A file whose training had other settings than its name has today, or other images, is not used. Raises
    ``UserError`` for a file that cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._files: dict[str, list[tuple[Path, dict[str, Any]]]] = {}
        self._benches: dict[tuple[str, str, str], tuple[Path, dict[str, Any]]] = {}
        for path in sorted(folder.glob("*_*.json"), key=lambda path: (path.stem.rpartition("_")[2], path.name)):
            try:
                self._add(path, read_json(path))
            except (OSError, ValueError, LookupError, TypeError) as error:
                raise UserError(f"{path} is not a result of this project, or it is damaged: move it away") from error

    def _add(self, path: Path, value: dict[str, Any]) -> None:
        if path.name.startswith("bench_"):
            value = with_todays_words(value)
            hardware = value["hardware"]
            kind = value.get("recipe") or value["what"], hardware["device"], hardware_name(hardware)
            self._benches.pop(kind, None)  # so that the newest is last
            self._benches[kind] = path, value
        elif is_current(value):
            self._files.setdefault(value["recipe"]["name"], []).append((path, value))

    def files(self) -> list[tuple[Path, dict[str, Any]]]:
        """Every file of a training with its content, sorted by name."""
        return sorted((file for files in self._files.values() for file in files), key=lambda file: file[0].name)

    def runs(self, training: str, device: str = "") -> Runs:
        """The finished runs of a training, on ``device`` ("cpu", "cuda") if given; empty if there are none."""
        return [run for run in self._newest(training, device) if "top1" in run]

    def measured(self, training: str) -> Runs:
        """The finished runs of a training for any task, see :attr:`~alexnet.metrics.measures.MEASURES`."""
        return [run for run in self._newest(training) if "images" in run]

    def diverged(self, training: str) -> Runs:
        """The runs of a training that ended with a loss or a weight that is not finite."""
        return [run for run in self._newest(training) if "finding" in run]

    def _newest(self, training: str, device: str = "") -> Runs:
        measured = [ended(value) for _, value in self._files.get(training, [])]
        matching = [runs for runs in measured if runs[0]["hardware"]["device"].startswith(device)]
        return matching[-1] if matching else []

    def missing(self, trainings: Iterable[str]) -> list[str]:
        """Those of ``trainings`` that have no finished run."""
        return [name for name in trainings if not self.runs(name)]

    def note(self, training: str) -> str:
        """The note of a training's newest file."""
        files = self._files.get(training, [])
        return str(files[-1][1].get("note", "")) if files else ""

    def ensemble(self, training: str) -> Mapping[str, Any] | None:
        """The metrics of the average of a training's seeds; None if it was not evaluated."""
        averaged = [value["ensemble"] for _, value in self._files.get(training, []) if "ensemble" in value]
        return averaged[-1] if averaged else None

    def classes(self, training: str) -> int:
        """The number of classes of a training's images."""
        return len(self.runs(training)[0].get("per_class", ())) or 10

    def has(self, training: str, seeds: Sequence[int], device: str) -> bool:
        """Whether a training was measured with all these seeds on ``device``, ``"cpu"`` or ``"cuda"``."""
        return any(
            {run["seed"] for run in ended(value) if run["hardware"]["device"].startswith(device)} >= set(seeds)
            for _, value in self._files.get(training, [])
        )

    def images(self, *trainings: str) -> str:
        """The image sets of some trainings, for a sentence: "on CIFAR-10 (JPEG)"."""
        files = [self._files[name][-1][1] for name in trainings if name in self._files]
        jpeg = any("jpeg" in f"{value.get('source')} {value.get('note')}".lower() for value in files)
        sets = dict.fromkeys(IMAGE_SETS.get(value["set"], value["set"]) for value in files)
        return f"on {' and '.join(sets)}{' (JPEG)' if jpeg else ''}"

    def bench(self, what: str, device: str = "cpu") -> tuple[Path, dict[str, Any]] | None:
        """The newest file of speeds, or of fault injection, of one kind on a device: its path and content."""
        matching = [found for (name, kind, _), found in self._benches.items() if (name, kind) == (what, device)]
        return matching[-1] if matching else None

    def benches(self) -> list[dict[str, Any]]:
        """The results of ``alexnet bench``, the newest of each kind and machine."""
        return [value for _, value in self._benches.values() if "rows" in value]

    def evidence(self, *trainings: str) -> str:
        """The files that hold these trainings."""
        return ", ".join(file_name(self._files[name][-1][0]) for name in trainings if name in self._files)


def main_measures(runs: Runs) -> tuple[list[float], str]:
    """The main measure of each of some runs for one task, and its name for people; "" for the accuracy of classes."""
    task = runs[0].get("task", "classification")
    measure = MEASURES[task]
    return [run[measure.name] for run in runs], "" if task == "classification" else f" {measure.words}"


def file_name(path: Path) -> str:
    """A result file's path in the project."""
    return f"alexnet_lab/results/{path.name}"


def ended(value: Mapping[str, Any]) -> Runs:
    """All runs in a file, finished or diverged."""
    return [*value["runs"], *value.get("diverged", ())]


def is_current(value: Mapping[str, Any]) -> bool:
    """Whether a file's training has the settings and the images that the training of its name has today."""
    recipe = from_json(Recipe, value["recipe"])
    today = recipe_named(recipe.name)
    if today is None:
        return False
    return not differences(today, recipe) and value["set"] == (today.data.source or value["set"])


def with_todays_words(value: Any) -> Any:
    """The content of a file of speeds or of fault injection, with today's keys and words."""
    if isinstance(value, dict):
        found = {EARLIER_KEYS.get(key, key): with_todays_words(item) for key, item in value.items()}
        if "what" in found:
            found["what"] = EARLIER_KINDS.get(found["what"], found["what"])
        return found
    if isinstance(value, list):
        return [with_todays_words(item) for item in value]
    if isinstance(value, str):
        for earlier, today in EARLIER_WORDS:
            if not (earlier in today and today in value):
                value = value.replace(earlier, today)
    return value


def divergence(results: Results, training: str) -> str:
    """How many seeds of a training diverged, and by which steps; empty if none did."""
    lost = results.diverged(training)
    if not lost:
        return ""
    steps = sorted({run["step"] for run in lost})
    when = f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]} to {steps[-1]}"
    return f"diverged by {when} in {len(lost)} of {len(lost) + len(results.runs(training))} seeds"
