"""What all plots use: colours, figures that need no screen, labels, and files.

The colours of lines are from Okabe and Ito, "Color Universal Design" (2008): people with any colour vision can tell
them apart. Shares use the colour map viridis, whose lightness increases steadily. Plots have a white background, so
that they look the same on light and dark pages.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import math
import textwrap
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from alexnet.core.errors import UserError
from alexnet.core.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
LINE_COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito, without yellow
MARKER_SHAPES = ("o", "s", "^", "D", "v", "P")
# Ten colours that people with any colour vision can tell apart (Petroff, "Accessible Color Sequences for Data
# Visualization", 2021).
MARKER_COLOURS = (
    "#3F90DA", "#FFA90E", "#BD1F01", "#94A4A2", "#832DB6", "#A96B59", "#E76300", "#B9AC70", "#717581", "#92DADD",
)  # fmt: skip
MARKERS = len(MARKER_COLOURS) * len(MARKER_SHAPES)
DOTS_PER_INCH = 110
LETTERS_PER_INCH = 9.5  # in a title
NARROW_WIDTH = 4.6  # inches: the width of a figure that is laid out for a phone
FORMATS = (".png", ".svg")
LONGEST_LABEL = 28
MISSING_SHOWN = 20  # letters that no font has, in a note
# matplotlib takes a letter from the first of these fonts that is installed and has it, then from any other font.
FONTS = (
    "DejaVu Sans", "Noto Sans CJK JP", "Noto Sans CJK SC", "WenQuanYi Zen Hei", "Noto Sans Devanagari",
    "Noto Sans Thai", "Unifont",
)  # fmt: skip
BOX_FONTS = ("Last Resort", "STIX", "cm")  # beginnings of names of fonts that draw boxes or symbols of formulas
CJK_BLOCKS = ((0x1100, 0x11FF), (0x2E80, 0xA4CF), (0xA960, 0xA97F), (0xAC00, 0xD7FF), (0xF900, 0xFAFF),
              (0xFE30, 0xFE4F), (0xFF00, 0xFFEF), (0x20000, 0x3FFFF))  # fmt: skip
"""Code points of Chinese, Japanese and Korean letters (Unicode 16, Blocks.txt)."""


@dataclass(frozen=True, eq=False)
class Picture:
    """One plot: a matplotlib figure with its caption and its numbers.

    ``caption``: what the figure shows, in words; it is also the description (alt text) in the file. ``values``: the
    numbers in the figure, ready for JSON. ``narrow``: makes the same figure for a screen as narrow as a phone.
    """

    figure: Figure
    caption: str
    values: Mapping[str, Any]
    narrow: Callable[[], Figure]

    def __post_init__(self) -> None:
        """Choose fonts that have the letters, also for a figure that is saved without :meth:`save`."""
        choose_fonts(self.figure)

    def encode(self, suffix: str = ".png") -> bytes:
        """The contents of a PNG or SVG file, with the caption as its description."""
        return encode_figure(self.figure, self.caption, suffix)

    def save(self, path: Path) -> None:
        """Write a file in the format of its suffix. Raises ``OSError`` if it cannot be written."""
        write_bytes(path, self.encode(path.suffix.lower()))


def encode_figure(figure: Figure, caption: str, suffix: str = ".png", dots: int = DOTS_PER_INCH) -> bytes:
    """The contents of a PNG or SVG file, with ``caption`` as its description. ``dots``: pixels per inch."""
    no_date = {"Date": None} if suffix == ".svg" else {}
    contents = io.BytesIO()
    choose_fonts(figure)
    with warnings.catch_warnings():
        # A letter that no installed font has becomes a box; missing_glyphs_note() names it, and the caption has it.
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from", category=UserWarning)
        kind, metadata = suffix.removeprefix("."), {**no_date, "Description": caption}
        figure.savefig(contents, format=kind, dpi=dots, metadata=metadata)
    return contents.getvalue()


def check_format(path: Path) -> None:
    """Raise ``UserError`` for a file name that ends in neither .png nor .svg."""
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"--out {path}: plots are written as PNG or SVG, so the name must end in .png or .svg")


def new_figure(width: float, height: float, title: str = "") -> Figure:
    """An empty figure of ``width`` × ``height`` inches, which needs no screen."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    matplotlib.rcParams["font.family"] = _installed_fonts()
    matplotlib.rcParams["svg.hashsalt"] = "alexnet"  # without it, two SVG files of one figure differ
    matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text, which can be searched and read aloud
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(wrap(title, width))
    return figure


