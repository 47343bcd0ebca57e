"""Files of ``torch.save``: equal to what torch reads from them, and refused where they lie or hold objects."""

import argparse
import collections
import os
import re
import struct
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import AlexNet_Weights

import alexnet
from alexnet.core.errors import UserError
from alexnet.inference.predictor import Predictor
from alexnet.models.registry import create_model
from alexnet.weights.convert import convert_file
from alexnet.weights.formats import read_weights
from alexnet.weights.load import load_model
from alexnet_lab.faults.mutations import mutations

sys.path.insert(0, str(Path(__file__).parent))
from narrow import narrow_torchvision, photographs

HERE = Path(__file__).parent
LEGACY = {"_use_new_zipfile_serialization": False}
LAYERS = [f"features.{n}" for n in (0, 3, 6, 8, 10)] + [f"classifier.{n}" for n in (1, 4, 6)]


@pytest.fixture(scope="module")
def theirs():
    return narrow_torchvision()


@pytest.fixture(params=["zip", "legacy"])
def save(request, tmp_path):
    path = tmp_path / "weights.pth"

    def write(value, **options):
        torch.save(value, path, **(LEGACY if request.param == "legacy" else {}), **options)
        return path

    return write


def tensors(path):
    weights = read_weights(path)
    return {f"{layer.name}.{part}": getattr(layer, part) for layer in weights.layers for part in ("weight", "bias")}


def refusal(path):
    with pytest.raises(UserError) as caught:
        load_model(path)
    assert len(caught.value.line.splitlines()) == 1
    assert "\x1b" not in str(caught.value)
    assert "weights_only" not in str(caught.value)
    return caught.value.line


def test_the_tensors_are_those_that_torch_reads(save, theirs):
    path = save(theirs.state_dict())
    expected, found = torch.load(path, weights_only=True), tensors(path)
    assert list(found) == [f"{layer}.{part}" for layer in LAYERS for part in ("weight", "bias")]
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickle_protocols(save, theirs, protocol):
    found = tensors(save(theirs.state_dict(), pickle_protocol=protocol))
    assert all(torch.equal(found[key], value) for key, value in theirs.state_dict().items())


def test_logits_and_labels_are_those_of_torchvision(save, theirs):
    model, transform = load_model(save(theirs.state_dict())), AlexNet_Weights.IMAGENET1K_V1.transforms()
    images = torch.stack([transform(photo) for photo in photographs()])
    with torch.inference_mode():
        ours, expected = model(images), theirs(images)
    assert (ours - expected).abs().max() <= 1e-6 * expected.abs().max()
    assert expected.std(dim=0).max() > 0.1  # the photographs are told apart
    own = torch.stack([alexnet.create_transform(model)(photo) for photo in photographs()])
    assert (own - images).abs().max() <= 1.01 / 255 / 0.224  # one grey level, from the rounding of the resized side
    predicted = Predictor(model)(photographs()[0], top_k=5)
    assert [int(answer.label) for answer in predicted] == expected[0].topk(5).indices.tolist()


