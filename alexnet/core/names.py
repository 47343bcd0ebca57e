"""Names of files and classes, made safe to print."""

from __future__ import annotations


def printable(name: str) -> str:
    """A file or class name that can be shown on one line and stored in JSON.

    Bytes that are not UTF-8, line breaks and other characters that cannot be printed are escaped, also those that
    change the direction of text.
    """
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)
