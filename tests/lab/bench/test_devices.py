"""Bytes of collectives: counted without running they equal the formulas, and on the wire what was counted."""

import pytest

from alexnet.core.errors import UserError
from alexnet.distributed.plan import bytes_sent
from alexnet_lab.bench import devices
from alexnet_lab.bench.devices import Member, bytes_on_the_wire, count_bytes

FLOAT64 = 8
SMALL = {"data": 2, "hybrid": 3, "columns": 3}  # numbers of a step beside gradients: loss, right, and perhaps a flag


@pytest.mark.parametrize("processes", [2, 4, 8])
@pytest.mark.parametrize(
    ("variant", "parallel"),
    [("paper", "data"), ("paper", "hybrid"), ("torchvision", "hybrid"), ("cuda-convnet", "columns")],
)
def test_counted_bytes_equal_the_formula(variant, parallel, processes):
    if parallel == "columns" and processes > 2:
        pytest.skip("there are two columns")
    for batch in (8, 64):
        member = Member(variant, parallel, processes, batch, width=0.125, side=67)
        counted = count_bytes(member.meta(), parallel, processes, batch)
        expected = bytes_sent(member.meta(), parallel, processes, batch)
        small = 2 * FLOAT64 * SMALL[parallel] * (processes - 1) / processes
        assert counted.sent == pytest.approx(expected + small, rel=1e-12)
    if parallel != "data":
        without = count_bytes(member.meta(), parallel, processes, batch, scatters=False)
        assert without.sent > counted.sent
        assert without.given.keys() == {"allreduce_", "allgather_"}


def test_a_network_that_cannot_be_divided_is_refused():
    with pytest.raises(UserError, match="crosses the columns"):
        count_bytes(Member("paper", "columns", 2, 8, 0.125, 67).meta(), "columns", 2, 8)
    with pytest.raises(UserError, match="needs two processes"):
        count_bytes(Member("cuda-convnet", "columns", 4, 8, 0.125, 67).meta(), "columns", 4, 8)


@pytest.mark.slow
def test_bytes_on_the_wire_are_those_that_were_counted(capsys, monkeypatch):
    member = Member("paper", "hybrid", 2, 8, 0.125, 67)
    counted = count_bytes(member.meta(), "hybrid", 2, 8, scatters=False)
    assert bytes_on_the_wire(member) == pytest.approx(counted.sent, rel=0.02)


@pytest.mark.slow
def test_the_command_prints_and_describes(capsys, monkeypatch):
    monkeypatch.setattr(devices, "COUNTED", (Member("paper", "data", 8, 8, 0.125, 67),))
    monkeypatch.setattr(devices, "ON_THE_WIRE", ())
    value = devices.run_devices(["small"], [4], rounds=1, seconds=0.01)
    (row,) = value["counted"]
    assert row["given"]["allreduce_"] * 2 * 7 / 8 == row["sent"]
    (speed,) = value["speeds"]
    assert speed["ratio"] == pytest.approx(speed["several"] / speed["one"])
    assert "one thread each" in devices.describe(value)
