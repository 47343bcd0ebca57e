"""The picture of a training: written whole, with the claim's band only where the claim applies."""

import pytest
from matplotlib.axes import Axes
from PIL import Image

from alexnet.config import override
from alexnet.core.files import write_json
from alexnet.recipes import get_recipe
from alexnet.runtime.run import start_or_continue
from alexnet.visualize.curves import CurveDrawer

LINES = (
    '{"step": 5, "epoch": 0.5, "loss": 2.3, "accuracy": 0.1, "rate": 0.01}\n'
    '{"step": 10, "epoch": 1.0, "loss": 2.3, "accuracy": 0.2, "rate": 0.01}\n'
    '{"step": 10, "epoch": 1, "train_loss": 2.3, "train_top1": 0.15, "val_loss": 2.3, "val_top1": 0.2}\n'
)
RESULT = {"split": "test", "top1": 0.2, "kept_epoch": 1}


@pytest.mark.parametrize(("changes", "band"), [([], True), (["train.epochs=1"], False)])
def test_the_band_is_drawn_for_the_recipe_as_it_is_named(tmp_path, monkeypatch, changes, band):
    drawn = []
    monkeypatch.setattr(Axes, "axhspan", lambda axes, *given, **style: drawn.append(given))
    recipe = override(get_recipe("small-digits"), changes)
    run = start_or_continue(tmp_path / "run", recipe, 0, "digits", "d1")
    (run.folder / "metrics.jsonl").write_text(LINES, encoding="utf-8")
    write_json(run.folder / "result.json", RESULT)
    CurveDrawer(recipe).draw(run, RESULT)
    assert drawn == ([recipe.claim.top1] if band else [])
    with Image.open(run.folder / "curves.png") as picture:
        assert picture.size[0] > 1000


def test_an_empty_training_can_be_drawn(tmp_path):
    recipe = get_recipe("small-digits")
    run = start_or_continue(tmp_path / "run", recipe, 0, "digits", "d1")
    (run.folder / "metrics.jsonl").write_text("", encoding="utf-8")
    CurveDrawer(recipe)(run)
    assert (run.folder / "curves.png").stat().st_size > 1000
