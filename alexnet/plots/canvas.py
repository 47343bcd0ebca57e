"""What all pictures share: colours, a figure without a screen, and its file.

Colours are Okabe and Ito's (2008), which people with any colour vision can tell apart; shares run along viridis, whose
lightness rises steadily. Pictures are opaque and light, so that they read alike on light and dark pages.
"""

from __future__ import annotations

import functools
import io
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

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
LINE_COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito's, without yellow
SHAPES = ("o", "s", "^", "D", "v", "P")
# One for each of ten classes, the commonest number, as far apart as can be for every kind of eye (Petroff,
# "Accessible Color Sequences for Data Visualization", 2021).
MARK_COLOURS = (
    "#3F90DA", "#FFA90E", "#BD1F01", "#94A4A2", "#832DB6", "#A96B59", "#E76300", "#B9AC70", "#717581", "#92DADD",
)  # fmt: skip
MARKS = len(MARK_COLOURS) * len(SHAPES)
DOTS_PER_INCH = 110
LETTERS_PER_INCH = 9.5  # of a title
PHONE = 4.6  # inches, of a figure that is laid out for one
FORMATS = (".png", ".svg")
LONGEST_LABEL = 28
# Asked in this order for what the first lacks: the writing of most of the world, where one of the others is installed.
FONTS = (
    "DejaVu Sans", "Noto Sans CJK JP", "Noto Sans CJK SC", "WenQuanYi Zen Hei", "Noto Sans Devanagari",
    "Noto Sans Thai", "Unifont",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Picture:
    """A drawn figure; ``says``: what it shows, for those who cannot see it; ``figures``: the numbers in it.

    ``upright`` draws the same for a screen as narrow as a phone's.
    """

    figure: Figure
    says: str
    figures: Mapping[str, Any]
    upright: Callable[[], Figure]

    def data(self, suffix: str = ".png") -> bytes:
        """The picture as a file's contents, PNG or SVG; ``says`` goes with it, as its description."""
        return encoded(self.figure, self.says, suffix)

    def save(self, path: Path) -> None:
        """Write it, in the format that the name's ending says. Raises ``OSError`` if the disk refuses."""
        write_bytes(path, self.data(path.suffix.lower()))


def encoded(figure: Figure, says: str, suffix: str = ".png", dots: int = DOTS_PER_INCH) -> bytes:
    """A figure as a file, PNG or SVG, with ``says`` as its description. ``dots``: pixels an inch."""
    about = {"Date": None} if suffix == ".svg" else {}
    contents = io.BytesIO()
    with warnings.catch_warnings():
        # A letter that no font here has becomes a box; ``says`` has the name in full.
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from", category=UserWarning)
        kind, metadata = suffix.removeprefix("."), {**about, "Description": says}
        figure.savefig(contents, format=kind, dpi=dots, metadata=metadata)
    return contents.getvalue()


def check_format(path: Path) -> None:
    """Raise ``UserError`` for a file name whose ending is no format that pictures are written in."""
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"--out {path}: pictures are written as PNG or SVG, end the name in .png or .svg")


def new_figure(width: float, height: float, title: str = "") -> Figure:
    """An empty figure of so many inches."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    matplotlib.rcParams["font.family"] = _installed_fonts()
    matplotlib.rcParams["svg.hashsalt"] = "alexnet"  # else each SVG of the same picture differs
    matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text: it can be searched, and read out
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(wrapped(title, width))
    return figure


@functools.cache
def _installed_fonts() -> list[str]:
    from matplotlib.font_manager import fontManager

    here = set(fontManager.get_font_names())
    return [name for name in FONTS if name in here]


def about_letters(figures: Iterable[Figure]) -> str:
    """A line on the letters in figures' texts that no font here has, and so are boxes; empty where there are none."""
    from matplotlib.font_manager import FontProperties, findfont, get_font
    from matplotlib.text import Text

    texts = [text.get_text() for figure in figures for text in figure.findobj(Text)]
    written = {letter for text in texts for letter in text if letter.isprintable()}
    fonts = (get_font(findfont(FontProperties(family=name))) for name in _installed_fonts())
    known = {letter for font in fonts for letter in written if font.get_char_index(ord(letter))}
    missing = "".join(sorted(written - known))
    return f"note: no font here has {missing}, which are boxes in the picture" if missing else ""


