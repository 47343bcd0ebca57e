"""Metrics in words and tables."""

from alexnet.metrics.counts import describe_images
from alexnet.report.text import describe_counts, describe_measure

CLASSES = {str(number): {"images": 4, "top1": 0.75} for number in range(10)}
RESULT = {
    "run": "a", "split": "test", "images": 40, "top1": 0.75, "top5": 0.9, "loss": 0.5, "views": 1,
    "per_class": {**CLASSES, "9": {"images": 0, "top1": None}}, "calibration_error": 0.0321,
    "confusion_matrix": [[3 * (true == said) + (true == 3 and said == 8) for said in range(10)] for true in range(10)],
    "confusions": [{"true": "3", "predicted": "8", "images": 2}, {"true": "1", "predicted": "7", "images": 1}],
}  # fmt: skip


def test_images_are_counted_in_words():
    assert describe_images(RESULT) == "40 test images"
    assert describe_images({**RESULT, "split": "unseen", "images": 4200}) == "4,200 unseen images"
    assert describe_images({**RESULT, "split": "val", "images": 1, "views": 10}) == "1 val image, ten views"


def test_top5_is_left_out_where_it_says_nothing():
    assert describe_measure(RESULT) == (
        "75.00% top-1 (95 % interval 59.8% – 85.8%), 90.00% top-5, loss 0.5000 on 40 test images"
    )
    few = {**RESULT, "per_class": {name: CLASSES[name] for name in "01234"}}
    assert describe_measure(few).endswith(" – 85.8%), loss 0.5000 on 40 test images")
    matrix = [row[:5] for row in RESULT["confusion_matrix"][:5]]
    header, row = describe_counts([{**few, "confusion_matrix": matrix}]).splitlines()[1:4:2]
    assert "top-5" not in header
    assert row.split() == ["a", "75.00%", "59.8%", "–", "85.8%", "0.5000", "3.21%"]


def test_counts_of_one_run():
    lines = describe_counts([RESULT]).splitlines()
    assert lines[0] == "on 40 test images"
    assert lines[3].split() == ["a", "75.00%", "59.8%", "–", "85.8%", "90.00%", "0.5000", "3.21%"]
    assert lines[5].split() == ["class", "top-1", "images"]
    assert lines[15].split() == ["8", "75.00%", "4"]
    assert lines[16] == "1 other class has no images here and no row above"
    assert lines[18] == "the most frequent mistakes"
    assert [line.split() for line in lines[21:23]] == [["3", "8", "2"], ["1", "7", "1"]]
    assert lines[24] == "confusion matrix: a row for each true class"
    assert lines[25].split() == list("0123456789")
    assert lines[30].split() == ["3", "3", "0", "0", "0", "3", "0", "0", "0", "0", "1", "0"]
    assert len(lines) == 37


def test_a_matrix_of_many_classes_is_not_for_a_terminal():
    many = {str(number): {"images": 1, "top1": 1.0} for number in range(21)}
    assert "confusion matrix" not in describe_counts([{**RESULT, "per_class": many}])


def test_classes_without_images_have_no_row():
    """As for 400 photographs of 400 of the 1,000 classes of ILSVRC."""
    per_class = {f"n{number:08}": {"images": int(number % 5 < 2), "top1": 1.0} for number in range(1000)}
    lines = describe_counts([{**RESULT, "per_class": per_class}, {**RESULT, "per_class": per_class}]).splitlines()
    assert sum(line.startswith("n0") for line in lines) == 400
    assert "600 other classes have no images here and no row above" in lines
    assert len(lines) < 430
    everywhere = {name: {"images": 1, "top1": 1.0} for name in per_class}
    assert "no images here" not in describe_counts([{**RESULT, "per_class": everywhere}])


def test_counts_of_several_runs_stand_side_by_side():
    best = {**RESULT, "run": "ensemble", "confusions": [], "per_class": {**CLASSES, "9": {"images": 4, "top1": 1.0}}}
    text = describe_counts([RESULT, best])
    assert "class       a  ensemble  images" in text
    assert "mistakes" not in text  # the last one makes none
    assert "confusion matrix (of the ensemble): a row for each true class" in text
