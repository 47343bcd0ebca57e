"""Trainings for detection: from a folder to boxes, resumed to equal bits, measured as by hand."""

import csv
import io
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet import Predictor, evaluate, export, extract_features, plot, train, verify
from alexnet.api import plan as plan_devices
from alexnet.api import plan_training, predict
from alexnet.cli.main import main
from alexnet.core.errors import StoppedError, UserError
from alexnet.core.tensors import digest_tensors
from alexnet.inference.detection import detect
from alexnet.metrics.detection import DetectionMetrics
from alexnet.models.bundle import load_model
from alexnet.report.build import rebuild
from alexnet.report.text import describe_measure
from alexnet.runtime.device import resolve_device
from alexnet.runtime.log import NullReporter
from alexnet.training.detection import pack_detections, random_numbers, unpack_detections
from tests.detection_files import CLASSES, scene, write_coco, write_yolo

QUICK = {
    "model.width": 0.125, "data.resize_size": 48, "data.image_size": 48, "augment.crop": 48, "train.init": "none",
    "train.batch_size": 4, "train.epochs": 2, "train.precision": "fp32",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("made") / "scenes")


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    return train("detection", data=folder, out=tmp_path_factory.mktemp("run") / "run", overrides=QUICK, progress=False)


def test_a_folder_becomes_a_model_with_a_report(run, folder, tmp_path):
    result = run.result
    assert result["task"] == "detection" and result["split"] == "test" and result["images"] == 6
    assert set(result["per_class"]) == set(CLASSES)
    assert result["objects"] == sum(each["objects"] for each in result["per_class"].values()) > 0
    assert 0 <= result["map"] <= result["map50"] <= 1
    report = (run.folder / "report.md").read_text()
    assert "mAP50" in report and "Average precision by class" in report
    rebuild(str(run.folder), tmp_path / "report.html", resolve_device("cpu"), NullReporter())
    page = (tmp_path / "report.html").read_text()
    assert "Boxes" in page and "Confusion matrix" not in page
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert {"val_map50", "val_map", "val_loss", "train_box_accuracy"} <= lines[-1].keys()
    (metrics,) = evaluate(run.folder, progress=False)
    assert (metrics.map50, metrics.loss) == (result["map50"], result["loss"])


def test_a_stopped_training_continues_to_equal_bits(run, folder, tmp_path, monkeypatch):
    from alexnet.training import loop

    seen = []
    step = loop.Training.step

    def stop_once(self, batch):
        step(self, batch)
        seen.append(self.state.step)
        torch.rand(3)  # other users of the global generator have no influence
        if len(seen) == 4:
            raise StoppedError("stopped", 143)

    monkeypatch.setattr(loop.Training, "step", stop_once)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    again = {"data": folder, "out": tmp_path / "run", "overrides": QUICK, "progress": False}
    with pytest.raises(StoppedError):
        train("detection", **again)
    resumed = train("detection", **again)
    assert seen[3:5] == [4, 4]  # the fourth step was done, not saved, and done again
    models = [load_model(each.folder).state_dict() for each in (run, resumed)]
    assert digest_tensors(models[0]) == digest_tensors(models[1])


def test_random_numbers_are_restored_afterwards():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with random_numbers(7, torch.device("cpu")):
        first = torch.rand(2)
    assert torch.equal(torch.rand(3), expected)
    with random_numbers(7, torch.device("cpu")):
        assert torch.equal(torch.rand(2), first)


@pytest.mark.slow
def test_it_learns_what_is_to_be_seen(tmp_path):
    """Red squares and green bars, some images without any: 300 steps with a narrow network."""
    folder = write_coco(tmp_path / "more", (("train", 60), ("val", 8), ("test", 24)))
    settings = {
        **QUICK, "model.width": 0.25, "train.batch_size": 8, "train.epochs": 40, "train.min_steps": 0,
        "optim.lr": 0.002, "augment.random_resized_crop": None, "train.keep": "last",
    }  # fmt: skip
    found = train("detection", data=folder, out=tmp_path / "run", overrides=settings, progress=False).result
    assert found["map50"] > 0.6


def objects(*rows):
    boxes = torch.tensor([row[1:5] for row in rows], dtype=torch.float32).reshape(-1, 4)
    return {
        "boxes": boxes,
        "scores": torch.tensor([row[5] for row in rows], dtype=torch.float32),
        "labels": torch.tensor([row[0] for row in rows], dtype=torch.int64),
    }


