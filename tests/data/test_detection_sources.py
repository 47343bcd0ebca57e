"""Folders of images with boxes: three formats with equal content, and what is refused in each."""

import json

import numpy as np
import pytest
from PIL import Image

from alexnet.core.errors import UserError
from alexnet.data.prepared import open_or_prepare
from alexnet.data.sources import open_source
from tests.detection_files import CLASSES, scenes, write_coco, write_voc, write_yolo

FEW = (("train", 5), ("val", 2), ("test", 3))
WRITERS = {"coco": write_coco, "voc": write_voc, "yolo": write_yolo}


@pytest.fixture(autouse=True)
def _own_home(home):
    """Each test has its own prepared datasets."""


def prepared(folder, side=48, **settings):
    return open_or_prepare(open_source(str(folder), annotations="boxes"), side, **settings)


def refusals(folder):
    return [item["reason"] for item in prepared(folder).meta["refused"]]


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("size", [{}, {"width": 96, "height": 60}], ids=["square", "wide"])
def test_each_format_gives_the_boxes_that_were_written(write, size, tmp_path):
    made = scenes(FEW, **size)
    dataset = prepared(write(tmp_path / "made", FEW, **size), resize="stretch")
    assert dataset.classes == list(CLASSES) and dataset.annotations == "boxes"
    found = {}
    for split, count in FEW:
        index = dataset.subset(split)
        assert len(index) == count
        for name, rows in zip(dataset.names(index), dataset.read_boxes(index), strict=True):
            found[split, name.rpartition("/")[2][-7:-4]] = rows[rows[:, 0] >= 0]
    for split, name, pixels, boxes in made:
        height, width = pixels.shape[:2]
        scale = np.array([48 / width, 48 / height] * 2)
        rows = found[split, name]
        assert rows[:, 0].tolist() == [kind for kind, *_ in boxes]
        for row, (_, *corners) in zip(rows, boxes, strict=True):
            np.testing.assert_allclose(row[1:5], np.array(corners) * scale, atol=1e-3)
    assert any(not boxes for *_, boxes in made)  # images without objects are there


def test_the_layout_of_coco_itself_is_read(tmp_path):
    write_coco(tmp_path / "made", (("train", 4), ("val", 3)))
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (tmp_path / "made" / split / "images").rename(root / f"{split}2017")
        (tmp_path / "made" / split / "annotations.json").rename(root / "annotations" / f"instances_{split}2017.json")
    dataset = prepared(root)
    assert (len(dataset.subset("train")), len(dataset.subset("test"))) == (4, 3)
    assert "so the images of val are the test images" in dataset.meta["warnings"][0]


def test_a_crowd_is_set_aside(tmp_path):
    folder = write_coco(tmp_path / "made", FEW)
    path = folder / "train" / "annotations.json"
    content = json.loads(path.read_text())
    content["annotations"].append({"image_id": 0, "category_id": 3, "bbox": [1, 2, 9, 8], "iscrowd": 1, "id": 99})
    path.write_text(json.dumps(content))
    dataset = prepared(folder)
    rows = dataset.read_boxes(dataset.subset("train")[:1])[0]
    assert rows[rows[:, 5] == 1].tolist() == [[0, 1, 2, 10, 10, 1]]


def test_the_val_of_pascal_voc_is_the_test_set_and_its_difficult_objects_are_set_aside(tmp_path):
    folder = write_voc(tmp_path / "VOC2007", (("train", 4), ("val", 3)))
    (folder / "ImageSets" / "Main" / "test.txt").write_text("000001\n000002\n")
    for path in (folder / "Annotations").glob("*.xml"):
        path.write_text(path.read_text().replace("<difficult>0", "<difficult>1"))
    dataset = prepared(folder)
    assert len(dataset.subset("test")) == 3
    rows = dataset.read_boxes(np.arange(7))
    assert (rows[rows[..., 0] >= 0][:, 5] == 1).all()


def test_without_splits_the_images_are_divided(tmp_path):
    folder = write_yolo(tmp_path / "made", (("train", 30),))
    for part in ("images", "labels"):
        for path in (folder / part / "train").iterdir():
            path.rename(folder / part / path.name)
        (folder / part / "train").rmdir()
    dataset = prepared(folder)
    assert dataset.auto_split and len(dataset.subset("train")) > 15 and len(dataset.subset("test")) > 0


