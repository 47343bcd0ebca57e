"""Update rules against their formulas, the groups, and optimizer state that survives files bit for bit."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from alexnet.config import LayerRule, OptimSpec
from alexnet.core.errors import UserError
from alexnet.training.optimizer import LARS, SGD2012, build_optimizer, optimizer_tensors, restore_optimizer, set_lrs

MOMENTUM, DECAY = 0.9, 5e-4
RATES = [0.01] * 4 + [0.001] * 4 + [0.0005] * 4


def gradients(count, size=7, seed=0):
    """``(count, size)`` float64."""
    return torch.randn(count, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def run(optimizer_of, rates, grads, momentum_at=None):
    """The parameter after each step of an optimizer made by ``optimizer_of(parameters)``."""
    parameter = nn.Parameter(gradients(1, seed=1)[0].clone())
    optimizer = optimizer_of([parameter])
    path = []
    for step, (rate, gradient) in enumerate(zip(rates, grads, strict=True)):
        for group in optimizer.param_groups:
            group["lr"] = rate
            if momentum_at:
                group["momentum"] = momentum_at(step)
        parameter.grad = gradient.clone()
        optimizer.step()
        path.append(parameter.detach().clone())
    return torch.stack(path)


def test_2012_s_update_is_the_formula_over_rate_drops():
    """v ← 0.9·v − ε·g − λ·ε·w, w ← w + v (paper §5), number by number in Python's own float64."""
    grads = gradients(len(RATES))
    found = run(lambda p: SGD2012(p, 0.1, MOMENTUM, DECAY), RATES, grads)
    w, v = gradients(1, seed=1)[0].tolist(), [0.0] * 7
    for step, rate in enumerate(RATES):
        for i, g in enumerate(grads[step].tolist()):
            v[i] = MOMENTUM * v[i] - rate * g - DECAY * rate * w[i]
            w[i] = w[i] + v[i]
        np.testing.assert_allclose(found[step].numpy(), w, rtol=1e-13)


def test_2012_s_update_is_torch_s_at_a_constant_rate():
    grads = gradients(12)
    ours = run(lambda p: SGD2012(p, 0.01, MOMENTUM, DECAY), [0.01] * 12, grads)
    torchs = run(lambda p: torch.optim.SGD(p, 0.01, MOMENTUM, weight_decay=DECAY), [0.01] * 12, grads)
    torch.testing.assert_close(ours, torchs, rtol=1e-12, atol=0)


def test_2012_s_update_is_torch_s_with_rescaled_momentum_where_the_rate_drops():
    grads = gradients(len(RATES))
    ours = run(lambda p: SGD2012(p, 0.01, MOMENTUM, DECAY), RATES, grads)

    def torchs(momentum_at=None):
        return run(lambda p: torch.optim.SGD(p, 0.01, MOMENTUM, weight_decay=DECAY), RATES, grads, momentum_at)

    rescaled = torchs(lambda step: MOMENTUM * RATES[max(0, step - 1)] / RATES[step])
    torch.testing.assert_close(ours, rescaled, rtol=1e-12, atol=0)
    plain = torchs()
    torch.testing.assert_close(ours[:4], plain[:4], rtol=1e-12, atol=0)
    assert (ours[4] - plain[4]).abs().min() > 1e-3  # after the drop they part


def test_2012_s_fused_update_is_the_unfused_one():
    grads = gradients(len(RATES))
    unfused = run(lambda p: SGD2012(p, 0.01, MOMENTUM, DECAY), RATES, grads)
    fused = run(lambda p: SGD2012(p, 0.01, MOMENTUM, DECAY, fused=True), RATES, grads)
    torch.testing.assert_close(fused, unfused, rtol=1e-12, atol=0)


def test_2012_s_fused_update_does_nothing_where_a_number_is_not_finite():
    parameter = nn.Parameter(torch.ones(3))
    optimizer = SGD2012([parameter], 0.1, MOMENTUM, DECAY, fused=True)
    for found, moved in ((1.0, False), (0.0, True)):
        parameter.grad = torch.full((3,), torch.nan if found else 2.0)
        optimizer.found_inf = torch.tensor(found)
        optimizer.step()
        assert bool((parameter != 1).all()) == moved
        assert bool(optimizer.state[parameter]["momentum_buffer"].any()) == moved


def test_without_momentum_2012_s_update_is_not_fused():
    parameter = nn.Parameter(torch.ones(3))
    parameter.grad = torch.ones(3)
    optimizer = SGD2012([parameter], 0.1, 0.0, fused=True)
    assert not optimizer.defaults["fused"]
    optimizer.step()
    torch.testing.assert_close(parameter.detach(), torch.full((3,), 0.9))


