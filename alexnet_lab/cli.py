"""The commands of the laboratory: ``alexnet reproduce`` and ``alexnet bench``.

``alexnet/cli/main.py`` names this module in its table of commands. It is also imported for ``--help``, so it
imports torch and the rest of the laboratory only when a command runs.
"""

from __future__ import annotations

import argparse
import sys

from alexnet.cli.console import print_json
from alexnet.cli.shared_options import Add, add_data_root, add_device, add_device_and_precision, count, positive
from alexnet.core.errors import UserError


def add_reproduce_arguments(add: Add) -> None:
    """The arguments of ``alexnet reproduce``."""
    add("claims", nargs="*", metavar="CLAIM", help="C1 to C34 (default: a table of all claims)")
    add(
        "--run",
        action="store_true",
        help="first run the trainings that these claims need, shortest first; can be resumed",
    )
    add("--missing", action="store_true", help="with --run: only trainings that have no results yet")
    add("--data", action="append", default=[], metavar="NAME:PATH", help="the folder of an image set; may be repeated")
    add_device(add)  # the precision is part of each recipe
    add_data_root(add)


def reproduce(arguments: argparse.Namespace) -> int:
    """Print claims about AlexNet with their measured figures and verdicts; returns the exit status."""
    if arguments.missing and not arguments.run:
        raise UserError("--missing needs --run: give both")
    from alexnet.runtime.progress import make_reporter
    from alexnet_lab.claims.registry import STATEMENTS, get_statement
    from alexnet_lab.claims.report import check, describe_all, describe_claim, to_document
    from alexnet_lab.job_queue import run_queue
    from alexnet_lab.results import reader

    statements = [get_statement(name) for name in arguments.claims] or list(STATEMENTS.values())
    results = reader.Results(reader.results_folder())
    if arguments.run:
        run_queue(
            results, arguments.claims, missing=arguments.missing, sources=arguments.data, device=arguments.device,
            data_root=arguments.data_root, reporter=make_reporter(),
        )  # fmt: skip
        results = reader.Results(reader.results_folder())
    checked = check(statements, results)
    if arguments.json:
        print_json([to_document(statement, result) for statement, result in checked])
    elif arguments.claims:
        print("\n\n".join(describe_claim(statement, result, results) for statement, result in checked))
    else:
        print(f"{describe_all(checked)}\n\nalexnet reproduce CLAIM shows all figures and the evidence")
    return 0


def add_bench_arguments(add: Add) -> None:
    """The arguments of ``alexnet bench``."""
    what = "training steps, inference, loading of images, or what several processes send"
    add("what", choices=("train", "infer", "data", "devices"), help=what)
    add("--variant", action="append", default=[], metavar="VARIANT", help="a name from 'alexnet list'; may be repeated")
    add("--batch", action="append", default=[], type=count, metavar="N", help="batch size; may be repeated")
    add("--rounds", type=count, default=5, metavar="N", help="how often each program is timed (default: 5)")
    add("--seconds", type=positive, default=4.0, metavar="S", help="seconds of each timing (default: 4)")
    add("--data", metavar="SOURCE", help="for 'data': your own photographs (default: generated photographs)")
    add("--keep", action="store_true", help="also write the speeds to alexnet_lab/results/, in a checkout")
    add_device_and_precision(add)
    add_data_root(add)


def bench(arguments: argparse.Namespace) -> int:
    """Measure speeds, print them, and keep them with ``--keep``; returns the exit status."""
    from alexnet.runtime.progress import make_reporter
    from alexnet_lab.bench import devices, report, run
    from alexnet_lab.results import records

    if arguments.keep:
        records.check_clean(records.code_commit(), "--keep")
    sizes = {"variants": arguments.variant, "batches": arguments.batch}
    times = {"rounds": arguments.rounds, "seconds": arguments.seconds, "reporter": make_reporter()}
    if arguments.what == devices.DEVICES:
        value, describe = devices.run_devices(**sizes, **times), devices.describe
    else:
        value = run.run_benchmark(
            arguments.what, data=arguments.data, data_root=arguments.data_root, device=arguments.device,
            precision=arguments.precision, **sizes, **times,
        )  # fmt: skip
        describe = report.describe
    if arguments.json:
        print_json(value)
    else:
        print(describe(value))
    if arguments.keep:
        print(f"kept in {records.keep_bench(value)}", file=sys.stderr)
    return 0
