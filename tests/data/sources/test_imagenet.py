"""ILSVRC-2012 as it is on disk: class folders, val without folders and either file of labels, and missing files."""

import tarfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from alexnet.core.errors import UserError
from alexnet.data.sources import open_source

WNIDS = ("n01440764", "n01443537", "n02084071")
WORDS = ("tench, Tinca tinca", "goldfish, Carassius auratus", "dog, domestic dog, Canis familiaris")
IDS = {"n01440764": 2, "n01443537": 1, "n02084071": 3}  # the kit's order is not the sorted one
VAL = ("n01443537", "n02084071", "n01440764", "n01440764")  # of images 1 to 4


def fill(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def train(root: Path) -> Path:
    return fill(root, *(f"train/{wnid}/{wnid}_{i}.JPEG" for wnid in WNIDS for i in (1, 10)))


def flat_val(root: Path) -> Path:
    return fill(root, *(f"val/ILSVRC2012_val_{i:08d}.JPEG" for i in range(1, len(VAL) + 1)))


def devkit(root: Path) -> Path:
    """The kit's two files: meta.mat has leaves first and inner nodes after, as the real one has."""
    data = root / "ILSVRC2012_devkit_t12" / "data"
    data.mkdir(parents=True)
    fields = (
        "ILSVRC2012_ID",
        "WNID",
        "words",
        "gloss",
        "num_children",
        "children",
        "wordnet_height",
        "num_train_images",
    )
    rows = [(IDS[w], w, words, "a gloss", 0, [], 0, 1300) for w, words in zip(WNIDS, WORDS, strict=True)]
    rows = [*sorted(rows), (1001, "n00001740", "entity", "everything", 3, [1, 2, 3], 1, 0)]
    synsets = np.empty((len(rows), 1), dtype=[(name, object) for name in fields])
    for position, row in enumerate(rows):
        for name, value in zip(fields, row, strict=True):
            synsets[position, 0][name] = value
    scipy.io.savemat(data / "meta.mat", {"synsets": synsets})
    truth = "".join(f"{IDS[wnid]}\n" for wnid in VAL)
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text(truth)
    return root


def kaggle(root: Path) -> Path:
    rows = [f"ILSVRC2012_val_{i:08d},{wnid} 1 2 3 4 {wnid} 5 6 7 8 " for i, wnid in enumerate(VAL, start=1)]
    (root / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *reversed(rows)]) + "\n")
    return root


def labels_of(source):
    return {
        int(Path(record.name).stem[-8:]): source.classes[record.label]
        for record in source.records()
        if record.split == "test"
    }


def error(text, **options) -> UserError:
    with pytest.raises(UserError) as caught:
        open_source(text, **options)
    assert "\n" not in caught.value.line
    return caught.value


EXPECTED = dict(enumerate(VAL, start=1))


def test_val_in_class_folders_is_the_test_set(tmp_path):
    fill(train(tmp_path), *(f"val/{wnid}/ILSVRC2012_val_{i:08d}.JPEG" for i, wnid in EXPECTED.items()))
    source = open_source(f"imagenet:{tmp_path}")
    assert (source.name, source.classes, source.count) == ("imagenet", WNIDS, 10)
    assert [record.split for record in source.records()] == ["train"] * 6 + ["test"] * 4
    assert labels_of(source) == EXPECTED


def test_flat_val_with_the_development_kit(tmp_path):
    source = open_source(f"imagenet:{devkit(flat_val(train(tmp_path)))}")
    assert labels_of(source) == EXPECTED
    assert source.descriptions == WORDS
    payloads = {record.name: record.payload for record in source.records()}
    assert payloads["val/ILSVRC2012_val_00000003.JPEG"] == tmp_path / "val/ILSVRC2012_val_00000003.JPEG"


def test_flat_val_with_the_packed_development_kit(tmp_path):
    devkit(tmp_path / "kit")
    root = flat_val(train(tmp_path / "root"))
    with tarfile.open(root / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "kit" / "ILSVRC2012_devkit_t12", "ILSVRC2012_devkit_t12")
    assert labels_of(open_source(f"imagenet:{root}")) == EXPECTED