def changed(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "line", "detail"),
    [
        (
            lambda c: c["annotations"][0].update(category_id=99),
            "is damaged, or no annotations of COCO",
            "unknown image",
        ),
        (lambda c: c["annotations"][0].update(image_id=99), "no annotations of COCO", "unknown image"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3]), "is damaged", "bbox is not four numbers"),
        (lambda c: c["annotations"][0].update(bbox="wide"), "is damaged", "bbox is not four numbers"),
        (lambda c: c.pop("images"), "is damaged", "'images' is missing, or no list"),
        (lambda c: c["images"][0].update(file_name="../../etc/passwd"), "is damaged", "not inside the folder"),
        (lambda c: c["images"][0].update(id=True), "is damaged", "the id True is no integer"),
        (
            lambda c: c["images"].append({"id": 0, "file_name": "z.png"}),
            "has two images with the same id or the same name",
            "",
        ),
        (lambda c: c.update(annotations={}), "is damaged", "'annotations' is missing, or no list"),
        (lambda c: c["images"][1].update(file_name="000.png"), "has two images with the same id or the same name", ""),
        (lambda c: c["categories"][0].update(name="other"), "is 'bar', and 'other' in another split", ""),
    ],
)
def test_damaged_annotations_of_coco_cost_one_line(change, line, detail, tmp_path):
    folder = write_coco(tmp_path / "made", FEW)
    changed(folder / ("test" if "another split" in line else "train") / "annotations.json", change)
    with pytest.raises(UserError) as error:
        open_source(str(folder), annotations="boxes")
    assert line in error.value.line and "\n" not in error.value.line
    assert not detail or any(detail in each for each in error.value.details)


def test_a_json_bomb_costs_one_line(tmp_path):
    folder = write_coco(tmp_path / "made", FEW)
    (folder / "train" / "annotations.json").write_text("[" * 200_000)
    with pytest.raises(UserError, match="is damaged, or no annotations of COCO"):
        open_source(str(folder), annotations="boxes")


@pytest.mark.parametrize(
    ("box", "reason"),
    [([60, 2, 9, 9], "outside its 48 × 48 pixels"), ([5, 2, -3, 9], "its right edge is left of its left edge")],
)
def test_an_image_with_a_wrong_box_is_refused_and_the_others_are_used(box, reason, tmp_path):
    folder = write_coco(tmp_path / "made", FEW)
    changed(folder / "train" / "annotations.json", lambda c: c["annotations"][0].update(bbox=box))
    dataset = prepared(folder)
    (refused,) = dataset.meta["refused"]
    assert reason in refused["reason"] and len(dataset.subset("train")) == 4


def test_a_stated_size_is_that_of_the_image(tmp_path):
    folder = write_coco(tmp_path / "made", FEW)
    changed(folder / "train" / "annotations.json", lambda c: c["images"][0].update(width=48, height=48))
    changed(folder / "train" / "annotations.json", lambda c: c["images"][1].update(width=96, height=96))
    assert refusals(folder) == ["is 48 × 48 pixels, and annotations.json was made for 96 × 96"]


def test_the_trainval_of_pascal_voc_is_train_and_what_is_in_no_list_is_counted(tmp_path):
    folder = write_voc(tmp_path / "VOC2007", (("train", 4), ("test", 3)))
    lists = folder / "ImageSets" / "Main"
    (lists / "train.txt").rename(lists / "trainval.txt")
    (lists / "test.txt").write_text("test_000\n")
    dataset = prepared(folder)
    assert (len(dataset.subset("train")), len(dataset.subset("test"))) == (4, 1)
    assert "ignored, image or annotations in no list: test_001 and 1 more" in dataset.meta["warnings"]


