"""Tiny ImageNet as published and in class folders, and what is missing said."""

from pathlib import Path

import pytest

from alexnet.core.errors import UserError
from alexnet.data.sources import open_source

WNIDS = ("n01443537", "n02084071")


def fill(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


@pytest.fixture
def published(tmp_path):
    """The tree that the archive unpacks to."""
    root = tmp_path / "tiny-imagenet-200"
    for wnid in WNIDS:
        fill(root, *(f"train/{wnid}/images/{wnid}_{i}.JPEG" for i in range(3)), f"train/{wnid}/{wnid}_boxes.txt")
    fill(root, *(f"val/images/val_{i}.JPEG" for i in range(4)), "test/images/test_0.JPEG")
    lines = [f"val_{i}.JPEG\t{WNIDS[i % 2]}\t0\t0\t63\t63\n" for i in range(3)]
    (root / "val/val_annotations.txt").write_text("".join(lines))
    (root / "words.txt").write_text("n01443537\tgoldfish, Carassius auratus\nn02084071\tdog\nn00001740\tentity\n")
    return root


def records(source):
    return [(record.split, record.label, record.name) for record in source.records()]


def test_as_published(published):
    source = open_source(f"tiny-imagenet:{published}")
    assert (source.name, source.classes, source.count) == ("tiny-imagenet", WNIDS, 9)
    assert source.descriptions == ("goldfish, Carassius auratus", "dog")
    assert records(source) == [
        *(("train", c, f"train/{wnid}/images/{wnid}_{i}.JPEG") for c, wnid in enumerate(WNIDS) for i in range(3)),
        *(("test", label, f"val/images/val_{i}.JPEG") for label, i in ((0, 0), (0, 2), (1, 1))),
    ]
    assert source.warnings == ("ignored, file without a label: val/images/val_3.JPEG",)


def test_in_class_folders(tmp_path):
    for wnid in WNIDS:
        fill(tmp_path, f"train/{wnid}/a.JPEG", f"train/{wnid}/b.JPEG", f"val/{wnid}/c.JPEG")
    assert records(open_source(f"tiny-imagenet:{tmp_path}")) == [
        *(("train", c, f"train/{wnid}/{name}.JPEG") for c, wnid in enumerate(WNIDS) for name in "ab"),
        *(("test", c, f"val/{wnid}/c.JPEG") for c, wnid in enumerate(WNIDS)),
    ]


def test_it_is_found_below_the_data_root(published):
    source = open_source("tiny-imagenet", published.parent)
    assert source.location == str(published)


def test_what_is_missing_is_said(published, tmp_path, monkeypatch):
    monkeypatch.setenv("ALEXNET_HOME", str(tmp_path / "home"))
    with pytest.raises(UserError, match="tiny-imagenet was not found: give tiny-imagenet:PATH"):
        open_source("tiny-imagenet")
    with pytest.raises(UserError, match="val does not hold tiny-imagenet, a folder with train/ and val/"):
        open_source(f"tiny-imagenet:{published / 'val'}")
    annotations = published / "val/val_annotations.txt"
    annotations.write_text("val_0.JPEG n01443537\n")
    with pytest.raises(UserError, match=r"val_annotations\.txt, line 1: expected a file, a tab and a class"):
        open_source(f"tiny-imagenet:{published}")
    annotations.unlink()
    with pytest.raises(UserError, match=r"no class folders and its labels are missing: put val_annotations\.txt there"):
        open_source(f"tiny-imagenet:{published}")
