"""The README's commands, each run as it stands, on small made sets where the real ones would take long."""

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
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with everything that the README's commands speak of, in small."""
    root = tmp_path_factory.mktemp("readme")
    cut_photographs(root / "FOLDER" / "flower", "flower.jpg", 15, 0)
    cut_photographs(root / "FOLDER" / "temple", "china.jpg", 15, 1)
    for split, count in (("train", 6), ("val", 2)):
        cut_photographs(root / "PATH" / split / "n01440764", "flower.jpg", count, count)
        cut_photographs(root / "PATH" / split / "n01443537", "china.jpg", count, count + 1)
    (root / "cat.jpg").write_bytes((PHOTOGRAPHS / "flower.jpg").read_bytes())
    draws = np.random.default_rng(0)
    for split, count in (("train", 160), ("t10k", 40)):
        labels = np.arange(count, dtype=np.uint8) % 10
        images = (draws.integers(0, 60, (count, 28, 28)) + 15 * labels[:, None, None]).astype(np.uint8)
        write_idx(root / f"{split}-images-idx3-ubyte.gz", images)
        write_idx(root / f"{split}-labels-idx1-ubyte.gz", labels)
        for image, label in zip(images, labels, strict=True):
            folder = root / "small" / {"train": "train", "t10k": "test"}[split] / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).convert("RGB").save(folder / f"{len(list(folder.iterdir()))}.png")
    return root


SHORTER = {  # what makes a command's test short, and nothing else
    "alexnet train small-fashion-mnist-quick": ["--data-root", "."],
    "alexnet train d2l-fashion-mnist": ["--data-root", ".", "--set", "train.epochs=1"],
    "alexnet train torchvision-cifar10": ["--data", "small", "--set", "train.epochs=1"],
    "alexnet train --data FOLDER": ["--set", "train.epochs=3"],
    "alexnet train paper-imagenet --data imagenet:PATH": ["--set", "train.epochs=1"],
    "alexnet bench train": ["--variant", "torchvision", "--batch", "4", "--rounds", "1", "--seconds", "0.1"],
}
IN_CI = {"pip install . && alexnet train", "pip install '.[dev]' && pytest"}


def test_every_command_of_the_readme_runs(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    ran = [line for line in commands() if line not in IN_CI]
    assert set(SHORTER) <= set(ran)
    for line in ran:
        assert cli.main([*shlex.split(line)[1:], *SHORTER.get(line, [])]) == 0, line
        assert capsys.readouterr().out.strip(), f"{line} printed nothing"


def test_ci_runs_the_other_two():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert set(commands()) >= IN_CI
    order = [
        script.index(part) for part in ("pip install --quiet .\n", "alexnet train", "--quiet '.[dev]'", "\npytest\n")
    ]
    assert order == sorted(order)


def test_the_python_lines_run(place, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    monkeypatch.chdir(place)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(place / "digit.png")
    code = code.replace('train("small-digits",', 'train("small-digits", overrides=["train.epochs=1"],')
    scope: dict[str, object] = {}
    exec(code, scope)
    assert 0 < scope["best"].probability <= 1  # type: ignore[attr-defined]
