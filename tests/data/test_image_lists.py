"""Lists of images: any layout, a row for each image, in a fixed order, from any row on."""

import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from alexnet.config import Preprocessing
from alexnet.core.errors import UserError
from alexnet.data.image_lists import open_images
from alexnet.data.prepared import open_or_prepare
from alexnet.data.sources import open_source

SETTINGS = Preprocessing(3, 16, 16, 16, "unit", (0.0,) * 3, (255.0,) * 3)
GREY = Preprocessing(1, 8, 8, 8, "unit", (0.0,), (255.0,))


def listed(images, settings=SETTINGS, start=0):
    found = open_images(images)
    rows = list(found.rows(settings, range(start, found.count)))
    assert len(rows) == found.count - start
    return rows


def names(rows):
    return [(row.name, row.class_name) for row in rows]


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "photos"
    for number, name in enumerate(("cat/1.png", "cat/2.png", "dog/1.png", "dog/sub/2.png")):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((20, 24, 3), 40 * number, np.uint8)).save(path)
    (root / "notes.txt").write_text("no image")
    (root / ".hidden.png").write_text("no image")
    return root


EXPECTED = [("cat/1.png", "cat"), ("cat/2.png", "cat"), ("dog/1.png", "dog"), ("dog/sub/2.png", "dog")]


def test_a_folder_of_class_folders(photos):
    rows = listed(photos)
    assert names(rows) == EXPECTED
    assert all(row.pixels.shape == (16, 16, 3) for row in rows)
    assert [row.pixels[0, 0, 0] for row in rows] == [0, 40, 80, 120]
    assert len({row.digest for row in rows}) == 4


def test_an_image_beside_the_class_folders_has_a_row_and_no_class(photos):
    (photos / "zebra.png").write_bytes((photos / "cat/1.png").read_bytes())
    assert names(listed(photos)) == [*EXPECTED, ("zebra.png", "")]


def test_a_flat_folder_and_a_folder_of_one_class(photos):
    assert names(listed(photos / "cat")) == [("1.png", ""), ("2.png", "")]
    assert names(listed(photos / "dog")) == [("1.png", ""), ("sub/2.png", "")]


def test_rows_from_any_number_on(photos):
    whole = listed(photos)
    for start in range(5):
        assert names(listed(photos, start=start)) == names(whole)[start:]


@pytest.mark.parametrize("form", ["tar", "tgz", "zip"])
def test_archives_with_and_without_class_folders(photos, tmp_path, form):
    def packed(name, folder):
        path = tmp_path / f"{name}.{form}"
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        if form == "zip":
            with zipfile.ZipFile(path, "w") as archive:
                for file in files:
                    archive.write(file, file.relative_to(folder))
        else:
            with tarfile.open(path, "w:gz" if form == "tgz" else "w") as archive:
                for file in files:
                    archive.add(file, file.relative_to(folder))
        return path

    path = packed("classes", photos)
    assert names(listed(path)) == EXPECTED
    assert names(listed(path, start=3)) == EXPECTED[3:]
    assert names(listed(packed("flat", photos / "cat"))) == [("1.png", ""), ("2.png", "")]
    np.testing.assert_array_equal(listed(path)[2].pixels, listed(photos)[2].pixels)


def test_a_text_file_with_paths(photos, tmp_path):
    path = photos / "list.txt"
    path.write_text(f"dog/1.png\n\n  cat/1.png  \n{photos}/cat/2.png\ncat/gone.png\nhttps://example.org/a.png\ncat\n")
    rows = listed(path)
    assert [row.name for row in rows][:3] == ["dog/1.png", "cat/1.png", f"{photos}/cat/2.png"]
    assert [row.pixels is None for row in rows] == [False] * 3 + [True] * 3
    assert [row.error for row in rows][3:5] == [
        "cannot be read: No such file or directory",
        "is a URL, and URLs are not fetched: download the image and give its path",
    ]
    assert rows[5].error == "cannot be read: Is a directory"


def test_a_csv_file_with_classes(photos):
    path = photos / "list.csv"
    path.write_text('class,file,more\nfelis,cat/1.png,3\n"canis, lupus",dog/1.png\n,cat/2.png,\n')
    assert names(listed(path)) == [("cat/1.png", "felis"), ("dog/1.png", "canis, lupus"), ("cat/2.png", "")]
    path.write_text("path,label\ncat/1.png,a\n")
    with pytest.raises(UserError, match="has no column 'file' in its first line"):
        open_images(path)
    path.write_text("file,label\n,a\n")
    with pytest.raises(UserError, match="line 2: there is no path"):
        open_images(path)


def test_one_image(photos):
    assert names(listed(photos / "dog" / "1.png")) == [("1.png", "")]


def test_a_source_and_its_prepared_dataset():
    rows = listed("digits", GREY)
    assert len(rows) == 1797
    assert rows[0].name == "train/00000"
    dataset = open_or_prepare(open_source("digits"))
    prepared = listed(dataset.path, GREY)
    assert [(row.name, row.class_name, row.split) for row in rows] == [
        (row.name, row.class_name, row.split) for row in prepared
    ]
    assert all(np.array_equal(one.pixels, other.pixels) for one, other in zip(rows, prepared, strict=True))
    assert [row.digest for row in rows] == [row.digest for row in prepared]
    assert names(listed(dataset.path, GREY, 1790)) == names(rows)[1790:]
    with pytest.raises(UserError, match="holds images of 8 pixels, 1 channels, short-side; the model needs 16"):
        listed(dataset.path)


def test_the_fingerprint_changes_with_the_images(photos):
    before = open_images(photos).fingerprint
    assert open_images(photos).fingerprint == before
    (photos / "cat" / "3.png").write_bytes((photos / "cat" / "2.png").read_bytes())
    assert open_images(photos).fingerprint != before
    first, second = np.zeros((8, 8, 3), np.uint8), np.ones((8, 8, 3), np.uint8)
    assert open_images([first, second]).fingerprint != open_images([second, first]).fingerprint


def test_an_image_that_disappears_keeps_its_row(photos):
    found = open_images(photos)
    (photos / "cat" / "2.png").unlink()
    rows = list(found.rows(SETTINGS))
    assert [row.error for row in rows] == ["", "cannot be read: No such file or directory", "", ""]


def test_a_large_member_of_an_archive_keeps_its_row(photos, tmp_path, monkeypatch):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(photos / "cat", "cat")
    monkeypatch.setattr("alexnet.data.image_lists.MEMBER_LIMIT", 10)
    assert [row.error for row in listed(tmp_path / "a.tar")] == ["is larger than 0 MiB, the limit for such a file"] * 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nosuch", "unknown source 'nosuch'"),
        ("", "the source is empty"),
        ("file:///nosuch/a", "URLs are not fetched"),
        ("photos/notes.md", "is no image, tar, zip or list of images"),
        ("photos/empty", "has no images"),
        ("photos/empty.txt", "has no images"),
        ([], "has no images"),
    ],
)
def test_a_mistake_costs_one_line(photos, tmp_path, monkeypatch, given, message):
    monkeypatch.chdir(tmp_path)
    (photos / "empty").mkdir()
    (photos / "notes.md").write_text("# Notes")
    (photos / "empty.txt").touch()
    with pytest.raises(UserError, match=message):
        open_images(given)
