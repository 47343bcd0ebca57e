"""The kept results of the verifications, and the tables that ``docs/verify.md`` shows of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alexnet.report.tables import markdown_table
from alexnet.runtime.device import hardware_name
from alexnet_lab.results.reader import Results, file_name
from alexnet_lab.results.records import keep_figures
from alexnet_lab.verification.faults import FAULTS, NO_FAULT, in_words
from alexnet_lab.verification.trained import is_whole

KINDS = ("fresh", "trained", "faults")


def keep(kind: str, folder: Path) -> Path:
    """Write the networks of a folder that ``fresh``, ``trained`` or ``faults`` wrote to one results file.

    Returns its path. Raises ``UserError`` if the folder has none, or if one was not verified in a clean checkout.
    """
    return keep_figures(f"verify-{kind}", folder, "networks", f"python -m alexnet_lab.verification {kind}")


def tables(results: Results) -> dict[str, str]:
    """Name of a table → the table, or a sentence if there are no results."""
    made = {"fresh": fresh_table, "trained": trained_table, "faults": faults_table}
    texts = dict.fromkeys(made, "Not measured yet.")
    for kind, table in made.items():
        found = results.bench(f"verify-{kind}")
        if found is not None:
            path, value = found
            source = f"From `{file_name(path)}`, on {hardware_name(value['hardware'])}."
            texts[kind] = f"{table(value['networks'])}\n\n{source}"
    return texts


def fresh_table(networks: Sequence[Mapping[str, Any]]) -> str:
    """Variant → how many fresh networks in full size were called untrained."""
    variants = dict.fromkeys(network["variant"] for network in networks)
    rows = [(f"`{name}`", *_fresh_cells([row for row in networks if row["variant"] == name])) for name in variants]
    rows.append(("all", *_fresh_cells(networks)))
    return markdown_table(("variant", "called untrained", "largest distance from the edge"), rows)


def _fresh_cells(networks: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    right = sum(network["training"] == "untrained" for network in networks)
    return f"{right} of {len(networks)}", f"{max(network['edge_z'] for network in networks):.1f}"


def trained_table(networks: Sequence[Mapping[str, Any]]) -> str:
    """Recipe → what the report says of its network."""
    rows = [
        (
            f"`{network['recipe']}`", network["source"], f"{100 * network['top1']:.1f} %", network["summary"],
            "yes" if is_whole(network) else "no",
        )
        for network in networks
    ]  # fmt: skip
    return markdown_table(("recipe", "images", "test top-1", "report", "trained and whole"), rows)


def faults_table(networks: Sequence[Mapping[str, Any]]) -> str:
    """Fault × network: found, found under another name, cannot be known."""
    titles = [*(fault.title for fault in FAULTS), NO_FAULT]
    rows = [(title, *(in_words(network["faults"].get(title)) for network in networks)) for title in titles]
    donors = [network["name"] for network in networks if network["donor"] == "another seed"]
    note = f"Layers from another seed are those of another training in: {', '.join(donors) or 'no column'}."
    return f"{markdown_table(('fault', *(network['name'] for network in networks)), rows)}\n\n{note}"
