"""``alexnet plan``: what would limit a training on many devices, and how long it would take. Nothing is run."""

from __future__ import annotations

import argparse
import dataclasses

from alexnet.api import TrainingForecast, plan
from alexnet.cli.console import print_json, print_text
from alexnet.distributed.plan import RECORDS, Step
from alexnet.report.tables import table

MINUTE, HOUR, DAY = 60, 3600, 86_400


def main(arguments: argparse.Namespace) -> int:
    """Print the table; returns the exit status."""
    found = plan(
        arguments.recipe, arguments.devices, batches=arguments.batch or (), images=arguments.images,
        classes=arguments.classes, reached=arguments.reached, link=arguments.link,
    )  # fmt: skip
    if arguments.json:
        rows = [
            {**dataclasses.asdict(step), "images_per_second": step.images_per_second, "bound": step.bound,
             "seconds": found.seconds(step)}
            for step in found.steps
        ]  # fmt: skip
        print_json({"recipe": found.recipe, "devices": found.devices, "epochs": found.epochs, "steps": rows})
        return 0
    print_text(_text(found))
    return 0


def _text(found: TrainingForecast) -> str:
    fastest = min(found.steps, key=found.seconds)
    rows = [_row(found, step) for step in found.steps]
    head = ("divided", "batch", "compute", "communicate", "sent by each", "images/s", "limited by", "whole training")
    lines = [
        f"{found.recipe} on {found.devices}: {found.epochs} epochs of {found.images:,} images",
        f"assumed: {found.reached:.0%} of {found.device.tflops:,g} TFLOP/s, {found.link:g} GB/s between devices;",
        "not counted: reading and augmenting images, normalization, the update; communication does not overlap",
        "",
        table(head, rows),
        "",
        f"fastest: {fastest.parallel}, batch {fastest.batch:,}: {duration(found.seconds(fastest))}",
    ]
    if fastest.batch != found.batch:
        lines.append(
            f"the recipe has a batch of {found.batch:,}: another one needs another learning rate, and the accuracy can "
            "differ"
        )
    lines += ["", "published trainings of AlexNet on ImageNet:"]
    lines += [f"  {duration(seconds)}: {what}" for what, seconds in RECORDS]
    return "\n".join(lines)


def _row(found: TrainingForecast, step: Step) -> tuple[str, ...]:
    return (
        step.parallel, f"{step.batch:,}", f"{1000 * step.compute:.2f} ms", f"{1000 * step.communicate:.2f} ms",
        f"{step.sent / 1e6:,.0f} MB", f"{step.images_per_second:,.0f}", step.bound, duration(found.seconds(step)),
    )  # fmt: skip


def duration(seconds: float) -> str:
    """A duration in the unit that fits: "34 s", "2.5 min", "6.1 h", "5.5 days"."""
    for unit, name, limit in ((1, "s", 2 * MINUTE), (MINUTE, "min", 2 * HOUR), (HOUR, "h", 2 * DAY)):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}" if seconds / unit >= 10 else f"{seconds / unit:.1f} {name}"
    return f"{seconds / DAY:.1f} days"
