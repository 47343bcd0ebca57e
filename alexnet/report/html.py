"""A training as one page: ``report.html``, a single file that needs no network, for a screen, paper or a screen reader.

Pictures are inside it, each with what it shows in words; tables are tables; colours follow the reader's light or dark.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from alexnet.config import Recipe, assignments
from alexnet.plots.canvas import DOTS_PER_INCH, Picture, encode_figure
from alexnet.report.markdown import described_differences, expected, facts, readings
from alexnet.report.text import describe_images, describe_measure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_ON_PHONES = 165  # an inch; their screens are finer
LONGEST_CAPTION = 500  # letters; a longer one is folded
LARGE, QUALITY = 250_000, 90  # bytes of a WebP without loss, and how good one with loss is, of 100
HARDEST = 30  # classes in the table, where there are more


@dataclass(frozen=True)
class Embedded:
    """A picture inside a page: its ``address`` holds it whole; ``width`` and ``height`` in pixels, so that a page need
    not move when it is there.
    """

    address: str
    width: int
    height: int


@dataclass(frozen=True, eq=False)
class Section:
    """A picture under a title, laid out twice; where there is none, ``caption`` tells why."""

    title: str
    caption: str
    picture: Picture | None = None
    at_desk: Embedded | None = None
    for_phones: Embedded | None = None


def section(title: str, picture: Picture) -> Section:
    """The picture as it stands in a page, for wide and for narrow screens."""
    desk, phone = (_embedded(picture.figure, DOTS_PER_INCH), _embedded(picture.narrow(), DOTS_ON_PHONES))
    return Section(title, picture.caption, picture, desk, phone)


def left_out(title: str, reason: str) -> Section:
    """What stands where there is no picture."""
    return Section(title, f"Not shown: {reason}.")


def _embedded(figure: Figure, dots: int) -> Embedded:
    from PIL import Image

    png = encode_figure(figure, "", dots=dots)
    with Image.open(io.BytesIO(png)) as image:
        width, height = image.size
    address = "data:image/webp;base64," + base64.b64encode(as_webp(png)).decode("ascii")
    return Embedded(address, width, height)


def as_webp(png: bytes) -> bytes:
    """A picture as WebP: without loss, unless that is ``LARGE``, as photographs make it."""
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
) -> str:
    """The whole page. ``result``: as ``result.json`` has it; ``remarks``: worth knowing of the images; ``names``: what
    people call each class; ``run``: the name of its folder.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((files("alexnet.report") / "page.html.jinja").read_text(encoding="utf-8"))
    counted = [
        (names.get(name, name), f"{value['top1']:.1%}", f"{value['images']:,}")
        for name, value in sorted(result.get("per_class", {}).items(), key=lambda item: item[1]["top1"] or 0.0)
        if value["images"]
    ]
    return template.render(
        title=run,
        recipe=recipe.name,
        measure=describe_measure(result) if result["split"] else "nothing was measured: there are no test images",
        seed=result["seed"],
        expected=expected(recipe),
        readings=readings(recipe, result, names),
        differences=described_differences(recipe, result["source"]),
        facts=[*facts(result), *(remark.strip() for remark in remarks)],
        sections=sections,
        classes=counted[:HARDEST],
        all_classes=len(counted),
        counted=describe_images(result) if result["split"] else "",
        fields=assignments(recipe),
        longest=LONGEST_CAPTION,
    )
