"""Folders as people have them: which become splits, which become classes, and which layouts are refused."""

import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet.core.errors import UserError
from alexnet.data.prepared import open_or_prepare
from alexnet.data.sources import list_images, open_source
from alexnet.data.sources.split_names import is_annotations, is_pictures, part_of, split_of


def fill(root: Path, *names: str) -> Path:
    """Image files with these names, no two the same; text for names that end in .txt and the like."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".png", ".jpg"):
            pixels = np.full((8, 8, 3), number % 256, np.uint8)
            Image.fromarray(pixels).save(path, format="png" if path.suffix == ".png" else "jpeg")
        else:
            path.write_text(name)
    return root


def pets(*folders: str) -> list[str]:
    return [f"{folder}/{pet}/{number}.png" for folder in folders for pet in ("cat", "dog") for number in (1, 2)]


def splits(source) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for record in source.records():
        found.setdefault(str(record.split), set()).add(source.classes[record.label])
    return found


def refusal(root: Path, *names: str) -> str:
    with pytest.raises(UserError) as caught:
        open_source(str(fill(root, *names)))
    assert "\n" not in caught.value.line
    return caught.value.line


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *((name, "train") for name in ("train", "TRAIN", "training_set", "seg_train", "train_images", "training_data")),
        *((name, "train") for name in ("X_train", "train set", "trainset", "Train-Data", "train2017", "trainval")),
        *((name, "train") for name in ("imgs_train", "trainA", "01_train", "train_val", "训练集")),
        *((name, "val") for name in ("val", "valid", "dev", "eval", "val_1", "validation set", "valset", "验证集")),
        *((name, "test") for name in ("test", "test1", "test_set", "holdout", "hold-out", "hold_out", "TestImages")),
        *((name, "unlabelled") for name in ("seg_pred", "unlabeled", "predictions")),
        *((name, None) for name in ("invalid", "train station", "testing ground", "contest", "training shoes", "car")),
        *((name, None) for name in ("tests and trains", "train_test", "data", "", "1", "images", "devil", "trainer")),
    ],
)
def test_words_that_mean_a_split(name, split):
    assert split_of(name) == split


def test_words_that_mean_parts_pictures_and_annotations():
    assert part_of("fold1") == part_of("Fold_2") == ("fold",)
    assert part_of("HAM10000_images_part_1") == part_of("HAM10000_images_part_2") is not None
    assert part_of("fold") is part_of("class 1") is part_of("2020") is None
    assert is_pictures("JPEGImages")
    assert is_annotations("SegmentationClass")
    assert not (is_pictures("cat") or is_annotations("with_mask"))


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (pets("training_set", "test_set"), ("train", "test")),
        (pets("training_set/training_set", "test_set/test_set"), ("train", "test")),
        ([*pets("seg_train/seg_train", "seg_test/seg_test"), "seg_pred/seg_pred/1.png"], ("train", "test")),
        (pets("train_images", "dev"), ("train", "val")),
        (pets("X_train", "X_test", "X_val"), ("train", "test", "val")),
        (pets("train set", "holdout"), ("train", "test")),
        (pets("train", "test1"), ("train", "test")),
        (pets("train/train", "test/test"), ("train", "test")),
        ([*pets("train/images", "test/images"), "train/labels/1.txt"], ("train", "test")),
        (pets("train/pets", "test/pets"), ("train", "test")),
        ([*pets("images/train", "images/val"), "labels/train/1.txt", "labels/val/1.txt"], ("train", "val")),
        ([*pets("data/train", "data/test"), "README.md"], ("train", "test")),
        (pets("train/train", "train/test"), ("train", "test")),
        (["cat/train/1.png", "cat/test/2.png", "dog/train/3.png", "dog/test/4.png"], ("train", "test")),
        (pets("test"), ("test",)),
        (pets("photos"), ("None",)),
        (pets("a/b/c"), ("None",)),
        (pets("train/train"), ("None",)),
        (pets("training_data"), ("None",)),
    ],
)
def test_splits_and_wrappers_are_read(tmp_path, names, found):
    """The same in a folder and in a zip."""
    root = fill(tmp_path / "set", *names)
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as file:
        for name in names:
            file.write(root / name, name)
    for path in (root, tmp_path / "set.zip"):
        source = open_source(str(path))
        assert splits(source) == {split: {"cat", "dog"} for split in found}
        assert source.trainable == (found != ("test",))


def test_a_split_with_another_name_is_said(tmp_path):
    source = open_source(str(fill(tmp_path, *pets("seg_train", "seg_test", "seg_pred"))))
    assert source.warnings == (
        "read as splits: seg_train/ as train, seg_test/ as test",
        "ignored, folder beside train/: seg_pred",
    )
    inverted = fill(tmp_path / "inverted", "a/train/1.png", "a/test/2.png", "b/train/3.png", "b/test/4.png")
    assert open_source(str(inverted)).warnings == ("the classes are the upper folders, the splits the lower ones",)


def test_a_plain_name_goes_before_another_for_one_split(tmp_path):
    source = open_source(str(fill(tmp_path, *pets("train", "test", "test_images"))))
    assert splits(source).keys() == {"train", "test"}
    assert source.warnings == ("ignored, split without class folders: test_images",)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["train/1.png", "test/2.png"], "no class folders in test/ and train/, whose names mean splits"),
        (["train/1.png"], "no class folders in train/"),
        (["train/cat.0.png", "test1/1.png"], "no class folders in test1/ and train/"),
        (["dev/1.png", "eval/1.png", "holdout/1.png"], "no class folders in dev/, eval/ and holdout/"),
        (["train/1.png", "test/2.png", "car/3.png"], "no class folders in test/ and train/"),
        (["images/train/1.png", "images/val/2.png", "labels/train/1.txt"], "no class folders in train/ and val/"),
        (["train/images/1.png", "train/labels/1.txt", "valid/images/1.png"], "no class folders in train/ and valid/"),
        (["train/1.png", "train_labels/1.png", "val/1.png"], "no class folders in train/, train_labels/ and val/"),
        (["fold1/1.png", "fold2/1.png"], "fold1/ and fold2/ look like parts of one set"),
        (pets("fold1", "fold2"), "fold1/ and fold2/ look like parts of one set"),
        (["HAM_part_1/1.png", "HAM_part_2/1.png"], "look like parts of one set"),
        (["images/1.png", "masks/1.png"], "images/ and masks/ look like images and their annotations"),
        (["JPEGImages/1.png", "SegmentationClass/1.png", "Annotations/1.xml"], "look like images and their annot"),
        (pets("cam1", "cam2"), "cam1/ and cam2/ hold the same folders cat/ and dog/"),
        (["cam1/cat/1.png", "cam2/cat/1.png"], "cam1/ and cam2/ hold the same folders cat/"),
        (pets("amazon/images", "webcam/images"), "amazon/ and webcam/ hold the same folders cat/ and dog/"),
        (pets("train/cam1", "train/cam2", "test/cam1", "test/cam2"), "cam1/ and cam2/ hold the same folders"),
        (["cat/1.png", "dog/1.png", *pets("test")], "test/ looks like a split, and holds cat/"),
        (["train set/a/1.png", "car/1.png"], "train set/ may be a split or a class beside car/"),
        (
            ["train/a/1.png", "train/b/1.png", "eval/a/1.png", "dev/a/1.png"],
            "dev/ and eval/, which mean the same split",
        ),
        (["Cat/1.png", "cat/2.png"], "'Cat' and 'cat' differ only in case, spaces or Unicode form"),
        (["train/cat/1.png", "train/cat /2.png", "train/dog/3.png"], "'train/cat' and 'train/cat ' differ only in"),
    ],
)
def test_splits_never_become_classes(tmp_path, names, words):
    assert words in refusal(tmp_path, *names)


def test_a_refused_layout_says_what_to_do(tmp_path):
    assert refusal(tmp_path, "train/1.png", "test/2.png").endswith(
        "put the images of each class into a folder of its own there (train/cat/), or give the classes with --labels "
        "FILE"
    )


@pytest.mark.parametrize(
    ("names", "classes", "noted"),
    [
        (["train/1.png", "car/2.png"], ("car", "train"), ["train"]),
        (["valid/1.png", "invalid/2.png"], ("invalid", "valid"), ["valid"]),
        (["valid/images/1.png", "invalid/images/2.png"], ("invalid", "valid"), ["valid"]),
        (["train set/1.png", "car/2.png"], ("car", "train set"), ["train set"]),
        (["cat/images/1.png", "dog/images/1.png"], ("cat", "dog"), []),
        (["cat/tabby/1.png", "dog/husky/1.png"], ("cat", "dog"), []),
        (["a/x/1.png", "a/other/1.png", "a/y/1.png", "b/z/1.png", "b/other/1.png"], ("a", "b"), []),
        (["1/1.png", "2/1.png", "10/1.png"], ("1", "10", "2"), []),
        (["with_mask/1.png", "without_mask/1.png"], ("with_mask", "without_mask"), []),
    ],
)
def test_classes_stay_classes(tmp_path, names, classes, noted):
    source = open_source(str(fill(tmp_path, *names)))
    assert source.classes == classes
    assert source.warnings == tuple(
        f"{name}/ is read as a class, because the folders beside it hold images too" for name in noted
    )


def test_names_that_differ_in_form_are_one_class_across_splits(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    names = [f"train/{composed}/1.png", "train/Dog/2.png", f"test/{decomposed}/3.png", "test/dog /4.png"]
    source = open_source(str(fill(tmp_path / "set", *names)))
    assert source.classes == ("Dog", composed)
    assert splits(source) == {"train": {"Dog", composed}, "test": {"Dog", composed}}
    assert source.warnings == (
        f"test/{decomposed} is read as class {composed!r}",
        "test/dog  is read as class 'Dog'",
    )
    assert "'cafe\\u0301' and 'caf\\xe9' differ only" in refusal(
        tmp_path / "one", f"{composed}/1.png", f"{decomposed}/2.png", "x/3.png"
    )
    (tmp_path / "set" / "train" / "dog").mkdir()  # an empty folder is no second class
    assert open_source(str(tmp_path / "set")).classes == ("Dog", composed)


LITTER = [
    *("@eaDir/cat/1.png", "cat/@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg", "$RECYCLE.BIN/S-1/1.png", "#recycle/1.png"),
    *("System Volume Information/1.png", "__pycache__/1.png", "dog/ehthumbs.db", "dog/Icon\r", "lost+found/1.png"),
    *("cat/.ipynb_checkpoints/1-checkpoint.png", ".ipynb_checkpoints/1.png", "__MACOSX/cat/._1.png", "cat/Thumbs.db"),
    *("dog/~$1.docx", "dog/1.png~", "dog/#1.png#", "dog/2.png.crdownload", "dog/3.png.part", ".Trash-1000/files/1.png"),
    *("Network Trash Folder/1.png", "@Recently-Snapshot/1.png", "cat/Picasa.ini", "cat/desktop.ini"),
]


def test_what_other_programs_leave_behind_is_no_data(tmp_path):
    root = fill(tmp_path / "set", *LITTER, "cat/1.png", "dog/1.png")
    clean = open_source(str(fill(tmp_path / "clean", "cat/1.png", "dog/1.png")))
    source = open_source(str(root))
    assert [record.name for record in source.records()] == [record.name for record in clean.records()]
    assert (source.classes, source.warnings) == (("cat", "dog"), ())
    assert list_images(root) == [root / "cat/1.png", root / "dog/1.png"]
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as file:
        for path in sorted(path for path in root.rglob("*") if path.is_file()):
            file.write(path, path.relative_to(root))
    assert [record.name for record in open_source(str(tmp_path / "set.zip")).records()] == ["cat/1.png", "dog/1.png"]


def test_folders_without_images_are_no_classes(tmp_path):
    names = ["cat/1.png", "dog/1.png", "labels/1.txt", "docs/README", "deep/er/notes.md"]
    root = fill(tmp_path, *names)
    (root / "empty").mkdir()
    source = open_source(str(root))
    assert source.classes == ("cat", "dog")
    assert source.warnings == (
        *(f"class folder without images, ignored: {name}" for name in ("deep", "docs", "labels")),
        "class folder without files, ignored: empty",
    )
    assert "has only one class, 'cat'" in refusal(tmp_path / "one", "cat/1.png", "labels/1.txt")


def test_runs_and_prepared_datasets_in_the_data_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setenv("ALEXNET_HOME", str(tmp_path / "home"))
    names = [
        *("cat/1.png", "dog/1.png", "home/anything.png", "out/run.json", "out/curves.png", "dog/here/run.json"),
        *("dog/here/1.png", "runs/photos/run.json", "runs/photos/1.png", "cache/stores/a/store.json"),
    ]
    root = fill(tmp_path, *names)
    source = open_source(str(root))
    assert [record.name for record in source.records()] == ["cat/1.png", "dog/1.png"]
    assert source.warnings == ("ignored, run or prepared dataset of this program: cache and 4 more",)
    assert list_images(root) == [root / "cat/1.png", root / "dog/1.png"]
    labelled = fill(tmp_path / "other", "run/run.png", "run/run.json", "store/store.png", "store/store.json")
    assert open_source(str(labelled)).classes == ("run", "store")  # the JSON files are labels of the images


def test_a_class_whose_files_are_all_refused_is_left_out(tmp_path):
    root = fill(tmp_path / "set", "a/1.png", "a/2.png", "c/1.png", "c/2.png")
    (root / "b").mkdir()
    (root / "b" / "1.png").write_bytes(b"")
    (root / "b" / "2.jpg").write_text("no image")
    (root / "words.txt").write_text("a\tapple\nb\tbanana\nc\tcherry\n")
    dataset = open_or_prepare(open_source(str(root)), home=tmp_path / "home")
    assert dataset.classes == ["a", "c"]
    assert dataset.labels == ["apple", "cherry"]
    assert dataset.targets.tolist() == [0, 0, 1, 1]
    assert "classes without a usable image, ignored: b" in dataset.meta["warnings"]
    assert len(dataset.meta["refused"]) == 2
    assert open_or_prepare(open_source(str(root)), home=tmp_path / "home").path == dataset.path
    for path in (root / "c").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match="only class 'a' has an image that can be used"):
        open_or_prepare(open_source(str(root)), home=tmp_path / "home")


def test_images_to_evaluate_on_are_prepared_and_not_trained_on(tmp_path):
    from alexnet.training.resolve import resolve

    root = fill(tmp_path / "set", *pets("test"))
    dataset = open_or_prepare(open_source(str(root)), home=tmp_path / "home")
    assert dataset.meta["splits"] == {"train": 0, "val": 0, "test": 4}
    assert dataset.meta["warnings"] == []
    with pytest.raises(UserError, match="has only images to evaluate on: add training images"):
        resolve(None, str(root), (), None, print)


def test_predict_follows_links_as_train_does(tmp_path):
    photos = fill(tmp_path / "photos", "cat/1.png", "cat/more/2.png", "dog/1.png", "train/fox/1.png")
    root = tmp_path / "root"
    (root / "dog").mkdir(parents=True)
    (root / "cat").symlink_to(photos / "cat")
    (root / "train").symlink_to(photos / "train")
    (root / "dog" / "1.png").symlink_to(photos / "dog" / "1.png")
    (root / "dog" / "gone.png").symlink_to(tmp_path / "nowhere")
    (root / "dog" / "loop").symlink_to(root)
    (root / "self").symlink_to(root)
    names = ["cat/1.png", "cat/more/2.png", "dog/1.png", "train/fox/1.png"]
    assert list_images(root) == [root / name for name in names]
    link = tmp_path / "link"
    link.symlink_to(root)
    assert list_images(link) == [link / name for name in names]


def test_urls_are_not_fetched(tmp_path):
    for text in ((tmp_path / "set.tar").as_uri(), "cifar10:https://a.b/c"):
        with pytest.raises(UserError, match="URLs are not fetched: download the images"):
            open_source(text)


def test_a_built_in_name_that_hides_a_folder_is_said(tmp_path, monkeypatch):
    fill(tmp_path / "digits", "a/1.png", "b/2.png")
    monkeypatch.chdir(tmp_path)
    lines: list[str] = []
    assert open_source("digits", log=lines.append).location == "scikit-learn"
    assert lines == ["note: digits is the built-in image set; for the folder or file of that name here, write ./digits"]
    (tmp_path / "digits").rename(tmp_path / "other")
    open_source("digits", log=lines.append)
    assert len(lines) == 1
