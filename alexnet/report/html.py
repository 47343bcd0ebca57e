"""``report.html``: the report of a training as one HTML page that needs no network.

Each figure is part of the file and has a caption in words. The page follows the reader's light or dark mode, and can be
printed and read by a screen reader.
"""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from alexnet.config import Recipe, assignments
from alexnet.metrics.counts import describe_images
from alexnet.plots.canvas import DOTS_PER_INCH, Picture, encode_figure
from alexnet.report.markdown import (
    MOST_MISTAKES,
    described_differences,
    expected,
    facts,
    mistakes,
    readings,
)
from alexnet.report.text import class_rows, describe_measure

if TYPE_CHECKING:
    from jinja2 import Template
    from matplotlib.figure import Figure

NARROW_DPI = 165  # pixels per inch of a figure for phones
LONGEST_CAPTION = 500  # letters; a longer caption is folded
LARGE, QUALITY = 250_000, 90  # bytes above which a lossless WebP is replaced by a lossy one, and its quality of 100
HARDEST = 30  # classes in the table, at most


@dataclass(frozen=True)
class Embedded:
    """An image inside the page: ``address`` is a data URL; ``width`` and ``height`` in pixels reserve its space."""

    address: str
    width: int
    height: int


@dataclass(frozen=True, eq=False)
class Section:
    """A figure under a title, in two layouts; if it could not be made, ``caption`` has the reason."""

    title: str
    caption: str
    picture: Picture | None = None
    wide: Embedded | None = None
    narrow: Embedded | None = None


def section(title: str, picture: Picture) -> Section:
    """A section with a figure for wide and for narrow screens."""
    wide, narrow = (_embedded(picture.figure, DOTS_PER_INCH), _embedded(picture.narrow(), NARROW_DPI))
    return Section(title, picture.caption, picture, wide, narrow)


def left_out(title: str, reason: str) -> Section:
    """A section without a figure; ``reason``: why it could not be made."""
    return Section(title, f"Not shown: {reason}.")


def _embedded(figure: Figure, dots: int) -> Embedded:
    from PIL import Image

    png = encode_figure(figure, "", dots=dots)
    with Image.open(io.BytesIO(png)) as image:
        width, height = image.size
    address = "data:image/webp;base64," + base64.b64encode(as_webp(png)).decode("ascii")
    return Embedded(address, width, height)


def as_webp(png: bytes) -> bytes:
    """A PNG as WebP: lossless, or lossy if that would be larger than ``LARGE``, as with photographs."""
    from PIL import Image

    contents, smaller = io.BytesIO(), io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        opaque = image.convert("RGB")
    opaque.save(contents, "webp", lossless=True, method=1)
    if len(contents.getvalue()) <= LARGE:
        return contents.getvalue()
    opaque.save(smaller, "webp", quality=QUALITY)
    return smaller.getvalue()


def render(
    recipe: Recipe,
    result: Mapping[str, Any],
    sections: Sequence[Section],
    remarks: Sequence[str],
    names: Mapping[str, str],
    run: str,
    side: int | None = None,
) -> str:
    """The whole page. ``result``: the contents of ``result.json``; ``remarks``: lines on the images; ``names``: class →
    its label for people; ``run``: the name of the run's folder; ``side``: of the prepared images, in pixels.
    """
    found = class_rows(result)
    counted = [(names.get(name, name), value, count) for name, value, count in found.rows]
    return _template().render(
        title=run,
        recipe=recipe.name,
        measure=describe_measure(result) if result["split"] else "not evaluated: there are no test images",
        seed=result["seed"],
        expected=expected(recipe),
        readings=readings(recipe, result, names),
        differences=described_differences(recipe, result["source"], side),
        facts=[*facts(result), *(remark.strip() for remark in remarks)],
        sections=sections,
        classes=counted[:HARDEST],
        classes_title=found.title,
        heads=found.heads,
        class_measure=found.measure,
        all_classes=len(counted),
        mistakes=mistakes(result)[:MOST_MISTAKES],
        all_mistakes=len(mistakes(result)),
        counted=describe_images(result) if result["split"] else "",
        fields=assignments(recipe),
        longest=LONGEST_CAPTION,
    )


@functools.cache
def _template() -> Template:
    """The page's template, compiled."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string((files("alexnet.report") / "page.html.jinja").read_text(encoding="utf-8"))
