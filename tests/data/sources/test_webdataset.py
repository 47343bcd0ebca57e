"""Tars of WebDataset: how they are recognized, classes and splits, samples that cannot be used, refusals."""

import io
import json
import pickle
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from alexnet import train
from alexnet.cli.main import main as cli
from alexnet.core.errors import UserError
from alexnet.data.prepared import open_or_prepare
from alexnet.data.sources import archives, open_source, webdataset
from alexnet.data.sources.split_names import split_in


@pytest.fixture(scope="module")
def photo():
    """The bytes of a JPEG file: a part of one of scikit-learn's two photographs, another one for each number."""
    photographs = load_sample_images().images

    def make(number: int) -> bytes:
        file, top = io.BytesIO(), 6 * number
        Image.fromarray(photographs[number % 2][top : top + 90, top : top + 120]).save(file, "jpeg", quality=80)
        return file.getvalue()

    return make


def pack(path: Path, files, mode="w") -> Path:
    """Write (name, bytes or text) in this order, or a finished header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in files:
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content, io.BytesIO(bytes(content.size)))
                continue
            data = content if isinstance(content, bytes) else str(content).encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def samples(*labels, first=0):
    """Samples "0000", "0001", … whose images are the text of their numbers."""
    return [
        pair
        for number, label in enumerate(labels, first)
        for pair in ((f"{number:04d}.jpg", f"image {number}"), (f"{number:04d}.cls", label))
    ]


def listed(source):
    return [(record.split, source.classes[record.label], record.name) for record in source.records()]


def error(path) -> UserError:
    with pytest.raises(UserError) as caught:
        open_source(str(path))
    assert "\n" not in caught.value.line
    return caught.value


@pytest.mark.parametrize("suffix", ["", ":gz", ":bz2", ":xz"])
def test_one_tar(tmp_path, suffix):
    path = pack(tmp_path / "animals.tar", samples("cat", "dog", "cat"), f"w{suffix}")
    source = open_source(str(path))
    assert listed(source) == [(None, "cat", "0000.jpg"), (None, "dog", "0001.jpg"), (None, "cat", "0002.jpg")]
    assert [record.payload for record in source.records()] == [b"image 0", b"image 1", b"image 2"]
    assert (source.name, source.count, source.warnings, source.location) == ("animals", 3, (), str(path))
    assert source.trainable


def test_splits_are_those_of_the_names_of_the_tars(tmp_path):
    pack(tmp_path / "pets-train-000001.tar", samples("cat", "dog"))
    pack(tmp_path / "pets-train-000000.tar", samples("dog", "cat"))
    pack(tmp_path / "pets-validation-000000.tar.gz", samples("cat"), "w:gz")
    pack(tmp_path / "pets-test-000000.tar", samples("dog"))
    source = open_source(str(tmp_path))
    assert listed(source) == [
        ("train", "dog", "pets-train-000000.tar/0000.jpg"),
        ("train", "cat", "pets-train-000000.tar/0001.jpg"),
        ("train", "cat", "pets-train-000001.tar/0000.jpg"),
        ("train", "dog", "pets-train-000001.tar/0001.jpg"),
        ("val", "cat", "pets-validation-000000.tar.gz/0000.jpg"),
        ("test", "dog", "pets-test-000000.tar/0000.jpg"),
    ]
    assert (source.count, source.warnings) == (6, ())


def test_splits_are_those_of_the_folders(tmp_path):
    """The layout of the sets of CLIP benchmark: ``test/0.tar``, ``test/nshards.txt`` and ``classnames.txt``."""
    pack(tmp_path / "train/0.tar", samples(1, 0))
    pack(tmp_path / "test/0.tar", [("s0.webp", "image"), ("s0.cls", "1"), ("s0.npy", "not read")])
    (tmp_path / "test/nshards.txt").write_text("1")
    (tmp_path / "classnames.txt").write_text("golden retriever\ntabby cat\n")
    source = open_source(str(tmp_path))
    assert source.classes == ("golden retriever", "tabby cat")
    assert listed(source) == [
        ("train", "tabby cat", "train/0.tar/0000.jpg"),
        ("train", "golden retriever", "train/0.tar/0001.jpg"),
        ("test", "tabby cat", "test/0.tar/s0.webp"),
    ]


def test_train_alone_is_no_split_and_test_alone_is_only_evaluated_on(tmp_path):
    pack(tmp_path / "one/train-0.tar", samples("a", "b"))
    source = open_source(str(tmp_path / "one"))
    assert ({split for split, _, _ in listed(source)}, source.trainable) == ({None}, True)
    pack(tmp_path / "two/test-0.tar", samples("a"))
    source = open_source(str(tmp_path / "two"))
    assert ({split for split, _, _ in listed(source)}, source.trainable) == ({"test"}, False)
    single = open_source(str(tmp_path / "one/train-0.tar"))
    assert listed(single)[0] == (None, "a", "0000.jpg")


def test_tars_without_splits_and_a_tar_beside_splits(tmp_path):
    for number in range(2):
        pack(tmp_path / f"{number:05d}.tar", samples("a", "b"))
    assert [split for split, _, _ in listed(open_source(str(tmp_path)))] == [None] * 4
    pack(tmp_path / "train-0.tar", samples("a", "b"))
    pack(tmp_path / "unlabeled-0.tar", samples("a", "b"))
    source = open_source(str(tmp_path))
    assert [name for _, _, name in listed(source)] == ["train-0.tar/0000.jpg", "train-0.tar/0001.jpg"]
    assert source.warnings == ("ignored, tar whose name means no split, beside others: 00000.tar and 2 more",)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("imagenet1k-train-0012", "train"),
        ("imagenet_val-000000-val", "val"),
        ("validation", "val"),
        ("seg_test", "test"),
        ("trainval-01", "train"),
        ("train-test-01", None),
        ("trains-01", None),
        ("000123", None),
    ],
)
def test_the_split_that_a_name_of_a_file_means(name, split):
    assert split_in(name) == split


def test_numbers_are_classes_in_the_order_of_numbers(tmp_path):
    path = pack(tmp_path / "t.tar", samples(10, "02", 2, "10\n"))
    source = open_source(str(path))
    assert source.classes == ("2", "10")
    assert [name for _, name, _ in listed(source)] == ["10", "2", "2", "10"]
    (tmp_path / "label_list.txt").write_text("2 tabby cat\n10 terrier\n")
    assert open_source(str(path)).descriptions == ("tabby cat", "terrier")


@pytest.mark.parametrize("name", ["classes.txt", "classnames.txt"])
def test_a_file_names_the_numbers(tmp_path, name):
    """In the order of the numbers; a class without images is left out."""
    path = pack(tmp_path / "t.tar", samples(2, 0, 2))
    before = open_source(str(path)).fingerprint
    (tmp_path / name).write_text("zebra\nbear\ncat\n")
    source = open_source(str(path))
    assert source.classes == ("zebra", "cat")
    assert [name for _, name, _ in listed(source)] == ["cat", "zebra", "cat"]
    assert source.fingerprint != before


def test_names_are_classes_and_a_file_of_numbers_is_not_used(tmp_path):
    (tmp_path / "classes.txt").write_text("unused\n")
    (tmp_path / "words.txt").write_text("n02123045\ttabby\n")
    source = open_source(str(pack(tmp_path / "t.tar", samples("n02123045", "n01440764", "7"))))
    assert source.classes == ("7", "n01440764", "n02123045")
    assert source.descriptions == ("7", "n01440764", "tabby")


def test_the_fields_that_hold_a_class(tmp_path):
    files = [
        ("a.JPG", "1"), ("a.CLS", "3"),
        ("b.json", '{"label": 3, "caption": "x"}'), ("b.png", "2"), ("b.txt", "4"), ("b.pyd", pickle.dumps(9)),
        ("c.left.jpg", "3"), ("c.cls.txt", " 4\n"), ("c.json", '{"label": 9}'),
        ("d.webp", "4"), ("d.json", '{"cls": 4.0, "label": "other"}'),
        ("e.jpeg", "5"), ("e.cls", "\ufeff3"), ("e.seg.npy", "mask"), ("e.pth", "weights"),
    ]  # fmt: skip
    source = open_source(str(pack(tmp_path / "t.tar", files)))
    assert [(name, label) for _, label, name in listed(source)] == [
        ("a.JPG", "3"), ("b.png", "3"), ("c.left.jpg", "4"), ("d.webp", "4"), ("e.jpeg", "3"),
    ]  # fmt: skip
    assert source.warnings == ()


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ([("x.cls", "a")], "sample without an image: x"),
        ([("x.jpg", "i")], "sample without a class: x"),
        ([("x.jpg", "i"), ("x.txt", "a")], "sample without a class: x"),
        ([("x.jpg", "i"), ("x.json", '{"caption": "a"}')], "sample without a class: x"),
        ([("x.jpg", "i"), ("x.json", '{"label": true}')], "sample without a class: x"),
        ([("x.jpg", "i"), ("x.json", '{"label": [1, 2]}')], "sample without a class: x"),
        ([("x.jpg", "i"), ("x.json", '{"label": 1e999}')], "sample without a class: x"),
        ([("x.jpg", "i"), ("x.json", "[" * 100_000)], "sample without a class: x"),
        ([("x.jpg", "i"), ("x.cls", pickle.dumps(3))], "sample without a class: x"),
        ([("x.jpg", "i"), ("x.cls", "a" * 201)], "sample without a class: x"),
        ([("x.jpg", "i"), ("x.cls", b"a" * (webdataset.CLASS_LIMIT + 1))], "sample without a class: x"),
        ([("x.jpg", "i"), ("x.cls", "")], "sample without a class: x"),
        ([("x.jpg", "i"), ("x.cls", "-1")], "sample whose class is a negative number: x"),
        ([("x.jpg", "i"), ("x.png", "i"), ("x.cls", "a")], "sample with two or more images: x"),
        ([("x.jpg", "i"), ("x.jpg", "i"), ("x.cls", "a")], "sample with two or more images: x"),
        ([("x.jpg", "i"), ("x.cls", "a"), ("x.cls", "b")], "sample with two classes: x"),
        ([("../x.jpg", "i"), ("../x.cls", "a")], "path outside the tar: ../x.jpg and 1 more"),
        ([("/etc/x.jpg", "i")], "path outside the tar: /etc/x.jpg"),
    ],
)
def test_a_sample_that_cannot_be_used_is_left_out_with_a_note(tmp_path, files, reason):
    path = pack(tmp_path / "t.tar", [*samples("a", "b"), *files])
    source = open_source(str(path))
    assert [name for _, _, name in listed(source)] == ["0000.jpg", "0001.jpg"]
    assert source.count == 2
    assert source.warnings == (f"ignored, {reason}",)


def test_members_that_belong_to_no_sample_are_skipped(tmp_path):
    files = [("./", folder("./")), ("README", "x"), (".DS_Store", "x"), ("./._0000.jpg", "x"), ("__MACOSX/0.jpg", "x")]
    path = pack(tmp_path / "t.tar", [*files, *((f"./data/{name}", data) for name, data in samples("a", "b"))])
    source = open_source(str(path))
    assert [name for _, _, name in listed(source)] == ["data/0000.jpg", "data/0001.jpg"]
    assert source.warnings == ()


def folder(name) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = tarfile.DIRTYPE
    return member


def test_links_and_large_members_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MEMBER_LIMIT", 1 << 20)
    large, video, link = tarfile.TarInfo("x.jpg"), tarfile.TarInfo("x.mp4"), tarfile.TarInfo("y.jpg")
    large.size = video.size = (1 << 20) + 1
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    files = [("", large), ("", video), ("x.cls", "a"), ("", link), ("y.cls", "a")]
    source = open_source(str(pack(tmp_path / "t.tar", [*samples("a", "b"), *files])))
    assert source.count == len(listed(source)) == 2
    assert source.warnings == (
        "ignored, file above 1 MiB: x.jpg",
        "ignored, link or special file in a tar: y.jpg",
    )


def test_a_key_that_occurs_again_is_refused(tmp_path):
    path = pack(tmp_path / "t.tar", [*samples("a", "b"), *samples("a")])
    assert f"{path}: the key 0000 occurs again after other keys: pack the tar again" in error(path).line
    unsorted = [*samples("a", "b")[::2], *samples("a", "b")[1::2]]
    line = error(pack(tmp_path / "u.tar", unsorted)).line
    assert "the key 0000 occurs again" in line
    assert "tar --sort=name" in line
    for number in range(2):  # each tar has keys of its own
        pack(tmp_path / f"two/{number}.tar", samples("a", "b"))
    assert open_source(str(tmp_path / "two")).count == 4


def test_a_class_without_a_name_is_refused(tmp_path):
    path = pack(tmp_path / "t.tar", samples(0, 1, 2))
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    assert error(path).line == (
        f"{path}: the sample 0002 has class 2, and {tmp_path / 'classes.txt'} names the classes 0 to 1: add the "
        "missing names, or correct the class"
    )
    (tmp_path / "classes.txt").write_text("cat\ncat\ndog\n")
    assert "expected one class name a line, without repeats" in error(path).line


def test_a_class_without_training_images_and_a_single_class_are_refused(tmp_path):
    pack(tmp_path / "train-0.tar", samples("a", "b"))
    pack(tmp_path / "val-0.tar", samples("c"))
    assert "val class 'c' has no images in train" in error(tmp_path).line
    assert "has only one class, 'a'" in error(pack(tmp_path / "t.tar", samples("a", "a"))).line


def test_no_usable_sample_is_refused_with_the_reasons(tmp_path):
    path = pack(tmp_path / "t.tar", [("x.jpg", "i"), ("x.png", "i"), ("x.cls", "a")])
    refused = error(path)
    assert f"{path}: none of its samples can be used: expected an image and its class" in refused.line
    assert refused.details == ("ignored, sample with two or more images: x",)


def test_a_damaged_tar_is_refused_and_named(tmp_path):
    pack(tmp_path / "train-0.tar", samples("a", "b"))
    path = pack(tmp_path / "val-0.tar", samples("a", "b"))
    path.write_bytes(path.read_bytes()[:2500])
    line = error(tmp_path).line
    assert f"cannot read {path}: the tar is damaged or cut short" in line
    assert "after the header of 0000.cls" in line
    path.write_bytes(b"\x28\xb5\x2f\xfd" + bytes(600))  # Zstandard
    assert f"{path} is not a tar, plain or compressed by gzip, bzip2 or xz" in error(tmp_path).line


def test_a_compressed_tar_whose_checksum_differs_is_refused(tmp_path):
    path = pack(tmp_path / "t.tar.gz", samples(*"ab" * 50), "w:gz")
    data = bytearray(path.read_bytes())
    data[-6] ^= 1
    path.write_bytes(data)
    assert "CRC check failed" in error(path).line


@pytest.mark.parametrize(("limit", "line"), [("SAMPLE_LIMIT", "more than 2 samples"), ("FOLDER_LIMIT", "2 classes")])
def test_limits(tmp_path, monkeypatch, limit, line):
    monkeypatch.setattr(webdataset, limit, 2)
    assert line in error(pack(tmp_path / "t.tar", samples("a", "b", "c"))).line


def test_memory_does_not_grow_with_the_images(tmp_path):
    """Also with many images and classes of one key, which are one sample."""
    size, image = 1 << 20, bytes(1 << 20)
    many = [("z.jpg", image)] * 20 + [("z.cls", "a" * size)] * 20
    files = [pair for n in range(20) for pair in ((f"{n}.jpg", image), (f"{n}.cls", n % 2))]
    path = pack(tmp_path / "t.tar", [*files, *many])
    tracemalloc.start()
    try:
        source = open_source(str(path))
        assert sum(len(record.payload) for record in source.records()) == 20 * size
        assert tracemalloc.get_traced_memory()[1] < 6 * size
    finally:
        tracemalloc.stop()


def test_tars_that_change_are_noticed(tmp_path):
    pack(tmp_path / "0.tar", samples("a", "b"))
    source = open_source(str(tmp_path))
    pack(tmp_path / "0.tar", samples(*"ab" * 9))
    with pytest.raises(UserError, match="changed while it was in use"):
        list(source.records())


def test_names_of_dicom_files_are_not_shown(tmp_path):
    files = [("SMITH.dcm", "i"), ("SMITH.cls", 0), ("JONES.dcm", "i"), ("JONES.cls", 1), ("DOE.dcm", "i")]
    path = pack(tmp_path / "t.tar", files)
    source = open_source(str(path))
    assert [(record.name, record.file) for record in source.records()] == [
        ("image 00000", "SMITH.dcm"),
        ("image 00001", "JONES.dcm"),
    ]
    assert source.warnings == ("ignored, sample without a class: 1 file(s) or folder(s)",)
    (tmp_path / "classes.txt").write_text("healthy\n")
    assert "JONES" not in str(error(path))
    assert "SMITH" not in str(error(pack(tmp_path / "u.tar", [*files, *files])))


CLASS_FOLDERS = {
    "classes": ["cat/1.jpg", "dog/2.jpg"],
    "classes with files of labels": ["cat/1.jpg", "cat/1.cls", "dog/2.jpg", "dog/2.cls"],
    "classes and samples beside them": ["1.jpg", "1.cls", "cat/1.jpg", "dog/2.jpg"],
    "splits": ["train/cat/1.jpg", "train/cat/1.json", "train/dog/2.jpg", "val/cat/3.jpg"],
}


@pytest.mark.parametrize("names", CLASS_FOLDERS.values(), ids=CLASS_FOLDERS)
def test_class_folders_stay_what_they_were(tmp_path, monkeypatch, names):
    """In a tar and in a folder with a tar of samples beside them: the reader of samples is not even asked."""
    monkeypatch.setattr("alexnet.data.sources.paths.find_tars", lambda path: pytest.fail("class folders come first"))
    path = pack(tmp_path / "t.tar", [(name, name if name.endswith(".jpg") else '{"label": "other"}') for name in names])
    source = open_source(str(path))
    assert source.classes == ("cat", "dog")
    assert all(record.name.rpartition("/")[0] for record in source.records())
    for name in names:
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_text(name)
    pack(tmp_path / "folder/train-0.tar", samples("a", "b"))
    assert open_source(str(tmp_path / "folder")).classes == ("cat", "dog")


@pytest.mark.parametrize(
    "files",
    [
        [("1.jpg", "i"), ("2.jpg", "i")],
        [("1.jpg", "i"), ("1.txt", "a cat"), ("1.json", '{"caption": "a cat"}')],
        [("paper.cls", "a class of LaTeX"), ("1.jpg", "i")],
        [("annotations.json", '{"images": []}'), ("1.jpg", "i")],
    ],
)
def test_a_tar_without_labelled_samples_is_refused_as_before(tmp_path, files):
    path = pack(tmp_path / "t.tar", files)
    assert error(path).line == f"{path} has no class folders: expected one folder of images per class"
    (tmp_path / "folder").mkdir()
    path.rename(tmp_path / "folder/t.tar")
    refused = error(tmp_path / "folder")
    assert "has no class folders" in refused.line
    assert "0001.jpg and 0001.cls" in refused.details[-1]


def write_both(root: Path, photo) -> tuple[Path, Path]:
    """The same photographs as class folders and as tars of WebDataset, in the same order."""
    folders, tars = root / "folders", root / "tars"
    for split, count in (("train", 20), ("val", 4), ("test", 6)):
        files = []
        for number in range(count):
            label, name = ("bridge", "flower")[number >= count // 2], f"{number:04d}"
            data = photo(number + 20 * (split == "val") + 24 * (split == "test"))
            path = folders / split / label / f"{name}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            files.append([(f"{name}.jpg", data), (f"{name}.cls", int(label == "flower"))])
        for part in range(2):
            half = files[len(files) // 2 * part : len(files) // 2 * (part + 1)]
            pack(tars / f"photos-{split}-{part:06d}.tar", [pair for some in half for pair in some])
    (tars / "classes.txt").write_text("bridge\nflower\n")
    return folders, tars


def test_prepared_images_are_those_of_class_folders(tmp_path, photo):
    one, other = (open_or_prepare(open_source(str(path)), 64, 3) for path in write_both(tmp_path, photo))
    assert one.classes == other.classes == ["bridge", "flower"]
    for name in ("images", "targets", "hashes", "splits"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    assert one.meta["mean"] == other.meta["mean"]
    assert other.meta["splits"] == {"train": 20, "val": 4, "test": 6}


def test_images_without_splits_are_split_as_those_of_class_folders(tmp_path, photo):
    """80/10/10 by content, for one tar in another order than the folders."""
    files = {f"{number:02d}": ("ab"[number % 2], photo(number)) for number in range(40)}
    for name, (label, data) in files.items():
        (tmp_path / "folders" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "folders" / label / f"{name}.jpg").write_bytes(data)
    tar = pack(
        tmp_path / "photos.tar",
        [pair for name, (label, data) in files.items() for pair in ((f"{name}.cls", label), (f"{name}.jpg", data))],
    )
    made = [open_or_prepare(open_source(str(path)), 64, 3) for path in (tmp_path / "folders", tar)]
    one, other = (
        {int(h): (int(s), int(t)) for h, s, t in zip(m.hashes, m.splits, m.targets, strict=True)} for m in made
    )
    assert one == other
    assert made[1].meta["splits"] == {"train": 32, "val": 4, "test": 4}


def test_a_photograph_that_cannot_be_decoded_is_named(tmp_path, photo):
    files = [
        ("x.jpg", photo(0)[:500]),
        ("x.cls", 0),
        ("y.jpg", photo(1)),
        ("y.cls", 1),
        ("z.jpg", photo(2)),
        ("z.cls", 0),
    ]
    pack(tmp_path / "set/train-0.tar", files)
    made = open_or_prepare(open_source(str(tmp_path / "set")), 64, 3)
    assert [each["name"] for each in made.meta["refused"]] == ["train-0.tar/x.jpg"]
    assert len(made.targets) == 2


def test_commands_take_tars_as_a_source(tmp_path, photo, capsys):
    folders, tars = write_both(tmp_path, photo)
    assert cli(["prepare", str(tars)]) == 0
    assert "30 images of 90 × 90 × 3 in 2 classes (20 train, 4 val, 6 test)" in capsys.readouterr().out
    settings = {"train.epochs": 1, "train.min_steps": 1, "model.width": 0.25}
    runs = [
        train("photos-small", data=path, out=tmp_path / "runs" / path.name, overrides=settings, device="cpu")
        for path in (folders, tars)
    ]
    weights = [(run.model_folder / "model.safetensors").read_bytes() for run in runs]
    assert weights[0] == weights[1]
    capsys.readouterr()
    assert cli(["evaluate", str(runs[0].folder), "--data", str(tars), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
