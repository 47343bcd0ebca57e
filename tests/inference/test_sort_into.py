"""Copies of images by class: nothing is moved, overwritten or written elsewhere."""

import pytest

from alexnet.core.errors import UserError
from alexnet.inference.sort_into import SortedFolder, class_folders


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "in" / "cat.png"
    path.parent.mkdir()
    path.write_bytes(b"one")
    return path


def test_a_copy_never_overwrites_and_is_made_once(image, tmp_path):
    folder = SortedFolder(tmp_path / "out", ["cat"])
    (tmp_path / "out" / "cat").mkdir(parents=True)
    (tmp_path / "out" / "cat" / "cat.png").write_bytes(b"another")
    for _ in range(2):  # repeated, it is the same
        assert folder.copy(image, "cat") == tmp_path / "out" / "cat" / "cat-2.png"
    image.write_bytes(b"two")
    assert folder.copy(image, "cat").name == "cat-3.png"
    assert folder.copy(image, "none of these") == tmp_path / "out" / "none of these" / "cat.png"
    assert (tmp_path / "out" / "cat" / "cat.png").read_bytes() == b"another"
    assert image.read_bytes() == b"two"
    assert len(list((tmp_path / "out").rglob("*.png"))) == 4


def test_links_are_not_written_through(image, tmp_path):
    outside = tmp_path / "victim"
    outside.mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "cat").symlink_to(outside)
    folder = SortedFolder(tmp_path / "out", ["cat", "dog"])
    with pytest.raises(UserError, match="is a link: nothing is copied through it"):
        folder.copy(image, "cat")
    (tmp_path / "out" / "dog").mkdir()
    (tmp_path / "out" / "dog" / "cat.png").symlink_to(outside / "new.png")  # leads to nothing
    assert folder.copy(image, "dog").name == "cat-2.png"
    assert list(outside.iterdir()) == []


def test_a_copy_that_fails_is_one_line_and_leaves_nothing(image, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "cat").write_text("a file")
    with pytest.raises(UserError, match=r"cannot copy .* File exists"):
        SortedFolder(tmp_path / "out", ["cat"]).copy(image, "cat")
    image.unlink()
    with pytest.raises(UserError, match=r"cannot copy .* No such file"):
        SortedFolder(tmp_path / "out", ["dog"]).copy(image, "dog")
    assert list((tmp_path / "out" / "dog").iterdir()) == []


def test_the_folder_is_not_among_the_images(image, tmp_path):
    with pytest.raises(UserError, match=r"is inside .*, whose images are sorted"):
        SortedFolder(tmp_path / "in" / "out", ["cat"]).check_inputs([str(tmp_path / "in")])
    with pytest.raises(UserError, match="copies files, and standard input is none"):
        SortedFolder(tmp_path / "out", ["cat"]).check_inputs(["-"])
    SortedFolder(tmp_path / "out", ["cat"]).check_inputs([str(image), str(tmp_path / "in")])


def test_names_of_classes_become_names_of_folders():
    hostile = ["../up", "a/b", "a_b", ".", "..", "", "Cat", "cat", "nul\0", "\x1b[31m", "x" * 300, "猫", "trailing. "]
    names = class_folders(hostile)
    assert list(names) == hostile
    assert names["猫"] == "猫"
    assert len({name.casefold() for name in names.values()}) == len(hostile)
    for name in names.values():
        assert name.isprintable()
        assert 0 < len(name.encode()) < 220
        assert not set(name) & set('/\\:*?"<>|')
        assert not name.startswith(".")
