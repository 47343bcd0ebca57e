"""Names that came from outside, files' and classes', as they can be shown."""

from __future__ import annotations


def printable(name: str) -> str:
    """A file or class name as it can be shown on one line and kept in JSON.

    Bytes that are not UTF-8, line breaks and other characters that are no signs, those that turn the direction of
    writing among them, become escapes.
    """
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii") for sign in text)