def test_average_precision_is_what_it_is_by_hand():
    """One class: three objects; four detections by score: right, wrong, right, set aside."""
    true = np.array([[[0, 0, 0, 10, 10, 0], [0, 20, 0, 30, 10, 0], [0, 0, 20, 10, 30, 0], [0, 30, 30, 40, 40, 1]]])
    found = objects((0, 0, 0, 10, 10, 0.9), (0, 40, 0, 48, 10, 0.8), (0, 20, 0, 30, 10, 0.7), (0, 30, 30, 40, 40, 0.6))
    metrics = DetectionMetrics(1, class_names=("square",))
    metrics.add([found], true.astype(np.float32), [0.5])
    # recall 1/3 at precision 1, 2/3 at 2/3: 34 of the 101 recalls of COCO are up to 1/3, 33 more up to 2/3
    assert metrics.map50 == pytest.approx((34 + 33 * 2 / 3) / 101, abs=1e-4)
    assert metrics.summary()["objects"] == 3 and metrics.loss == 0.5
    metrics.add([objects()], np.zeros((1, 0, 6), np.float32), [float("nan")])
    assert metrics.images == 2 and metrics.not_finite == 1 and metrics.loss == 0.5


def test_without_objects_or_detections_the_measures_are_zero():
    metrics = DetectionMetrics(2, class_names=CLASSES)
    metrics.add([objects()], np.zeros((1, 0, 6), np.float32), [0.1])
    found = metrics.summary()
    assert (found["map50"], found["map"], found["objects"]) == (None, None, 0)
    assert "no objects to find" in describe_measure({**found, "task": "detection", "split": "test"})
    assert all(each == {"ap": None, "objects": 0} for each in found["per_class"].values())
    metrics.add([objects()], np.array([[[1, 0, 0, 9, 9, 0]]], np.float32), [0.1])
    assert metrics.summary()["per_class"] == {"square": {"ap": None, "objects": 0}, "bar": {"ap": 0.0, "objects": 1}}


def test_detections_are_packed_without_loss():
    found = [objects((1, 0, 1, 10, 12, 0.5), (0, 3, 4, 5, 6, 0.25)), objects()]
    again, losses = unpack_detections(pack_detections(found, [0.5, float("inf")]))
    for a, b in zip(found, again, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)
    assert losses[0] == 0.5 and np.isnan(losses[1])


def test_predictions_are_boxes_in_pixels_of_the_image(run, tmp_path, capsys, monkeypatch):
    pixels, _ = scene(np.random.default_rng(5), 200, 90)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    images = [str(tmp_path / "wide.png"), str(tmp_path / "bad.png")]
    good, bad = predict(run.folder, images, out=tmp_path / "drawn", threshold=0.0)
    assert (good["width"], good["height"]) == (200, 90) and good["objects"]
    for each in good["objects"]:
        left, top, right, bottom = each["box"]
        assert 0 <= left <= right <= 200.001 and 0 <= top <= bottom <= 90.001 and each["name"] in CLASSES
    scores = [each["score"] for each in good["objects"]]
    assert scores == sorted(scores, reverse=True)
    with Image.open(good["drawn"]) as drawn:
        assert drawn.size == (1000, 450) and drawn.mode == "RGB"  # five times as large
    assert "error" in bad
    found = Predictor(run.folder).detect(tmp_path / "wide.png", threshold=0.0)
    assert [each.score for each in found.objects] == scores
    assert main(["predict", str(run.folder), *images, "--csv", "--threshold", "0"]) == 2
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert rows[0] == ["file", "class", "score", "left", "top", "right", "bottom"] and len(rows) == 2 + len(scores)
    assert rows[-1] == [images[1], *[""] * 6]
    assert main(["predict", str(run.folder), images[0], "--json", "--threshold", "0"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["objects"] == good["objects"]
    assert main(["predict", str(run.folder), images[0], "--threshold", "1"]) == 0
    assert "no object" in capsys.readouterr().out


def test_an_image_of_the_prepared_size_is_predicted_as_it_is_measured(run, folder):
    from alexnet.data.prepared import open_or_prepare
    from alexnet.data.sources import open_source
    from alexnet.training.detection import detected

    predictor = Predictor(run.folder, "cpu", "fp32")
    dataset = open_or_prepare(open_source(str(folder), annotations="boxes"), 48, resize="stretch")
    index = dataset.subset("test")
    (batch,) = detected(predictor.model, dataset, index, predictor.device_config)
    for pixels, measured in zip(dataset.read(index), batch[0], strict=True):
        found = detect(predictor, pixels, threshold=0.0)
        np.testing.assert_allclose([each.score for each in found.objects], measured["scores"], rtol=1e-4)
        np.testing.assert_allclose(
            np.array([each.box for each in found.objects]).reshape(-1, 4), measured["boxes"], atol=1e-2
        )


def test_settings_that_a_detection_does_not_have_are_refused_by_name(folder, tmp_path):
    for setting, value in {
        "augment.rotation": 5.0, "augment.pad": 4, "train.class_weights": "balanced", "train.label_smoothing": 0.1,
        "train.accumulate_steps": 2, "augment.crop": 40,
    }.items():  # fmt: skip
        with pytest.raises(UserError, match=setting.replace(".", r"\.")):
            train(
                "detection", data=folder, out=tmp_path / "a", progress=False,
                overrides={**QUICK, "augment.random_resized_crop": None, setting: value},
            )  # fmt: skip
    with pytest.raises(UserError, match="has a class for each image and no boxes"):
        train("detection", data="digits", out=tmp_path / "b", overrides=QUICK)
    plan = plan_training(
        "detection", data=folder, labels=(), out=tmp_path / "c", init=None, overrides=QUICK, device=None,
        reference=False, data_root=None, weights_root=None, keep_checkpoints=False, reporter=NullReporter(),
    )  # fmt: skip
    with pytest.raises(UserError, match="detection trains in one process: leave out --nproc"):
        plan.check_parallel("data", 2)


def test_images_without_any_box_cost_one_line(tmp_path):
    folder = write_coco(tmp_path / "made")
    for split, line in (("val", "add --set train.keep=last"), ("train", "no training image of made has a box")):
        path = folder / split / "annotations.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": []}))
        with pytest.raises(UserError, match=line):
            train("detection", data=folder, out=tmp_path / split, overrides=QUICK, progress=False)