def share(probability: float) -> str:
    """A probability as people say it: ``"87%"``, and ``"less than 1%"`` where rounding would make it none, or all."""
    if probability < 0.01:
        return "less than 1%"
    return "more than 99%" if 0.995 <= probability < 1 else f"{probability:.0%}"


def some_of(some: int, all_of_them: int) -> str:
    """How many of a set are shown: ``"1,500 of 10,000"``, or only their number where that is all."""
    return f"{some:,}" + (f" of {all_of_them:,}" if some < all_of_them else "")


def wrapped(title: str, width: float) -> str:
    """A title in lines that fit so many inches, broken inside long names too."""
    return plain("\n".join(textwrap.wrap(title, _letters(title, int(width * LETTERS_PER_INCH)))))


def _letters(text: str, room: int) -> int:
    """How many of a text's letters have room where so many Latin ones do: those of East Asia are twice as wide."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return max(1, room * len(text) // (len(text) + wide)) if text else room


def plain(text: str) -> str:
    """Text that is shown as it stands: a dollar sign begins no formula."""
    return text.replace("$", r"\$")


def shortened(text: str, longest: int = LONGEST_LABEL) -> str:
    """A name short enough for a label, ended by … where something is left out: of several names, all but the first."""
    if len(text) > longest and ", " in text:
        text = text.partition(", ")[0] + "…"
    return plain(_cut(text, _letters(text, longest)))


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else text[: room - 1].rstrip(" ,") + "…"


def in_two_lines(text: str, longest: int) -> str:
    """A name in one or two lines of so many letters, ended by … where something is left out."""
    room = _letters(text, longest)
    if len(text) <= room:
        return plain(text)
    cut = text.rfind(" ", 1, room + 1)
    cut = room if cut < 0 else cut
    first, rest = text[:cut].rstrip(), text[cut:].lstrip()
    return plain(f"{first}\n{_cut(rest, room)}")


def bare(axes: Axes) -> Axes:
    """An axes without frame and ticks, for images."""
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(False)
    return axes


def grid(figure: Figure, count: int, across: int) -> list[Axes]:
    """Axes in rows of ``across``, the first ``count``; what is left of the last row stays empty."""
    places = figure.subplots(math.ceil(count / across), across, squeeze=False).flatten()
    for axes in places[count:]:
        axes.set_visible(False)
    return list(places[:count])


def show_image(axes: Axes, pixels: NDArray[np.uint8], title: str = "") -> None:
    """Draw ``(H, W, C)`` pixels, grey or colour, each pixel as it is."""
    grey = pixels.shape[2] == 1
    style: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 255} if grey else {}
    bare(axes).imshow(pixels[:, :, 0] if grey else pixels, interpolation="nearest", **style)
    if title:
        axes.set_title(title, fontsize=9)


def framed(axes: Axes) -> None:
    """Draw a frame about an image that is there, as the one that matters among others."""
    for side in axes.spines.values():
        side.set(visible=True, color=ORANGE, linewidth=2.5)


def tiles(images: NDArray[np.float64], columns: int, gap: int = 1, ground: float = 1.0) -> NDArray[np.float64]:
    """``(N, H, W, C)`` laid out in rows of ``columns`` with ``gap`` pixels of ``ground`` around each."""
    count, height, width, channels = images.shape
    rows = math.ceil(count / columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), ground)
    for number, image in enumerate(images):
        top, left = gap + (number // columns) * (height + gap), gap + (number % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def class_marks(count: int) -> list[tuple[str, str]]:
    """A colour and a shape for each of up to ``MARKS`` classes, no two alike."""
    colours, shapes = len(MARK_COLOURS), len(SHAPES)
    pairs = ((n % colours, (n % colours + n // colours) % shapes) for n in range(min(count, MARKS)))
    return [(MARK_COLOURS[colour], SHAPES[shape]) for colour, shape in pairs]
