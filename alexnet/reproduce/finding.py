"""What checking a statement comes to, and the measured runs that checks may read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet.core.files import read_json

CONFIRMED, CORRECTED, REFUTED = "confirmed", "corrected", "refuted"


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
class Finding:
    """``measured``: the figures; ``verdict``: one of the six; ``evidence``: the command or file that shows it."""

    measured: str
    verdict: str
    evidence: str


class Results:
    """The files of ``results/``, the newest of each training as its recipe has it."""

    def __init__(self, folder: Path) -> None:
        self._newest: dict[str, tuple[Path, dict[str, Any]]] = {}
        for path in sorted(folder.glob("*_*.json"), key=lambda path: path.stem.rpartition("_")[2]):
            value = read_json(path)
            if value.get("departs_from_the_named_recipe"):
                continue  # another training under the same name
            self._newest[value["recipe"]["name"]] = (path, value)

    def runs(self, training: str) -> list[Mapping[str, Any]]:
        """The measured runs of a training by its name; empty if there are none."""
        return list(self._newest[training][1]["runs"]) if training in self._newest else []

    def evidence(self, *trainings: str) -> str:
        """The files that hold these trainings."""
        return ", ".join(f"results/{self._newest[name][0].name}" for name in trainings if name in self._newest)


Check = Callable[[Results], Finding]


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
