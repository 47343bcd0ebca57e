"""C23 from measured trainings: its verdict could come out either way."""

import pytest

from alexnet.core.files import write_json
from alexnet_lab.claims.training_claims import transfer_learning
from alexnet_lab.results.reader import Results


@pytest.mark.parametrize(
    ("seconds", "gap", "verdict"),
    [(9, 0.05, "supported"), (20, 0.05, "not supported"), (9, 0.4, "not supported"), (None, None, "inconclusive")],
)
def test_transfer_learning(seconds, gap, verdict, tmp_path):
    """Faster and less overfitting in every draw, in none, or in some."""
    rows = []
    for number in range(4):
        given = (9 if number % 2 else 20, 0.05) if seconds is None else (seconds, gap)
        for method, (took, apart) in (("default", given), ("random weights", (15, 0.2))):
            rows.append({
                "draw": f"set-30-{number}", "seed": 0, "method": method, "seconds": took, "top1": 0.5,
                "train_top1": 0.5 + apart,
            })  # fmt: skip
    value = {
        "what": "transfer",
        "trainings": rows,
        "hardware": {"hardware": "a chip", "device": "cpu", "precision": "bf16"},
        "date": "2026-11-29",
    }
    write_json(tmp_path / "bench_transfer_m_2026-11-29.json", value)
    assert transfer_learning(Results(tmp_path)).verdict.startswith(verdict)
    (tmp_path / "none").mkdir()
    assert transfer_learning(Results(tmp_path / "none")).verdict == "pending"
