"""``alexnet verify``: faults made on purpose in trained networks are named, healthy and fresh networks are not."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from alexnet import export, load_model, verify
from alexnet.analysis.layer_statistics import known_schemes, layer_statistics
from alexnet.analysis.preprocessing_trials import best_temperature, run_trials
from alexnet.analysis.verify import verify_weights
from alexnet.cli.main import main
from alexnet.core.errors import UserError
from alexnet.core.tensors import save_tensors
from alexnet.data.augment import views
from alexnet.data.decode import fit
from alexnet.models.bundle import save_model
from alexnet.models.classifier import ModelInfo
from alexnet.models.layers import LocalResponseNorm, init_layer
from alexnet.models.registry import create_model
from alexnet.training.linear_probe import put_probe
from alexnet.weights import zoo
from alexnet.weights.caffe_blobs import DESCRIPTION
from alexnet.weights.preprocessing import TORCHVISION_IMAGENET
from alexnet.weights.protobuf import field, fields, message
from alexnet_lab.verification.digits_2012 import TRAIN, digits, train_digits_2012, write_test_digits
from alexnet_lab.verification.faults import (
    EXCHANGED,
    FAULTS,
    Column,
    exchange_channels,
    in_words,
    measure_column,
    verify_network,
    with_other_units,
    with_settings,
)
from alexnet_lab.verification.fresh import alexnets, verify_all_fresh, wrong

NETWORK = Path(__file__).parents[1] / "data_files/colour-network"
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def network():
    return load_model(NETWORK)


@pytest.fixture(scope="module")
def report():
    return verify_weights(NETWORK)


@pytest.fixture
def file(network, tmp_path):
    """Writes a weights file of the network with some tensors changed, and returns its path."""

    def write(change=lambda state: None, name="model.safetensors", dtype=torch.float32):
        state = {key: value.clone() for key, value in network.state_dict().items()}
        change(state)
        save_file({key: v.to(dtype) if v.is_floating_point() else v for key, v in state.items()}, tmp_path / name)
        return tmp_path / name

    return write


def test_a_trained_network_is_trained_and_whole(report):
    assert report.training == "trained"
    assert (report.status, report.faults) == (0, ())
    assert report.variant == "small"
    assert "trained, whole" in report.summary
    assert [row.layer for row in report.layers] == ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]


def test_what_weights_cannot_tell_is_said(report):
    text = " ".join(
        [*(finding.sentence for finding in report.findings if finding.verdict == "unknown"), *report.unknown]
    )
    for words in ("RGB or BGR cannot be known", "mean and scale of the pixels", "where dropout is scaled"):
        assert words in text


FROM_WEIGHTS = [fault for fault in FAULTS if not fault.images and fault.what != EXCHANGED]


@pytest.mark.parametrize(("layer", "passing"), [("avgpool5", "fc6, fc7 only pass"), ("relu6", "fc7 only passes")])
def test_a_linear_probe_that_became_the_network_is_no_fault(layer, passing, tmp_path):
    """The hidden layers after the probed one have only zeros and means, and biases of 0."""
    model = load_model("trunk")
    draws = np.random.default_rng(0)
    units = model.layer_shapes()[layer][0]
    weight = draws.normal(size=(model.num_classes, 5)) @ draws.normal(size=(5, units))  # not independent, as if trained
    put_probe(model, layer, weight, draws.normal(size=model.num_classes))
    save_model(model, tmp_path / "model")
    found = verify(tmp_path / "model", progress=False)
    assert not [finding.sentence for finding in found.findings if finding.fault]
    assert any(finding.sentence.startswith(f"{passing} on the features") for finding in found.findings)


@pytest.mark.parametrize("fault", FROM_WEIGHTS, ids=lambda fault: fault.title)
def test_a_fault_has_its_name(network, tmp_path, fault):
    changed = verify_network(fault.change(network, with_other_units(network)), tmp_path / "model")
    assert changed.status == 1
    assert set(changed.faults) & set(fault.names), (fault, changed.summary)
    concerned = [name for finding in changed.findings if finding.fault in fault.names for name in finding.layers]
    assert fault.layer.split(" ")[-1].replace("norm", "conv") in concerned


def test_exchanged_channels_cannot_be_known_from_the_weights(network, tmp_path):
    changed = verify_network(exchange_channels(network, network), tmp_path / "model")
    assert changed.faults == ()


def test_other_units_are_the_same_function_and_no_fault(network, tmp_path):
    other = with_other_units(network)
    images = torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network(images), other(images), rtol=0, atol=1e-4)
    assert verify_network(other, tmp_path / "model").faults == ()


def test_other_units_stay_in_their_group():
    network = create_model("small", width=0.25, groups=2, in_channels=3, image_size=32, seed=0).eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    other = with_other_units(network)
    torch.testing.assert_close(network(images), other(images), rtol=0, atol=1e-5)
    assert not torch.equal(network.conv2.weight, other.conv2.weight)


def test_images_decide_what_weights_cannot(network):
    """Crops of photographs, each with the class that the network itself gives it."""
    images = photographs()
    labels = run_and_choose(network, images)
    right = run_trials(network, images, labels)
    assert right.stated.accuracy == 1
    assert right.stated.tie
    assert not right.stated_is_wrong
    wrong = run_trials(exchange_channels(network, network), images, labels)
    assert wrong.stated_is_wrong
    assert (wrong.best.channels, wrong.best.pixels) == ("BGR", "as stated")
    assert wrong.wrong_settings == ("channels",)
    assert any(trial.tie and trial.dropout != "as stated" for trial in right.trials)  # a tie is called a tie


def test_a_wrong_scale_is_found_with_images(network):
    images = photographs()
    labels = run_and_choose(network, images)
    info = network.info
    wrong = load_model(NETWORK)
    scale = dataclasses.replace(info.preprocessing, mean=(0.0,) * 3, std=(1.0,) * 3)
    wrong.info = dataclasses.replace(info, preprocessing=scale)
    trials = run_trials(wrong, images, labels)
    assert trials.stated_is_wrong
    assert trials.best.channels == "RGB"
    assert trials.best.pixels == "torchvision's mean and std"
    assert trials.wrong_settings == ("pixels",)


def test_warped_images_are_found_with_images(network):
    """Wide crops: the right classes are those that the network gives to the warped crops."""
    from sklearn.datasets import load_sample_images

    wide = [
        np.ascontiguousarray(image[y : y + 64, x : x + 160])
        for image in load_sample_images().images
        for y in range(0, 360, 24)
        for x in range(0, 480, 120)
    ]
    side = network.preprocessing.resize_size
    warped = [np.asarray(Image.fromarray(i).resize((side, side), Image.Resampling.BILINEAR)) for i in wide]
    trials = run_trials(network, wide, run_and_choose(network, warped))
    assert trials.best.resize == "warp"
    assert trials.best.accuracy == 1
    assert trials.stated_is_wrong
    assert trials.wrong_settings == ("resize",)


def test_what_alpha_multiplies_is_found_with_images(lively):
    """The right classes are those that the network gives if α multiplies the sum of squares, not the mean."""
    network = lively(create_model("caffenet", width=0.0625, num_classes=9, seed=0))
    lrns = [module for module in network.modules() if isinstance(module, LocalResponseNorm)]
    for module in lrns:
        module.alpha, module.convention = 1.0, "sum"
    network.info = ModelInfo("caffenet", tuple("abcdefghi"), tuple("abcdefghi"), TORCHVISION_IMAGENET)
    images = photographs()
    large = torch.from_numpy(np.stack([np.asarray(fit(Image.fromarray(image), 256, 3)) for image in images]))
    with torch.inference_mode():
        logits = network(next(iter(views(large, network.preprocessing, None))))
        network.fc8.bias -= logits.mean(dim=0)  # so that all classes occur
    labels = (logits - logits.mean(dim=0)).argmax(dim=1).tolist()
    assert len(set(labels)) > 4
    for module in lrns:
        module.convention = "mean"
    trials = run_trials(network, images, labels)
    assert trials.best.alpha == "the other convention"
    assert trials.best.accuracy == 1
    assert trials.stated_is_wrong
    assert trials.wrong_settings == ("alpha",)


@pytest.fixture(scope="module")
def network_2012():
    """A network with LRN, and dropout that is scaled in evaluation, trained on digits."""
    images, labels = digits()
    return train_digits_2012(images[:TRAIN], labels[:TRAIN])


@pytest.fixture(scope="module")
def other_digits(tmp_path_factory):
    """A folder of digits that the network was not trained on."""
    return write_test_digits(tmp_path_factory.mktemp("digits"))


def with_mean_of_zero(network):
    changed = with_settings(network)
    preprocessing = dataclasses.replace(network.info.preprocessing, mean=(0.0,), std=(1.0,))
    changed.info = dataclasses.replace(network.info, preprocessing=preprocessing)
    return changed


def with_weights_times(factor):
    def change(network):
        changed = with_settings(network)
        with torch.no_grad():
            changed.fc7.weight.mul_(factor)
            changed.fc8.weight.mul_(factor)
        return changed

    return change


@pytest.mark.parametrize(
    ("fault", "change", "words"),
    [
        (None, with_settings, "dropout is scaled as stated"),
        ("dropout-scaling", lambda network: with_settings(network, dropout_scaling="train"), "scale"),
        ("dropout-scaling", with_weights_times(2), "scale"),
        ("dropout-scaling", with_weights_times(0.5), "scale"),
        ("lrn-alpha", lambda network: with_settings(network, lrn_convention="mean"), "α of LRN multiplies another"),
        ("pixel-normalization", with_mean_of_zero, "mean and scale of the pixels"),
    ],
    ids=["healthy", "not halved", "doubled weights", "halved twice", "alpha", "mean"],
)
def test_a_wrong_setting_has_its_name_with_images_and_cannot_be_known_without(
    network_2012, other_digits, tmp_path, fault, change, words
):
    save_model(change(network_2012), tmp_path / "model")
    alone = verify(tmp_path / "model")
    assert alone.faults == ()
    unknown = " ".join(alone.unknown)
    for line in ("mean and scale of the pixels", "where dropout is scaled", "what α of LRN multiplies"):
        assert line in unknown
    found = verify(tmp_path / "model", data=other_digits, progress=False)
    assert found.faults == ((fault,) if fault else ())
    assert found.status == int(fault is not None)
    assert any(words in finding.sentence for finding in found.findings if bool(finding.fault) == bool(fault))


def test_units_that_no_image_activates_are_dead(network_2012, other_digits, tmp_path):
    changed = with_settings(network_2012)
    with torch.no_grad():
        changed.fc7.bias[8:] = -1000
    save_model(changed, tmp_path / "model")
    assert verify(tmp_path / "model").faults == ()  # their weights are as they were trained
    found = verify(tmp_path / "model", data=other_digits, progress=False)
    assert "dead-units" in found.faults
    (layers,) = [finding.layers for finding in found.findings if finding.fault == "dead-units"]
    assert layers == ("relu7",)


def test_weak_dropout_is_not_judged_by_the_size_of_logits(network_2012, other_digits):
    weak = with_settings(network_2012, dropout=0.2, dropout_scaling="train")
    images, labels = digits()
    trials = run_trials(weak, [image.numpy() for image in images[TRAIN:]], labels[TRAIN:].tolist())
    assert trials.stated.temperature > 3
    assert trials.dropout is None
    assert not trials.dropout_is_wrong


def test_few_images_decide_nothing_by_their_losses(network_2012):
    images, labels = digits()
    few = [image.numpy() for image in images[TRAIN : TRAIN + 20]]
    for changed in (with_settings(network_2012, lrn_convention="mean"), with_weights_times(2)(network_2012)):
        trials = run_trials(changed, few, labels[TRAIN : TRAIN + 20].tolist())
        assert trials.alpha is None
        assert not trials.dropout_is_wrong


def test_the_best_temperature():
    draws = torch.Generator().manual_seed(0)
    logits = torch.randn(20_000, 10, generator=draws, dtype=torch.float64) * 3
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=draws)[:, 0]
    for factor in (0.25, 1, 4):
        assert best_temperature(logits * factor, labels) == pytest.approx(factor, rel=0.05)
    assert best_temperature(logits, logits.argmax(dim=1)) < 0.02  # all right: the larger the better


def photographs():
    from sklearn.datasets import load_sample_images

    return [
        np.ascontiguousarray(image[y : y + 64, x : x + 64])
        for image in load_sample_images().images
        for y in range(0, 360, 72)
        for x in range(0, 570, 72)
    ]


def run_and_choose(network, images):
    (view,) = views(torch.from_numpy(np.stack(images)), network.preprocessing, None)
    with torch.inference_mode():
        return network(view).argmax(dim=1).tolist()


def test_data_of_a_folder_named_by_wordnet_ids(network, tmp_path, capsys):
    images = photographs()[:20]
    for number, (image, label) in enumerate(zip(images, run_and_choose(network, images), strict=True)):
        Image.fromarray(image).save(tmp_path / f"{network.classes[label]}_{number}.png")
    assert main(["verify", str(NETWORK), "--data", str(tmp_path), "--json"]) == 0
    trials = json.loads(capsys.readouterr().out)["trials"]
    assert trials["stated"]["right"] == trials["stated"]["images"] == 20


def test_a_retouched_copy_is_named_and_its_layer_too(file):
    def change(state):
        state["conv2.weight"][0, 0, 0, 0] += 1e-3

    retouched = verify_weights(file(change), against=NETWORK)
    assert retouched.faults == ("retouched",)
    assert [finding.layers for finding in retouched.findings if finding.fault] == [("conv2",)]
    same = verify_weights(file(), against=NETWORK)
    assert same.faults == ()
    assert any("all layers are bit for bit" in finding.sentence for finding in same.findings)


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("reverse order", lambda s: s.update({"conv1.weight": s["conv1.weight"].flip(1)})),
        ("HWC", lambda s: s.update({"fc6.weight": s["fc6.weight"].reshape(256, 64, 16).transpose(1, 2).flatten(1)})),
        ("times 0.5", lambda s: s.update({"fc7.weight": s["fc7.weight"] / 2})),
        ("same units in another order", lambda s: s.update({"conv3.weight": s["conv3.weight"].flip(0)})),
        ("unrelated", lambda s: s.update({"conv4.weight": torch.randn(s["conv4.weight"].shape)})),
        ("other biases", lambda s: s.update({"fc8.bias": s["fc8.bias"] + 1})),
    ],
)
def test_against_says_what_was_changed(file, words, change):
    compared = verify_weights(file(change), against=NETWORK)
    assert any(words in finding.sentence for finding in compared.findings)


def test_rounded_weights_are_called_rounded(file):
    compared = verify_weights(file(dtype=torch.bfloat16), against=NETWORK)
    assert compared.training == "trained"
    assert sum("rounding" in finding.sentence for finding in compared.findings) == 8


@pytest.fixture
def published(network, file, tmp_path, monkeypatch):
    """``torchvision/imagenet`` is a file of the colour network, and its variant is that network's. Returns the file."""
    (tmp_path / "root").mkdir()
    name = "torchvision/imagenet"
    path = tmp_path / "root" / zoo.WEIGHTS[name].file
    path.write_bytes(file().read_bytes())
    row = dataclasses.replace(
        zoo.WEIGHTS[name], variant="small", bytes=path.stat().st_size, hash=zoo.hash_file(path, "sha256")
    )
    monkeypatch.setitem(zoo.WEIGHTS, name, row)
    return path