def test_annotations_and_images_that_do_not_belong_together_are_counted(tmp_path):
    folder = write_coco(tmp_path / "made", FEW)
    images = folder / "train" / "images"
    (images / "000.png").unlink()
    Image.new("RGB", (9, 9)).save(images / "more.png")
    warnings = prepared(folder).meta["warnings"]
    assert "ignored, annotations of an image that is not there: 000.png" in warnings
    assert "ignored, image that the annotations do not list: train/images/more.png" in warnings


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x "xxxxxxxxxx">'
    + "".join(f'<!ENTITY x{n} "{f"&x{n - 1};" * 10 if n > 1 else "&x;" * 10}">' for n in range(1, 10))
    + "]><annotation><object><name>&x9;</name></object></annotation>"
)
EXTERNAL = (
    '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation><object><name>&x;</name></object></annotation>'
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BOMB, "has the damaged annotations"),
        (EXTERNAL, "has the damaged annotations"),
        ("<annotation><object>", "has the damaged annotations"),
        ("", "has the damaged annotations"),
        ('<?xml version="1.0" encoding="foo"?><annotation/>', "has the damaged annotations"),
        ("<annotation><object><name>cat</name></object></annotation>", "unknown class 'cat'"),
        ("<annotation><object><name>bar</name></object></annotation>", "has an object without a box"),
        (
            "<annotation><object><name>bar</name><bndbox><xmin>a</xmin></bndbox></object></annotation>",
            "has an object without a box",
        ),
        ("<annotation><size><width>9</width><height>9</height></size></annotation>", "was made for 9 × 9"),
        (
            "<annotation><object><name>bar</name><bndbox><xmin>nan</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax>"
            "</bndbox></object></annotation>",
            "not finite",
        ),
        ("<annotation>" + " " * (1 << 20) + "</annotation>", "annotations that cannot be read"),
    ],
)  # fmt: skip
def test_damaged_annotations_of_voc_are_a_reason_to_refuse_the_image(text, reason, tmp_path):
    folder = write_voc(tmp_path / "made", FEW)
    (folder / "Annotations" / "train_000.xml").write_text(text)
    (refused,) = refusals(folder)
    assert reason in refused


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0 0.5 0.5 0.2\n", "has damaged labels"),
        ("0 0.5 0.5 0.2 0.2 0.9\n", "has damaged labels"),
        ("square 0.5 0.5 0.2 0.2\n", "has damaged labels"),
        ("0 nan 0.5 0.2 0.2\n", "has damaged labels"),
        ("5 0.5 0.5 0.2 0.2\n", "has a box of class 5"),
        ("0 3.5 0.5 0.2 0.2\n", "outside its 48 × 48 pixels"),
        ("\xff\xfe", "has damaged labels"),
    ],
)
def test_damaged_labels_of_yolo_are_a_reason_to_refuse_the_image(text, reason, tmp_path):
    folder = write_yolo(tmp_path / "made", FEW)
    (folder / "labels" / "train" / "000.txt").write_bytes(text.encode("latin1"))
    (refused,) = refusals(folder)
    assert reason in refused


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda f: (f / "classes.txt").unlink(), "has no classes.txt"),
        (lambda f: (f / "labels").rename(f / "texts"), "has no boxes: expected COCO"),
        (lambda f: [path.unlink() for path in f.glob("images/*/*")], "has no image with boxes"),
        (lambda f: [path.unlink() for path in f.glob("labels/*/*")], "no image has a file of labels"),
        (lambda f: (f / "images/train/000.jpg").write_bytes(b""), "has two images called 000"),
    ],
)
def test_a_folder_that_is_not_right_costs_one_line(change, line, tmp_path):
    folder = write_yolo(tmp_path / "made", FEW)
    change(folder)
    with pytest.raises(UserError) as error:
        open_source(str(folder), annotations="boxes")
    assert line in str(error.value)


@pytest.mark.parametrize("text", ["names: [square, bar]\nnc: 2\n", "names:\n  0: square\n  1: bar\n"])
def test_the_names_in_data_yaml_are_read(text, tmp_path):
    folder = write_yolo(tmp_path / "made", FEW)
    (folder / "classes.txt").unlink()
    (folder / "data.yaml").write_text(text)
    assert prepared(folder).classes == list(CLASSES)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("names: {1: square, 2: bar}\n", "has no list of class names"),
        ("names: 3\n", "has no list of class names"),
        ("!!python/object/apply:os.system [ls]\n", "is damaged: write classes.txt"),
        ("names: [a\n", "is damaged: write classes.txt"),
        ("names: [a, a]\n", "without repeats"),
    ],
)
def test_a_damaged_data_yaml_costs_one_line(text, line, tmp_path):
    folder = write_yolo(tmp_path / "made", FEW)
    (folder / "classes.txt").unlink()
    (folder / "data.yaml").write_text(text)
    with pytest.raises(UserError, match=line):
        open_source(str(folder), annotations="boxes")


def test_a_changed_annotation_is_another_source(tmp_path):
    folder = write_voc(tmp_path / "made", FEW)
    before = open_source(str(folder), annotations="boxes").fingerprint
    path = folder / "Annotations" / "train_000.xml"
    path.write_text(path.read_text() + " ")
    assert open_source(str(folder), annotations="boxes").fingerprint != before


def test_a_file_where_a_folder_should_be_and_a_built_in_set_are_refused(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match="is not a folder: expected COCO"):
        open_source(str(tmp_path / "a.zip"), annotations="boxes")
    with pytest.raises(UserError, match="has a class for each image and no boxes"):
        open_source("digits", annotations="boxes")
