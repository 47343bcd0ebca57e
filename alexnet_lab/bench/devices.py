"""What several processes send in a training step, counted, and how fast they are: ``alexnet bench devices``.

* **Counted without running**: PyTorch's fake process group has any number of processes and sends nothing; the network
  has no memory (device ``meta``). The bytes that one step gives to each collective are counted, and what it must send
  follows from ring algorithms (see ``alexnet/distributed/plan.py``). Divided layers exchange as on GPUs, which have a
  reduce-scatter.
* **Counted on the wire**: real processes on this computer, with gloo. Each asks the system how many bytes its TCP
  connections have sent (``TCP_INFO`` of tcp(7); other programs are not counted).
* **Speed**: one process and several, one thread each, timed in turn (interleaved).
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import socket
import stat
import statistics
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from alexnet.config import OptimSpec
from alexnet.core.errors import ConnectionLostError, UserError
from alexnet.core.files import json_text
from alexnet.distributed.groups import GROUPS, check_processes, open_group
from alexnet.distributed.plan import bytes_sent
from alexnet.distributed.process_group import Place
from alexnet.kernels.accelerate import shared_copy
from alexnet.models.classifier import Classifier
from alexnet.models.layers import draw_masks
from alexnet.models.registry import build, get_architecture
from alexnet.report.tables import markdown_table, table
from alexnet.runtime.device import DeviceConfig, hardware_name
from alexnet.runtime.group import ONE, Group, Parallel
from alexnet.runtime.log import NullReporter, Reporter, stage
from alexnet.training.criterion import ClassificationLoss
from alexnet.training.optimizer import build_optimizer
from alexnet.training.step import train_step
from alexnet.weights.create import create_model
from alexnet_lab.bench.interleaved import ROUNDS, Candidate, Work, ratios, time_interleaved
from alexnet_lab.bench.interleaved import SECONDS as TURN
from alexnet_lab.results.reader import Results, file_name
from alexnet_lab.results.records import circumstances

META = torch.device("meta")
CPU = DeviceConfig(torch.device("cpu"), bf16=False)
SGD = OptimSpec(optimizer="sgd", lr=1e-3, momentum=0.9)
SPEED_VARIANT, SPEED_BATCH, SPEED_PROCESSES = "torchvision", 32, 2
SECONDS = 1200  # for the processes on the wire
WIRE_STEPS = 2
WIDTH, SIDE = 0.25, 67  # of the networks on the wire
TCP_INFO_BYTES, BYTES_SENT = 208, 200  # of struct tcp_info, linux/tcp.h: up to tcpi_bytes_sent, and its place
DEVICES = "devices"  # the kind of the results file


class NoUpdate(torch.optim.Optimizer):
    """An optimizer that changes nothing: a network without memory has no numbers to compare."""

    def __init__(self, network: Classifier) -> None:
        super().__init__(network.parameters(), {"fused": True})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Nothing."""


class CountBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up what one of ``processes`` does in collectives.

    ``given``: name of a collective → bytes that the process gives to it. ``sent``: what it must send by ring
    algorithms.
    """

    def __init__(self, processes: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        others = processes - 1
        self._times_sent = {  # how often the bytes that a process gives leave it
            "allreduce_": 2 * others / processes, "allgather_": others, "_reduce_scatter_base_": others / processes,
        }  # fmt: skip
        self.given: dict[str, int] = {}
        self.sent = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count a collective, and call it."""
        if func.namespace == "c10d":
            name = func.overloadpacket.__name__
            own = args[0] if name == "allreduce_" else args[1]  # the others have the outputs first
            tensors = [own] if isinstance(own, Tensor) else own
            size = sum(each.numel() * each.element_size() for each in tensors)
            self.given[name] = self.given.get(name, 0) + size
            self.sent += size * self._times_sent[name]
        return func(*args, **(kwargs or {}))


def count_bytes(
    network: Classifier, parallel: Parallel, processes: int, batch: int, *, scatters: bool = True
) -> CountBytes:
    """Count what one of ``processes`` sends in a training step; ``network`` is on the device ``meta``.

    ``scatters``: whether the processes have a reduce-scatter that is cheaper than an all-reduce, as on GPUs. Raises
    ``UserError`` if the network cannot be divided like this.
    """
    from torch.testing._internal.distributed.fake_pg import FakeStore

    check_processes(processes, parallel)
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=processes)
    try:
        group = GROUPS[parallel](Place(0, processes, 0), META)
        group.scatters = scatters
        counter = CountBytes(processes)
        with counter:
            next(_steps(network, group, batch, META, NoUpdate(network)))
    finally:
        dist.destroy_process_group()
    return counter


