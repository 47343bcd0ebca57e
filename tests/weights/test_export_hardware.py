"""Exports for builders of hardware and compilers: C and layer tables, judged by a C compiler and by recounting."""

import functools
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from sklearn.datasets import load_digits, load_sample_image
from torch import nn

from alexnet.core.errors import UserError
from alexnet.inference.transform import ImageTransform
from alexnet.models.classifier import Classifier
from alexnet.models.layers import LocallyConnected
from alexnet.models.registry import build, create_model, get_architecture, get_variant, list_models
from alexnet.models.summary import summarize
from alexnet.weights.export import ExportOptions, NotInstalledError, compare_logits, export_model, logits
from alexnet.weights.exporters import c, topology
from alexnet.weights.layer_table import layer_table, multiply_adds

STRICT = ("-Wall", "-Wextra", "-Werror", "-pedantic", "-O1")
BASELINES = ("lenet5", "cifar-18pct", "cifar-13pct", "cifar-11pct", "cifar-relu", "cifar-tanh")
VARIANTS = list_models()
needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler 'cc'")


def network(name, **settings):
    """A narrow network whose every layer responds: weights by fan-in, running averages that are not 0 and 1."""
    if name not in BASELINES:
        settings = {"width": 0.0625, "num_classes": 10, **settings}
    model = create_model(name, seed=0, **settings).eval()
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in model.children():
            if isinstance(module, nn.Conv2d | nn.Linear | LocallyConnected):
                fan_in = module.weight.shape[2] if isinstance(module, LocallyConnected) else module.weight[0].numel()
                module.weight.normal_(0, (2 / fan_in) ** 0.5, generator=draws)
                module.bias.normal_(0, 0.1, generator=draws)
            elif isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3, generator=draws)
                module.running_var.uniform_(0.5, 2, generator=draws)
                module.weight.uniform_(0.5, 1.5, generator=draws)
                module.bias.normal_(0, 0.2, generator=draws)
    return model


@functools.cache
def photographs(channels, size):
    """Two photographs as a network's input ``(2, channels, size, size)``, values around 0."""
    settings = create_model("small", in_channels=channels, image_size=size, seed=0).preprocessing
    images = [ImageTransform(settings)(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    return 2 * torch.stack(images) - 1


def images_for(model):
    return photographs(model.in_channels, model.image_size)


def run_golden(program, paths):
    command = [str(program), "golden", paths[0].with_suffix(".golden.bin").name]
    return subprocess.run(command, cwd=paths[0].parent, capture_output=True, text=True, timeout=300, check=False)


def compile_and_run_golden(paths, *options):
    return run_golden(c.compile_program(paths[0], paths[0].parent / "network", *STRICT, *options), paths)


@needs_cc
@pytest.mark.parametrize("int8", [False, True], ids=["fp32", "int8"])
@pytest.mark.parametrize("name", VARIANTS)
def test_the_c_program_computes_every_layer(name, int8, tmp_path, monkeypatch):
    monkeypatch.setattr(c, "EMBEDDED", 0)  # the weights in a file
    settings = {} if name in BASELINES or name == "small" else {"image_size": 131}
    model = network(name, **settings)
    images = images_for(model)
    options = ExportOptions(int8=int8, golden=images[:1])
    assert c.why_not(model, options) is None
    paths = c.write(model, tmp_path / "net.c", options)
    assert [path.name for path in paths] == ["net.c", "net.h", "net.bin", "net.golden.bin"]
    program = c.compile_program(paths[0], tmp_path / "network", *STRICT)
    theirs = c.run_logits(program, paths, images)
    found = compare_logits(logits(model, images), theirs)
    assert found.difference <= (0.05 if int8 else 1e-5)
    if int8:
        found = compare_logits(logits(c.dequantized(model), images), theirs)
    assert found.difference <= 1e-5 and found.same_top5 == 1
    done = run_golden(program, paths)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()[:-1]
    assert [line.split()[0] for line in lines] == [row.name for row in layer_table(model)]
    assert all(float(re.search(r"largest (\S+)", line)[1]) > 0.01 for line in lines)  # every layer responds


@needs_cc
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("torchvision", {"image_size": 64}),
        ("torchvision", {"image_size": 259}),
        ("paper", {"image_size": 83, "lrn_size": 4, "pool_ceil_mode": True}),
        ("keras", {"image_size": 100, "in_channels": 1}),
        ("d2l", {"activation": "tanh"}),
        ("batchnorm", {"image_size": 64, "activation": "sigmoid"}),
        ("caffenet", {"image_size": 81, "lrn_groups": 2, "dropout_scaling": "test", "dropout": 0.3}),
    ],
)
def test_other_settings(name, settings, tmp_path):
    model = network(name, **settings)
    images = images_for(model)
    paths, found = export_model(model, "c", tmp_path / "net.c", ExportOptions(golden=images[:1]), images)
    assert found.difference <= 1e-5 and found.same_top5 == 1
    assert compile_and_run_golden(paths).returncode == 0