@pytest.mark.parametrize("fused", [False, True])
def test_a_rate_of_0_freezes_weight_and_velocity(fused):
    parameter = nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = SGD2012([parameter], 0.1, MOMENTUM, DECAY, fused=fused)
    parameter.grad = torch.full((3,), 2.0, dtype=torch.float64)
    optimizer.step()
    weight, velocity = parameter.detach().clone(), optimizer.state[parameter]["momentum_buffer"].clone()
    optimizer.param_groups[0]["lr"] = 0.0
    for _ in range(3):
        optimizer.step()
    assert torch.equal(parameter, weight)
    assert torch.equal(optimizer.state[parameter]["momentum_buffer"], velocity)
    optimizer.param_groups[0]["lr"] = 0.1
    optimizer.step()  # the velocity waited
    torch.testing.assert_close(
        parameter.detach(), weight + MOMENTUM * velocity - 0.1 * 2.0 - 0.1 * DECAY * weight, rtol=1e-13, atol=0
    )


def test_parameters_without_a_gradient_are_left_alone():
    parameter = nn.Parameter(torch.ones(3))
    optimizer = SGD2012([parameter], 0.1)
    optimizer.step()
    assert torch.equal(parameter, torch.ones(3))
    assert not optimizer.state[parameter]["momentum_buffer"].any()
    with pytest.raises(ValueError, match="takes no closure"):
        optimizer.step(lambda: 0.0)


@pytest.mark.parametrize("trust_clip", [False, True])
@pytest.mark.parametrize("decay", [0.0, DECAY])
def test_lars_is_timm_s(trust_clip, decay):
    lars = pytest.importorskip("timm.optim.lars", reason="timm is a development dependency").Lars
    grads = gradients(len(RATES))
    settings = {"trust_coeff": 0.01, "trust_clip": trust_clip}
    ours = run(lambda p: LARS(p, 0.1, MOMENTUM, decay, **settings), RATES, grads)
    theirs = run(lambda p: lars(p, 0.1, MOMENTUM, weight_decay=decay, **settings), RATES, grads)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)


def test_lars_scales_weights_and_not_biases():
    """η |w| / (|g| + λ |w|) of 1708.03888, equation 6, for one step without momentum."""
    net = nn.Linear(3, 2).double()
    spec = OptimSpec(optimizer="lars", lr=2.0, weight_decay=0.1, decay_biases=False, trust_coeff=0.02)
    optimizer = build_optimizer(net, spec)
    before = {name: value.detach().clone() for name, value in net.named_parameters()}
    for parameter in net.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    optimizer.step()
    weight, gradient = before["weight"], torch.full_like(before["weight"], 0.5)
    factor = 0.02 * weight.norm() / (gradient.norm() + 0.1 * weight.norm())
    torch.testing.assert_close(net.weight.detach(), weight - 2.0 * factor * (gradient + 0.1 * weight))
    torch.testing.assert_close(net.bias.detach(), before["bias"] - 2.0 * 0.5)


def test_lars_leaves_zeros_unscaled():
    parameter = nn.Parameter(torch.zeros(3))
    parameter.grad = torch.ones(3)
    LARS([parameter], 0.1, 0.0, DECAY).step()
    torch.testing.assert_close(parameter.detach(), torch.full((3,), -0.1))


