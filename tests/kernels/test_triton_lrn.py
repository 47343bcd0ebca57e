"""The Triton kernels of local response normalization, run by Triton's interpreter, against the reference layer."""

import importlib.util
import os
import subprocess
import sys

import pytest

PROGRAM = """
import itertools, sys
import torch
from alexnet.kernels import triton_lrn
from alexnet.models.layers import LocalResponseNorm

empty_like = torch.empty_like
torch.empty_like = lambda x, **more: empty_like(x, **more).fill_(torch.nan)  # a number that is not written is noticed
triton_lrn.BLOCK = 64
for size, groups, beta, dtype in itertools.product((5, 4, 9), (1, 2), (0.75, 0.6), (torch.float32, torch.bfloat16)):
    torch.manual_seed(size)
    x = (3 * torch.randn(2, 12, 3, 5)).to(dtype)
    g = torch.randn(2, 12, 3, 5).to(dtype)
    reference = x.double().requires_grad_()
    y = LocalResponseNorm(size, 0.3, beta, 2.0, "sum", groups)(reference)
    y.backward(g.double())
    ours = x.clone().requires_grad_()
    found = triton_lrn.normalize(ours, size, groups, 0.3, beta, 2.0)
    found.backward(g)
    assert found.dtype == ours.grad.dtype == dtype
    limit = 1e-6 if dtype == torch.float32 else 1e-2
    for one, other in ((found, y), (ours.grad, reference.grad)):
        difference = float((one.double() - other).abs().max() / other.abs().max())
        assert difference <= limit, (size, groups, beta, dtype, difference)
from alexnet.kernels.selftest import triton_lrn_fault
assert triton_lrn_fault(torch.device("cpu"), torch.float32) is None
triton_lrn._launch = lambda *given: None  # nothing is written
assert "differs from the reference by nan" in triton_lrn_fault(torch.device("cpu"), torch.bfloat16)
print("equal")
"""


@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton comes with PyTorch's GPU builds for Linux only"
)
def test_the_kernels_are_the_reference():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}  # read when Triton is imported
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert done.stdout == "equal\n", done.stderr[-3000:]
