"""Names from outside, in messages and in Markdown."""

import pytest

from alexnet.cli.console import print_text
from alexnet.core.errors import StoppedError, UserError, one_line
from alexnet.core.names import either, markdown, nearest, printable, printable_lines
from alexnet.report.tables import csv_rows, table
from alexnet.runtime.progress import BarReporter, LineReporter

HOSTILE = {
    "clear \x1b[2J": "clear \\x1b[2J",
    "title \x1b]0;x\x07": "title \\x1b]0;x\\x07",
    "C1 \x9b31m": "C1 \\x9b31m",
    "right to left \u202e": "right to left \\u202e",
    "isolate \u2066x\u2069": "isolate \\u2066x\\u2069",
    "mark \u200f": "mark \\u200f",
    "return \r": "return \\r",
    "line\u2028": "line\\u2028",
    "bytes \udcff": "bytes \\xff",
    "zero width \u200b": "zero width \\u200b",
    "猫 кот ½": "猫 кот ½",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_escaped_wherever_it_is_shown(name, capsys):
    shown = HOSTILE[name]
    assert printable(name) == printable(shown) == shown
    assert printable_lines(f"a\n{name}") == f"a\n{shown}"
    error = UserError(f"no {name}", [f"b\n{name}"])
    assert (error.line, str(error)) == (f"no {shown}", f"no {shown}\n  b\n{shown}")
    assert str(StoppedError(name, 130)) == shown
    assert shown in one_line(ValueError(name)) or name.endswith(("\r", "\u2028"))  # the first line has no end
    assert table((name,), [(name,)]).splitlines()[::2] == [shown, shown]
    assert csv_rows([(name,)]) == f"{shown}\n"
    print_text(name)
    assert capsys.readouterr().out == f"{shown}\n"
    for reporter in (LineReporter(), BarReporter()):
        reporter.begin(name, 3)
        reporter.log(name)
        reporter.finish()
        assert shown in (text := capsys.readouterr().err)
        assert name == shown or name not in text


def test_a_title_is_no_markup_of_the_progress_bar(capsys):
    reporter = BarReporter()
    reporter.begin("[/red] [bold]", 3)
    reporter.finish()
    assert "[/red] [bold]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("golden_retriever", "golden_retriever"),
        ("__init__", r"\_\_init\_\_"),
        ("a|b", r"a\|b"),
        ("**bold** `code`", r"\*\*bold\*\* \`code\`"),
        ("[x](http://y)", r"\[x\](http://y)"),
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("R&D", "R&amp;D"),
        ("two\nlines", r"two\\nlines"),
    ],
)
def test_markdown_shows_a_name_as_it_is(text, escaped):
    assert markdown(text) == escaped


VARIANTS = ["paper", "cuda-convnet", "bvlc-alexnet", "caffenet", "torchvision", "lenet5", "cifar-18pct"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("alexnt", ["paper", "torchvision"]),  # not lenet5, which has the letters of "alexnt" in another order
        ("AlexNet", ["paper", "torchvision"]),
        ("alexnet2", ["paper", "torchvision"]),
        ("bvlc_alexnet", ["bvlc-alexnet"]),
        ("bvlcalexnt", ["bvlc-alexnet"]),
        ("lenet", ["lenet5"]),
        ("LeNet 5", ["lenet5"]),
        ("CIFAR 18pct", ["cifar-18pct"]),
        ("papr", ["paper"]),
        ("zzzz", []),
        ("", []),
    ],
)
def test_the_name_with_the_nearest_spelling(name, meant):
    assert nearest(name, VARIANTS, {"alexnet": ("paper", "torchvision")}) == meant


def test_a_name_is_nearest_to_itself_and_nothing_is_near_nothing():
    assert all(nearest(name, VARIANTS, {"paper": ("lenet5",)}) == [name] for name in VARIANTS)
    assert nearest("paper", []) == []
    assert nearest("abcd", ["abxy"], cutoff=0.6) == []
    assert [either(["a"]), either(["a", "b"]), either(["a", "b", "c"])] == ["a", "a or b", "a, b or c"]
