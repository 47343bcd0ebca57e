"""What the commands ``python -m alexnet_lab.…`` share: the exit status, and the subcommand that keeps figures."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alexnet.core.errors import StoppedError, UserError


def exit_status(work: Callable[[], None]) -> int:
    """Do the work of a command; its exit status, after a line on stderr if it failed."""
    try:
        work()
    except StoppedError as error:
        print(error, file=sys.stderr)
        return error.status
    except (UserError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def add_keep(commands: Any) -> None:
    """Add the subcommand ``keep FOLDER`` to those that ``add_subparsers`` returned."""
    parser = commands.add_parser("keep", help="write what a folder holds to alexnet_lab/results/")
    parser.add_argument("out", type=Path, metavar="FOLDER")