def _steps(
    network: Classifier, group: Group, batch: int, device: torch.device, optimizer: torch.optim.Optimizer
) -> Work:
    """Training steps of one process of a group, on black images; yields the images of the whole batch."""
    one = shared_copy(network.train())
    if group.size > 1:
        group.prepare(network, [one])
    part, side = group.part(batch), network.image_size
    images = torch.zeros(len(range(batch)[part]), network.in_channels, side, side, device=device)
    targets = torch.zeros(len(images), dtype=torch.int64, device=device)
    share = group.weight * len(images) / batch
    for step in itertools.count():
        group.start_step(batch)
        masks = group.masks(draw_masks(network.dropout_sites, batch, 0, step, device), part)
        train_step(one, optimizer, images, targets, masks, ClassificationLoss(), CPU, share=share, group=group)
        yield batch


@dataclass(frozen=True)
class Member:
    """What each process of a group does. ``width``, ``side``: of a smaller network, None for its authors'."""

    variant: str
    parallel: Parallel
    processes: int
    batch: int
    width: float = 1.0
    side: int | None = None

    def meta(self) -> Classifier:
        """The network without memory."""
        architecture = get_architecture(self.variant, width=self.width)
        return build(self.variant, architecture, 1000, 3, self.side, device="meta")

    def steps(self, group: Group) -> Work:
        """Training steps on a CPU, with one thread."""
        torch.set_num_threads(1)
        network = create_model(self.variant, width=self.width, image_size=self.side, num_classes=1000, seed=0)
        return _steps(network, group, self.batch, CPU.device, build_optimizer(network, SGD))


def timed_steps(member: Member) -> tuple[DeviceConfig, Work]:
    """Training steps of all processes together; this one is the first, and starts the others."""
    return CPU, _timed_steps(member)


def _timed_steps(member: Member) -> Work:
    if member.processes == 1:
        yield from member.steps(ONE)
    else:
        port = _free_port()
        os.environ.update(_variables(0, member.processes, port))
        others = [_start(member, rank, port, 0) for rank in range(1, member.processes)]
        try:
            with open_group("cpu", member.parallel) as group:
                yield from member.steps(group)
        finally:
            for other in others:
                other.kill()
                other.wait()


def bytes_on_the_wire(member: Member, steps: int = WIRE_STEPS) -> float:
    """Bytes that a process sends in a step on this computer, mean over processes and steps.

    Raises ``UserError`` if the processes fail.
    """
    port = _free_port()
    started = [_start(member, rank, port, steps) for rank in range(member.processes)]
    sent = []
    try:
        for process in started:
            output, errors = process.communicate(timeout=SECONDS)
            if process.returncode:
                raise UserError(f"a process for alexnet bench devices failed: {errors.strip().splitlines()[-1]}")
            sent.append(float(output))
    except subprocess.TimeoutExpired as error:
        raise UserError(f"a process for alexnet bench devices did not end within {SECONDS} s") from error
    finally:
        for process in started:
            process.kill()
            process.wait()
    return statistics.mean(sent)


def _start(member: Member, rank: int, port: int, steps: int) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "alexnet_lab.bench.devices", json_text(dataclasses.asdict(member)), str(steps)]
    environment = {**os.environ, **_variables(rank, member.processes, port)}
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _variables(rank: int, size: int, port: int) -> dict[str, str]:
    """The variables that torchrun would set."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return {"OMP_NUM_THREADS": "1", **{name: str(value) for name, value in place.items()}}


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def be_member(member: Member, steps: int) -> float:
    """Train ``steps`` times in a group, or with 0 until the first process leaves it; returns the bytes sent a step."""
    sent = 0.0
    with contextlib.suppress(ConnectionLostError), open_group("cpu", member.parallel) as group:
        work = member.steps(group)
        next(work)  # connections are made
        before = tcp_bytes_sent()
        for _ in range(steps) if steps else itertools.count():
            next(work)
        sent = (tcp_bytes_sent() - before) / steps
        group.wait_for_all()  # another process may have ended already: its part was counted before
    return sent


def tcp_bytes_sent() -> int:
    """Bytes that all open TCP connections of this process have sent, without headers. Linux only."""
    sent = 0
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(path.stat().st_mode):
                with socket.socket(fileno=os.dup(int(path.name))) as connection:
                    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
                    sent += struct.unpack_from("Q", info, BYTES_SENT)[0]
    return sent


COUNTED = (
    *(Member("paper", how, processes, batch) for how in ("data", "hybrid") for processes in (2, 8)
      for batch in (128, 4096)),
    *(Member("cuda-convnet", how, 2, batch) for how in ("data", "columns") for batch in (128, 1024)),
)  # fmt: skip
ON_THE_WIRE = (
    *(Member("paper", how, processes, 16, WIDTH, SIDE) for how in ("data", "hybrid") for processes in (2, 4)),
    Member("cuda-convnet", "columns", 2, 16, WIDTH, SIDE),
)


def run_devices(
    variants: Sequence[str] = (), batches: Sequence[int] = (), rounds: int = ROUNDS, seconds: float = TURN,
    reporter: Reporter | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Count and time; returns a JSON value. ``variants``, ``batches``: for the speeds, empty for the default.

    Raises ``UserError`` for an unknown variant, and if a process fails.
    """
    reporter = reporter or NullReporter()
    timed = list(itertools.product(variants or (SPEED_VARIANT,), batches or (SPEED_BATCH,)))
    with stage(reporter, "counting bytes", len(COUNTED) + len(ON_THE_WIRE)):
        counted = []
        for member in COUNTED:
            counted.append(_counted(member))
            reporter.advance(len(counted))
        wire = []
        for member in ON_THE_WIRE:
            wire.append({**_counted(member, scatters=False), "wire": bytes_on_the_wire(member)})
            reporter.advance(len(counted) + len(wire))
    speeds = []
    for variant, batch in timed:
        members = [Member(variant, "data", processes, batch) for processes in (1, SPEED_PROCESSES)]
        candidates = {str(member.processes): Candidate(timed_steps, (member,)) for member in members}
        with stage(reporter, f"{variant}, batch {batch}", rounds * len(candidates)):
            found = time_interleaved(candidates, rounds, seconds, reporter.advance)
        one, several = (found[str(member.processes)] for member in members)
        speeds.append(
            {
                "variant": variant, "batch": batch, "processes": SPEED_PROCESSES, "one": one.rate,
                "several": several.rate, "ratio": statistics.median(ratios(several, one)),
            }
        )  # fmt: skip
    return {"what": DEVICES, **circumstances(CPU), "counted": counted, "wire": wire, "speeds": speeds}


