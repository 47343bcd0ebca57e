"""The gradients of a training step as one CUDA graph: its kernels are recorded once, then started all together.

A step has about 200 kernels, and the host needs a few microseconds to start each. With small batches a GPU computes
faster than that. A CUDA graph is replayed with one call, but always on the same memory: so the images, their labels and
all random numbers of the step are copied into tensors that stay, and nothing in it may depend on numbers of the host.
The update is not in the graph: fused optimizers are a few kernels, and their learning rates are numbers of the host.

Before a graph is used, its first result is compared with that of the ordinary step: the bits must be equal. Otherwise
the training goes on without it. **This has never been run on a GPU.** Everything but the recording itself is tested on
a CPU (``tests/training/test_graph.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from alexnet.core.errors import one_line
from alexnet.runtime.device import DeviceConfig
from alexnet.runtime.group import Group
from alexnet.training.step import Outcome

Log = Callable[[str], None]


@dataclass(frozen=True)
class StepInputs:
    """What differs from step to step, on the device.

    ``pixels`` ``(N, H, W, C)`` uint8; ``targets`` ``(N,)`` int64, or masks ``(N, H, W)`` uint8; ``numbers``: int64, the
    keys of the dropout masks, then the draws of the augmentation.
    """

    pixels: Tensor
    targets: Tensor
    numbers: Tensor

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors, in the order of the fields."""
        return tuple(getattr(self, item.name) for item in fields(self))


Compute = Callable[[StepInputs], Outcome]
Record = Callable[[Callable[[], Outcome]], tuple[Callable[[], None], Outcome]]
"""From work to a function that repeats it on the same memory, and to the tensors that then hold its result."""


def graphs_pay(config: DeviceConfig, group: Group, parts: int) -> bool:
    """Whether steps are replayed as graphs: on a GPU, in one process, for whole batches, not with ``--reference``."""
    return config.device.type == "cuda" and not config.reference and group.size == 1 and parts == 1


class GraphStep:
    """The gradients of steps with equal shapes, by a graph that is recorded in the first of them.

    ``averages``: the buffers of ``network`` that a step changes. ``log`` receives a line if a graph cannot be used.
    """

    def __init__(self, network: nn.Module, averages: Sequence[Tensor], log: Log, record: Record | None = None) -> None:
        self._parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self._averages, self._log, self._record = list(averages), log, record or record_cuda_graph
        self._key: tuple[Hashable, ...] | None = None
        self._recorded: _Recorded | None = None
        self._usable = True

    def __call__(self, setting: Hashable, compute: Compute, inputs: StepInputs) -> Outcome:
        """What ``compute(inputs)`` returns; the gradients of the parameters are set as it sets them.

        ``setting``: what ``compute`` depends on besides its inputs; with another one, or other shapes, a new graph is
        recorded. The tensors of the outcome are valid until the next call.
        """
        key = (setting, *(tensor.shape for tensor in inputs.tensors))
        if self._usable and key != self._key:
            self._key, self._recorded = key, None  # the memory of an earlier graph becomes free
            return self._first(compute, inputs)
        if self._recorded is None:
            return compute(inputs)
        return self._recorded.run(inputs, self._parameters)

    def _first(self, compute: Compute, inputs: StepInputs) -> Outcome:
        """The ordinary step. Afterwards, a graph is recorded and compared with it."""
        before = [average.clone() for average in self._averages]
        outcome = compute(inputs)
        expected = self._result(outcome)
        try:
            buffers = StepInputs(*(tensor.clone() for tensor in inputs.tensors))
            replay, static = self._record(lambda: compute(buffers))
            recorded = _Recorded(buffers, replay, static, [parameter.grad for parameter in self._parameters])
            _write(self._averages, before)
            found = self._result(recorded.run(inputs, self._parameters))
        except RuntimeError as error:  # also too little memory
            return self._without_graph(outcome, expected, one_line(error))
        if not all(_same(*pair) for pair in zip(found, expected, strict=True)):
            return self._without_graph(outcome, expected, "its result differs from that of the ordinary step")
        self._recorded = recorded
        return recorded.outcome

    def _without_graph(self, outcome: Outcome, result: Sequence[Tensor | None], fault: str) -> Outcome:
        """Go back to the result of the ordinary step, and use no graph from now on."""
        self._usable = False
        self._log(f"a training step cannot be replayed as a CUDA graph, it is computed kernel by kernel: {fault}")
        _write(self._averages, [value for value in result[: len(self._averages)] if value is not None])
        for parameter, gradient in zip(self._parameters, result[-len(self._parameters) :], strict=True):
            parameter.grad = gradient
        return outcome

    def _result(self, outcome: Outcome) -> list[Tensor | None]:
        """Copies of the averages, of the outcome, and of the gradients."""
        gradients = [parameter.grad for parameter in self._parameters]
        tensors = [*self._averages, outcome.loss, outcome.right, outcome.finite, *gradients]
        return [None if tensor is None else tensor.clone() for tensor in tensors]


@dataclass
class _Recorded:
    """A recorded step. ``gradients``: the tensor of each parameter into which it writes, None for one without."""

    inputs: StepInputs
    replay: Callable[[], None]
    outcome: Outcome
    gradients: list[Tensor | None]

    def run(self, inputs: StepInputs, parameters: Sequence[nn.Parameter]) -> Outcome:
        """Replay it on other inputs."""
        _write(self.inputs.tensors, inputs.tensors)
        self.replay()
        for parameter, gradient in zip(parameters, self.gradients, strict=True):
            parameter.grad = gradient
        return self.outcome


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other if one is None or other is None else torch.equal(one, other)


def _write(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)


def record_cuda_graph(work: Callable[[], Outcome]) -> tuple[Callable[[], None], Outcome]:
    """Record ``work`` as a CUDA graph on the current GPU, as PyTorch's "CUDA Graphs" notes say.

    It is done once before, on the stream that records. Raises ``RuntimeError`` if it cannot be recorded, or if the GPU
    has too little memory: a graph keeps the memory of its step, and the smaller last batch of an epoch needs its own.
    """
    current, stream = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        work()
    current.wait_stream(stream)
    needed = torch.cuda.max_memory_allocated() - before
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    if 2 * needed > free:
        raise RuntimeError(f"a step needs {needed / 2**30:.1f} GiB, and only {free / 2**30:.1f} GiB are free")
    graph = torch.cuda.CUDAGraph()
    # "thread_local": the thread of the loader may allocate pinned memory meanwhile
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        outcome = work()
    return graph.replay, outcome
