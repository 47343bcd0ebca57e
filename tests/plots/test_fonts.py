"""Letters of every script: drawn if an installed font has them, else named in one line with the package to install."""

import unicodedata
import warnings

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.font_manager import fontManager

from alexnet.plots import canvas
from alexnet.plots.confusion import plot_confusion

CHINESE, JAPANESE, KOREAN = "猫 狗", "ねこ カナ", "고양이"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs a font whose glyphs are squares, for these letters, in a folder that matplotlib has not listed yet."""

    def make(letters, family="Test Sans"):
        pen = TTGlyphPen(None)
        for place in ((0, 0), (0, 700), (700, 700), (700, 0)):
            (pen.lineTo if place != (0, 0) else pen.moveTo)(place)
        pen.closePath()
        square, names = pen.glyph(), {ord(letter): f"u{ord(letter):X}" for letter in letters}
        builder = FontBuilder(1000, isTTF=True)
        builder.setupGlyphOrder([".notdef", *names.values()])
        builder.setupCharacterMap(names)
        builder.setupGlyf(dict.fromkeys([".notdef", *names.values()], square))
        builder.setupHorizontalMetrics(dict.fromkeys([".notdef", *names.values()], (800, 0)))
        builder.setupHorizontalHeader(ascent=800, descent=-200)
        builder.setupNameTable({"familyName": family, "styleName": "Regular"})
        builder.setupOS2(sTypoAscender=800, usWeightClass=400)
        builder.setupPost()
        path = tmp_path / f"{family}.ttf"
        builder.save(path)
        files.append(str(path))
        forget()
        return path

    files = []
    caches = (canvas._all_families, canvas._letters_of)  # a test may replace them

    def forget():
        for cache in caches:
            cache.cache_clear()

    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda *given, **named: list(files))
    monkeypatch.setattr(fontManager, "ttflist", list(fontManager.ttflist))
    forget()
    yield make
    forget()


def draw(*names):
    return plot_confusion(np.eye(len(names), dtype=np.int64), list(names), "t")


def boxes(picture, tmp_path):
    """The letters for which matplotlib itself warns that no font has them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        picture.figure.savefig(tmp_path / "a.png")
    texts = [str(each.message) for each in caught]
    return {chr(int(text.split()[1])) for text in texts if text.startswith("Glyph ")}


@pytest.mark.parametrize("name", [CHINESE, JAPANESE, KOREAN])
def test_letters_are_drawn_with_any_font_that_has_them(name, install, tmp_path):
    install(name[:1], "First Sans")
    install(name, "Second Serif")
    picture = draw(name, "cat")
    assert boxes(picture, tmp_path) == set()
    assert canvas.missing_glyphs_note([picture.figure, picture.narrow()]) == ""


@pytest.mark.parametrize(("name", "package"), [
    (CHINESE, "fonts-noto-cjk"), (JAPANESE, "fonts-noto-cjk"), (KOREAN, "fonts-noto-cjk"),
    ("\U00012000", "fonts-noto-core"), ("ไทย", "fonts-noto-core"),
])  # fmt: skip
def test_letters_without_a_font_are_named_with_the_package(name, package, install, tmp_path, monkeypatch):
    monkeypatch.setattr(canvas, "_all_families", list)
    monkeypatch.setattr(canvas, "_installed_fonts", lambda: ["DejaVu Sans"])
    picture = draw(name, "cat")
    missing = boxes(picture, tmp_path)
    assert missing == set(name) - {" "}
    note = canvas.missing_glyphs_note([picture.figure])
    assert note.startswith(f"note: no installed font has {''.join(sorted(missing))}: shown as boxes in the plot; ")
    assert f"install the package {package} (" in note
    assert "\n" not in note


def test_a_korean_name_in_parts_is_drawn_as_syllables(install, tmp_path):
    install(KOREAN)
    parts = unicodedata.normalize("NFD", KOREAN)  # as macOS names files
    assert parts != KOREAN
    picture = draw(parts, "cat")
    assert boxes(picture, tmp_path) == set()
    assert canvas.missing_glyphs_note([picture.figure]) == ""


def test_text_that_the_usual_font_has_looks_for_no_other(monkeypatch):
    monkeypatch.setattr(canvas, "_all_families", None)  # it would fail
    assert canvas.missing_glyphs_note([draw("кот", "½ ✓ é").figure]) == ""
