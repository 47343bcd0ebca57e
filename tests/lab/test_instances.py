"""Networks that differ in their random seed: the figures, and the tables and the picture of them."""

import numpy as np
import pytest
from PIL import Image

from alexnet import create_model
from alexnet.analysis.similarity import correlation_distances
from alexnet.core.errors import UserError
from alexnet.core.files import write_json
from alexnet_lab import instances
from alexnet_lab.results.reader import Results


@pytest.fixture
def records(tmp_path):
    """Twelve test images of two classes."""
    draws = np.random.default_rng(0)
    for name, level in (("dark", 40), ("light", 200)):
        for split in ("train", "test"):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for number in range(6):
                pixels = (draws.integers(0, 50, (40, 40, 3)) + level).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return instances.test_images(str(tmp_path / "images"), None, 12)


def test_equal_networks_share_all_variance_and_others_less(records):
    assert len(records) == 12
    one, other = (create_model("trunk", num_classes=2, width=0.125, seed=seed).eval() for seed in (1, 2))
    networks = [("trained", 0, one), ("trained", 1, one), ("untrained", 0, one), ("untrained", 1, other)]
    found = instances.measure(records, networks)
    for layer in instances.LAYERS:
        assert found["shared_variance"][layer]["trained"] == [pytest.approx(1, abs=1e-9)]
        (shared,) = found["shared_variance"][layer]["untrained"]
        assert 0 <= shared < 0.9999
    assert found["probe_accuracy"]["trained"] == [1.0, 1.0]
    with pytest.raises(UserError, match="has 12 test images, 13 are needed"):
        instances.test_images(str(records[0].payload.parents[2]), None, 13)


def test_shared_variance_is_the_squared_correlation():
    features = np.random.default_rng(0).standard_normal((3, 9, 20), np.float32)
    matrices = [correlation_distances(each)[np.triu_indices(9, 1)] for each in features]
    pairs = instances._shared(matrices)
    assert len(pairs) == 3
    x, y = matrices[0] - matrices[0].mean(), matrices[1] - matrices[1].mean()
    assert pairs[0] == pytest.approx((x @ y) ** 2 / ((x @ x) * (y @ y)))


def test_tables_and_picture(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    empty = Results(tmp_path / "empty")
    assert set(instances.tables(empty).values()) == {"Not measured yet."}
    instances.draw_picture(empty, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
    shared = {layer: {"trained": [0.5, 0.75, 0.55], "untrained": [0.25]} for layer in instances.LAYERS}
    figures = {
        "networks": [], "images": 12, "shared_variance": shared,
        "probe_accuracy": {"trained": [0.5, 0.75], "untrained": [0.25]},
    }  # fmt: skip
    hardware = {"hardware": "a chip", "device": "cpu", "precision": "bf16"}
    value = {
        "what": "instances",
        "measurements": [figures],
        "hardware": hardware,
        "date": "2026-11-30",
        "commit": "abc",
    }
    write_json(tmp_path / "bench_instances_machine_2026-11-30.json", value)
    found = Results(tmp_path)
    tables = instances.tables(found)
    assert "| `relu1` | 60.0% (50.0% – 75.0%) | 25.0% (25.0% – 25.0%) |" in tables["shared-variance"]
    assert "| trained | 62.5% (50.0% – 75.0%) |" in tables["probes"]
    instances.draw_picture(found, tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.width > 500