def test_convert_and_predict_on_the_command_line(tmp_path, theirs):
    torch.save(theirs.state_dict(), tmp_path / "narrow.pth")
    photographs()[0].save(tmp_path / "china.png")
    command = [sys.executable, "-m", "alexnet"]
    done = subprocess.run([*command, "convert", "narrow.pth"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("torchvision, from PyTorch\n")
    both = [
        subprocess.run([*command, "predict", name, "china.png", "--csv"], cwd=tmp_path, capture_output=True, text=True)
        for name in ("narrow", "narrow.pth")
    ]
    assert both[0].stdout == both[1].stdout != "", both[1].stderr


@pytest.mark.parametrize(
    ("wrap", "note"),
    [
        (
            lambda state: {"state_dict": state, "epoch": 90, "best_acc1": torch.tensor(56.5)},
            "not used: epoch, best_acc1",
        ),
        (lambda state: {"model": state, "lr_scheduler": {"milestones": collections.Counter([30])}}, "under 'model'"),
        (lambda state: {"model_state_dict": state, "loss": 0.5}, "under 'model_state_dict'"),
        (lambda state: {"model": {"state_dict": state}}, "under 'state_dict'"),
        (lambda state: {f"module.{key}": value for key, value in state.items()}, "'module.' was removed"),
        (lambda state: {f"_orig_mod.module.{key}": value for key, value in state.items()}, "'_orig_mod.' was removed"),
        (lambda state: {f"model.{key}": value for key, value in state.items()}, "'model.' was removed"),
        (  # pytorch/examples, imagenet/main.py: DataParallel of AlexNet's features only
            lambda state: {re.sub(r"^features\.", "features.module.", key): value for key, value in state.items()},
            "'module.' was removed",
        ),
        (lambda state: {key: nn.Parameter(value) for key, value in state.items()}, ""),
    ],
)
def test_checkpoints_and_wrapped_networks(save, theirs, wrap, note):
    path = save(wrap(theirs.state_dict()))
    weights = read_weights(path)
    assert [layer.name for layer in weights.layers] == LAYERS
    assert note in "; ".join(weights.notes)
    assert load_model(path).variant == "torchvision"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_types_become_fp32(save, theirs, dtype):
    state = {key: value.to(dtype) for key, value in theirs.state_dict().items()}
    model = load_model(save(state))
    assert torch.equal(model.conv1.weight, state["features.0.weight"].float())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_weights_that_are_not_contiguous(save, theirs):
    state = {
        key: value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value
        for key, value in theirs.state_dict().items()
    }
    state["classifier.4.weight"] = state["classifier.4.weight"].t().contiguous().t()
    found = tensors(save(state))
    assert all(torch.equal(found[key], value) for key, value in theirs.state_dict().items())


def test_a_file_that_was_saved_on_a_gpu(save, theirs, monkeypatch):
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    path = save(theirs.state_dict())
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="on a CUDA device"):
            torch.load(path, weights_only=True)
    assert torch.equal(load_model(path).fc8.bias, theirs.classifier[6].bias)


def test_a_file_without_checksums(tmp_path, theirs):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert load_model(tmp_path / "weights.pth").variant == "torchvision"


def test_a_changed_number_is_found(tmp_path, theirs):
    path = tmp_path / "weights.pth"
    torch.save(theirs.state_dict(), path)
    data = bytearray(path.read_bytes())
    data[data.index(theirs.classifier[1].weight.detach().numpy().tobytes()) + 1000] ^= 1
    path.write_bytes(data)
    torch.load(path, weights_only=True)  # torch does not find it
    assert "is damaged" in refusal(path)


class Runs:
    def __reduce__(self):
        return os.system, ("touch /tmp/alexnet-was-here",)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (lambda theirs: theirs, "torchvision.models.alexnet.AlexNet"),
        (lambda theirs: {"model": theirs.state_dict(), "args": argparse.Namespace(lr=0.1)}, "argparse.Namespace"),
        (lambda _: {"conv1.weight": np.zeros(3)}, "numpy"),
        (lambda _: {"conv1.weight": Runs()}, f"{os.system.__module__}.system"),
        (lambda _: {"conv1.weight": torch.zeros(3, 3).to_sparse()}, "torch._utils._rebuild_sparse_tensor"),
    ],
)
def test_objects_are_refused_by_name(save, theirs, value, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = save(value(theirs))
    line = refusal(path)
    assert name in line
    assert "save model.state_dict() instead" in line
    assert not Path("/tmp/alexnet-was-here").exists()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.zeros(3), "a tensor, not a state dict"),
        ([1, 2], "a list, not a state dict"),
        ({"epoch": 3, "loss": [0.5]}, "a dictionary without a state dict (keys: epoch, loss)"),
        ({"conv1.weight": torch.zeros(64, 3, 11, 11, dtype=torch.int64)}, "expected floating-point numbers"),
    ],
)
def test_values_that_are_no_state_dict(save, value, said):
    assert said in refusal(save(value))


def test_torchscript_and_exported_programs(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "script.pt")
    assert "is a TorchScript program" in refusal(tmp_path / "script.pt")
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),)), tmp_path / "program.pt2")
    shown = f"{tmp_path / 'program.pt2'} is a torch.export program"
    assert refusal(tmp_path / "program.pt2") == (
        f"{shown}, not a state dict: save torch.export.load(FILE).state_dict with torch.save"
    )


