"""Kernels and masks on a GPU against the reference; without a GPU these tests are skipped."""

import pytest
import torch

from alexnet.kernels.lrn import FastLocalResponseNorm
from alexnet.models.layers import LocalResponseNorm, counter_mask

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