def test_a_published_file_is_named_and_so_is_a_retouched_copy_of_it(published, file, capsys):
    root = ["--weights-root", str(published.parent)]
    assert main(["verify", "torchvision/imagenet", *root]) == 0
    assert "the file is the published torchvision/imagenet, bit for bit" in capsys.readouterr().out
    assert main(["verify", str(file(lambda state: state["conv4.weight"].mul_(1.001))), *root, "--json"]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert printed["faults"] == ["retouched"]
    assert [finding["layers"] for finding in printed["findings"] if finding["fault"]] == [["conv4"]]
    fine_tuned = verify(file(lambda state: state["fc8.weight"].mul_(1.1)), weights_root=published.parent)
    assert fine_tuned.faults == ()
    assert any("fine-tuning" in finding.sentence for finding in fine_tuned.findings)
    published.write_bytes(published.read_bytes() + b" ")  # no longer the published file: nothing is compared with it
    assert verify(file(lambda state: state["conv4.weight"].mul_(1.001)), weights_root=published.parent).faults == ()


def test_a_changed_file_of_a_model_folder(tmp_path):
    for name in ("model.json", "model.safetensors"):
        (tmp_path / name).write_bytes((NETWORK / name).read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["fc8.bias"][3] += 1
    save_file(tensors, tmp_path / "model.safetensors")
    assert verify_weights(tmp_path).faults == ("changed-file",)


def test_the_variant_and_whose_conventions_a_file_has(lively, tmp_path):
    network = create_model("torchvision", width=0.0625, num_classes=50, seed=0)
    convs = [f"features.{number}" for number in (0, 3, 6, 8, 10)]
    theirs = [*convs, *(f"classifier.{number}" for number in (1, 4, 6))]
    names = dict(zip([*(f"conv{n}" for n in range(1, 6)), "fc6", "fc7", "fc8"], theirs, strict=True))
    state = {f"{names[key.split('.')[0]]}.{key.split('.')[1]}": value for key, value in network.state_dict().items()}
    torch.save(state, tmp_path / "network.pth")
    found = verify_weights(tmp_path / "network.pth", variant="torchvision")
    assert (found.framework, found.variant, found.faults) == ("torchvision", "torchvision", ("untrained",))
    assert [row.source for row in found.layers][:2] == ["features.0", "features.3"]
    caffe = lively(create_model("caffenet", width=0.0625, num_classes=50, seed=0))
    export(caffe, tmp_path / "network.caffemodel", "caffe")
    found = verify_weights(tmp_path / "network.caffemodel")
    assert (found.framework, found.variant, found.faults) == ("alexnet", "caffenet", ("untrained",))
    content = memoryview((tmp_path / "network.caffemodel").read_bytes())
    of_caffe = [field(number, value) for number, _, value in fields(content) if number != DESCRIPTION]
    (tmp_path / "of-caffe.caffemodel").write_bytes(b"".join(message(of_caffe)))
    found = verify_weights(tmp_path / "of-caffe.caffemodel", variant="caffenet")
    assert (found.framework, found.variant, found.faults) == ("caffe", "caffenet", ("untrained",))


def test_shapes_of_no_variant_are_reported(file):
    def change(state):
        state["fc7.weight"] = state["fc7.weight"][:, :100].contiguous()

    changed = verify_weights(file(change))
    assert changed.faults[0] == "shapes"
    assert len(changed.layers) == 8


def test_a_file_that_is_no_weights_file(tmp_path, capsys):
    (tmp_path / "x.safetensors").write_bytes(b"no weights")
    assert main(["verify", str(tmp_path / "x.safetensors")]) == 2
    assert main(["verify", str(tmp_path / "absent")]) == 2
    assert all(line.startswith(("alexnet: ", "  ")) for line in capsys.readouterr().err.splitlines())
    with pytest.raises(UserError):
        verify(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", alexnets())
def test_fresh_networks_of_every_variant_are_untrained(name):
    rows = verify_all_fresh([name], 20, 0.0625, None)
    assert len(rows) == 20
    assert wrong(rows) == []


def test_the_baseline_that_is_no_alexnet(tmp_path):
    network = create_model("lenet5", seed=0)
    save_tensors(network.state_dict(), tmp_path / "lenet.safetensors")
    found = verify_weights(tmp_path / "lenet.safetensors")
    assert "shapes" in found.faults
    assert found.training == "untrained"


def test_the_run_of_a_narrow_network_of_few_units_is_not_accused():
    golden = Path(__file__).parents[1] / "data_files/golden/digits-run"
    assert verify_weights(golden).faults == ()


@pytest.mark.parametrize("scheme", ["gaussian", "xavier", "glorot", "he", "torch"])
def test_each_initialization_is_known(scheme):
    layer = torch.nn.Conv2d(32, 64, 3)
    init_layer(layer, "layer", scheme, 0.03, 0.1, seed=1)
    found = layer_statistics(layer.weight.detach())
    assert found.state == "initial"
    wanted = {scheme.name for scheme in known_schemes((64, 32, 3, 3))}
    assert found.nearest in wanted
    assert {"gaussian": "0.03", "he": "He", "torch": "PyTorch"}.get(scheme, "Glorot") in found.nearest
    scaled = layer_statistics(layer.weight.detach() * 1.1)
    assert scaled.state == "random"
    spiked = layer.weight.detach().clone()
    spiked += 0.5 * spiked.std() * torch.outer(torch.ones(64), torch.ones(288)).reshape(spiked.shape)
    assert layer_statistics(spiked).state == "trained"


def test_a_column_of_the_sensitivity_table(network, tmp_path):
    save_model(with_other_units(network), tmp_path / "other")
    faults = [fault for fault in FAULTS if fault.layer in ("conv1", "conv3", "norm3")]
    column = measure_column(Column("colour", NETWORK, tmp_path / "other"), faults)
    cells = {title: in_words(row) for title, row in column["faults"].items()}
    assert cells == {
        "no fault": "consistent",
        "conv3: a weight is NaN": "found",
        "conv3: from another seed": "found",
        "norm3: statistics of batch normalization reset": "found",
        "conv1: RGB and BGR exchanged": "cannot be known",
        "conv1: RGB and BGR exchanged, with images": "–",
    }
    other = {"expected": ["foreign-layer"], "found": ["initial-layer"]}
    assert in_words(other) == "found as initial-layer"


def test_the_command_prints_the_verdict_first():
    out = subprocess.run(
        [sys.executable, "-m", "alexnet", "verify", str(NETWORK)], check=True, capture_output=True, text=True
    ).stdout
    assert out.splitlines()[0].endswith("consistent: trained, whole, small")


def changed_files(count, seed, tmp_path):
    """Files of a narrow network with random bytes, tensors and shapes changed; yields their paths."""
    draws = np.random.default_rng(seed)
    network = create_model("small", width=0.25, num_classes=10, image_size=16, seed=0)
    states = [{key: value.clone() for key, value in network.state_dict().items()} for _ in range(1)]
    for number in range(count):
        state, path = dict(states[0]), tmp_path / f"{number % 4}.safetensors"
        key = str(draws.choice(list(state)))
        match draws.integers(6):
            case 0:
                del state[key]
            case 1:
                state[key] = state[key].flatten()[: draws.integers(0, 9)].clone()
            case 2:
                state[key] = torch.zeros([int(n) for n in draws.integers(0, 4, size=draws.integers(0, 5))])
            case 3:
                state[key] = state[key].to([torch.int8, torch.bool, torch.float16, torch.float64][draws.integers(4)])
            case 4:
                state[key] = state[key] * float(draws.choice([0, np.inf, np.nan, 1e38, -1e-38]))
        save_file(state, path)
        content = bytearray(path.read_bytes())
        for place in draws.integers(0, len(content), size=draws.integers(0, 3)):
            content[place] = draws.integers(256)
        path.write_bytes(content)
        yield path


def test_changed_files_are_reported_or_refused(tmp_path):
    reports = 0
    for path in changed_files(80, 0, tmp_path):
        try:
            verified = verify_weights(path, against=NETWORK)
        except UserError:
            continue
        reports += 1
        assert verified.summary
        json.dumps(dataclasses.asdict(verified))
    assert reports > 40