def test_a_program_that_this_program_wrote_and_its_state_dict(tmp_path):
    """What the errors advise works: the state dict of the program, saved, is a MODEL."""
    ours = create_model("small", num_classes=3, in_channels=3, seed=0).eval()
    alexnet.export(ours, tmp_path / "net.pt2", "torch", progress=False)
    assert refusal(tmp_path / "net.pt2") == (
        f"{tmp_path / 'net.pt2'} is a torch.export program that 'alexnet export --to torch' wrote, for use in PyTorch: "
        "give the MODEL that was exported, or export that with --to safetensors"
    )
    torch.save(torch.export.load(tmp_path / "net.pt2").state_dict, tmp_path / "net.pth")
    assert torch.equal(alexnet.load_model(tmp_path / "net.pth", progress=False).fc8.weight, ours.fc8.weight)


def test_other_zips_are_not_taken(tmp_path):
    np.savez(tmp_path / "a.npz", weight=np.zeros(3))
    with zipfile.ZipFile(tmp_path / "b.keras", "w") as file:
        file.writestr("metadata.json", "{}")
    for name in ("a.npz", "b.keras"):
        assert "PyTorch" not in refusal(tmp_path / name).split("it reads")[0]


def huge(state):
    """The state dict with a tensor of 2^40 elements over the 16 bytes of one storage."""
    return state | {"classifier.6.bias": torch.zeros(4).as_strided((1 << 40,), (0,))}


def test_a_tensor_that_is_larger_than_its_storage(save, theirs):
    path = save(huge(theirs.state_dict()))
    assert torch.load(path, weights_only=True)["classifier.6.bias"].numel() == 1 << 40  # torch accepts it
    with pytest.raises(UserError) as caught:
        load_model(path)
    assert caught.value.details == ("a tensor of 1,099,511,627,776 elements in a storage of 4",)


def repack(path, change):
    """The zip at ``path`` written again by another program; ``change``: name and bytes → (name, bytes, method)."""
    with zipfile.ZipFile(path) as old:
        members = [(name, old.read(name)) for name in old.namelist()]
    with zipfile.ZipFile(path, "w") as new:
        for name, data in members:
            name, data, method = change(name, data)
            new.writestr(name, data, method)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda name, data: (name, data, zipfile.ZIP_DEFLATED), "is compressed"),
        (lambda name, data: (name, data[:-4] if name.endswith("data/0") else data, 0), "is damaged"),
        (lambda name, data: (name, b"big" if name.endswith("byteorder") else data, 0), "another byte order"),
        (lambda name, data: (name.replace("data/3", "data/x"), data, 0), "is damaged"),
        (
            lambda name, data: (name, data + bytes(9 << 20) if name.endswith("pkl") else data, 0),
            "more than a state dict",
        ),
    ],
)
def test_altered_zips(tmp_path, theirs, change, said):
    path = tmp_path / "weights.pth"
    torch.save(theirs.state_dict(), path)
    repack(path, change)
    assert said in refusal(path)


def test_a_zip_that_another_program_packed_again(tmp_path, theirs):
    path = tmp_path / "weights.pth"
    torch.save(theirs.state_dict(), path)
    repack(path, lambda name, data: (name, data, zipfile.ZIP_STORED))
    assert load_model(path).variant == "torchvision"


def test_a_legacy_file_that_claims_much(tmp_path, theirs):
    path = tmp_path / "weights.pth"
    torch.save(theirs.state_dict(), path, **LEGACY)
    data, bias = path.read_bytes(), theirs.classifier[6].bias.detach().numpy().tobytes()
    place = data.index(bias) - 8
    assert data[place : place + 8] == struct.pack("<q", 10)
    path.write_bytes(data[:place] + struct.pack("<q", 1 << 40) + data[place + 8 :])
    assert "is damaged" in refusal(path)


@pytest.mark.parametrize(
    ("pickle", "said"),
    [
        (b"\x80\x02" + b"]q\x00" * 200_000 + b".", "more than 300,000 objects"),
        (b"\x80\x04\x96" + (1 << 40).to_bytes(8, "little") + b".", ""),  # BYTEARRAY8 of a tebibyte
        (b"\x80\x02r\xff\xff\xff\xff.", ""),  # LONG_BINPUT at 2^32 - 1
        (b"\x80\x02" + b"(" * 100_000 + b"t" * 99_999 + b".", ""),
        (b"\x80\x02cbuiltins\nbytearray\n\x8a\x06" + (1 << 40).to_bytes(6, "little") + b"\x85R.", "builtins.bytearray"),
        (b"", ""),
    ],
)
def test_pickles_that_cost_memory(tmp_path, pickle, said):
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickle)
    with pytest.raises(UserError) as caught:
        load_model(path)
    assert said in str(caught.value)


