"""Sets that nobody would make on purpose: names that are no names, very many classes, files that change meanwhile."""

import io
import json
import os
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from alexnet import train
from alexnet.cli.main import main as cli
from alexnet.data.prepared import open_or_prepare
from alexnet.data.sources import open_source
from alexnet.inference.predictor import Predictor

NAMES = ["a\nb", "\u202egod", "-rf", "a b", "$(touch x)", "<b>bold", "|", "…" * 80, "é", "CON"]
SHOWN = {"a\nb": "a\\nb", "\u202egod": "\\u202egod"}  # all others as they are

pytestmark = pytest.mark.usefixtures("one_thread")


def pixels(seed):
    return np.random.default_rng(seed).integers(0, 256, (10, 10, 3), dtype=np.uint8)


def encoded(seed):
    buffer = io.BytesIO()
    Image.fromarray(pixels(seed)).save(buffer, "PNG")
    return buffer.getvalue()


def fill(root, names, each=4):
    for label, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for number in range(each):
            (root / name / f"{number}.png").write_bytes(encoded(100 * label + number))
    return root


@pytest.fixture(scope="module")
def odd_names(tmp_path_factory):
    root = tmp_path_factory.mktemp("odd")
    names = [*NAMES, os.fsdecode(b"\xff\xfe")]
    changes = [
        "train.epochs=1",
        "data.image_size=16",
        "augment.crop=none",
        "data.resize_size=16",
        "train.precision=fp32",
    ]
    return train("photos-small", data=fill(root / "set", names), out=root / "run", overrides=changes)


def test_class_names_are_shown_on_one_line(odd_names, capsys):
    expected = {SHOWN.get(name, name) for name in NAMES} | {"\\xff\\xfe"}
    document = json.loads((odd_names.model_folder / "model.json").read_text(encoding="utf-8"))
    assert set(document["classes"]) == expected
    image = odd_names.folder.parent / "set" / "-rf" / "0.png"
    assert cli(["predict", str(odd_names.folder), str(image), "--top-k", "99"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(expected)
    assert all(any(line.endswith(name) for line in lines) for name in expected)
    report = (odd_names.folder / "report.md").read_text(encoding="utf-8")
    assert "\u202e" not in report
    assert not (odd_names.folder / "x").exists()


def test_odd_names_in_a_tar(tmp_path):
    long = "n" * 300
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        for label, name in enumerate(["a\nb", long, "..", "../up", "b/../../up", "/root", "\u202egod"]):
            for number in range(2):
                member = tarfile.TarInfo(f"{name}/{number}.png")
                data = encoded(10 * label + number)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    source = open_source(str(tmp_path / "set.tar"))
    assert set(source.classes) == {"a\\nb", long, "\\u202egod"}
    dataset = open_or_prepare(source, 10)
    assert len(dataset.targets) == 6
    assert not (tmp_path.parent / "up").exists()


def test_100_000_classes(make_store, tmp_path, small_recipe, cpu):
    """One image in each: a network of that many outputs is trained, measured and asked."""
    count = 100_000
    images = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 1), dtype=np.uint8)
    classes = tuple(f"class {number}" for number in range(count))
    splits = ["test" if number % 1000 == 0 else "train" for number in range(count)]
    dataset = make_store(images, list(range(count)), splits, classes, "many")
    run = train_on(dataset, tmp_path / "run", small_recipe)
    assert run.result["images"] == 100
    assert 0 <= run.result["top1"] <= run.result["top5"] <= 1
    assert len(run.result.get("confusions", [])) <= 100
    found = Predictor(run.model_folder, cpu)(encoded(0))
    assert len(found) == 5
    assert all(item.name.startswith("class ") for item in found)


def train_on(dataset, folder, recipe):
    """A few steps of a recipe on a store, concluded as the command does it."""
    from alexnet.config import override
    from alexnet.core.files import write_json
    from alexnet.runtime.device import resolve_device
    from alexnet.runtime.log import NullReporter
    from alexnet.runtime.run import start_or_continue
    from alexnet.training.finalize import finalize
    from alexnet.training.loop import Training

    recipe = override(recipe, ["train.epochs=1", "train.steps=3", "train.batch_size=32"])
    run = start_or_continue(folder, recipe, 0, dataset.name, dataset.digest)
    training = Training(recipe, dataset, run, 0, resolve_device("cpu", "fp32"), NullReporter())
    result = finalize(training, training.fit(lambda run: None), 1.0)
    write_json(folder / "result.json", result)
    return run


@pytest.fixture
def changing(tmp_path):
    """A set, and what happens to it when the first of its images are prepared."""
    root = fill(tmp_path / "set", ["cat", "dog"], each=300)

    happened = []

    def happen(done, total):
        if not happened:
            happened.append(done)
            shutil.copy(root / "cat" / "0.png", root / "cat" / "new.png")
            (root / "dog" / "299.png").unlink()
            (root / "dog" / "298.png").write_bytes(encoded(999))
            (root / "dog" / "297.png").write_bytes(b"now it is text")

    return root, happen


def test_a_set_that_changes_while_it_is_prepared_is_prepared_anew_the_next_time(changing):
    root, happen = changing
    first = open_or_prepare(open_source(str(root)), progress=happen, workers=1)
    refused = {item["name"] for item in first.meta["refused"]}
    assert refused == {"dog/299.png", "dog/297.png"}  # what it found when it came to them
    assert len(first.targets) == 598
    again = open_or_prepare(open_source(str(root)))
    assert again.path != first.path
    assert {item["name"] for item in again.meta["refused"]} == {"dog/297.png"}
    assert len(again.targets) == 599  # 600, one more, one gone, one that is text now
