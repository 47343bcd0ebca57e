"""Descriptions of sources, and folders: what becomes which split and class, and what is refused in which words."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from alexnet.core.errors import UserError
from alexnet.data.home import data_home
from alexnet.data.sources import BUILTIN_SOURCES, open_source
from alexnet.data.writer import decode_all


def fill(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode(name))
    return root


def listed(source):
    return [(record.split, source.classes[record.label], record.name) for record in source.records()]


def error(text, **options) -> str:
    with pytest.raises(UserError) as caught:
        source = open_source(str(text), **options)
        list(source.records())
    assert "\n" not in caught.value.line
    return caught.value.line


def test_class_folders_without_splits(tmp_path):
    fill(tmp_path, "dog/b.jpg", "cat/10.jpg", "cat/2.jpg", "cat/deep/er/1.jpg", "words.txt", ".git/config")
    fill(tmp_path, "dog/.DS_Store", "dog/Thumbs.db", "dog/notes.txt")
    source = open_source(str(tmp_path))
    assert source.classes == ("cat", "dog")
    assert listed(source) == [
        (None, "cat", "cat/10.jpg"),
        (None, "cat", "cat/2.jpg"),
        (None, "cat", "cat/deep/er/1.jpg"),
        (None, "dog", "dog/b.jpg"),
        (None, "dog", "dog/notes.txt"),  # whether it is an image is for the decoder to say
    ]
    assert next(source.records()).payload == tmp_path / "cat/10.jpg"
    assert (source.count, source.pixel_shape, source.descriptions, source.warnings) == (5, None, None, ())
    assert source.location == str(tmp_path.resolve())
    assert listed(source) == listed(source)


@pytest.mark.parametrize("train", ["train", "Train", "training"])
@pytest.mark.parametrize("val", ["val", "valid", "Validation"])
def test_splits_above_the_classes(tmp_path, train, val):
    fill(tmp_path, f"{train}/a/1", f"{train}/b/1", f"{val}/b/2", "test/a/3", "test/b/3")
    source = open_source(str(tmp_path))
    assert [(split, name) for split, name, _ in listed(source)] == [
        ("train", "a"),
        ("train", "b"),
        ("val", "b"),
        ("test", "a"),
        ("test", "b"),
    ]


def test_train_alone_is_no_split(tmp_path):
    fill(tmp_path, "train/a/1", "train/b/1", "test/1.jpg", "other/x")
    source = open_source(str(tmp_path))
    assert {split for split, _, _ in listed(source)} == {None}
    assert source.warnings == (
        "ignored, folder beside train/: other",
        "ignored, split without class folders: test",
    )


def test_a_folder_named_train_can_be_a_class(tmp_path):
    fill(tmp_path, "train/1.jpg", "bus/1.jpg")
    assert open_source(str(tmp_path)).classes == ("bus", "train")


def test_two_names_for_one_split(tmp_path):
    fill(tmp_path, "train/a/1", "train/b/1", "val/a/1", "valid/a/1")
    assert "val/ and valid/, which mean the same split" in error(tmp_path)


def test_splits_without_train(tmp_path):
    fill(tmp_path, "val/a/1", "test/b/1")
    source = open_source(str(tmp_path))  # to evaluate on: training refuses it
    assert [(split, name) for split, name, _ in listed(source)] == [("val", "a"), ("test", "b")]
    assert not source.trainable


def test_class_that_train_lacks(tmp_path):
    fill(tmp_path, "train/a/1", "train/b/1", "test/a/1", "test/c/1", "test/d/1")
    assert error(tmp_path).endswith("test class 'c' has no images in train, and 1 more")


def test_empty_class_folder_is_left_out_with_a_warning(tmp_path):
    fill(tmp_path, "a/1", "b/1")
    (tmp_path / "empty").mkdir()
    source = open_source(str(tmp_path))
    assert source.classes == ("a", "b")
    assert source.warnings == ("class folder without files, ignored: empty",)


def test_folders_that_are_no_source(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert error(empty) == f"{empty} is empty: expected one folder of images per class"
    assert "has no class folders" in error(fill(tmp_path / "flat", "1.jpg"))
    assert "has only one class, 'cat'" in error(fill(tmp_path / "one", "cat/1.jpg"))
    alike = error(fill(tmp_path / "alike", "a\nb/1.jpg", "a\\nb/1.jpg"))
    assert "has two class folders that are both shown as 'a\\\\nb': rename one" in alike
    (tmp_path / "hollow" / "a").mkdir(parents=True)
    assert error(tmp_path / "hollow").startswith("no images in ")
    assert "is a file but not a tar" in error(fill(tmp_path, "photo.jpg") / "photo.jpg")
    os.mkfifo(tmp_path / "pipe")
    assert "neither a folder nor a file" in error(tmp_path / "pipe")


def test_files_without_end_are_left_out_alone(tmp_path):
    root = fill(tmp_path / "set", "cat/1.jpg", "dog/2.jpg")
    for name in ("cat/huge.jpg", "words.txt"):
        with (root / name).open("wb") as file:
            file.truncate(20 << 30)
    for name, target in (("zero.jpg", "/dev/zero"), ("terminal.jpg", "/dev/tty")):
        (root / "dog" / name).symlink_to(target)
    os.mkfifo(root / "dog" / "pipe.jpg")
    source = open_source(str(root))
    assert source.warnings == (
        "ignored, link to a folder or to a missing file, or no regular file: "
        f"{root / 'dog' / sorted(['zero.jpg', 'terminal.jpg', 'pipe.jpg'])[0]} and 2 more",
        f"ignored, names of classes: is larger than 16 MiB, the limit for such a file: {root / 'words.txt'}",
    )
    decoded = {item.record.name: item.reason for item in decode_all(source.records(), 8, 3, 1)}
    assert decoded["cat/huge.jpg"] == "cannot be read: is larger than 256 MiB, the limit for such a file"
    assert len(decoded) == 3


def test_a_file_that_became_a_pipe_since_it_was_listed(tmp_path):
    source = open_source(str(fill(tmp_path, "cat/1.jpg", "dog/2.jpg")))
    (tmp_path / "cat" / "1.jpg").unlink()
    os.mkfifo(tmp_path / "cat" / "1.jpg")
    reasons = [item.reason for item in decode_all(source.records(), 8, 3, 1)]
    assert reasons[0] == "cannot be read: is not a regular file"


@pytest.mark.parametrize(
    ("source", "image", "labels"),
    [
        ("tiny-imagenet", "val/images/3.jpg", "val/val_annotations.txt"),
        ("imagenet", "val/ILSVRC2012_val_00000001.JPEG", "LOC_val_solution.csv"),
    ],
)
def test_labels_without_end(tmp_path, source, image, labels):
    fill(tmp_path, "train/a/1.jpg", "train/b/2.jpg", image)
    with (tmp_path / labels).open("wb") as file:
        file.truncate(20 << 30)
    assert error(f"{source}:{tmp_path}") == (
        f"cannot read {tmp_path / labels}: is larger than 16 MiB, the limit for such a file"
    )


def test_unreadable_folder(tmp_path, monkeypatch):
    fill(tmp_path, "a/1", "b/1")

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    assert error(tmp_path) == f"cannot read {tmp_path}: Permission denied"
    monkeypatch.setattr(Path, "is_dir", refuse)
    assert error(f"imagenet:{tmp_path}") == f"cannot read {tmp_path / 'train'}: Permission denied"


def test_unreadable_path(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert error(tmp_path) == f"cannot read {tmp_path}: permission denied"
    assert "cannot read" in error("a" * 5000)


def test_links(tmp_path):
    photos = fill(tmp_path / "photos", "cat/1.jpg", "cat/more/2.jpg", "dog/1.jpg")
    root = tmp_path / "root"
    root.mkdir()
    (root / "cat").symlink_to(photos / "cat")  # a class folder may be a link
    (root / "dog").mkdir()
    (root / "dog" / "1.jpg").symlink_to(photos / "dog/1.jpg")  # so may a file
    (root / "dog" / "gone.jpg").symlink_to(tmp_path / "nowhere")
    (root / "dog" / "loop").symlink_to(root)
    (root / "dog" / "circle").symlink_to(root / "dog" / "circle")
    (root / "circle").symlink_to(root / "circle")
    (root / "self").symlink_to(root)
    source = open_source(str(root))
    assert [name for _, _, name in listed(source)] == ["cat/1.jpg", "cat/more/2.jpg", "dog/1.jpg"]
    assert len(source.warnings) == 2
    assert any("link to a folder above it" in warning for warning in source.warnings)
    assert any("and 2 more" in warning for warning in source.warnings)


def test_names_that_are_not_utf8(tmp_path):
    fill(tmp_path, "b/1", os.fsdecode(b"a\xff/\xfe.jpg"))
    source = open_source(str(tmp_path))
    assert source.classes == ("a\\xff", "b")
    first = next(source.records())
    assert (first.name, first.payload.read_bytes()) == ("a\\xff/\\xfe.jpg", b"a\xff/\xfe.jpg")


def test_fingerprint_changes_with_the_files(tmp_path):
    fill(tmp_path, "a/1", "b/1")
    first = open_source(str(tmp_path)).fingerprint
    assert open_source(str(tmp_path)).fingerprint == first
    os.utime(tmp_path / "a/1", ns=(1, 1))
    second = open_source(str(tmp_path)).fingerprint
    fill(tmp_path, "b/2")
    assert len({first, second, open_source(str(tmp_path)).fingerprint}) == 3
    assert len(first) == 64


def test_readable_class_names(tmp_path):
    fill(tmp_path, "n01/1", "n02/1", "n03/1")
    (tmp_path / "words.txt").write_text("n02\ttench, Tinca tinca\nn01\tgoldfish\nn99\tnothing here\n")
    assert open_source(str(tmp_path)).descriptions == ("goldfish", "tench, Tinca tinca", "n03")
    (tmp_path / "LOC_synset_mapping.txt").write_text("n01 a carp\n\nn02 a tench\nn03 a shark\n")
    assert open_source(str(tmp_path)).descriptions == ("a carp", "a tench", "a shark")


def test_source_names_are_safe_for_files(tmp_path):
    fill(tmp_path / "my photos (2)!", "a/1", "b/1")
    assert open_source(str(tmp_path / "my photos (2)!")).name == "my-photos-2"


def test_unknown_source():
    assert error("cifar1O") == "unknown source 'cifar1O': neither a built-in name nor an existing path"
    with pytest.raises(UserError, match="did you mean 'cifar10'"):
        open_source("cifar1O")
    assert error("\0").startswith("unknown source ")
    assert error("imagenet:").endswith("has no path after the colon: write imagenet:PATH, or imagenet alone")
    for text in ("cifar10:/nowhere/at/all", "/nowhere/at/all", "photos:/tmp", "~nobody-of-that-name/x", "./nowhere"):
        assert error(text) == f"there is no folder or file {text.removeprefix('cifar10:')}"


def test_a_data_root_that_is_not_there_is_not_ignored(tmp_path):
    for text in ("digits", "fashion-mnist", str(tmp_path)):
        with pytest.raises(UserError, match=r"--data-root .*/gone: there is no such folder"):
            open_source(text, tmp_path / "gone")


def test_a_data_root_may_begin_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "sets").mkdir()
    with pytest.raises(UserError) as caught:
        open_source("imagenet", Path("~/sets"))
    assert f"looked in {tmp_path}/sets/imagenet" in caught.value.details


@pytest.mark.parametrize("sign", ["val/ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_devkit_t12/readme.txt"])
def test_an_ilsvrc_directory_is_not_taken_for_any_folder(tmp_path, sign):
    """As a plain folder its val would be ignored, and a test set cut from train."""
    fill(tmp_path, "train/n01/1", "train/n02/1", sign)
    assert error(str(tmp_path)).endswith(f"whose val/ is the test set: write imagenet:{tmp_path}")


def test_kaggles_tree_is_not_taken_for_any_folder(tmp_path):
    fill(tmp_path, "ILSVRC/Data/CLS-LOC/train/n01/1", "ILSVRC/Data/CLS-LOC/train/n02/1")
    assert "write imagenet:" in error(str(tmp_path))


def test_built_in_name_wins_over_a_path(tmp_path, monkeypatch):
    fill(tmp_path / "digits", "a/1", "b/1")
    monkeypatch.chdir(tmp_path)
    assert open_source("digits").location == "scikit-learn"
    assert open_source("./digits").classes == ("a", "b")


def test_built_in_name_with_a_folder_of_images(tmp_path):
    fill(tmp_path, "train/a/1", "train/b/1", "test/a/1")
    source = open_source(f"cifar10:{tmp_path}")
    assert source.classes == ("a", "b")
    assert error(f"digits:{tmp_path}").endswith("write digits")


def test_data_home(monkeypatch):
    monkeypatch.setenv("ALEXNET_HOME", "/a/home")
    assert data_home() == Path("/a/home")
    monkeypatch.setenv("ALEXNET_HOME", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "/a/cache")
    assert data_home() == Path("/a/cache/alexnet")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert data_home() == Path.home() / ".cache/alexnet"


def test_built_in_sources_are_described_in_a_line():
    sets = {"digits", "mnist", "fashion-mnist", "cifar10", "cifar100", "tiny-imagenet", "imagenet"}
    assert set(BUILTIN_SOURCES) == sets
    assert all(line and "\n" not in line for line in (source.about for source in BUILTIN_SOURCES.values()))


def test_images_beside_class_folders_are_named(tmp_path):
    fill(tmp_path, "train/a/1.jpg", "train/b/2.jpg", "test/a/3.jpg", "test/b/4.jpg", "test/5.jpeg", "test/6.PNG")
    assert open_source(str(tmp_path)).warnings == (
        "ignored, image beside the class folders: test/5.jpeg and 1 more",
    )  # fmt: skip
    fill(tmp_path / "plain", "a/1.jpg", "b/2.jpg", "3.jpg", "readme.txt", ".4.jpg")
    assert open_source(str(tmp_path / "plain")).warnings == ("ignored, image beside the class folders: 3.jpg",)


def test_a_row_of_the_table_is_all_that_a_source_needs(tmp_path, monkeypatch):
    asked = []

    def open_made(path, roots, log):
        asked.append((path, roots))
        return replace(open_source("digits"), name="made")

    monkeypatch.setitem(BUILTIN_SOURCES, "made", replace(BUILTIN_SOURCES["mnist"], about="made here", open=open_made))
    assert open_source("made", tmp_path).name == "made"
    assert open_source(f"made:{tmp_path}").name == "made"
    assert asked == [(None, [tmp_path, data_home()]), (tmp_path, [data_home()])]
    assert error("maid").startswith("unknown source 'maid'")
    with pytest.raises(UserError) as caught:
        open_source("maid")
    assert caught.value.details[0] == "did you mean 'made'?"
