"""The forecast of a training on many devices: bytes, FLOPs and times by hand, and the command."""

import json

import pytest

from alexnet import create_model
from alexnet.api import plan
from alexnet.cli.main import main
from alexnet.cli.plan import duration
from alexnet.config import override
from alexnet.core.errors import UserError
from alexnet.distributed.plan import DEVICES, bytes_sent, parse_devices, plan_steps
from alexnet.models.registry import build, get_architecture
from alexnet.models.summary import summarize
from alexnet.recipes import get_recipe

PARAMETERS = 60_965_224  # of the paper's network
SUMMED = PARAMETERS - 9216 * 4096 - 4096 - 4096 * 4096  # all but fc6 and the weights of fc7


@pytest.fixture(scope="module")
def paper():
    return build("paper", get_architecture("paper"), 1000, 3, 224, device="meta")


@pytest.fixture(scope="module")
def two_columns():
    return build("cuda-convnet", get_architecture("cuda-convnet"), 1000, 3, 224, device="meta")


def test_bytes_that_each_device_sends(paper, two_columns):
    assert bytes_sent(paper, "data", 1, 128) == 0
    for devices in (2, 8, 512):
        share = (devices - 1) / devices
        for batch in (128, 4096):
            assert bytes_sent(paper, "data", devices, batch) == pytest.approx(8 * PARAMETERS * share)
            expected = 8 * share * (SUMMED + batch * (9216 + 4096))
            assert bytes_sent(paper, "hybrid", devices, batch) == pytest.approx(expected)
    maps, features, units, logits, bias = 256 * 13 * 13, 9216, 4096, 2 * 1000, 1000
    assert 4 * (maps + features + units + logits) == 234_304
    assert bytes_sent(two_columns, "columns", 2, 10) == 2_343_040 + 4 * bias
    with pytest.raises(UserError, match="its local response normalization crosses the columns"):
        bytes_sent(paper, "columns", 2, 128)


def test_both_ways_cost_the_same_at_a_batch_of_the_hidden_width(paper):
    below, above = (bytes_sent(paper, "hybrid", 8, batch) for batch in (4000, 4200))
    assert below < bytes_sent(paper, "data", 8, 4096) < above


def test_times(paper):
    summary = summarize(paper)
    layers = summary.layers
    total, first = sum(layer.multiply_adds for layer in layers), layers[0].multiply_adds
    assert summary.training_flops == 2 * (3 * total - first)
    (step,) = plan_steps(paper, 1, DEVICES["H100"], [256], reached=0.5)
    assert (step.parallel, step.communicate, step.bound) == ("data", 0, "computation")
    assert step.compute == pytest.approx(256 * summary.training_flops / (0.5 * 989e12))
    steps = plan_steps(paper, 16, DEVICES["A100"], [128, 4096])
    assert [step.parallel for step in steps] == ["data", "data", "hybrid", "hybrid"]
    assert steps[0].communicate == pytest.approx(8 * PARAMETERS * 15 / 16 / 25e9)  # between computers
    faster, _ = plan_steps(create_model("lenet5"), 16, DEVICES["A100"], [128], link=100)
    assert faster.sent / faster.communicate == pytest.approx(100e9)


def test_names_of_devices():
    assert parse_devices("8xh100")[:2] == (8, "H100")
    for text in ("8", "0xH100", "H100", "8xH100x"):
        with pytest.raises(UserError, match=r"8xH100|unknown device"):
            parse_devices(text)


def test_the_command(capsys, tmp_path):
    assert main(["plan", "paper-imagenet", "--devices", "8xH100"]) == 0
    text = capsys.readouterr().out
    assert "hybrid" in text
    assert "columns" not in text
    assert "the recipe has a batch of 128" in text
    assert main(["plan", "paper-imagenet", "--devices", "8xH100", "--batch", "128", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["steps"]
    assert [row["parallel"] for row in rows] == ["data", "hybrid"]
    assert rows[0]["bound"] == "communication"
    assert main(["plan", "photos", "--devices", "8xH100"]) == 2
    assert "add --images N" in capsys.readouterr().err
    assert main(["plan", "photos", "--devices", "8xH10", "--images", "900"]) == 2
    assert "did you mean 'H100'" in capsys.readouterr().err
    found = plan("photos", "2xV100", images=900)
    assert (found.images, found.epochs, found.total) == (810, 77, 77 * 810)  # a tenth is held out; 1,000 updates
    assert found.seconds(found.steps[0]) == pytest.approx(77 * 810 / found.steps[0].images_per_second)
    short = plan(override(get_recipe("photos"), ["train.steps=5"]), "2xV100", images=900, classes=3)
    assert short.total == 5 * 64


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"reached": 0.0}, "--reached 0.0: give a number above 0, at most 1"),
        ({"link": -1.0}, "--link -1.0: give a number above 0"),
        ({"batches": [0]}, "--batch 0: give 1 or more"),
        ({"images": 0}, "--images 0: give 1 or more"),
    ],
)
def test_impossible_numbers_are_refused(settings, line):
    with pytest.raises(UserError) as caught:
        plan("paper-imagenet", "8xH100", **settings)
    assert caught.value.line == line


def test_durations():
    assert [duration(seconds) for seconds in (3.2, 60, 150, 36_000, 500_000)] == [
        "3.2 s", "60 s", "2.5 min", "10 h", "5.8 days",
    ]  # fmt: skip