class Net(nn.Module):
    """A convolution, a batch norm and a linear layer, in the memory layout of a training."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 2)
        self.to(memory_format=torch.channels_last)

    def forward(self, x):
        return self.fc(self.norm(self.conv(x)).mean(dim=(2, 3)))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


def one_step(net, optimizer, step):
    x = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(step))
    optimizer.zero_grad()
    net(x.to(memory_format=torch.channels_last)).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("update", ["sgd", "sgd-2012", "adam", "adamw"])
def test_biases_have_a_rate_and_a_decay_of_their_own(net, update):
    spec = OptimSpec(optimizer=update, lr=0.1, weight_decay=0.01, bias_lr_mult=2.0, decay_biases=False)
    optimizer = build_optimizer(net, spec)
    set_lrs(optimizer, spec, 0.5, 1.0, epoch=0)
    names = {parameter: name for name, parameter in net.named_parameters()}
    groups = [({names[p] for p in g["params"]}, g["lr"], g["weight_decay"]) for g in optimizer.param_groups]
    assert groups == [
        ({"conv.weight", "fc.weight"}, 0.5, 0.01),
        ({"conv.bias", "norm.weight", "norm.bias", "fc.bias"}, 1.0, 0.0),
    ]
    everywhere = OptimSpec(optimizer=update, weight_decay=0.01)
    decayed = build_optimizer(net, everywhere)
    set_lrs(decayed, everywhere, 0.5, 0.5, epoch=0)
    assert [group["weight_decay"] for group in decayed.param_groups] == [0.01, 0.01]


@pytest.mark.parametrize("update", ["sgd", "sgd-2012"])
def test_the_groups_act_as_they_say(net, update):
    """With a gradient of 1 everywhere, what moves is rate × multiple × (1 + decay · w)."""
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    spec = OptimSpec(optimizer=update, weight_decay=0.5, bias_lr_mult=2.0, decay_biases=False)
    optimizer = build_optimizer(net, spec)
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    set_lrs(optimizer, spec, 0.1, 0.2, epoch=0)
    optimizer.step()
    for name, parameter in net.named_parameters():
        biased = parameter.ndim <= 1
        move = 0.2 * torch.ones_like(parameter) if biased else 0.1 * (1 + 0.5 * before[name])
        torch.testing.assert_close(parameter.detach(), before[name] - move)


RULES = (
    LayerRule("conv", start=2, lr=0.001),
    LayerRule("conv", start=3, lr=0.0),
    LayerRule("fc", weight_decay=3.0),
)


@pytest.mark.parametrize("update", ["sgd", "sgd-2012", "adam", "adamw"])
@pytest.mark.parametrize(
    ("epoch", "conv"),
    [(0, (0.1, 0.2)), (1.99, (0.1, 0.2)), (2, (0.001, 0.002)), (2.5, (0.001, 0.002)), (3, (0.0, 0.0))],
)
def test_rules_hold_for_their_layer_from_their_epoch_on(net, update, epoch, conv):
    spec = OptimSpec(optimizer=update, weight_decay=0.5, bias_lr_mult=2.0, decay_biases=False, rules=RULES)
    optimizer = build_optimizer(net, spec)
    set_lrs(optimizer, spec, 0.1, 0.2, epoch)
    names = {parameter: name for name, parameter in net.named_parameters()}
    found = {names[p]: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert found == {
        "conv.weight": (conv[0], 0.5), "conv.bias": (conv[1], 0.0), "norm.weight": (0.2, 0.0),
        "norm.bias": (0.2, 0.0), "fc.weight": (0.1, 3.0), "fc.bias": (0.2, 0.0),
    }  # fmt: skip


@pytest.mark.parametrize(("epoch", "conv"), [(1.99, (0.1, 0.2)), (2, (0.001, 0.2)), (3, (0.0, 0.0))])
def test_biases_on_a_schedule_of_their_own_only_stop_with_their_layer(net, epoch, conv):
    spec = OptimSpec(bias_lr_mult=2.0, bias_milestones=(), rules=RULES)
    optimizer = build_optimizer(net, spec)
    set_lrs(optimizer, spec, 0.1, 0.2, epoch)
    names = {parameter: name for name, parameter in net.named_parameters()}
    found = {names[p]: g["lr"] for g in optimizer.param_groups for p in g["params"]}
    assert (found["conv.weight"], found["conv.bias"]) == conv


@pytest.mark.parametrize("update", ["sgd", "sgd-2012", "adam", "adamw"])
def test_a_frozen_layer_does_not_move(net, update):
    momentum = 0.9 if update.startswith("sgd") else 0.0
    spec = OptimSpec(optimizer=update, momentum=momentum, weight_decay=0.1, rules=(LayerRule("conv", start=1, lr=0.0),))
    optimizer = build_optimizer(net, spec)
    for step in range(4):
        before = {name: p.detach().clone() for name, p in net.named_parameters()}
        set_lrs(optimizer, spec, 0.1, 0.1, epoch=step / 2)
        one_step(net, optimizer, step)
        for name, parameter in net.named_parameters():
            assert torch.equal(parameter, before[name]) == (step >= 2 and name.startswith("conv."))


def test_a_rule_for_a_layer_that_is_not_there_names_the_nearest(net):
    with pytest.raises(UserError, match=r"unknown layer in optim.rules 'cnov': did you mean 'conv'\?"):
        build_optimizer(net, OptimSpec(rules=(LayerRule("cnov", lr=0.0),)))


UPDATES = [
    {"optimizer": "sgd"},
    {"optimizer": "sgd", "momentum": 0.9},
    {"optimizer": "sgd", "momentum": 0.9, "nesterov": True},
    {"optimizer": "sgd-2012", "momentum": 0.9},
    {"optimizer": "adam"},
    {"optimizer": "adamw"},
]


@pytest.mark.parametrize("fields", UPDATES, ids=lambda fields: "-".join(map(str, fields.values())))
def test_state_goes_through_files_bit_for_bit(net, fields, tmp_path):
    """Three steps, a trip through safetensors into a new network and optimizer, three more: as six in one go."""
    spec = OptimSpec(lr=0.05, weight_decay=0.01, bias_lr_mult=2.0, **fields)
    optimizer = build_optimizer(net, spec)
    for step in range(3):
        one_step(net, optimizer, step)
    for name, group in (("model", net.state_dict()), ("optimizer", optimizer_tensors(net, optimizer))):
        save_file({key: value.contiguous() for key, value in group.items()}, tmp_path / name)
    for step in range(3, 6):
        one_step(net, optimizer, step)

    other = Net()
    resumed = build_optimizer(other, spec)
    other.load_state_dict(load_file(tmp_path / "model"))
    restore_optimizer(other, resumed, load_file(tmp_path / "optimizer"))
    for step in range(3, 6):
        one_step(other, resumed, step)

    assert all(torch.equal(value, other.state_dict()[name]) for name, value in net.state_dict().items())
    ours, theirs = optimizer_tensors(net, optimizer), optimizer_tensors(other, resumed)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_state_is_named_and_laid_out_as_its_parameter(net):
    optimizer = build_optimizer(net, OptimSpec(momentum=0.9))
    one_step(net, optimizer, 0)
    tensors = optimizer_tensors(net, optimizer)
    assert set(tensors) == {f"momentum_buffer.{name}" for name, _ in net.named_parameters()}
    other = Net()
    resumed = build_optimizer(other, OptimSpec(momentum=0.9))
    restore_optimizer(other, resumed, {name: value.contiguous() for name, value in tensors.items()})
    assert resumed.state[other.conv.weight]["momentum_buffer"].stride() == other.conv.weight.stride()


@pytest.mark.parametrize("update", ["sgd", "sgd-2012", "adam", "adamw"])
@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, name: tensors.pop(name),
        lambda tensors, name: tensors.update({f"{name}x": tensors[name]}),
        lambda tensors, name: tensors.update({name: tensors[name][:1]}),
        lambda tensors, name: tensors.update({name: tensors[name].double()}),
        lambda tensors, name: tensors.update({"momentum_buffer.absent": tensors[name]}),
    ],
    ids=["missing", "renamed", "of another shape", "of another type", "of no parameter"],
)
def test_state_that_is_not_this_optimizer_s_is_refused_and_changes_nothing(net, update, change):
    """A fused update would walk past the end of a tensor that is too short."""
    spec = OptimSpec(optimizer=update, momentum=0.9)
    optimizer = build_optimizer(net, spec)
    one_step(net, optimizer, 0)
    tensors = {name: value.clone() for name, value in optimizer_tensors(net, optimizer).items()}
    change(tensors, next(name for name in tensors if name.endswith("conv.weight") and not name.startswith("step")))
    fresh = build_optimizer(net, spec)
    before = {name: value.clone() for name, value in optimizer_tensors(net, fresh).items()}
    with pytest.raises(ValueError, match="the optimizer's "):
        restore_optimizer(net, fresh, tensors)
    assert all(torch.equal(value, before[name]) for name, value in optimizer_tensors(net, fresh).items())


@pytest.mark.parametrize("update", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("fused", [True, False])
def test_state_is_begun_as_torch_begins_it(net, update, fused):
    """Held against torch's own optimizer, which makes its state in its first step."""
    spec = OptimSpec(optimizer=update, lr=1e-2, momentum=0.9)
    ours = build_optimizer(net, spec, fused=fused)
    other = Net()
    other.load_state_dict(net.state_dict())
    theirs = build_optimizer(other, spec, fused=fused)
    theirs.state.clear()
    for step in range(3):
        one_step(net, ours, step)
        one_step(other, theirs, step)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in net.state_dict().items())
    found, wanted = optimizer_tensors(net, ours), optimizer_tensors(other, theirs)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(value, wanted[name]) and value.dtype == wanted[name].dtype for name, value in found.items())


@pytest.mark.parametrize("update", ["sgd", "adam", "adamw"])
def test_fused_updates_are_the_plain_ones(update):
    """Weights channels last, as in training: a fused update that walked memory in another order would show here."""
    ends = []
    for fused in (True, False):
        torch.manual_seed(0)
        net = Net().double()
        optimizer = build_optimizer(net, OptimSpec(optimizer=update, momentum=0.9, weight_decay=0.01))
        if not fused:
            kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
            momentum = {"momentum": 0.9} if update == "sgd" else {}
            optimizer = kinds[update](net.parameters(), 0.01, weight_decay=0.01, foreach=False, **momentum)
        for step in range(4):
            x = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(step)).double()
            optimizer.zero_grad()
            net(x.to(memory_format=torch.channels_last)).square().sum().backward()
            optimizer.step()
        ends.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
    # Adam divides a gradient by its own size: where it is nearly 0, the last bits of a sum, which depend on where in
    # memory a tensor happens to lie, come back seven orders larger. Another order of memory would be off by weights.
    near = 1e-10 if update == "sgd" else 1e-7
    torch.testing.assert_close(*ends, rtol=near, atol=near)
