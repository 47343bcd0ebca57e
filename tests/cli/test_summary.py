"""``alexnet summary``: what it prints, and what it says to a mistake."""

import json

import pytest

from alexnet.cli.main import main
from alexnet.models.variants import VARIANTS


def test_one_variant(capsys):
    assert main(["summary", "paper"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("paper: Krizhevsky")
    assert lines[1] == "input 3×224×224, 1000 classes"
    assert lines[5].split() == [
        "conv1", "convolution", "96×55×55", "34,944", "105,415,200", "11", "4", "1,134.4", "KiB",
    ]  # fmt: skip
    assert lines[-1].split()[:3] == ["total", "60,965,224", "724,406,816"]


def test_json_of_one_variant(capsys):
    assert main(["summary", "d2l", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["parameters"] == 46_764_746
    assert document["multiply_adds"] == 938_146_176
    assert document["input"] == [1, 224, 224]
    assert [layer["shape"][-1] for layer in document["layers"][:8]] == [54, 26, 26, 12, 12, 12, 12, 5]
    assert document["layers"][0] == {
        "name": "conv1", "kind": "convolution", "shape": [96, 54, 54], "parameters": 11_712,
        "multiply_adds": 33_872_256, "receptive_field": 11, "step": 4, "activation_bytes": 1_119_744,
    }  # fmt: skip


def test_sizes_can_be_asked_for(capsys):
    words = ["summary", "torchvision", "--classes", "10", "--channels", "1", "--image-size", "63", "--json"]
    assert main(words) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["input"], document["classes"]) == ([1, 63, 63], 10)
    assert document["layers"][-1]["shape"] == [10]


def test_all_variants_a_line_each(capsys):
    assert main(["summary"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == list(VARIANTS)
    assert lines[2].split()[1:5] == ["3×224×224", "1000", "60,965,224", "724,406,816"]
    assert all(row.source in line for row, line in zip(VARIANTS.values(), lines[2:], strict=True))
    assert main(["summary", "--json"]) == 0
    assert [row["variant"] for row in json.loads(capsys.readouterr().out)] == list(VARIANTS)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["papr"], "unknown variant 'papr': did you mean 'paper'?"),
        (["d2l", "--image-size", "64"], "variant 'd2l': an image of 64 pixels is too small"),
        (["d2l", "--image-size", "0"], "variant 'd2l': an image of 0 pixels is too small"),
        (["d2l", "--classes", "0"], "variant 'd2l': a network needs at least one class"),
        (["d2l", "--classes", str(10**18)], "variant 'd2l': a network takes at most 10,000,000 classes"),
        (["d2l", "--channels", "2"], "argument --channels: invalid choice: 2"),
    ],
)
def test_mistakes_are_one_line_and_status_2(words, line, capsys):
    assert main(["summary", *words]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith(f"alexnet: {line}")
    assert "Traceback" not in err
