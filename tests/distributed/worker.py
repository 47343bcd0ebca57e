"""Run by torchrun in several processes: trains each case in the group and alone, and prints how far they differ.

The last line that the first process prints is JSON: case → figures.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import torch

from alexnet.config import override
from alexnet.core.tensors import digest_tensors
from alexnet.data.prepared import open_or_prepare
from alexnet.data.sources import open_source
from alexnet.distributed.groups import GROUPS
from alexnet.distributed.process_group import local_device, place_in_group
from alexnet.recipes import get_recipe
from alexnet.runtime.device import DeviceConfig
from alexnet.runtime.group import ONE
from alexnet.runtime.log import NullReporter
from alexnet.runtime.run import start_or_continue
from alexnet.training import loop
from alexnet.training.optimizer import optimizer_tensors

BASE = ["model.width=0.125", "train.precision=fp32"]
FEW = ["train.steps=10", "train.batch_size=48"]
CASES = {  # name → overrides of small-digits, which has 1,437 training images
    "sgd": [*FEW, "optim.optimizer=sgd"],
    "sgd-2012": [*FEW, "optim.optimizer=sgd-2012", "optim.nesterov=false"],
    "adam": [*FEW, "optim.optimizer=adam", "optim.nesterov=false", "optim.lr=0.001"],
    "adamw": [*FEW, "optim.optimizer=adamw", "optim.nesterov=false", "optim.lr=0.001"],
    "lars": [*FEW, "optim.optimizer=lars", "optim.nesterov=false", "optim.schedule=poly", "optim.lr=5"],
    "accumulated": [*FEW, "train.accumulate_steps=3", "model.norm_layer=none"],
    "partial last batch": ["train.steps=4", "train.batch_size=400"],
    "fewer images than processes": ["train.steps=4", "train.batch_size=1", "model.norm_layer=none"],
    "batch norm, fewer images than processes": ["train.steps=4", "train.batch_size=2"],
    "class weights": [*FEW, "train.class_weights=balanced"],
    "best on val": [*FEW, "train.batch_size=300", "train.keep=best-on-val", "data.val_fraction=0.1"],
    "plateau": [*FEW, "train.batch_size=300", "optim.schedule=plateau", "optim.lr=0.01", "data.val_fraction=0.1"],
}
SOME = ("sgd", "partial last batch", "batch norm, fewer images than processes", "best on val")  # with four processes
MORE = ("sgd", "adam", "hybrid sgd", "columns sgd-2012")  # with fast kernels and in bf16 too
TWO_COLUMNS = ["model.variant=cuda-convnet", "data.image_size=64", "augment.rotation=0"]
DIVIDED = {  # (how, name) → overrides; columns need two processes
    ("hybrid", "sgd"): CASES["sgd"],
    ("hybrid", "adam"): CASES["adam"],
    ("hybrid", "sgd-2012, dropout before fc6"): [*CASES["sgd-2012"], "model.variant=torchvision", "data.image_size=64"],
    ("hybrid", "partial last batch"): CASES["partial last batch"],
    ("hybrid", "fewer images than processes"): CASES["batch norm, fewer images than processes"],
    ("hybrid", "best on val"): CASES["best on val"],
    ("columns", "sgd-2012"): [*CASES["sgd-2012"], *TWO_COLUMNS],
    ("columns", "adam, best on val"): [*CASES["adam"], *TWO_COLUMNS, "train.keep=best-on-val", "data.val_fraction=0.1"],
}
PRECISIONS = {"float64": torch.float64, "fp32": torch.float32, "fp32 fast": torch.float32, "bf16": torch.float32}


class Config(DeviceConfig):
    """A device configuration for networks in float64 too."""

    dtypes: ClassVar = []

    def to_memory_format(self, images):
        return super().to_memory_format(images).to(self.dtypes[-1])


def train(overrides, group, folder, precision):
    """The trained network's tensors and the lines of metrics."""
    recipe = override(get_recipe("small-digits"), [*BASE, *overrides])
    source = open_source("digits")
    dataset = open_or_prepare(source)
    build = loop.build_model
    dtype = PRECISIONS[precision]
    loop.build_model = lambda *given: build(*given).to(dtype)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        run = start_or_continue(folder, recipe, 0, "digits", dataset.digest) if group.is_first else loop.Run(folder)
        config = Config(torch.device("cpu"), bf16=precision == "bf16", reference="fast" not in precision)
        config.dtypes.append(dtype)
        training = loop.Training(recipe, dataset, run, 0, config, NullReporter(), None, group)
        if (weights := training.criterion.class_weights) is not None:
            training.criterion = replace(training.criterion, class_weights=weights.to(dtype))
        model = training.fit(lambda run: None)
        return {name: value.clone() for name, value in model.state_dict().items()}, run.metrics(), training
    finally:
        loop.build_model = build


def difference(one, other):
    """The largest difference of two networks, as a share of the largest number."""
    largest = max(float(value.abs().max()) for value in one.values())
    return max(float((one[name] - other[name]).abs().max()) for name in one) / largest


def compare(group, name, overrides, folder, found):
    """Train a case in the group and alone, in each precision."""
    for precision in PRECISIONS if name in MORE and group.size < 4 else ("float64", "fp32"):
        place = folder / f"{name} {precision}"
        together, lines, training = train(overrides, group, place / "group", precision)
        result = digest(together, training)
        same = group.from_first(result.__bytes__) == result
        agree = group.largest(float(not same)) == (0.0,)
        if group.is_first:
            alone, alone_lines, other = train(overrides, ONE, place / "one", precision)
            figures = [
                [line[key] for line in each for key in sorted(line) if "loss" in key or "top1" in key]
                for each in (lines, alone_lines)
            ]
            pairs = zip(*figures, strict=True)
            metrics = max((abs(a - b) / max(1, abs(a)) for a, b in pairs), default=0.0)
            states = [optimizer_tensors(each.network, each.optimizer) for each in (other, training)]
            found[f"{name}, {precision}"] = {
                "weights": difference(alone, together), "optimizer": difference(*states), "metrics": metrics,
                "ranks agree": agree,
            }  # fmt: skip
        group.from_first(bytes)  # wait until the first process has trained alone


def main(folder):
    torch.set_num_threads(1)
    found = {}
    place = place_in_group()
    device = local_device("cpu", place)
    data = GROUPS["data"](place, device)
    data.from_first(lambda: str(open_or_prepare(open_source("digits")).path).encode())
    some = place.size > 3  # two cores have little room for four processes
    for name, overrides in CASES.items():
        if not some or name in SOME:
            compare(data, name, overrides, folder, found)
    for (how, name), overrides in DIVIDED.items():
        if (not some or name in SOME) and (how == "hybrid" or place.size == 2):
            compare(GROUPS[how](place, device), f"{how} {name}", overrides, folder, found)
    data.from_first(bytes)
    data.close()
    if data.is_first:
        print(json.dumps(found), flush=True)
    os._exit(0)  # the threads of several stores can abort an ordinary exit


def digest(tensors, training):
    return json.dumps([digest_tensors(tensors), training.state.errors, training.kept_epoch]).encode()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
