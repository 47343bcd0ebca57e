"""Files of labels in the forms that people have: CSV, Kaggle, Caffe, PaddleClas, MXNet; and what is refused."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet import api
from alexnet.analysis.probe import make_folds
from alexnet.cli.main import main
from alexnet.core.errors import UserError
from alexnet.data.prepared import open_or_prepare
from alexnet.data.sources import label_files, open_source
from alexnet.runtime.log import NullReporter
from alexnet.training.datasets import open_dataset_for

IMAGES = ("1.png", "2.png", "3.png")


def fill(root: Path, *names: str) -> Path:
    """Image files with these names, no two the same."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(path)
    return root


def write(root: Path, lists: dict[str, str | bytes]) -> list[Path]:
    for name, text in lists.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        data = text if isinstance(text, bytes) else text.replace("ROOT", str(root)).encode()
        (root / name).write_bytes(data)
    return [root / name for name in lists]


def listed(source) -> list[tuple[str | None, str, str]]:
    return [(record.split, source.classes[record.label], record.name) for record in source.records()]


def opened(root: Path, images, lists, data="."):
    return open_source(str(fill(root, *images) / data), labels=write(root, lists))


@pytest.mark.parametrize(
    ("images", "lists", "found"),
    [
        (IMAGES, {"l.csv": "file,label\n1.png,cat\n2.png,dog\n3.png,cat\n"}, "cat 1.png, cat 3.png, dog 2.png"),
        (IMAGES, {"l.csv": "label,file\ncat,1.png\ndog,2.png\n"}, "cat 1.png, dog 2.png"),
        (IMAGES, {"l.csv": "bild,art\n1.png,Katze\n2.png,Hund\n"}, "Hund 2.png, Katze 1.png"),
        (IMAGES, {"l.csv": "1.png,cat\n2.png,dog\n"}, "cat 1.png, dog 2.png"),
        (IMAGES, {"l.csv": b"\xef\xbb\xbffile,label\r\n1.png,cat\r\n\r\n2.png,dog\r\n"}, "cat 1.png, dog 2.png"),
        (IMAGES, {"l.csv": "file,label\n1.png,猫\n2.png,狗\n".encode("utf-16")}, "狗 2.png, 猫 1.png"),
        (IMAGES, {"l.csv": "sep=;\nfile;label\n1.png;cat\n2.png;dog\n"}, "cat 1.png, dog 2.png"),
        (("a, b.png", "c.png"), {"l.csv": 'file,label\n"a, b.png",cat\nc.png,"dog, big"\n'},
         "cat a, b.png, dog, big c.png"),
        (("a/1.png", "b/2.png"), {"l.csv": "file,label\na\\1.png,x\nb\\2.png,y\n"}, "x a/1.png, y b/2.png"),
        # Kaggle: names without a suffix, in the folder of that split; other images have no labels
        (("train/a.png", "train/b.png", "test/a.png"), {"train.csv": "id,breed\na,pug\nb,beagle\n"},
         "beagle train/b.png, pug train/a.png"),
        (("train/a.png", "train/b.png"), {"train.csv": "Image,Id\na.png,w_1\nb.png,w_2\n"},
         "w_1 train/a.png, w_2 train/b.png"),
        (("part_1/I1.png", "part_2/I2.png"), {"m.csv": "lesion_id,image_id,dx,age\nH1,I1,nv,80\nH2,I2,mel,70\n"},
         "mel part_2/I2.png, nv part_1/I1.png"),
        (IMAGES, {"l.csv": "image,MEL,NV\n1,1.0,0.0\n2,0.0,1.0\n"}, "MEL 1.png, NV 2.png"),
        (("0/1.png", "0/2.png"), {"g.csv": "Filename;Width;ClassId\n1.png;29;0\n2.png;30;1\n"}, "0 0/1.png, 1 0/2.png"),
        # Caffe and PaddleClas: "path label", spaces in paths, integer labels in their order; MXNet
        (("my pets/a b.png", "my pets/c, d.png", "e.png"),
         {"train.txt": "my pets/a b.png 10\nmy pets/c, d.png 2\ne.png 2\n"},
         "10 my pets/a b.png, 2 e.png, 2 my pets/c, d.png"),
        (IMAGES, {"l.csv": "1.png,²\n2.png,1\n"}, "1 2.png, ² 1.png"),
        (("im/a.png", "im/b.png"), {"list.txt": "ROOT/im/a.png 0\nROOT/im/b.png 1\n"}, "0 im/a.png, 1 im/b.png"),
        (("im/a.png", "im/b.png"), {"list.txt": "/im/a.png 0\n/im/b.png 1\n"}, "0 im/a.png, 1 im/b.png"),
        (("a.png", "b.png"), {"x.lst": "0\t1.000000\ta.png\n1\t0.000000\tb.png\n"}, "0 b.png, 1 a.png"),
    ],
)  # fmt: skip
def test_forms_of_files(tmp_path, images, lists, found):
    source = opened(tmp_path, images, lists)
    assert ", ".join(sorted(f"{label} {name}" for split, label, name in listed(source) if split is None)) == found
    assert source.count == len(listed(source))