@functools.cache
def _installed_fonts() -> list[str]:
    from matplotlib.font_manager import fontManager

    installed = set(fontManager.get_font_names())
    return [name for name in FONTS if name in installed]


def choose_fonts(figure: Figure) -> None:
    """Let each text with letters that its fonts lack use other installed fonts that have them.

    Letters are composed first: the name of a file may hold a Korean syllable as its parts, which fonts show one by one.
    """
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        words = text.get_text()
        if words.isascii():
            continue
        if (composed := unicodedata.normalize("NFC", words)) != words:
            text.set_text(composed)
        families = text.get_fontfamily()
        missing = _missing(composed, families, text)
        if others := _families_with(missing, text):
            text.set_fontfamily([*families, *others])


def _missing(words: str, families: Iterable[str], text: Text) -> frozenset[str]:
    """The letters of ``words`` that none of the fonts has in the weight and style of ``text``."""
    missing = {letter for letter in words if letter.isprintable() and not letter.isspace()}
    for family in families:
        if missing:
            missing -= _letters_of(family, str(text.get_fontweight()), text.get_fontstyle(), frozenset(missing))
    return frozenset(missing)


@functools.lru_cache(1024)
def _letters_of(family: str, weight: str, style: Any, letters: frozenset[str]) -> frozenset[str]:
    """Those of ``letters`` that the font of this family, weight and style has; none if it is not installed."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    log = logging.getLogger("matplotlib.font_manager")
    level = log.level
    log.setLevel(logging.ERROR)  # no warnings about fonts that are not used in the end
    try:
        number = int(weight) if weight.isdigit() else weight
        path = findfont(FontProperties(family=family, weight=number, style=style), fallback_to_default=False)
        font = get_font(path)
    except (ValueError, OSError, RuntimeError):  # RuntimeError: a font file that FreeType cannot read
        return frozenset()
    finally:
        log.setLevel(level)
    return frozenset(letter for letter in letters if font.get_char_index(ord(letter)))


def _families_with(missing: frozenset[str], text: Text) -> list[str]:
    """Installed fonts that together have as many of the missing letters as possible."""
    chosen = []
    for family in _all_families() if missing else ():
        if had := _letters_of(family, str(text.get_fontweight()), text.get_fontstyle(), missing):
            chosen.append(family)
            missing -= had
            if not missing:
                break
    return chosen


@functools.cache
def _all_families() -> list[str]:
    """All installed fonts that draw letters, also those installed after matplotlib has made its list of fonts."""
    from matplotlib.font_manager import findSystemFonts, fontManager

    for path in sorted(set(findSystemFonts()) - {entry.fname for entry in fontManager.ttflist}):
        with contextlib.suppress(Exception):  # a font that matplotlib cannot read, in whatever way
            fontManager.addfont(path)
    _letters_of.cache_clear()
    return [name for name in sorted(fontManager.get_font_names()) if not name.startswith(BOX_FONTS)]


def missing_glyphs_note(figures: Iterable[Figure]) -> str:
    """A line that names the letters in the figures that no installed font has; empty if there are none.

    It names the package of fonts to install.
    """
    from matplotlib.text import Text

    missing: set[str] = set()
    figures = list(figures)
    for figure in figures:
        choose_fonts(figure)
    for text in (text for figure in figures for text in figure.findobj(Text)):
        if not text.get_text().isascii():
            missing |= _missing(text.get_text(), text.get_fontfamily(), text)
    if not missing:
        return ""
    is_cjk = any(first <= ord(letter) <= last for letter in missing for first, last in CJK_BLOCKS)
    debian, fedora = (
        ("fonts-noto-cjk", "google-noto-sans-cjk-fonts") if is_cjk else ("fonts-noto-core", "google-noto-fonts-all")
    )
    some = "".join(sorted(missing)[:MISSING_SHOWN]) + (" …" if len(missing) > MISSING_SHOWN else "")
    return (
        f"note: no installed font has {some}: shown as boxes in the plot; install the package {debian} (Debian, "
        f"Ubuntu) or {fedora} (Fedora) and repeat the command"
    )


def percent(probability: float) -> str:
    """A probability in words: ``"87%"``; ``"less than 1%"`` or ``"more than 99%"`` where rounding would give 0 or 1."""
    if probability < 0.01:
        return "less than 1%"
    return "more than 99%" if 0.995 <= probability < 1 else f"{probability:.0%}"


def count_of(shown: int, total: int) -> str:
    """How many of a set are shown: ``"1,500 of 10,000"``, or ``"1,500"`` if that is all."""
    return f"{shown:,}" + (f" of {total:,}" if shown < total else "")


def wrap(title: str, width: float) -> str:
    """A title broken into lines that fit ``width`` inches; a long name is broken too."""
    return escape_dollars("\n".join(textwrap.wrap(title, _letters(title, int(width * LETTERS_PER_INCH)))))


def _letters(text: str, room: int) -> int:
    """How many letters of ``text`` fit where ``room`` Latin letters fit: East Asian letters are twice as wide."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return max(1, room * len(text) // (len(text) + wide)) if text else room


