"""Names of files and classes, made safe to print."""

from __future__ import annotations

import re


def printable(name: str) -> str:
    """A file or class name that can be shown on one line and stored in JSON.

    Bytes that are not UTF-8, line breaks and other characters that cannot be printed are escaped, also those that
    change the direction of text.
    """
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def is_url(text: str) -> bool:
    """Whether a text is the address of something on a network, such as "https://example.org/cat.jpg"."""
    return re.match(r"(?i)[a-z][a-z0-9+.-]*://", text) is not None
