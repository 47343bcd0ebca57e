"""Training curves: what is plotted is what was recorded, and the expected band only where the claim applies."""

from dataclasses import replace

import pytest
from matplotlib.axes import Axes
from PIL import Image

from alexnet.config import override
from alexnet.core.files import write_json
from alexnet.plots.curves import CurvesFile, History, plot_curves, read_history
from alexnet.recipes import get_recipe
from alexnet.runtime.run import start_or_continue

LINES = (
    '{"step": 5, "epoch": 0.5, "loss": 2.3, "accuracy": 0.1, "lr": 0.01}\n'
    '{"step": 10, "epoch": 1.0, "loss": 2.3, "accuracy": 0.2, "lr": 0.01}\n'
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
    CurvesFile(recipe).write(run, RESULT)
    assert drawn == ([recipe.claim.top1] if band else [])
    with Image.open(run.folder / "curves.png") as picture:
        assert picture.size[0] > 1000


def test_an_empty_training_can_be_drawn(tmp_path):
    recipe = get_recipe("small-digits")
    run = start_or_continue(tmp_path / "run", recipe, 0, "digits", "d1")
    (run.folder / "metrics.jsonl").write_text("", encoding="utf-8")
    CurvesFile(recipe)(run)
    assert (run.folder / "curves.png").stat().st_size > 1000


def overfitting(name: str) -> History:
    """A made run whose training accuracy runs ahead of its validation accuracy."""
    steps = range(10, 60, 10)
    lines = [{"step": s, "epoch": s / 10, "loss": 2 - s / 30, "accuracy": s / 55, "lr": 0.1} for s in steps]
    ends = [
        {"step": s, "epoch": s // 10, "train_loss": 1.0, "train_top1": s / 55, "val_loss": 1 + s / 50, "val_top1": 0.4}
        for s in steps
    ]
    return History(name, [*lines, *ends], {s: 100.0 + s for s in steps}, (0.5, 0.6), {**RESULT, "kept_epoch": 5})


def test_what_is_drawn_is_what_was_written():
    loss, accuracy, lr, speed = plot_curves([overfitting("one")]).figure.axes
    drawn = {line.get_label(): line.get_xydata().tolist() for line in accuracy.get_lines()}
    assert drawn["train"] == [[s, s / 55] for s in range(10, 60, 10)]
    assert drawn["val"] == [[s, 0.4] for s in range(10, 60, 10)]
    assert drawn["test, final: 20.00%"] == [[50, 0.2]]
    assert speed.get_lines()[0].get_xydata().tolist() == [[s, 100 + s] for s in range(10, 60, 10)]
    assert lr.get_ylim()[1] > 0.1
    labels = [axes.get_ylabel() for axes in (loss, accuracy, lr, speed)]
    assert labels == ["loss (nats)", "accuracy", "learning rate", "images/s"]
    assert {axes.get_xlabel() for axes in (loss, accuracy, lr, speed)} == {"step"}


def test_several_runs_lie_over_each_other_in_colours_of_their_own():
    picture = plot_curves([overfitting("one"), overfitting("two")])
    colours = [line.get_color() for line in picture.figure.axes[1].get_lines()]
    assert len(set(colours[:3])) == len(set(colours[3:])) == 1
    assert colours[0] != colours[3]
    assert list(picture.values) == ["one", "two"]
    values = picture.values["one"]
    assert (values["steps"], values["images_per_second"], values["final"]["top1"]) == (50, 130, 0.2)
    assert values["loss"] == [2 - 1 / 3, pytest.approx(1 / 3)]
    (legend,) = picture.figure.legends
    written = [text.get_text() for text in legend.get_texts()]
    assert written[:2] == ["one, test 20.00%", "two, test 20.00%"]
    assert {"train", "val", "final evaluation"} < set(written)
    assert "test" not in written  # no run has a test curve
    assert "one: training loss from 1.67 to 0.33 in 50 steps, test accuracy 20.00% (final)" in picture.caption


def test_a_training_of_one_step_has_a_point():
    line = {"step": 1, "epoch": 1, "loss": 0.7, "accuracy": 0.5, "lr": 0.1}
    picture = plot_curves([History("one", [line], {1: 5.0})])
    for axes in picture.figure.axes:
        assert axes.get_lines()[0].get_marker() == "o"
    assert picture.caption.endswith("in 1 step")


def steady(name, loss, count, **more):
    lines = [{"step": s, "epoch": 1, "loss": loss, "accuracy": 0.5, "lr": 0.1, **more} for s in range(1, count)]
    return History(name, lines, {})


def test_a_loss_far_above_all_others_does_not_flatten_them():
    quiet = steady("one", 1.0, 100)
    axes = plot_curves([replace(quiet, metrics=[{**quiet.metrics[0], "loss": 812.0}, *quiet.metrics])]).figure.axes[0]
    assert axes.get_ylim()[1] < 12
    assert axes.get_ylabel() == "loss (nats), axis cut; highest 812"


def test_a_fall_from_guessing_a_short_run_and_a_validation_loss_are_seen_whole():
    falling = [{**line, "loss": 2.3 * 0.97 ** line["step"]} for line in steady("one", 1.0, 2000).metrics]
    end = {"step": 1999, "epoch": 1, "train_loss": 0.1, "train_top1": 0.9, "val_loss": 60.0, "val_top1": 0.4}
    for runs, highest in (
        ([History("one", falling, {})], 2.2),
        ([steady("one", 0.2, 1000), steady("other", 30.0, 40)], 30.0),
        ([History("one", [*steady("one", 0.2, 1000).metrics, end], {})], 60.0),
    ):
        axes = plot_curves(runs).figure.axes[0]
        assert axes.get_ylim()[1] > highest
        assert axes.get_ylabel() == "loss (nats)"


@pytest.mark.parametrize("count", [2, 8])
def test_panels_keep_their_place_beside_a_long_legend(count):
    picture = plot_curves([overfitting(f"a run with a long name, the one of number {n}") for n in range(count)])
    picture.encode()  # lays it out; a warning would be an error
    widths = [axes.get_position().width for axes in picture.figure.axes]
    assert min(widths) > 0.3
    assert len({line.get_color() for line in picture.figure.axes[2].get_lines()}) == count


def test_speeds_are_read_from_the_events(tmp_path):
    recipe = get_recipe("small-digits")
    run = start_or_continue(tmp_path / "run", recipe, 0, "digits", "d1")
    (run.folder / "metrics.jsonl").write_text(LINES, encoding="utf-8")
    events = '{"event": "speed", "step": 5, "images_per_second": 7.0}\n{"event": "resume", "step": 5}\n'
    (run.folder / "events.jsonl").write_text(events, encoding="utf-8")
    assert read_history(run, recipe).speeds == {5: 7.0}


def test_the_learning_rate_is_read_under_its_name_of_earlier_versions():
    now = steady("one", 1.0, 5)
    earlier = replace(now, metrics=[{**line, "rate": line["lr"]} for line in now.metrics])
    for line in earlier.metrics:
        del line["lr"]
    plotted = [plot_curves([run]).figure.axes[2].get_lines()[0].get_xydata().tolist() for run in (now, earlier)]
    assert plotted[0] == plotted[1] == [[step, 0.1] for step in range(1, 5)]
    assert plot_curves([earlier]).values["one"]["lr"] == [0.1, 0.1]
