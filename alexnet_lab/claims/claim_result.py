"""What checking a statement comes to, and the measured runs that checks may read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet.config import differences, recipe_from_json
from alexnet.core.errors import UserError
from alexnet.core.files import read_json
from alexnet.runtime.device import hardware_name
from alexnet_lab.experiments.registry import recipe_named

CONFIRMED, CORRECTED, REFUTED = "confirmed", "corrected", "refuted"
SETS = {"cifar10": "CIFAR-10", "fashion-mnist": "Fashion-MNIST", "tiny-imagenet": "Tiny ImageNet, 100 classes"}
RUN_ALL = "alexnet reproduce --run --missing"  # what to do where results are missing


def at_this_scale(figure: str) -> str:
    """The verdict on what was measured smaller than it was claimed."""
    return f"at this scale: {figure}"


def out_of_reach(why: str) -> str:
    """The verdict on what cannot be checked here."""
    return f"out of reach: {why}"


def pending(what: str) -> str:
    """The verdict on what could be checked and was not yet."""
    return f"pending: {what}"


@dataclass(frozen=True)
class ClaimResult:
    """``measured``: the figures; ``verdict``: one of the six; ``evidence``: the command or file that shows it;
    ``details``: tables that show more than a line can.
    """

    measured: str
    verdict: str
    evidence: str
    details: str = ""


def project_root() -> Path:
    """The checkout of the project: the one that this package stands in, else the folder that one is in, if it is one.

    Where neither is, the place beside the installed package, which has no ``results/``.
    """
    beside = Path(__file__).parents[2]
    marks = ("pyproject.toml", "alexnet_lab/claims/claim_result.py")
    places = (place for place in (beside, Path.cwd()) if all((place / mark).is_file() for mark in marks))
    return next(places, beside)


def results_folder() -> Path:
    """Where measured trainings are kept; it is missing where there is no checkout."""
    return project_root() / "results"


Runs = Sequence[Mapping[str, Any]]


class Results:
    """What is in ``results/``; of several measurements of one training the newest is read.

    A file that was trained by other settings than its name has today, or on another set, is no evidence and left out.
    """

    def __init__(self, folder: Path) -> None:
        self._files: dict[str, list[tuple[Path, dict[str, Any]]]] = {}
        self._comparisons: dict[tuple[str, str, str], tuple[Path, dict[str, Any]]] = {}
        for path in sorted(folder.glob("*_*.json"), key=lambda path: (path.stem.rpartition("_")[2], path.name)):
            try:
                self._add(path, read_json(path))
            except (OSError, ValueError, LookupError, TypeError) as error:
                raise UserError(f"{path} is no result of this project, or damaged: move it elsewhere") from error

    def _add(self, path: Path, value: dict[str, Any]) -> None:
        if path.name.startswith("bench_"):
            hardware = value["hardware"]
            kind = value.get("recipe") or value["what"], hardware["device"], hardware_name(hardware)
            self._comparisons.pop(kind, None)  # the newest goes last
            self._comparisons[kind] = path, value
        elif is_todays(value):
            self._files.setdefault(value["recipe"]["name"], []).append((path, value))

    def files(self) -> list[tuple[Path, dict[str, Any]]]:
        """Every file with its content, by name."""
        return sorted((file for files in self._files.values() for file in files), key=lambda file: file[0].name)

    def runs(self, training: str, device: str = "") -> Runs:
        """The finished runs of a training by its name, on one kind of device if that is given; empty without any."""
        return [run for run in self._newest(training, device) if "top1" in run]

    def diverged(self, training: str) -> Runs:
        """The runs of a training that ended with a loss or a weight that is not finite."""
        return [run for run in self._newest(training) if "finding" in run]

    def _newest(self, training: str, device: str = "") -> Runs:
        measured = [ended(value) for _, value in self._files.get(training, [])]
        fitting = [runs for runs in measured if runs[0]["hardware"]["device"].startswith(device)]
        return fitting[-1] if fitting else []

    def lacking(self, trainings: Iterable[str]) -> list[str]:
        """Those of some trainings of which no run was finished."""
        return [name for name in trainings if not self.runs(name)]

    def note(self, training: str) -> str:
        """What a reader of its newest figures must know."""
        files = self._files.get(training, [])
        return str(files[-1][1].get("note", "")) if files else ""

    def ensemble(self, training: str) -> Mapping[str, Any] | None:
        """What the average of a training's seeds came to; None where it was not counted."""
        averaged = [value["ensemble"] for _, value in self._files.get(training, []) if "ensemble" in value]
        return averaged[-1] if averaged else None

    def classes(self, training: str) -> int:
        """How many classes a training's images have."""
        return len(self.runs(training)[0].get("per_class", ())) or 10

    def has(self, training: str, seeds: Sequence[int], device: str) -> bool:
        """Whether a training was measured with all these seeds on one kind of device, ``"cpu"`` or ``"cuda"``."""
        return any(
            {run["seed"] for run in ended(value) if run["hardware"]["device"].startswith(device)} >= set(seeds)
            for _, value in self._files.get(training, [])
        )

    def images(self, *trainings: str) -> str:
        """What some trainings were trained on, as a figure from it is to be named: "on CIFAR-10 (JPEG)"."""
        files = [self._files[name][-1][1] for name in trainings if name in self._files]
        jpeg = any("jpeg" in f"{value.get('source')} {value.get('note')}".lower() for value in files)
        sets = dict.fromkeys(SETS.get(value["set"], value["set"]) for value in files)
        return f"on {' and '.join(sets)}{' (JPEG)' if jpeg else ''}"

    def comparison(self, training: str, device: str = "cpu") -> tuple[Path, dict[str, Any]] | None:
        """The newest speeds of a training beside another's loop on one kind of device, and their file."""
        fitting = [found for (name, kind, _), found in self._comparisons.items() if (name, kind) == (training, device)]
        return fitting[-1] if fitting else None

    def benches(self) -> list[dict[str, Any]]:
        """What ``alexnet bench`` kept, the newest of each kind and machine."""
        return [value for _, value in self._comparisons.values() if "rows" in value]

    def evidence(self, *trainings: str) -> str:
        """The files that hold these trainings."""
        return ", ".join(f"results/{self._files[name][-1][0].name}" for name in trainings if name in self._files)


