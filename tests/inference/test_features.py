"""Features in files: the same bits for any batch and after any kill, whole or absent, in every format."""

import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet import api, create_model, extract_features, save_model
from alexnet.core.errors import UserError
from alexnet.data.image_lists import open_images
from alexnet.inference import feature_files, features
from alexnet.inference.feature_files import Features, open_features
from alexnet.inference.predictor import Predictor

pytestmark = pytest.mark.usefixtures("one_thread")
LAYERS = ["conv1", "relu5", "fc6"]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Chunks of four images, so that a dozen images are several chunks."""
    monkeypatch.setitem(features.CHUNKS, "cpu", 4)


@pytest.fixture(scope="module")
def model():
    return create_model("small", in_channels=3, num_classes=3, image_size=32, width=0.25, seed=0).eval()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Eleven images of two classes in PNG files, and one damaged file: row 5."""
    root = tmp_path_factory.mktemp("features") / "photos"
    draws = np.random.default_rng(0)
    for number in range(11):
        folder = root / ("cat" if number < 5 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (40, 48, 3), np.uint8)).save(folder / f"{number:02d}.png")
    (root / "dog" / "00-damaged.png").write_bytes(b"no image")
    return root


def contents(folder):
    """Path → bytes of all files below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(model, images, out, **options):
    return extract_features(model, images, LAYERS, out, device="cpu", progress=False, **options)


def test_features_are_the_outputs_of_the_layers(model, photos, tmp_path, cpu):
    found = run(model, photos, tmp_path / "F")
    predictor = Predictor(model, cpu)
    files = [photos / name for name, _, error in found.table() if not error]
    expected = predictor.outputs([predictor.read(path) for path in files], LAYERS)
    good = [row for row in range(12) if row != 5]
    for layer in LAYERS:
        array = found[layer]
        assert isinstance(array, np.memmap)
        assert array.dtype == np.float32
        assert array.shape[1:] == model.layer_shapes()[layer]
        span = float(expected[layer].max() - expected[layer].min())
        np.testing.assert_allclose(array[good], expected[layer].numpy(), rtol=0, atol=1e-5 * span)
        assert np.isnan(array[5]).all()
        assert np.isfinite(array[good]).all()
    assert [row[1] for row in found.table()] == ["cat"] * 5 + ["dog"] * 7
    assert "is not a JPEG" in found.table()[5][2]
    lines = (tmp_path / "F" / "images.csv").read_text().splitlines()
    assert lines[0] == "row,file,class,error"
    assert lines[1] == "0,cat/00.png,cat,"
    assert found.description["unreadable"] == 1
    assert not list(tmp_path.glob("*.partial"))
    with pytest.raises(UserError, match="unknown layer 'relu6'"):
        found["relu6"]


def test_the_bits_do_not_depend_on_the_batch(model, photos, tmp_path):
    expected = contents(run(model, photos, tmp_path / "one", untrained=1, batch=1).path)
    assert {"conv1.npy", "untrained-0/fc6.npy", "images.csv", "features.json"} <= set(expected)
    for batch in (3, 4, 10**20):
        assert contents(run(model, photos, tmp_path / str(batch), untrained=1, batch=batch).path) == expected


def test_an_image_alone_has_the_features_that_it_has_in_a_list(model, photos, tmp_path):
    together = run(model, photos, tmp_path / "all")
    for row in (0, 3, 4, 11):
        alone = run(model, photos / together.table()[row][0], tmp_path / f"{row}")
        for layer in LAYERS:
            span = float(np.nanmax(together[layer]) - np.nanmin(together[layer]))
            np.testing.assert_allclose(alone[layer][0], together[layer][row], rtol=0, atol=1e-5 * span)


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_pooling_is_over_the_places_of_maps(model, photos, tmp_path, pool):
    whole, pooled = run(model, photos, tmp_path / "whole"), run(model, photos, tmp_path / "pooled", pool=pool)
    for layer in ("conv1", "relu5"):
        maps = whole[layer].reshape(12, whole[layer].shape[1], -1)
        expected = maps.mean(2) if pool == "mean" else maps.max(2)
        np.testing.assert_allclose(pooled[layer], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(pooled["fc6"], whole["fc6"])


class InterruptedExtractionError(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("calls", [0, 1, 2, 3, 4, 5])
def test_an_interrupted_extraction_continues_to_the_same_bits(model, photos, tmp_path, monkeypatch, calls):
    expected = contents(run(model, photos, tmp_path / "whole", untrained=1).path)
    monkeypatch.setattr(features, "SAVE_SECONDS", 0.0)
    real, count = features.LayerExtractor.__call__, 0

    def killed(self, pixels):
        nonlocal count
        if count == calls:
            raise InterruptedExtractionError
        count += 1
        return real(self, pixels)

    monkeypatch.setattr(features.LayerExtractor, "__call__", killed)
    with pytest.raises(InterruptedExtractionError):
        run(model, photos, tmp_path / "F", untrained=1)
    assert not (tmp_path / "F").exists()
    computed = 0

    def counted(self, pixels):
        nonlocal computed
        computed += 1
        return real(self, pixels)

    monkeypatch.setattr(features.LayerExtractor, "__call__", counted)
    for path in (tmp_path / "F.partial").rglob("*.npy"):  # a kill in the middle of a write
        with path.open("ab") as file:
            file.write(b"half a row")
    assert contents(run(model, photos, tmp_path / "F", untrained=1).path) == expected
    assert computed == 6 - calls  # three chunks of each of two networks
    assert contents(run(model, photos, tmp_path / "F", untrained=1).path) == expected
    assert computed == 6 - calls


def test_changed_files_of_an_unfinished_extraction_are_computed_again(model, photos, tmp_path, monkeypatch, notes):
    expected = contents(run(model, photos, tmp_path / "whole").path)
    monkeypatch.setattr(features, "SAVE_SECONDS", 0.0)
    real = features._Writer.append
    monkeypatch.setattr(features._Writer, "append", lambda self, *given: real(self, *given) if self.rows < 8 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(model, photos, tmp_path / "F")
    monkeypatch.setattr(features._Writer, "append", real)
    with (tmp_path / "F.partial" / "fc6.npy").open("r+b") as file:
        file.seek(200)
        file.write(b"\xff\xff\xff\xff")
    monkeypatch.setattr(api, "make_reporter", lambda progress: notes)
    assert contents(run(model, photos, tmp_path / "F").path) == expected
    assert any("were changed: they are computed again" in line for line in notes.lines)


def test_the_state_of_another_request_or_machine_is_refused(model, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "SAVE_SECONDS", 0.0)
    real = features._Writer.append
    monkeypatch.setattr(features._Writer, "append", lambda self, *given: real(self, *given) if self.rows < 4 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(model, photos, tmp_path / "F")
    with pytest.raises(UserError, match=r"F\.partial holds an unfinished .* have another --pool: repeat its"):
        run(model, photos, tmp_path / "F", pool="mean")
    monkeypatch.setattr(features, "_machine", lambda device: {"threads": 7})
    with pytest.raises(UserError, match=r"begun with threads 1, now 7.*set OMP_NUM_THREADS=1"):
        run(model, photos, tmp_path / "F")


def test_other_features_and_other_files_at_out_are_refused(model, photos, tmp_path):
    run(model, photos, tmp_path / "F")
    with pytest.raises(UserError, match=r"the features in .*F have another --untrained: give another --out"):
        run(model, photos, tmp_path / "F", untrained=1)
    other = create_model("small", in_channels=3, num_classes=3, image_size=32, width=0.25, seed=1).eval()
    with pytest.raises(UserError, match="F are of another model"):
        run(other, photos, tmp_path / "F")
    with pytest.raises(UserError, match="F are of other images, or the images have changed"):
        run(model, photos / "cat", tmp_path / "F")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").touch()
    with pytest.raises(UserError, match="thesis exists and holds no features: give another --out"):
        run(model, photos, tmp_path / "thesis")
    (tmp_path / "G.partial").mkdir()
    (tmp_path / "G.partial" / "mine.txt").touch()
    with pytest.raises(UserError, match=r"G\.partial holds 'mine\.txt' and no unfinished extraction"):
        run(model, photos, tmp_path / "G")
    (tmp_path / "empty").mkdir()
    assert run(model, photos, tmp_path / "empty").rows == 12


def test_two_processes_do_not_write_one_extraction(model, photos, tmp_path):
    with features._locked_folder(tmp_path / "F.partial"), pytest.raises(UserError, match=r"F\.partial is in use by an"):
        run(model, photos, tmp_path / "F")


def test_a_full_disk_costs_one_line_and_the_command_continues(model, photos, tmp_path, monkeypatch):
    expected = contents(run(model, photos, tmp_path / "whole").path)
    monkeypatch.setattr(features, "SAVE_SECONDS", 0.0)
    real = features._Writer.append

    def full(self, *given):
        if self.rows >= 8:
            raise OSError(28, "No space left on device")
        real(self, *given)

    monkeypatch.setattr(features._Writer, "append", full)
    with pytest.raises(UserError, match=r"cannot write the features .*No space left.*kept in .*F\.partial: repeat"):
        run(model, photos, tmp_path / "F")
    monkeypatch.setattr(features._Writer, "append", real)
    assert contents(run(model, photos, tmp_path / "F").path) == expected


def test_disk_space_is_checked_before_anything_is_computed(model, photos, tmp_path, monkeypatch):
    free = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(features.shutil, "disk_usage", lambda path: free)
    monkeypatch.setattr(features.LayerExtractor, "__call__", lambda self, pixels: 1 / 0)
    with pytest.raises(UserError, match=r"the features need [\d.]+ kB, [\d.]+ kB more than are free in"):
        run(model, photos, tmp_path / "F")
    assert not list(tmp_path.iterdir())


def test_without_a_readable_image_there_are_no_features(model, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"none of its images can be read\n  a\.png: is not a JPEG"):
        run(model, tmp_path / "photos", tmp_path / "F")
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".parquet"])
def test_other_formats_hold_the_same(model, photos, tmp_path, suffix):
    if suffix != ".npz":
        pytest.importorskip({".h5": "h5py", ".parquet": "pyarrow"}[suffix])
    folder = run(model, photos, tmp_path / "F", untrained=1)
    out = tmp_path / f"F{suffix}"
    found = run(model, photos, out, untrained=1)
    for opened in (found, open_features(out)):
        assert opened.layers == folder.layers == [*LAYERS, *(f"untrained-0/{name}" for name in LAYERS)]
        for layer in opened.layers:
            np.testing.assert_array_equal(opened[layer], folder[layer])
        assert opened.table() == folder.table()
        assert opened.description == folder.description
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["F", out.name]
    before = out.read_bytes()
    run(model, photos, out, untrained=1)
    out.unlink()
    run(model, photos, out, untrained=1)
    if suffix != ".h5":  # a file of HDF5 is not promised to have the same bytes
        assert out.read_bytes() == before
    out.write_bytes(before[:200])
    with pytest.raises(UserError, match="holds no features"):
        open_features(out)
    with pytest.raises(UserError, match="exists and holds no features: give another --out"):
        run(model, photos, out, untrained=1)


def test_numpy_reads_what_was_written(model, photos, tmp_path):
    found = run(model, photos, tmp_path / "F.npz")
    with np.load(tmp_path / "F.npz", allow_pickle=False) as arrays:
        assert {*LAYERS, "file", "class", "error", "description"} == set(arrays)
        np.testing.assert_array_equal(arrays["fc6"], found["fc6"])
        assert arrays["class"].tolist() == ["cat"] * 5 + ["dog"] * 7
    with zipfile.ZipFile(tmp_path / "F.npz") as archive:
        assert archive.testzip() is None


@pytest.mark.parametrize(("suffix", "module", "extra"), [("h5", "h5py", "h5"), ("parquet", "pyarrow", "parquet")])
def test_an_absent_library_is_named_with_its_extra(model, photos, tmp_path, monkeypatch, suffix, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=rf"needs {module}.*pip install 'alexnet\[{extra}\]'"):
        run(model, photos, tmp_path / f"F.{suffix}")
    assert not list(tmp_path.iterdir())


def test_a_large_npz_and_another_kind_of_file_are_refused(model, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_files, "NPZ_LIMIT", 1000)
    with pytest.raises(UserError, match=r"an \.npz file cannot be .*, so it may have at most 1\.00 kB; these"):
        run(model, photos, tmp_path / "F.npz")
    for name in ("F.npy", "F.mat", "F.csv"):
        with pytest.raises(UserError, match="features are written to a folder"):
            run(model, photos, tmp_path / name)


def test_untrained_twins_are_the_networks_of_create_model(model, photos, tmp_path, cpu):
    found = run(model, photos, tmp_path / "F", untrained=2)
    for seed in range(2):
        arguments = {"in_channels": 3, "num_classes": 3, "image_size": 32, "width": 0.25}
        twin = create_model("small", weights=f"untrained:{seed}", **arguments).eval()
        own = run(twin, photos, tmp_path / str(seed))
        for layer in LAYERS:
            np.testing.assert_array_equal(own[layer], found[f"untrained-{seed}/{layer}"])
    assert not np.array_equal(found["untrained-0/fc6"][0], found["untrained-1/fc6"][0])


def test_images_in_memory_have_the_features_of_their_files(model, photos, tmp_path):
    paths = sorted((photos / "cat").iterdir())
    arrays = [np.asarray(Image.open(path)) for path in paths]
    mixed = [arrays[0], Image.fromarray(arrays[1]), paths[2].read_bytes(), paths[3], b"no image"]
    found, files = run(model, mixed, tmp_path / "mixed"), run(model, paths, tmp_path / "files")
    for layer in LAYERS:
        np.testing.assert_array_equal(found[layer][:4], files[layer][:4])
        assert np.isnan(found[layer][4]).all()
    assert [name for name, _, _ in found.table()][:2] == ["image 0", "image 1"]
    assert found.table()[4][2].startswith("is not a JPEG")


def test_memory_does_not_grow_with_the_number_of_images(model, tmp_path):
    """Rows are read, computed and written a few at a time: never more than a batch of them exists."""
    alive = most = 0

    class Pixels(np.ndarray):
        def __del__(self):
            nonlocal alive
            alive -= 1

    listed = open_images([np.zeros((40, 40, 3), np.uint8)] * 200)
    real = listed.open

    def rows(settings, start):
        nonlocal alive, most
        for row in real(settings, start):
            pixels = row.pixels.view(Pixels)
            alive += 1
            most = max(most, alive)
            object.__setattr__(row, "pixels", pixels)
            del pixels
            yield row

    object.__setattr__(listed, "open", rows)
    extractor = features.LayerExtractor(model, {"fc6": "fc6"}, device=None)
    count = 0
    for some, _ in features.computed_chunks(extractor, listed, model, batch=8):
        count += len(some)
    assert count == 200
    assert most <= 24


KILLED = """
import sys, time
from alexnet import api
from alexnet.inference import features
features.SAVE_SECONDS = 0.0
features.CHUNKS["cpu"] = 4
real = features._Writer.save
def save(self):
    real(self)
    print(self.rows, flush=True)
    time.sleep(0.05)
features._Writer.save = save
api.extract_features("model", sys.argv[1], "conv1,relu5,fc6", "F", untrained=1, device="cpu", progress=False)
"""


@pytest.mark.slow
def test_a_killed_process_continues_to_the_same_bits(model, photos, tmp_path):
    save_model(model, tmp_path / "model")
    expected = contents(run(model, photos, tmp_path / "whole", untrained=1).path)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(api.__file__).parents[1])}
    command = [sys.executable, "-c", KILLED, str(photos)]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if int(line) >= 8:
            process.send_signal(signal.SIGKILL)
            break
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    state = json.loads((tmp_path / "F.partial" / "features.json").read_text())
    assert state["progress"][""]["rows"] >= 8
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, stdout=subprocess.PIPE, timeout=300)
    found = contents(tmp_path / "F")
    assert {name: data for name, data in found.items() if name != "features.json"} == {
        name: data for name, data in expected.items() if name != "features.json"
    }


def test_the_result_of_python_is_typed(model, photos, tmp_path):
    assert isinstance(run(model, photos, tmp_path / "F"), Features)
    assert torch.get_num_threads() == 1