def test_flat_val_with_kaggles_table(tmp_path):
    root = kaggle(flat_val(train(tmp_path)))
    (root / "LOC_synset_mapping.txt").write_text("".join(f"{w} {n}\n" for w, n in zip(WNIDS, WORDS, strict=True)))
    source = open_source(f"imagenet:{root}")
    assert labels_of(source) == EXPECTED
    assert source.descriptions == WORDS


@pytest.mark.parametrize("given", [".", "ILSVRC/Data/CLS-LOC"])
def test_kaggles_folders(tmp_path, given):
    flat_val(train(tmp_path / "ILSVRC" / "Data" / "CLS-LOC"))
    kaggle(tmp_path)
    assert labels_of(open_source(f"imagenet:{tmp_path / given}")) == EXPECTED


def test_the_labels_are_part_of_the_fingerprint(tmp_path):
    root = kaggle(flat_val(train(tmp_path)))
    before = open_source(f"imagenet:{root}").fingerprint
    table = root / "LOC_val_solution.csv"
    table.write_text(table.read_text().replace("00000001,n01443537", "00000001,n02084071"))
    assert open_source(f"imagenet:{root}").fingerprint != before


def test_found_below_the_data_root(tmp_path, monkeypatch):
    monkeypatch.setenv("ALEXNET_HOME", str(tmp_path / "home"))
    assert error("imagenet", data_root=tmp_path).line.startswith("imagenet was not found: give imagenet:PATH")
    devkit(flat_val(train(tmp_path / "imagenet")))
    assert open_source("imagenet", tmp_path).count == 10


def test_val_without_class_folders_or_labels(tmp_path):
    problem = error(f"imagenet:{flat_val(train(tmp_path))}")
    assert problem.line == (
        f"{tmp_path / 'val'} has no class folders and its labels are missing: "
        f"put ILSVRC2012_devkit_t12/ or LOC_val_solution.csv into {tmp_path}"
    )


def test_parts_that_are_missing(tmp_path):
    assert "does not hold imagenet" in error(f"imagenet:{tmp_path}").line
    (tmp_path / "train").mkdir()
    assert "has no class folders: unpack the tar of each class" in error(f"imagenet:{tmp_path}").line
    train(tmp_path)
    assert "no val/, which is the test set" in error(f"imagenet:{tmp_path}").line
    (tmp_path / "val").mkdir()
    assert error(f"imagenet:{tmp_path}").line.startswith(f"no images in {tmp_path / 'val'}")
    fill(tmp_path, "val/n09999999/1.JPEG")
    assert "test class 'n09999999' has no images in train" in error(f"imagenet:{tmp_path}").line


def test_files_without_a_label(tmp_path):
    root = fill(devkit(flat_val(train(tmp_path))), "val/ILSVRC2012_val_00000099.JPEG", "val/readme.txt")
    source = open_source(f"imagenet:{root}")
    assert source.count == 10
    assert source.warnings == ("ignored, file without a label: val/ILSVRC2012_val_00000099.JPEG and 1 more",)


def test_damaged_labels(tmp_path):
    root = devkit(flat_val(train(tmp_path)))
    data = root / "ILSVRC2012_devkit_t12" / "data"
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text("7\n")
    assert "is not consistent" in error(f"imagenet:{root}").line
    (data / "meta.mat").write_bytes(b"not a mat file" * 20)
    assert "meta.mat of ILSVRC2012_devkit_t12 cannot be read" in error(f"imagenet:{root}").line
    (root / "LOC_val_solution.csv").write_text("a,b\n1,2\n")
    assert "is not Kaggle's table" in error(f"imagenet:{root}").line
    (root / "LOC_val_solution.csv").unlink()
    (root / "ILSVRC2012_devkit_t12").rename(root / "kit")
    (root / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(b"no archive")
    assert "is damaged or cut short" in error(f"imagenet:{root}").line