def escape_dollars(text: str) -> str:
    """Text with ``$`` escaped, so that matplotlib does not read a formula."""
    return text.replace("$", r"\$")


def shorten(text: str, longest: int = LONGEST_LABEL) -> str:
    """A name cut to ``longest`` letters, with … at the end if cut; of several names with commas, the first."""
    if len(text) > longest and ", " in text:
        text = text.partition(", ")[0] + "…"
    return escape_dollars(_cut(text, _letters(text, longest)))


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else text[: room - 1].rstrip(" ,") + "…"


def in_two_lines(text: str, longest: int) -> str:
    """A name in one or two lines of ``longest`` letters each, with … at the end if cut."""
    room = _letters(text, longest)
    if len(text) <= room:
        return escape_dollars(text)
    cut = text.rfind(" ", 1, room + 1)
    cut = room if cut < 0 else cut
    first, rest = text[:cut].rstrip(), text[cut:].lstrip()
    return escape_dollars(f"{first}\n{_cut(rest, room)}")


def hide_axes(axes: Axes) -> Axes:
    """Remove frame and ticks, as images need none; returns ``axes``."""
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(False)
    return axes


def grid(figure: Figure, count: int, across: int) -> list[Axes]:
    """``count`` axes in rows of ``across``; the rest of the last row stays empty."""
    places = figure.subplots(math.ceil(count / across), across, squeeze=False).flatten()
    for axes in places[count:]:
        axes.set_visible(False)
    return list(places[:count])


def plot_image(axes: Axes, pixels: NDArray[np.uint8], title: str = "") -> None:
    """Plot ``(H, W, C)`` uint8 pixels, grey or colour, without interpolation."""
    grey = pixels.shape[2] == 1
    style: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 255} if grey else {}
    hide_axes(axes).imshow(pixels[:, :, 0] if grey else pixels, interpolation="nearest", **style)
    if title:
        axes.set_title(title, fontsize=9)


def add_frame(axes: Axes) -> None:
    """Put an orange frame around a plotted image, to mark it among others."""
    for side in axes.spines.values():
        side.set(visible=True, color=ORANGE, linewidth=2.5)


def tiles(images: NDArray[np.float64], columns: int, gap: int = 1, ground: float = 1.0) -> NDArray[np.float64]:
    """Images ``(N, H, W, C)`` as one image: rows of ``columns``, ``gap`` pixels of value ``ground`` between."""
    count, height, width, channels = images.shape
    rows = math.ceil(count / columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), ground)
    for number, image in enumerate(images):
        top, left = gap + (number // columns) * (height + gap), gap + (number % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def class_markers(count: int) -> list[tuple[str, str]]:
    """A colour and a marker shape for each of up to ``MARKERS`` classes, all different."""
    colours, shapes = len(MARKER_COLOURS), len(MARKER_SHAPES)
    pairs = ((n % colours, (n % colours + n // colours) % shapes) for n in range(min(count, MARKERS)))
    return [(MARKER_COLOURS[colour], MARKER_SHAPES[shape]) for colour, shape in pairs]
