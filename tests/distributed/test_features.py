"""``alexnet features --nproc N``: the bits of one process, after a kill too, and errors in one line."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet import create_model, save_model
from alexnet.cli.main import main as cli

PATIENCE = 300
WORDS = ["features", "model", "photos", "--layers", "conv1,relu5,fc6", "--untrained", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A narrow network in ``model/``; 102 images, two of them damaged, in ``photos/``: four chunks."""
    root = tmp_path_factory.mktemp("features")
    save_model(create_model("torchvision", width=0.125, num_classes=3, image_size=64, seed=0).eval(), root / "model")
    (root / "photos").mkdir()
    for number in range(100):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(root / "photos" / f"{number:03}.png")
    for name in ("040x.png", "zzz.png"):
        (root / "photos" / name).write_text("no image")
    return root


@pytest.fixture(scope="module")
def expected(place):
    """The files of one process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert cli([*WORDS, "--out", "one"]) == 0
    torch.set_num_threads(threads)
    return contents(place / "one")


def start(place, *words):
    command = [sys.executable, "-m", "alexnet", *WORDS, *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finished(process):
    output, errors = process.communicate(timeout=PATIENCE)
    return process.returncode, output.decode(), errors.decode()


def contents(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_write_the_same_bits_as_one(processes, place, expected, tmp_path):
    assert len(expected) == 8
    status, output, errors = finished(start(place, "--out", tmp_path / "F", "--nproc", str(processes)))
    assert status == 0, errors
    assert contents(tmp_path / "F") == expected
    assert output.count("written to") == errors.count("2 of 102 images could not be read") == 1


def test_a_mistake_gives_one_line(place, expected):
    status, _, errors = finished(start(place, "--out", "one", "--nproc", "2", "--pool", "mean"))
    assert status == 2
    assert errors.count("\n") == 1
    assert "the features in one have another --pool" in errors
    assert contents(place / "one") == expected


@pytest.mark.slow
def test_a_killed_extraction_continues_to_the_same_bits(place, expected, tmp_path):
    out, partial = tmp_path / "F", tmp_path / "F.partial"
    process = start(place, "--out", out, "--nproc", "3")
    end = time.monotonic() + PATIENCE
    while not (partial / "untrained-0").exists():  # the rows of the first network are complete
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    status, _, errors = finished(process)
    assert status == 143, errors
    assert not out.exists()
    assert partial.exists()
    status, _, errors = finished(start(place, "--out", out, "--nproc", "2"))
    assert status == 0, errors
    assert contents(out) == expected
    assert not partial.exists()


def test_more_processes_than_gpus_are_refused(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for words in (WORDS[:-2], ["evaluate", "model"]):
        more = ["--out", "F"] if words[0] == "features" else []
        assert cli([*words, *more, "--nproc", "2"]) == 2
        assert "there are more processes than GPUs (1): give --nproc 1, or --device cpu" in capsys.readouterr().err
