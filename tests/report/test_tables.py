"""Tables: alignment, wide letters, nothing cut and no colour in a pipe; Markdown that a cell cannot break."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.cells import cell_len

from alexnet.report.tables import markdown_table, table


def test_columns_are_aligned_and_figures_stand_right():
    text = table(("class", "a", "ensemble", "images"), [("cat", "75.00%", "9.00%", "1,234"), ("horse", "–", "", "3")])
    assert text.splitlines() == [
        "class       a  ensemble  images",
        "───────────────────────────────",
        "cat    75.00%     9.00%   1,234",
        "horse       –                 3",
    ]


def test_a_table_without_rows_is_its_header():
    assert table(("a", "b"), []) == "a  b\n────"


def test_wide_letters_take_two_places():
    rows = [("日本語", "x"), ("ab", "y"), ("e\u0301t\u00e9", "z")]
    lines = table(("name", "what"), rows).splitlines()
    for line, letter in zip(lines[2:], "xyz", strict=True):
        assert cell_len(line[: line.index(letter)]) == 8


def test_cells_are_plain_text():
    cell = "[bold]x[/bold] [/] :smile: https://example.org 3.5"
    assert table(("a",), [(cell,)]).splitlines()[2] == cell


@pytest.mark.parametrize("columns", ["20", "80", None])
def test_no_line_is_cut_or_coloured(columns):
    """In a narrow terminal's pipe, and where the environment asks for colours."""
    code = "from alexnet.report.tables import table; print(table(('a', 'b'), [('x y ' * 60, '7'), ('z', 'w' * 300)]))"
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    environment |= {"FORCE_COLOR": "1", "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONIOENCODING": "utf-8"}
    environment |= {"COLUMNS": columns} if columns else {}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=environment)
    lines = done.stdout.decode().splitlines()
    assert len(lines) == 4
    assert lines[2].split() == [*["x", "y"] * 60, "7"]
    assert lines[3].split() == ["z", "w" * 300]
    assert "\x1b" not in done.stdout.decode()


def test_a_row_of_another_length_is_refused():
    for rows in ([("1", "2", "3")], [("1",)], [("1", "2"), ("1",)]):
        with pytest.raises(ValueError):
            table(("a", "b"), rows)


def test_markdown_cells_cannot_end_their_table():
    assert markdown_table(("a", "b"), [("x|y", "two\nlines")]) == "| a | b |\n| --- | --- |\n| x/y | two lines |"
