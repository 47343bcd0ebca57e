"""The README's commands and Python lines, each run as it stands; trainings on narrow networks and a few images.

The commands share one folder, in the README's order: ``predict`` and ``evaluate`` use the run that ``train`` left.
"""

import gzip
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
from PIL import Image

from alexnet.cli.main import main as cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PHOTOGRAPHS = Path(sklearn.datasets.__file__).parent / "images"
LIMIT = 8192  # bytes: what can be read in two minutes

IN_CI = {"pip install . && alexnet train", "pip install '.[dev]' && pytest"}
SHORTER = {  # options that make a command's test short, and nothing else
    "alexnet train small-fashion-mnist-quick": "--data-root . --set model.width=0.25 --set train.epochs=1",
}


def commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    lines = [line.partition("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def cut_photographs(folder: Path, name: str, count: int, seed: int) -> None:
    """Pieces of scikit-learn's two photographs, so that classes can be told apart."""
    draws = np.random.default_rng(seed)
    with Image.open(PHOTOGRAPHS / name) as photograph:
        folder.mkdir(parents=True)
        for number in range(count):
            left, top = draws.integers(0, 240), draws.integers(0, 80)
            photograph.crop((left, top, left + 400, top + 320)).save(folder / f"{number}.JPEG", quality=90)


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes(), compresslevel=1))


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with everything that the README's commands name: photographs, a small Fashion-MNIST, an image."""
    root = tmp_path_factory.mktemp("readme")
    cut_photographs(root / "pets" / "flower", "flower.jpg", 15, 0)
    cut_photographs(root / "pets" / "temple", "china.jpg", 15, 1)
    (root / "cat.jpg").write_bytes((PHOTOGRAPHS / "flower.jpg").read_bytes())
    draws = np.random.default_rng(0)
    for split, count in (("train", 160), ("t10k", 40)):
        labels = np.arange(count, dtype=np.uint8) % 10
        images = (draws.integers(0, 60, (count, 28, 28)) + 15 * labels[:, None, None]).astype(np.uint8)
        write_idx(root / f"{split}-images-idx3-ubyte.gz", images)
        write_idx(root / f"{split}-labels-idx1-ubyte.gz", labels)
    return root


@pytest.fixture(autouse=True)
def no_matrix_rate(monkeypatch) -> None:
    """Large matrix products tell a machine's rate, which these tests do not look at."""
    monkeypatch.setattr("alexnet.api.matrix_rate", lambda config: 1.0)


def test_every_command_of_the_readme_runs(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    ran = [line for line in commands() if line not in IN_CI]
    assert set(SHORTER) <= set(ran)
    assert len(ran) == 6
    for line in ran:
        assert cli([*shlex.split(line)[1:], *shlex.split(SHORTER.get(line, ""))]) == 0, line
        assert capsys.readouterr().out.strip(), f"{line} printed nothing"


def test_ci_runs_the_other_two():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert set(commands()) >= IN_CI
    installs = re.search(
        r"pip install .*\s\.\n.*alexnet train.*pip install .*'\.\[dev\]'.*\npytest\b", script, re.DOTALL
    )
    assert installs, "install, train, install what tests need, test: in this order"


def test_the_python_lines_run(place, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    monkeypatch.chdir(place)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(place / "digit.png")
    short = 'train("small-digits", overrides=["train.epochs=1", "model.width=0.25"],'
    assert 'train("small-digits",' in code
    scope: dict[str, object] = {}
    exec(code.replace('train("small-digits",', short), scope)
    assert 0 < scope["best"].probability <= 1  # type: ignore[attr-defined]
    assert sum(p.numel() for p in scope["model"].parameters()) == 60_965_224  # type: ignore[attr-defined]


def test_the_readme_can_be_read_in_two_minutes():
    assert len(README.encode()) <= LIMIT
    assert README.count("![") == 1
    (table,) = re.findall(r"<!-- results: begin -->\n(.*?)\n<!-- results: end -->", README, re.DOTALL)
    assert len(table.splitlines()) == 2 + 6
