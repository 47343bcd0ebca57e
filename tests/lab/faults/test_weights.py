"""Changed weights files in the laboratory: what is written is read, figures are continued, and faults are found."""

import json
import mmap

import pytest

from alexnet.core.errors import UserError
from alexnet_lab.faults import weights
from alexnet_lab.faults.weights import FORMATS, damage_weights


@pytest.mark.parametrize("name", ["torch-legacy", "caffe", "npz", "matlab"])
def test_changed_files_are_refused_or_give_a_network(tmp_path, name):
    result = damage_weights(tmp_path, name, range(20), 0)
    assert (result.trials, result.failures) == (20, [])


def test_figures_are_continued(tmp_path):
    out = tmp_path / "out" / "npy.json"
    first = damage_weights(tmp_path, "npy", range(5), 0, out)
    both = damage_weights(tmp_path, "npy", range(12), 0, out)
    assert (first.trials, both.trials) == (5, 12)
    assert json.loads(out.read_text())["next"] == 12
    whole = damage_weights(tmp_path, "npy", range(12), 0)
    assert both.remark.split(",")[0] == whole.remark.split(",")[0]  # the same files are refused
    with pytest.raises(UserError, match="has the figures of another run"):
        damage_weights(tmp_path, "npy", range(1, 12), 0, out)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raise RuntimeError('no refusal')", "file 3: RuntimeError: no refusal"),
        ("while True: pass", "file 3: more than 1 s"),
        ("self.held = mmap.mmap(-1, 200 << 20); self.held.write(bytes(200 << 20))", "bytes of memory for a file of"),
    ],
)
def test_faults_are_found(tmp_path, monkeypatch, fault, message):
    real = weights._outcome

    class Reader:
        calls = 0

        def __call__(self, path):
            self.calls += 1
            if self.calls == 4:
                exec(fault, {"self": self, "mmap": mmap})
            return real(path)

    monkeypatch.setattr(weights, "_outcome", Reader())
    monkeypatch.setattr(weights, "SECONDS", 1 if "while" in fault else 60)
    result = damage_weights(tmp_path, "npy", range(4), 0)
    assert result.trials == 4
    assert len(result.failures) == 1
    assert message in result.failures[0]


def test_an_unknown_format():
    assert "onnx" in FORMATS
    with pytest.raises(UserError, match="unknown format of weights files 'onxn'"):
        damage_weights(None, "onxn", range(1), 0)
