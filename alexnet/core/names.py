"""Names from outside, such as those of files and classes, made safe to show: in messages, in tables, in Markdown."""

from __future__ import annotations

import html
import re

# What Markdown reads as formatting. An underscore between letters is not formatting, so names like golden_retriever
# stay readable.
_MARKDOWN = re.compile(r"[\\`*\[\]|~#]|(?<![^\W_])_|_(?![^\W_])")


def printable(name: str) -> str:
    """A file or class name that can be shown on one line and stored in JSON.

    Bytes that are not UTF-8, line breaks and other characters that cannot be printed are escaped, also those that
    change the direction of text and those that control a terminal. Text that was escaped stays as it is.
    """
    if name.isprintable():
        return name
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def printable_lines(text: str) -> str:
    """A message of several lines, each as :func:`printable` shows it."""
    return "\n".join(map(printable, text.split("\n")))


def markdown(text: str) -> str:
    """Text that Markdown shows as it is: neither formatting, nor links, nor HTML, nor the end of a table's cell."""
    return html.escape(_MARKDOWN.sub(lambda found: "\\" + found[0], printable(text)), quote=False)


def is_url(text: str) -> bool:
    """Whether a text is the address of something on a network, such as "https://example.org/cat.jpg"."""
    return re.match(r"(?i)[a-z][a-z0-9+.-]*://", text) is not None
