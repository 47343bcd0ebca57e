"""Checkpoints of cuda-convnet, as its program writes them, are recognized and refused without unpickling."""

import pickle
import zipfile

import numpy as np
import pytest

from alexnet.core.errors import UserError
from alexnet.weights.convert import convert_file
from alexnet.weights.load import load_model


class Creates:
    """An object whose unpickling would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def checkpoint(order, options, weights=64):
    parts = {
        "model_state": {"layers": [{"name": "conv1", "weights": [np.zeros((weights, 96), np.float32)]}], "epoch": 1},
        "op": {"options": options},
    }
    return pickle.dumps({key: parts[key] for key in order}, protocol=2)


@pytest.mark.parametrize("order", [("model_state", "op"), ("op", "model_state")])
@pytest.mark.parametrize("weights", [64, 20_000])  # the second has 7 MB between the two names
def test_a_checkpoint_is_refused_and_not_unpickled(tmp_path, order, weights):
    path = tmp_path / "90.5"
    path.write_bytes(checkpoint(order, Creates(str(tmp_path / "created")), weights))
    for load, target in ((convert_file, path), (load_model, path), (load_model, tmp_path)):
        with pytest.raises(UserError, match="is a checkpoint of cuda-convnet, which this version does not read") as got:
            load(target)
        assert str(target) in got.value.line
    assert not (tmp_path / "created").exists()


def test_a_zipped_checkpoint_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "90.5", "w") as file:
        file.writestr("data", checkpoint(("op", "model_state"), 0))
    with pytest.raises(UserError, match="is a checkpoint of cuda-convnet"):
        convert_file(tmp_path / "90.5")


def test_other_pickles_and_folders_are_not_called_that(tmp_path):
    (tmp_path / "1.2").write_bytes(pickle.dumps({"weights": 3}, protocol=2))
    with pytest.raises(UserError, match="layer 'weights' is neither"):
        convert_file(tmp_path / "1.2")
    with pytest.raises(UserError, match="is not a model"):
        load_model(tmp_path)
