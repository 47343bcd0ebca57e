"""Tables as plain text for a terminal, a pipe or a file, as Markdown, and as CSV."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable, Sequence

from alexnet.core.names import printable

HEADER_ONLY = "    \n    \n ── \n    \n    \n    \n    \n    \n"
"""The lines of a ``rich`` box: one below the header, no others."""


def dimensions(shape: Sequence[int]) -> str:
    """A shape in a cell: ``96×55×55``."""
    return "×".join(map(str, shape))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest entry, with plain text in them; columns of figures are aligned to the right.

    No line is wrapped or cut, whatever the width of the terminal, and there are no colours: the text may go to a pipe
    or a file. Names from outside may occur: what cannot be printed is escaped. Raises ``ValueError`` for a row that is
    longer or shorter than the header.
    """
    from rich.box import Box  # imported here: Markdown needs none of it
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    header, rows = [*map(printable, header)], [[*map(printable, row)] for row in rows]
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(header)
    if len(columns) != len(header):
        raise ValueError(f"a row of {len(columns)} cells in a table of {len(header)} columns")
    grid = Table(box=Box(HEADER_ONLY), show_edge=False, pad_edge=False, collapse_padding=True, header_style="")
    width = 0
    for name, cells in zip(header, columns, strict=True):
        grid.add_column(Text(name), justify="right" if all(map(_is_figure, cells)) else "left", no_wrap=True)
        width += max(map(cell_len, (name, *cells))) + 3  # with the space around it
    for row in rows:
        grid.add_row(*map(Text, row))
    text = io.StringIO()
    console = Console(
        file=text, width=width, color_system=None, force_terminal=False, force_jupyter=False, legacy_windows=False
    )
    console.print(grid)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown. A bar inside a cell would end it, so it becomes a slash; a line break becomes a space."""
    lines = [header, ["---"] * len(header), *rows]
    cells = ([cell.replace("|", "/").replace("\n", " ") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def csv_rows(rows: Iterable[Sequence[str]]) -> str:
    """Rows as CSV (RFC 4180), each with a line break at its end. What cannot be printed is escaped."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([*map(printable, row)] for row in rows)
    return text.getvalue()


def _is_figure(text: str) -> bool:
    return not text or text[0].isdigit() or text in ("–", "n/a")


def spread(values: Sequence[float]) -> str:
    """Shares as a cell: "62.5% (50.0% – 75.0%)", their mean with the lowest and the highest."""
    return f"{statistics.mean(values):.1%} ({min(values):.1%} – {max(values):.1%})"