def test_integer_labels_keep_their_order(tmp_path):
    lists = {"l.txt": "a.png 10\nb.png 2\nc.png 02\n", "label_list.txt": "2 hen\n10 fox\n"}
    root = fill(tmp_path, "a.png", "b.png", "c.png")
    source = open_source(str(root), labels=write(root, lists)[:1])
    assert (source.classes, source.descriptions) == (("2", "10"), ("hen", "fox"))


def test_splits(tmp_path):
    expected = [("train", "cat", "1.png"), ("train", "dog", "2.png"), ("test", "cat", "3.png")]
    column = "file,label,split\n1.png,cat,train\n2.png,dog,Training\n3.png,cat,test\n"
    assert listed(opened(tmp_path / "a", IMAGES, {"l.csv": column})) == expected
    plain = "\n".join(column.splitlines()[1:])
    assert listed(opened(tmp_path / "b", IMAGES, {"l.csv": plain})) == expected
    several = {"train_list.txt": "1.png cat\n2.png dog\n", "test_list.txt": "3.png cat\n"}
    assert listed(opened(tmp_path / "c", IMAGES, several)) == expected
    folders = ("train/1.png", "train/2.png", "test/3.png")
    rows = {"l.csv": "file,label\ntrain/1.png,cat\ntrain/2.png,dog\ntest/3.png,cat\n"}
    source = opened(tmp_path / "d", folders, rows)
    assert [(split, label) for split, label, _ in listed(source)] == [row[:2] for row in expected]
    assert source.warnings == ("the splits are those of the folders: train/, val/ and test/, or names that mean them",)
    only = {"l.csv": "file,label,split\n1.png,cat,train\n2.png,dog,train\n"}
    assert {split for split, _, _ in listed(opened(tmp_path / "e", IMAGES, only))} == {None}
    birds = {"l.csv": "class id,filepaths,labels,data set\n0,1.png,cat,train\n1,2.png,dog,train\n0,3.png,cat,test\n"}
    assert listed(opened(tmp_path / "f", IMAGES, birds)) == expected


def test_paths_may_begin_at_the_folder_of_the_file(tmp_path):
    rows = {"lists/l.csv": "file,label\n../images/1.png,a\n../images/2.png,b\n"}
    assert opened(tmp_path / "x", ("images/1.png", "images/2.png"), rows, data="images").classes == ("a", "b")
    rows = {"l.csv": "file,label\nimages/1.png,a\nimages/2.png,b\n"}
    assert listed(opened(tmp_path / "y", ("images/1.png", "images/2.png"), rows, data="images")) == [
        (None, "a", "1.png"),
        (None, "b", "2.png"),
    ]


def test_what_is_left_out_is_named(tmp_path):
    rows = "file,label\n1.png,cat\n2.png,dog\n9.png,dog\n4.png,\n1.png,cat\n"
    source = opened(tmp_path, (*IMAGES, "4.png"), {"l.csv": rows})
    assert source.warnings == (
        "ignored, label without its image file: 9.png (l.csv, line 4)",
        "ignored, image without a label: 4.png (l.csv, line 5)",
        "ignored, image that is named again: 1.png (l.csv, line 6)",
        "ignored, image that the labels do not name: 3.png and 1 more",
    )


