"""Trainings for segmentation: from a folder to masks, resumed to equal bits, counted exactly."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet import Predictor, evaluate, export, extract_features, plot, train, verify
from alexnet.api import predict
from alexnet.config import override
from alexnet.core.errors import StoppedError, UserError
from alexnet.core.tensors import digest_tensors
from alexnet.data.masks import IGNORED, decode_mask, encode_mask
from alexnet.data.prepared import open_or_prepare
from alexnet.data.sources import open_source
from alexnet.inference.segmentation import segment
from alexnet.metrics.segmentation import SegmentationMetrics, count_pixels, median_frequency_weights
from alexnet.models.bundle import load_model
from alexnet.recipes import get_recipe
from alexnet.report.build import rebuild
from alexnet.runtime.device import resolve_device
from alexnet.runtime.log import NullReporter
from alexnet.training.criterion import SegmentationLoss
from alexnet.training.segmentation import counted
from tests.segmentation_files import CLASSES, scene, write_segmentation

QUICK = {
    "model.width": 0.125, "data.resize_size": 48, "data.image_size": 48, "augment.crop": 48, "train.init": "none",
    "train.batch_size": 4, "train.epochs": 2, "train.precision": "fp32",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_segmentation(tmp_path_factory.mktemp("made") / "scenes")


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    return train(
        "segmentation", data=folder, out=tmp_path_factory.mktemp("run") / "run", overrides=QUICK, progress=False
    )


def test_a_folder_becomes_a_model_with_a_report(run, folder, tmp_path):
    result = run.result
    assert result["task"] == "segmentation" and result["split"] == "test" and result["images"] == 6
    assert set(result["per_class"]) == set(CLASSES)
    assert 0 <= result["mean_iou"] <= 1
    report = (run.folder / "report.md").read_text()
    assert "mean IoU" in report and "Intersection over union by class" in report
    rebuild(str(run.folder), tmp_path / "report.html", resolve_device("cpu"), NullReporter())
    page = (tmp_path / "report.html").read_text()
    assert "Masks" in page and "Confusion matrix" not in page
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert {"val_mean_iou", "val_pixel_accuracy", "train_pixel_accuracy"} <= lines[-1].keys()
    (metrics,) = evaluate(run.folder, progress=False)
    assert metrics.mean_iou == result["mean_iou"]


def test_a_stopped_training_continues_to_equal_bits(run, folder, tmp_path, monkeypatch):
    from alexnet.training import loop

    seen = []
    step = loop.Training.step

    def stop_once(self, batch):
        step(self, batch)
        seen.append(self.state.step)
        if len(seen) == 4:
            raise StoppedError("stopped", 143)

    monkeypatch.setattr(loop.Training, "step", stop_once)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    again = {"data": folder, "out": tmp_path / "run", "overrides": QUICK, "progress": False}
    with pytest.raises(StoppedError):
        train("segmentation", **again)
    resumed = train("segmentation", **again)
    assert seen[3:5] == [4, 4]  # the fourth step was done, not saved, and done again
    models = [load_model(each.folder).state_dict() for each in (run, resumed)]
    assert digest_tensors(models[0]) == digest_tensors(models[1])


def test_it_learns_what_is_to_be_seen(tmp_path):
    """Red squares and green bars: 120 steps with a narrow network."""
    folder = write_segmentation(tmp_path / "more", (("train", 48), ("val", 8), ("test", 16)))
    settings = {
        **QUICK, "model.width": 0.25, "train.batch_size": 8, "train.epochs": 20, "optim.lr": 0.003,
        "train.class_weights": "balanced",
    }  # fmt: skip
    found = train("segmentation", data=folder, out=tmp_path / "run", overrides=settings, progress=False).result
    assert found["mean_iou"] > 0.6


def test_predictions_are_masks_of_the_size_of_the_image(run, tmp_path):
    random = np.random.default_rng(5)
    wide = np.concatenate([scene(random)[0] for _ in range(3)], axis=1)
    Image.fromarray(wide).resize((216, 72)).save(tmp_path / "wide.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    good, bad = predict(run.folder, [str(tmp_path / "wide.png"), str(tmp_path / "bad.png")], out=tmp_path / "masks")
    assert sum(each["share"] for each in good["shares"]) == pytest.approx(1, abs=0.01)
    mask = decode_mask((tmp_path / "masks" / "wide.png").read_bytes())
    assert mask.shape == (72, 216) and mask.max() < len(CLASSES)
    with Image.open(good["overlay"]) as overlay:
        assert overlay.size == (216, 72)
    assert "error" in bad
    found = Predictor(run.folder).segment(tmp_path / "wide.png")
    np.testing.assert_array_equal(found.mask, mask)


def test_an_image_of_the_prepared_size_is_predicted_as_it_is_counted(run, folder):
    predictor, dataset = (
        Predictor(run.folder, "cpu", "fp32"),
        open_or_prepare(open_source(str(folder), annotations="masks")),
    )
    index = dataset.subset("test")
    metrics = SegmentationMetrics(len(CLASSES))
    for rows in counted(predictor.model, dataset, index, predictor.device_config):
        metrics.add(rows)
    matrix = np.zeros((3, 3), np.int64)
    for pixels, true in zip(dataset.read(index), dataset.read_masks(index), strict=True):
        predicted = segment(predictor, pixels).mask
        np.add.at(matrix, (true[true != IGNORED], predicted[true != IGNORED]), 1)
    np.testing.assert_array_equal(metrics.matrix, matrix)


def test_counts_follow_from_the_formulas():
    random = torch.Generator().manual_seed(0)
    scores = torch.randn(5, 4, 7, 6, generator=random).log_softmax(1)
    masks = torch.randint(0, 4, (5, 7, 6), generator=random)
    masks[masks == 3] = IGNORED
    scores[4, 0, 0, 0] = torch.nan
    metrics = SegmentationMetrics(4)
    for part in (slice(0, 2), slice(2, 5)):
        metrics.add(count_pixels(scores[part], masks[part]))
    predicted = scores.argmax(1)
    predicted[4] = (torch.where(masks[4] == IGNORED, 0, masks[4]) + 1) % 4
    labelled = masks != IGNORED
    ious = []
    for c in range(4):
        both = ((predicted == c) & (masks == c)).sum()
        either = (((predicted == c) & labelled) | (masks == c)).sum()
        ious.append(float(both / either))
    np.testing.assert_allclose(metrics.iou, ious)
    assert metrics.mean_iou == pytest.approx(np.mean(ious))
    assert metrics.pixel_accuracy == pytest.approx(float((predicted == masks)[labelled].float().mean()))
    assert metrics.not_finite == 1
    losses = [
        -scores[i].permute(1, 2, 0)[labelled[i]].gather(1, masks[i][labelled[i]][:, None]).mean() for i in range(4)
    ]
    assert metrics.loss == pytest.approx(float(sum(losses) / 4), rel=1e-6)


def test_classes_have_median_frequency_weights():
    """Eigen and Fergus 2015: two images of 10 pixels; class 1 is in one of them only, class 3 in none."""
    pixels, labelled = np.array([14, 4, 2, 0]), np.array([20, 10, 10, 0])
    frequencies = [0.7, 0.4, 0.2]
    expected = [*(0.4 / each for each in frequencies), 0.0]
    np.testing.assert_allclose(median_frequency_weights(pixels, labelled), expected, rtol=1e-6)


def test_the_loss_of_a_batch_is_the_mean_of_those_of_its_parts():
    criterion = SegmentationLoss(torch.tensor([0.3, 1.0, 2.0], dtype=torch.float64), 0.1)
    scores, masks = torch.randn(5, 3, 6, 6, dtype=torch.float64), torch.randint(0, 3, (5, 6, 6))
    masks[2] = IGNORED
    whole, _ = criterion.measure(scores, masks)
    parts = [slice(0, 2), slice(2, 5)]
    summed = sum(criterion.measure(scores[p], masks[p])[0] * criterion.share(masks[p], masks) for p in parts)
    torch.testing.assert_close(summed, whole, rtol=1e-12, atol=0)
    assert criterion.measure(scores[2:3], masks[2:3])[1] == 1


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda f: (f / "classes.txt").unlink(), "has no classes.txt"),
        (lambda f: (f / "classes.txt").write_text("a\na\nb\n"), "expected one class name a line"),
        (lambda f: (f / "classes.txt").write_text("one\n"), "1 classes: segmentation needs 2 to 255"),
        (lambda f: [m.unlink() for m in f.glob("*/masks/*")], "no image with its annotation"),
        (lambda f: (f / "test").rename(f / "testing_set"), None),
        (lambda f: (f / "val").rename(f / "test1"), "has two folders for test"),
        (lambda f: (f / "train" / "masks").rename(f / "train" / "labels"), "has images/ and no masks/"),
        (lambda f: Image.new("P", (9, 9)).save(f / "train/masks/000.png"), None),
    ],
)
def test_a_folder_that_is_not_right_costs_one_line(change, line, tmp_path):
    folder = write_segmentation(tmp_path / "scenes", (("train", 6), ("val", 2), ("test", 2)))
    change(folder)
    if line is None:
        dataset = open_or_prepare(open_source(str(folder), annotations="masks"), 48)
        refused = [item["reason"] for item in dataset.meta["refused"]]
        assert refused in ([], ["is 48 × 48 pixels, and its mask 9 × 9"])
        return
    with pytest.raises(UserError) as error:
        open_or_prepare(open_source(str(folder), annotations="masks"), 48)
    assert line in str(error.value)


def test_the_layout_of_pascal_voc_is_read(tmp_path):
    root = tmp_path / "VOC2012"
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / part).mkdir(parents=True)
    random = np.random.default_rng(0)
    names = [f"2007_{number:06d}" for number in range(5)]
    for name in names:
        pixels, mask = scene(random)
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{name}.jpg", quality=95)
        (root / "SegmentationClass" / f"{name}.png").write_bytes(encode_mask(np.where(mask, 15, 0).astype(np.uint8)))
    (root / "JPEGImages" / "2007_000099.jpg").write_bytes((root / "JPEGImages" / f"{names[0]}.jpg").read_bytes())
    lists = root / "ImageSets" / "Segmentation"
    (lists / "train.txt").write_text("\n".join(names[:3]) + "\n")
    (lists / "val.txt").write_text("\n".join(names[3:]) + "\n")
    dataset = open_or_prepare(open_source(str(root), annotations="masks"), 48)
    assert dataset.classes[15] == "person" and len(dataset.classes) == 21
    assert len(dataset.subset("train")) == 3 and len(dataset.subset("test")) == 2
    assert "so the images of val.txt are the test images" in dataset.meta["warnings"][0]


def test_a_recipe_of_another_task_is_refused_by_name(folder, tmp_path):
    with pytest.raises(UserError, match=r"augment.rotation=0"):
        train("segmentation", data=folder, out=tmp_path / "a", overrides={**QUICK, "augment.rotation": 5.0})
    with pytest.raises(UserError, match="has a class for each image and no masks"):
        train("segmentation", data="digits", out=tmp_path / "b", overrides=QUICK)
    recipe = override(get_recipe("segmentation"), QUICK)
    assert recipe.model.task == "segmentation" and replace(recipe.model, head="classifier").task == "classification"


def test_a_model_is_exported_to_onnx_and_checked_there(run, tmp_path):
    exported = export(run.folder, tmp_path / "model.onnx", "onnx", progress=False)
    assert exported.check.difference < 1e-5 and exported.check.same_top5 == 1 and not exported.check.failure
    with pytest.raises(UserError, match="cannot be exported to caffe: choose onnx"):
        export(run.folder, tmp_path / "model.caffemodel", "caffe", progress=False)


def test_other_commands_know_what_the_model_is_for(run, folder, tmp_path):
    features = extract_features(run.folder, folder / "test" / "images", "conv1,relu5", tmp_path / "f", progress=False)
    assert features["relu5"].shape[0] == 6
    with pytest.raises(UserError, match="unknown layer"):
        extract_features(run.folder, folder / "test" / "images", "score", tmp_path / "g", progress=False)
    with pytest.raises(UserError, match="is a model for segmentation: verify knows"):
        verify(run.folder, progress=False)
    with pytest.raises(UserError, match="does not give an image a class"):
        Predictor(run.folder)(np.zeros((48, 48, 3), np.uint8))
    with pytest.raises(UserError, match="confusion is a plot of models for classification"):
        plot("confusion", run)
    assert plot("masks", run).axes
