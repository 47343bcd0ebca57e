"""Names from outside, such as those of files and classes, made safe to show: in messages, in tables, in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

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
    try:
        data = name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a surrogate pair, which no name of a file has
        data = name.encode("utf-8", "backslashreplace")
    text = data.decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def printable_lines(text: str) -> str:
    """A message of several lines, each as :func:`printable` shows it."""
    return "\n".join(map(printable, text.split("\n")))


def markdown(text: str) -> str:
    """Text that Markdown shows as it is: neither formatting, nor links, nor HTML, nor the end of a table's cell."""
    import html  # not above: every command imports this module

    return html.escape(_MARKDOWN.sub(lambda found: "\\" + found[0], printable(text)), quote=False)


def is_url(text: str) -> bool:
    """Whether a text is the address of something on a network, such as "https://example.org/cat.jpg"."""
    return re.match(r"(?i)[a-z][a-z0-9+.-]*://", text) is not None


NO_ALIASES: Mapping[str, Sequence[str]] = {}


def nearest(
    name: str, known: Iterable[str], aliases: Mapping[str, Sequence[str]] = NO_ALIASES, *, cutoff: float = 0.5
) -> list[str]:
    """The names of ``known`` that a wrong name may mean, for "did you mean …?"; none if no name is similar.

    That is the one with the nearest spelling. ``aliases``: other spellings → the names that they mean; if an alias is
    nearest, its names are the answer. Names are also compared without regard to case, and to ``-``, ``_``, ``.`` and
    spaces. ``cutoff``: the least similarity, 0 … 1 (``difflib.SequenceMatcher.ratio``).
    """
    meant = {**aliases, **{each: (each,) for each in known}}
    scores = {each: max(_similarity(name, each), _similarity(simplify(name), simplify(each))) for each in meant}
    best = max(scores, key=lambda each: (scores[each], each), default=None)
    return [] if best is None or scores[best] < cutoff else list(meant[best])


def either(names: Sequence[str]) -> str:
    """Names as a choice: "a", "a or b", "a, b or c"."""
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _similarity(one: str, other: str) -> float:
    import difflib  # as html above

    return difflib.SequenceMatcher(None, other, one).ratio()  # in this order, as get_close_matches compares


def simplify(name: str) -> str:
    """The name in small letters, without ``-``, ``_``, ``.`` and spaces."""
    return name.lower().translate(dict.fromkeys(map(ord, "-_. ")))