def _counted(member: Member, *, scatters: bool = True) -> dict[str, Any]:
    """The bytes of a member, counted and by the formula."""
    counter = count_bytes(member.meta(), member.parallel, member.processes, member.batch, scatters=scatters)
    formula = bytes_sent(member.meta(), member.parallel, member.processes, member.batch)
    return {**dataclasses.asdict(member), "given": counter.given, "sent": counter.sent, "formula": formula}


def sections(value: Mapping[str, Any]) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """A result as tables: (what it shows, header, rows)."""
    named = ("network", "divided", "processes", "batch")
    counted = [
        (*_name(row), _megabytes(sum(row["given"].values())), _megabytes(row["sent"]), _megabytes(row["formula"]))
        for row in value["counted"]
    ]
    wire = [
        (*_name(row), _megabytes(row["sent"]), _megabytes(row["wire"]), _megabytes(row["formula"]))
        for row in value["wire"]
    ]
    speeds: list[tuple[str, ...]] = [
        (row["variant"], str(row["batch"]), f"{row['one']:.3g}", f"{row['several']:.3g}", f"{row['ratio']:.2f} ×")
        for row in value["speeds"]
    ]
    several = f"{value['speeds'][0]['processes']} processes" if speeds else "several processes"
    return [
        (
            "One step, counted without running, divided layers with a reduce-scatter (GPUs). MB of one process: what "
            "it gives to collectives, what it must send by ring algorithms, and the formula of `alexnet plan`",
            (*named, "given", "sent", "formula"), counted,
        ),
        (
            f"One step on this computer with gloo, a quarter of the filters and units, {SIDE} pixels. MB sent by one "
            "process: counted as on CPUs (without a reduce-scatter), on its TCP connections, and the formula, which "
            "needs a reduce-scatter",
            (*named, "counted", "on the wire", "formula"), wire,
        ),
        (
            "Images a second of all processes together, one thread each: medians of turns, and of the ratios of turns",
            ("network", "batch", "one process", several, "ratio"), speeds,
        ),
    ]  # fmt: skip


def _name(row: Mapping[str, Any]) -> tuple[str, ...]:
    return row["variant"], row["parallel"], str(row["processes"]), f"{row['batch']:,}"


def _megabytes(count: float) -> str:
    return f"{count / 1e6:,.2f}" if count < 1e8 else f"{count / 1e6:,.0f}"


def describe(value: Mapping[str, Any]) -> str:
    """What ``alexnet bench devices`` prints."""
    parts = [f"{title}\n\n{table(header, rows)}" for title, header, rows in sections(value)]
    return "\n\n".join([*parts, hardware_name(value["hardware"])])


def page_table(results: Results) -> str:
    """The tables of ``docs/devices.md``; empty without results."""
    if (found := results.bench(DEVICES)) is None:
        return ""
    path, value = found
    parts = [f"{title}:\n\n{markdown_table(header, rows)}" for title, header, rows in sections(value)]
    return "\n\n".join([*parts, f"From `{file_name(path)}`, on {hardware_name(value['hardware'])}."])


if __name__ == "__main__":
    print(be_member(Member(**json.loads(sys.argv[1])), int(sys.argv[2])))
    sys.stdout.flush()
    os._exit(0)  # the threads of a store can abort an ordinary exit