NAMINGS = {
    "sequential": lambda layer, number: f"net.{number}",
    "blocks": lambda layer, number: f"layer{number}.0" if number < 20 else f"head.{number}",
    "ours": lambda layer, number: layer,
}


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_other_names_are_put_in_the_order_of_their_numbers(tmp_path, theirs, naming, suffix):
    from safetensors.torch import save_file

    ours = [f"conv{n}" for n in range(1, 6)] + ["fc6", "fc7", "fc8"]
    numbers = [0, 3, 6, 8, 10, 20, 100, 1000]  # as texts, 10 comes before 3
    names = {old: NAMINGS[naming](new, n) for old, new, n in zip(LAYERS, ours, numbers, strict=True)}
    state = {
        f"{names[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}": value
        for key, value in sorted(theirs.state_dict().items())
    }
    path = tmp_path / f"weights{suffix}"
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    model = convert_file(path, variant="torchvision")[0]
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), theirs.parameters(), strict=True))


def test_our_own_tensors_outside_their_folder(tmp_path, theirs):
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    model = load_model(tmp_path / "weights.pth")
    alexnet.save_model(model, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").rename(tmp_path / "alone.safetensors")
    again = convert_file(tmp_path / "alone.safetensors", variant="torchvision")[0]
    assert all(torch.equal(again.state_dict()[key], value) for key, value in model.state_dict().items())


def outcome(path):
    """ "refused", or "read" for a finite network with layers of the right shapes; anything else raises."""
    try:
        model, _ = convert_file(path)
    except UserError as error:
        assert len(error.line.splitlines()) == 1
        return "refused"
    for name, tensor in model.state_dict().items():
        assert all(end.isfinite() for end in tensor.aminmax()), name  # without a copy: memory is measured below
    assert model.conv1.weight.shape[1] == model.in_channels
    assert model.fc8.weight.shape == (model.num_classes, model.fc7.out_features)
    return "read"


def originals(folder):
    """A small file of each kind."""
    from safetensors.torch import save_file

    state = narrow_torchvision(64).state_dict()
    torch.save(state, folder / "zip.pth")
    torch.save(state, folder / "legacy.pth", **LEGACY)
    save_file(state, folder / "tensors.safetensors")
    return sorted(folder.iterdir())


def test_changed_files_are_refused_or_give_a_finite_network(tmp_path):
    (tmp_path / "originals").mkdir()
    path = tmp_path / "changed"
    for original in originals(tmp_path / "originals"):
        found = set()
        for data in mutations(original.read_bytes(), 120, seed=1):
            path.write_bytes(data)
            found.add(outcome(path))
        assert "refused" in found, original.name
    assert outcome(original) == "read"


MEASURE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_torch_files import outcome
peak = lambda: int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) << 10
outcome(Path(sys.argv[2]))
before = peak()
result = outcome(Path(sys.argv[3]))
print(result, peak() - before)
"""


def measured(*files):
    """What becomes of the second file, and the bytes by which it raises the peak of a process that read the first."""
    command = [sys.executable, "-c", MEASURE, str(HERE), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    result, size = done.stdout.split()
    return result, int(size)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
@pytest.mark.parametrize("options", [{}, LEGACY])
def test_memory_of_reading_is_that_of_the_weights(tmp_path, options):
    small, large = tmp_path / "small.pth", tmp_path / "large.pth"
    torch.save(narrow_torchvision(64).state_dict(), small)
    torch.save(narrow_torchvision(2).state_dict(), large, **options)
    size = large.stat().st_size
    assert size > 50 << 20
    result, memory = measured(small, large)
    assert result == "read"
    assert memory < 2 * size
    torch.save(huge(narrow_torchvision(64).state_dict()), large, **options)
    result, memory = measured(small, large)
    assert result == "refused"
    assert memory < 4 * large.stat().st_size + (64 << 20)
