"""Weights of a run become weights of the package: rounded, with a card, and found by their name."""

import pytest

from alexnet import load_model, train
from alexnet.core.errors import UserError
from alexnet.core.files import read_json
from alexnet.weights import zoo
from alexnet_lab import trunks


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An empty folder of included weights."""
    place = tmp_path / "included"
    monkeypatch.setattr(zoo, "INCLUDED", place)
    zoo.included_weights.cache_clear()
    yield place
    zoo.included_weights.cache_clear()


def test_the_weights_of_a_run_are_included(package, tmp_path, home, monkeypatch, capsys):
    overrides = {"train.steps": 4, "model.width": 0.125}
    run = train("small-digits", out=tmp_path / "run", overrides=overrides, device="cpu", progress=False)
    words = [str(run.folder), "--name", "small/digits", "--storage", "int8"]
    monkeypatch.setattr(trunks, "check_clean", lambda commit, what: "abc")
    monkeypatch.setattr(trunks, "LIMIT", 1000)
    assert trunks.main(words) == 2
    assert "bytes, which is more than 1,000" in capsys.readouterr().err
    assert not [*package.glob("*")]
    monkeypatch.setattr(trunks, "LIMIT", 10**6)
    assert trunks.main(words) == 0
    folder = package / "small-digits"
    assert {path.name for path in folder.iterdir()} == {"model.json", "model.safetensors", "card.json", "README.md"}
    card = zoo.included_weights()["small/digits"]
    assert (card.variant, card.recipe, card.seed, card.commit) == ("small", "small-digits", 0, "abc")
    assert read_json(folder / "card.json")["measured"] == "the centre of each of 360 test images, 10 classes"
    assert zoo.is_weights_name("small/digits")
    assert load_model("small/digits").num_classes == 10
    assert "Do not quote an accuracy" in (folder / "README.md").read_text(encoding="utf-8")


def test_a_run_of_a_changed_checkout_is_refused(package, tmp_path, home, monkeypatch):
    run = train(
        "small-digits", out=tmp_path / "run", overrides={"train.steps": 2, "model.width": 0.125}, device="cpu",
        progress=False,
    )  # fmt: skip
    description = {**run.description, "commit": "abc-changed"}
    monkeypatch.setattr(type(run), "description", property(lambda self: description))
    with pytest.raises(UserError, match="needs a clean checkout"):
        trunks.include(run, "small/digits")