def test_a_missing_package_costs_one_line_before_anything_is_computed(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(UserError, match=r"needs faster_coco_eval: run pip install 'alexnet\[detection\]'"):
        train("detection", data=folder, out=tmp_path / "run", overrides=QUICK, progress=False)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "defusedxml", None)
    from tests.detection_files import write_voc

    with pytest.raises(UserError, match=r"needs defusedxml: run pip install 'alexnet\[detection\]'"):
        train("detection", data=write_voc(tmp_path / "voc"), out=tmp_path / "run", overrides=QUICK, progress=False)


def test_other_commands_know_what_the_model_is_for(run, folder, tmp_path, capsys):
    features = extract_features(run.folder, folder / "test" / "images", "conv1,relu5", tmp_path / "f", progress=False)
    assert features["relu5"].shape[0] == 6
    with pytest.raises(UserError, match="unknown layer"):
        extract_features(run.folder, folder / "test" / "images", "rpn_conv", tmp_path / "g", progress=False)
    with pytest.raises(UserError, match="is a model for detection: verify knows"):
        verify(run.folder, progress=False)
    with pytest.raises(UserError, match="does not give an image a class"):
        Predictor(run.folder)(np.zeros((48, 48, 3), np.uint8))
    with pytest.raises(UserError, match="a model for detection cannot be exported"):
        export(run.folder, tmp_path / "model.onnx", "onnx", progress=False)
    with pytest.raises(UserError, match="masks is a plot of models for segmentation"):
        plot("masks", run)
    assert plot("boxes", run).axes
    assert plot("boxes", run, image=str(folder / "test" / "images" / "000.png")).axes
    assert main(["summary", str(run.folder)]) == 0
    assert "not in the table, because they run for each box: fc6, fc7, rpn_conv" in capsys.readouterr().out
    with pytest.raises(UserError, match="detection trains in one process"):
        plan_devices("detection", "8xH100", images=1000)
    with pytest.raises(UserError, match="--sort-into is for models that give each image a class"):
        predict(run.folder, [str(folder / "test" / "images")], sort_into=tmp_path / "sorted")


def test_other_images_can_be_evaluated_if_their_classes_are_the_same(run, tmp_path):
    other = write_yolo(tmp_path / "other", (("test", 5),), seed=9)
    (metrics,) = evaluate(run.folder, data=other, progress=False)
    assert metrics.images == 5
    (other / "classes.txt").write_text("square\nround\n")
    with pytest.raises(UserError, match="class"):
        evaluate(run.folder, data=other, progress=False)
