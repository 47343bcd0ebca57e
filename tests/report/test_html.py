"""The report as a page: one file, no network, its text escaped; in a real browser it loads, is quiet and prints."""

import base64
import io
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet import train
from alexnet.config import override
from alexnet.plots.confusion import plot_confusion
from alexnet.recipes import get_recipe
from alexnet.report.html import as_webp, left_out, render, section

CLASSES = {f"<b>{number}</b> & more": {"images": 4, "top1": number / 10} for number in range(10)}
RESULT = {
    "split": "test", "kept_epoch": 3, "images": 40, "top1": 0.75, "top5": 0.9, "loss": 0.5, "views": 1,
    "per_class": CLASSES, "seed": 0,
    "source": "digits", "splits": {"train": 1437, "val": 0, "test": 40}, "steps": 460, "seconds": 8.0,
    "images_per_second": 3800.0, "matrix_gflops": 800.0,
    "hardware": {"hardware": "a chip", "device": "cpu", "precision": "fp32", "torch": "2.11", "python": "3.11"},
}  # fmt: skip


class Outline(HTMLParser):
    """What a screen reader hears first: tags, their attributes, and what refers to what."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids |= {value for name, value in attrs if name == "id"}

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def page(result=RESULT, sections=None):
    picture = plot_confusion(np.eye(3, dtype=np.int64), ["a", "b", "<i>"], "three <classes>")
    sections = sections or [section("Confusion matrix", picture), left_out("Not here", "no <library>")]
    return render(
        get_recipe("small-digits"), result, sections, ["2 files <refused>"], {"<b>9</b> & more": "nine"}, "my <run>"
    )


def test_a_page_is_one_file_and_what_came_from_outside_is_text():
    text = page()
    assert "<b>" not in text
    assert "&lt;b&gt;0&lt;/b&gt; &amp; more" in text
    assert "Not shown: no &lt;library&gt;." in text
    assert "2 files &lt;refused&gt;" in text
    assert "<td>nine</td>" in text
    assert "<h1>my &lt;run&gt;</h1>" in text
    assert "Recipe small-digits, seed 0." in text
    assert "differs from the recipe" not in text
    addresses = re.findall(r'(?:src|srcset|href)="([^"]*)"', text)
    assert len(addresses) == 3  # the page's mark, a picture, and the same for phones
    assert all(address.startswith("data:") for address in addresses)
    assert "http" not in re.sub(r"data:[^\"]*", "", text)


def test_a_page_names_the_differences_from_the_recipe():
    recipe = override(get_recipe("small-digits"), ["train.epochs=3"])
    text = render(recipe, RESULT, [left_out("Not here", "nothing")], [], {}, "run")
    assert "This training differs from the recipe of that name: train.epochs 20 → 3." in text


def test_a_page_has_the_same_pixels_in_fewer_bytes():
    picture = plot_confusion(np.eye(3, dtype=np.int64), ["a", "b", "c"], "three")
    png = picture.encode()
    assert len(as_webp(png)) < len(png)
    one, same = (np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in (png, as_webp(png)))
    assert np.array_equal(one, same)


def test_a_page_of_photographs_does_not_weigh_what_noise_does():
    noise, png = np.random.default_rng(0).integers(0, 256, (600, 600, 3)).astype(np.uint8), io.BytesIO()
    Image.fromarray(noise).save(png, "png")
    webp = as_webp(png.getvalue())
    assert len(webp) < 0.6 * len(png.getvalue())
    with Image.open(io.BytesIO(webp)) as image:
        assert image.size == (600, 600)


def test_a_long_caption_is_folded_and_still_what_describes_the_picture():
    picture = plot_confusion(np.eye(3, dtype=np.int64), ["a" * 300, "b" * 300, "c"], "t" * 600)
    text = page(sections=[section("Much", picture)])
    assert "<summary>Description</summary>" in text
    assert Outline(text).all("img")[0]["aria-describedby"] in Outline(text).ids
    assert "<summary>" not in page()


def test_a_page_can_be_heard():
    outline = Outline(page())
    assert outline.all("html") == [{"lang": "en"}]
    assert [len(outline.all(tag)) for tag in ("title", "h1", "main")] == [1, 1, 1]
    for image in outline.all("img"):
        assert image["alt"]
        with Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))) as picture:
            assert picture.size == (int(image["width"]), int(image["height"]))
        assert image["aria-describedby"] in outline.ids
    assert all(section["aria-labelledby"] in outline.ids for section in outline.all("section"))
    assert all(head["scope"] == "col" for head in outline.all("th"))
    assert any(meta.get("name") == "viewport" for meta in outline.all("meta"))


def test_the_hardest_classes_come_first_and_not_a_thousand():
    many = {f"class {number}": {"images": 1, "top1": number / 1000} for number in range(1000)}
    text = page({**RESULT, "per_class": many})
    assert "The 30 classes of 1000 with the lowest accuracy" in text
    assert re.findall(r"<td>(class \d+)</td>", text) == [f"class {number}" for number in range(30)]


def test_a_training_without_test_images_has_a_page_too():
    text = page({**RESULT, "split": None, "per_class": {}})
    assert "not evaluated: there are no test images" in text
    assert "Accuracy by class" not in text


def resize(browser, width):
    """The screen of a phone or of a desk."""
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


@pytest.mark.report
def test_the_report_in_a_browser(tmp_path):
    """A real training's, in headless Chromium: nothing on the console, every picture loads, and it prints."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("no browser: apt install chromium chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.common.by import By

    trained = train("small-digits", out=tmp_path / "run", overrides=["train.epochs=2", "model.width=0.25"])
    report = trained.folder / "report.html"
    assert report.stat().st_size > 100_000
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run",
                     "disable-background-networking", "disable-component-update", "disable-sync",
                     f"user-data-dir={tmp_path / 'profile'}"):  # fmt: skip
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    with webdriver.Chrome(options=options, service=service) as browser:
        browser.get(report.as_uri())
        assert browser.title == "run: a training of AlexNet"
        images = browser.find_elements(By.TAG_NAME, "img")
        assert len(images) == 11
        assert all(browser.execute_script("return arguments[0].naturalWidth", image) > 200 for image in images)
        assert browser.get_log("browser") == []
        assert "Not shown" not in browser.find_element(By.TAG_NAME, "main").text
        grounds, layouts = set(), set()
        for width, scheme in ((360, "light"), (360, "dark"), (1200, "light")):  # no page scrolls sideways
            resize(browser, width)
            media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
            assert browser.execute_script("return window.innerWidth") == width
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width
            shown = [browser.execute_script("return arguments[0].currentSrc.length", image) for image in images]
            layouts.add((width, *shown))
            ground = "return getComputedStyle(document.body).backgroundColor"
            grounds.add((scheme, browser.execute_script(ground)))
        assert len(grounds) == 2
        phone, desk = sorted(layouts)
        assert all(one != other for one, other in zip(phone[1:], desk[1:], strict=True))
        printed = base64.b64decode(browser.print_page())
        assert printed.startswith(b"%PDF")
        assert len(printed) > 50_000


@pytest.mark.report
def test_a_report_that_fails_is_a_warning(tmp_path, monkeypatch):
    from alexnet.report import build as report

    class Listener:
        def __init__(self):
            self.said = []

        def log(self, text):
            self.said.append(text)

        def begin(self, *given, **more): ...
        def advance(self, *given, **more): ...
        def finish(self): ...

    def fail(*given):
        raise MemoryError("no room for pictures")

    monkeypatch.setattr(report, "make_page", fail)
    listener = Listener()
    trained = train(
        "small-digits", out=tmp_path / "run", overrides=["train.epochs=1", "model.width=0.25"], reporter=listener
    )
    assert trained.finished
    assert trained.result["top1"] > 0
    assert not Path(trained.folder / "report.html").exists()
    assert [text for text in listener.said if text.startswith("warning: no report.html: MemoryError: no room")]
