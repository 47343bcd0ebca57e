"""Things to run that each leave a file in ``results/``, one after another, cheapest first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from alexnet.core.errors import UserError
from alexnet.runtime.log import Reporter


@dataclass(frozen=True)
class Job:
    """Something to run that leaves a file in ``results/``, and what it costs."""

    minutes: float
    title: str
    run: Callable[[], Path]


def run_jobs(jobs: Sequence[Job], reporter: Reporter) -> None:
    """Run all, the cheapest first; one that cannot be run does not stop the others.

    Raises ``UserError`` at the end for those that could not.
    """
    failed = []
    for number, job in enumerate(sorted(jobs, key=lambda job: job.minutes), 1):
        reporter.log(f"{number}/{len(jobs)}  {job.title}")
        try:
            reporter.log(f"kept in {job.run()}")
        except UserError as error:  # images that are not here, say: the next training may do without them
            reporter.log(f"{job.title}: {error.line}")
            failed.append(job.title.partition(",")[0])
    if failed:
        raise UserError(f"{len(failed)} of {len(jobs)} could not be run, see above: {', '.join(failed)}")