def test_columns_with_other_names_are_said(tmp_path):
    source = opened(tmp_path, IMAGES, {"l.csv": "id,breed\n1,pug\n2,beagle\n3,pug\n"})
    assert source.warnings == ("l.csv: the images are in column 'id', the classes in column 'breed'",)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("file,label,split\n1.png,cat,0\n2.png,dog,1\n", "line 2: '0' is not a split: write train, val or test"),
        ("file,label\n../../etc/passwd,cat\n2.png,dog\n", "line 2: '../../etc/passwd' is outside "),
        ("file,label\n/etc/passwd,cat\n2.png,dog\n", "line 2: '/etc/passwd' is outside "),
        ("file,label\n7.png,cat\n8.png,dog\n", "no row names an image in "),
        ("file,label\n1.png,cat\n2.png,dog\n1.png,dog\n", "1.png has 'cat' and 'dog' (l.csv, line 2; l.csv, line 4)"),
        ("file,label,split\n1.png,cat,train\n2.png,dog,train\n1.png,cat,test\n", "has the splits train and test"),
        ("file,label\n1.png,cat\n2.png,Cat\n", "the labels 'cat' and 'Cat' (l.csv, line 2; l.csv, line 3) differ only"),
        ("file,label\n1.png,cat\n2.png,cat\n", "has only one class, 'cat'"),
        ("file,label\n1.png,cat\n2.png\n", "line 3: 1 column(s) instead of 2 or more"),
        ("file,label\n1.png,cat\n,dog\n", "line 3: the name of the image is empty"),
        ("image,MEL,NV\n1,1,1\n2,0,1\n", "line 2: 2 classes have a 1; one image needs one class"),
        ("file,width,height\n1.png,30,40\n2.png,30,50\n", "it is not clear which column is the class"),
        ("label,pixel0,pixel1\n1,0,0\n0,0,255\n", "no column holds the names of the images"),
        ("id,label\na/1,x\n", "no row names an image"),
        ("", "has no rows of two columns"),
        ("file,label\n", "no row names an image"),
        (b"\0\1\2,\3\n", "is not a text file"),
        ("file,label\n1.png,\u72d7\u732b\n".encode("gbk"), "is not UTF-8 text: save it as UTF-8"),
    ],
)
def test_refusals(tmp_path, rows, words):
    with pytest.raises(UserError) as caught:
        opened(tmp_path, IMAGES, {"l.csv": rows})
    assert words in caught.value.line
    assert "\n" not in caught.value.line


def test_a_name_of_two_images_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"'1' may be a/1.png or b/1.png: write the whole path"):
        opened(tmp_path, ("a/1.png", "b/1.png", "c.png"), {"l.csv": "id,label\n1,x\nc,y\n"})


def test_several_files_need_names_of_splits(tmp_path):
    with pytest.raises(UserError, match=r"a\.txt: of several files of labels, each needs a name that means a split"):
        opened(tmp_path, IMAGES, {"a.txt": "1.png 0\n", "b.txt": "2.png 1\n"})


def test_files_that_cannot_be_used(tmp_path, monkeypatch):
    root = fill(tmp_path, *IMAGES)
    (labels,) = write(root, {"l.csv": "file,label\n1.png,cat\n2.png,dog\n"})
    with pytest.raises(UserError, match="there is no such file"):
        open_source(str(root), labels=[root / "gone.csv"])
    with pytest.raises(UserError, match="leave --labels out"):
        open_source("digits", labels=[labels])
    with pytest.raises(UserError, match="--labels needs a folder of images"):
        open_source(str(root / "1.png"), labels=[labels])
    os.mkfifo(root / "pipe")
    with pytest.raises(UserError, match="is not a regular file"):
        open_source(str(root), labels=[root / "pipe"])
    monkeypatch.setattr(label_files, "LIMIT", 10)
    with pytest.raises(UserError, match=r"cannot read .*l\.csv: is larger than"):
        open_source(str(root), labels=[labels])


def test_labels_and_folders_are_prepared_apart(tmp_path):
    """The same folder with and without labels: neither prepared dataset replaces the other."""
    root = fill(tmp_path, "a/1.png", "a/2.png", "b/3.png", "b/4.png")
    labels = write(root, {"l.csv": "file,label\na/1.png,x\na/2.png,y\nb/3.png,x\nb/4.png,y\n"})
    plain, _, _ = api.prepare(str(root), progress=False)
    labelled, _, _ = api.prepare(str(root), labels=labels, progress=False)
    assert (plain.classes, labelled.classes) == (["a", "b"], ["x", "y"])
    assert plain.path.exists()
    write(root, {"l.csv": "file,label\na/1.png,y\na/2.png,y\nb/3.png,x\nb/4.png,x\n"})
    changed, _, _ = api.prepare(str(root), labels=labels, progress=False)
    assert changed.digest != labelled.digest