@needs_cc
@pytest.mark.parametrize("int8", [False, True], ids=["fp32", "int8"])
def test_small_networks_have_their_weights_in_the_header(int8, tmp_path):
    model = network("small")
    images = images_for(model)
    paths, found = export_model(model, "c", tmp_path / "net.c", ExportOptions(int8=int8, golden=images[:1]), images)
    assert [path.name for path in paths] == ["net.c", "net.h", "net.golden.bin"]
    assert found.difference <= (0.05 if int8 else 1e-5)
    done = compile_and_run_golden(paths, "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    assert done.returncode == 0, done.stderr


@needs_cc
@pytest.mark.parametrize("name", ["cuda-convnet", "keras", "cifar-11pct", "lenet5"])
def test_the_program_touches_no_memory_that_is_not_its_own(name, tmp_path, monkeypatch):
    monkeypatch.setattr(c, "EMBEDDED", 0)
    model = network(name)
    images = images_for(model)
    paths = c.write(model, tmp_path / "net.c", ExportOptions(int8=True, golden=images[:1]))
    done = compile_and_run_golden(paths, "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    assert done.returncode == 0, done.stderr


@needs_cc
@pytest.mark.parametrize(
    ("pattern", "wrong", "layer"),
    [
        (r"\.alpha_divisor = 5", ".alpha_divisor = 1", "norm1"),
        (r"\.beta = 0\.75", ".beta = 0.5", "norm1"),
        (r"\.k = 2\.0", ".k = 1.0", "norm1"),
        (r"(\"norm1\".*)\.groups = 2", r"\1.groups = 1", "norm1"),
        (r"(\"conv1\".*)\.pad_before = 0", r"\1.pad_before = 1", "conv1"),
        (r"(\"within_channel_norm2\".*)\.pad_before = 2", r"\1.pad_before = 1", "within_channel_norm2"),
        (r"\.factor = 0\.5", ".factor = 1.0", "dropout6"),
    ],
)
def test_the_program_notices_a_wrong_constant(pattern, wrong, layer, tmp_path):
    """The first layer that differs is the one whose constant is wrong."""
    model = network("cuda-convnet", image_size=96, lrn_alpha=1.0)
    paths = c.write(model, tmp_path / "net.c", ExportOptions(golden=images_for(model)[:1]))
    header = paths[1].read_text()
    assert re.search(pattern, header)
    paths[1].write_text(re.sub(pattern, wrong, header))
    done = compile_and_run_golden(paths)
    assert done.returncode == 1
    assert next(line.split()[0] for line in done.stdout.splitlines() if line.endswith("DIFFERS")) == layer


@needs_cc
def test_files_of_another_network_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(c, "EMBEDDED", 0)
    model = network("small")
    paths = c.write(model, tmp_path / "net.c", ExportOptions(golden=images_for(model)[:1]))
    binary, golden = paths[2], paths[3]
    good, outputs = binary.read_bytes(), golden.read_bytes()
    program = c.compile_program(paths[0], tmp_path / "network", *STRICT)
    for changed in (good[:-1], good + b"\0", bytes([good[0] ^ 1]) + good[1:]):
        binary.write_bytes(changed)
        done = run_golden(program, paths)
        assert done.returncode == 2 and "not the weights" in done.stderr
    binary.write_bytes(good)
    for changed, text in ((outputs[:-4], "too early"), (outputs + b"\0", "too long")):
        golden.write_bytes(changed)
        done = run_golden(program, paths)
        assert done.returncode == 2 and text in done.stderr
    golden.unlink()
    assert "cannot be opened" in run_golden(program, paths).stderr
    nan = np.frombuffer(outputs, "<f4").copy()
    nan[-1] = np.nan
    golden.write_bytes(nan.tobytes())
    assert run_golden(program, paths).returncode == 1


def test_without_a_compiler_the_files_are_written_and_not_checked(tmp_path, monkeypatch):
    monkeypatch.setattr(c, "COMPILER", "no-such-compiler")
    model = network("small")
    paths, found = export_model(model, "c", tmp_path / "net.c", ExportOptions(), images_for(model))
    assert all(path.is_file() for path in paths)
    assert found.images == 0
    assert [*found.lines()] == [
        "not checked: there is no C compiler 'no-such-compiler': install one, such as gcc or clang"
    ]
    with pytest.raises(NotInstalledError):
        c.outputs(paths, images_for(model))


def test_int8_weights_are_the_nearest_multiples_of_each_filters_scale():
    draws = np.random.default_rng(0)
    weight = (
        draws.normal(size=(16, 3, 5, 5)).astype(np.float32)
        * np.logspace(-6, 3, 16, dtype=np.float32)[:, None, None, None]
    )
    weight[3] = 0
    stored, scales = c.quantize(weight, 16)
    assert stored.dtype == np.int8 and stored.shape == weight.shape and scales.dtype == np.float32
    error = np.abs(stored * scales[:, None, None, None] - weight).reshape(16, -1).max(axis=1)
    assert (error <= 0.5001 * scales).all()
    largest = np.abs(stored.reshape(16, -1).astype(int)).max(axis=1)
    assert largest.tolist() == [127 if row != 3 else 0 for row in range(16)]


@needs_cc
def test_int8_weights_keep_the_answers_of_a_trained_network(tmp_path):
    """At least 99 % of the same answers on 397 digits that the network was not trained on."""
    data = load_digits()
    pixels = torch.from_numpy(data.images).float()[:, None] / 16
    images = nn.functional.interpolate(pixels, size=(28, 28), mode="bilinear")
    labels = torch.from_numpy(data.target)
    model = create_model("small", seed=0, width=0.125).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    torch.manual_seed(0)
    for step in range(84):
        batch = slice(step % 14 * 100, step % 14 * 100 + 100)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()
    model.eval()
    assert (logits(model, images[1400:]).argmax(1) == labels[1400:]).float().mean() > 0.7
    paths, found = export_model(model, "c", tmp_path / "net.c", ExportOptions(int8=True), images[1400:])
    assert len(paths) == 2 and found.images == 397
    assert found.same_top1 >= 0.99


def test_every_fp32_number_survives_the_header():
    bits = np.random.default_rng(0).integers(0, 2**32, 20_000, dtype=np.uint64).astype(np.uint32)
    values = bits.view(np.float32)
    values = values[np.isfinite(values)]
    source = [c._float_source(value) for value in values.tolist()]
    assert np.array_equal(np.array([float(text.removesuffix("f")) for text in source], np.float32), values)
    assert (
        c._float_source(1.0) == "1.0f" and c._float_source(-0.0) == "-0.0f" and c._float_source(1e-45).endswith("e-45f")
    )


class Odd(Classifier):
    def __init__(self):
        super().__init__(2, 1, 8)
        self.odd1 = nn.Softplus()
        self.flatten = nn.Flatten()
        self.fc2 = nn.Linear(64, 2)


def test_what_c_and_the_tables_cannot_hold_is_refused_in_one_line(tmp_path):
    images = torch.zeros(1, 1, 8, 8)
    for name in ("c", "topology"):
        with pytest.raises(UserError, match=r"layer odd1 \(Softplus\) has no description"):
            export_model(Odd(), name, tmp_path / "net", ExportOptions(), images)
    model = network("small")
    with pytest.raises(UserError, match="leave out --pixels"):
        export_model(model, "c", tmp_path / "net.c", ExportOptions(pixels=True), images)
    with pytest.raises(UserError, match="leave out --int8"):
        export_model(model, "topology", tmp_path / "net.csv", ExportOptions(int8=True), images)
    for wrong in ('a"b.c', "a b.c", "net.txt", "-net.c"):
        with pytest.raises(UserError, match="with --out"):
            export_model(model, "c", tmp_path / wrong, ExportOptions(), images)
    model.fc6.weight.data[0, 0] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        export_model(model, "c", tmp_path / "net.c", ExportOptions(), images)


@needs_cc
def test_names_from_outside_cannot_break_the_header(tmp_path):
    model = network("small")
    model.info = type(model.info)('x */ "??/', model.classes, model.labels, model.preprocessing)
    images = images_for(model)
    paths, found = export_model(model, "c", tmp_path / "net.c", ExportOptions(golden=images[:1]), images)
    assert found.difference <= 1e-5
    assert compile_and_run_golden(paths).returncode == 0


@pytest.mark.parametrize("full_size", [False, True], ids=["narrow", "full"])
@pytest.mark.parametrize("name", VARIANTS)
def test_the_tables_count_the_multiply_adds_of_the_summary(name, full_size, tmp_path):
    row = get_variant(name)
    if full_size:  # on the meta device: sizes without memory
        model = build(name, get_architecture(name), row.num_classes, row.in_channels, None, "meta")
    else:
        model = network(name, **({} if name in BASELINES else {"image_size": 117}))
    summary = {layer.name: layer.multiply_adds for layer in summarize(model).layers if layer.multiply_adds}
    assert {row.name: multiply_adds(row) for row in layer_table(model) if multiply_adds(row)} == summary
    paths, found = export_model(model, "topology", tmp_path / "net.csv", ExportOptions(), torch.zeros(0))
    assert f"{sum(summary.values()):,} multiply-adds" in found.tables
    assert [path.name for path in paths] == ["net.csv", *(f"net.{layer}.yaml" for layer in summary)]
    for path, count in zip(paths[1:], summary.values(), strict=True):
        problem = yaml.safe_load(path.read_text())["problem"]
        sizes, shape = problem["instance"], problem["shape"]
        assert np.prod([sizes[name] for name in shape["dimensions"]], dtype=np.int64) == count
        used = {term[0] for space in shape["data_spaces"] for sum_ in space["projection"] for term in sum_}
        assert used == set(shape["dimensions"])


def test_the_tables_of_the_network_of_2012(tmp_path):
    """Sizes of cuda-convnet's layers-145.cfg: 227 pixels with the padding, two groups in conv2, conv4 and conv5."""
    model = build("cuda-convnet", get_architecture("cuda-convnet"), 1000, 3, None, "meta")
    (table, *problems), _ = export_model(model, "topology", tmp_path / "net.csv", ExportOptions(), torch.zeros(0))
    lines = table.read_text().splitlines()
    assert lines[1:4] == [
        "conv1, 227, 227, 11, 11, 3, 96, 4,",
        "conv2-0, 31, 31, 5, 5, 48, 128, 1,",
        "conv2-1, 31, 31, 5, 5, 48, 128, 1,",
    ]
    assert lines[9:] == [
        "fc6, 1, 1, 1, 1, 9216, 4096, 1,",
        "fc7, 1, 1, 1, 1, 4096, 4096, 1,",
        "fc8, 1, 1, 1, 1, 4096, 1000, 1,",
    ]
    conv2 = yaml.safe_load(Path(problems[1]).read_text())["problem"]["instance"]
    assert [conv2[name] for name in "NCMGRSPQ"] == [1, 48, 128, 2, 5, 5, 27, 27]


def test_a_table_that_disagrees_is_an_error(tmp_path):
    model = network("paper", image_size=96)
    paths = topology.write(model, tmp_path / "net.csv", ExportOptions())
    assert "multiply-adds" in topology.check_tables(model, paths)
    good = paths[0].read_text()
    paths[0].write_text(good.replace("conv3, ", "conv3, 1", 1))
    with pytest.raises(UserError, match="SCALE-Sim would count"):
        topology.check_tables(model, paths)
    paths[0].write_text(good)
    paths[2].write_text(paths[2].read_text().replace("G: 2", "G: 1"))
    with pytest.raises(UserError, match="Timeloop would count"):
        topology.check_tables(model, paths)
