"""Trained runs that several tests of the commands share."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

NARROW = ["model.width=0.25", "data.image_size=16", "train.epochs=8", "train.precision=fp32"]
"""Overrides of ``small-digits`` that make a training take seconds."""


PROCESS = """
import sys
from alexnet import api
from alexnet.cli.main import main
from alexnet.report import build
from alexnet.runtime.device import matrix_rate
api.matrix_rate = lambda device_config: matrix_rate(device_config, size=256)
build.add = lambda *given: None
sys.exit(main(sys.argv[1:]))
"""
"""``python -m alexnet`` whose trainings write no report.html and measure the machine's rate by a small product."""


@pytest.fixture(scope="session")
def narrow():
    return list(NARROW)


@pytest.fixture(scope="session")
def process():
    """The words that start ``alexnet`` as a process, without the words that follow."""
    return [sys.executable, "-c", PROCESS]


@pytest.fixture(scope="session")
def narrow_run(tmp_path_factory):
    """``small-digits`` with a narrow network, trained without an interruption."""
    from alexnet import train

    return train("small-digits", out=tmp_path_factory.mktemp("runs") / "narrow", overrides=NARROW, device="cpu")


@pytest.fixture(scope="session")
def make_two_greys():
    """Writes ten dark images and ten light ones, no two the same, to a folder of class folders."""

    def make(folder: Path) -> None:
        for name, grey in (("dark", 20), ("light", 200)):
            (folder / name).mkdir(parents=True)
            for number in range(10):
                Image.fromarray(np.full((28, 28), grey + number, np.uint8)).save(folder / name / f"{number}.png")

    return make


@pytest.fixture(scope="session")
def digit_png():
    """The bytes of a PNG file of one of scikit-learn's digits."""
    from sklearn.datasets import load_digits

    images = load_digits().images

    def make(index: int) -> bytes:
        file = io.BytesIO()
        Image.fromarray(np.rint(images[index] * 255 / 16).astype(np.uint8)).save(file, format="png")
        return file.getvalue()

    return make