def test_the_command_prepares_trains_and_evaluates(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ALEXNET_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(fill(tmp_path, *(f"images/{number}.png" for number in range(40))))
    rows = "".join(f"{number},{'dark' if number < 20 else 'light'}\n" for number in range(40))
    write(tmp_path, {"labels.csv": f"id,kind\n{rows}"})
    assert main(["prepare", "images", "--labels", "labels.csv", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["classes"], facts["images"]) == (["dark", "light"], 40)
    small = ["model.width=0.05", "train.epochs=1", "train.precision=fp32"]
    words = ["train", "--labels", "labels.csv", "--from", "none", "--out", "run", "--device", "cpu"]
    assert main([*words, *(word for change in small for word in ("--set", change))]) == 0
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (run["source"], run["labels"]) == (str(tmp_path), [str(tmp_path / "labels.csv")])
    capsys.readouterr()
    monkeypatch.chdir("/")
    assert main(["evaluate", str(tmp_path / "run"), "--device", "cpu", "--json"]) == 0
    own = json.loads(capsys.readouterr().out)
    given = ["--data", str(tmp_path / "images"), "--labels", str(tmp_path / "labels.csv")]
    assert main(["evaluate", str(tmp_path / "run"), *given, "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["loss"] == own["loss"]
    (tmp_path / "labels.csv").unlink()
    with pytest.raises(UserError, match=r"are no longer at .*labels\.csv: give their new path with --labels"):
        open_dataset_for(tmp_path / "run", api.load_model(tmp_path / "run"), None, None, NullReporter())


def test_images_of_one_group_stay_in_one_split_and_one_fold(tmp_path):
    """Sixty images of twelve animals: without the column their images would be in all splits."""
    names = [f"{number}.png" for number in range(60)]
    rows = "".join(f"{number}.png,{'cat' if number < 30 else 'dog'},animal {number // 5}\n" for number in range(60))
    source = opened(tmp_path / "set", names, {"labels.csv": f"file,label,group\n{rows}"})
    dataset = open_or_prepare(source, home=tmp_path / "home")
    animal = np.array([int(Path(name).stem) // 5 for name in dataset.names(np.arange(60))])
    assert all(len(set(dataset.groups[animal == each])) == 1 for each in range(12))
    assert len(set(dataset.groups)) == 12
    assert all(len(set(dataset.splits[animal == each])) == 1 for each in range(12))
    assert set(dataset.splits) == {0, 1, 2}
    for train, test in make_folds(dataset.targets, dataset.groups, dataset.classes):
        assert not set(animal[train]) & set(animal[test])
    apart = open_or_prepare(
        opened(tmp_path / "set", (), {"labels.csv": f"file,label,animal\n{rows}"}), home=tmp_path / "home"
    )
    assert np.array_equal(apart.groups, apart.hashes)
    assert any(len(set(apart.splits[animal == each])) > 1 for each in range(12))


def test_another_group_is_another_source(tmp_path):
    one = opened(tmp_path, IMAGES, {"l.csv": "file,label,group\n1.png,cat,a\n2.png,dog,b\n"})
    other = opened(tmp_path, (), {"l.csv": "file,label,group\n1.png,cat,a\n2.png,dog,a\n"})
    none = opened(tmp_path, (), {"l.csv": "file,label,group\n1.png,cat,\n2.png,dog,\n"})
    without = opened(tmp_path, (), {"l.csv": "file,label\n1.png,cat\n2.png,dog\n"})
    assert len({source.fingerprint for source in (one, other, none)}) == 3
    assert none.fingerprint == without.fingerprint


def test_an_image_in_two_groups_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"1\.png is in two groups \(l\.csv, line 2; l\.csv, line 4\)"):
        opened(
            tmp_path, IMAGES, {"l.csv": "file,label,group\n1.png,cat,a\n2.png,dog,b\n1.png,cat,b\n"}
        )  # fmt: skip