def ended(value: Mapping[str, Any]) -> Runs:
    """All runs in a file of ``results/``, finished or diverged."""
    return [*value["runs"], *value.get("diverged", ())]


def is_todays(value: Mapping[str, Any]) -> bool:
    """Whether a file of ``results/`` was trained as the training of its name is today, and on its set."""
    recipe = recipe_from_json(value["recipe"])
    today = recipe_named(recipe.name)
    if today is None:
        return False
    return not differences(today, recipe) and value["set"] == (today.data.source or value["set"])


def divergence(results: Results, training: str) -> str:
    """How many seeds of a training diverged, and the steps by which they had; empty where none did."""
    lost = results.diverged(training)
    if not lost:
        return ""
    steps = sorted({run["step"] for run in lost})
    when = f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]} to {steps[-1]}"
    return f"diverged by {when} in {len(lost)} of {len(lost) + len(results.runs(training))} seeds"


def unmeasured(results: Results, trainings: Sequence[str]) -> ClaimResult:
    """The finding where a check reads trainings without a finished run: all diverged, or ``results/`` has none."""
    if lost := [f"{name} {divergence(results, name)}" for name in trainings if results.diverged(name)]:
        return ClaimResult("–", at_this_scale("; ".join(lost)), results.evidence(*trainings))
    *others, last = trainings
    names = f"{', '.join(others)} and {last}" if others else last
    return ClaimResult("–", pending(f"{names} not measured yet"), RUN_ALL)


Check = Callable[[Results], ClaimResult]


@dataclass(frozen=True)
class Statement:
    """What a document says, where, and how it is checked. ``claimed`` is its figure, in few words.

    ``trainings``: the names of the measured trainings that the check reads; empty where it is computed on the spot.
    """

    id: str
    says: str
    source: str
    claimed: str
    check: Check
    trainings: tuple[str, ...] = ()
