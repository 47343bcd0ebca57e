"""Interleaved timing: several programs for the same work are timed alternately, each in its own process.

The speed of a machine can change by a factor of two or three within minutes. So each round gives every candidate a
turn, and a ratio is the median over rounds of the ratios within a round. Each candidate has its own process, because
settings of one (how memory is freed, threads, compiled code) would change the speed of the other, and because its peak
memory can be measured.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from alexnet.core.errors import UserError, one_line
from alexnet.runtime.device import DeviceConfig

Work = Iterator[int]  # each ``next`` does one unit of work and returns its number of images
ROUNDS, SECONDS = 5, 4.0
WARM_UP = 0.5  # length of the turn that does not count, in turns
KIBI = 1024


@dataclass(frozen=True)
class Candidate:
    """A program for the work. ``prepare(*arguments)`` returns the device and the work. It is called in the
    candidate's own process, so it must be importable, and its arguments must be picklable.
    """

    prepare: Callable[..., tuple[DeviceConfig, Work]]
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Timed:
    """The speed of one candidate. ``rates``: images per second, by round. ``first_seconds``: time of its first unit of
    work, including compilation. ``peak_memory``: peak memory of its process in bytes; on a GPU, of its tensors there.
    """

    rates: tuple[float, ...]
    first_seconds: float
    peak_memory: int

    @property
    def rate(self) -> float:
        """Median images per second."""
        return statistics.median(self.rates)


def ratios(ours: Timed, other: Timed) -> list[float]:
    """Our speed over the other's, by round."""
    return [mine / theirs for mine, theirs in zip(ours.rates, other.rates, strict=True)]


def time_interleaved(
    candidates: Mapping[str, Candidate],
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
    progress: Callable[[int], None] = lambda turns: None,
) -> dict[str, Timed]:
    """Time each candidate in ``rounds`` turns of at least ``seconds``; ``progress`` receives the number of finished
    turns.

    Raises ``UserError`` for a candidate that fails, with its error message.
    """
    processes: dict[str, _Process] = {}
    try:
        for name, candidate in candidates.items():
            processes[name] = _Process(name, candidate)
        first = {name: process.ask("first") for name, process in processes.items()}
        for process in processes.values():
            process.ask("turn", seconds * WARM_UP)
        rates: dict[str, list[float]] = {name: [] for name in processes}
        for turn, name in enumerate(list(processes) * rounds, 1):
            rates[name].append(processes[name].ask("turn", seconds))
            progress(turn)
        return {
            name: Timed(tuple(rates[name]), first[name], int(process.ask("peak")))
            for name, process in processes.items()
        }
    finally:
        for process in processes.values():
            process.end()


class _Process:
    """A candidate's process and the pipe to it. It works only while a request is open."""

    def __init__(self, name: str, candidate: Candidate) -> None:
        self._name = name
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_answer, args=(theirs, candidate))
        self._process.start()
        theirs.close()

    def ask(self, what: str, seconds: float = 0.0) -> float:
        """The answer to ``"first"``, ``"turn"`` or ``"peak"``. Raises ``UserError`` if the process failed."""
        with contextlib.suppress(OSError):  # the process may have ended, and its error message may still be in the pipe
            self._pipe.send((what, seconds))
        try:
            answer = self._pipe.recv()
        except (EOFError, OSError):  # it ended without a message
            self._process.join()
            answer = f"its process ended with status {self._process.exitcode}"
        if isinstance(answer, str):
            raise UserError(f"{self._name} could not be timed: {answer}")
        return float(answer)

    def end(self) -> None:
        """End the process; kill it if it does not end within five seconds."""
        self._pipe.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _answer(pipe: Connection, candidate: Candidate) -> None:
    """The main function of a candidate's process: it answers requests until the pipe is closed."""
    try:
        device_config, work = candidate.prepare(*candidate.arguments)
        while True:
            what, seconds = pipe.recv()
            match what:
                case "first":
                    pipe.send(_seconds(work, device_config))
                case "turn":
                    pipe.send(rate(work, seconds, device_config))
                case "peak":
                    pipe.send(_peak_memory(device_config))
    except (EOFError, KeyboardInterrupt):  # the parent process has ended, or Ctrl-C was pressed
        return
    except Exception as error:
        pipe.send(one_line(error))


def rate(work: Work, seconds: float, device_config: DeviceConfig) -> float:
    """Images per second over at least ``seconds`` and at least one unit of work."""
    images = 0
    device_config.synchronize()
    start = time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds or not images:
        images += next(work)
        device_config.synchronize()
    return images / passed


def _seconds(work: Work, device_config: DeviceConfig) -> float:
    device_config.synchronize()
    start = time.perf_counter()
    next(work)
    device_config.synchronize()
    return time.perf_counter() - start


def _peak_memory(device_config: DeviceConfig) -> int:
    if device_config.device.type == "cuda":
        return torch.cuda.max_memory_allocated(device_config.device)
    status = Path("/proc/self/status")
    if status.exists():  # getrusage(2) would include the memory of the parent
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * KIBI
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * KIBI
