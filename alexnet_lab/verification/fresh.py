"""Fresh networks of every variant: ``alexnet verify`` must call each of them untrained."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alexnet.analysis.verify import verify_weights
from alexnet.core.files import read_json, write_json
from alexnet.core.tensors import save_tensors
from alexnet.models.registry import create_model, get_variant, list_models
from alexnet.runtime.device import resolve_device
from alexnet_lab.results.records import circumstances

Row = dict[str, Any]


def alexnets() -> list[str]:
    """The names of all variants that are AlexNets, without the baselines."""
    return [name for name in list_models() if get_variant(name).architecture is not None]


def verify_fresh(variant: str, seed: int, width: float | None = None) -> Row:
    """What ``alexnet verify`` says of a new network: ``training`` is ``"untrained"`` if it is right.

    ``width``: of all layers, beside the authors'; None builds it in full size. ``edge_z`` and ``rows_z``: the largest
    of all layers; ``seconds``: of building, writing and verifying.
    """
    started = time.perf_counter()
    narrow: dict[str, Any] = {} if width is None else {"width": width, "num_classes": 50}
    network = create_model(variant, seed=seed, **narrow)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fresh.safetensors"
        save_tensors(network.state_dict(), path)
        report = verify_weights(path, variant=variant)
    statistics = [row.statistics for row in report.layers if row.statistics is not None]
    return {
        "variant": variant,
        "seed": seed,
        "width": width,
        "training": report.training,
        "summary": report.summary,
        "edge_z": max(found.edge_z for found in statistics),
        "rows_z": max(found.rows_z for found in statistics),
        "seconds": round(time.perf_counter() - started, 1),
    }


def verify_all_fresh(variants: Sequence[str], seeds: int, width: float | None, folder: Path | None) -> list[Row]:
    """:func:`verify_fresh` for each variant and seed below ``seeds``; a row each.

    ``folder``: receives a file for each network as soon as it is verified. A network whose file is there is not
    verified again, so an interrupted call can be repeated. The first seed of every variant comes first.
    """
    place = folder and circumstances(resolve_device("cpu", "fp32"))
    rows = []
    for seed in range(seeds):
        for variant in variants:
            file = folder and folder / f"{variant}{'' if width is None else f'-width-{width:g}'}-seed-{seed}.json"
            if file is None or not file.exists():
                row = verify_fresh(variant, seed, width)
                if file is not None:
                    write_json(file, {**row, **(place or {})})
            else:
                row = read_json(file)
            rows.append(row)
    return rows


def wrong(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each fresh network that was not called untrained."""
    return [f"{row['variant']}, seed {row['seed']}: {row['summary']}" for row in rows if row["training"] != "untrained"]
