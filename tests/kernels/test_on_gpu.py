"""Kernels and masks on a GPU against the reference; without a GPU these tests are skipped."""

import pytest
import torch

from alexnet.config import override
from alexnet.kernels.lrn import FastLocalResponseNorm
from alexnet.kernels.space_to_depth import convolve
from alexnet.models.layers import Conv2d, LocalResponseNorm, counter_mask
from alexnet.recipes import get_recipe
from alexnet.runtime.device import resolve_device
from alexnet.runtime.run import start_or_continue
from alexnet.training.loop import Training

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this computer has no GPU that PyTorch can use")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("size", "groups"), [(5, 1), (5, 2), (4, 1), (9, 2)])
def test_local_response_normalization(size, groups, dtype):
    torch.manual_seed(0)
    x, g = (torch.randn(4, 96, 13, 13).to(dtype) for _ in range(2))
    reference = x.double().requires_grad_()
    expected = LocalResponseNorm(size, 1e-2, 0.75, 2.0, "sum", groups)(reference)
    expected.backward(g.double())
    ours = x.cuda().requires_grad_()
    found = FastLocalResponseNorm(size, 1e-2, 0.75, 2.0, "sum", groups)(ours)
    found.backward(g.cuda())
    limit = 1e-5 if dtype == torch.float32 else 1e-2
    for one, other in ((found, expected), (ours.grad, reference.grad)):
        assert float((one.double().cpu() - other).abs().max() / other.abs().max()) <= limit


def test_masks_are_those_of_the_cpu():
    cpu, gpu = (counter_mask(7, 33, 257, 0.5, torch.device(device)) for device in ("cpu", "cuda"))
    assert torch.equal(cpu, gpu.cpu())


def test_space_to_depth():
    torch.manual_seed(0)
    layer, x = Conv2d(3, 96, 11, 4, "ceil").double(), torch.randn(2, 3, 224, 224).double()
    expected = torch.autograd.grad(layer(x).square().sum(), layer.weight)[0]
    layer = layer.cuda()
    found = torch.autograd.grad(convolve(x.cuda(), layer).square().sum(), layer.weight)[0]
    assert float((found.cpu() - expected).abs().max() / expected.abs().max()) <= 1e-10


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", ["sgd", "sgd-2012"])
def test_a_replayed_training_has_the_bits_of_an_ordinary_one(make_digits_store, notes, tmp_path, precision, optimizer):
    settings = ["train.batch_size=16", f"optim.optimizer={optimizer}", "optim.nesterov=false"]
    recipe, dataset = override(get_recipe("small-digits"), settings), make_digits_store(train=100)
    ends = []
    for name in ("replayed", "ordinary"):
        run = start_or_continue(tmp_path / name, recipe, 0, "digits", dataset.digest)
        training = Training(recipe, dataset, run, 0, resolve_device("cuda", precision), notes)
        assert training.graph is not None
        training.graph = training.graph if name == "replayed" else None
        with training.loader() as batches:
            for batch, _ in zip(batches, range(20), strict=False):
                training.step(batch)
        ends.append({key: value.clone() for key, value in training.network.state_dict().items()})
    assert not [line for line in notes.lines if "graph" in line]
    assert all(torch.equal(value, ends[1][key]) for key, value in ends[0].items())
